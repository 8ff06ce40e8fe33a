//! Infinity: OpenAI's embeddings with a modality.

use actix_web::{get, post, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    OpenAiError, TextInput, choice, cut,
    errors::OpenAiErrorBody,
    openai::{Encoding, OpenAiEmbedding, OpenAiUsage, embed_input, encode, first_told, wanted_length},
    served_models,
};
use crate::{
    config::{EmbedderKind, TEXT_ROUTE},
    http::{Gateway, error::ApiError, images, observe::request_id},
    rag::{
        Caller,
        embed::{Embedded, EmbedderChoice},
    },
};

/// The model type that images take.
const IMAGE_ROUTE: &str = "image-embedding";
/// The name that Infinity's clients send for the server's own choice.
pub(super) const ANY_MODEL: &str = "default/not-specified";

/// Texts or images for a model.
#[derive(Debug, Deserialize, ToSchema)]
pub struct InfinityEmbeddingRequest {
    /// A text or an array of texts; for images base64 or data URIs.
    input: TextInput,
    /// Absent: the model of the route for the modality.
    #[schema(example = "all-MiniLM-L6-v2")]
    model: Option<String>,
    #[serde(default)]
    #[schema(example = "float")]
    encoding_format: Encoding,
    /// What `input` is.
    #[serde(default)]
    #[schema(example = "text")]
    modality: Modality,
    /// Length of the vectors: the model's own (also 0), or one of its `cut_dimensions` in models.toml.
    #[schema(example = 0)]
    dimensions: Option<usize>,
}

/// Kind of input.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    #[default]
    Text,
    Image,
    Audio,
}

/// Vectors in the order of the input.
#[derive(Debug, Serialize, ToSchema)]
pub struct InfinityEmbeddingResponse {
    #[schema(example = "list")]
    object: &'static str,
    data: Vec<OpenAiEmbedding>,
    #[schema(example = "all-MiniLM-L6-v2")]
    model: String,
    usage: OpenAiUsage,
    /// The request's id, which the logs have too.
    #[schema(example = "0193f0a1-6a2e-7a8b-9d5e-3f1d2c4b5a69")]
    id: String,
    /// Unix time at which this ragway first told of its models.
    #[schema(example = 1767225600)]
    created: u64,
}

/// The models that can be used.
#[derive(Debug, Serialize, ToSchema)]
pub struct InfinityModels {
    #[schema(example = "list")]
    object: &'static str,
    data: Vec<InfinityModel>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub struct InfinityModel {
    #[schema(example = "all-MiniLM-L6-v2")]
    id: String,
    #[schema(example = "model")]
    object: &'static str,
    /// Unix time at which this ragway first told of its models.
    #[schema(example = 1767225600)]
    created: u64,
    #[schema(example = "ragway")]
    owned_by: &'static str,
    #[schema(example = "candle")]
    backend: &'static str,
    #[schema(example = json!(["embed"]))]
    capabilities: Vec<&'static str>,
    /// Always empty: `/metrics` has ragway's figures.
    #[schema(value_type = Object)]
    stats: serde_json::Map<String, serde_json::Value>,
}

/// Create embeddings (Infinity)
///
/// As OpenAI's, with a `modality`.
#[utoipa::path(tag = "infinity", operation_id = "infinity_embeddings", request_body = InfinityEmbeddingRequest, responses(
    (status = 200, description = "The vectors", body = InfinityEmbeddingResponse),
    (status = 400, description = "Malformed JSON, an empty text, too many texts or images, an image URL, audio, or a length that the model does not have", body = OpenAiErrorBody),
    (status = 404, description = "No such model", body = OpenAiErrorBody),
    (status = 413, description = "The body is too large", body = OpenAiErrorBody),
    (status = 422, description = "The model reads no images, or an image cannot be read", body = OpenAiErrorBody),
    (status = 429, description = "Too much work is queued; `Retry-After` says when to try again", body = OpenAiErrorBody),
    (status = 503, description = "The model is not loaded", body = OpenAiErrorBody),
    (status = 504, description = "Not done within `http.request_timeout_ms`", body = OpenAiErrorBody),
))]
#[post("/embeddings")]
pub async fn embeddings(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: Result<web::Json<InfinityEmbeddingRequest>, actix_web::Error>,
) -> Result<web::Json<InfinityEmbeddingResponse>, OpenAiError> {
    let request = body?.into_inner();
    let named = request.model.filter(|model| model != ANY_MODEL);
    let choice = match (named, request.modality) {
        (_, Modality::Audio) => {
            let detail = "modality: audio is not read here; `text` and `image` are";
            return Err(OpenAiError::about(ApiError::invalid(detail), "modality"));
        }
        (Some(model), _) => choice(gateway.rag.catalog(), &model),
        (None, Modality::Image) => EmbedderChoice::Type(IMAGE_ROUTE.to_owned()),
        (None, Modality::Text) => EmbedderChoice::Type(TEXT_ROUTE.to_owned()),
    };
    let dimensions = request.dimensions.filter(|dimensions| *dimensions > 0);
    let embedded = match request.modality {
        Modality::Image => embed_images(caller, &gateway, &choice, request.input, dimensions).await?,
        Modality::Text | Modality::Audio => {
            embed_input(caller, &gateway, &choice, request.input, dimensions).await?
        }
    };
    Ok(web::Json(InfinityEmbeddingResponse {
        object: "list",
        data: encode(embedded.vectors, request.encoding_format),
        model: embedded.space.model,
        usage: OpenAiUsage::of(embedded.tokens),
        id: request_id(),
        created: first_told(),
    }))
}

async fn embed_images(
    caller: Caller,
    gateway: &Gateway,
    choice: &EmbedderChoice,
    input: TextInput,
    dimensions: Option<usize>,
) -> Result<Embedded, OpenAiError> {
    let about_input = |error: ApiError| OpenAiError::about(error.renamed("images", "input"), "input");
    let texts = input.texts().map_err(about_input)?;
    let images =
        texts.iter().enumerate().map(|(index, text)| images::parse(&format!("input[{index}]"), text));
    let images = images.collect::<Result<_, _>>().map_err(about_input)?;
    let length = wanted_length(gateway, choice, dimensions).await?;
    let work = gateway.rag.embed_images(caller, choice, images);
    let mut embedded = gateway.within_time(work).await.map_err(about_input)?;
    cut(&mut embedded.vectors, length);
    Ok(embedded)
}

/// List models (Infinity)
///
/// The embedders of models.toml that can be asked for.
#[utoipa::path(tag = "infinity", operation_id = "infinity_models", responses(
    (status = 200, description = "The models", body = InfinityModels),
    (status = 500, description = "Something failed inside", body = OpenAiErrorBody),
))]
#[get("/models")]
pub async fn models(gateway: web::Data<Gateway>) -> web::Json<InfinityModels> {
    let model = |id: String| {
        let kind = gateway.rag.catalog().embedder(&id).map(|entry| entry.kind);
        InfinityModel {
            id,
            object: "model",
            created: first_told(),
            owned_by: "ragway",
            backend: if kind == Some(EmbedderKind::Remote) { "remote" } else { "candle" },
            capabilities: match kind {
                Some(EmbedderKind::Clip) => vec!["embed", "image_embed"],
                Some(EmbedderKind::Bert | EmbedderKind::Remote) | None => vec!["embed"],
            },
            stats: serde_json::Map::new(),
        }
    };
    web::Json(InfinityModels {
        object: "list",
        data: served_models(&gateway).into_iter().map(model).collect(),
    })
}
