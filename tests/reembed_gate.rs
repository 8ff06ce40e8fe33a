//! A re-embedding that goes over only where the new vectors find what the old ones find.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use ragway::{
    config::{EmbeddingSpace, SearchMode},
    models::{Embedder, Embeddings, Lane, ModelError, TextRole},
    store::TenantId,
};
use serde_json::{Value, json};

use crate::harness::{self, TestApp, execute, good, problem};

const REEMBED: &str = "/api/v1/collections/default/reembed";

/// Vectors of a text's bytes, which say nothing of its meaning; or those of all-MiniLM-L6-v2 turned round,
/// which say the same.
struct Other {
    model: Arc<dyn Embedder>,
    space: EmbeddingSpace,
    means_something: bool,
}

impl Other {
    async fn embedder(means_something: bool) -> Arc<dyn Embedder> {
        let space = EmbeddingSpace { id: "other@1".into(), model: "other".into(), dimension: 384 };
        Arc::new(Self { model: harness::embedder().await, space, means_something })
    }
}

impl Embedder for Other {
    fn space(&self) -> &EmbeddingSpace {
        &self.space
    }

    crate::harness::reads_as_its_model!();

    fn embed(
        &self,
        texts: Vec<String>,
        role: TextRole,
        lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        Box::pin(async move {
            let mut embeddings = self.model.embed(texts.clone(), role, lane).await?;
            for (vector, text) in embeddings.vectors.iter_mut().zip(texts) {
                match self.means_something {
                    true => vector.rotate_right(1),
                    false => *vector = noise(&text),
                }
            }
            Ok(embeddings)
        })
    }
}

fn noise(text: &str) -> Vec<f32> {
    let number = |place: usize| {
        let mut hasher = DefaultHasher::new();
        (text, place).hash(&mut hasher);
        (hasher.finish() % 2001) as f32 / 1000.0 - 1.0
    };
    (0..384).map(number).collect()
}

/// Both models, and ten documents. Words alone would find them whatever the vectors say.
async fn app(means_something: bool) -> TestApp {
    let other = Other::embedder(means_something).await;
    let app = TestApp::with(|setup| {
        setup.other = Some(other);
        setup.catalog.search.mode = SearchMode::Dense;
    });
    let app = app.await;
    for (n, thing) in THINGS.iter().enumerate() {
        let content = format!("This page is about {thing}, and about nothing else.");
        app.store(json!({"content": content, "external_id": format!("d{n}")})).await;
    }
    app
}

const THINGS: [&str; 10] = [
    "bicycles",
    "saxophones",
    "volcanoes",
    "passports",
    "pancakes",
    "glaciers",
    "telescopes",
    "penguins",
    "taxes",
    "windmills",
];

fn gate() -> Value {
    let query = |(n, thing): (usize, &&str)| json!({"query": format!("Tell me of {thing}"), "relevant": [format!("d{n}")]});
    json!({"k": 1, "tolerance": 0.05, "queries": THINGS.iter().enumerate().map(query).collect::<Value>()})
}

async fn start(app: &TestApp, gate: Option<Value>) {
    let mut body = json!({"model": "other"});
    if let Some(gate) = gate {
        body["gate"] = gate;
    }
    good(app.post(REEMBED).json(&body).send().await.unwrap()).await;
}

async fn status(app: &TestApp) -> Value {
    good(app.get(REEMBED).send().await.unwrap()).await
}

/// The status once it is so. Bulk work gives way to all others', so that on a busy machine it takes its time.
async fn until(app: &TestApp, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let wait = async {
        loop {
            let status = status(app).await;
            if holds(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), wait).await.expect(what)
}

async fn live_model(app: &TestApp) -> Value {
    good(app.get("/api/v1/collections/default").send().await.unwrap()).await["model"].clone()
}

#[tokio::test]
async fn vectors_that_find_as_much_pass() {
    let app = app(true).await;
    start(&app, Some(gate())).await;
    let done = until(&app, "the cutover", |status| status["stage"] == "cut_over").await;
    assert_eq!((&done["done"], &done["error"]), (&json!(10), &Value::Null));
    assert_eq!(live_model(&app).await, "other");
    let found = good(app.search(json!({"query": "taxes", "threshold": -1.0, "k": 1})).await).await;
    assert_eq!(found["results"][0]["external_id"], "d8");
    app.stop().await;
}

#[tokio::test]
async fn vectors_that_find_less_are_refused_and_the_old_ones_stay() {
    let app = app(false).await;
    start(&app, Some(gate())).await;
    let failed = async || until(&app, "the refusal", |status| status["running"] == false).await;
    let refused = failed().await;
    let told = refused["error"].as_str().unwrap();
    assert!(told.contains("the gate refuses other@1: of 10 queries recall@1 1.0000 → "), "{told}");
    assert!(
        told.contains("nDCG@1") && told.contains("start without a gate to go over all the same"),
        "{told}"
    );
    assert_eq!((&refused["stage"], &refused["done"]), (&json!("backfilling"), &json!(10)));
    assert_eq!(live_model(&app).await, "all-MiniLM-L6-v2");
    let task = refused["task_id"].as_str().unwrap();
    let task = good(app.get(&format!("/api/v1/tasks/{task}")).send().await.unwrap()).await;
    assert_eq!((&task["status"], &task["error"]), (&json!("failed"), &refused["error"]));
    let found = good(app.search(json!({"query": "taxes", "k": 1})).await).await;
    assert_eq!(found["results"][0]["external_id"], "d8");

    // Measured again when it is started again; without a gate it goes over.
    start(&app, Some(gate())).await;
    assert!(failed().await["error"].as_str().unwrap().contains("the gate refuses"));
    start(&app, None).await;
    until(&app, "the cutover", |status| status["stage"] == "cut_over").await;
    assert_eq!(live_model(&app).await, "other");

    // Back, and again with a gate: the task of the first time, which still looks after late writers, leaves
    // the new one's vectors alone.
    good(app.delete(REEMBED).send().await.unwrap()).await;
    start(&app, Some(gate())).await;
    execute(&app.admin_url, "UPDATE jobs SET due_at = now()").await;
    assert!(failed().await["error"].as_str().unwrap().contains("the gate refuses"));
    let idle = async || {
        let jobs = app.rag.store().jobs(TenantId::DEFAULT, 50).await.unwrap();
        jobs.iter().all(|job| job.state.is_final())
    };
    harness::eventually("all tasks have ended", idle).await;
    assert_eq!(status(&app).await["stage"], "backfilling");
    assert_eq!(live_model(&app).await, "all-MiniLM-L6-v2");
    app.stop().await;
}

#[tokio::test]
async fn a_gate_given_later_holds_for_what_runs_already() {
    let app = app(false).await;
    // No worker gets it before the second request.
    execute(&app.admin_url, "ALTER TABLE jobs ALTER COLUMN due_at SET DEFAULT now() + interval '1 hour'")
        .await;
    start(&app, None).await;
    let first = status(&app).await["task_id"].clone();
    execute(&app.admin_url, "ALTER TABLE jobs ALTER COLUMN due_at SET DEFAULT now()").await;
    start(&app, Some(gate())).await;
    let refused = until(&app, "the refusal", |status| status["running"] == false).await;
    assert!(refused["error"].as_str().unwrap().contains("the gate refuses"), "{refused}");
    assert_ne!(refused["task_id"], first);
    let task = format!("/api/v1/tasks/{}", first.as_str().unwrap());
    assert_eq!(good(app.get(&task).send().await.unwrap()).await["status"], "cancelled");
    assert_eq!(live_model(&app).await, "all-MiniLM-L6-v2");
    app.stop().await;
}

#[tokio::test]
async fn a_gate_that_measures_nothing_is_refused() {
    let app = app(true).await;
    let judged = |query: &str, relevant: &str| json!({"queries": [{"query": query, "relevant": [relevant]}]});
    for (gate, said) in [
        (
            judged("q", "d77"),
            "1 of the 1 documents judged are not in collection `default`, the first is `d77`",
        ),
        (judged(" ", "d1"), "gate.queries[0].query: is empty"),
        (json!({"queries": []}), "gate.queries: must be 1 to 1000, is 0"),
        (json!([1]), "gate: must be an object with `queries`"),
    ] {
        let body = json!({"model": "other", "gate": gate});
        let told = problem(app.post(REEMBED).json(&body).send().await.unwrap(), 400, "invalid_request").await;
        assert!(told["detail"].as_str().unwrap().contains(said), "{told}");
    }
    problem(app.get(REEMBED).send().await.unwrap(), 404, "no_reembedding").await;
    // Judgements that the old vectors do not meet either: nothing can fall.
    let hopeless = json!({"k": 1, "queries": [{"query": "Tell me of taxes", "relevant": ["d0"]}]});
    start(&app, Some(hopeless)).await;
    let refused = until(&app, "the refusal", |status| status["running"] == false).await;
    assert!(refused["error"].as_str().unwrap().contains("the gate measures nothing"), "{refused}");
    app.stop().await;
}
