//! Traces by OpenTelemetry's protocol (OTLP over HTTP), and W3C Trace Context from and to other servers.
//!
//! Spans wait in a queue of bounded length and leave in batches from a thread of their own; what does not fit
//! into it is lost. Nothing that serves a request waits for a collector.

use std::{
    collections::HashMap,
    env,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::TextMapPropagator,
    trace::{Status, TraceContextExt, TracerProvider},
};
use opentelemetry_http::HeaderInjector;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, Registry, filter::filter_fn};

use super::{SPAN, TelemetryError, WORK, collector::Collector};

/// Where traces go; either one turns them on. The first is for traces alone, and is taken as it is.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];
/// The protocol's default time for a batch.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the collector at the end.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Whether this process sends traces.
static ON: AtomicBool = AtomicBool::new(false);

/// The way of spans to a collector.
pub(super) struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Nothing where the environment names no collector. Nothing is sent yet.
    pub fn start() -> Result<Option<Self>, TelemetryError> {
        let off = set("OTEL_SDK_DISABLED").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"))
            || set("OTEL_TRACES_EXPORTER").is_some_and(|(_, value)| value == "none");
        let Some((variable, endpoint)) = first_set(ENDPOINTS).filter(|_| !off) else { return Ok(None) };
        let endpoint = url::Url::parse(&endpoint).map_err(|error| wrong(variable, &error))?;
        if !["http", "https"].contains(&endpoint.scheme()) {
            return Err(wrong(variable, &"must begin with http:// or https://"));
        }
        check_protocol()?;
        check_sampler()?;
        let collector = Collector::new(&endpoint, timeout()?).map_err(exporter)?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(collector)
            .build()
            .map_err(exporter)?;
        let resource = Resource::builder();
        let resource = match set("OTEL_SERVICE_NAME") {
            Some(_) => resource,
            None => resource.with_service_name("ragway"),
        };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_batch_exporter(exporter)
            .build();
        ON.store(true, Ordering::Relaxed);
        Ok(Some(Self { provider }))
    }

    /// Takes the spans with the targets [`super::SPAN`] and [`super::WORK`], and no log lines.
    pub fn layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("ragway"))
            .with_context_activation(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata| {
                metadata.is_span() && [SPAN, WORK].contains(&metadata.target())
            }))
            .boxed()
    }

    /// Sends what waits.
    pub async fn stop(self) {
        // It blocks, and the collector is asked from this runtime.
        let provider = self.provider;
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_WAIT)).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last spans of traces may be lost: {error}");
        }
    }
}

/// Begins a trace with a span of the target [`super::WORK`] that has the field `otel.kind`; gives the trace's
/// id, for the log. Nothing where no traces are sent.
pub fn begin_trace(span: &Span, kind: &'static str) -> Option<String> {
    if !ON.load(Ordering::Relaxed) {
        return None;
    }
    span.record("otel.kind", kind);
    id_of(&span.context())
}

/// Does the same with a request's span, which becomes a part of the trace that the request's headers name, if they do.
///
/// Gives the id that the headers name also where no traces are sent.
pub fn continue_trace<'a>(span: &Span, header: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let carrier: HashMap<String, String> = ["traceparent", "tracestate"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), header(name)?.to_owned())))
        .collect();
    if carrier.is_empty() {
        return begin_trace(span, "server");
    }
    let caller = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    let named = id_of(&caller);
    // It fails only for a span that nobody wants.
    let _ = span.set_parent(caller);
    begin_trace(span, "server").or(named)
}

/// Says in a request's span what became of it, by the names of OpenTelemetry.
pub fn end_request(span: &Span, method: &str, endpoint: &str, status: u16) {
    if !ON.load(Ordering::Relaxed) {
        return;
    }
    span.set_attribute("http.request.method", method.to_owned());
    span.set_attribute("http.route", endpoint.to_owned());
    span.set_attribute("http.response.status_code", i64::from(status));
    span.context().span().update_name(format!("{method} {endpoint}"));
    if status >= 500 {
        span.set_status(Status::error(""));
    }
}

/// Tells a server that is asked which trace the request belongs to.
pub fn pass_on(headers: &mut HeaderMap) {
    if !ON.load(Ordering::Relaxed) {
        return;
    }
    let context = Span::current().context();
    if context.span().span_context().is_valid() {
        TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(headers));
    }
}

fn id_of(context: &Context) -> Option<String> {
    let span = context.span();
    let context = span.span_context();
    context.is_valid().then(|| context.trace_id().to_string())
}

fn set(variable: &'static str) -> Option<(&'static str, String)> {
    let value = env::var(variable).ok()?;
    (!value.trim().is_empty()).then(|| (variable, value.trim().to_owned()))
}

fn first_set(variables: [&'static str; 2]) -> Option<(&'static str, String)> {
    variables.into_iter().find_map(set)
}

fn wrong(variable: &'static str, reason: &dyn ToString) -> TelemetryError {
    TelemetryError::Setting { variable, reason: reason.to_string() }
}

fn exporter(error: impl ToString) -> TelemetryError {
    TelemetryError::Exporter(error.to_string())
}

fn timeout() -> Result<Duration, TelemetryError> {
    let Some((variable, value)) = first_set(TIMEOUTS) else { return Ok(TIMEOUT) };
    let told = |_| wrong(variable, &format!("must be a number of milliseconds, is `{value}`"));
    value.parse().map(Duration::from_millis).map_err(told)
}

fn check_protocol() -> Result<(), TelemetryError> {
    match first_set(PROTOCOLS) {
        Some((variable, value)) if value != "http/protobuf" => {
            let told =
                format!("`{value}` is not spoken here; send to the collector's port for http/protobuf");
            Err(wrong(variable, &told))
        }
        _ => Ok(()),
    }
}

/// Else the library would take everything in silence.
fn check_sampler() -> Result<(), TelemetryError> {
    let Some((_, sampler)) = set(SAMPLER) else { return Ok(()) };
    if !SAMPLERS.contains(&sampler.as_str()) {
        let told = format!("unknown sampler `{sampler}`; known are {}", SAMPLERS.join(", "));
        return Err(wrong(SAMPLER, &told));
    }
    let argument = env::var(SAMPLER_ARGUMENT).ok().and_then(|value| value.parse::<f64>().ok());
    match argument {
        Some(ratio) if (0.0..=1.0).contains(&ratio) => Ok(()),
        _ if !sampler.ends_with("ratio") => Ok(()),
        _ => Err(wrong(SAMPLER_ARGUMENT, &format!("`{sampler}` wants a share between 0 and 1"))),
    }
}
