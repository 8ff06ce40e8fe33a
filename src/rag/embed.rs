//! Texts in, vectors out.

use std::sync::Arc;

use super::{Rag, RagError};
use crate::{
    config::EmbeddingSpace,
    models::{Embedder, Lane, ModelError, TextRole},
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
        let _waiting = self.load.enter();
        let embeddings = embedder.embed(texts, role, Lane::Interactive).await?;
        Ok(Embedded {
            vectors: embeddings.vectors,
            space: embedder.space().clone(),
            truncated: embeddings.truncated,
            tokens: embeddings.tokens,
        })
    }

    /// Refuses texts that the model would not read whole, before it reads any.
    ///
    /// Of a model that runs elsewhere the tokens are an estimate.
    pub async fn refuse_overlong(
        &self,
        choice: &EmbedderChoice,
        texts: &[String],
        role: TextRole,
    ) -> Result<(), RagError> {
        check_texts(texts, self.catalog.http.max_texts)?;
        let embedder = self.embedder(choice)?;
        let prefix = self.catalog.embedder(&embedder.space().model).map_or("", |entry| match role {
            TextRole::Query => entry.prefixes.query.as_str(),
            TextRole::Passage => entry.prefixes.passage.as_str(),
        });
        let read: Vec<String> = texts.iter().map(|text| format!("{prefix}{text}")).collect();
        let measured = Arc::clone(&embedder);
        let too_long = tokio::task::spawn_blocking(move || {
            let tokens = |text: &String| {
                let exact = measured.tokenize(text, true).map(|tokens| tokens.len());
                exact.unwrap_or_else(|_| measured.count_tokens(text))
            };
            (0..read.len()).filter(|&index| tokens(&read[index]) > measured.max_tokens()).collect::<Vec<_>>()
        })
        .await?;
        match too_long.as_slice() {
            [] => Ok(()),
            indices => Err(overlong(embedder.as_ref(), indices)),
        }
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

/// The refusal of texts that are longer than the model reads.
fn overlong(embedder: &dyn Embedder, indices: &[usize]) -> RagError {
    let named: Vec<String> = indices.iter().map(|index| format!("texts[{index}]")).collect();
    let reason = format!(
        "{} longer than the {} tokens that it reads; shorten what is too long, or leave out \
         `truncate: false` to have the beginning count",
        named.join(", "),
        embedder.max_tokens()
    );
    RagError::Model(ModelError::Unfit { model: embedder.space().model.clone(), reason })
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
