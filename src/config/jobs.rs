//! How background jobs are run.

use std::time::Duration;

use serde::Deserialize;

/// Jobs of one replica; the queue is shared by all.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JobSettings {
    /// Jobs that this replica runs at once; 0: it leaves them to others.
    pub workers: usize,
    /// How long a worker may be silent before another takes its job.
    pub lease_ms: u64,
    /// How often an idle worker looks for jobs of other replicas; its own it sees at once.
    pub poll_ms: u64,
    /// Attempts without progress before a job is given up.
    pub max_attempts: i32,
    /// Pause after the first failed attempt; it triples with each further one.
    pub retry_ms: u64,
    /// How long an ended job and its result can be read; a failed one seven times as long.
    pub keep_s: u64,
    /// Jobs of one tenant that have not ended; more are refused.
    pub max_open: i64,
}

impl Default for JobSettings {
    fn default() -> Self {
        Self {
            workers: 2,
            lease_ms: 30_000,
            poll_ms: 2_000,
            max_attempts: 5,
            retry_ms: 5_000,
            keep_s: 86_400,
            max_open: 100,
        }
    }
}

impl JobSettings {
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    pub fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
    }

    pub fn keep(&self) -> Duration {
        Duration::from_secs(self.keep_s)
    }

    /// The pause after this many failed attempts: 5 s, 15 s, 45 s …, never over 5 minutes.
    pub fn retry_after(&self, attempts: i32) -> Duration {
        const LONGEST: Duration = Duration::from_secs(300);
        let factor = 3u32.saturating_pow(u32::try_from(attempts - 1).unwrap_or(0));
        Duration::from_millis(self.retry_ms).saturating_mul(factor).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_at_five_minutes() {
        let settings = JobSettings::default();
        let seconds = [1, 2, 3, 4, 5, 100].map(|attempts| settings.retry_after(attempts).as_secs());
        assert_eq!(seconds, [5, 15, 45, 135, 300, 300]);
    }
}
