//! Answers from an OpenAI-compatible server: OpenAI, Ollama, vLLM, llama.cpp.
//!
//! Requests are built with async-openai's types; sending and reading is our own.
//! Its client ends a stream that broke off as if it were complete, holds what a
//! slow reader has not taken without bound, and hides `Retry-After`. Events are
//! read as plain JSON, for servers other than OpenAI differ: an empty
//! `finish_reason` or a numeric error code breaks the typed ones. A request is
//! sent exactly once; trying again is the router's work.

mod events;
mod reply;
mod sse;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_openai::types::chat::{
    ChatCompletionRequestAssistantMessage, ChatCompletionRequestMessage, ChatCompletionRequestSystemMessage,
    ChatCompletionRequestUserMessage, ChatCompletionStreamOptions, CreateChatCompletionRequest,
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::{
    GenerateRequest, GenerationStream, Generator, Message, ModelError, Speaker,
    forward::{ForwardError, ForwardRequest, Forwarded, Forwarder},
    server::{Server, chain, client},
};
use crate::{config::OpenAiEntry, telemetry};
use reply::{Patience, Reply};

/// A model behind an OpenAI-compatible API.
pub struct OpenAiGenerator {
    server: Server,
    model: String,
    context_tokens: usize,
    url: String,
    headers: HeaderMap,
    /// Longest time from a request to the end of its answer.
    whole: Duration,
    is_openai: bool,
    http: reqwest::Client,
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
            timeout: Duration::from_millis(entry.timeouts.first_byte_ms),
        };
        let headers = headers(key.as_ref())
            .ok_or_else(|| server.failed(format!("the key in {} is no valid header", server.key_name())))?;
        let connect = Duration::from_millis(entry.timeouts.connect_ms);
        let http = client(&entry.base_url, connect).map_err(|error| server.failed(chain(&error)))?;
        Ok(Self {
            server,
            model: entry.model.clone(),
            context_tokens: entry.context_tokens,
            url: format!("{}/chat/completions", entry.base_url.as_str().trim_end_matches('/')),
            headers,
            whole: Duration::from_millis(entry.timeouts.whole_ms),
            is_openai: entry.base_url.host_str() == Some("api.openai.com"),
            http,
        })
    }

    fn body(&self, request: &GenerateRequest) -> Result<Map<String, Value>, ModelError> {
        let typed = CreateChatCompletionRequest {
            model: self.model.clone(),
            messages: request.messages.iter().map(message).collect(),
            temperature: Some(request.temperature),
            stream: Some(true),
            stream_options: Some(ChatCompletionStreamOptions {
                include_usage: Some(true),
                include_obfuscation: None,
            }),
            ..CreateChatCompletionRequest::default()
        };
        let mut body = match serde_json::to_value(typed) {
            Ok(Value::Object(body)) => body,
            Ok(other) => return Err(self.server.failed(format!("its request became {other}"))),
            Err(error) => return Err(self.server.failed(format!("its request cannot be written: {error}"))),
        };
        // OpenAI's newer models refuse the old name; other servers know only that.
        let name = if self.is_openai { "max_completion_tokens" } else { "max_tokens" };
        body.insert(name.to_owned(), request.max_tokens.into());
        // OpenAI has deprecated it, and with it the type's field; other servers have nothing else.
        if let Some(seed) = request.seed {
            body.insert("seed".to_owned(), seed.cast_signed().into());
        }
        if let Some(top_p) = request.top_p {
            body.insert("top_p".to_owned(), top_p.into());
        }
        if !request.stop.is_empty() {
            body.insert("stop".to_owned(), request.stop.clone().into());
        }
        Ok(body)
    }

    async fn start(&self, request: GenerateRequest) -> Result<GenerationStream, ModelError> {
        let body = Value::Object(self.body(&request)?).to_string().into_bytes();
        let response = self.send(body).await.map_err(|error| error.error)?;
        let events = response.events().await.map_err(|error| error.error)?;
        Ok(events::parts(events))
    }

    async fn pass_on(&self, request: &ForwardRequest) -> Result<Forwarded, ForwardError> {
        let response = self.send(request.body_for(&self.model)).await?;
        if request.is_streamed() {
            let events = response.events().await?;
            return Ok(Forwarded::Stream(events.map(|event| event.map(events::Event::into_chunk)).boxed()));
        }
        Ok(Forwarded::Whole(response.whole().await?))
    }

    /// Sends a request once; what is no success is an error.
    async fn send(&self, body: Vec<u8>) -> Result<Reply, ForwardError> {
        let patience = Patience::new(self.server.clone(), self.whole);
        let mut headers = self.headers.clone();
        telemetry::pass_on(&mut headers);
        let request = self.http.post(&self.url).headers(headers);
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        Reply::of(patience, request.send()).await
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

    fn forwarder(&self) -> Option<&dyn Forwarder> {
        Some(self)
    }
}

impl Forwarder for OpenAiGenerator {
    fn forward<'a>(&'a self, request: &'a ForwardRequest) -> BoxFuture<'a, Result<Forwarded, ForwardError>> {
        self.pass_on(request).boxed()
    }
}

fn message(message: &Message) -> ChatCompletionRequestMessage {
    let text = message.text.as_str();
    match message.speaker {
        Speaker::System => ChatCompletionRequestSystemMessage::from(text).into(),
        Speaker::User => ChatCompletionRequestUserMessage::from(text).into(),
        Speaker::Assistant => ChatCompletionRequestAssistantMessage::from(text).into(),
    }
}

fn headers(key: Option<&SecretString>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret())).ok()?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Some(headers)
}
