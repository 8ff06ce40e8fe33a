//! `[search]`: how passages are looked for.

use std::num::NonZeroU32;

use serde::Deserialize;

/// What decides which passages a search finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchMode {
    /// How near their vectors are.
    Dense,
    /// Which words they hold.
    Lexical,
    /// Both.
    #[default]
    Hybrid,
}

impl SearchMode {
    /// As models.toml and requests write it.
    pub fn name(self) -> &'static str {
        match self {
            SearchMode::Dense => "dense",
            SearchMode::Lexical => "lexical",
            SearchMode::Hybrid => "hybrid",
        }
    }
}

/// Of searches and questions that say nothing else.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSettings {
    pub mode: SearchMode,
    pub rerank: RerankSettings,
    pub cache: SearchCacheSettings,
}

/// `[search.cache]`: searches that come again while their collection does not change.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchCacheSettings {
    /// Memory for what was found; 0 remembers nothing.
    pub max_bytes: u64,
    /// Seconds that it is kept.
    pub ttl_s: NonZeroU32,
}

impl Default for SearchCacheSettings {
    fn default() -> Self {
        const TEN_MINUTES: NonZeroU32 = NonZeroU32::new(600).unwrap();
        Self { max_bytes: 32 << 20, ttl_s: TEN_MINUTES }
    }
}

/// Most passages of one search that a reranker reads.
pub const MAX_RERANK_CANDIDATES: usize = 200;

/// `[search.rerank]`: of searches and questions whose passages a reranker reads again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RerankSettings {
    /// Passages that it reads: the best that were found.
    pub candidates: usize,
    /// After it the order before is kept.
    pub timeout_ms: u64,
}

impl Default for RerankSettings {
    fn default() -> Self {
        Self { candidates: 50, timeout_ms: 5_000 }
    }
}

impl RerankSettings {
    pub(super) fn check(&self) -> Result<(), String> {
        if !(1..=MAX_RERANK_CANDIDATES).contains(&self.candidates) || self.timeout_ms == 0 {
            return Err(format!(
                "search.rerank: candidates must be between 1 and {MAX_RERANK_CANDIDATES}, timeout_ms at least 1"
            ));
        }
        Ok(())
    }
}
