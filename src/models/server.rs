//! Other servers that run models: how they are reached, and what their refusals
//! and failures mean for the caller.

use std::time::Duration;

use reqwest::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

use super::ModelError;

/// Pause after a 429 that names none.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest part of a server's message that is passed on, in characters.
const MESSAGE_LENGTH: usize = 300;

/// What error messages need to know.
#[derive(Debug, Clone)]
pub struct Server {
    pub name: String,
    /// Environment variable that the key comes from.
    pub key_variable: Option<String>,
    /// Longest wait for the first event and between two.
    pub timeout: Duration,
}

impl Server {
    pub fn refusal(&self, status: StatusCode, headers: &HeaderMap, body: &str) -> ModelError {
        let said = said(body);
        let pause = retry_after(headers);
        match status {
            // What the server says here may contain the key.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                self.failed(format!("the server refuses the key ({status}): check {}", self.key_name()))
            }
            StatusCode::TOO_MANY_REQUESTS => self.overloaded(pause.unwrap_or(DEFAULT_RETRY_AFTER)),
            StatusCode::SERVICE_UNAVAILABLE if pause.is_some() => {
                self.overloaded(pause.unwrap_or(DEFAULT_RETRY_AFTER))
            }
            _ if status.is_server_error() => self.unavailable(format!("{status}: {said}")),
            _ if status == StatusCode::PAYLOAD_TOO_LARGE || is_about_length(body) => {
                ModelError::Unfit { model: self.name.clone(), reason: said }
            }
            _ => self.failed(format!("{status}: {said}")),
        }
    }

    pub fn unreachable(&self, error: reqwest::Error) -> ModelError {
        if error.is_timeout() && !error.is_connect() {
            return self.timed_out();
        }
        self.unavailable(chain(&error.without_url()))
    }

    pub fn key_name(&self) -> String {
        match &self.key_variable {
            Some(variable) => format!("the environment variable {variable}"),
            None => "api_key_env in models.toml, which names no variable".to_owned(),
        }
    }

    pub fn overloaded(&self, retry_after: Duration) -> ModelError {
        ModelError::Overloaded { model: self.name.clone(), retry_after }
    }

    pub fn timed_out(&self) -> ModelError {
        ModelError::TimedOut { model: self.name.clone(), after: self.timeout }
    }

    pub fn unavailable(&self, reason: String) -> ModelError {
        ModelError::Unavailable { model: self.name.clone(), reason }
    }

    pub fn failed(&self, reason: String) -> ModelError {
        ModelError::Failed { model: self.name.clone(), reason }
    }
}

/// The message of an error in any of the shapes that servers use.
pub fn message_of(body: &Value) -> Option<&str> {
    let places = ["/error/message", "/error", "/message", "/detail"];
    places.iter().find_map(|place| body.pointer(place)?.as_str())
}

fn said(body: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(body).ok();
    let message = parsed.as_ref().and_then(message_of).unwrap_or(body).trim();
    message.chars().take(MESSAGE_LENGTH).collect()
}

/// Whether an error is about a prompt that does not fit: OpenAI and vLLM say
/// `context_length_exceeded` or "maximum context length", llama.cpp
/// `exceed_context_size_error`, TEI "must have less than … tokens".
fn is_about_length(body: &str) -> bool {
    let body = body.to_lowercase();
    [
        "context_length",
        "context length",
        "context_size",
        "context size",
        "context window",
        "must have less than",
    ]
    .iter()
    .any(|words| body.contains(words))
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3), or OpenAI's `retry-after-ms`.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let seconds = match text("retry-after-ms").and_then(|ms| ms.parse::<f64>().ok()) {
        Some(ms) => ms / 1000.0,
        None => {
            let value = text(RETRY_AFTER.as_str())?;
            value.parse().ok().or_else(|| {
                let date = OffsetDateTime::parse(value, &Rfc2822).ok()?;
                Some((date - OffsetDateTime::now_utc()).as_seconds_f64().max(0.0))
            })?
        }
    };
    Duration::try_from_secs_f64(seconds.min(3600.0)).ok()
}

/// An error with its causes: reqwest's own message names none of them.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Longest wait for a connection where nothing else is configured.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client for the server at `base_url`; what runs on this machine is asked without a proxy.
pub fn client(base_url: &url::Url, connect_timeout: Duration) -> reqwest::Result<reqwest::Client> {
    crate::tls::install();
    let http = reqwest::Client::builder().connect_timeout(connect_timeout);
    if is_this_machine(base_url) { http.no_proxy().build() } else { http.build() }
}

fn is_this_machine(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
