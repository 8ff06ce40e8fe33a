//! OpenAI's embeddings and models.

use std::{
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use actix_web::{get, post, web};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{OpenAiError, TextInput, chat, choice, cut, errors::OpenAiErrorBody, length, served_models};
use crate::{
    http::{Gateway, error::ApiError},
    models::TextRole,
    rag::{
        Caller,
        embed::{Embedded, EmbedderChoice},
    },
};

/// Texts for a model.
#[derive(Debug, Deserialize, ToSchema)]
pub struct OpenAiEmbeddingRequest {
    /// A text or an array of texts, `http.max_texts` (2048) at most. Token ids are refused.
    input: TextInput,
    /// A name from `/v1/models`, the hub's name of it, or a model type.
    #[schema(example = "all-MiniLM-L6-v2")]
    model: String,
    #[serde(default)]
    #[schema(example = "float")]
    encoding_format: Encoding,
    /// Length of the vectors: the model's own, or one of its `cut_dimensions` in models.toml.
    #[schema(example = 384)]
    dimensions: Option<usize>,
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// An array of numbers.
    #[default]
    Float,
    /// Base64 of little-endian 32-bit floats.
    Base64,
}

/// Vectors in the order of the texts.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiEmbeddingResponse {
    #[schema(example = "list")]
    object: &'static str,
    data: Vec<OpenAiEmbedding>,
    /// The catalog's name of the model that made them.
    #[schema(example = "all-MiniLM-L6-v2")]
    model: String,
    usage: OpenAiUsage,
    /// Indices of texts longer than the model reads, where there are any: only their beginning counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    truncated: Vec<usize>,
}

/// A vector.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiEmbedding {
    #[schema(example = "embedding")]
    object: &'static str,
    /// Position of its text.
    #[schema(example = 0)]
    index: usize,
    embedding: EncodedVector,
}

/// A vector as the request wants it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum EncodedVector {
    Float(Vec<f32>),
    Base64(String),
}

/// Tokens that the model read.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiUsage {
    /// Special tokens included.
    #[schema(example = 9)]
    prompt_tokens: usize,
    /// The same: nothing is generated.
    #[schema(example = 9)]
    total_tokens: usize,
}

/// The models that can be used.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiModels {
    #[schema(example = "list")]
    object: &'static str,
    data: Vec<OpenAiModel>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiModel {
    #[schema(example = "all-MiniLM-L6-v2")]
    id: String,
    #[schema(example = "model")]
    object: &'static str,
    /// Unix time at which this ragway first told of its models: a catalog has no dates.
    #[schema(example = 1767225600)]
    created: u64,
    #[schema(example = "ragway")]
    owned_by: &'static str,
}

/// Create embeddings (OpenAI)
///
/// For OpenAI's clients and everything built on them; the base URL ends in `/v1`.
#[utoipa::path(tag = "openai", operation_id = "openai_embeddings", request_body = OpenAiEmbeddingRequest, responses(
    (status = 200, description = "The vectors", body = OpenAiEmbeddingResponse),
    (status = 400, description = "Malformed JSON, an empty text, too many texts, token ids, or a length that the model does not have", body = OpenAiErrorBody),
    (status = 404, description = "No such model", body = OpenAiErrorBody),
    (status = 413, description = "The body is too large", body = OpenAiErrorBody),
    (status = 429, description = "Too much work is queued; `Retry-After` says when to try again", body = OpenAiErrorBody),
    (status = 503, description = "The model is not loaded", body = OpenAiErrorBody),
    (status = 504, description = "Not done within `http.request_timeout_ms`", body = OpenAiErrorBody),
))]
#[post("/v1/embeddings")]
pub async fn embeddings(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: Result<web::Json<OpenAiEmbeddingRequest>, actix_web::Error>,
) -> Result<web::Json<OpenAiEmbeddingResponse>, OpenAiError> {
    let request = body?.into_inner();
    let choice = choice(gateway.rag.catalog(), &request.model);
    let embedded = embed_input(caller, &gateway, &choice, request.input, request.dimensions).await?;
    Ok(web::Json(OpenAiEmbeddingResponse {
        object: "list",
        data: encode(embedded.vectors, request.encoding_format),
        model: embedded.space.model,
        usage: OpenAiUsage::of(embedded.tokens),
        truncated: embedded.truncated,
    }))
}

/// List models (OpenAI)
///
/// The embedders of models.toml that can be asked for, and what answers at `/v1/chat/completions`.
#[utoipa::path(tag = "openai", operation_id = "openai_models", responses(
    (status = 200, description = "The models", body = OpenAiModels),
    (status = 500, description = "Something failed inside", body = OpenAiErrorBody),
))]
#[get("/v1/models")]
pub async fn models(caller: Caller, gateway: web::Data<Gateway>) -> web::Json<OpenAiModels> {
    let names = served_models(&gateway).into_iter().chain(chat::names(&gateway, caller).await);
    let data = names.map(OpenAiModel::named).collect();
    web::Json(OpenAiModels { object: "list", data })
}

/// Show a model (OpenAI)
///
/// By a name from `/v1/models`, the hub's name of it, or a model type.
#[utoipa::path(tag = "openai", operation_id = "openai_model", params(("id", description = "The model", example = "all-MiniLM-L6-v2")), responses(
    (status = 200, description = "The model", body = OpenAiModel),
    (status = 404, description = "No such model", body = OpenAiErrorBody),
))]
#[get("/v1/models/{id:.+}")]
pub async fn model(
    caller: Caller,
    gateway: web::Data<Gateway>,
    id: web::Path<String>,
) -> Result<web::Json<OpenAiModel>, OpenAiError> {
    if chat::names(&gateway, caller).await.contains(&*id) {
        return Ok(web::Json(OpenAiModel::named(id.into_inner())));
    }
    let space = gateway.rag.space(&choice(gateway.rag.catalog(), &id)).await?;
    Ok(web::Json(OpenAiModel::named(space.model)))
}

/// Embeds as passages, with errors that name the protocol's fields.
pub(super) async fn embed_input(
    caller: Caller,
    gateway: &Gateway,
    choice: &EmbedderChoice,
    input: TextInput,
    dimensions: Option<usize>,
) -> Result<Embedded, OpenAiError> {
    let about_input = |error: ApiError| OpenAiError::about(error.renamed("texts", "input"), "input");
    let texts = input.texts().map_err(about_input)?;
    let length = wanted_length(gateway, choice, dimensions).await?;
    let work = gateway.rag.embed(caller, choice, texts, TextRole::Passage);
    let mut embedded = gateway.within_time(work).await.map_err(about_input)?;
    cut(&mut embedded.vectors, length);
    Ok(embedded)
}

/// The length that vectors get; see [`length`].
pub(super) async fn wanted_length(
    gateway: &Gateway,
    choice: &EmbedderChoice,
    dimensions: Option<usize>,
) -> Result<usize, OpenAiError> {
    let space = gateway.rag.space(choice).await?;
    length(gateway.rag.catalog(), &space, dimensions).map_err(|error| OpenAiError::about(error, "dimensions"))
}

pub(super) fn encode(vectors: Vec<Vec<f32>>, encoding: Encoding) -> Vec<OpenAiEmbedding> {
    let encoded = |vector: Vec<f32>| match encoding {
        Encoding::Float => EncodedVector::Float(vector),
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            EncodedVector::Base64(BASE64_STANDARD.encode(bytes))
        }
    };
    let numbered = vectors.into_iter().map(encoded).enumerate();
    numbered.map(|(index, embedding)| OpenAiEmbedding { object: "embedding", index, embedding }).collect()
}

/// Unix time at which the models were first told of.
pub(super) fn first_told() -> u64 {
    static FIRST: LazyLock<u64> =
        LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()));
    *FIRST
}

impl OpenAiUsage {
    pub(super) fn of(tokens: usize) -> Self {
        Self { prompt_tokens: tokens, total_tokens: tokens }
    }
}

impl OpenAiModel {
    fn named(id: String) -> Self {
        Self { id, object: "model", created: first_told(), owned_by: "ragway" }
    }
}
