//! `[[reranker]]`: what tells how well a passage answers a question.

use serde::Deserialize;

use super::{
    PinnedFile, Precision, Source,
    embedder::{check_hub_files, check_server, thirty_two, twenty_seconds},
};

/// What a reranker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RerankerKind {
    /// A BERT or XLM-RoBERTa encoder of pairs with one label, run in this process.
    CrossEncoder,
    /// Another server.
    Remote,
}

/// `[[reranker]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RerankerEntry {
    pub name: String,
    pub kind: RerankerKind,
    #[serde(default)]
    pub licence: String,
    /// Longest pair of query and text that is read whole, in tokens; `cross_encoder` only.
    #[serde(default = "five_hundred_twelve")]
    pub max_tokens: usize,
    #[serde(default)]
    pub precision: Precision,
    #[serde(default)]
    pub files: Vec<PinnedFile>,
    #[serde(default)]
    pub sources: Vec<Source>,
    /// The server of a `remote` reranker.
    pub remote: Option<RerankerServer>,
}

/// The API of a reranking server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RerankApi {
    /// text-embeddings-inference: `POST {base_url}/rerank` with `texts`.
    Tei,
    /// Cohere, and what speaks as it does (Jina, Infinity, vLLM): `POST {base_url}/rerank` with `documents`.
    Cohere,
}

/// `[reranker.remote]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RerankerServer {
    pub api: RerankApi,
    pub base_url: url::Url,
    /// What the server calls the model; TEI serves one and wants none.
    #[serde(default)]
    pub model: String,
    /// Environment variable with the key; absent for a server that wants none.
    pub api_key_env: Option<String>,
    /// Longest wait for one batch, all its attempts together.
    #[serde(default = "twenty_seconds")]
    pub timeout_ms: u64,
    /// Texts of one call.
    #[serde(default = "thirty_two")]
    pub batch: usize,
}

/// `[routes.rerank]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RerankRoute {
    /// The first that works scores a list.
    pub candidates: Vec<String>,
}

impl RerankerEntry {
    pub(super) fn check(&self) -> Result<(), String> {
        let wrong = |message: &str| Err(format!("reranker `{}`: {message}", self.name));
        match (self.kind, &self.remote) {
            (RerankerKind::Remote, None) => wrong("kind `remote` needs a table [reranker.remote]"),
            (RerankerKind::Remote, Some(_)) if !self.files.is_empty() || !self.sources.is_empty() => {
                wrong("kind `remote` has neither files nor sources")
            }
            (RerankerKind::Remote, Some(remote)) => remote.check().or_else(wrong),
            (RerankerKind::CrossEncoder, Some(_)) => wrong("[reranker.remote] belongs to kind `remote`"),
            (RerankerKind::CrossEncoder, None) => {
                if self.max_tokens < 8 {
                    return wrong("max_tokens is too small");
                }
                check_hub_files(&self.files).or_else(|message| wrong(&message))?;
                super::catalog::check_files(&self.name, &self.files, &self.sources)
            }
        }
    }
}

impl RerankerServer {
    fn check(&self) -> Result<(), &'static str> {
        check_server(&self.base_url, self.batch, self.timeout_ms)?;
        if self.api == RerankApi::Cohere && self.model.is_empty() {
            return Err("remote.model is missing: the server's name of the model");
        }
        Ok(())
    }
}

fn five_hundred_twelve() -> usize {
    512
}
