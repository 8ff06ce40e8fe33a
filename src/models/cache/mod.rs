//! Vectors that were computed before.
//!
//! Memory (TinyLFU, weighed by bytes) stands in front of Redis, where one is
//! configured. A key names its owner, the embedding space, the role and the exact
//! bytes of a text, so that no vector of another model, and none of a text that merely
//! looks alike, can be found, and nobody learns which texts others have embedded. Texts that are being computed are waited for, not
//! computed again (`flights`). Redis is never waited for long (`redis`).
//!
//! A vector never changes under its key; the time to live bounds memory, not
//! staleness. One that Redis kept for a while lives as long again in memory.

mod flights;
mod redis;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ::redis::aio::MultiplexedConnection;
use futures_util::{FutureExt, future::try_join_all};
use moka::future::Cache;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Embedder, Embeddings, Lane, ModelError, TextRole, deadline::unlimited};
use crate::config::CacheSettings;
use flights::Flights;
use redis::RedisTier;
pub use redis::forget;

/// The cache; cheap to clone.
#[derive(Clone)]
pub struct EmbeddingCache {
    tiers: Arc<Tiers>,
    flights: Arc<Flights>,
}

/// Vectors of a batch, in the order of its texts.
#[derive(Debug, Clone)]
pub struct CachedEmbeddings {
    pub embeddings: Embeddings,
    /// Indices of texts whose vectors came from memory or Redis.
    pub hits: Vec<usize>,
}

/// Look-ups since the start. Equal texts of one request are one look-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    pub memory: TierCounts,
    /// A look-up that failed is an error, one during an outage is not made.
    pub redis: TierCounts,
}

/// Look-ups of one tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TierCounts {
    pub hits: u64,
    pub misses: u64,
    /// Failed calls and values that are no vector of their space.
    pub errors: u64,
}

/// What is kept of one text.
#[derive(Debug, Clone, PartialEq)]
struct CachedVector {
    vector: Vec<f32>,
    truncated: bool,
    /// Tokens that the model read.
    tokens: u32,
}

/// What a vector is kept under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    owner: Uuid,
    space: Arc<str>,
    role: &'static str,
    /// SHA-256 of the text's bytes.
    digest: [u8; 32],
}

/// A vector and whether it was there before it was asked for.
#[derive(Debug, Clone)]
struct Found {
    value: Arc<CachedVector>,
    hit: bool,
}

impl EmbeddingCache {
    /// An empty cache, with Redis behind it where a URL is given.
    ///
    /// Returns at once: Redis is connected to in the background. Needs a tokio
    /// runtime when there is a URL. Fails only for what is no Redis URL.
    pub fn new(
        settings: &CacheSettings,
        redis_url: Option<&SecretString>,
    ) -> Result<Self, ::redis::RedisError> {
        let ttl = Duration::from_secs(settings.ttl_s.get().into());
        let memory = Cache::builder()
            .max_capacity(settings.max_bytes)
            .weigher(|_, value: &Arc<CachedVector>| bytes_of(value))
            .time_to_live(ttl)
            .build();
        let redis = redis_url.map(|url| RedisTier::open(url, ttl)).transpose()?;
        let tiers = Tiers { memory, redis, counts: Counts::default() };
        Ok(Self { tiers: Arc::new(tiers), flights: Arc::default() })
    }

    /// [`Embedder::embed`], computing only what is neither kept nor being computed.
    ///
    /// The rest is one call to the embedder. It goes on when this future is
    /// dropped, as long as another one waits for a part of it; its error goes to
    /// all who wait and is not kept.
    pub async fn embed(
        &self,
        owner: Uuid,
        embedder: &Arc<dyn Embedder>,
        texts: Vec<String>,
        role: TextRole,
        lane: Lane,
    ) -> Result<CachedEmbeddings, ModelError> {
        let (keys, texts) = keys_of(owner, embedder.as_ref(), texts, role).await?;
        let mut found = HashMap::with_capacity(keys.len());
        let mut missing = HashMap::new();
        for (key, text) in keys.iter().zip(texts) {
            if found.contains_key(key) || missing.contains_key(key) {
                continue;
            }
            match self.tiers.remembered(key, &Counted::Yes).await {
                Some(value) => _ = found.insert(key.clone(), Found { value, hit: true }),
                None => _ = missing.insert(key.clone(), text),
            }
        }
        if !missing.is_empty() {
            let fetch = |batch| {
                let (tiers, embedder) = (Arc::clone(&self.tiers), Arc::clone(embedder));
                // Who joins it later may wait for longer than who began it.
                unlimited(tiers.fetch(embedder, batch, role, lane)).boxed()
            };
            let wanted: Vec<Key> = missing.keys().cloned().collect();
            let landed = try_join_all(self.flights.join(missing, fetch)).await?;
            for key in wanted {
                if let Some(value) = landed.iter().find_map(|flight| flight.get(&key)) {
                    found.insert(key, value.clone());
                }
            }
        }
        assembled(&keys, &found).ok_or_else(|| failed(embedder.as_ref(), "a vector is missing"))
    }

    /// What was looked up so far.
    pub fn counts(&self) -> CacheCounts {
        self.tiers.counts.read()
    }
}

/// Where vectors are kept.
struct Tiers {
    memory: Cache<Key, Arc<CachedVector>>,
    redis: Option<RedisTier>,
    counts: Counts,
}

/// Whether a look-up shows in the counts.
enum Counted {
    Yes,
    No,
}

impl Tiers {
    async fn remembered(&self, key: &Key, counted: &Counted) -> Option<Arc<CachedVector>> {
        let value = self.memory.get(key).await;
        if let Counted::Yes = counted {
            let count = if value.is_some() { &self.counts.memory.hits } else { &self.counts.memory.misses };
            count.fetch_add(1, Relaxed);
        }
        value
    }

    /// Finds or computes the vectors of a flight and keeps them.
    async fn fetch(
        self: Arc<Self>,
        embedder: Arc<dyn Embedder>,
        batch: HashMap<Key, String>,
        role: TextRole,
        lane: Lane,
    ) -> flights::Landed {
        let mut found = HashMap::with_capacity(batch.len());
        let mut rest = Vec::new();
        for (key, text) in batch {
            // Another flight may have landed between this one's look-up and its registration.
            match self.remembered(&key, &Counted::No).await {
                Some(value) => _ = found.insert(key, Found { value, hit: true }),
                None => rest.push((key, text)),
            }
        }
        let rest = self.shared(embedder.as_ref(), rest, &mut found).await;
        if !rest.is_empty() {
            let (keys, texts): (Vec<Key>, Vec<String>) = rest.into_iter().unzip();
            let values = compute(&embedder, texts, role, lane).await?;
            let entries: Vec<(Key, Arc<CachedVector>)> = keys.into_iter().zip(values).collect();
            for (key, value) in &entries {
                self.memory.insert(key.clone(), Arc::clone(value)).await;
                found.insert(key.clone(), Found { value: Arc::clone(value), hit: false });
            }
            self.share(entries);
        }
        Ok(Arc::new(found))
    }

    /// Moves what Redis holds into `found`; returns the rest.
    async fn shared(
        &self,
        embedder: &dyn Embedder,
        batch: Vec<(Key, String)>,
        found: &mut HashMap<Key, Found>,
    ) -> Vec<(Key, String)> {
        if batch.is_empty() {
            return batch;
        }
        let Some((redis, connection)) = self.reached() else { return batch };
        let keys: Vec<String> = batch.iter().map(|(key, _)| key.in_redis()).collect();
        let Some(values) = redis.get(connection, &keys).await else {
            self.counts.redis.errors.fetch_add(1, Relaxed);
            return batch;
        };
        let mut rest = Vec::new();
        for ((key, text), bytes) in batch.into_iter().zip(values) {
            let value = bytes.as_deref().map(|bytes| redis::decode(bytes, embedder.space().dimension));
            let count = match value {
                Some(Some(value)) => {
                    let value = Arc::new(value);
                    self.memory.insert(key.clone(), Arc::clone(&value)).await;
                    found.insert(key, Found { value, hit: true });
                    &self.counts.redis.hits
                }
                Some(None) => {
                    rest.push((key, text));
                    &self.counts.redis.errors
                }
                None => {
                    rest.push((key, text));
                    &self.counts.redis.misses
                }
            };
            count.fetch_add(1, Relaxed);
        }
        rest
    }

    /// Writes to Redis; nobody waits for it.
    fn share(self: &Arc<Self>, entries: Vec<(Key, Arc<CachedVector>)>) {
        let tiers = Arc::clone(self);
        tokio::spawn(async move {
            let Some((redis, connection)) = tiers.reached() else { return };
            let entries = entries.iter().map(|(key, value)| (key.in_redis(), redis::encode(value)));
            if !redis.set(connection, entries).await {
                tiers.counts.redis.errors.fetch_add(1, Relaxed);
            }
        });
    }

    fn reached(&self) -> Option<(&RedisTier, MultiplexedConnection)> {
        let redis = self.redis.as_ref()?;
        Some((redis, redis.connection()?))
    }
}

impl Key {
    /// Readable, so that an operator can find what belongs to an owner or to a space.
    fn in_redis(&self) -> String {
        use std::fmt::Write;
        let mut name = format!("{}{}:{}:", prefix_of(self.owner), self.space, self.role);
        for byte in self.digest {
            // Writing to a string cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        name
    }
}

/// What the names of an owner's keys in Redis begin with.
fn prefix_of(owner: Uuid) -> String {
    format!("ragway:embedding:{owner}:")
}

#[derive(Default)]
struct Counts {
    memory: TierCounters,
    redis: TierCounters,
}

#[derive(Default)]
struct TierCounters {
    hits: AtomicU64,
    misses: AtomicU64,
    errors: AtomicU64,
}

impl Counts {
    fn read(&self) -> CacheCounts {
        let tier = |tier: &TierCounters| TierCounts {
            hits: tier.hits.load(Relaxed),
            misses: tier.misses.load(Relaxed),
            errors: tier.errors.load(Relaxed),
        };
        CacheCounts { memory: tier(&self.memory), redis: tier(&self.redis) }
    }
}

/// What a vector takes in memory: itself, and its key, counters and list places (an estimate).
fn bytes_of(value: &Arc<CachedVector>) -> u32 {
    const ENTRY: usize = 400;
    u32::try_from(ENTRY + size_of_val(value.vector.as_slice())).unwrap_or(u32::MAX)
}

/// Bytes that are hashed without leaving the async thread: under 0.1 ms.
const HASHED_INLINE: usize = 64 << 10;

async fn keys_of(
    owner: Uuid,
    embedder: &dyn Embedder,
    texts: Vec<String>,
    role: TextRole,
) -> Result<(Vec<Key>, Vec<String>), ModelError> {
    let space: Arc<str> = embedder.space().id.as_str().into();
    let role = match role {
        TextRole::Query => "query",
        TextRole::Passage => "passage",
    };
    let small = texts.iter().map(String::len).sum::<usize>() <= HASHED_INLINE;
    let hash = move || {
        let key = |text: &String| Key {
            owner,
            space: Arc::clone(&space),
            role,
            digest: Sha256::digest(text).into(),
        };
        (texts.iter().map(key).collect(), texts)
    };
    if small {
        return Ok(hash());
    }
    tokio::task::spawn_blocking(hash).await.map_err(|error| failed(embedder, &error.to_string()))
}

/// One call to the embedder, its answer checked: what is wrong is neither kept nor returned.
async fn compute(
    embedder: &Arc<dyn Embedder>,
    texts: Vec<String>,
    role: TextRole,
    lane: Lane,
) -> Result<Vec<Arc<CachedVector>>, ModelError> {
    let count = texts.len();
    let embeddings = embedder.embed(texts, role, lane).await?;
    if embeddings.vectors.len() != count || embeddings.tokens.len() != count {
        return Err(failed(embedder.as_ref(), "it gave another number of vectors than of texts"));
    }
    let dimension = embedder.space().dimension;
    if embeddings.vectors.iter().any(|vector| !is_sound(vector, dimension)) {
        return Err(failed(embedder.as_ref(), "it gave a vector of another dimension, or one with NaN"));
    }
    let values =
        embeddings.vectors.into_iter().zip(embeddings.tokens).enumerate().map(|(index, (vector, tokens))| {
            let truncated = embeddings.truncated.contains(&index);
            Arc::new(CachedVector { vector, truncated, tokens: u32::try_from(tokens).unwrap_or(u32::MAX) })
        });
    Ok(values.collect())
}

fn is_sound(vector: &[f32], dimension: usize) -> bool {
    vector.len() == dimension && vector.iter().all(|x| x.is_finite())
}

fn assembled(keys: &[Key], found: &HashMap<Key, Found>) -> Option<CachedEmbeddings> {
    let mut embeddings = Embeddings {
        vectors: Vec::with_capacity(keys.len()),
        truncated: Vec::new(),
        tokens: Vec::with_capacity(keys.len()),
    };
    let mut hits = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let Found { value, hit } = found.get(key)?;
        embeddings.vectors.push(value.vector.clone());
        embeddings.tokens.push(value.tokens as usize);
        if value.truncated {
            embeddings.truncated.push(index);
        }
        if *hit {
            hits.push(index);
        }
    }
    Some(CachedEmbeddings { embeddings, hits })
}

fn failed(embedder: &dyn Embedder, reason: &str) -> ModelError {
    ModelError::Failed { model: embedder.space().model.clone(), reason: reason.into() }
}
