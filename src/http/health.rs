//! Probes, metrics, version.

use actix_web::{HttpResponse, get, http::StatusCode, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Gateway,
    error::{ApiError, Problem},
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
    /// Answer backends, and whether the last attempt succeeded.
    answers: Vec<BackendHealth>,
}

/// An answer backend.
#[derive(Debug, Serialize, ToSchema)]
pub struct BackendHealth {
    model: String,
    healthy: bool,
}

/// A probe's answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Probe {
    #[schema(example = "ready")]
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
        answers: gateway
            .rag
            .answers()
            .health()
            .into_iter()
            .map(|(model, healthy)| BackendHealth { model, healthy })
            .collect(),
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
/// The database answers, and the loaded model is that of the default collection.
#[utoipa::path(tag = "operation", responses(
    (status = 200, description = "Ready", body = Probe),
    (status = 409, description = "The default collection is of another space", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[get("/health/ready")]
pub async fn ready(gateway: web::Data<Gateway>) -> Result<web::Json<Probe>, ApiError> {
    gateway.rag.check_ready(crate::store::TenantId::DEFAULT).await?;
    Ok(web::Json(Probe { status: "ready" }))
}

/// Metrics
///
/// In the Prometheus text format.
#[utoipa::path(tag = "operation", responses((status = 200, description = "The metrics", body = String, content_type = "text/plain")))]
#[get("/metrics")]
pub async fn metrics(gateway: web::Data<Gateway>) -> Result<HttpResponse, ApiError> {
    let connections = i64::from(gateway.rag.store().active_connections());
    gateway.metrics.db_connections.set(connections);
    let text = gateway.metrics.render(&gateway.rag.cache().counts()).map_err(|error| {
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
