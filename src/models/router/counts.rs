//! What became of the requests to one backend, counted.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::models::{ModelError, Usage, forward::ForwardError};

/// Upper bounds of [`Times`], in milliseconds.
pub const TIME_BOUNDS_MS: [u64; 12] =
    [25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000];

/// How a request to a backend ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its answer began.
    Answered,
    Overloaded,
    TimedOut,
    Unavailable,
    Failed,
    /// The request did not fit it or was at fault.
    Refused,
    /// Nobody waited any longer: the caller left, another backend was faster, or time was up.
    Cancelled,
}

impl Ending {
    /// Every ending with its name, in the order of their counters.
    pub const ALL: [(Ending, &str); 7] = [
        (Ending::Answered, "answered"),
        (Ending::Overloaded, "overloaded"),
        (Ending::TimedOut, "timed_out"),
        (Ending::Unavailable, "unavailable"),
        (Ending::Failed, "failed"),
        (Ending::Refused, "refused"),
        (Ending::Cancelled, "cancelled"),
    ];

    fn of(error: &ForwardError) -> Self {
        if error.is_callers_fault() {
            return Ending::Refused;
        }
        match error.error {
            ModelError::Overloaded { .. } => Ending::Overloaded,
            ModelError::TimedOut { .. } => Ending::TimedOut,
            ModelError::Unavailable { .. } | ModelError::NotLoaded { .. } => Ending::Unavailable,
            ModelError::Failed { .. } => Ending::Failed,
            ModelError::Unfit { .. } | ModelError::BadImage { .. } => Ending::Refused,
        }
    }
}

/// Counters of one backend since the start.
#[derive(Debug, Default)]
pub struct Counts {
    endings: [AtomicU64; Ending::ALL.len()],
    broken_off: AtomicU64,
    given_up: AtomicU64,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    first_byte: TimeCounts,
    whole: TimeCounts,
}

#[derive(Debug, Default)]
struct TimeCounts {
    buckets: [AtomicU64; TIME_BOUNDS_MS.len() + 1],
    sum_us: AtomicU64,
}

/// The counters at one time.
#[derive(Debug, Clone, Default)]
pub struct BackendCounts {
    /// In the order of [`Ending::ALL`].
    pub endings: [u64; Ending::ALL.len()],
    /// Answers that began and did not end well.
    pub broken_off: u64,
    /// Requests that went on to the next backend.
    pub given_up: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// From a request to the first byte of its answer.
    pub first_byte: Times,
    /// From a request to the end of an answer that began.
    pub whole: Times,
}

/// A histogram of times.
#[derive(Debug, Clone, Default)]
pub struct Times {
    /// How many lie between a bound of [`TIME_BOUNDS_MS`] and the one before; the last: above all.
    pub buckets: [u64; TIME_BOUNDS_MS.len() + 1],
    pub sum_s: f64,
}

impl Counts {
    pub fn answered(&self, after: Duration) {
        self.count(Ending::Answered);
        self.first_byte.add(after);
    }

    /// The answer ended, well or not.
    pub fn ended(&self, after: Duration) {
        self.whole.add(after);
    }

    pub fn failed(&self, error: &ForwardError) {
        self.count(Ending::of(error));
    }

    pub fn cancelled(&self) {
        self.count(Ending::Cancelled);
    }

    pub fn broke_off(&self) {
        add(&self.broken_off, 1);
    }

    pub fn gave_up(&self) {
        add(&self.given_up, 1);
    }

    pub fn used(&self, usage: Usage) {
        add(&self.prompt_tokens, usage.prompt_tokens as u64);
        add(&self.completion_tokens, usage.completion_tokens as u64);
    }

    /// The counters now.
    pub fn read(&self) -> BackendCounts {
        BackendCounts {
            endings: self.endings.each_ref().map(get),
            broken_off: get(&self.broken_off),
            given_up: get(&self.given_up),
            prompt_tokens: get(&self.prompt_tokens),
            completion_tokens: get(&self.completion_tokens),
            first_byte: self.first_byte.read(),
            whole: self.whole.read(),
        }
    }

    fn count(&self, ending: Ending) {
        add(&self.endings[ending as usize], 1);
    }
}

impl TimeCounts {
    fn add(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        add(&self.buckets[TIME_BOUNDS_MS.partition_point(|bound| *bound < ms)], 1);
        add(&self.sum_us, u64::try_from(time.as_micros()).unwrap_or(0));
    }

    fn read(&self) -> Times {
        Times {
            buckets: self.buckets.each_ref().map(get),
            sum_s: Duration::from_micros(get(&self.sum_us)).as_secs_f64(),
        }
    }
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
