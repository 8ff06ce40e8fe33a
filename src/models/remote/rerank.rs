//! Rerankers that run in another server.

use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use serde_json::{Value, json};

use super::{CONCURRENT, api::Api};
use crate::{
    config::{RerankApi, RerankerEntry, RerankerServer},
    models::{Lane, ModelError, Relevance, Reranker, logistic},
};

/// A client of a server of text-embeddings-inference, or of one that has Cohere's API: Jina, Infinity,
/// vLLM.
pub struct RemoteReranker {
    name: String,
    settings: RerankerServer,
    api: Api,
}

impl RemoteReranker {
    /// A client of the entry's server; nothing is sent yet.
    ///
    /// Fails with [`ModelError::NotLoaded`] when the entry names no server or a variable that is not set.
    pub fn new(entry: &RerankerEntry) -> Result<Self, ModelError> {
        let Some(settings) = entry.remote.clone() else {
            return Err(ModelError::NotLoaded {
                model: entry.name.clone(),
                reason: "models.toml names no server for it".into(),
            });
        };
        let api =
            Api::new(&entry.name, &settings.base_url, settings.api_key_env.as_ref(), settings.timeout_ms)?;
        Ok(Self { name: entry.name.clone(), settings, api })
    }

    async fn run(&self, query: &str, texts: &[String]) -> Result<Relevance, ModelError> {
        let batches: Vec<_> =
            texts.chunks(self.settings.batch).map(|batch| self.batch(query, batch)).collect();
        let answers: Vec<(Vec<f32>, usize)> =
            stream::iter(batches).buffered(CONCURRENT).try_collect().await?;
        let tokens = answers.iter().map(|(_, tokens)| tokens).sum();
        let raw: Vec<f32> = answers.into_iter().flat_map(|(scores, _)| scores).collect();
        let scores = match self.settings.api {
            RerankApi::Tei => raw.iter().copied().map(logistic).collect(),
            RerankApi::Cohere => raw.clone(),
        };
        Ok(Relevance { scores, raw, truncated: Vec::new(), tokens })
    }

    /// The scores of a batch in its order, and its tokens where the server tells.
    async fn batch(&self, query: &str, texts: &[String]) -> Result<(Vec<f32>, usize), ModelError> {
        let body = match self.settings.api {
            RerankApi::Tei => json!({"query": query, "texts": texts, "raw_scores": true, "truncate": true}),
            RerankApi::Cohere => json!({
                "model": self.settings.model, "query": query, "documents": texts, "top_n": texts.len(),
                "return_documents": false,
            }),
        };
        self.api.call("rerank", &body, |answer| self.read(answer, texts.len())).await
    }

    fn read(&self, answer: &Value, texts: usize) -> Result<(Vec<f32>, usize), &'static str> {
        let (results, score) = match self.settings.api {
            RerankApi::Tei => (answer, "score"),
            RerankApi::Cohere => (&answer["results"], "relevance_score"),
        };
        let results = results.as_array().ok_or("holds no results")?;
        let mut scores = vec![f32::NAN; texts];
        for result in results {
            let place = result["index"].as_u64().and_then(|index| usize::try_from(index).ok());
            let place =
                place.and_then(|index| scores.get_mut(index)).ok_or("names a text that was not sent")?;
            #[expect(clippy::cast_possible_truncation, reason = "scores are of single precision")]
            let score = result[score].as_f64().ok_or("holds no scores")? as f32;
            *place = score;
        }
        if scores.iter().any(|score| !score.is_finite()) {
            return Err("lacks the score of a text");
        }
        let tokens = answer["usage"]["total_tokens"].as_u64().unwrap_or(0);
        Ok((scores, usize::try_from(tokens).unwrap_or(0)))
    }
}

impl Reranker for RemoteReranker {
    fn name(&self) -> &str {
        &self.name
    }

    fn rerank(
        &self,
        query: String,
        texts: Vec<String>,
        _lane: Lane,
    ) -> BoxFuture<'_, Result<Relevance, ModelError>> {
        async move { self.run(&query, &texts).await }.boxed()
    }
}
