//! `/embed`: texts in, vectors out.

use actix_web::{HttpResponse, post, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Elapsed, Gateway,
    error::{ApiError, Problem},
    tasks::{TaskAccepted, accepted},
};
use crate::{
    config::TEXT_ROUTE,
    models::TextRole,
    rag::embed::{Embedded, EmbedderChoice},
    store::TenantId,
};

/// Texts for the text route or for a named model.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbedRequest {
    /// One vector is made for each.
    #[schema(example = json!(["When does the first ferry leave?"]))]
    texts: Vec<String>,
    /// Absent: the model of the route `text-embedding`.
    #[schema(example = "all-MiniLM-L6-v2")]
    model_name: Option<String>,
}

/// Texts for the model type in the path.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TypedEmbedRequest {
    /// One vector is made for each.
    #[schema(example = json!(["When does the first ferry leave?"]))]
    texts: Vec<String>,
}

/// Vectors in the order of the texts.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbedResponse {
    /// One vector a text.
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

/// Embed texts
///
/// Makes one vector a text, with the model of the route `text-embedding` or with `model_name`.
#[utoipa::path(tag = "embed", responses(
    (status = 200, description = "The vectors", body = EmbedResponse),
    (status = 400, description = "Malformed JSON, an empty text, too many texts, or an unknown model", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too much work is queued; `Retry-After` says when to try again", body = Problem, content_type = "application/problem+json"),
    (status = 504, description = "Not done within `http.request_timeout_ms`", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/embed")]
pub async fn embed(
    gateway: web::Data<Gateway>,
    body: web::Json<EmbedRequest>,
) -> Result<web::Json<EmbedResponse>, ApiError> {
    let (choice, texts) = body.into_inner().parts();
    respond(&gateway, choice, texts).await
}

/// Embed texts later
///
/// Takes the same as `/api/v1/embed` and answers at once with a task. `GET /api/v1/tasks/{task_id}` has
/// the vectors when it is done.
#[utoipa::path(tag = "embed", responses(
    (status = 202, description = "Queued; `Location` is where to ask", body = TaskAccepted),
    (status = 400, description = "Malformed JSON, an empty text, too many texts, or an unknown model", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too many tasks are queued; `Retry-After` says when to try again", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/embed/async")]
pub async fn embed_async(
    gateway: web::Data<Gateway>,
    body: web::Json<EmbedRequest>,
) -> Result<HttpResponse, ApiError> {
    let (choice, texts) = body.into_inner().parts();
    Ok(accepted(gateway.rag.embed_later(TenantId::DEFAULT, &choice, texts).await?))
}

/// Embed with the model of a type
///
/// Model types are the names under `[routes.embed]` in models.toml.
#[utoipa::path(tag = "embed", params(("model_type", description = "A model type", example = "text-embedding")), responses(
    (status = 200, description = "The vectors", body = EmbedResponse),
    (status = 400, description = "Unknown model type, malformed JSON, an empty text, or too many texts", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too much work is queued", body = Problem, content_type = "application/problem+json"),
    (status = 504, description = "Not done within `http.request_timeout_ms`", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/embed/{model_type}")]
pub async fn embed_typed(
    gateway: web::Data<Gateway>,
    model_type: web::Path<String>,
    body: web::Json<TypedEmbedRequest>,
) -> Result<web::Json<EmbedResponse>, ApiError> {
    respond(&gateway, EmbedderChoice::Type(model_type.into_inner()), body.into_inner().texts).await
}

/// Embed with the model of a type (short path)
///
/// The same as `/api/v1/embed/{model_type}`.
#[utoipa::path(tag = "embed", params(("model_type", description = "A model type", example = "text-embedding")), responses(
    (status = 200, description = "The vectors", body = EmbedResponse),
    (status = 400, description = "Unknown model type, malformed JSON, an empty text, or too many texts", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too much work is queued", body = Problem, content_type = "application/problem+json"),
    (status = 504, description = "Not done within `http.request_timeout_ms`", body = Problem, content_type = "application/problem+json"),
))]
#[post("/embed/{model_type}")]
pub async fn embed_short(
    gateway: web::Data<Gateway>,
    model_type: web::Path<String>,
    body: web::Json<TypedEmbedRequest>,
) -> Result<web::Json<EmbedResponse>, ApiError> {
    respond(&gateway, EmbedderChoice::Type(model_type.into_inner()), body.into_inner().texts).await
}

impl EmbedRequest {
    fn parts(self) -> (EmbedderChoice, Vec<String>) {
        let choice = match self.model_name {
            Some(name) => EmbedderChoice::Model(name),
            None => EmbedderChoice::Type(TEXT_ROUTE.to_owned()),
        };
        (choice, self.texts)
    }
}

impl EmbedResponse {
    pub fn new(embedded: Embedded, elapsed_time: Elapsed) -> Self {
        Self {
            count: embedded.vectors.len(),
            dimension: embedded.space.dimension,
            embeddings: embedded.vectors,
            model: embedded.space.model,
            space: embedded.space.id,
            truncated: embedded.truncated,
            elapsed_time,
        }
    }
}

async fn respond(
    gateway: &Gateway,
    choice: EmbedderChoice,
    texts: Vec<String>,
) -> Result<web::Json<EmbedResponse>, ApiError> {
    let elapsed = Elapsed::start();
    let embedded = gateway.within_time(gateway.rag.embed(&choice, texts, TextRole::Passage)).await?;
    Ok(web::Json(EmbedResponse::new(embedded, elapsed)))
}
