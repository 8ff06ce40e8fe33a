//! The HTTP surface.
//!
//! | path | file |
//! |---|---|
//! | `/embed/{model_type}`, `/api/v1/embed…` | `embed` |
//! | `/api/v1/search` | `search` |
//! | `/api/v1/ask` | `ask` |
//! | `/api/v1/feedback` | `feedback` |
//! | `/api/v1/usage` | `usage` |
//! | `/mcp` | `mcp` |
//! | `/v1/…`, TEI's and Infinity's paths | `compat` |
//! | `/api/v1/documents…` | `documents`, `upload`, `images` |
//! | `/api/v1/collections…` | `collections`, `reembed` |
//! | `/api/v1/tasks…` | `tasks` |
//! | `/health…`, `/metrics`, `/version` | `health` |
//! | `/`, `/docs`, `/openapi.json` | `pages`, `openapi` |
//!
//! Middleware, outermost first: `observe` (id, spans, log, metrics), `shutdown`, CORS, `limits` of an address,
//! `access` (who may call what), `limits` of a caller. `audit` writes down what is administered.
//!
//! Absent here: SQL, models, prompts. Absent elsewhere: actix, utoipa, status codes.

mod access;
mod ask;
mod audit;
mod caching;
mod caller;
mod collections;
mod compat;
mod documents;
mod embed;
pub mod error;
mod extractors;
mod feedback;
mod fetch;
mod filters;
mod health;
mod images;
pub mod limits;
mod mcp;
mod observe;
pub mod openapi;
mod pages;
mod reembed;
mod reranking;
mod search;
mod shape;
mod shutdown;
mod sse;
pub mod starting;
mod tasks;
pub mod tls;
mod upload;
mod usage;
mod versions;

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use actix_cors::Cors;
use actix_web::{
    App, HttpRequest, HttpServer, ResponseError,
    dev::Server,
    http::header,
    middleware::{Condition, DefaultHeaders, from_fn},
    web,
};
use rustls::ServerConfig;
use serde::{Serialize, Serializer};

use crate::{
    access::Access,
    config::{CorsSettings, TEXT_ROUTE},
    metrics::Metrics,
    models::deadline::Deadline,
    rag::{Rag, RagError},
};
use error::ApiError;
use fetch::ImageFetcher;
use limits::Limiter;
pub use shutdown::Shutdown;

/// What handlers work with.
pub struct Gateway {
    pub rag: Rag,
    pub metrics: Metrics,
    /// Questions that the page offers.
    pub samples: Vec<String>,
    access: Access,
    limiter: Limiter,
    images: ImageFetcher,
    pub shutdown: Shutdown,
    condition: health::Checked,
}

/// Browsers that once came by HTTPS come by nothing else for a year.
const HSTS: (header::HeaderName, &str) = (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");

/// Starts serving on a bound listener.
pub fn serve(
    listener: TcpListener,
    gateway: Gateway,
    workers: usize,
    tls: Option<ServerConfig>,
) -> std::io::Result<Server> {
    let gateway = web::Data::new(gateway);
    let document = web::Data::new(openapi::document());
    let mcp = web::Data::new(mcp::Mcp::new(gateway.clone().into_inner()));
    let limit = gateway.rag.catalog().http.max_body_bytes;
    let encrypted = tls.is_some();
    let longest = gateway.rag.catalog().shutdown.limit() + shutdown::LAST_WORDS;
    let server = HttpServer::new(move || {
        let cors = cors(&gateway.rag.catalog().http.cors);
        let pages = document.clone();
        let known = document.clone();
        let mcp = mcp.clone();
        App::new()
            .app_data(gateway.clone())
            .app_data(extractors::json_config(limit))
            .app_data(extractors::query_config())
            .app_data(extractors::path_config())
            .app_data(web::PayloadConfig::new(limit))
            .wrap(from_fn(limits::of_caller))
            .wrap(from_fn(access::guard))
            .wrap(from_fn(limits::of_address))
            .wrap(cors)
            .wrap(from_fn(shutdown::bound))
            .wrap(from_fn(observe::observe))
            .wrap(Condition::new(encrypted, DefaultHeaders::new().add(HSTS)))
            .configure(openapi::routes)
            .configure(|config| pages::configure(config, pages))
            .configure(|config| mcp::configure(config, mcp))
            .default_service(web::to(move |request: HttpRequest| {
                let known = known.clone();
                async move { unmatched(&request, &known).error_response() }
            }))
    });
    // Without it a handler goes on after its client has left: see ARCHITECTURE, "Clients that leave".
    let server = server.h1_allow_half_closed(false);
    let server = server.workers(workers).disable_signals().shutdown_timeout(longest.as_secs() + 1);
    let server = match tls {
        // For clients that know HTTP/2 too.
        Some(tls) => server.listen_rustls_0_23(listener, tls)?,
        None => server.listen(listener)?,
    };
    Ok(server.run())
}

impl Gateway {
    /// `samples` are questions that the page offers.
    pub fn new(
        rag: Rag,
        access: Access,
        limiter: Limiter,
        metrics: Metrics,
        samples: Vec<String>,
    ) -> reqwest::Result<Self> {
        let images = ImageFetcher::new(&rag.catalog().http.image_urls)?;
        let (shutdown, condition) = (Shutdown::default(), health::Checked::default());
        Ok(Self { rag, metrics, samples, access, limiter, images, shutdown, condition })
    }

    /// Runs what a client waits for, at most `http.request_timeout_ms` long.
    async fn within_time<T>(&self, work: impl Future<Output = Result<T, RagError>>) -> Result<T, ApiError> {
        let limit = Duration::from_millis(self.rag.catalog().http.request_timeout_ms);
        let deadline = Deadline::after(limit);
        match deadline.hold(work).await {
            Some(result) => Ok(result?),
            None => Err(deadline.missed(self.text_model()).into()),
        }
    }

    /// Name of the embedder of texts.
    fn text_model(&self) -> String {
        let route = self.rag.embedders().routes().find(|route| route.model_type == TEXT_ROUTE);
        route.and_then(|route| route.model).unwrap_or_default()
    }
}

fn cors(settings: &CorsSettings) -> Cors {
    let mut cors = Cors::default()
        .allowed_methods(settings.methods.iter().map(String::as_str))
        .allowed_headers(settings.headers.iter().map(String::as_str))
        .expose_headers(["x-request-id", "retry-after", "etag", "www-authenticate"])
        .expose_headers(["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"])
        .max_age(3600);
    for origin in &settings.origins {
        cors =
            if origin == "*" { cors.allow_any_origin().send_wildcard() } else { cors.allowed_origin(origin) };
    }
    if settings.credentials { cors.supports_credentials() } else { cors }
}

/// 405 for a known path, else 404.
fn unmatched(request: &HttpRequest, document: &utoipa::openapi::OpenApi) -> Box<dyn ResponseError> {
    let (method, path) = (request.method().as_str(), request.path());
    let allowed = openapi::methods_of(document, path);
    let error = if allowed.is_empty() {
        ApiError::not_found(path)
    } else {
        ApiError::wrong_method(method, path, allowed.join(", "))
    };
    if path.starts_with("/v1/") { Box::new(compat::OpenAiError::from(error)) } else { Box::new(error) }
}

/// Seconds since the start of a request, with 3 decimals, read when the response is written.
#[derive(Debug, Clone, Copy)]
pub enum Elapsed {
    Since(Instant),
    Fixed(Duration),
}

impl Elapsed {
    fn start() -> Self {
        Elapsed::Since(Instant::now())
    }
}

impl Serialize for Elapsed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let elapsed = match self {
            Elapsed::Since(start) => start.elapsed(),
            Elapsed::Fixed(elapsed) => *elapsed,
        };
        serializer.serialize_f64((elapsed.as_secs_f64() * 1000.0).round() / 1000.0)
    }
}
