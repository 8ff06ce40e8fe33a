//! Searches that come again, of a collection that has not changed since.
//!
//! The number that the database raises with every change of a collection's documents, or of the space that
//! searches read ([`Collection::version`]), is part of a key, and each search reads it anew: what is given
//! again is what a search would find, whichever replica changed the collection. Each replica remembers
//! its own. What passages hold is changed with their document only; the time to live bounds what would not be.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use moka::future::Cache;
use uuid::Uuid;

use super::{Query, SearchOutcome, SearchRequest};
use crate::{
    config::{SearchCacheSettings, SearchMode},
    store::{Collection, FoundPassage, SearchEffort, TenantId, VectorIndex},
};

/// What was found; cheap to clone.
#[derive(Clone)]
pub struct RepeatedSearches {
    found: Cache<Key, Arc<SearchOutcome>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// All that decides what a search finds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    tenant: TenantId,
    collection: Uuid,
    version: i64,
    space: String,
    index: VectorIndex,
    text: String,
    mode: SearchMode,
    k: usize,
    /// The bits of the threshold.
    threshold: Option<u32>,
    filter: Option<String>,
}

impl Key {
    /// Absent for what is not kept: pictures, comparisons with every vector, which are asked for to measure, and
    /// what is found while words are still being indexed.
    pub(super) fn of(request: &SearchRequest, mode: SearchMode, collection: &Collection) -> Option<Self> {
        let Query::Text(text) = &request.query else { return None };
        if request.effort == SearchEffort::Exact || collection.filling_words {
            return None;
        }
        Some(Self {
            tenant: request.caller.tenant,
            collection: collection.id,
            version: collection.version,
            space: collection.space.id.clone(),
            index: collection.index.clone(),
            text: text.clone(),
            mode,
            k: request.k,
            threshold: request.threshold.map(f32::to_bits),
            filter: request.filter.as_ref().map(|filter| format!("{filter:?}")),
        })
    }
}

impl RepeatedSearches {
    pub fn new(settings: &SearchCacheSettings) -> Self {
        let found = Cache::builder()
            .max_capacity(settings.max_bytes)
            .weigher(|key: &Key, found: &Arc<SearchOutcome>| bytes_of(key, found))
            .time_to_live(Duration::from_secs(settings.ttl_s.get().into()))
            .build();
        Self { found, counts: Arc::default() }
    }

    /// What this search found before; `collection` is how it is now.
    pub(super) async fn get(&self, key: &Key, collection: &Collection) -> Option<SearchOutcome> {
        let found = self.found.get(key).await;
        let count = if found.is_some() { &self.counts.hits } else { &self.counts.misses };
        count.fetch_add(1, Relaxed);
        // What it took before is not what it takes now.
        let (embed_time, search_time) = (Duration::ZERO, Duration::ZERO);
        let collection = collection.clone();
        found.map(|found| SearchOutcome { collection, embed_time, search_time, ..found.as_ref().clone() })
    }

    pub(super) async fn put(&self, key: Key, found: &SearchOutcome) {
        // In another mode than was asked for: the words of its collection are not indexed yet.
        if found.mode == key.mode {
            self.found.insert(key, Arc::new(found.clone())).await;
        }
    }

    /// Searches that were given again, and those that were made, since the start.
    pub fn counts(&self) -> (u64, u64) {
        (self.counts.hits.load(Relaxed), self.counts.misses.load(Relaxed))
    }
}

/// What a search takes in memory (an estimate).
fn bytes_of(key: &Key, found: &SearchOutcome) -> u32 {
    const ENTRY: usize = 800;
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let of_passage = |passage: &FoundPassage| {
        let labels = [&passage.external_id, &passage.title, &passage.source, &passage.heading];
        let labels: usize = labels.into_iter().map(length).sum();
        size_of::<FoundPassage>() + passage.content.len() + labels + 2 * passage.metadata.to_string().len()
    };
    let passages: usize = found.passages.iter().map(of_passage).sum();
    let bytes =
        ENTRY + key.text.len() + length(&key.filter) + size_of_val(found.vector.as_slice()) + passages;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
