use std::{
    collections::BTreeMap,
    sync::{Mutex, atomic::AtomicUsize},
};

use futures_util::future::{BoxFuture, join_all};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
};

use super::*;
use crate::{
    config::EmbeddingSpace,
    models::{Token, cache::redis::decode, cache::redis::encode},
};

const OWNER: Uuid = Uuid::from_u128(1);
const DIMENSION: usize = 4;
const MAX_TOKENS: usize = 8;

/// Notes what it is asked for; works only as far as `gate` has permits.
struct Counting {
    space: EmbeddingSpace,
    calls: Mutex<Vec<Vec<String>>>,
    gate: Semaphore,
    called: Notify,
    /// Calls that were dropped before they were done.
    dropped: AtomicUsize,
    answer: Mutex<Answer>,
}

#[derive(Clone)]
enum Answer {
    Vectors,
    Fails,
    Gives(Vec<Vec<f32>>),
}

/// Counts a call that does not come to its end.
struct Unfinished<'a>(&'a Counting);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Relaxed);
    }
}

impl Counting {
    fn open(space: &str) -> Arc<Self> {
        let embedder = Self::closed(space);
        embedder.gate.add_permits(1000);
        embedder
    }

    fn closed(space: &str) -> Arc<Self> {
        Arc::new(Self {
            space: EmbeddingSpace { id: space.into(), model: "fake".into(), dimension: DIMENSION },
            calls: Mutex::default(),
            gate: Semaphore::new(0),
            called: Notify::new(),
            dropped: AtomicUsize::new(0),
            answer: Mutex::new(Answer::Vectors),
        })
    }

    /// The texts of each call, sorted: the order within a call is nobody's business.
    fn calls(&self) -> Vec<Vec<String>> {
        let mut calls = self.calls.lock().unwrap().clone();
        calls.iter_mut().for_each(|texts| texts.sort());
        calls
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }
}

fn vector_of(text: &str) -> Vec<f32> {
    vec![text.len() as f32, text.bytes().map(f32::from).sum(), 1.0, 0.0]
}

impl Embedder for Counting {
    fn space(&self) -> &EmbeddingSpace {
        &self.space
    }

    fn max_tokens(&self) -> usize {
        MAX_TOKENS
    }

    fn count_tokens(&self, text: &str) -> usize {
        text.len()
    }

    fn tokenize(&self, _: &str, _: bool) -> Result<Vec<Token>, ModelError> {
        Ok(Vec::new())
    }

    fn embed(
        &self,
        texts: Vec<String>,
        _: TextRole,
        _: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        async move {
            self.calls.lock().unwrap().push(texts.clone());
            let unfinished = Unfinished(self);
            self.called.notify_one();
            self.gate.acquire().await.unwrap().forget();
            std::mem::forget(unfinished);
            let answer = self.answer.lock().unwrap().clone();
            let vectors = match answer {
                Answer::Vectors => texts.iter().map(|text| vector_of(text)).collect(),
                Answer::Fails => return Err(failed(self, "on purpose")),
                Answer::Gives(vectors) => vectors,
            };
            let lengths = texts.iter().map(|text| text.len() + 2);
            Ok(Embeddings {
                vectors,
                truncated: (0..texts.len()).filter(|&index| texts[index].len() + 2 > MAX_TOKENS).collect(),
                tokens: lengths.map(|length| length.min(MAX_TOKENS)).collect(),
            })
        }
        .boxed()
    }
}

fn cache() -> EmbeddingCache {
    EmbeddingCache::new(&CacheSettings::default(), None).unwrap()
}

async fn ask(
    cache: &EmbeddingCache,
    embedder: &Arc<Counting>,
    texts: &[&str],
) -> Result<CachedEmbeddings, ModelError> {
    let embedder: Arc<dyn Embedder> = Arc::clone(embedder) as Arc<dyn Embedder>;
    let texts = texts.iter().map(|text| (*text).to_owned()).collect();
    cache.embed(OWNER, &embedder, texts, TextRole::Passage, Lane::Interactive).await
}

fn start(
    cache: &EmbeddingCache,
    embedder: &Arc<Counting>,
    texts: &'static [&str],
) -> JoinHandle<Result<CachedEmbeddings, ModelError>> {
    let (cache, embedder) = (cache.clone(), Arc::clone(embedder));
    tokio::spawn(async move { ask(&cache, &embedder, texts).await })
}

/// Lets every task run until it waits.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_text_is_computed_once_and_the_order_is_kept() {
    let (cache, embedder) = (cache(), Counting::open("s"));
    let first = ask(&cache, &embedder, &["b", "a", "b"]).await.unwrap();
    assert_eq!(first.embeddings.vectors, ["b", "a", "b"].map(vector_of));
    assert!(first.hits.is_empty());
    let second = ask(&cache, &embedder, &["c", "a", "longer text", "b"]).await.unwrap();
    assert_eq!(second.embeddings.vectors, ["c", "a", "longer text", "b"].map(vector_of));
    assert_eq!(second.hits, [1, 3]);
    assert_eq!(embedder.calls(), [vec!["a", "b"], vec!["c", "longer text"]]);
    let memory = TierCounts { hits: 2, misses: 4, errors: 0 };
    assert_eq!(cache.counts(), CacheCounts { memory, redis: TierCounts::default() });
}

#[tokio::test]
async fn what_was_cut_and_how_much_was_read_is_kept() {
    let (cache, embedder) = (cache(), Counting::open("s"));
    for _ in 0..2 {
        let found = ask(&cache, &embedder, &["ab", "longer text", "abcd"]).await.unwrap();
        assert_eq!(found.embeddings.truncated, [1]);
        assert_eq!(found.embeddings.tokens, [4, MAX_TOKENS, 6]);
    }
    assert_eq!(ask(&cache, &embedder, &["abcd"]).await.unwrap().embeddings.tokens, [6]);
    assert_eq!(embedder.calls().len(), 1);
}

#[tokio::test]
async fn spaces_and_roles_share_nothing() {
    let (cache, embedder, other) = (cache(), Counting::open("s"), Counting::open("t"));
    ask(&cache, &embedder, &["a"]).await.unwrap();
    assert!(ask(&cache, &other, &["a"]).await.unwrap().hits.is_empty());
    let as_query: Arc<dyn Embedder> = Arc::clone(&embedder) as Arc<dyn Embedder>;
    let found = cache.embed(OWNER, &as_query, vec!["a".into()], TextRole::Query, Lane::Bulk).await.unwrap();
    assert!(found.hits.is_empty());
    assert!(ask(&cache, &embedder, &["A"]).await.unwrap().hits.is_empty());
    assert_eq!((embedder.calls().len(), other.calls().len()), (3, 1));
}

#[tokio::test]
async fn owners_share_nothing_and_wait_for_nothing_of_others() {
    let (cache, embedder) = (cache(), Counting::closed("s"));
    let waiting = start(&cache, &embedder, &["a"]);
    embedder.called.notified().await;
    embedder.gate.add_permits(1000);
    let other = Uuid::from_u128(2);
    let embedder: Arc<dyn Embedder> = embedder as Arc<dyn Embedder>;
    let ask = async |owner| {
        cache.embed(owner, &embedder, vec!["a".into()], TextRole::Passage, Lane::Interactive).await.unwrap()
    };
    assert!(ask(other).await.hits.is_empty());
    assert_eq!(ask(other).await.hits, [0]);
    waiting.await.unwrap().unwrap();
    assert_eq!(ask(OWNER).await.hits, [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_equal_texts_are_computed_once() {
    let (cache, embedder) = (cache(), Counting::closed("s"));
    let texts: &[&str] = &["a", "b", "c"];
    let waiting: Vec<_> = (0..50).map(|_| start(&cache, &embedder, texts)).collect();
    embedder.called.notified().await;
    embedder.gate.add_permits(1000);
    for found in join_all(waiting).await {
        assert_eq!(found.unwrap().unwrap().embeddings.vectors, ["a", "b", "c"].map(vector_of));
    }
    assert_eq!(embedder.calls(), [["a", "b", "c"]]);
}

/// Many overlapping batches at once, some of which leave: each text is computed once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn overlapping_batches_share_what_they_have_in_common() {
    let (cache, embedder) = (cache(), Counting::open("s"));
    let batch = |first: usize| (first..first + 40).map(|number| format!("text {number}")).collect::<Vec<_>>();
    let waiting = (0..200).map(|first| {
        let (cache, embedder) = (cache.clone(), Arc::clone(&embedder) as Arc<dyn Embedder>);
        tokio::spawn(async move {
            let texts = batch(first);
            let found =
                cache.embed(OWNER, &embedder, texts.clone(), TextRole::Passage, Lane::Bulk).await.unwrap();
            let expected: Vec<Vec<f32>> = texts.iter().map(|text| vector_of(text)).collect();
            assert_eq!(found.embeddings.vectors, expected);
        })
    });
    for done in join_all(waiting).await {
        done.unwrap();
    }
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for text in embedder.calls().concat() {
        *times.entry(text).or_default() += 1;
    }
    assert_eq!(times.len(), 239);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}

#[tokio::test]
async fn a_batch_waits_for_others_and_computes_the_rest_in_one_call() {
    let (cache, embedder) = (cache(), Counting::closed("s"));
    let first = start(&cache, &embedder, &["a", "b"]);
    settle().await;
    let second = start(&cache, &embedder, &["d", "b", "c"]);
    settle().await;
    assert_eq!(embedder.calls(), [["a", "b"], ["c", "d"]]);
    embedder.gate.add_permits(2);
    assert_eq!(second.await.unwrap().unwrap().embeddings.vectors, ["d", "b", "c"].map(vector_of));
    assert_eq!(first.await.unwrap().unwrap().embeddings.vectors, ["a", "b"].map(vector_of));
}

#[tokio::test]
async fn those_who_wait_get_their_vectors_when_the_first_leaves() {
    let (cache, embedder) = (cache(), Counting::closed("s"));
    let first = start(&cache, &embedder, &["a", "b"]);
    settle().await;
    let second = start(&cache, &embedder, &["b"]);
    settle().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    embedder.gate.add_permits(1);
    assert_eq!(second.await.unwrap().unwrap().embeddings.vectors, [vector_of("b")]);
    assert_eq!((embedder.calls().len(), embedder.dropped.load(Relaxed)), (1, 0));
    assert_eq!(ask(&cache, &embedder, &["a"]).await.unwrap().hits, [0]);
}

#[tokio::test]
async fn work_that_everyone_left_is_dropped_and_begun_anew() {
    let (cache, embedder) = (cache(), Counting::closed("s"));
    let waiting = [start(&cache, &embedder, &["a"]), start(&cache, &embedder, &["a"])];
    settle().await;
    for task in waiting {
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
    assert_eq!(embedder.dropped.load(Relaxed), 1);
    embedder.gate.add_permits(1);
    assert_eq!(ask(&cache, &embedder, &["a"]).await.unwrap().embeddings.vectors, [vector_of("a")]);
    assert_eq!(embedder.calls().len(), 2);
}

#[tokio::test]
async fn an_error_goes_to_all_who_wait_and_is_not_kept() {
    let (cache, embedder) = (cache(), Counting::closed("s"));
    embedder.answers(Answer::Fails);
    let waiting = [
        start(&cache, &embedder, &["a", "b"]),
        start(&cache, &embedder, &["b"]),
        start(&cache, &embedder, &["a"]),
    ];
    settle().await;
    embedder.gate.add_permits(1);
    for task in waiting {
        assert_eq!(task.await.unwrap().unwrap_err().to_string(), "model `fake` failed: on purpose");
    }
    assert_eq!(embedder.calls().len(), 1);
    embedder.answers(Answer::Vectors);
    embedder.gate.add_permits(1);
    assert!(ask(&cache, &embedder, &["a", "b"]).await.unwrap().hits.is_empty());
}

#[tokio::test]
async fn what_is_no_vector_is_neither_kept_nor_given() {
    let (cache, embedder) = (cache(), Counting::open("s"));
    let wrong: [Vec<Vec<f32>>; 5] = [
        vec![vec![1.0, f32::NAN, 0.0, 0.0]],
        vec![vec![1.0, f32::INFINITY, 0.0, 0.0]],
        vec![vec![1.0; DIMENSION - 1]],
        vec![],
        vec![vec![1.0; DIMENSION]; 2],
    ];
    for vectors in wrong {
        embedder.answers(Answer::Gives(vectors));
        assert!(matches!(ask(&cache, &embedder, &["a"]).await, Err(ModelError::Failed { .. })));
    }
    embedder.answers(Answer::Vectors);
    assert!(ask(&cache, &embedder, &["a"]).await.unwrap().hits.is_empty());
}

#[tokio::test]
async fn memory_stays_within_its_bytes() {
    let settings = CacheSettings { max_bytes: 100_000, ..CacheSettings::default() };
    let (cache, embedder) = (EmbeddingCache::new(&settings, None).unwrap(), Counting::open("s"));
    for number in 0..1000 {
        ask(&cache, &embedder, &[&number.to_string()]).await.unwrap();
    }
    cache.tiers.memory.run_pending_tasks().await;
    let (held, entries) = (cache.tiers.memory.weighted_size(), cache.tiers.memory.entry_count());
    assert!((50_000..=100_000).contains(&held), "{held} bytes in {entries} entries");
}

/// 64 MiB are far over the 10,000 vectors of 384 dimensions that the cache is meant to hold.
#[test]
fn the_default_holds_thirty_thousand_vectors() {
    let value = CachedVector { vector: vec![0.0; 384], truncated: false, tokens: 1 };
    let entries = CacheSettings::default().max_bytes / u64::from(bytes_of(&Arc::new(value)));
    assert!(entries > 30_000, "{entries}");
}

#[test]
fn a_value_survives_redis_and_a_damaged_one_does_not() {
    let value = CachedVector { vector: vec![0.5, -1.0, 1e-30, 3.25], truncated: true, tokens: 70_000 };
    let bytes = encode(&value);
    assert_eq!(decode(&bytes, DIMENSION), Some(value));
    for length in 0..bytes.len() {
        assert_eq!(decode(&bytes[..length], DIMENSION), None, "{length} bytes");
    }
    assert_eq!(decode(&bytes, DIMENSION + 1), None);
    assert_eq!(decode(&[bytes.as_slice(), &[0]].concat(), DIMENSION), None);
    let flagged = [&bytes[..4], &[2], &bytes[5..]].concat();
    assert_eq!(decode(&flagged, DIMENSION), None);
    let not_a_number = [&bytes[..5], &f32::NAN.to_le_bytes(), &bytes[9..]].concat();
    assert_eq!(decode(&not_a_number, DIMENSION), None);
}
