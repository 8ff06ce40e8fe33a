//! What makes two vectors comparable.

use std::fmt;

use serde::Deserialize;

/// How token states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Mean over the tokens that are not padding.
    Mean,
    /// State of the first token.
    Cls,
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
        })
    }
}

/// An embedding space: vectors are comparable only within one.
///
/// Two models of one dimension are still two spaces, so the dimension alone
/// can never decide; the identifier names the weights, not only the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingSpace {
    /// `model@weights:pooling:normalisation:precision[:prefix]`, stored beside every vector.
    pub id: String,
    /// Name of the catalog entry.
    pub model: String,
    /// Length of a vector.
    pub dimension: usize,
}

impl EmbeddingSpace {
    /// Names the space made by `model` with weights of this SHA-256.
    pub fn new(
        model: &str,
        weights_sha256: &str,
        pooling: Pooling,
        normalize: bool,
        prefixes: &Prefixes,
        dimension: usize,
    ) -> Self {
        let weights: String = weights_sha256.chars().take(12).collect();
        let norm = if normalize { "l2" } else { "raw" };
        let mut id = format!("{model}@{weights}:{pooling}:{norm}:fp32");
        if !prefixes.is_empty() {
            id.push_str(&format!(":{:?}|{:?}", prefixes.query, prefixes.passage));
        }
        Self { id, model: model.to_owned(), dimension }
    }
}

/// Texts that a model expects before a query or a passage (E5: `query: `).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefixes {
    /// Put before a question or a search text.
    #[serde(default)]
    pub query: String,
    /// Put before a stored passage.
    #[serde(default)]
    pub passage: String,
}

impl Prefixes {
    fn is_empty(&self) -> bool {
        self.query.is_empty() && self.passage.is_empty()
    }
}
