//! Embedders and rerankers that run in another server, behind OpenAI's API, Cohere's or that of
//! text-embeddings-inference (TEI).
//!
//! Texts go out in batches, a few at a time. What can be tried again is, within
//! the entry's time limit; what comes back is checked before it is believed.

mod api;
mod rerank;

pub use rerank::RemoteReranker;

use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use serde_json::{Value, json};
use tracing::Instrument;

use self::api::Api;
use super::{Embedder, Embeddings, Lane, ModelError, TextRole, Token, embed_span, vectors::scale_to_one};
use crate::config::{EmbedderEntry, EmbeddingSpace, Prefixes, RemoteApi, RemoteSettings};

/// Batches under way at the same time.
const CONCURRENT: usize = 4;

/// A client of an embedding server.
pub struct RemoteEmbedder {
    space: EmbeddingSpace,
    settings: RemoteSettings,
    prefixes: Prefixes,
    normalize: bool,
    max_tokens: usize,
    api: Api,
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
        let api =
            Api::new(&entry.name, &settings.base_url, settings.api_key_env.as_ref(), settings.timeout_ms)?;
        Ok(Self {
            space,
            prefixes: entry.prefixes.clone(),
            normalize: entry.normalize,
            max_tokens: entry.max_tokens,
            settings,
            api,
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

    async fn batch(&self, texts: &[String]) -> Result<Answer, ModelError> {
        let (path, body) = match self.settings.api {
            RemoteApi::Openai => (
                "embeddings",
                json!({"model": self.settings.model, "input": texts, "encoding_format": "float"}),
            ),
            RemoteApi::Tei => {
                ("embed", json!({"inputs": texts, "normalize": self.normalize, "truncate": false}))
            }
        };
        let read = |body: &Value| self.read(body).ok_or("holds no vectors");
        self.checked(self.api.call(path, &body, read).await?, texts.len())
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
            let reason = format!("it answered {texts} texts with {count} vectors");
            return Err(self.api.server.failed(reason));
        }
        for vector in &mut answer.vectors {
            if vector.len() != self.space.dimension {
                return Err(self.api.server.failed(format!(
                    "its vectors have {} dimensions, models.toml says {}",
                    vector.len(),
                    self.space.dimension
                )));
            }
            if vector.iter().any(|number| !number.is_finite()) {
                return Err(self.api.server.failed("it sent a number that is not finite".into()));
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
        lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        let span = embed_span(&self.space.model, texts.len(), lane);
        self.embed_all(texts, role).instrument(span).boxed()
    }
}

#[cfg(test)]
mod tests;
