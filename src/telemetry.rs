//! Logs: bunyan JSON lines for machines, plain lines for a person at a terminal.

use std::io::{IsTerminal, stderr, stdout};

use tracing::subscriber::SetGlobalDefaultError;
use tracing_bunyan_formatter::{BunyanFormattingLayer, JsonStorageLayer};
use tracing_subscriber::{EnvFilter, Registry, fmt, layer::SubscriberExt};

/// Target of the line a request that is for a person to read; among bunyan
/// lines the end of the request's span says the same in fields.
pub const ACCESS: &str = "ragway::access";

/// What is logged where `RUST_LOG` says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Every request: a server.
    Requests,
    /// Warnings only: a command whose output is its result.
    Warnings,
}

/// Starts logging. `RAGWAY_LOG=json` or `text` decides the form; without it a
/// terminal and every command but `serve` get text (stderr), a server without a
/// terminal gets bunyan lines (stdout).
pub fn start(verbosity: Verbosity) -> Result<(), SetGlobalDefaultError> {
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
    let filter = EnvFilter::new(directives);
    let subscriber = Registry::default().with(filter);
    if text {
        let lines = fmt::layer().with_writer(stderr).with_target(false).with_ansi(stderr().is_terminal());
        return tracing::subscriber::set_global_default(subscriber.with(lines));
    }
    let subscriber = subscriber.with(JsonStorageLayer);
    match verbosity {
        Verbosity::Requests => tracing::subscriber::set_global_default(
            subscriber.with(BunyanFormattingLayer::new("ragway".into(), stdout)),
        ),
        Verbosity::Warnings => tracing::subscriber::set_global_default(
            subscriber.with(BunyanFormattingLayer::new("ragway".into(), stderr)),
        ),
    }
}
