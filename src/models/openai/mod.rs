//! Answers from an OpenAI-compatible server: OpenAI, Ollama, vLLM, llama.cpp.
//!
//! The client is async-openai's. Two things are our own, because servers other
//! than OpenAI differ there: events are read as plain JSON (an empty
//! `finish_reason` or a numeric error code breaks the typed ones), and a
//! request is sent exactly once (the router falls back by itself; the client's
//! retries would only delay it, and they hide `Retry-After`).

mod events;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_openai::{
    Client,
    config::Config,
    error::{OpenAIError, StreamError},
    middleware::HttpRequestFactory,
};
use futures_util::{FutureExt, future::BoxFuture};
use reqwest::{
    Response,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    GenerateRequest, GenerationStream, Generator, Message, ModelError,
    server::{Server, chain, client},
};
use crate::config::OpenAiEntry;

/// A model behind an OpenAI-compatible API.
pub struct OpenAiGenerator {
    server: Server,
    model: String,
    context_tokens: usize,
    client: Client<Endpoint>,
}

impl OpenAiGenerator {
    /// A client of the entry's server; nothing is sent yet.
    ///
    /// `key` is the value of the entry's `api_key_env`. Fails with
    /// [`ModelError::Failed`] when the key cannot stand in a header.
    pub fn new(entry: &OpenAiEntry, key: Option<SecretString>) -> Result<Self, ModelError> {
        let server = Server {
            name: entry.name.clone(),
            key_variable: entry.api_key_env.clone(),
            timeout: Duration::from_millis(entry.timeout_ms),
        };
        let endpoint = Endpoint::new(entry, key)
            .ok_or_else(|| server.failed(format!("the key in {} is no valid header", server.key_name())))?;
        let http = client(&entry.base_url).map_err(|error| server.failed(chain(&error)))?;
        let (sender, by) = (server.clone(), http.clone());
        let once = tower::service_fn(move |request| send_once(sender.clone(), by.clone(), request));
        let client = Client::build(http, endpoint).with_http_service(once);
        Ok(Self { server, model: entry.model.clone(), context_tokens: entry.context_tokens, client })
    }

    fn body(&self, request: &GenerateRequest) -> Value {
        let mut body = json!({
            "model": self.model,
            "messages": request.messages.iter().map(message).collect::<Vec<_>>(),
            "temperature": request.temperature,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        // OpenAI's newer models refuse the old name; other servers know only that.
        let limit = if self.client.config().is_openai { "max_completion_tokens" } else { "max_tokens" };
        body[limit] = request.max_tokens.into();
        if let Some(seed) = request.seed {
            body["seed"] = seed.into();
        }
        if let Some(top_p) = request.top_p {
            body["top_p"] = top_p.into();
        }
        if !request.stop.is_empty() {
            body["stop"] = request.stop.clone().into();
        }
        body
    }

    async fn start(&self, request: GenerateRequest) -> Result<GenerationStream, ModelError> {
        let body = self.body(&request);
        let chat = self.client.chat();
        let events = timeout(self.server.timeout, chat.create_stream_byot(body))
            .await
            .map_err(|_| self.server.timed_out())?
            .map_err(|error| explain(&self.server, error))?;
        Ok(events::parts(self.server.clone(), events))
    }
}

impl Generator for OpenAiGenerator {
    fn name(&self) -> &str {
        &self.server.name
    }

    fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    fn count_tokens(&self, text: &str) -> usize {
        super::estimate_tokens(text)
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<GenerationStream, ModelError>> {
        self.start(request).boxed()
    }
}

fn message(message: &Message) -> Value {
    json!({ "role": message.speaker.role(), "content": message.text })
}

/// Where requests go and with which headers. Unlike async-openai's own
/// configuration it reads no environment: the key of one server must not be
/// sent to another.
#[derive(Debug)]
struct Endpoint {
    base: String,
    key: SecretString,
    headers: HeaderMap,
    is_openai: bool,
}

impl Endpoint {
    fn new(entry: &OpenAiEntry, key: Option<SecretString>) -> Option<Self> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &key {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret())).ok()?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Some(Self {
            base: entry.base_url.as_str().trim_end_matches('/').to_owned(),
            key: key.unwrap_or_default(),
            headers,
            is_openai: entry.base_url.host_str() == Some("api.openai.com"),
        })
    }
}

impl Config for Endpoint {
    fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }
    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
    fn query(&self) -> Vec<(&str, &str)> {
        Vec::new()
    }
    fn api_base(&self) -> &str {
        &self.base
    }
    fn api_key(&self) -> &SecretString {
        &self.key
    }
}

/// What async-openai reports, as the caller sees it.
fn explain(server: &Server, error: OpenAIError) -> ModelError {
    match error {
        OpenAIError::Boxed(cause) => match cause.downcast::<ModelError>() {
            Ok(error) => *error,
            Err(cause) => server.failed(cause.to_string()),
        },
        OpenAIError::Reqwest(error) => server.unreachable(error),
        OpenAIError::StreamError(error) => match *error {
            StreamError::EventStream(reason) => server.unavailable(format!("the answer broke off: {reason}")),
            StreamError::UnknownEvent(_) => server.unavailable("it sent an unknown event".to_owned()),
        },
        OpenAIError::JSONDeserialize(error, _) => {
            server.unavailable(format!("it sent an event that is no JSON: {error}"))
        }
        OpenAIError::ApiError(error) => server.unavailable(error.to_string()),
        other => server.failed(other.to_string()),
    }
}

/// Sends a request once and makes every refusal a [`ModelError`].
async fn send_once(
    server: Server,
    http: reqwest::Client,
    request: HttpRequestFactory,
) -> Result<Response, tower::BoxError> {
    let request = request.build().await?;
    let response = http.execute(request).await.map_err(|error| server.unreachable(error))?;
    let status = response.status();
    if !status.is_success() {
        let headers = response.headers().clone();
        let body = response.text().await.unwrap_or_default();
        return Err(server.refusal(status, &headers, &body).into());
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/json") {
        return Ok(as_event(&server, response).await?);
    }
    if kind.starts_with("text/html") {
        let reason = "it answered with a web page: check base_url".to_owned();
        return Err(server.unavailable(reason).into());
    }
    Ok(response)
}

/// The answer of a server that does not stream, as the only event of a stream.
async fn as_event(server: &Server, response: Response) -> Result<Response, ModelError> {
    let body: Value = response.json().await.map_err(|error| server.unreachable(error))?;
    Ok(Response::from(http::Response::new(format!("data: {body}\n\n"))))
}
