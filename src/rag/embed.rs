//! Texts in, vectors out.

use std::sync::Arc;

use super::{
    Caller, Rag, RagError,
    usage::{Operation, Tokens},
};
use crate::{
    config::EmbeddingSpace,
    models::{Embedder, Embeddings, EncodedImage, Lane, ModelError, TextRole},
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

impl Embedded {
    pub(super) fn new(embeddings: Embeddings, embedder: &dyn Embedder) -> Self {
        Self {
            vectors: embeddings.vectors,
            space: embedder.space().clone(),
            truncated: embeddings.truncated,
            tokens: embeddings.tokens.iter().sum(),
        }
    }
}

impl Rag {
    /// Embeds texts as passages; see [`TextRole`].
    pub async fn embed(
        &self,
        caller: Caller,
        choice: &EmbedderChoice,
        texts: Vec<String>,
        role: TextRole,
    ) -> Result<Embedded, RagError> {
        let embedder = self.embedder(choice).await?;
        check_texts(&texts, self.catalog.http.max_texts)?;
        self.ledger().admit(caller).await?;
        let _waiting = self.load.enter();
        let embeddings = embedder.embed(texts, role, Lane::Interactive).await?;
        Ok(self.counted(caller, Embedded::new(embeddings, embedder.as_ref())))
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
        let embedder = self.embedder(choice).await?;
        let entry = self.catalog.embedder(&embedder.space().model);
        let prefix = entry.map_or("", |entry| role.prefix(&entry.prefixes));
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

    /// Embeds pictures, with a model that reads them.
    pub async fn embed_images(
        &self,
        caller: Caller,
        choice: &EmbedderChoice,
        images: Vec<EncodedImage>,
    ) -> Result<Embedded, RagError> {
        let embedder = self.embedder(choice).await?;
        check_count("image", images.len(), self.catalog.http.max_texts)?;
        self.ledger().admit(caller).await?;
        let embeddings = embedder.embed_images(images, Lane::Interactive).await?;
        Ok(self.counted(caller, Embedded::new(embeddings, embedder.as_ref())))
    }

    /// Charges the caller for vectors.
    pub(super) fn counted(&self, caller: Caller, embedded: Embedded) -> Embedded {
        let tokens = Tokens::embedded(embedded.tokens);
        self.ledger().record(caller, Operation::Embed, &embedded.space.model, tokens);
        embedded
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
    check_count("text", texts.len(), most)?;
    match texts.iter().position(|text| text.trim().is_empty()) {
        Some(index) => Err(RagError::Invalid(format!("texts[{index}]: is empty"))),
        None => Ok(()),
    }
}

fn check_count(what: &str, count: usize, most: usize) -> Result<(), RagError> {
    if count == 0 {
        return Err(RagError::Invalid(format!("{what}s: give at least one {what}")));
    }
    if count > most {
        return Err(RagError::Invalid(format!(
            "{what}s: {count} {what}s in one request, at most {most} are taken; send them in several requests"
        )));
    }
    Ok(())
}
