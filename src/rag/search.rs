//! The passages nearest to a query.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{DEFAULT_COLLECTION, Rag, RagError};
use crate::{
    models::{Embedder, Lane, TextRole},
    store::{Collection, Filter, FoundPassage, PassageQuery, SearchEffort, TenantId},
};

/// Most results of one search.
pub const MAX_K: usize = 1000;
/// Longest query, in bytes: far over what any model reads.
pub const MAX_QUERY_BYTES: usize = 32 << 10;

/// What is looked for, and where.
#[derive(Debug, Clone)]
pub struct SearchRequest {
    pub tenant: TenantId,
    /// Absent: the collection `default`.
    pub collection: Option<String>,
    pub query: String,
    pub k: usize,
    /// Absent: the space's `min_similarity`.
    pub threshold: Option<f32>,
    pub filter: Option<Filter>,
    pub effort: SearchEffort,
}

/// What was found, best first.
#[derive(Debug, Clone)]
pub struct SearchOutcome {
    pub passages: Vec<FoundPassage>,
    pub collection: Collection,
    /// The query's vector, in the collection's space.
    pub vector: Vec<f32>,
    pub embed_time: Duration,
    pub search_time: Duration,
}

impl Rag {
    /// Finds passages.
    pub async fn search(&self, request: &SearchRequest) -> Result<SearchOutcome, RagError> {
        check_query("query", &request.query)?;
        if request.k == 0 || request.k > MAX_K {
            return Err(RagError::Invalid(format!("k: must be between 1 and {MAX_K}, is {}", request.k)));
        }
        let collection = self.collection_or_default(request.tenant, request.collection.as_deref()).await?;
        let embedder = self.embedder_of(&collection).await?;
        let min_similarity = match request.threshold {
            Some(threshold) if (-1.0..=1.0).contains(&threshold) => threshold,
            Some(threshold) => {
                return Err(RagError::Invalid(format!(
                    "threshold: must be between -1 and 1, is {threshold}"
                )));
            }
            None => self.min_similarity(&collection),
        };
        let started = Instant::now();
        let vector = query_vector(embedder.as_ref(), &request.query).await?;
        let embed_time = started.elapsed();
        let started = Instant::now();
        let passages = self
            .store
            .nearest_passages(PassageQuery {
                tenant: request.tenant,
                collection: &collection,
                vector: vector.clone(),
                k: request.k,
                min_similarity,
                filter: request.filter.as_ref(),
                effort: request.effort,
            })
            .await?;
        Ok(SearchOutcome { passages, collection, vector, embed_time, search_time: started.elapsed() })
    }

    /// The named collection, or `default`.
    pub(super) async fn collection_or_default(
        &self,
        tenant: TenantId,
        name: Option<&str>,
    ) -> Result<Collection, RagError> {
        Ok(self.store.collection(tenant, name.unwrap_or(DEFAULT_COLLECTION)).await?)
    }

    /// The embedder of the collection's space; another one's vectors would not be comparable.
    pub(super) async fn embedder_of(&self, collection: &Collection) -> Result<Arc<dyn Embedder>, RagError> {
        let found = self.embedders.of_space(&collection.space.id).await;
        Ok(found.ok_or_else(|| RagError::SpaceMismatch {
            collection: collection.name.clone(),
            stored: collection.space.id.clone(),
            known: self.embedders.spaces().collect::<Vec<_>>().join(", "),
        })??)
    }

    fn min_similarity(&self, collection: &Collection) -> f32 {
        self.catalog.embedder(&collection.space.model).map_or(-1.0, |entry| entry.min_similarity)
    }
}

/// The vector of a query or a question.
async fn query_vector(embedder: &dyn Embedder, query: &str) -> Result<Vec<f32>, RagError> {
    let mut embeddings = embedder.embed(vec![query.to_owned()], TextRole::Query, Lane::Interactive).await?;
    Ok(embeddings.vectors.pop().unwrap_or_default())
}

/// Refuses an empty, overlong or NUL-bearing text; `field` is named in the message.
pub(super) fn check_query(field: &str, text: &str) -> Result<(), RagError> {
    if text.trim().is_empty() {
        return Err(RagError::Invalid(format!("{field}: is empty")));
    }
    if text.len() > MAX_QUERY_BYTES {
        return Err(RagError::Invalid(format!(
            "{field}: {} bytes long, at most {MAX_QUERY_BYTES} are taken",
            text.len()
        )));
    }
    if text.contains('\0') {
        return Err(RagError::Invalid(format!("{field}: holds the character NUL (\\u0000)")));
    }
    Ok(())
}
