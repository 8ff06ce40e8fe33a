//! A server's reply, and what its misbehaviour means.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use reqwest::{Response, StatusCode, header::CONTENT_TYPE, header::HeaderMap};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::events::{Event, EventStream, read_events};
use crate::models::{
    ModelError,
    forward::{ForwardError, Refusal, Whole},
    server::{Server, message_of},
};

/// Longest answer in one piece, in bytes.
const LONGEST_BODY: usize = 16 << 20;
/// How much is read of a refusal, in bytes.
const LONGEST_REFUSAL: usize = 64 << 10;

/// How long a server is waited for.
#[derive(Debug, Clone)]
pub struct Patience {
    pub server: Server,
    whole: Duration,
    until: Instant,
}

impl Patience {
    /// From now on: `server.timeout` for each step, `whole` for all of them.
    pub fn new(server: Server, whole: Duration) -> Self {
        Self { server, whole, until: Instant::now() + whole }
    }

    /// Waits for one step, such as the next bytes.
    pub async fn wait<T>(&self, step: impl Future<Output = T>) -> Result<T, ModelError> {
        let silence = Instant::now() + self.server.timeout;
        let (at, after) =
            if silence < self.until { (silence, self.server.timeout) } else { (self.until, self.whole) };
        let timed_out = |_| ModelError::TimedOut { model: self.server.name.clone(), after };
        timeout_at(at, step).await.map_err(timed_out)
    }
}

/// A successful response whose body has not been read.
pub struct Reply {
    patience: Patience,
    response: Response,
}

impl Reply {
    /// Waits for the response's head. A status that is no success is an error with its body.
    pub async fn of(
        patience: Patience,
        request: impl Future<Output = reqwest::Result<Response>>,
    ) -> Result<Self, ForwardError> {
        let server = &patience.server;
        let response = patience.wait(request).await?.map_err(|error| server.unreachable(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(Self { patience, response });
        }
        let headers = response.headers().clone();
        // What cannot be read of the body does not change what the status says.
        let body = read_body(&patience, response, LONGEST_REFUSAL).await.unwrap_or_default();
        Err(refused(server, status, &headers, &String::from_utf8_lossy(&body)))
    }

    /// The answer's events; one that came in one piece is a single event.
    pub async fn events(self) -> Result<EventStream, ForwardError> {
        let kind = self.kind();
        if kind.starts_with("text/html") {
            return Err(web_page(&self.patience.server).into());
        }
        if kind.starts_with("application/json") {
            let event = Event::of(as_chunk(self.whole().await?.value));
            return Ok(stream::iter([Ok(event)]).boxed());
        }
        let bytes = self.response.bytes_stream().boxed();
        Ok(read_events(self.patience, bytes))
    }

    fn kind(&self) -> String {
        let kind = self.response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        kind.unwrap_or_default().to_ascii_lowercase()
    }

    /// The answer in one piece.
    pub async fn whole(self) -> Result<Whole, ForwardError> {
        let Self { patience, response } = self;
        let server = patience.server.clone();
        let body = read_body(&patience, response, LONGEST_BODY).await?;
        let value: Value = serde_json::from_slice(&body).map_err(|_| no_completion(&server, &body))?;
        if let Some(error) = error_in(&server, &value) {
            return Err(error);
        }
        if !value.get("choices").is_some_and(Value::is_array) {
            return Err(no_completion(&server, &body).into());
        }
        Ok(Whole { body, value })
    }
}

/// The whole body, or as much of it as `most` bytes.
async fn read_body(patience: &Patience, mut response: Response, most: usize) -> Result<Bytes, ModelError> {
    let mut body = BytesMut::new();
    while body.len() < most {
        let piece = patience.wait(response.chunk()).await?;
        match piece.map_err(|error| broken_off(&patience.server, error))? {
            Some(piece) => body.extend_from_slice(&piece),
            None => break,
        }
    }
    body.truncate(most);
    Ok(body.freeze())
}

/// The connection ended before the answer did.
pub fn broken_off(server: &Server, error: reqwest::Error) -> ModelError {
    server
        .unavailable(format!("the answer broke off: {}", crate::models::server::chain(&error.without_url())))
}

/// The error that stands in an answer where a completion should, in any of the shapes of servers.
///
/// `code` may be an HTTP status, as a number or in a string; any other is one inside the server.
pub fn error_in(server: &Server, answer: &Value) -> Option<ForwardError> {
    let inside = answer.get("error").filter(|error| !error.is_null());
    let error = match inside {
        Some(error) => error,
        None if answer.get("choices").is_none() && message_of(answer).is_some() => answer,
        None => return None,
    };
    let codes = [error.get("code"), error.get("status"), answer.get("code")].into_iter().flatten();
    let status = codes
        .filter_map(|code| code.as_u64().or_else(|| code.as_str()?.parse().ok()))
        .filter_map(|code| StatusCode::from_u16(u16::try_from(code).ok()?).ok())
        .find(|status| status.is_client_error() || status.is_server_error());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Some(refused(server, status, &HeaderMap::new(), &answer.to_string()))
}

fn refused(server: &Server, status: StatusCode, headers: &HeaderMap, body: &str) -> ForwardError {
    // What a server says of a key may hold it.
    let about_key = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let refusal = Refusal { status: status.as_u16(), body: body.to_owned() };
    ForwardError { error: server.refusal(status, headers, body), refusal: (!about_key).then_some(refusal) }
}

/// What came with status 200 and is no completion.
fn no_completion(server: &Server, body: &[u8]) -> ModelError {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if text.is_empty() {
        return server.unavailable("it answered with nothing".to_owned());
    }
    if text.starts_with('<') {
        return web_page(server);
    }
    let start: String = text.chars().take(80).collect();
    server.unavailable(format!("it answered with what is no completion: {start}"))
}

fn web_page(server: &Server) -> ModelError {
    server.unavailable("it answered with a web page: check base_url".to_owned())
}

/// A whole completion as the only chunk of a stream.
fn as_chunk(mut completion: Value) -> Value {
    completion["object"] = json!("chat.completion.chunk");
    for choice in completion["choices"].as_array_mut().into_iter().flatten() {
        if let Some(message) = choice.as_object_mut().and_then(|choice| choice.remove("message")) {
            choice["delta"] = message;
        }
    }
    completion
}
