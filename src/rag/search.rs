//! The passages nearest to a query.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Caller, DEFAULT_COLLECTION, Rag, RagError,
    pictures::image_vector,
    reembed::LOOK_UPS,
    usage::{Operation, Tokens},
};
use crate::{
    config::EmbeddingSpace,
    models::{Embedder, EncodedImage, Lane, TextRole},
    store::{
        Collection, Filter, FoundPassage, NearestPassages, PassageQuery, SearchEffort, SearchPlan,
        StoreError, TenantId,
    },
};

/// Most results of one search.
pub const MAX_K: usize = 1000;
/// Longest query, in bytes: far over what any model reads.
pub const MAX_QUERY_BYTES: usize = 32 << 10;

/// What is looked for, and where.
#[derive(Debug, Clone)]
pub struct SearchRequest {
    pub caller: Caller,
    /// Absent: the collection `default`.
    pub collection: Option<String>,
    pub query: Query,
    pub k: usize,
    /// Absent: the space's `min_similarity`.
    pub threshold: Option<f32>,
    pub filter: Option<Filter>,
    pub effort: SearchEffort,
}

/// What a search compares with.
#[derive(Debug, Clone)]
pub enum Query {
    Text(String),
    /// Only where the collection's model reads images.
    Image(EncodedImage),
}

impl From<String> for Query {
    fn from(text: String) -> Self {
        Query::Text(text)
    }
}

/// What was found, best first.
#[derive(Debug, Clone)]
pub struct SearchOutcome {
    pub passages: Vec<FoundPassage>,
    pub plan: SearchPlan,
    pub collection: Collection,
    /// The query's vector, in the collection's space.
    pub vector: Vec<f32>,
    /// Passages of a lower similarity were left out.
    pub min_similarity: f32,
    /// Tokens of the query.
    pub tokens: usize,
    pub embed_time: Duration,
    pub search_time: Duration,
}

impl Rag {
    /// Finds passages. The query is embedded again when the collection went over to another space meanwhile.
    pub async fn search(&self, request: &SearchRequest) -> Result<SearchOutcome, RagError> {
        request.check()?;
        self.ledger().admit(request.caller).await?;
        let found = self.find(request).await?;
        let tokens = Tokens::embedded(found.tokens);
        self.ledger().record(request.caller, Operation::Search, &found.collection.space.model, tokens);
        Ok(found)
    }

    /// [`Rag::search`] as a part of something else, which checks the request, admits and charges the caller.
    pub(super) async fn find(&self, request: &SearchRequest) -> Result<SearchOutcome, RagError> {
        for _ in 1..LOOK_UPS {
            match self.search_space(request).await {
                Err(RagError::Store(StoreError::SpacesChanged(_))) => {}
                found => return found,
            }
        }
        self.search_space(request).await
    }

    /// Searches the space that is live now.
    async fn search_space(&self, request: &SearchRequest) -> Result<SearchOutcome, RagError> {
        let collection =
            self.collection_or_default(request.caller.tenant, request.collection.as_deref()).await?;
        let embedder = self.embedder_of(&collection).await?;
        let min_similarity = request.threshold.unwrap_or_else(|| self.min_similarity(&collection));
        let started = Instant::now();
        let waiting = self.load.enter();
        let (vector, tokens) = query_vector(embedder.as_ref(), &request.query).await?;
        drop(waiting);
        let embed_time = started.elapsed();
        let started = Instant::now();
        let NearestPassages { passages, plan } = self
            .store
            .nearest_passages(PassageQuery {
                tenant: request.caller.tenant,
                collection: &collection,
                vector: vector.clone(),
                k: request.k,
                min_similarity,
                filter: request.filter.as_ref(),
                effort: request.effort,
            })
            .await?;
        let search_time = started.elapsed();
        Ok(SearchOutcome {
            passages,
            plan,
            collection,
            vector,
            min_similarity,
            tokens,
            embed_time,
            search_time,
        })
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
        self.embedder_of_space(collection, &collection.space).await
    }

    /// The embedder of a space that the collection holds.
    pub(super) async fn embedder_of_space(
        &self,
        collection: &Collection,
        space: &EmbeddingSpace,
    ) -> Result<Arc<dyn Embedder>, RagError> {
        let found = self.embedders.of_space(&space.id).await;
        Ok(found.ok_or_else(|| self.space_mismatch(collection, space))??)
    }

    /// Whether a model of the catalog makes vectors of the collection's space; none is loaded for it.
    pub(super) fn check_space(&self, collection: &Collection) -> Result<(), RagError> {
        match self.embedders.spaces().any(|space| space == collection.space.id) {
            true => Ok(()),
            false => Err(self.space_mismatch(collection, &collection.space)),
        }
    }

    fn space_mismatch(&self, collection: &Collection, space: &EmbeddingSpace) -> RagError {
        RagError::SpaceMismatch {
            collection: collection.name.clone(),
            stored: space.id.clone(),
            known: self.embedders.spaces().collect::<Vec<_>>().join(", "),
        }
    }

    fn min_similarity(&self, collection: &Collection) -> f32 {
        self.catalog.embedder(&collection.space.model).map_or(-1.0, |entry| entry.min_similarity)
    }
}

impl SearchRequest {
    fn check(&self) -> Result<(), RagError> {
        if let Query::Text(text) = &self.query {
            check_query("query", text)?;
        }
        if self.k == 0 || self.k > MAX_K {
            return Err(RagError::Invalid(format!("k: must be between 1 and {MAX_K}, is {}", self.k)));
        }
        match self.threshold.filter(|given| !(-1.0..=1.0).contains(given)) {
            Some(threshold) => {
                Err(RagError::Invalid(format!("threshold: must be between -1 and 1, is {threshold}")))
            }
            None => Ok(()),
        }
    }
}

/// The vector of a query or a question, and the tokens read.
async fn query_vector(embedder: &dyn Embedder, query: &Query) -> Result<(Vec<f32>, usize), RagError> {
    match query {
        Query::Text(text) => {
            let texts = vec![text.clone()];
            let mut embeddings = embedder.embed(texts, TextRole::Query, Lane::Interactive).await?;
            Ok((embeddings.vectors.pop().unwrap_or_default(), embeddings.tokens.iter().sum()))
        }
        Query::Image(image) => Ok((image_vector(embedder, image.clone(), Lane::Interactive).await?, 0)),
    }
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
