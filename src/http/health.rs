//! Probes, metrics, version.

use std::time::{Duration, Instant};

use actix_web::{HttpResponse, get, http::StatusCode, web};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::{
    Gateway,
    error::{ApiError, Problem},
};
use crate::{
    models::{
        deadline::Deadline,
        embedders::{ModelState, RouteStatus},
        router::{BackendStatus, BreakerState},
    },
    rag::{Caller, Rag},
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
    /// What is wrong, where something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
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

impl Probe {
    pub const ALIVE: Self = Self { status: "alive" };
}

/// Which ragway this is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Version {
    #[schema(example = "ragway")]
    name: &'static str,
    #[schema(example = "0.1.0")]
    version: &'static str,
}

/// How long what was found out is told again, so that many probes cost no more than one.
const HELD: Duration = Duration::from_secs(1);
/// Longest wait for the database, and for the rest.
const LIMIT: Duration = Duration::from_secs(2);

/// What was last found out; who asks meanwhile waits for the same.
#[derive(Default)]
pub struct Checked {
    last: Mutex<Option<(Instant, Condition)>>,
}

/// What requests meet.
#[derive(Clone)]
struct Condition {
    database: Result<(), ApiError>,
    /// The database too.
    all: Result<(), ApiError>,
}

impl Checked {
    async fn condition(&self, rag: &Rag) -> Condition {
        let mut last = self.last.lock().await;
        if let Some((_, condition)) = last.as_ref().filter(|(at, _)| at.elapsed() < HELD) {
            return condition.clone();
        }
        let condition = Condition::find_out(rag).await;
        *last = Some((Instant::now(), condition.clone()));
        condition
    }
}

impl Condition {
    async fn find_out(rag: &Rag) -> Self {
        let pinged = Deadline::after(LIMIT).hold(rag.store().ping()).await;
        let database = pinged.map_or_else(|| Err(unanswered()), |pinged| Ok(pinged?));
        if database.is_err() {
            return Self { all: database.clone(), database };
        }
        let checked = Deadline::after(LIMIT).hold(rag.check_ready(Caller::DEFAULT.tenant)).await;
        Self { database, all: checked.map_or_else(|| Err(unanswered()), |checked| Ok(checked?)) }
    }
}

fn unanswered() -> ApiError {
    let detail = format!("the database did not answer within {} s", LIMIT.as_secs());
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", detail).retry_after(2)
}

/// That requests can be served; 503 with the reason where they cannot.
async fn check_ready(gateway: &Gateway) -> Result<(), ApiError> {
    if gateway.shutdown.is_leaving() {
        let detail = "this server stops; ask another one";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", detail).retry_after(1));
    }
    check_alive(gateway)?;
    gateway.condition.condition(&gateway.rag).await.all
}

fn check_alive(gateway: &Gateway) -> Result<(), ApiError> {
    gateway.rag.check_alive().map_err(|error| {
        tracing::error!(%error, "this process has to be started again: {error}");
        let detail = format!("{error}; this process has to be started again");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "model_stuck", detail).retry_after(10)
    })
}

/// Health
///
/// All in one: 503 when the database does not answer, the model of the default collection makes no
/// vector, a model's thread is dead or stuck, or the server stops. Failing answer backends are shown but
/// do not make ragway unhealthy: the extractive answer stands in. What is told is up to a second old.
#[utoipa::path(tag = "operation", responses(
    (status = 200, description = "Healthy", body = Health),
    (status = 503, description = "Unhealthy", body = Health),
))]
#[get("/health")]
pub async fn health(gateway: web::Data<Gateway>) -> HttpResponse {
    let checked = check_ready(&gateway).await;
    let connected = gateway.condition.condition(&gateway.rag).await.database.is_ok();
    let body = Health {
        status: if checked.is_ok() { "healthy" } else { "unhealthy" },
        database: if connected { "connected" } else { "unavailable" },
        detail: checked.as_ref().err().map(|error| error.detail().to_owned()),
        model: gateway.text_model(),
        models: routes(&gateway),
        answers: gateway.rag.answers().status().into_iter().map(BackendHealth::from).collect(),
    };
    let status = if checked.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    HttpResponse::build(status).json(body)
}

/// Liveness
///
/// The process serves requests, and no thread of its models is dead or stuck. A database that is away
/// does not change it: starting again would not bring that back.
#[utoipa::path(tag = "operation", responses(
    (status = 200, description = "Alive", body = Probe),
    (status = 503, description = "Only starting the process again helps", body = Problem, content_type = "application/problem+json"),
))]
#[get("/health/live")]
pub async fn live(gateway: web::Data<Gateway>) -> Result<web::Json<Probe>, ApiError> {
    check_alive(&gateway)?;
    Ok(web::Json(Probe::ALIVE))
}

/// Readiness
///
/// The database answers, and the model of the default collection makes a vector of a word. Off as soon as
/// the server is told to stop. What is told is up to a second old.
#[utoipa::path(tag = "operation", responses(
    (status = 200, description = "Ready", body = Ready),
    (status = 409, description = "The default collection is of another space", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable, the model is missing, or the server stops", body = Problem, content_type = "application/problem+json"),
))]
#[get("/health/ready")]
pub async fn ready(gateway: web::Data<Gateway>) -> Result<web::Json<Ready>, ApiError> {
    check_ready(&gateway).await?;
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
