//! What every request gets: an id, a span, a log line, and its metrics.

use std::time::Instant;

use actix_web::{
    Error,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{HeaderName, HeaderValue},
    middleware::Next,
    web,
};
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::Gateway;
use crate::telemetry::ACCESS;

/// Header with a request's id, in and out.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_ID_BYTES: usize = 64;

tokio::task_local! {
    static CURRENT_ID: String;
}

/// The id of the request being served; empty outside of one.
pub fn request_id() -> String {
    CURRENT_ID.try_with(Clone::clone).unwrap_or_default()
}

/// What a request is known by, for work that goes on in a task of its own.
#[derive(Clone)]
pub struct RequestScope {
    id: String,
    span: Span,
}

impl RequestScope {
    /// That of the request being served.
    pub fn current() -> Self {
        Self { id: request_id(), span: Span::current() }
    }

    /// Lets the work be logged and answered under the request's id.
    pub async fn hold<T>(self, work: impl Future<Output = T>) -> T {
        CURRENT_ID.scope(self.id, work).instrument(self.span).await
    }
}

/// Middleware around everything.
pub async fn observe(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let started = Instant::now();
    let id = incoming_id(&request).unwrap_or_else(|| Uuid::now_v7().to_string());
    let method = request.method().clone();
    let path = request.path().to_owned();
    let gateway = request.app_data::<web::Data<Gateway>>().cloned();
    let span = tracing::info_span!(
        "request",
        request_id = %id,
        %method,
        path,
        endpoint = tracing::field::Empty,
        status = tracing::field::Empty,
    );
    let called = CURRENT_ID.scope(id.clone(), next.call(request)).instrument(span.clone()).await;
    let mut response = called?;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    // The pattern, not the path: ids in a label would make a series for each document.
    let endpoint = response.request().match_pattern().unwrap_or_else(|| "unmatched".into());
    let (status, elapsed) = (response.status(), started.elapsed());
    if let Some(gateway) = gateway {
        gateway.metrics.requests.with_label_values(&[endpoint.as_str(), status.as_str()]).inc();
        gateway
            .metrics
            .request_seconds
            .with_label_values(&[endpoint.as_str()])
            .observe(elapsed.as_secs_f64());
    }
    span.record("endpoint", endpoint).record("status", status.as_u16());
    let elapsed_ms = elapsed.as_millis();
    span.in_scope(|| tracing::info!(target: ACCESS, "{method} {path}: {}, {elapsed_ms} ms", status.as_u16()));
    Ok(response)
}

/// A caller's own id is kept when it is harmless in logs and headers.
fn incoming_id(request: &ServiceRequest) -> Option<String> {
    let id = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (!id.is_empty() && id.len() <= MAX_ID_BYTES && id.chars().all(harmless)).then(|| id.to_owned())
}
