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
use prometheus::IntGauge;
use tracing::{
    Instrument, Span,
    field::{Empty, display},
};
use uuid::Uuid;

use super::{Gateway, caching::keep_private};
use crate::{
    rag::Caller,
    telemetry::{ACCESS, WORK, continue_trace, end_request},
};

/// Header with a request's id, in and out.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_ID_BYTES: usize = 64;

tokio::task_local! {
    static CURRENT: Current;
}

/// The request being served.
#[derive(Clone)]
struct Current {
    id: String,
    span: Span,
}

/// The id of the request being served; empty outside of one.
pub fn request_id() -> String {
    CURRENT.try_with(|current| current.id.clone()).unwrap_or_default()
}

/// Writes into the request's log lines whose it is.
pub fn note_caller(caller: Caller) {
    // Nothing outside of a request.
    let _ = CURRENT.try_with(|current| {
        current.span.record("tenant", display(caller.tenant.0));
    });
}

/// What a request is known by, for work that goes on in a task of its own.
#[derive(Clone)]
pub struct RequestScope {
    current: Option<Current>,
}

impl RequestScope {
    /// That of the request being served.
    pub fn current() -> Self {
        Self { current: CURRENT.try_with(Clone::clone).ok() }
    }

    /// Lets the work be logged and answered under the request's id.
    pub async fn hold<T>(self, work: impl Future<Output = T>) -> T {
        match self.current {
            Some(current) => {
                let span = current.span.clone();
                CURRENT.scope(current, work).instrument(span).await
            }
            None => work.await,
        }
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
        target: WORK,
        "request",
        otel.kind = Empty,
        request_id = %id,
        %method,
        path,
        trace_id = Empty,
        tenant = Empty,
        endpoint = Empty,
        status = Empty,
    );
    if let Some(trace_id) = continue_trace(&span, |name| request.headers().get(name)?.to_str().ok()) {
        span.record("trace_id", trace_id);
    }
    let under_way = gateway.as_ref().map(|gateway| UnderWay::enter(&gateway.metrics.requests_under_way));
    let current = Current { id: id.clone(), span: span.clone() };
    let mut response = CURRENT.scope(current, next.call(request)).instrument(span.clone()).await?;
    drop(under_way);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    keep_private(response.headers_mut());
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
    end_request(&span, method.as_str(), &endpoint, status.as_u16());
    span.record("endpoint", endpoint).record("status", status.as_u16());
    let elapsed_ms = elapsed.as_millis();
    span.in_scope(|| tracing::info!(target: ACCESS, "{method} {path}: {}, {elapsed_ms} ms", status.as_u16()));
    Ok(response)
}

/// A request that counts as under way until it is dropped, by a client that left as well.
struct UnderWay(IntGauge);

impl UnderWay {
    fn enter(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A caller's own id is kept when it is harmless in logs and headers.
fn incoming_id(request: &ServiceRequest) -> Option<String> {
    let id = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (!id.is_empty() && id.len() <= MAX_ID_BYTES && id.chars().all(harmless)).then(|| id.to_owned())
}
