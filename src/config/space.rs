//! What makes two vectors comparable.

use std::fmt;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{EmbedderEntry, EmbedderKind, Precision};

/// How token states become one vector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Mean over the tokens that are not padding.
    #[default]
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
///
/// Each precision is a space of its own, though bfloat16 comes to a cosine of 0.9999 to 32 bits:
/// a text then has one vector in a space, whichever setting stored or cached it, scores can be
/// repeated, and a change of setting is seen. Re-embedding leads from one to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingSpace {
    /// `model@weights:pooling:normalisation:precision[:prefix]`, stored beside every vector.
    pub id: String,
    /// Name of the catalog entry.
    pub model: String,
    /// Length of a vector.
    pub dimension: usize,
}

/// Hexadecimal digits of a hash that name weights.
const HASH_DIGITS: usize = 12;

impl EmbeddingSpace {
    /// The space of an entry's vectors; nothing has to be loaded to know it.
    ///
    /// A server's weights cannot be seen: there the hash is of its address and its name of the
    /// model. [`super::Catalog::space_of`] also knows of servers that share another entry's space.
    pub fn of(entry: &EmbedderEntry) -> Self {
        let weights = match &entry.remote {
            Some(remote) => {
                let server = format!("{} {}", remote.base_url, remote.model);
                let digest = Sha256::digest(server.as_bytes());
                digest.iter().map(|byte| format!("{byte:02x}")).collect()
            }
            None => entry.weights().map_or_else(String::new, |file| file.sha256.clone()),
        };
        let weights: String = weights.chars().take(HASH_DIGITS).collect();
        let pooling = match entry.kind {
            EmbedderKind::Bert => entry.pooling.to_string(),
            EmbedderKind::Clip | EmbedderKind::Remote => entry.kind.name().to_owned(),
        };
        let norm = if entry.normalize { "l2" } else { "raw" };
        let precision = match entry.precision {
            Precision::F32 => "fp32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        };
        let mut id = format!("{}@{weights}:{pooling}:{norm}:{precision}", entry.name);
        if !entry.prefixes.is_empty() {
            id.push_str(&format!(":{:?}|{:?}", entry.prefixes.query, entry.prefixes.passage));
        }
        Self { id, model: entry.name.clone(), dimension: entry.dimension }
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
