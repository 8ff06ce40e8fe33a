//! What this replica did with background jobs, counted.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How an attempt at a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobOutcome {
    Succeeded,
    /// It is tried again, or given up.
    Failed,
    /// There was nothing to do for a while, or the model was busy.
    Paused,
    /// It was cancelled, taken over, or left to another worker.
    Lost,
}

impl JobOutcome {
    /// Every outcome with its name, in the order of their counters.
    pub const ALL: [(JobOutcome, &str); 4] = [
        (JobOutcome::Succeeded, "succeeded"),
        (JobOutcome::Failed, "failed"),
        (JobOutcome::Paused, "paused"),
        (JobOutcome::Lost, "lost"),
    ];
}

/// The jobs of one kind, since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct KindCounts {
    pub queued: u64,
    /// At the moment.
    pub running: u64,
    /// Of attempts, in the order of [`JobOutcome::ALL`].
    pub outcomes: [u64; JobOutcome::ALL.len()],
    /// Time spent on attempts that have ended.
    pub busy: Duration,
}

/// The counters; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::rag) struct JobCounts {
    kinds: Arc<Mutex<BTreeMap<String, KindCounts>>>,
}

impl JobCounts {
    /// One more waits.
    pub fn queued(&self, kind: &str) {
        self.lock().entry(kind.to_owned()).or_default().queued += 1;
    }

    /// An attempt begins; dropped without a word it counts as lost.
    pub(super) fn begin(&self, kind: &str) -> Attempt {
        let kind = kind.to_owned();
        self.lock().entry(kind.clone()).or_default().running += 1;
        Attempt { counts: self.clone(), kind, began: Instant::now(), outcome: JobOutcome::Lost }
    }

    /// Those of these kinds.
    pub fn read(&self, kinds: &[&'static str]) -> Vec<(&'static str, KindCounts)> {
        let counts = self.lock();
        kinds.iter().map(|kind| (*kind, counts.get(*kind).copied().unwrap_or_default())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, KindCounts>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that has not ended.
pub(super) struct Attempt {
    counts: JobCounts,
    kind: String,
    began: Instant,
    outcome: JobOutcome,
}

impl Attempt {
    pub fn end(mut self, outcome: JobOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        let kind = counts.entry(std::mem::take(&mut self.kind)).or_default();
        kind.running -= 1;
        kind.outcomes[self.outcome as usize] += 1;
        kind.busy += self.began.elapsed();
    }
}
