//! Other servers' protocols on the same port: their clients work unchanged.
//!
//! | path | file |
//! |---|---|
//! | `/v1/embeddings`, `/v1/models…` | `openai` |
//! | `/v1/chat/completions` | `chat` |
//! | `/embed`, `/similarity`, `/tokenize`, `/info`, `POST /` | `tei` |
//! | `/embeddings`, `/models` | `infinity` |
//! | `/v1/rerank`, `/v2/rerank`, `/rerank` | `rerank` |
//! | `/v1/vector_stores/…/search` | `vector_stores` |
//!
//! Unknown fields are ignored here, because such clients send what their own
//! servers know. `errors` puts what went wrong into each protocol's own shape.

pub mod chat;
mod errors;
pub mod infinity;
pub mod openai;
pub mod rerank;
pub mod tei;
pub mod vector_stores;

pub use errors::{CohereError, OpenAiError, TeiError};

use serde::Deserialize;
use serde_json::json;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Array, Object, OneOfBuilder, RefOr, Schema, Type},
};

use super::{Gateway, error::ApiError};
use crate::{
    config::{Catalog, EmbeddingSpace, Source},
    models::{embedders::ModelState, vectors::scale_to_one},
    rag::embed::EmbedderChoice,
};

/// One text or several, as these protocols take them.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "the input must be a text or an array of texts")]
pub enum TextInput {
    One(String),
    Many(Vec<String>),
    #[expect(dead_code, reason = "that they are there is enough to refuse them")]
    Tokens(Vec<u64>),
    #[expect(dead_code, reason = "that they are there is enough to refuse them")]
    ManyTokens(Vec<Vec<u64>>),
}

impl TextInput {
    /// The texts. Token ids are refused: they may be of any tokenizer, and those of another one
    /// would give vectors that mean nothing.
    fn texts(self) -> Result<Vec<String>, ApiError> {
        match self {
            TextInput::One(text) => Ok(vec![text]),
            TextInput::Many(texts) => Ok(texts),
            TextInput::Tokens(_) | TextInput::ManyTokens(_) => Err(ApiError::invalid(
                "the input is token ids of another tokenizer; send texts (langchain-openai does with \
                 OpenAIEmbeddings(check_embedding_ctx_length=False))",
            )),
        }
    }
}

impl PartialSchema for TextInput {
    fn schema() -> RefOr<Schema> {
        let text = || Object::with_type(Type::String);
        OneOfBuilder::new()
            .item(text())
            .item(Array::new(text()))
            .description(Some("A text or an array of texts."))
            .examples([json!(["When does the first ferry leave?"])])
            .into()
    }
}

impl ToSchema for TextInput {}

/// The embedder that a client's `model` means: a model type, a catalog name, or a hub's name, of
/// which the last part counts (`sentence-transformers/all-MiniLM-L6-v2`) unless it is no catalog
/// name and the whole is where an entry comes from (`openai/clip-vit-base-patch32`).
fn choice(catalog: &Catalog, model: &str) -> EmbedderChoice {
    if catalog.routes.embed.contains_key(model) {
        return EmbedderChoice::Type(model.to_owned());
    }
    let name = model.rsplit('/').next().unwrap_or(model);
    let comes_from = |source: &Source| matches!(source, Source::Hf { repository, .. } if repository == model);
    let entry = catalog
        .embedder(name)
        .or_else(|| catalog.embedders.iter().find(|entry| entry.sources.iter().any(comes_from)));
    EmbedderChoice::Model(entry.map_or(name, |entry| &entry.name).to_owned())
}

/// Names of the models that can be asked for; those that could not be loaded are left out.
fn served_models(gateway: &Gateway) -> Vec<String> {
    let models = gateway.rag.embedders().models();
    let served = models.filter(|(_, state)| !matches!(state, ModelState::Failed(_)));
    served.map(|(name, _)| name.to_owned()).collect()
}

/// The length that a request's vectors get: the model's own, or one that it was trained to be cut to.
fn length(catalog: &Catalog, space: &EmbeddingSpace, wanted: Option<usize>) -> Result<usize, ApiError> {
    let cuts = catalog.embedder(&space.model).map_or(&[][..], |entry| &entry.cut_dimensions);
    match wanted {
        None => Ok(space.dimension),
        Some(wanted) if wanted == space.dimension || cuts.contains(&wanted) => Ok(wanted),
        Some(wanted) => {
            let mut possible = vec![space.dimension.to_string()];
            possible.extend(cuts.iter().map(usize::to_string));
            Err(ApiError::invalid(format!(
                "dimensions: {} makes no vectors of {wanted} numbers; possible: {}",
                space.model,
                possible.join(", ")
            )))
        }
    }
}

/// Cuts longer vectors to this length; a cut vector gets length 1 again, as OpenAI's have.
fn cut(vectors: &mut [Vec<f32>], length: usize) {
    for vector in vectors.iter_mut().filter(|vector| vector.len() > length) {
        vector.truncate(length);
        scale_to_one(vector);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BUILT_IN;

    #[test]
    fn a_model_is_found_by_type_name_and_hub_name() {
        let catalog = Catalog::parse(BUILT_IN, "models.toml").unwrap();
        let model = |name: &str| EmbedderChoice::Model(name.to_owned());
        for (given, meant) in [
            ("text-embedding", EmbedderChoice::Type("text-embedding".into())),
            ("all-MiniLM-L6-v2", model("all-MiniLM-L6-v2")),
            ("sentence-transformers/all-MiniLM-L6-v2", model("all-MiniLM-L6-v2")),
            ("sentence-transformers/clip-ViT-B-32", model("clip-ViT-B-32")),
            ("openai/clip-vit-base-patch32", model("clip-ViT-B-32")),
            ("nobody/gpt", model("gpt")),
            ("", model("")),
        ] {
            assert_eq!(choice(&catalog, given), meant, "{given}");
        }
    }
}
