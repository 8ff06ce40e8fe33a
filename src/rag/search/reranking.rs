//! The best of what was found, read again by a reranker.
//!
//! The order before is at hand all the while, so a reranker that fails or takes too long costs the better
//! order, never the search: the outcome tells of it.

use std::time::{Duration, Instant};

use super::{Query, SearchOutcome, SearchRequest};
use crate::{
    config::MAX_RERANK_CANDIDATES,
    models::{ModelError, deadline::Deadline, rerankers::Loaded},
    rag::{Rag, RagError, rerank::Reranked, usage::Operation},
    store::FoundPassage,
};

/// That a reranker reads the best passages again, and how.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reranking {
    /// An entry of the catalog; absent: the route's choice.
    pub model: Option<String>,
    /// Passages that it reads, those found first; absent: `search.rerank.candidates`. What was found beyond
    /// them follows in the order before.
    pub candidates: Option<usize>,
    /// Longest wait for it, where that is less than `search.rerank.timeout_ms`.
    pub within: Option<Duration>,
}

/// What became of a reranking.
#[derive(Debug, Clone)]
pub struct RerankOutcome {
    /// Passages that were to be read.
    pub candidates: usize,
    pub time: Duration,
    /// Or why the passages are in the order before.
    pub result: Result<RerankedBy, ModelError>,
}

/// Who reranked, and what was not read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RerankedBy {
    /// Name of the catalog entry; absent: there was nothing to read.
    pub model: Option<String>,
    /// Places, among the passages as they are now, of those longer than the model reads; only their
    /// beginning counted.
    pub truncated: Vec<usize>,
}

/// A reranking that a request asks for and that can be had.
pub(super) struct Stage<'a> {
    rerankers: Vec<&'a Loaded>,
    name: &'a str,
    query: &'a str,
    candidates: usize,
    limit: Duration,
}

impl Rag {
    /// What the request asks for; none where it does not.
    ///
    /// Fails with [`RagError::UnknownModel`] where no reranker can be meant, and with [`RagError::Invalid`]
    /// for an image and a number of candidates that is not allowed.
    pub(super) fn rerank_stage<'a>(
        &'a self,
        request: &'a SearchRequest,
    ) -> Result<Option<Stage<'a>>, RagError> {
        let Some(Reranking { model, candidates, within }) = &request.rerank else { return Ok(None) };
        let Query::Text(query) = &request.query else {
            return Err(RagError::Invalid(
                "rerank: an image has no words that a reranker could read; search by it without".into(),
            ));
        };
        let settings = &self.catalog.search.rerank;
        let candidates = candidates.unwrap_or(settings.candidates);
        if !(1..=MAX_RERANK_CANDIDATES).contains(&candidates) {
            return Err(RagError::Invalid(format!(
                "rerank.candidates: must be between 1 and {MAX_RERANK_CANDIDATES}, is {candidates}"
            )));
        }
        let rerankers = self.rerankers_for(model.as_deref())?;
        if rerankers.is_empty() {
            return Err(RagError::UnknownModel(
                "rerank: no reranker is set up; add a [[reranker]] to models.toml and name it under \
                 [routes.rerank], or search without"
                    .into(),
            ));
        }
        let limit = Duration::from_millis(settings.timeout_ms);
        let limit = within.map_or(limit, |within| limit.min(within));
        let name = model.as_deref().unwrap_or("rerank");
        Ok(Some(Stage { rerankers, name, query, candidates, limit }))
    }
}

impl Stage<'_> {
    /// How many passages have to be found for `k` results.
    pub(super) fn depth(&self, k: usize) -> usize {
        k.max(self.candidates)
    }

    /// Reranks what was found, keeps `k`, and charges the caller.
    pub(super) async fn run(&self, rag: &Rag, request: &SearchRequest, found: &mut SearchOutcome) {
        let started = Instant::now();
        let readable: Vec<usize> = (0..found.passages.len().min(self.candidates))
            .filter(|index| !found.passages[*index].content.trim().is_empty())
            .collect();
        let texts: Vec<String> =
            readable.iter().map(|index| found.passages[*index].content.clone()).collect();
        let result = match texts.is_empty() {
            true => Ok(RerankedBy { model: None, truncated: Vec::new() }),
            false => self.score(rag, &texts).await.map(|reranked| {
                let tokens = reranked.tokens(self.query, &texts);
                rag.ledger().record_beside(request.caller, Operation::Rerank, &reranked.model, tokens);
                let truncated = reorder(&mut found.passages, &readable, &reranked);
                let kept = truncated.into_iter().filter(|place| *place < request.k).collect();
                RerankedBy { model: Some(reranked.model), truncated: kept }
            }),
        };
        if let Err(error) = &result {
            tracing::warn!(%error, "passages stay in the order before reranking: {error}");
        }
        found.passages.truncate(request.k);
        found.rerank = Some(RerankOutcome { candidates: texts.len(), time: started.elapsed(), result });
    }

    /// Takes half of what the caller's deadline leaves at most: the passages are to be had without.
    async fn score(&self, rag: &Rag, texts: &[String]) -> Result<Reranked, ModelError> {
        let left = Deadline::current().map(|deadline| deadline.left() / 2);
        let deadline = Deadline::after(left.map_or(self.limit, |left| left.min(self.limit)));
        let scored = deadline.hold(rag.scored(&self.rerankers, self.query, texts)).await;
        scored.unwrap_or_else(|| Err(deadline.missed(self.name.to_owned())))
    }
}

/// Puts what was read first, best first, and the rest behind it as it was; `readable` are the places of
/// the texts. Gives the new places of those that were not read whole.
fn reorder(passages: &mut Vec<FoundPassage>, readable: &[usize], reranked: &Reranked) -> Vec<usize> {
    let relevance = &reranked.relevance;
    let order = reranked.order();
    let truncated = (0..order.len()).filter(|place| relevance.truncated.contains(&order[*place])).collect();
    let mut left: Vec<Option<FoundPassage>> = passages.drain(..).map(Some).collect();
    for text in order {
        if let Some(mut passage) = left[readable[text]].take() {
            passage.scores.rerank = Some(relevance.scores[text]);
            passages.push(passage);
        }
    }
    passages.extend(left.into_iter().flatten());
    truncated
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Relevance;

    #[test]
    fn what_was_read_comes_first_and_the_rest_keeps_its_order() {
        let passage = |text: &str| FoundPassage { content: text.into(), ..FoundPassage::sample() };
        let mut passages: Vec<_> = ["a", "", "b", "c", "d"].map(passage).into();
        let raw = vec![-1.0, 4.0, 0.5];
        let relevance = Relevance { scores: vec![0.27, 0.98, 0.62], raw, truncated: vec![0, 1], tokens: 9 };
        let reranked = Reranked { model: "m".into(), relevance };
        let truncated = reorder(&mut passages, &[0, 2, 3], &reranked);
        let texts: Vec<_> = passages.iter().map(|passage| passage.content.as_str()).collect();
        assert_eq!(texts, ["b", "c", "a", "", "d"]);
        assert_eq!(truncated, [0, 2]);
        let scores: Vec<_> = passages.iter().map(|passage| passage.scores.rerank).collect();
        assert_eq!(scores, [Some(0.98), Some(0.62), Some(0.27), None, None]);
    }
}
