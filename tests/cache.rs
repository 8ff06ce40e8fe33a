use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use futures_util::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::harness::{TestApp, embedder, eventually, good, problem};
use ragway::{
    config::{Config, EmbeddingSpace},
    models::{Embedder, Embeddings, Lane, ModelError, TextRole, Token},
};

/// A Redis server on a free port of this machine; it ends with this value.
pub struct Redis {
    port: u16,
    process: Child,
    folder: tempfile::TempDir,
}

const PASSWORD: &str = "quite-secret";

impl Redis {
    pub async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let process = Self::spawn(port, &folder);
        Self { port, process, folder }.answering().await
    }

    fn spawn(port: u16, folder: &tempfile::TempDir) -> Child {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command.args(["--requirepass", PASSWORD]).current_dir(folder.path()).stdout(Stdio::null());
        command.spawn().unwrap_or_else(|error| {
            panic!("redis-server cannot be run ({error}): install it (apt-get install redis-server)")
        })
    }

    async fn answering(self) -> Self {
        eventually("Redis answers", async || self.connection().await.is_some()).await;
        self
    }

    pub fn url(&self) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{}/0", self.port)
    }

    pub async fn connection(&self) -> Option<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        redis::cmd("PING").query_async::<()>(&mut connection).await.ok()?;
        Some(connection)
    }

    pub async fn keys(&self) -> Vec<String> {
        self.keys_like("ragway:embedding:*").await
    }

    pub async fn keys_like(&self, pattern: &str) -> Vec<String> {
        let mut connection = self.connection().await.unwrap();
        redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await.unwrap()
    }

    pub fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.process = Self::spawn(self.port, &self.folder);
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have been stopped by the test.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Vectors from nowhere: texts that begin with `wait` take until the gate is opened.
struct Gated {
    space: EmbeddingSpace,
    gate: Semaphore,
    waiting: AtomicUsize,
    batches: Mutex<Vec<(usize, Lane)>>,
}

impl Gated {
    fn new() -> Arc<Self> {
        let space = EmbeddingSpace { id: "gated".into(), model: "gated".into(), dimension: 3 };
        let (waiting, batches) = (AtomicUsize::new(0), Mutex::default());
        Arc::new(Self { space, gate: Semaphore::new(0), waiting, batches })
    }
}

impl Embedder for Gated {
    fn space(&self) -> &EmbeddingSpace {
        &self.space
    }

    fn max_tokens(&self) -> usize {
        100
    }

    fn count_tokens(&self, text: &str) -> usize {
        text.len()
    }

    fn tokenize(&self, _: &str, _: bool) -> Result<Vec<Token>, ModelError> {
        Err(ModelError::Unfit { model: "gated".into(), reason: "it does not say".into() })
    }

    fn embed(
        &self,
        texts: Vec<String>,
        _: TextRole,
        lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        async move {
            self.batches.lock().unwrap().push((texts.len(), lane));
            // The missing texts of a call come in any order.
            if texts.iter().any(|text| text.starts_with("wait")) {
                self.waiting.fetch_add(1, Relaxed);
                self.gate.acquire().await.unwrap().forget();
            }
            let vectors = texts.iter().map(|text| vec![3.0, 4.0, text.len() as f32]).collect();
            Ok(Embeddings { vectors, truncated: Vec::new(), tokens: vec![1; texts.len()] })
        }
        .boxed()
    }
}

async fn cached(app: &TestApp, texts: &[&str]) -> Value {
    good(app.post("/api/v1/embed/cached").json(&json!({"texts": texts})).send().await.unwrap()).await
}

async fn metric(app: &TestApp, series: &str) -> u64 {
    let text = app.get("/metrics").send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{text}"));
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn a_text_asked_for_again_comes_from_memory() {
    let app = TestApp::start().await;
    let first = cached(&app, &["A bicycle costs 3 euros.", "Dogs are welcome."]).await;
    assert_eq!(
        (&first["cached"], &first["count"], &first["dimension"]),
        (&json!([]), &json!(2), &json!(384))
    );
    assert_eq!(first["space"], "all-MiniLM-L6-v2@53aa51172d14:mean:l2:fp32");
    let second = cached(&app, &["Dogs are welcome.", "Cats too.", "A bicycle costs 3 euros."]).await;
    assert_eq!(second["cached"], json!([0, 2]));
    assert_eq!(second["embeddings"][0], first["embeddings"][1]);
    assert_eq!(second["embeddings"][2], first["embeddings"][0]);
    assert_eq!(metric(&app, "embedding_cache_hits_total{tier=\"memory\"}").await, 2);
    assert_eq!(metric(&app, "embedding_cache_misses_total{tier=\"memory\"}").await, 3);
    assert_eq!(metric(&app, "embedding_cache_hits_total{tier=\"redis\"}").await, 0);
}

/// A running ragway that has reached Redis.
async fn connected(redis: &Redis) -> TestApp {
    let app = TestApp::with(|setup| setup.redis_url = Some(redis.url().into())).await;
    uses_redis(&app).await;
    app
}

/// Asks for new texts until Redis is asked for one.
async fn uses_redis(app: &TestApp) {
    let before = metric(app, "embedding_cache_misses_total{tier=\"redis\"}").await;
    eventually("Redis is asked", async || {
        cached(app, &[&Uuid::now_v7().to_string()]).await;
        metric(app, "embedding_cache_misses_total{tier=\"redis\"}").await > before
    })
    .await;
}

/// The name in Redis of the only new text that is asked for.
async fn written(redis: &Redis, app: &TestApp, text: &str) -> (String, Value) {
    let before = redis.keys().await;
    let body = cached(app, &[text]).await;
    let mut key = None;
    eventually("it is written", async || {
        key = redis.keys().await.into_iter().find(|key| !before.contains(key) && key.ends_with(&hash(text)));
        key.is_some()
    })
    .await;
    (key.unwrap(), body)
}

fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn replicas_share_vectors_through_redis() {
    let redis = Redis::start().await;
    let (one, other) = (connected(&redis).await, connected(&redis).await);
    let long = "ferry ".repeat(400);
    let (key, short_computed) = written(&redis, &one, "A bicycle costs 3 euros.").await;
    let (_, long_computed) = written(&redis, &one, &long).await;
    assert!(key.contains("all-MiniLM-L6-v2@53aa51172d14:mean:l2:fp32:passage:"), "{key}");
    let mut connection = redis.connection().await.unwrap();
    let ttl: u64 = redis::cmd("TTL").arg(&key).query_async(&mut connection).await.unwrap();
    assert!((3500..=3600).contains(&ttl), "{ttl}");
    let found = cached(&other, &["A bicycle costs 3 euros.", "new", &long]).await;
    assert_eq!((&found["cached"], &found["truncated"]), (&json!([0, 2]), &json!([2])));
    assert_eq!(found["embeddings"][0], short_computed["embeddings"][0], "not equal to the last bit");
    assert_eq!(found["embeddings"][2], long_computed["embeddings"][0], "not equal to the last bit");
    assert_eq!(metric(&other, "embedding_cache_hits_total{tier=\"redis\"}").await, 2);
}

#[tokio::test]
async fn a_damaged_value_is_computed_again() {
    let redis = Redis::start().await;
    let one = connected(&redis).await;
    let not_numbers = [vec![0; 5], f32::NAN.to_le_bytes().repeat(384)].concat();
    let mut connection = redis.connection().await.unwrap();
    for damaged in [b"rubbish".to_vec(), Vec::new(), vec![0; 5 + 4 * 383], not_numbers] {
        let text = format!("{} bytes", damaged.len());
        let (key, computed) = written(&redis, &one, &text).await;
        redis::cmd("SET").arg(&key).arg(&damaged).query_async::<()>(&mut connection).await.unwrap();
        let other = connected(&redis).await;
        let again = cached(&other, &[&text]).await;
        assert_eq!((&again["cached"], &again["embeddings"]), (&json!([]), &computed["embeddings"]));
        assert_eq!(metric(&other, "embedding_cache_errors_total{tier=\"redis\"}").await, 1);
    }
}

#[tokio::test]
async fn an_outage_of_redis_is_not_one_of_ours() {
    let mut redis = Redis::start().await;
    let app = connected(&redis).await;
    // No write is under way when the server ends.
    written(&redis, &app, "known").await;
    let errors = async || metric(&app, "embedding_cache_errors_total{tier=\"redis\"}").await;

    let before = errors().await;
    redis.stop();
    for text in ["one", "two", "three"] {
        assert_eq!(cached(&app, &[text, "known"]).await["cached"], json!([1]));
    }
    assert!(errors().await - before <= 1, "asked again and again");
    redis.start_again();
    uses_redis(&app).await;
    written(&redis, &app, "known too").await;

    // It takes connections and does not answer: worse than being gone.
    let before = errors().await;
    redis.signal("-STOP");
    for text in ["four", "five", "six", "seven"] {
        assert_eq!(cached(&app, &[text, "known"]).await["cached"], json!([1]));
    }
    assert!(errors().await - before <= 1, "more than one request waited for a Redis that hangs");
    redis.signal("-CONT");
    uses_redis(&app).await;
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_served_without() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("redis://127.0.0.1:{port}");
    let app = TestApp::with(|setup| setup.redis_url = Some(url.into())).await;
    assert_eq!(cached(&app, &["a"]).await["cached"], json!([]));
    assert_eq!(cached(&app, &["a"]).await["cached"], json!([0]));
}

#[test]
fn the_redis_url_is_checked_and_its_password_not_shown() {
    let read = |url: &str| {
        let url = url.to_owned();
        Config::from_variables(None, &move |name| match name {
            "REDIS_URL" => Some(url.clone()),
            "HOME" => Some("/home/someone".into()),
            _ => None,
        })
    };
    let shown = read("redis://user:quite-secret@cache.example:6379/0?password=quite-secret").unwrap();
    assert!(shown.to_string().contains("redis://user:***@cache.example:6379/0"), "{shown}");
    assert!(!format!("{shown} {shown:?}").contains("quite-secret"));
    for wrong in ["quite-secret", "http://quite-secret@cache.example", "redis://h/quite-secret"] {
        let told = read(wrong).unwrap_err().to_string();
        assert!(told.starts_with("REDIS_URL: is not a Redis URL") && !told.contains("secret"), "{told}");
    }
    assert!(read("rediss://cache.example").unwrap_err().to_string().contains("TLS"));
}

#[tokio::test]
async fn a_batch_is_cut_by_the_load() {
    let gated = Gated::new();
    let app = TestApp::with(|setup| setup.embedder = Some(Arc::clone(&gated) as Arc<dyn Embedder>)).await;
    let batch = async |count: usize| {
        gated.batches.lock().unwrap().clear();
        let texts: Vec<String> = (0..count).map(|number| "x".repeat(number % 90 + 1)).collect();
        let body = json!({"texts": texts});
        let body = good(app.post("/api/v1/embed/batch").json(&body).send().await.unwrap()).await;
        assert_eq!(body["count"], count);
        for (text, vector) in texts.iter().zip(body["embeddings"].as_array().unwrap()) {
            let vector: Vec<f64> = vector.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            let length = vector.iter().map(|x| x * x).sum::<f64>();
            assert!((length - 1.0).abs() < 1e-6, "{length}");
            assert!((vector[2] / vector[0] - text.len() as f64 / 3.0).abs() < 1e-4, "another text's vector");
        }
        let batches = gated.batches.lock().unwrap().clone();
        assert!(batches.iter().all(|(_, lane)| *lane == Lane::Bulk));
        (body["batch_size"].as_u64().unwrap(), batches.iter().map(|(size, _)| *size).collect::<Vec<_>>())
    };
    assert_eq!(batch(5).await, (5, vec![5]));
    assert_eq!(batch(130).await, (64, vec![64, 64, 2]));
    let slow = |path: &'static str| {
        let request = app.post(path).json(&json!({"texts": [format!("wait {path}")]}));
        tokio::spawn(async move { good(request.send().await.unwrap()).await })
    };
    let waiting = [slow("/api/v1/embed"), slow("/api/v1/embed/cached"), slow("/embed/text-embedding")];
    eventually("three requests wait", async || gated.waiting.load(Relaxed) == 3).await;
    assert_eq!(batch(40).await, (16, vec![16, 16, 8]));
    gated.gate.add_permits(3);
    for request in waiting {
        request.await.unwrap();
    }
    assert_eq!(batch(40).await, (40, vec![40]));
}

#[tokio::test]
async fn equal_requests_at_once_are_one_computation() {
    let gated = Gated::new();
    let app = TestApp::with(|setup| setup.embedder = Some(Arc::clone(&gated) as Arc<dyn Embedder>)).await;
    let ask = || {
        let request = app.post("/api/v1/embed/cached").json(&json!({"texts": ["wait", "x", "wait"]}));
        tokio::spawn(async move { good(request.send().await.unwrap()).await })
    };
    let asked: Vec<_> = (0..20).map(|_| ask()).collect();
    eventually("all are taken in", async || {
        metric(&app, "embedding_cache_misses_total{tier=\"memory\"}").await == 40
    })
    .await;
    gated.gate.add_permits(20);
    for request in asked {
        assert_eq!(request.await.unwrap()["count"], 3);
    }
    assert_eq!(gated.batches.lock().unwrap().as_slice(), [(2, Lane::Interactive)]);
}

#[tokio::test]
async fn a_model_is_named_or_its_type() {
    let app = TestApp::start().await;
    for path in ["/api/v1/embed", "/api/v1/embed/batch", "/api/v1/embed/cached"] {
        let send = async |body: Value| app.post(path).json(&body).send().await.unwrap();
        for choice in [json!({"model_name": "all-MiniLM-L6-v2"}), json!({"model_type": "text-embedding"})] {
            let mut body = choice;
            body["texts"] = json!(["a"]);
            assert_eq!(good(send(body).await).await["model"], "all-MiniLM-L6-v2", "{path}");
        }
        let both = json!({"texts": ["a"], "model_name": "all-MiniLM-L6-v2", "model_type": "text-embedding"});
        problem(send(both).await, 400, "invalid_request").await;
        let unknown =
            problem(send(json!({"texts": ["a"], "model_type": "audio"})).await, 400, "unknown_model");
        assert!(unknown.await["detail"].as_str().unwrap().starts_with("Unknown model type: audio"));
        problem(send(json!({"texts": ["a"], "model_name": "gpt"})).await, 400, "unknown_model").await;
        problem(send(json!({"texts": []})).await, 400, "invalid_request").await;
        problem(send(json!({"texts": ["a", " "]})).await, 400, "invalid_request").await;
        problem(send(json!({"texts": vec!["a"; 2049]})).await, 400, "invalid_request").await;
        problem(app.get(path).send().await.unwrap(), 405, "method_not_allowed").await;
    }
}

#[tokio::test]
async fn a_text_that_would_be_cut_is_refused_on_request() {
    let app = TestApp::start().await;
    // all-MiniLM-L6-v2 reads 256 tokens, two of them its own.
    let (fits, too_long) = ("ferry ".repeat(254), "ferry ".repeat(255));
    let paths = [
        "/api/v1/embed",
        "/api/v1/embed/batch",
        "/api/v1/embed/cached",
        "/api/v1/embed/text-embedding",
        "/embed/text-embedding",
    ];
    for path in paths {
        let send = async |texts: &[&str], truncate: bool| {
            app.post(path).json(&json!({"texts": texts, "truncate": truncate})).send().await.unwrap()
        };
        let body = good(send(&[&fits], false).await).await;
        assert_eq!(body["truncated"], json!([]), "{path}");
        let told =
            problem(send(&["a", &too_long, "b", &too_long], false).await, 422, "unfit_for_model").await;
        let detail = told["detail"].as_str().unwrap();
        assert!(detail.contains("texts[1], texts[3]") && detail.contains("256"), "{detail}");
        assert_eq!(good(send(&["a", &too_long], true).await).await["truncated"], json!([1]), "{path}");
    }
}

/// Of a model that does not show its tokens the estimate counts.
#[tokio::test]
async fn a_refused_text_does_not_reach_the_model() {
    let gated = Gated::new();
    let app = TestApp::with(|setup| setup.embedder = Some(Arc::clone(&gated) as Arc<dyn Embedder>)).await;
    for path in ["/api/v1/embed", "/api/v1/embed/batch", "/api/v1/embed/cached"] {
        let body = json!({"texts": ["a", "b".repeat(101)], "truncate": false});
        problem(app.post(path).json(&body).send().await.unwrap(), 422, "unfit_for_model").await;
    }
    assert!(gated.batches.lock().unwrap().is_empty());
}

/// The cache changes no vector.
#[tokio::test]
async fn cached_batched_and_plain_vectors_are_the_same() {
    let app = TestApp::start().await;
    let texts: Vec<String> = (0..20).map(|number| format!("Ferry {number} leaves at {number}:40.")).collect();
    let plain = embedder().await.embed(texts.clone(), TextRole::Passage, Lane::Interactive).await.unwrap();
    for path in ["/api/v1/embed/batch", "/api/v1/embed/cached", "/api/v1/embed/cached"] {
        let body = good(app.post(path).json(&json!({"texts": texts})).send().await.unwrap()).await;
        for (vector, expected) in body["embeddings"].as_array().unwrap().iter().zip(&plain.vectors) {
            for (x, wanted) in vector.as_array().unwrap().iter().zip(expected) {
                assert!((x.as_f64().unwrap() - f64::from(*wanted)).abs() < 1e-5, "{path}");
            }
        }
    }
}
