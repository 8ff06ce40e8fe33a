//! Whether a space that a collection goes over to finds what the one before finds.
//!
//! Measured on the collection's own documents: queries, and which documents answer them. Both spaces hold
//! the same documents at that time, so the figures of the one are the baseline of the other.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Caller, Rag, RagError,
    evaluate::{Comparison, scores},
    search::{MAX_K, Query, SearchRequest, check_query},
    usage::{Operation, Tokens},
};
use crate::{
    models::{Lane, TextRole},
    store::{Collection, FoundPassage, SearchEffort},
};

/// Most queries of a gate.
pub const MAX_QUERIES: usize = 1000;
/// Most documents that answer one query, and most that are looked at for it.
pub const MAX_DOCUMENTS: usize = 100;
/// Passages that are looked at for each document: one may have several among the best.
const PASSAGES_EACH: usize = 5;
/// Queries embedded at once.
const BATCH: usize = 64;

/// Queries with the documents that answer them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Documents that are looked at for each query.
    #[serde(default = "ten")]
    pub k: usize,
    /// By how much recall and nDCG may fall, 0 to 1.
    #[serde(default = "hundredth")]
    pub tolerance: f64,
    pub queries: Vec<JudgedQuery>,
}

/// A query with the documents that answer it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgedQuery {
    pub query: String,
    /// Their `external_id`s.
    pub relevant: Vec<String>,
}

fn ten() -> usize {
    10
}

fn hundredth() -> f64 {
    0.01
}

/// Parses a gate: `{k, tolerance, queries: [{query, relevant}]}`. An error names the place and what is
/// allowed there.
pub fn parse_gate(value: &Value) -> Result<Gate, RagError> {
    if !value.is_object() {
        return Err(RagError::Invalid("gate: must be an object with `queries`".into()));
    }
    let gate = Gate::deserialize(value).map_err(|error| RagError::Invalid(format!("gate: {error}")))?;
    gate.check()?;
    Ok(gate)
}

/// [`parse_gate`] for JSON as text.
pub fn parse_gate_text(text: &str) -> Result<Gate, RagError> {
    let value = serde_json::from_str(text)
        .map_err(|error| RagError::Invalid(format!("gate: not valid JSON: {error}")))?;
    parse_gate(&value)
}

impl Gate {
    fn check(&self) -> Result<(), RagError> {
        let within = |field: &str, count: usize, most: usize| match (1..=most).contains(&count) {
            true => Ok(()),
            false => Err(RagError::Invalid(format!("gate.{field}: must be 1 to {most}, is {count}"))),
        };
        within("k", self.k, MAX_DOCUMENTS)?;
        within("queries", self.queries.len(), MAX_QUERIES)?;
        if !(0.0..1.0).contains(&self.tolerance) {
            return Err(RagError::Invalid(format!(
                "gate.tolerance: must be at least 0 and less than 1, is {}",
                self.tolerance
            )));
        }
        for (index, judged) in self.queries.iter().enumerate() {
            check_query(&format!("gate.queries[{index}].query"), &judged.query)?;
            within(&format!("queries[{index}].relevant"), judged.relevant.len(), MAX_DOCUMENTS)?;
        }
        Ok(())
    }
}

impl Rag {
    /// Refuses judgements about documents that the collection does not have: no space could find them.
    pub(super) async fn check_gate(
        &self,
        caller: Caller,
        collection: &Collection,
        gate: &Gate,
    ) -> Result<(), RagError> {
        let judged = gate.queries.iter().flat_map(|judged| judged.relevant.iter().cloned());
        let mut judged: Vec<String> = judged.collect::<HashSet<_>>().into_iter().collect();
        judged.sort();
        let unknown = self.store.unknown_external_ids(caller.tenant, collection, &judged).await?;
        match unknown.first() {
            None => Ok(()),
            Some(first) => Err(RagError::Invalid(format!(
                "gate: {} of the {} documents judged are not in collection `{}`, the first is `{first}`; \
                 `relevant` takes the external_id of documents",
                unknown.len(),
                judged.len(),
                collection.name
            ))),
        }
    }

    /// Fails with [`RagError::Reembedding`], which says by how much, when the space that is being filled finds
    /// less than the live one. Both embedders' work is charged to the caller.
    pub(super) async fn pass_gate(
        &self,
        caller: Caller,
        collection: &Collection,
        gate: &Gate,
    ) -> Result<(), RagError> {
        let Some(filled) = collection.when_switched() else { return Ok(()) };
        let before = self.measure(caller, collection, gate).await?;
        let now = self.measure(caller, &filled, gate).await?;
        let (live, next) = (&collection.space.id, &filled.space.id);
        if before[0] == 0.0 {
            return Err(RagError::Reembedding(format!(
                "the gate measures nothing: no search of {live} finds a document of `relevant`; correct the \
                 judgements and start again, or cancel the re-embedding"
            )));
        }
        let figures = [format!("recall@{}", gate.k), format!("nDCG@{}", gate.k)];
        let compared = figures.into_iter().zip(before.into_iter().zip(now));
        let compared: Vec<_> = compared
            .map(|(figure, (before, now))| Comparison {
                subject: collection.name.clone(),
                figure,
                before,
                now,
                tolerance: gate.tolerance,
            })
            .collect();
        let told = |chosen: &dyn Fn(&&Comparison) -> bool| {
            let chosen = compared.iter().filter(chosen);
            chosen.map(Comparison::to_string).collect::<Vec<_>>().join("; ")
        };
        let fell = told(&|comparison| comparison.fell());
        if fell.is_empty() {
            tracing::info!("{next} passes the gate of collection {}: {}", collection.name, told(&|_| true));
            return Ok(());
        }
        let queries = gate.queries.len();
        Err(RagError::Reembedding(format!(
            "the gate refuses {next}: of {queries} queries {fell}. Searches read {live} as before; start without \
             a gate to go over all the same, or cancel the re-embedding"
        )))
    }

    /// Recall and nDCG of the first `k` documents, means over the queries.
    async fn measure(
        &self,
        caller: Caller,
        collection: &Collection,
        gate: &Gate,
    ) -> Result<[f64; 2], RagError> {
        let embedder = self.embedder_of(collection).await?;
        let mut sums = [0.0; 2];
        for batch in gate.queries.chunks(BATCH) {
            let texts = batch.iter().map(|judged| judged.query.clone()).collect();
            let embedded = embedder.embed(texts, TextRole::Query, Lane::Bulk).await?;
            let tokens = Tokens::embedded(embedded.tokens.iter().sum());
            self.ledger().record_beside(caller, Operation::Reembed, &collection.space.model, tokens);
            for (judged, vector) in batch.iter().zip(&embedded.vectors) {
                let ranked = self.ranked_documents(caller, collection, judged, gate.k, vector).await?;
                let ranked: Vec<&str> = ranked.iter().map(String::as_str).collect();
                let relevant: HashMap<String, f64> =
                    judged.relevant.iter().map(|id| (id.clone(), 1.0)).collect();
                sums[0] += scores::recall(&ranked, &relevant, gate.k);
                sums[1] += scores::ndcg(&ranked, &relevant, gate.k);
            }
        }
        Ok(sums.map(|sum| sum / gate.queries.len() as f64))
    }

    /// External ids of the documents found, best first. All vectors are compared: it is the space that is
    /// measured, and the new one's index may be missing still.
    async fn ranked_documents(
        &self,
        caller: Caller,
        collection: &Collection,
        judged: &JudgedQuery,
        k: usize,
        vector: &[f32],
    ) -> Result<Vec<String>, RagError> {
        let request = SearchRequest {
            caller,
            collection: Some(collection.name.clone()),
            query: Query::Text(judged.query.clone()),
            k: (k * PASSAGES_EACH).min(MAX_K),
            mode: None,
            threshold: Some(-1.0),
            filter: None,
            effort: SearchEffort::Exact,
            rerank: None,
        };
        let mode = self.mode_of(&request)?;
        let (_, passages, _) = self.find_passages(&request, mode, collection, vector).await?;
        let mut seen = HashSet::new();
        let documents = passages.iter().filter(|passage| seen.insert(passage.document_id));
        Ok(documents.map(name_of).take(k).collect())
    }
}

/// What judgements call its document; one without a name is none of theirs.
fn name_of(passage: &FoundPassage) -> String {
    passage.external_id.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_gate_says_what_is_wrong_with_it() {
        let query = json!({"query": "q", "relevant": ["d"]});
        let gate = parse_gate(&json!({"queries": [query]})).unwrap();
        assert_eq!((gate.k, gate.tolerance), (10, 0.01));
        for (value, said) in [
            (json!([]), "gate: must be an object with `queries`"),
            (json!({}), "missing field `queries`"),
            (json!({"queries": []}), "gate.queries: must be 1 to 1000, is 0"),
            (json!({"queries": [query], "k": 0}), "gate.k: must be 1 to 100, is 0"),
            (json!({"queries": [query], "tolerance": 1.5}), "gate.tolerance: must be at least 0"),
            (json!({"queries": [query], "tolerence": 0.1}), "unknown field `tolerence`"),
            (json!({"queries": [{"query": " ", "relevant": ["d"]}]}), "gate.queries[0].query: is empty"),
            (json!({"queries": [{"query": "q", "relevant": []}]}), "gate.queries[0].relevant: must be 1"),
        ] {
            let told = parse_gate(&value).unwrap_err().to_string();
            assert!(told.contains(said), "{told}");
        }
        assert!(parse_gate_text("{").unwrap_err().to_string().contains("gate: not valid JSON"));
    }
}
