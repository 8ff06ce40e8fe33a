//! `[cache]`: how much is remembered of what was embedded.

use std::num::NonZeroU32;

use serde::Deserialize;

/// Limits of the embedding cache.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheSettings {
    /// Memory for vectors and their keys; 0 remembers nothing in memory.
    pub max_bytes: u64,
    /// Seconds that a vector is kept, in memory and in Redis.
    pub ttl_s: NonZeroU32,
}

impl Default for CacheSettings {
    fn default() -> Self {
        const HOUR: NonZeroU32 = NonZeroU32::new(3600).unwrap();
        Self { max_bytes: 64 << 20, ttl_s: HOUR }
    }
}
