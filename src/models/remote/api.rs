//! Calls of another server: with its key, tried again where that may help, within a time limit.

use std::time::Duration;

use reqwest::{RequestBuilder, header::HeaderMap};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    models::{
        ModelError,
        server::{CONNECT_TIMEOUT, Server, chain, client},
    },
    telemetry,
};

/// Times a call is sent at most.
const ATTEMPTS: u32 = 3;
/// Pause before the second attempt; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// A JSON API at a base URL.
pub(super) struct Api {
    pub(super) server: Server,
    base_url: url::Url,
    http: reqwest::Client,
    key: Option<SecretString>,
}

impl Api {
    /// For the model `name`, with the key in the variable `key_variable`; nothing is sent yet.
    ///
    /// Fails with [`ModelError::NotLoaded`] when the variable is not set.
    pub(super) fn new(
        name: &str,
        base_url: &url::Url,
        key_variable: Option<&String>,
        timeout_ms: u64,
    ) -> Result<Self, ModelError> {
        let key = key_variable.map(|variable| {
            std::env::var(variable).map(SecretString::from).map_err(|_| ModelError::NotLoaded {
                model: name.to_owned(),
                reason: format!("the environment variable {variable}, which holds its key, is not set"),
            })
        });
        let server = Server {
            name: name.to_owned(),
            key_variable: key_variable.cloned(),
            timeout: Duration::from_millis(timeout_ms),
        };
        let http = client(base_url, CONNECT_TIMEOUT).map_err(|error| server.failed(chain(&error)))?;
        Ok(Self { key: key.transpose()?, server, base_url: base_url.clone(), http })
    }

    /// Sends a body until it is answered, refused for good, or out of time. `read` takes from the
    /// answer what is wanted, or says what is wrong with it.
    pub(super) async fn call<T>(
        &self,
        path: &str,
        body: &Value,
        read: impl Fn(&Value) -> Result<T, &'static str>,
    ) -> Result<T, ModelError> {
        let deadline = Instant::now() + self.server.timeout;
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let answered =
                timeout_at(deadline, self.send(path, body)).await.map_err(|_| self.server.timed_out())?;
            let wrong = |what: &str| {
                format!("its answer {what}: check remote.api and remote.base_url in models.toml")
            };
            let answered = answered
                .and_then(|answer| read(&answer).map_err(|what| self.server.unavailable(wrong(what))));
            let error = match answered {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let wait = match &error {
                ModelError::Overloaded { retry_after, .. } => (*retry_after).max(pause),
                _ => pause,
            };
            if attempt == ATTEMPTS || !error.is_retryable() || Instant::now() + wait >= deadline {
                return Err(error);
            }
            tracing::debug!(%error, attempt, "trying again: {error}");
            sleep(wait).await;
            pause *= 2;
        }
        Err(self.server.timed_out())
    }

    async fn send(&self, path: &str, body: &Value) -> Result<Value, ModelError> {
        let url = format!("{}/{path}", self.base_url.as_str().trim_end_matches('/'));
        let mut headers = HeaderMap::new();
        telemetry::pass_on(&mut headers);
        let response = self
            .authorized(self.http.post(url))
            .headers(headers)
            .json(body)
            .send()
            .await
            .map_err(|error| self.server.unreachable(error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.map_err(|error| self.server.unreachable(error))?;
        if !status.is_success() {
            return Err(self.server.refusal(status, &headers, &text));
        }
        serde_json::from_str(&text)
            .map_err(|error| self.server.unavailable(format!("its answer is no JSON: {error}")))
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key.expose_secret()),
            None => request,
        }
    }
}
