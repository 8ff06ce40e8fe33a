//! `/embed`: texts or images in, vectors out.

use actix_web::{HttpRequest, HttpResponse, post, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Elapsed, Gateway,
    error::{ApiError, Problem},
    images::{self, EmbedInput, ImageForm, TypedEmbedRequest},
    tasks::{TaskAccepted, accepted},
};
use crate::{
    config::TEXT_ROUTE,
    models::TextRole,
    rag::{
        Caller, RagError,
        embed::{Embedded, EmbedderChoice},
    },
};

/// Texts for the text route, for a named model, or for a model type.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbedRequest {
    /// One vector is made for each.
    #[schema(example = json!(["When does the first ferry leave?"]))]
    texts: Vec<String>,
    /// Absent: the model of the route `text-embedding`.
    #[schema(example = "all-MiniLM-L6-v2")]
    model_name: Option<String>,
    /// Instead of `model_name`: a name under `[routes.embed]` in models.toml.
    model_type: Option<String>,
    /// False: a text longer than the model reads is refused. True: its beginning counts.
    #[serde(default = "images::yes")]
    #[schema(default = true)]
    truncate: bool,
}

/// Vectors in the order of the texts or images.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbedResponse {
    /// One vector a text or image.
    embeddings: Vec<Vec<f32>>,
    /// How many.
    #[schema(example = 1)]
    count: usize,
    /// Length of each.
    #[schema(example = 384)]
    dimension: usize,
    /// Seconds.
    #[schema(value_type = f64, example = 0.012)]
    elapsed_time: Elapsed,
    /// The model that made them.
    #[schema(example = "all-MiniLM-L6-v2")]
    model: String,
    /// Vectors are comparable only within one space.
    #[schema(example = "all-MiniLM-L6-v2@53aa51172d14:mean:l2:fp32")]
    space: String,
    /// Indices of texts longer than the model reads: only their beginning counted.
    truncated: Vec<usize>,
}

/// Vectors in the order of the texts, each of length 1.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchEmbedResponse {
    #[serde(flatten)]
    embedded: EmbedResponse,
    /// Most texts that the model got at once: 64, or fewer where others waited for it.
    #[schema(example = 1)]
    batch_size: usize,
}

/// Vectors in the order of the texts.
#[derive(Debug, Serialize, ToSchema)]
pub struct CachedEmbedResponse {
    #[serde(flatten)]
    embedded: EmbedResponse,
    /// Indices of texts whose vectors were in the cache.
    #[schema(example = json!([0]))]
    cached: Vec<usize>,
}

/// Embed texts
///
/// Makes one vector a text, with the model of the route `text-embedding`, with `model_name`, or
/// with the model of `model_type`.
#[utoipa::path(tag = "embed", responses(
    (status = 200, description = "The vectors", body = EmbedResponse),
    (status = 400, description = "Malformed JSON, an empty text, too many texts, or an unknown model", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "`truncate` is false and a text is too long: `detail` names it and the limit", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too much work is queued; `Retry-After` says when to try again", body = Problem, content_type = "application/problem+json"),
    (status = 504, description = "Not done within `http.request_timeout_ms`", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/embed")]
pub async fn embed(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: web::Json<EmbedRequest>,
) -> Result<web::Json<EmbedResponse>, ApiError> {
    Ok(web::Json(respond(caller, &gateway, body.into_inner().wanted()?).await?))
}

/// Embed texts later
///
/// Takes the same as `/api/v1/embed` and answers at once with a task. `GET /api/v1/tasks/{task_id}` has
/// the vectors when it is done.
#[utoipa::path(tag = "embed", responses(
    (status = 202, description = "Queued; `Location` is where to ask", body = TaskAccepted),
    (status = 400, description = "Malformed JSON, an empty text, too many texts, or an unknown model", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "`truncate` is false and a text is too long: `detail` names it and the limit", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too many tasks are queued; `Retry-After` says when to try again", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/embed/async")]
pub async fn embed_async(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: web::Json<EmbedRequest>,
) -> Result<HttpResponse, ApiError> {
    let wanted = body.into_inner().wanted()?.checked(&gateway).await?;
    Ok(accepted(gateway.rag.embed_later(caller, &wanted.choice, wanted.texts).await?))
}

/// Embed many texts
///
/// For bulk work: it yields to other requests. The model gets 64 texts at once when nobody else
/// waits for it, and 64 / (1 + the requests that wait), at least 8, when it is busy. Every vector
/// has length 1, whatever the model does.
#[utoipa::path(tag = "embed", responses(
    (status = 200, description = "The vectors", body = BatchEmbedResponse),
    (status = 400, description = "Malformed JSON, an empty text, too many texts, or an unknown model", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "`truncate` is false and a text is too long: `detail` names it and the limit", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too much work is queued; `Retry-After` says when to try again", body = Problem, content_type = "application/problem+json"),
    (status = 504, description = "Not done within `http.request_timeout_ms`", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/embed/batch")]
pub async fn embed_batch(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: web::Json<EmbedRequest>,
) -> Result<web::Json<BatchEmbedResponse>, ApiError> {
    let elapsed = Elapsed::start();
    let wanted = body.into_inner().wanted()?;
    let work = async {
        let wanted = wanted.checked(&gateway).await?;
        gateway.rag.embed_batch(caller, &wanted.choice, wanted.texts, TextRole::Passage).await
    };
    let batch = gateway.within_time(work).await?;
    let embedded = EmbedResponse::new(batch.embedded, elapsed);
    Ok(web::Json(BatchEmbedResponse { embedded, batch_size: batch.batch_size }))
}

/// Embed texts, remembering them
///
/// A text that was asked for here before is not computed again for an hour (`[cache]` in
/// models.toml), nor one that another request is computing. With `REDIS_URL` all replicas share
/// what they computed.
#[utoipa::path(tag = "embed", responses(
    (status = 200, description = "The vectors", body = CachedEmbedResponse),
    (status = 400, description = "Malformed JSON, an empty text, too many texts, or an unknown model", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "`truncate` is false and a text is too long: `detail` names it and the limit", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too much work is queued; `Retry-After` says when to try again", body = Problem, content_type = "application/problem+json"),
    (status = 504, description = "Not done within `http.request_timeout_ms`", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/embed/cached")]
pub async fn embed_cached(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: web::Json<EmbedRequest>,
) -> Result<web::Json<CachedEmbedResponse>, ApiError> {
    let elapsed = Elapsed::start();
    let wanted = body.into_inner().wanted()?;
    let work = async {
        let wanted = wanted.checked(&gateway).await?;
        gateway.rag.embed_cached(caller, &wanted.choice, wanted.texts, TextRole::Passage).await
    };
    let cached = gateway.within_time(work).await?;
    let embedded = EmbedResponse::new(cached.embedded, elapsed);
    Ok(web::Json(CachedEmbedResponse { embedded, cached: cached.hits }))
}

/// Embed with the model of a type
///
/// Model types are the names under `[routes.embed]` in models.toml. Texts or images are taken as JSON, images
/// also as parts `image` of a form; a model that reads images puts both into one space.
#[utoipa::path(tag = "embed", params(("model_type", description = "A model type", example = "text-embedding")),
    request_body(content((TypedEmbedRequest = "application/json"), (ImageForm = "multipart/form-data"))), responses(
    (status = 200, description = "The vectors", body = EmbedResponse),
    (status = 400, description = "Unknown model type, malformed JSON or form, an empty text, too many texts or images, an image URL", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
    (status = 415, description = "Neither JSON nor a form", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The model reads no images, an image cannot be read, or `truncate` is false and a text is too long", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too much work is queued; `Retry-After` says when to try again", body = Problem, content_type = "application/problem+json"),
    (status = 504, description = "Not done within `http.request_timeout_ms`", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/embed/{model_type}")]
pub async fn embed_typed(
    caller: Caller,
    gateway: web::Data<Gateway>,
    model_type: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<web::Json<EmbedResponse>, ApiError> {
    let input = images::read(&gateway, &request, payload).await?;
    respond_typed(caller, &gateway, EmbedderChoice::Type(model_type.into_inner()), input).await
}

/// Embed with the model of a type (short path)
///
/// The same as `/api/v1/embed/{model_type}`.
#[utoipa::path(tag = "embed", params(("model_type", description = "A model type", example = "text-embedding")),
    request_body(content((TypedEmbedRequest = "application/json"), (ImageForm = "multipart/form-data"))), responses(
    (status = 200, description = "The vectors", body = EmbedResponse),
    (status = 400, description = "Unknown model type, malformed JSON or form, an empty text, too many texts or images, an image URL", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
    (status = 415, description = "Neither JSON nor a form", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The model reads no images, an image cannot be read, or `truncate` is false and a text is too long", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too much work is queued; `Retry-After` says when to try again", body = Problem, content_type = "application/problem+json"),
    (status = 504, description = "Not done within `http.request_timeout_ms`", body = Problem, content_type = "application/problem+json"),
))]
#[post("/embed/{model_type}")]
pub async fn embed_short(
    caller: Caller,
    gateway: web::Data<Gateway>,
    model_type: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<web::Json<EmbedResponse>, ApiError> {
    let input = images::read(&gateway, &request, payload).await?;
    respond_typed(caller, &gateway, EmbedderChoice::Type(model_type.into_inner()), input).await
}

/// What a request asks for.
struct Wanted {
    choice: EmbedderChoice,
    texts: Vec<String>,
    truncate: bool,
}

impl EmbedRequest {
    fn wanted(self) -> Result<Wanted, ApiError> {
        let choice = match (self.model_name, self.model_type) {
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid("give model_name or model_type, not both"));
            }
            (Some(name), None) => EmbedderChoice::Model(name),
            (None, Some(name)) => EmbedderChoice::Type(name),
            (None, None) => EmbedderChoice::Type(TEXT_ROUTE.to_owned()),
        };
        Ok(Wanted { choice, texts: self.texts, truncate: self.truncate })
    }
}

impl Wanted {
    async fn checked(self, gateway: &Gateway) -> Result<Self, RagError> {
        if !self.truncate {
            gateway.rag.refuse_overlong(&self.choice, &self.texts, TextRole::Passage).await?;
        }
        Ok(self)
    }
}

async fn respond(caller: Caller, gateway: &Gateway, wanted: Wanted) -> Result<EmbedResponse, ApiError> {
    let elapsed = Elapsed::start();
    let work = async {
        let wanted = wanted.checked(gateway).await?;
        gateway.rag.embed(caller, &wanted.choice, wanted.texts, TextRole::Passage).await
    };
    Ok(EmbedResponse::new(gateway.within_time(work).await?, elapsed))
}

impl EmbedResponse {
    pub fn new(embedded: Embedded, elapsed: Elapsed) -> Self {
        Self {
            count: embedded.vectors.len(),
            dimension: embedded.space.dimension,
            embeddings: embedded.vectors,
            model: embedded.space.model,
            space: embedded.space.id,
            truncated: embedded.truncated,
            elapsed_time: elapsed,
        }
    }
}

async fn respond_typed(
    caller: Caller,
    gateway: &Gateway,
    choice: EmbedderChoice,
    input: EmbedInput,
) -> Result<web::Json<EmbedResponse>, ApiError> {
    let response = match input {
        EmbedInput::Texts { texts, truncate } => {
            respond(caller, gateway, Wanted { choice, texts, truncate }).await?
        }
        EmbedInput::Images(images) => {
            let elapsed = Elapsed::start();
            let embedded = gateway.within_time(gateway.rag.embed_images(caller, &choice, images)).await?;
            EmbedResponse::new(embedded, elapsed)
        }
    };
    Ok(web::Json(response))
}
