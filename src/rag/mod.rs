//! Use cases: embed, search, ask, ingest.
//!
//! Absent here: HTTP, SQL, vendors. *Search* is a prefix of *ask*, *embed* of
//! *search*; each file calls the one before it.

pub mod ask;
pub mod chunk;
pub mod citations;
pub mod collections;
mod documents;
pub mod embed;
pub mod evaluate;
pub mod extract;
pub mod extractive;
pub mod filters;
pub mod grounding;
pub mod ingest;
pub mod prompts;
pub mod search;
pub mod sentences;

use std::sync::Arc;

use crate::{
    config::Catalog,
    models::{Embedders, ModelError, router::AnswerRouter},
    store::{Store, StoreError},
};

/// What the use cases work with; cheap to clone.
#[derive(Clone)]
pub struct Rag {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) store: Store,
    pub(crate) embedders: Embedders,
    pub(crate) answers: Arc<AnswerRouter>,
    pub(crate) prompts: Arc<prompts::Prompts>,
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
    ) -> Self {
        Self { catalog, store, embedders, answers: Arc::new(answers), prompts: Arc::new(prompts) }
    }

    /// The database, for health and metrics.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The loaded embedders.
    pub fn embedders(&self) -> &Embedders {
        &self.embedders
    }

    /// The answer backends.
    pub fn answers(&self) -> &AnswerRouter {
        &self.answers
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
    /// The collection's vectors are of a space that no model of the catalog makes.
    #[error(
        "collection `{collection}` holds vectors of the space `{stored}`, which no model in models.toml makes \
         (known: {known}); add that model to models.toml, or make a new collection and ingest again"
    )]
    SpaceMismatch { collection: String, stored: String, known: String },
    /// A file could not be read as a document.
    #[error(transparent)]
    Extract(#[from] extract::ExtractError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect in a prompt template, found while rendering.
    #[error("prompt template: {0}")]
    Prompt(String),
    /// A worker thread ended early.
    #[error("internal task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}
