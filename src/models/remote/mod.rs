//! Embedders that run in another server, behind OpenAI's API or that of
//! text-embeddings-inference (TEI).
//!
//! Texts go out in batches, a few at a time. What can be tried again is, within
//! the entry's time limit; what comes back is checked before it is believed.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use reqwest::RequestBuilder;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Embedder, Embeddings, Lane, ModelError, TextRole, Token,
    server::{CONNECT_TIMEOUT, Server, chain, client},
    vectors::scale_to_one,
};
use crate::config::{EmbedderEntry, EmbeddingSpace, Prefixes, RemoteApi, RemoteSettings};

/// Times a batch is sent at most.
const ATTEMPTS: u32 = 3;
/// Pause before the second attempt; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Batches under way at the same time.
const CONCURRENT: usize = 4;

/// A client of an embedding server.
pub struct RemoteEmbedder {
    space: EmbeddingSpace,
    settings: RemoteSettings,
    prefixes: Prefixes,
    normalize: bool,
    max_tokens: usize,
    server: Server,
    http: reqwest::Client,
    key: Option<SecretString>,
}

/// The vectors of one batch, and the tokens that the server counted in all of it.
struct Answer {
    vectors: Vec<Vec<f32>>,
    tokens: usize,
}

impl RemoteEmbedder {
    /// A client of the entry's server; nothing is sent yet.
    ///
    /// Fails with [`ModelError::NotLoaded`] when the entry names no server or a variable that is not set.
    pub fn new(entry: &EmbedderEntry, space: EmbeddingSpace) -> Result<Self, ModelError> {
        let missing = |reason: String| ModelError::NotLoaded { model: entry.name.clone(), reason };
        let settings =
            entry.remote.clone().ok_or_else(|| missing("models.toml names no server for it".into()))?;
        let key = match &settings.api_key_env {
            Some(variable) => Some(std::env::var(variable).map(SecretString::from).map_err(|_| {
                missing(format!("the environment variable {variable}, which holds its key, is not set"))
            })?),
            None => None,
        };
        let server = Server {
            name: entry.name.clone(),
            key_variable: settings.api_key_env.clone(),
            timeout: Duration::from_millis(settings.timeout_ms),
        };
        let http =
            client(&settings.base_url, CONNECT_TIMEOUT).map_err(|error| server.failed(chain(&error)))?;
        Ok(Self {
            space,
            prefixes: entry.prefixes.clone(),
            normalize: entry.normalize,
            max_tokens: entry.max_tokens,
            settings,
            server,
            http,
            key,
        })
    }

    async fn embed_all(&self, texts: Vec<String>, role: TextRole) -> Result<Embeddings, ModelError> {
        let texts = role.prefixed(&self.prefixes, texts);
        let batches = texts.chunks(self.settings.batch).map(|batch| self.batch(batch));
        let answers: Vec<Answer> =
            stream::iter(batches.collect::<Vec<_>>()).buffered(CONCURRENT).try_collect().await?;
        let batches = texts.chunks(self.settings.batch).zip(&answers);
        let tokens = batches.flat_map(|(texts, answer)| shared_out(answer.tokens, texts)).collect();
        let vectors = answers.into_iter().flat_map(|answer| answer.vectors).collect();
        // Neither API cuts silently: both are asked to refuse what is too long.
        Ok(Embeddings { vectors, truncated: Vec::new(), tokens })
    }

    /// Sends a batch until it is answered, refused for good, or out of time.
    async fn batch(&self, texts: &[String]) -> Result<Answer, ModelError> {
        let deadline = Instant::now() + self.server.timeout;
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let answered =
                timeout_at(deadline, self.send(texts)).await.map_err(|_| self.server.timed_out())?;
            let error = match answered {
                Ok(answer) => return self.checked(answer, texts.len()),
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

    async fn send(&self, texts: &[String]) -> Result<Answer, ModelError> {
        let (path, body) = match self.settings.api {
            RemoteApi::Openai => (
                "embeddings",
                json!({"model": self.settings.model, "input": texts, "encoding_format": "float"}),
            ),
            RemoteApi::Tei => {
                ("embed", json!({"inputs": texts, "normalize": self.normalize, "truncate": false}))
            }
        };
        let url = format!("{}/{path}", self.settings.base_url.as_str().trim_end_matches('/'));
        let response = self
            .authorized(self.http.post(url))
            .json(&body)
            .send()
            .await
            .map_err(|error| self.server.unreachable(error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.map_err(|error| self.server.unreachable(error))?;
        if !status.is_success() {
            return Err(self.server.refusal(status, &headers, &text));
        }
        let body: Value = serde_json::from_str(&text)
            .map_err(|error| self.server.unavailable(format!("its answer is no JSON: {error}")))?;
        self.read(&body).ok_or_else(|| {
            self.server
                .unavailable("its answer holds no vectors: check remote.api and remote.base_url".into())
        })
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key.expose_secret()),
            None => request,
        }
    }

    fn read(&self, body: &Value) -> Option<Answer> {
        match self.settings.api {
            RemoteApi::Openai => {
                let mut data: Vec<&Value> = body["data"].as_array()?.iter().collect();
                data.sort_by_key(|item| item["index"].as_u64());
                let vectors = data.iter().map(|item| vector(&item["embedding"])).collect::<Option<_>>()?;
                let tokens = body["usage"]["prompt_tokens"].as_u64().unwrap_or(0);
                Some(Answer { vectors, tokens: usize::try_from(tokens).unwrap_or(0) })
            }
            RemoteApi::Tei => {
                let vectors = body.as_array()?.iter().map(vector).collect::<Option<_>>()?;
                Some(Answer { vectors, tokens: 0 })
            }
        }
    }

    /// Refuses what is not as many finite vectors of the right length; normalises.
    fn checked(&self, mut answer: Answer, texts: usize) -> Result<Answer, ModelError> {
        if answer.vectors.len() != texts {
            let count = answer.vectors.len();
            return Err(self.server.failed(format!("it answered {texts} texts with {count} vectors")));
        }
        for vector in &mut answer.vectors {
            if vector.len() != self.space.dimension {
                return Err(self.server.failed(format!(
                    "its vectors have {} dimensions, models.toml says {}",
                    vector.len(),
                    self.space.dimension
                )));
            }
            if vector.iter().any(|number| !number.is_finite()) {
                return Err(self.server.failed("it sent a number that is not finite".into()));
            }
            if self.normalize {
                scale_to_one(vector);
            }
        }
        Ok(answer)
    }
}

/// `total` tokens shared among texts by what each is estimated to have.
fn shared_out(total: usize, texts: &[String]) -> Vec<usize> {
    let estimates: Vec<usize> = texts.iter().map(|text| super::estimate_tokens(text) + 1).collect();
    let all: usize = estimates.iter().sum();
    let (mut seen, mut given) = (0, 0);
    let share = |estimate: usize| {
        seen += estimate;
        let share = total * seen / all - given;
        given += share;
        share
    };
    estimates.into_iter().map(share).collect()
}

fn vector(numbers: &Value) -> Option<Vec<f32>> {
    #[expect(clippy::cast_possible_truncation, reason = "vectors are of single precision")]
    numbers.as_array()?.iter().map(|number| number.as_f64().map(|number| number as f32)).collect()
}

impl Embedder for RemoteEmbedder {
    fn space(&self) -> &EmbeddingSpace {
        &self.space
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// An estimate on the high side; see [`super::estimate_tokens`].
    fn count_tokens(&self, text: &str) -> usize {
        super::estimate_tokens(text)
    }

    fn tokenize(&self, _: &str, _: bool) -> Result<Vec<Token>, ModelError> {
        Err(ModelError::Unfit {
            model: self.space.model.clone(),
            reason: "it runs in another server, which does not tell its tokens".into(),
        })
    }

    fn embed(
        &self,
        texts: Vec<String>,
        role: TextRole,
        _lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        self.embed_all(texts, role).boxed()
    }
}

#[cfg(test)]
mod tests;
