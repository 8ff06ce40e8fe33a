//! The rerankers of the catalog, and which of them a request goes to.

use std::sync::Arc;

use tracing::Instrument;

use super::{Lane, ModelError, Relevance, Reranker, scheduler::LaneStatus};
use crate::telemetry::SPAN;

/// A reranker, or why there is none.
pub type Loaded = Result<Arc<dyn Reranker>, ModelError>;

/// Those that the catalog names.
#[derive(Default)]
pub struct Rerankers {
    entries: Vec<(String, Loaded)>,
    /// Names of the route, in order.
    route: Vec<String>,
}

impl Rerankers {
    /// `entries` by name; `route` names those that serve requests without a model, in order.
    pub fn new(entries: Vec<(String, Loaded)>, route: Vec<String>) -> Self {
        Self { entries, route }
    }

    /// Names of those that can be asked for.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter(|(_, loaded)| loaded.is_ok()).map(|(name, _)| name.as_str())
    }

    /// Fails when a thread of one of them is not well.
    pub fn check_alive(&self) -> Result<(), ModelError> {
        let loaded = self.entries.iter().filter_map(|(_, loaded)| loaded.as_ref().ok());
        loaded.into_iter().try_for_each(|reranker| reranker.check_alive())
    }

    /// Names with what the queues of each hold, of those that run here.
    pub fn lanes(&self) -> impl Iterator<Item = (&str, LaneStatus)> {
        let loaded =
            self.entries.iter().filter_map(|(name, loaded)| Some((name.as_str(), loaded.as_ref().ok()?)));
        loaded.flat_map(|(name, reranker)| reranker.lanes().into_iter().map(move |lane| (name, lane)))
    }

    /// Those that a request with this model goes to, in order; none: there is no such model.
    pub fn choose(&self, model: Option<&str>) -> Vec<&Loaded> {
        let loaded =
            |name: &str| self.entries.iter().find(|(known, _)| known == name).map(|(_, loaded)| loaded);
        match model {
            Some(name) => loaded(name).into_iter().collect(),
            None => self.route.iter().filter_map(|name| loaded(name)).collect(),
        }
    }
}

/// Asks the first that works: scores of two models are not comparable, but those of one list come
/// from one model.
///
/// Fails with what the last one said, or [`ModelError::NotLoaded`] where `chosen` is empty.
pub async fn first_that_works(
    chosen: &[&Loaded],
    query: &str,
    texts: &[String],
    lane: Lane,
) -> Result<(String, Relevance), ModelError> {
    let mut said = ModelError::NotLoaded {
        model: "rerank".into(),
        reason: "models.toml names no [routes.rerank]".into(),
    };
    for loaded in chosen {
        let reranker = match loaded {
            Ok(reranker) => reranker,
            Err(error) => {
                said = error.clone();
                continue;
            }
        };
        let span = tracing::info_span!(target: SPAN, "rerank", model = reranker.name(), items = texts.len());
        match reranker.rerank(query.to_owned(), texts.to_vec(), lane).instrument(span).await {
            Ok(relevance) => return Ok((reranker.name().to_owned(), relevance)),
            Err(error) => {
                tracing::warn!(reranker = reranker.name(), %error, "a reranker failed: {error}");
                said = error;
            }
        }
    }
    Err(said)
}
