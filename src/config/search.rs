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
}
