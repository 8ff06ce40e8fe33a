//! Searches that come again, of a collection that has not changed since.
//!
//! The number that the database raises with every change of a collection's documents, or of the space that
//! searches read ([`Collection::version`]), is kept with what was found, and read anew before that is given
//! again: it is what a search would find, whichever replica changed the collection. The version that is kept
//! may be older than the passages, never newer. Each replica remembers
//! its own. What passages hold is changed with their document only; the time to live bounds what would not be.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use moka::future::Cache;

use super::{Query, SearchOutcome, SearchRequest};
use crate::{
    config::{SearchCacheSettings, SearchMode},
    store::{Collection, FoundPassage, SearchEffort, TenantId},
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

/// All that decides what a search finds in a collection as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    tenant: TenantId,
    collection: String,
    text: String,
    mode: SearchMode,
    k: usize,
    /// The bits of the threshold.
    threshold: Option<u32>,
    filter: Option<String>,
}

impl Key {
    /// Absent for what is not kept: pictures, and comparisons with every vector, which are asked for to measure.
    pub(super) fn of(request: &SearchRequest, collection: &str, mode: SearchMode) -> Option<Self> {
        let Query::Text(text) = &request.query else { return None };
        if request.effort == SearchEffort::Exact {
            return None;
        }
        Some(Self {
            tenant: request.caller.tenant,
            collection: collection.to_owned(),
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

    /// What this search found before: see [`RepeatedSearches::again`].
    pub(super) async fn get(&self, key: &Key) -> Option<Arc<SearchOutcome>> {
        let before = self.found.get(key).await;
        if before.is_none() {
            self.counts.misses.fetch_add(1, Relaxed);
        }
        before
    }

    /// What was found before, where a search would find it in the collection as it is now.
    pub(super) fn again(&self, before: &SearchOutcome, now: &Collection) -> Option<SearchOutcome> {
        let then = &before.collection;
        let same = (then.id, then.version, &then.space.id, &then.index)
            == (now.id, now.version, &now.space.id, &now.index)
            && !now.filling_words;
        let count = if same { &self.counts.hits } else { &self.counts.misses };
        count.fetch_add(1, Relaxed);
        // What it took before is not what it takes now.
        let (embed_time, search_time) = (Duration::ZERO, Duration::ZERO);
        same.then(|| SearchOutcome { collection: now.clone(), embed_time, search_time, ..before.clone() })
    }

    pub(super) async fn put(&self, key: Key, found: &SearchOutcome) {
        // Not while words are still being indexed; nor in another mode than was asked for, which is so because
        // there is no index of words yet.
        if found.mode == key.mode && !found.collection.filling_words {
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
