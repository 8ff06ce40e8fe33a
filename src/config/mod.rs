//! Configuration: the environment and `models.toml`, parsed into plain data.
//!
//! Absent here: I/O beyond reading the two, and any check that is left for later.

mod auth;
mod cache;
mod catalog;
mod embedder;
mod encryption;
mod environment;
mod jobs;
mod limits;
mod llm;
mod reranker;
mod search;
mod shutdown;
mod space;
mod usage;

pub use auth::{AuthSettings, KeySetSource, MIN_SECRET_BYTES, PublicKey, TokenKey, TokenSettings};
pub use cache::{AnswerCacheSettings, CacheSettings};
pub use catalog::*;
pub use embedder::*;
pub use encryption::{ENCRYPTION_KEYS, EncryptionSettings, KeyId};
pub use environment::{Config, DatabaseSettings, Home, TlsFiles};
pub use jobs::JobSettings;
pub use limits::{GroupLimits, LimitSettings};
pub use llm::*;
pub use reranker::*;
pub use search::{MAX_RERANK_CANDIDATES, RerankSettings, SearchCacheSettings, SearchMode, SearchSettings};
pub use shutdown::ShutdownSettings;
pub use space::{EmbeddingSpace, Pooling, Prefixes};
pub use usage::{Quota, QuotaPeriod, QuotaSubject, UsageSettings};

#[cfg(test)]
mod tests;

/// A setting that cannot be used: where it stands and what is wrong with it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{origin}: {message}")]
pub struct ConfigError {
    origin: String,
    message: String,
}

impl ConfigError {
    fn new(origin: impl Into<String>, message: impl Into<String>) -> Self {
        Self { origin: origin.into(), message: message.into() }
    }
}
