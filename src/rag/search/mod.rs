//! The passages that a query asks for: nearest to it, holding its words, or both; read again by a
//! reranker where the request says so.

mod fusion;
mod repeated;
mod reranking;

pub use repeated::RepeatedSearches;
pub use reranking::{RerankOutcome, RerankedBy, Reranking};

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{Instrument, field::Empty};
use uuid::Uuid;

use super::{
    Caller, DEFAULT_COLLECTION, Rag, RagError,
    pictures::image_vector,
    reembed::LOOK_UPS,
    usage::{Operation, Tokens},
};
use crate::{
    config::{EmbeddingSpace, SearchMode},
    models::{Embedder, EncodedImage, Lane, TextRole},
    store::{
        Collection, Filter, FoundPassage, LexicalMatches, LexicalQuery, NearestPassages, PassageQuery,
        SearchEffort, SearchPlan, StoreError, TenantId,
    },
    telemetry::SPAN,
};
use fusion::{SimilarityScale, fuse};
use repeated::Key;

/// Most results of one search.
pub const MAX_K: usize = 1000;
/// Longest query, in bytes: far over what any model reads.
pub const MAX_QUERY_BYTES: usize = 32 << 10;
/// Passages that a hybrid search takes from each list at least: those that one of them ranks low
/// may be first in both together.
const HYBRID_DEPTH: usize = 50;

/// What is looked for, and where.
#[derive(Debug, Clone)]
pub struct SearchRequest {
    pub caller: Caller,
    /// Absent: the collection `default`.
    pub collection: Option<String>,
    pub query: Query,
    pub k: usize,
    /// Absent: `search.mode` of models.toml, as far as the query and the collection allow it.
    pub mode: Option<SearchMode>,
    /// Of what is found by its vector. Absent: the space's `min_similarity`.
    pub threshold: Option<f32>,
    pub filter: Option<Filter>,
    pub effort: SearchEffort,
    /// Has a reranker put the passages into order. What is looked for, and `threshold`, is as without.
    pub rerank: Option<Reranking>,
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
    /// How they were looked for.
    pub mode: SearchMode,
    /// How their vectors were compared; absent where only words counted.
    pub plan: Option<SearchPlan>,
    pub collection: Collection,
    /// The query's vector, in the collection's space.
    pub vector: Vec<f32>,
    /// Tokens of the query.
    pub tokens: usize,
    pub embed_time: Duration,
    pub search_time: Duration,
    /// Present where the request asks for a reranking.
    pub rerank: Option<RerankOutcome>,
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
        let span = tracing::info_span!(target: SPAN, "search", k = request.k, mode = Empty, results = Empty);
        // Boxed: many wait for a search, each with another future around it.
        let found = Box::pin(self.find_reranked(request)).instrument(span.clone()).await?;
        span.record("mode", found.mode.name()).record("results", found.passages.len());
        Ok(found)
    }

    async fn find_reranked(&self, request: &SearchRequest) -> Result<SearchOutcome, RagError> {
        let Some(stage) = self.rerank_stage(request)? else { return self.find_ranked(request).await };
        let deep = SearchRequest { k: stage.depth(request.k), ..request.clone() };
        let mut found = self.find_ranked(&deep).await?;
        stage.run(self, request, &mut found).await;
        Ok(found)
    }

    /// In the order of vectors and words; as it was found before, where nothing has changed since.
    async fn find_ranked(&self, request: &SearchRequest) -> Result<SearchOutcome, RagError> {
        let tenant = request.caller.tenant;
        let name = request.collection.as_deref().unwrap_or(DEFAULT_COLLECTION);
        let mode = self.mode_of(request)?;
        let mut collection = self.store.recent_collection(tenant, name).await?;
        let key = Key::of(request, name, mode);
        if let Some(key) = &key
            && let Some(before) = self.repeated.get(key).await
        {
            collection = self.store.searched_collection(tenant, name).await?;
            if let Some(found) = self.repeated.again(&before, &collection) {
                return Ok(found);
            }
        }
        let mut looked = 0;
        let found = loop {
            looked += 1;
            match self.search_space(request, mode, collection).await {
                Err(RagError::Store(StoreError::SpacesChanged(_))) if looked < LOOK_UPS => {
                    collection = self.store.searched_collection(tenant, name).await?;
                }
                found => break found?,
            }
        };
        if let Some(key) = key {
            self.repeated.put(key, &found).await;
        }
        Ok(found)
    }

    /// Searches the space that is live as far as is known.
    async fn search_space(
        &self,
        request: &SearchRequest,
        mode: SearchMode,
        collection: Collection,
    ) -> Result<SearchOutcome, RagError> {
        let embedder = self.embedder_of(&collection).await?;
        let started = Instant::now();
        let waiting = self.load.enter();
        let (vector, tokens) = self.query_vector(request.caller.tenant, &embedder, &request.query).await?;
        drop(waiting);
        let embed_time = started.elapsed();
        let started = Instant::now();
        let span = tracing::info_span!(target: SPAN, "database", otel.kind = "client", db.system.name = "postgresql");
        let finding = self.find_passages(request, mode, &collection, &vector);
        let (mode, passages, plan) = finding.instrument(span).await?;
        let search_time = started.elapsed();
        Ok(SearchOutcome {
            passages,
            mode,
            plan,
            collection,
            vector,
            tokens,
            embed_time,
            search_time,
            rerank: None,
        })
    }

    /// The vector of a query or a question, and the tokens read; that of a text may be there from before.
    async fn query_vector(
        &self,
        tenant: TenantId,
        embedder: &Arc<dyn Embedder>,
        query: &Query,
    ) -> Result<(Vec<f32>, usize), RagError> {
        match query {
            Query::Text(text) => {
                let (texts, role) = (vec![text.clone()], TextRole::Query);
                let found = self.cache.embed(tenant.0, embedder, texts, role, Lane::Interactive).await?;
                let mut embeddings = found.embeddings;
                Ok((embeddings.vectors.pop().unwrap_or_default(), embeddings.tokens.iter().sum()))
            }
            Query::Image(image) => {
                Ok((image_vector(embedder.as_ref(), image.clone(), Lane::Interactive).await?, 0))
            }
        }
    }

    /// The mode that is asked for, or the usual one; an image has no words.
    pub(super) fn mode_of(&self, request: &SearchRequest) -> Result<SearchMode, RagError> {
        let mode = request.mode.unwrap_or(self.catalog.search.mode);
        match (&request.query, mode) {
            (Query::Text(_), mode) => Ok(mode),
            (Query::Image(_), SearchMode::Lexical) if request.mode.is_some() => Err(RagError::Invalid(
                "mode: an image has no words; search by it with `dense`, or with a text".into(),
            )),
            (Query::Image(_), _) => Ok(SearchMode::Dense),
        }
    }

    /// Passages with their scores, best first, the mode in which they were found (without a complete
    /// lexical index a hybrid search is a dense one), and how their vectors were compared.
    pub(super) async fn find_passages(
        &self,
        request: &SearchRequest,
        mode: SearchMode,
        collection: &Collection,
        vector: &[f32],
    ) -> Result<(SearchMode, Vec<FoundPassage>, Option<SearchPlan>), RagError> {
        let k = request.k;
        let dense = |k| self.nearest(request, collection, vector, k);
        let lexical = |k| self.by_words(request, collection, vector, k);
        let dense_only = |NearestPassages { mut passages, plan }| {
            passages.truncate(k);
            passages.iter_mut().for_each(|passage: &mut FoundPassage| {
                passage.scores.dense = Some(passage.similarity);
            });
            (SearchMode::Dense, passages, Some(plan))
        };
        match mode {
            SearchMode::Dense => Ok(dense_only(dense(k).await?)),
            SearchMode::Lexical => match lexical(k).await? {
                Some(matches) => Ok((mode, scored(matches), None)),
                None if request.mode.is_none() => Ok(dense_only(dense(k).await?)),
                None => Err(self.no_lexical_index(request.caller.tenant, collection).await?),
            },
            SearchMode::Hybrid => match self.both(request, collection, vector).await? {
                (near, Some(matches)) => {
                    let mut passages = fuse(near.passages, matches, self.similarity_scale(collection));
                    passages.truncate(k);
                    Ok((mode, passages, Some(near.plan)))
                }
                (near, None) => Ok(dense_only(near)),
            },
        }
    }

    /// Both lists of a hybrid search, each document in one version: where one was changed between the
    /// two, they are looked for again.
    async fn both(
        &self,
        request: &SearchRequest,
        collection: &Collection,
        vector: &[f32],
    ) -> Result<(NearestPassages, Option<LexicalMatches>), RagError> {
        let k = request.k.max(HYBRID_DEPTH);
        let mut looked = 0;
        loop {
            looked += 1;
            let dense = self.nearest(request, collection, vector, k);
            let lexical = self.by_words(request, collection, vector, k);
            let (mut near, mut matches) = futures_util::try_join!(dense, lexical)?;
            let outdated = matches.as_mut().is_some_and(|matches| drop_outdated(&mut near, matches));
            if !outdated || looked == LOOK_UPS {
                return Ok((near, matches));
            }
        }
    }

    /// By their vectors alone.
    pub(super) async fn nearest(
        &self,
        request: &SearchRequest,
        collection: &Collection,
        vector: &[f32],
        k: usize,
    ) -> Result<NearestPassages, RagError> {
        let query = PassageQuery {
            tenant: request.caller.tenant,
            collection,
            vector: vector.to_vec(),
            k,
            min_similarity: request.threshold.unwrap_or_else(|| self.min_similarity(collection)),
            filter: request.filter.as_ref(),
            effort: request.effort,
        };
        Ok(self.store.nearest_passages(query).await?)
    }

    /// Absent: there is no lexical index, or no complete one. An image holds no words.
    async fn by_words(
        &self,
        request: &SearchRequest,
        collection: &Collection,
        vector: &[f32],
        k: usize,
    ) -> Result<Option<LexicalMatches>, RagError> {
        let Query::Text(text) = &request.query else { return Ok(None) };
        if !collection.lexical {
            return Ok(None);
        }
        let query = LexicalQuery {
            tenant: request.caller.tenant,
            collection,
            text,
            vector: vector.to_vec(),
            k,
            filter: request.filter.as_ref(),
        };
        Ok(self.store.lexical_matches(query).await?)
    }

    async fn no_lexical_index(
        &self,
        tenant: TenantId,
        collection: &Collection,
    ) -> Result<RagError, StoreError> {
        if !collection.lexical {
            return Ok(RagError::LexicalOff(collection.name.clone()));
        }
        let left = self.store.lexical_backlog(tenant, collection).await?;
        Ok(RagError::NoLexicalIndex { collection: collection.name.clone(), left })
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
        self.similarity_scale(collection).floor
    }

    fn similarity_scale(&self, collection: &Collection) -> SimilarityScale {
        match self.catalog.embedder(&collection.space.model) {
            Some(entry) => SimilarityScale { floor: entry.min_similarity, weight: entry.similarity_weight },
            None => SimilarityScale { floor: -1.0, weight: 1.0 },
        }
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

/// Drops passages of versions of a document that are not the newest of both lists; says whether there were any.
fn drop_outdated(near: &mut NearestPassages, matches: &mut LexicalMatches) -> bool {
    let mut newest: HashMap<Uuid, i64> = HashMap::new();
    for passage in near.passages.iter().chain(matches.passages.iter().map(|(passage, _)| passage)) {
        let version = newest.entry(passage.document_id).or_default();
        *version = passage.document_version.max(*version);
    }
    let before = near.passages.len() + matches.passages.len();
    let is_newest = |passage: &FoundPassage| newest[&passage.document_id] == passage.document_version;
    near.passages.retain(is_newest);
    matches.passages.retain(|(passage, _)| is_newest(passage));
    near.passages.len() + matches.passages.len() < before
}

fn scored(matches: LexicalMatches) -> Vec<FoundPassage> {
    let scored = |(mut passage, score): (FoundPassage, f32)| {
        passage.scores.lexical = Some(score);
        passage
    };
    matches.passages.into_iter().map(scored).collect()
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
