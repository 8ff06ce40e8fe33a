//! Texts in, vectors out.

use std::sync::Arc;

use super::{Rag, RagError};
use crate::{
    config::EmbeddingSpace,
    models::{Embedder, Lane, TextRole},
};

/// Which embedder a request means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbedderChoice {
    /// By route, such as `text-embedding`.
    Type(String),
    /// By catalog name, such as `all-MiniLM-L6-v2`.
    Model(String),
}

/// Vectors with where they belong.
#[derive(Debug, Clone)]
pub struct Embedded {
    pub vectors: Vec<Vec<f32>>,
    pub space: EmbeddingSpace,
    /// Indices of texts that were longer than the model reads.
    pub truncated: Vec<usize>,
    pub tokens: usize,
}

impl Rag {
    /// Embeds texts as passages; see [`TextRole`].
    pub async fn embed(
        &self,
        choice: &EmbedderChoice,
        texts: Vec<String>,
        role: TextRole,
    ) -> Result<Embedded, RagError> {
        let embedder = self.embedder(choice)?;
        check_texts(&texts, self.catalog.http.max_texts)?;
        let embeddings = embedder.embed(texts, role, Lane::Interactive).await?;
        Ok(Embedded {
            vectors: embeddings.vectors,
            space: embedder.space().clone(),
            truncated: embeddings.truncated,
            tokens: embeddings.tokens,
        })
    }

    /// The embedder that a request means.
    pub fn embedder(&self, choice: &EmbedderChoice) -> Result<Arc<dyn Embedder>, RagError> {
        let known = || -> Vec<String> {
            self.embedders.routes().map(|(route, model)| format!("{route} ({model})")).collect()
        };
        match choice {
            EmbedderChoice::Type(name) => self.embedders.of_type(name).cloned().ok_or_else(|| {
                RagError::UnknownModel(format!("Unknown model type: {name}. Known: {}", known().join(", ")))
            }),
            EmbedderChoice::Model(name) => self.embedders.named(name).cloned().ok_or_else(|| {
                RagError::UnknownModel(format!(
                    "Unknown embedding model: {name}. Known: {}",
                    known().join(", ")
                ))
            }),
        }
    }
}

pub(super) fn check_texts(texts: &[String], most: usize) -> Result<(), RagError> {
    if texts.is_empty() {
        return Err(RagError::Invalid("texts: give at least one text".into()));
    }
    if texts.len() > most {
        return Err(RagError::Invalid(format!(
            "texts: {} texts in one request, at most {most} are taken; send them in several requests",
            texts.len()
        )));
    }
    match texts.iter().position(|text| text.trim().is_empty()) {
        Some(index) => Err(RagError::Invalid(format!("texts[{index}]: is empty"))),
        None => Ok(()),
    }
}
