//! How long a full queue takes.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How long generations took lately, to say when a full queue has room again.
#[derive(Debug, Default)]
pub struct Pace {
    average_ms: AtomicU64,
}

impl Pace {
    pub fn record(&self, took: Duration) {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let before = self.average_ms.load(Ordering::Relaxed);
        let average = if before == 0 { took } else { (before.saturating_mul(3).saturating_add(took)) / 4 };
        self.average_ms.store(average, Ordering::Relaxed);
    }

    /// Time after which about half of `waiting` jobs are done; from 1 to 60 seconds.
    pub fn wait_for(&self, waiting: usize) -> Duration {
        let half = self.average_ms.load(Ordering::Relaxed).saturating_mul(waiting as u64) / 2;
        Duration::from_millis(half.clamp(1_000, 60_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_with_the_time_generations_take() {
        let pace = Pace::default();
        assert_eq!(pace.wait_for(8), Duration::from_secs(1));
        pace.record(Duration::from_secs(4));
        assert_eq!(pace.wait_for(8), Duration::from_secs(16));
        pace.record(Duration::from_secs(8));
        assert_eq!(pace.wait_for(8), Duration::from_secs(20));
        pace.record(Duration::from_secs(3600));
        assert_eq!(pace.wait_for(8), Duration::from_secs(60));
    }
}
