//! Use cases: embed, search, ask, ingest.
//!
//! Absent here: HTTP, SQL, vendors. *Search* is a prefix of *ask*, *embed* of
//! *search*; each file calls the one before it.

mod answer_cache;
pub mod ask;
mod caller;
pub mod chat;
pub mod chunk;
pub mod citations;
pub mod collections;
mod documents;
pub mod embed;
pub mod embed_batch;
pub mod evaluate;
pub mod extract;
pub mod extractive;
pub mod feedback;
pub mod filters;
pub mod gate;
pub mod grounding;
pub mod index_advice;
pub mod ingest;
pub mod injection;
pub mod jobs;
mod pictures;
mod plain;
pub mod prompts;
pub mod recall;
pub mod reembed;
pub mod rerank;
mod same_question;
pub mod search;
pub mod sentences;
mod sweep;
mod tables;
mod tokens;
pub mod usage;
mod wellness;

pub use caller::Caller;

use std::sync::Arc;

use tokio::sync::Notify;

use crate::{
    config::{Catalog, JobSettings},
    models::{Embedders, ModelError, Rerankers, cache::EmbeddingCache, router::AnswerRouter},
    store::{Store, StoreError},
};

/// What the use cases work with; cheap to clone.
#[derive(Clone)]
pub struct Rag {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) store: Store,
    pub(crate) embedders: Embedders,
    pub(crate) answers: Arc<AnswerRouter>,
    rerankers: Arc<Rerankers>,
    pub(crate) prompts: Arc<prompts::Prompts>,
    job_settings: JobSettings,
    /// Wakes a worker of this replica.
    job_added: Arc<Notify>,
    job_counts: jobs::JobCounts,
    pub(crate) cache: EmbeddingCache,
    repeated: search::RepeatedSearches,
    pub(crate) load: embed_batch::Load,
    pub(crate) answer_cache: Arc<answer_cache::AnswerCache>,
    ledger: Arc<usage::Ledger>,
    readers: extract::Readers,
}

/// The collection that is meant when a request names none.
pub const DEFAULT_COLLECTION: &str = "default";

impl Rag {
    /// Joins the parts; see `app` for how they are made.
    pub fn new(
        catalog: Arc<Catalog>,
        store: Store,
        embedders: Embedders,
        answers: AnswerRouter,
        prompts: prompts::Prompts,
        cache: EmbeddingCache,
    ) -> Self {
        Self {
            job_settings: catalog.jobs.clone(),
            answer_cache: Arc::new(answer_cache::AnswerCache::new(catalog.ask.cache.clone())),
            ledger: Arc::new(usage::Ledger::new(&catalog, store.clone())),
            readers: extract::Readers::new(catalog.ingest.readers.clone()),
            repeated: search::RepeatedSearches::new(&catalog.search.cache),
            catalog,
            store,
            embedders,
            answers: Arc::new(answers),
            rerankers: Arc::default(),
            prompts: Arc::new(prompts),
            cache,
            load: embed_batch::Load::default(),
            job_added: Arc::new(Notify::new()),
            job_counts: jobs::JobCounts::default(),
        }
    }

    /// The same with other settings of background jobs.
    pub fn with_job_settings(self, job_settings: JobSettings) -> Self {
        Self { job_settings, ..self }
    }

    /// The same with rerankers.
    pub fn with_rerankers(self, rerankers: Rerankers) -> Self {
        Self { rerankers: Arc::new(rerankers), ..self }
    }

    /// The same with other processes that read files.
    pub fn with_readers(self, readers: extract::Readers) -> Self {
        Self { readers, ..self }
    }

    /// The database, for health and metrics.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The loaded embedders.
    pub fn embedders(&self) -> &Embedders {
        &self.embedders
    }

    /// The rerankers.
    pub fn rerankers(&self) -> &Rerankers {
        &self.rerankers
    }

    /// The answer backends.
    pub fn answers(&self) -> &AnswerRouter {
        &self.answers
    }

    /// The cache of vectors.
    pub fn cache(&self) -> &EmbeddingCache {
        &self.cache
    }

    /// The searches that are remembered.
    pub fn repeated_searches(&self) -> &search::RepeatedSearches {
        &self.repeated
    }

    /// The catalog in force.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }
}

/// Why a use case did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RagError {
    /// The request itself is wrong; the message says what to change.
    #[error("{0}")]
    Invalid(String),
    /// No model of this name or type.
    #[error("{0}")]
    UnknownModel(String),
    /// No document of this id.
    #[error("there is no document {0}")]
    UnknownDocument(uuid::Uuid),
    /// No answer of this id, or none of the caller's, any more.
    #[error("there is no answer {0}; answers can be rated for a limited time")]
    UnknownAnswer(uuid::Uuid),
    /// The caller has used what it may.
    #[error(transparent)]
    QuotaExceeded(#[from] usage::QuotaExceeded),
    /// No document of this id that is a picture.
    #[error("there is no document {0} with an image")]
    NoImage(uuid::Uuid),
    /// A picture that cannot be read.
    #[error("the image {0}")]
    BadImage(String),
    /// No task of this id, any more.
    #[error("there is no task {0}; the result of one is kept for a limited time")]
    UnknownTask(uuid::Uuid),
    /// The collection's vectors are of a space that no model of the catalog makes.
    #[error(
        "collection `{collection}` holds vectors of the space `{stored}`, which no model in models.toml makes \
         (known: {known}); add that model to models.toml, or make a new collection and ingest again"
    )]
    SpaceMismatch { collection: String, stored: String, known: String },
    /// The collection's spaces do not allow it now; the message says what does.
    #[error("{0}")]
    Reembedding(String),
    /// Nothing is being re-embedded, and there is nothing to go back to.
    #[error("collection `{0}` is not being re-embedded, and no earlier vectors of it are kept")]
    NoReembedding(String),
    /// The collection's words are not indexed yet, or not at all.
    #[error(
        "collection `{collection}` has no complete lexical index yet ({left} documents are left, and a server fills \
         it); until then search it with the mode `dense`"
    )]
    NoLexicalIndex { collection: String, left: i64 },
    /// The collection was made without a lexical index.
    #[error(
        "mode: collection `{0}` was made without a lexical index (`lexical: false`); search it with the mode `dense`"
    )]
    LexicalOff(String),
    /// A file could not be read as a document.
    #[error(transparent)]
    Extract(#[from] extract::ExtractError),
    /// No process to read a file in.
    #[error("{0}")]
    Readers(String),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect in a prompt template, found while rendering.
    #[error("prompt template: {0}")]
    Prompt(String),
    /// A defect: what is stored of a background job cannot be read.
    #[error("background job: {0}")]
    Job(String),
    /// A worker thread ended early.
    #[error("internal task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl From<extract::ReaderError> for RagError {
    fn from(error: extract::ReaderError) -> Self {
        match error {
            extract::ReaderError::File(error) => error.into(),
            extract::ReaderError::Unavailable(_) => RagError::Readers(error.to_string()),
        }
    }
}

impl RagError {
    /// Whether the same may succeed a little later, or on another replica.
    pub fn is_retryable(&self) -> bool {
        match self {
            RagError::Model(ModelError::NotLoaded { .. }) => true,
            RagError::Model(error) => error.is_retryable(),
            RagError::Store(error) => error.is_retryable(),
            RagError::NoLexicalIndex { .. } => true,
            RagError::Invalid(_)
            | RagError::UnknownModel(_)
            | RagError::UnknownDocument(_)
            | RagError::UnknownTask(_)
            | RagError::UnknownAnswer(_)
            | RagError::QuotaExceeded(_)
            | RagError::NoImage(_)
            | RagError::BadImage(_)
            | RagError::SpaceMismatch { .. }
            | RagError::Reembedding(_)
            | RagError::NoReembedding(_)
            | RagError::LexicalOff(_)
            | RagError::Extract(_)
            | RagError::Readers(_)
            | RagError::Prompt(_)
            | RagError::Job(_)
            | RagError::Task(_) => false,
        }
    }

    /// Whether the message is for those who run ragway only: it may hold what is not the caller's.
    pub fn is_internal(&self) -> bool {
        match self {
            RagError::Model(ModelError::Failed { .. })
            | RagError::Readers(_)
            | RagError::Prompt(_)
            | RagError::Job(_)
            | RagError::Task(_) => true,
            RagError::Store(error) => match error {
                StoreError::UnknownCollection(_)
                | StoreError::CollectionExists(_)
                | StoreError::Nul
                | StoreError::VersionChanged(_)
                | StoreError::SpacesChanged(_)
                | StoreError::TooManyJobs(_)
                | StoreError::PoolExhausted
                | StoreError::StatementTimedOut => false,
                StoreError::Unavailable(_)
                | StoreError::DiskFull(_)
                | StoreError::NoPgvector
                | StoreError::NotAReplica
                | StoreError::LeaseLost
                | StoreError::Sealed(_)
                | StoreError::Migration(_)
                | StoreError::Statement(_) => true,
            },
            RagError::Invalid(_)
            | RagError::UnknownModel(_)
            | RagError::UnknownDocument(_)
            | RagError::UnknownTask(_)
            | RagError::UnknownAnswer(_)
            | RagError::QuotaExceeded(_)
            | RagError::NoImage(_)
            | RagError::BadImage(_)
            | RagError::SpaceMismatch { .. }
            | RagError::Reembedding(_)
            | RagError::NoReembedding(_)
            | RagError::NoLexicalIndex { .. }
            | RagError::LexicalOff(_)
            | RagError::Extract(_)
            | RagError::Model(_) => false,
        }
    }
}
