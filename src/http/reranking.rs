//! How a search or a question asks for a reranking, and what is said of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{error::ApiError, search::count};
use crate::rag::{
    RagError,
    search::{RerankOutcome, Reranking},
};

/// Whether a reranker reads the best passages again: `true` or `false`, or an object that says how.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "`rerank` must be true, false, or an object with `model` and `candidates`")]
#[schema(example = json!(false))]
pub enum RerankChoice {
    Switch(bool),
    Settings(RerankSettings),
}

/// Which reranker, and how much it reads.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RerankSettings {
    /// A `[[reranker]]` of models.toml; absent: that of `[routes.rerank]`.
    #[schema(example = "ms-marco-MiniLM-L6-v2")]
    model: Option<String>,
    /// Passages that it reads, the best that were found, 1 to 200; absent: `search.rerank.candidates`.
    #[schema(example = 50)]
    candidates: Option<i64>,
}

impl RerankChoice {
    /// What is asked for; none: no reranking.
    pub(super) fn reranking(self) -> Result<Option<Reranking>, ApiError> {
        match self {
            RerankChoice::Switch(false) => Ok(None),
            RerankChoice::Switch(true) => Ok(Some(Reranking::default())),
            RerankChoice::Settings(RerankSettings { model, candidates }) => {
                let candidates =
                    candidates.map(|candidates| count("rerank.candidates", candidates)).transpose()?;
                Ok(Some(Reranking { model, candidates, within: None }))
            }
        }
    }
}

/// What became of a reranking.
#[derive(Debug, Serialize, ToSchema)]
pub struct RerankBody {
    /// The reranker whose order this is; null where it failed, or had nothing to read.
    #[schema(example = "ms-marco-MiniLM-L6-v2")]
    model: Option<String>,
    /// Passages that it was given.
    #[schema(example = 50)]
    candidates: usize,
    /// Places, from 0, of results that are longer than it reads: their beginning counted.
    truncated: Vec<usize>,
    /// Why the results are in the order without it; null where they are not.
    pub(super) error: Option<String>,
}

impl From<RerankOutcome> for RerankBody {
    fn from(outcome: RerankOutcome) -> Self {
        let RerankOutcome { candidates, result, time: _ } = outcome;
        match result {
            Ok(by) => Self { model: by.model, candidates, truncated: by.truncated, error: None },
            Err(error) => {
                let error = RagError::from(error);
                let told = match error.is_internal() {
                    true => "the reranker failed inside ragway; its log says why".into(),
                    false => error.to_string(),
                };
                Self { model: None, candidates, truncated: Vec::new(), error: Some(told) }
            }
        }
    }
}
