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
        let embedder = self.embedder(choice).await?;
        check_texts(&texts, self.catalog.http.max_texts)?;
        let embeddings = embedder.embed(texts, role, Lane::Interactive).await?;
        Ok(Embedded {
            vectors: embeddings.vectors,
            space: embedder.space().clone(),
            truncated: embeddings.truncated,
            tokens: embeddings.tokens,
        })
    }

    /// The embedder that a request means, loaded.
    pub async fn embedder(&self, choice: &EmbedderChoice) -> Result<Arc<dyn Embedder>, RagError> {
        let found = match choice {
            EmbedderChoice::Type(name) => self.embedders.of_type(name).await,
            EmbedderChoice::Model(name) => self.embedders.named(name).await,
        };
        Ok(found.ok_or_else(|| self.unknown(choice))??)
    }

    /// The space of the model that a request means; nothing is loaded for it.
    pub async fn space(&self, choice: &EmbedderChoice) -> Result<EmbeddingSpace, RagError> {
        let model = match choice {
            EmbedderChoice::Type(name) => {
                self.embedders.chosen(name).await.ok_or_else(|| self.unknown(choice))??
            }
            EmbedderChoice::Model(name) => name.clone(),
        };
        self.embedders.space_of(&model).cloned().ok_or_else(|| self.unknown(choice))
    }

    fn unknown(&self, choice: &EmbedderChoice) -> RagError {
        RagError::UnknownModel(match choice {
            EmbedderChoice::Type(name) => {
                let known: Vec<String> = self.embedders.routes().map(|route| route.model_type).collect();
                format!("Unknown model type: {name}. Known: {}", known.join(", "))
            }
            EmbedderChoice::Model(name) => {
                let known: Vec<&str> = self.embedders.models().map(|(name, _)| name).collect();
                format!("Unknown embedding model: {name}. Known: {}", known.join(", "))
            }
        })
    }
}

fn check_texts(texts: &[String], most: usize) -> Result<(), RagError> {
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
