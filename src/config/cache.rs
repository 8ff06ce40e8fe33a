//! `[cache]` and `[ask.cache]`: how much is remembered of what was embedded and answered.

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

/// `[ask.cache]`: answers that are given again to a question that asks for the same.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnswerCacheSettings {
    pub enabled: bool,
    /// Least cosine similarity of two questions that get one answer.
    pub min_similarity: f32,
    /// Seconds that an answer is kept.
    pub ttl_s: u64,
    /// Answers kept by one replica.
    pub max_entries: usize,
}

impl Default for AnswerCacheSettings {
    fn default() -> Self {
        Self { enabled: false, min_similarity: 0.95, ttl_s: 3600, max_entries: 1000 }
    }
}

impl AnswerCacheSettings {
    pub(super) fn check(&self) -> Result<(), String> {
        if !(0.5..=1.0).contains(&self.min_similarity) {
            return Err(format!(
                "ask.cache.min_similarity: must be between 0.5 and 1, is {}",
                self.min_similarity
            ));
        }
        if self.ttl_s == 0 || !(1..=10_000).contains(&self.max_entries) {
            return Err("ask.cache: ttl_s must be at least 1, max_entries between 1 and 10000".into());
        }
        Ok(())
    }
}
