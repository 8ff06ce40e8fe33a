//! What a lane holds and has computed, for those who watch.

use std::time::Duration;

use crate::models::Lane;

/// Upper bounds of [`BatchCounts::sizes`], in items.
pub const BATCH_BOUNDS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// One lane of a model.
#[derive(Debug, Clone, Copy)]
pub struct LaneStatus {
    pub lane: Lane,
    /// Items that wait.
    pub items: usize,
    /// Their cost, mostly tokens.
    pub cost: usize,
    pub batches: BatchCounts,
}

/// The batches that a lane has computed since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchCounts {
    /// How many had a size between a bound of [`BATCH_BOUNDS`] and the one before; the last: above all.
    pub sizes: [u64; BATCH_BOUNDS.len() + 1],
    pub items: u64,
    /// Of all items, mostly tokens.
    pub cost: u64,
    /// Time in which the model computed them.
    pub busy: Duration,
}

impl BatchCounts {
    /// Counts one more.
    pub(super) fn add(&mut self, items: usize, cost: usize, elapsed: Duration) {
        self.sizes[BATCH_BOUNDS.partition_point(|bound| *bound < items)] += 1;
        self.items += items as u64;
        self.cost += cost as u64;
        self.busy += elapsed;
    }
}
