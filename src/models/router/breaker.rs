//! When a backend is left alone.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::config::BreakerSettings;

/// Longest pause that a server's `Retry-After` gets.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often the time that a breaker stays open doubles at most.
const DOUBLINGS: u32 = 3;
/// Parts that the window moves by.
const PARTS: u32 = 10;

/// Opens when too many of the last requests failed. After a while one request is
/// let through: it closes the breaker, or opens it for twice as long.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    parts: VecDeque<Part>,
    state: State,
    openings: u32,
    /// The server asked for a pause.
    paused_until: Option<Instant>,
    last_succeeded: bool,
}

/// Outcomes of a part of the window.
#[derive(Debug)]
struct Part {
    since: Instant,
    succeeded: u32,
    failed: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    /// Half open from `until` on.
    Open {
        until: Instant,
    },
    /// The one request that a half-open breaker lets through is under way.
    Probing,
}

/// Whether a request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Free,
    /// As the only one, until its outcome is recorded or given up.
    Probe,
    /// Only when nobody else is left.
    Shut,
    /// Not before this time has passed: the server said so.
    Paused(Duration),
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    Failed,
    /// The server wants a pause.
    Busy(Duration),
    /// It says nothing about the server: the request was at fault, or its caller has left.
    Nothing,
}

/// The state by its usual name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

impl Breaker {
    /// A closed one.
    pub fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            parts: VecDeque::new(),
            state: State::Closed,
            openings: 0,
            paused_until: None,
            last_succeeded: true,
        }
    }

    /// Whether a request may be sent; takes the place of the probe when there is one.
    pub fn enter(&mut self, now: Instant) -> Entry {
        let entry = self.look(now);
        if entry == Entry::Probe {
            self.state = State::Probing;
        }
        entry
    }

    /// What [`Breaker::enter`] would say.
    pub fn look(&self, now: Instant) -> Entry {
        if let Some(left) = self.paused_until.and_then(|until| until.checked_duration_since(now))
            && !left.is_zero()
        {
            return Entry::Paused(left);
        }
        match self.state {
            State::Closed => Entry::Free,
            State::Open { until } if now >= until => Entry::Probe,
            State::Open { .. } | State::Probing => Entry::Shut,
        }
    }

    /// Takes the outcome of a request that entered as `entry`.
    pub fn record(&mut self, entry: Entry, outcome: Outcome, now: Instant) {
        // Another request may have closed the breaker while the probe was under way.
        let probe = entry == Entry::Probe && matches!(self.state, State::Probing);
        match outcome {
            Outcome::Succeeded => self.succeed(now),
            Outcome::Failed => self.fail(probe, now),
            Outcome::Busy(pause) => {
                let until = now + pause.min(LONGEST_PAUSE);
                self.last_succeeded = false;
                self.paused_until = Some(until);
                if probe {
                    self.state = State::Open { until };
                }
            }
            Outcome::Nothing if probe => self.state = State::Open { until: now },
            Outcome::Nothing => {}
        }
    }

    /// The state by its usual name.
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { until } if now < until => BreakerState::Open,
            State::Open { .. } | State::Probing => BreakerState::HalfOpen,
        }
    }

    /// Whether the last request that said something about the server succeeded; true before the first.
    pub fn last_succeeded(&self) -> bool {
        self.last_succeeded
    }

    fn succeed(&mut self, now: Instant) {
        self.last_succeeded = true;
        if self.state != State::Closed {
            (self.state, self.openings) = (State::Closed, 0);
            self.parts.clear();
        }
        self.part(now).succeeded += 1;
    }

    fn fail(&mut self, probe: bool, now: Instant) {
        self.last_succeeded = false;
        self.part(now).failed += 1;
        let opens = match self.state {
            State::Closed => self.is_over_ratio(),
            State::Probing => probe,
            State::Open { .. } => false,
        };
        if opens {
            let open = Duration::from_millis(self.settings.open_ms);
            self.state = State::Open { until: now + open * (1 << self.openings.min(DOUBLINGS)) };
            self.openings += 1;
            self.parts.clear();
        }
    }

    fn is_over_ratio(&self) -> bool {
        let failed: u32 = self.parts.iter().map(|part| part.failed).sum();
        let all = failed + self.parts.iter().map(|part| part.succeeded).sum::<u32>();
        all >= self.settings.minimum && f64::from(failed) >= self.settings.error_ratio * f64::from(all)
    }

    /// The part of the window that `now` is in.
    fn part(&mut self, now: Instant) -> &mut Part {
        let window = Duration::from_millis(self.settings.window_ms);
        while self.parts.front().is_some_and(|part| now.duration_since(part.since) >= window) {
            self.parts.pop_front();
        }
        if self.parts.back().is_none_or(|part| now.duration_since(part.since) >= window / PARTS) {
            self.parts.push_back(Part { since: now, succeeded: 0, failed: 0 });
        }
        let last = self.parts.len() - 1;
        &mut self.parts[last]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> (Breaker, Instant) {
        let settings = BreakerSettings { error_ratio: 0.5, minimum: 4, window_ms: 30_000, open_ms: 10_000 };
        (Breaker::new(settings), Instant::now())
    }

    fn fail(breaker: &mut Breaker, times: usize, now: Instant) {
        for _ in 0..times {
            let entry = breaker.enter(now);
            breaker.record(entry, Outcome::Failed, now);
        }
    }

    #[test]
    fn it_opens_at_the_ratio_and_not_below_the_minimum() {
        let (mut breaker, now) = breaker();
        fail(&mut breaker, 3, now);
        assert_eq!(breaker.enter(now), Entry::Free);
        fail(&mut breaker, 1, now);
        assert_eq!((breaker.enter(now), breaker.state(now)), (Entry::Shut, BreakerState::Open));

        let (mut breaker, now) = self::breaker();
        for _ in 0..5 {
            breaker.record(Entry::Free, Outcome::Succeeded, now);
        }
        fail(&mut breaker, 4, now);
        assert_eq!(breaker.state(now), BreakerState::Closed, "4 of 9");
        fail(&mut breaker, 1, now);
        assert_eq!(breaker.state(now), BreakerState::Open, "5 of 10");
    }

    #[test]
    fn what_left_the_window_does_not_count() {
        let (mut breaker, now) = breaker();
        fail(&mut breaker, 3, now);
        fail(&mut breaker, 1, now + 31 * SECOND);
        assert_eq!(breaker.state(now + 31 * SECOND), BreakerState::Closed);
        fail(&mut breaker, 3, now + 59 * SECOND);
        assert_eq!(breaker.state(now + 59 * SECOND), BreakerState::Open);
    }

    #[test]
    fn half_open_it_lets_exactly_one_through() {
        let (mut breaker, now) = breaker();
        fail(&mut breaker, 4, now);
        let later = now + 10 * SECOND;
        assert_eq!(breaker.state(later), BreakerState::HalfOpen);
        assert_eq!(breaker.look(later), Entry::Probe);
        assert_eq!(breaker.enter(later), Entry::Probe);
        assert_eq!(breaker.enter(later), Entry::Shut);
        breaker.record(Entry::Probe, Outcome::Succeeded, later);
        assert_eq!((breaker.enter(later), breaker.last_succeeded()), (Entry::Free, true));
        fail(&mut breaker, 3, later);
        assert_eq!(breaker.state(later), BreakerState::Open, "3 of 4: the window began anew");
    }

    #[test]
    fn a_failed_probe_doubles_the_time_up_to_eight_times() {
        let (mut breaker, mut now) = breaker();
        fail(&mut breaker, 4, now);
        for seconds in [10, 20, 40, 80, 80] {
            assert_eq!(breaker.enter(now + (seconds - 1) * SECOND), Entry::Shut);
            now += seconds * SECOND;
            assert_eq!(breaker.enter(now), Entry::Probe);
            breaker.record(Entry::Probe, Outcome::Failed, now);
        }
    }

    #[test]
    fn a_probe_that_is_given_up_makes_room_for_another() {
        let (mut breaker, now) = breaker();
        fail(&mut breaker, 4, now);
        let later = now + 10 * SECOND;
        assert_eq!(breaker.enter(later), Entry::Probe);
        breaker.record(Entry::Probe, Outcome::Nothing, later);
        assert_eq!(breaker.enter(later), Entry::Probe);
    }

    #[test]
    fn a_probe_that_another_request_has_made_needless_opens_nothing() {
        for outcome in [Outcome::Nothing, Outcome::Busy(SECOND)] {
            let (mut breaker, now) = breaker();
            fail(&mut breaker, 4, now);
            let later = now + 10 * SECOND;
            assert_eq!((breaker.enter(later), breaker.enter(later)), (Entry::Probe, Entry::Shut));
            breaker.record(Entry::Shut, Outcome::Succeeded, later);
            breaker.record(Entry::Probe, outcome, later);
            assert_eq!(breaker.state(later), BreakerState::Closed);
        }
    }

    #[test]
    fn a_pause_that_the_server_wants_is_kept_for_a_minute_at_most() {
        let (mut breaker, now) = breaker();
        breaker.record(Entry::Free, Outcome::Busy(3 * SECOND), now);
        assert_eq!(breaker.enter(now), Entry::Paused(3 * SECOND));
        assert_eq!(breaker.enter(now + 3 * SECOND), Entry::Free);
        breaker.record(Entry::Free, Outcome::Busy(3600 * SECOND), now);
        assert_eq!(breaker.enter(now), Entry::Paused(60 * SECOND));
    }
}
