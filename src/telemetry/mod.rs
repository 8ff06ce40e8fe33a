//! Logs and traces.
//!
//! Logs are bunyan JSON lines for machines, plain lines for a person at a terminal. Traces go to an
//! OpenTelemetry collector where the environment names one (`traces`). Spans with the target [`WORK`] are in both:
//! a request, a job. Those with the target [`SPAN`] are its parts, in traces only. Where no traces are sent,
//! nothing wants the latter, and they cost as much as a branch that is not taken.
//!
//! Absent here: texts. No span and no line holds what a document, a question or a key says.

mod collector;
mod traces;

pub use traces::{begin_trace, continue_trace, end_request, pass_on};

use std::io::{IsTerminal, stderr, stdout};

use tracing_bunyan_formatter::{BunyanFormattingLayer, JsonStorageLayer};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::filter_fn,
    fmt,
    layer::{Filter, SubscriberExt},
};

use traces::Traces;

/// Target of the line a request that is for a person to read; among bunyan
/// lines the end of the request's span says the same in fields.
pub const ACCESS: &str = "ragway::access";

/// Target of the spans with which traces begin, and whose fields log lines have.
pub const WORK: &str = "ragway::work";

/// Target of the spans below them, which make no log lines. A task of its own has to be given the span of
/// [`WORK`] as well: log lines find it among the spans that are entered.
pub const SPAN: &str = "ragway::span";

/// What is logged where `RUST_LOG` says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Every request: a server.
    Requests,
    /// Warnings only: a command whose output is its result.
    Warnings,
}

/// Why logs or traces cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A variable of the environment says what cannot be done.
    #[error("{variable}: {reason}")]
    Setting { variable: &'static str, reason: String },
    /// The exporter of traces could not be made of the variables `OTEL_EXPORTER_OTLP_…`.
    #[error("traces cannot be sent: {0}")]
    Exporter(String),
    /// Something else logs already.
    #[error(transparent)]
    Started(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// What has to be ended well.
pub struct Telemetry {
    traces: Option<Traces>,
}

type Layers = Vec<Box<dyn Layer<Registry> + Send + Sync>>;

/// Starts logging. `RAGWAY_LOG=json` or `text` decides the form; without it a
/// terminal and every command but `serve` get text (stderr), a server without a
/// terminal gets bunyan lines (stdout).
///
/// A server also sends traces where `OTEL_EXPORTER_OTLP_ENDPOINT` is set. To be called in a tokio runtime,
/// which has to live until [`Telemetry::stop`] has ended.
pub fn start(verbosity: Verbosity) -> Result<Telemetry, TelemetryError> {
    let traces = match verbosity {
        Verbosity::Requests => Traces::start()?,
        Verbosity::Warnings => None,
    };
    let mut layers: Layers = vec![logs(verbosity)];
    layers.extend(traces.as_ref().map(Traces::layer));
    tracing::subscriber::set_global_default(Registry::default().with(layers))?;
    Ok(Telemetry { traces })
}

impl Telemetry {
    /// Sends the spans that have not been sent; waits a few seconds for the collector at most.
    pub async fn stop(self) {
        if let Some(traces) = self.traces {
            traces.stop().await;
        }
    }
}

fn logs(verbosity: Verbosity) -> Box<dyn Layer<Registry> + Send + Sync> {
    let level = match verbosity {
        // refinery, rmcp and pdf-extract tell every step of theirs.
        Verbosity::Requests => {
            "info,refinery_core=warn,actix_server=warn,rmcp=warn,pdf_extract=error,lopdf=error"
        }
        Verbosity::Warnings => "warn,pdf_extract=error,lopdf=error",
    };
    let text = match std::env::var("RAGWAY_LOG").as_deref() {
        Ok("json") => false,
        Ok("text") => true,
        _ => verbosity == Verbosity::Warnings || stderr().is_terminal(),
    };
    let mut directives = std::env::var("RUST_LOG").unwrap_or_else(|_| level.to_owned());
    if !text {
        directives.push_str(&format!(",{ACCESS}=off"));
    }
    let wanted = wanted(EnvFilter::new(directives));
    let bunyan = JsonStorageLayer;
    if text {
        let lines = fmt::layer().with_writer(stderr).with_target(false).with_ansi(stderr().is_terminal());
        return lines.with_filter(wanted).boxed();
    }
    match verbosity {
        Verbosity::Requests => {
            let lines = BunyanFormattingLayer::new("ragway".into(), stdout);
            bunyan.and_then(lines).with_filter(wanted).boxed()
        }
        Verbosity::Warnings => {
            let lines = BunyanFormattingLayer::new("ragway".into(), stderr);
            bunyan.and_then(lines).with_filter(wanted).boxed()
        }
    }
}

/// What the directives let through, without the parts of traces.
fn wanted(directives: EnvFilter) -> impl Filter<Registry> + Send + Sync + 'static {
    use tracing_subscriber::filter::FilterExt;
    directives.and(filter_fn(|metadata| !(metadata.is_span() && metadata.target() == SPAN)))
}
