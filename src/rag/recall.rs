//! How much of what comparing every vector finds is found through an index.

use std::time::{Duration, Instant};

use super::{
    Rag, RagError,
    search::{MAX_K, SearchOutcome, SearchRequest},
};
use crate::store::{
    Collection, Filter, FoundPassage, NearestPassages, PassageQuery, PlanKind, SearchEffort, Store,
    StoreError, TenantId,
};

/// Two of the same similarity are as good as each other.
const TIE: f32 = 1e-6;

/// Searches of a collection against exact ones.
#[derive(Debug, Clone, PartialEq)]
pub struct RecallReport {
    pub queries: usize,
    /// Mean over the queries, 0 to 1.
    pub recall: f64,
    /// That of the worst query.
    pub worst: f64,
    /// How many searches went through the index alone, and how many were exact after it.
    pub through_index: usize,
    pub index_then_exact: usize,
    pub search: Latency,
    pub exact: Latency,
}

/// Times of one kind of search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    pub median: Duration,
    /// 95 of 100 took no longer.
    pub p95: Duration,
}

impl Rag {
    /// The part of the nearest passages that a search for `found`'s vector gives, 0 to 1, whatever
    /// its words add.
    pub async fn measured_recall(
        &self,
        request: &SearchRequest,
        found: &SearchOutcome,
    ) -> Result<f64, RagError> {
        let nearest = async |effort| {
            let request = SearchRequest { effort, ..request.clone() };
            self.nearest(&request, &found.collection, &found.vector, request.k).await
        };
        let (given, exact) = (nearest(request.effort).await?, nearest(SearchEffort::Exact).await?);
        Ok(recall(&given.passages, &exact.passages))
    }
}

/// Searches for `queries` vectors of the collection itself, chosen by chance.
pub async fn measure_recall(
    store: &Store,
    tenant: TenantId,
    collection: &Collection,
    filter: Option<&Filter>,
    k: usize,
    queries: usize,
) -> Result<RecallReport, RagError> {
    if k == 0 || k > MAX_K || queries == 0 {
        return Err(RagError::Invalid(format!("k must be between 1 and {MAX_K}, queries at least 1")));
    }
    let vectors =
        store.sample_vectors(tenant, collection, i64::try_from(queries).unwrap_or(i64::MAX)).await?;
    if vectors.is_empty() {
        return Err(RagError::Invalid(format!(
            "collection `{}` has no passages to search for",
            collection.name
        )));
    }
    let search = async |vector: &Vec<f32>, effort| {
        let started = Instant::now();
        let vector = vector.clone();
        let query = PassageQuery { tenant, collection, vector, k, min_similarity: -1.0, filter, effort };
        let found = store.nearest_passages(query).await?;
        Ok::<(NearestPassages, Duration), StoreError>((found, started.elapsed()))
    };
    let (mut recalls, mut plans) = (Vec::new(), Vec::new());
    let (mut search_times, mut exact_times) = (Vec::new(), Vec::new());
    for vector in &vectors {
        let (found, time) = search(vector, SearchEffort::Indexed).await?;
        let (exact, exact_time) = search(vector, SearchEffort::Exact).await?;
        recalls.push(recall(&found.passages, &exact.passages));
        plans.push(found.plan.kind);
        search_times.push(time);
        exact_times.push(exact_time);
    }
    let counted = |kind| plans.iter().filter(|plan| **plan == kind).count();
    Ok(RecallReport {
        queries: vectors.len(),
        recall: recalls.iter().sum::<f64>() / recalls.len() as f64,
        worst: recalls.iter().copied().fold(1.0, f64::min),
        through_index: counted(PlanKind::Index),
        index_then_exact: counted(PlanKind::IndexThenExact),
        search: Latency::of(search_times),
        exact: Latency::of(exact_times),
    })
}

impl Latency {
    /// Of times of which there is at least one.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
        Self { median: at(50), p95: at(95) }
    }
}

/// Both best first. What is as near as the last of the exact ones is one of them.
fn recall(found: &[FoundPassage], exact: &[FoundPassage]) -> f64 {
    let Some(last) = exact.last() else { return 1.0 };
    let right = found.iter().filter(|passage| passage.similarity >= last.similarity - TIE).count();
    right.min(exact.len()) as f64 / exact.len() as f64
}
