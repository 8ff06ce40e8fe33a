//! One limit: so many requests a minute of each subject.
//!
//! The generic cell rate algorithm: a subject that has rested may ask all at once what it may ask in a minute,
//! and then as fast as that lets it. In memory it is `governor`'s, in Redis a script's; both count alike.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use actix_web::http::header::{HeaderName, HeaderValue};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::StateInformationMiddleware,
    state::keyed::DashMapStateStore,
};
use uuid::Uuid;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
/// How many requests are left.
pub const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

const MINUTE: Duration = Duration::from_secs(60);

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    Address(IpAddr),
    Key(Uuid),
    Tenant(Uuid),
    /// Those of many, while there are too many to tell them apart.
    Crowd(u16),
}

impl Subject {
    fn in_redis(self) -> String {
        match self {
            Subject::Address(address) => address.to_string(),
            Subject::Key(id) | Subject::Tenant(id) => id.to_string(),
            Subject::Crowd(number) => number.to_string(),
        }
    }
}

/// How a subject stands after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Requests a minute.
    pub limit: u32,
    /// Requests that could follow at once.
    pub remaining: u32,
    /// Seconds until all could, rounded up.
    pub reset_s: u64,
    /// The request is over the limit; seconds until one is not, rounded up.
    pub retry_after_s: Option<u64>,
}

impl Standing {
    pub fn is_over(&self) -> bool {
        self.retry_after_s.is_some()
    }

    /// The headers of the IETF's draft (draft-ietf-httpapi-ratelimit-headers-07, the last with a header for each).
    pub fn headers(&self) -> [(HeaderName, HeaderValue); 3] {
        [(LIMIT, self.limit.into()), (REMAINING, self.remaining.into()), (RESET, self.reset_s.into())]
    }
}

/// What the script answers: whether the request is within the limit, requests that are left, microseconds until
/// one is allowed, and until all are.
pub type ScriptAnswer = (bool, u32, u64, u64);

/// `KEYS[1]`: when the subject would have used nothing again, in microseconds of Redis' clock.
/// `ARGV`: microseconds between two requests, requests at once.
const SCRIPT: &str = r"
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full = interval * burst
-- A clock that was set back must not lock anybody out.
local at = math.min(math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now), now + full)
local wait = at + interval - now - full
if wait > 0 then
  return {0, 0, math.ceil(wait), math.ceil(at - now)}
end
at = at + interval
redis.call('SET', KEYS[1], string.format('%.0f', at), 'PX', math.ceil((at - now) / 1000))
return {1, math.floor((full - (at - now)) / interval), 0, math.ceil(at - now)}
";

/// Subjects that memory is kept for; beyond, they are counted in crowds.
const MAX_SUBJECTS: usize = 100_000;
const CROWDS: u64 = 1024;
/// Requests after which subjects that have rested are forgotten.
const SWEEP_EVERY: usize = 1000;

type Counts = RateLimiter<Subject, DashMapStateStore<Subject>, MonotonicClock, StateInformationMiddleware>;

/// So many requests a minute of each subject.
pub struct Counter {
    name: String,
    limit: NonZeroU32,
    counts: Counts,
    requests: AtomicUsize,
    crowded: AtomicBool,
    /// Of this process alone, so that nobody can choose who shares a crowd with whom.
    hasher: RandomState,
}

impl Counter {
    /// None for 0: no limit.
    pub fn new(name: String, per_minute: u32) -> Option<Self> {
        let limit = NonZeroU32::new(per_minute)?;
        let counts = RateLimiter::dashmap_with_clock(Quota::per_minute(limit), MonotonicClock);
        Some(Self {
            name,
            limit,
            counts: counts.with_middleware(),
            requests: AtomicUsize::new(0),
            crowded: AtomicBool::new(false),
            hasher: RandomState::new(),
        })
    }

    /// Counts a request in memory, which is bounded: see [`MAX_SUBJECTS`].
    pub fn count(&self, subject: Subject) -> Standing {
        if self.requests.fetch_add(1, Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.sweep();
        }
        let crowd = || Subject::Crowd((self.hasher.hash_one(subject) % CROWDS) as u16);
        let subject = if self.crowded.load(Relaxed) { crowd() } else { subject };
        match self.counts.check_key(&subject) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let used = self.limit.get().saturating_sub(remaining);
                self.answer(remaining, self.interval() * used, None)
            }
            Err(until) => {
                let wait = until.wait_time_from(MonotonicClock.now());
                self.answer(0, wait + self.interval() * (self.limit.get() - 1), Some(wait))
            }
        }
    }

    /// The command that counts a request in Redis, for all replicas; its answer goes to [`Counter::standing`].
    pub fn command(&self, subject: Subject) -> redis::Cmd {
        let interval_us = 60_000_000.0 / f64::from(self.limit.get());
        let key = format!("ragway:limit:{}:{}", self.name, subject.in_redis());
        let mut command = redis::cmd("EVAL");
        command.arg(SCRIPT).arg(1).arg(key).arg(interval_us).arg(self.limit.get());
        command
    }

    pub fn standing(&self, (within, remaining, wait_us, reset_us): ScriptAnswer) -> Standing {
        let wait = (!within).then(|| Duration::from_micros(wait_us));
        self.answer(remaining, Duration::from_micros(reset_us), wait)
    }

    fn answer(&self, remaining: u32, reset: Duration, wait: Option<Duration>) -> Standing {
        Standing {
            limit: self.limit.get(),
            remaining,
            reset_s: rounded_up(reset),
            retry_after_s: wait.map(|wait| rounded_up(wait).max(1)),
        }
    }

    /// Between two requests.
    fn interval(&self) -> Duration {
        MINUTE / self.limit.get()
    }

    /// Forgets who has rested.
    fn sweep(&self) {
        self.counts.retain_recent();
        self.crowded.store(self.counts.len() >= MAX_SUBJECTS, Relaxed);
    }
}

fn rounded_up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> Subject {
        Subject::Address(IpAddr::from(number.to_be_bytes()))
    }

    #[test]
    fn the_request_over_the_limit_is_told_when_to_come_again() {
        let counter = Counter::new("test".into(), 3).unwrap();
        for remaining in [2, 1, 0] {
            let standing = counter.count(address(1));
            assert_eq!((standing.limit, standing.remaining, standing.is_over()), (3, remaining, false));
        }
        let over = counter.count(address(1));
        assert_eq!(over.remaining, 0);
        assert!((1..=20).contains(&over.retry_after_s.unwrap()), "{over:?}");
        assert!((41..=60).contains(&over.reset_s), "{over:?}");
        assert!(!counter.count(address(2)).is_over());
    }

    #[test]
    fn waits_are_rounded_up_and_never_nothing() {
        let counter = Counter::new("test".into(), 100).unwrap();
        let told = |wait_us| counter.standing((false, 0, wait_us, 1)).retry_after_s;
        assert_eq!([0, 1, 999_999, 1_000_000, 1_000_001].map(told), [1, 1, 1, 1, 2].map(Some));
        assert_eq!(counter.standing((true, 5, 0, 0)).retry_after_s, None);
    }

    #[test]
    fn who_has_rested_is_forgotten() {
        // One every millisecond.
        let counter = Counter::new("test".into(), 60_000).unwrap();
        for number in 0..500 {
            counter.count(address(number));
        }
        std::thread::sleep(Duration::from_millis(50));
        counter.sweep();
        assert_eq!(counter.counts.len(), 0);
    }

    #[test]
    fn a_flood_of_addresses_is_counted_in_crowds_and_takes_no_more_memory() {
        let counter = Counter::new("test".into(), 5).unwrap();
        let mut refused = 0;
        for number in 0..250_000 {
            refused += usize::from(counter.count(address(number)).is_over());
        }
        assert!(
            counter.counts.len() <= MAX_SUBJECTS + SWEEP_EVERY + CROWDS as usize,
            "{}",
            counter.counts.len()
        );
        assert!(refused > 100_000, "{refused}");
    }
}
