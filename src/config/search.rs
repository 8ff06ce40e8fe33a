//! `[search]`: how passages are looked for.

use serde::Deserialize;

/// What decides which passages a search finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
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
