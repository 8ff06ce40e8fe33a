//! Probes, metrics, version.

use actix_web::{HttpResponse, get, http::StatusCode, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Gateway,
    error::{ApiError, Problem},
};
use crate::{
    models::{
        embedders::{ModelState, RouteStatus},
        router::{BackendStatus, BreakerState},
    },
    rag::Caller,
};

/// How ragway is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `healthy` or `unhealthy`.
    #[schema(example = "healthy")]
    status: &'static str,
    /// `connected` or `unavailable`.
    #[schema(example = "connected")]
    database: &'static str,
    /// The embedder of the route `text-embedding`.
    #[schema(example = "all-MiniLM-L6-v2")]
    model: String,
    /// Model types with the models that serve them.
    models: Vec<RouteHealth>,
    /// Answer backends, and whether the last attempt succeeded.
    answers: Vec<BackendHealth>,
}

/// A model type and its model.
#[derive(Debug, Serialize, ToSchema)]
pub struct RouteHealth {
    #[schema(example = "text-embedding")]
    model_type: String,
    /// Null until the first request chooses one.
    #[schema(example = "all-MiniLM-L6-v2")]
    model: Option<String>,
    /// `loaded`, `loading`, `waiting` for the first request, or `failed`.
    #[schema(example = "loaded")]
    state: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl From<RouteStatus> for RouteHealth {
    fn from(route: RouteStatus) -> Self {
        let (state, detail) = match route.state {
            ModelState::Waiting => ("waiting", None),
            ModelState::Loading => ("loading", None),
            ModelState::Loaded => ("loaded", None),
            ModelState::Failed(detail) => ("failed", Some(detail)),
        };
        Self { model_type: route.model_type, model: route.model, state, detail }
    }
}

/// An answer backend.
#[derive(Debug, Serialize, ToSchema)]
pub struct BackendHealth {
    model: String,
    /// Whether the last request to it succeeded; true before the first.
    healthy: bool,
    /// `closed`: asked in its turn; `open`: only when no other is left; `half_open`: one request tries it.
    #[schema(example = "closed")]
    breaker: &'static str,
    /// Requests under way and waiting.
    #[schema(example = 0)]
    load: usize,
}

impl From<BackendStatus> for BackendHealth {
    fn from(status: BackendStatus) -> Self {
        let breaker = match status.breaker {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half_open",
        };
        Self { model: status.name, healthy: status.healthy, breaker, load: status.load }
    }
}

/// Ready, with what is loaded.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ready {
    #[schema(example = "ready")]
    status: &'static str,
    /// A model that is missing or waits for its first request does not keep the others from serving.
    models: Vec<RouteHealth>,
}

/// A probe's answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Probe {
    #[schema(example = "alive")]
    status: &'static str,
}

/// Which ragway this is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Version {
    #[schema(example = "ragway")]
    name: &'static str,
    #[schema(example = "0.1.0")]
    version: &'static str,
}

/// Health
///
/// 503 when the database does not answer. Failing answer backends are shown but do not make ragway
/// unhealthy: the extractive answer stands in.
#[utoipa::path(tag = "operation", responses(
    (status = 200, description = "Healthy", body = Health),
    (status = 503, description = "Unhealthy", body = Health),
))]
#[get("/health")]
pub async fn health(gateway: web::Data<Gateway>) -> HttpResponse {
    let connected = gateway.rag.store().ping().await.is_ok();
    let body = Health {
        status: if connected { "healthy" } else { "unhealthy" },
        database: if connected { "connected" } else { "unavailable" },
        model: gateway.text_model(),
        models: routes(&gateway),
        answers: gateway.rag.answers().status().into_iter().map(BackendHealth::from).collect(),
    };
    let status = if connected { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    HttpResponse::build(status).json(body)
}

/// Liveness
///
/// The process serves requests.
#[utoipa::path(tag = "operation", responses((status = 200, description = "Alive", body = Probe)))]
#[get("/health/live")]
pub async fn live() -> web::Json<Probe> {
    web::Json(Probe { status: "alive" })
}

/// Readiness
///
/// The database answers, and the model of the default collection is loaded.
#[utoipa::path(tag = "operation", responses(
    (status = 200, description = "Ready", body = Ready),
    (status = 409, description = "The default collection is of another space", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable, or the model is missing", body = Problem, content_type = "application/problem+json"),
))]
#[get("/health/ready")]
pub async fn ready(gateway: web::Data<Gateway>) -> Result<web::Json<Ready>, ApiError> {
    gateway.rag.check_ready(Caller::DEFAULT.tenant).await?;
    Ok(web::Json(Ready { status: "ready", models: routes(&gateway) }))
}

fn routes(gateway: &Gateway) -> Vec<RouteHealth> {
    gateway.rag.embedders().routes().map(RouteHealth::from).collect()
}

/// Metrics
///
/// In the Prometheus text format.
#[utoipa::path(tag = "operation", responses((status = 200, description = "The metrics", body = String, content_type = "text/plain")))]
#[get("/metrics")]
pub async fn metrics(gateway: web::Data<Gateway>) -> Result<HttpResponse, ApiError> {
    let text = gateway.metrics.render(&gateway.rag).map_err(|error| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", error.to_string())
    })?;
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text))
}

/// Version
///
/// Name and version of this build.
#[utoipa::path(tag = "operation", responses((status = 200, description = "The version", body = Version)))]
#[get("/version")]
pub async fn version() -> web::Json<Version> {
    web::Json(Version { name: "ragway", version: env!("CARGO_PKG_VERSION") })
}
