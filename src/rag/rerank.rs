//! A query and texts in, how well each answers it out.

use super::{
    Caller, Rag, RagError,
    embed::check_texts,
    search::check_query,
    usage::{Operation, Tokens},
};
use crate::models::{Lane, Relevance, rerankers::first_that_works};

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
        let chosen = self.rerankers.choose(model);
        if let (Some(model), []) = (model, chosen.as_slice()) {
            let known: Vec<&str> = self.rerankers.names().collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(RagError::UnknownModel(format!("Unknown reranking model: {model}. Known: {known}")));
        }
        self.ledger().admit(caller).await?;
        let _waiting = self.load.enter();
        let (model, relevance) = first_that_works(&chosen, query, texts, Lane::Interactive).await?;
        self.ledger().record(caller, Operation::Rerank, &model, Tokens::embedded(relevance.tokens));
        Ok(Reranked { model, relevance })
    }
}
