//! A query and texts in, how well each answers it out.

use super::{
    Caller, Rag, RagError,
    embed::check_texts,
    search::check_query,
    usage::{Operation, Tokens},
};
use crate::models::{
    Lane, ModelError, Relevance, estimate_tokens,
    rerankers::{Loaded, first_that_works},
};

/// Scores with the model that gave them.
#[derive(Debug, Clone)]
pub struct Reranked {
    /// Name of the catalog entry.
    pub model: String,
    pub relevance: Relevance,
}

impl Reranked {
    /// Indices of the texts, best first; of equal ones the earlier.
    pub fn order(&self) -> Vec<usize> {
        let raw = &self.relevance.raw;
        let mut order: Vec<usize> = (0..raw.len()).collect();
        order.sort_by(|&a, &b| raw[b].total_cmp(&raw[a]));
        order
    }

    /// What it read; where its server does not tell, an estimate.
    pub(super) fn tokens(&self, query: &str, texts: &[String]) -> Tokens {
        if self.relevance.tokens > 0 {
            return Tokens::embedded(self.relevance.tokens);
        }
        let asked = estimate_tokens(query);
        let tokens = texts.iter().map(|text| asked + estimate_tokens(text)).sum();
        Tokens { estimated: true, ..Tokens::embedded(tokens) }
    }
}

impl Rag {
    /// Scores texts; `model` names an entry of the catalog, absent it is the route's choice.
    pub async fn rerank(
        &self,
        caller: Caller,
        model: Option<&str>,
        query: &str,
        texts: &[String],
    ) -> Result<Reranked, RagError> {
        check_query("query", query)?;
        check_texts(texts, self.catalog.http.max_texts)?;
        let chosen = self.rerankers_for(model)?;
        self.ledger().admit(caller).await?;
        let reranked = self.scored(&chosen, query, texts).await?;
        self.ledger().record(caller, Operation::Rerank, &reranked.model, reranked.tokens(query, texts));
        Ok(reranked)
    }

    /// Whether models.toml names a route of rerankers.
    pub fn reranks(&self) -> bool {
        !self.rerankers.choose(None).is_empty()
    }

    /// Those that a request with this model goes to, in order; none: models.toml names no route.
    pub(super) fn rerankers_for(&self, model: Option<&str>) -> Result<Vec<&Loaded>, RagError> {
        let chosen = self.rerankers.choose(model);
        if let (Some(model), []) = (model, chosen.as_slice()) {
            let known: Vec<&str> = self.rerankers.names().collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(RagError::UnknownModel(format!("Unknown reranking model: {model}. Known: {known}")));
        }
        Ok(chosen)
    }

    /// Scores texts that were found good, of a caller who was admitted and is still to be charged.
    pub(super) async fn scored(
        &self,
        chosen: &[&Loaded],
        query: &str,
        texts: &[String],
    ) -> Result<Reranked, ModelError> {
        let _waiting = self.load.enter();
        let (model, relevance) = first_that_works(chosen, query, texts, Lane::Interactive).await?;
        Ok(Reranked { model, relevance })
    }
}
