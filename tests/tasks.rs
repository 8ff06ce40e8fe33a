//! Background work as clients see it, and what becomes of it when workers, models or the database fail.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::BoxFuture;
use ragway::{
    config::{EmbeddingSpace, JobSettings},
    models::{Embedder, Embeddings, Lane, ModelError, TextRole},
};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinHandle};
use uuid::Uuid;

use crate::harness::{self, TestApp, eventually, execute, good, problem};

/// A text that [`Staged`] does not take.
const REFUSED: &str = "longer than the model reads";

/// all-MiniLM-L6-v2, but it works only as often as it is allowed to, and fails when it is told to.
struct Staged {
    model: Arc<dyn Embedder>,
    allowed: Semaphore,
    waiting: Semaphore,
    failures: Mutex<Vec<ModelError>>,
}

impl Staged {
    async fn allowing(calls: usize) -> Arc<Self> {
        let model = harness::embedder().await;
        let (allowed, waiting) = (Semaphore::new(calls), Semaphore::new(0));
        Arc::new(Self { model, allowed, waiting, failures: Mutex::default() })
    }

    fn open(&self) {
        self.allowed.add_permits(1000);
    }

    /// Until a call waits to be allowed.
    async fn reached(&self) {
        self.waiting.acquire().await.unwrap().forget();
    }
}

impl Embedder for Staged {
    fn space(&self) -> &EmbeddingSpace {
        self.model.space()
    }

    crate::harness::reads_as_its_model!();

    fn embed(
        &self,
        texts: Vec<String>,
        role: TextRole,
        lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        assert_eq!(lane, Lane::Bulk, "a background job must yield to interactive work");
        Box::pin(async move {
            if self.allowed.available_permits() == 0 {
                self.waiting.add_permits(1);
            }
            self.allowed.acquire().await.unwrap().forget();
            if let Some(failure) = self.failures.lock().unwrap().pop() {
                return Err(failure);
            }
            if texts.iter().any(|text| text.contains(REFUSED)) {
                return Err(ModelError::Unfit { model: "m".into(), reason: "a text is too long".into() });
            }
            // Beside other work of the machine bulk work could wait for long.
            self.model.embed(texts, role, Lane::Interactive).await
        })
    }
}

/// A ragway that leaves jobs to the workers that the test starts.
async fn without_workers(embedder: Arc<Staged>) -> TestApp {
    TestApp::with(|setup| {
        setup.catalog.jobs.workers = 0;
        setup.embedder = Some(embedder);
    })
    .await
}

/// A worker of another process, as far as the database can tell; aborting it is a crash.
fn worker(app: &TestApp) -> JoinHandle<()> {
    let settings = JobSettings { workers: 1, poll_ms: 50, retry_ms: 50, ..JobSettings::default() };
    tokio::spawn(app.rag.clone().with_job_settings(settings).run_jobs(std::future::pending()))
}

async fn crash(worker: JoinHandle<()>) {
    worker.abort();
    let _ = worker.await;
}

async fn accepted(app: &TestApp, path: &str, body: &Value) -> String {
    let response = app.post(path).json(body).send().await.unwrap();
    assert_eq!(response.status(), 202);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let body = good(response).await;
    assert_eq!(body["status"], "processing");
    assert_eq!(location, format!("/api/v1/tasks/{}", body["task_id"].as_str().unwrap()));
    location
}

async fn task(app: &TestApp, location: &str) -> Value {
    good(app.get(location).send().await.unwrap()).await
}

/// Until so many items of the task are done, and not one more.
async fn done(app: &TestApp, location: &str, count: u64) {
    let done = async || task(app, location).await["progress"]["done"].as_u64().unwrap();
    eventually("the items are done", async || done().await >= count).await;
    assert_eq!(done().await, count);
}

async fn ended(app: &TestApp, location: &str) -> Value {
    eventually("the task ends", async || task(app, location).await["status"] != "processing").await;
    task(app, location).await
}

/// Documents of one passage that are embedded in one call.
const TOGETHER: usize = 64;

fn documents(count: usize) -> Value {
    let documents: Vec<Value> = (0..count)
        .map(|n| json!({"content": format!("Room {n} has {} beds.", n + 2), "title": format!("Room {n}")}))
        .collect();
    json!({ "documents": documents })
}

/// The titles in the order of the result, with the status that all must have.
fn stored_titles(task: &Value, status: &str) -> Vec<String> {
    let stored = task["result"]["documents"].as_array().unwrap_or_else(|| panic!("no documents: {task}"));
    assert!(stored.iter().all(|document| document["status"] == status), "{task}");
    stored.iter().map(|document| document["title"].as_str().unwrap().to_owned()).collect()
}

fn titles(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("Room {n}")).collect()
}

async fn stored(app: &TestApp) -> i64 {
    good(app.get("/api/v1/documents").send().await.unwrap()).await["total"].as_i64().unwrap()
}

#[tokio::test]
async fn texts_embedded_later_have_the_vectors_of_those_embedded_at_once() {
    let app = TestApp::start().await;
    // More than a step; one is longer than the model reads.
    let mut texts: Vec<String> = (0..150).map(|n| format!("Room {n}")).collect();
    texts[100] = "word ".repeat(400);
    let location =
        accepted(&app, "/api/v1/embed/async", &json!({"texts": texts, "model_name": "all-MiniLM-L6-v2"}))
            .await;
    let done = ended(&app, &location).await;
    assert_eq!(done["status"], "succeeded", "{done}");
    assert_eq!(done["progress"], json!({"done": 150, "total": 150}));
    assert_eq!(done["error"], Value::Null);
    let result = &done["result"];
    assert_eq!((&result["count"], &result["dimension"]), (&json!(150), &json!(384)));
    assert_eq!(result["truncated"], json!([100]));
    let at_once =
        app.post("/api/v1/embed").json(&json!({"texts": [texts[0], texts[149]]})).send().await.unwrap();
    let at_once = good(at_once).await;
    assert_eq!((&result["space"], &result["model"]), (&at_once["space"], &at_once["model"]));
    for (later, now) in [(0, 0), (149, 1)] {
        let similarity = cosine(&result["embeddings"][later], &at_once["embeddings"][now]);
        assert!(similarity > 0.9999, "text {later}: {similarity}");
    }
}

fn cosine(a: &Value, b: &Value) -> f64 {
    let numbers = |vector: &Value| -> Vec<f64> {
        vector.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    numbers(a).iter().zip(numbers(b)).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn documents_stored_later_are_reported_as_those_stored_at_once() {
    let app = TestApp::start().await;
    let mut body = documents(5);
    body["documents"][2]["content"] = json!("  \n");
    body["documents"][3]["metadata"] = json!([1]);
    let done = ended(&app, &accepted(&app, "/api/v1/documents/async", &body).await).await;
    assert_eq!((&done["status"], &done["progress"]["done"]), (&json!("succeeded"), &json!(5)), "{done}");
    assert_eq!(stored_titles(&done, "created"), ["Room 0", "Room 1", "Room 4"]);
    let at_once: Value =
        app.post("/api/v1/documents").json(&body).send().await.unwrap().json().await.unwrap();
    assert_eq!(done["result"]["failed"], at_once["failed"]);
    let again = ended(&app, &accepted(&app, "/api/v1/documents/async", &body).await).await;
    assert_eq!(stored_titles(&again, "unchanged").len(), 3);
    let found = good(app.search(json!({"query": "Room 4", "k": 1})).await).await;
    assert!(found["results"][0]["content"].as_str().unwrap().contains("6 beds"), "{found}");
}

#[tokio::test]
async fn what_is_refused_at_once_is_refused_before_it_is_queued() {
    let app = TestApp::start().await;
    let refused = async |path: &str, body: Value, status: u16, code: &str| {
        problem(app.post(path).json(&body).send().await.unwrap(), status, code).await
    };
    let embed = "/api/v1/embed/async";
    refused(embed, json!({"texts": []}), 400, "invalid_request").await;
    refused(embed, json!({"texts": ["a", " "]}), 400, "invalid_request").await;
    refused(embed, json!({"texts": ["a"], "model_name": "gpt"}), 400, "unknown_model").await;
    refused(embed, json!({"texts": ["a"], "more": 1}), 400, "invalid_request").await;
    let documents = "/api/v1/documents/async";
    refused(documents, json!({"documents": []}), 400, "invalid_request").await;
    refused(
        documents,
        json!({"documents": [{"content": "a"}], "collection": "none"}),
        404,
        "unknown_collection",
    )
    .await;
    refused(documents, json!({"documents": [{"content": "  "}]}), 422, "unreadable_document").await;
    refused(documents, json!({"documents": [{"content": "a", "metadata": 3}]}), 400, "invalid_request").await;
    refused(documents, json!({"documents": vec![json!({"content": "a"}); 1001]}), 400, "invalid_request")
        .await;
}

#[tokio::test]
async fn an_unknown_or_expired_task_is_not_found() {
    let app = TestApp::start().await;
    let unknown = format!("/api/v1/tasks/{}", Uuid::now_v7());
    problem(app.get(&unknown).send().await.unwrap(), 404, "unknown_task").await;
    problem(app.delete(&unknown).send().await.unwrap(), 404, "unknown_task").await;
    problem(app.get("/api/v1/tasks/7").send().await.unwrap(), 400, "invalid_request").await;
    let location = accepted(&app, "/api/v1/embed/async", &json!({"texts": ["a"]})).await;
    ended(&app, &location).await;
    execute(&app.admin_url, "UPDATE jobs SET expires_at = now()").await;
    problem(app.get(&location).send().await.unwrap(), 404, "unknown_task").await;
}

#[tokio::test]
async fn too_many_tasks_are_refused_until_one_ends() {
    let app = TestApp::with(|setup| (setup.catalog.jobs.workers, setup.catalog.jobs.max_open) = (0, 2)).await;
    let body = json!({"texts": ["a"]});
    let first = accepted(&app, "/api/v1/embed/async", &body).await;
    accepted(&app, "/api/v1/embed/async", &body).await;
    let refused = app.post("/api/v1/embed/async").json(&body).send().await.unwrap();
    assert!(refused.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    problem(refused, 429, "too_many_tasks").await;
    let cancelled = good(app.delete(&first).send().await.unwrap()).await;
    assert_eq!((&cancelled["status"], &cancelled["result"]), (&json!("cancelled"), &Value::Null));
    accepted(&app, "/api/v1/embed/async", &body).await;
}

#[tokio::test]
async fn a_cancelled_task_stores_nothing_more_and_tells_what_it_stored() {
    let model = Staged::allowing(2).await;
    let app = without_workers(Arc::clone(&model)).await;
    let _worker = worker(&app);
    let location = accepted(&app, "/api/v1/documents/async", &documents(5 * TOGETHER)).await;
    model.reached().await;
    done(&app, &location, 128).await;
    assert_eq!(task(&app, &location).await["progress"], json!({"done": 128, "total": 320}));
    assert_eq!(good(app.delete(&location).send().await.unwrap()).await["status"], "cancelled");
    // The worker, in the midst of the next documents, may go on now, and must not get far.
    model.open();
    let next = accepted(&app, "/api/v1/embed/async", &json!({"texts": ["a"]})).await;
    assert_eq!(ended(&app, &next).await["status"], "succeeded", "the worker is stuck");
    let cancelled = task(&app, &location).await;
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(stored_titles(&cancelled, "created"), titles(128));
    assert_eq!(stored(&app).await, 128, "a cancelled task has gone on");
    // Again: it stays as it is.
    assert_eq!(good(app.delete(&location).send().await.unwrap()).await["status"], "cancelled");
}

#[tokio::test]
async fn a_worker_killed_in_the_midst_loses_nothing_and_repeats_nothing() {
    let model = Staged::allowing(2).await;
    let app = without_workers(Arc::clone(&model)).await;
    let location = accepted(&app, "/api/v1/documents/async", &documents(6 * TOGETHER)).await;
    for stored in [128, 256] {
        let killed = worker(&app);
        done(&app, &location, stored).await;
        crash(killed).await;
        execute(&app.admin_url, "UPDATE jobs SET due_at = now()").await;
        model.allowed.add_permits(2);
    }
    model.open();
    let _worker = worker(&app);
    let done = ended(&app, &location).await;
    assert_eq!(done["status"], "succeeded", "{done}");
    assert_eq!(stored_titles(&done, "created"), titles(6 * TOGETHER));
    assert_eq!(stored(&app).await, 384);
}

#[tokio::test]
async fn embedding_goes_on_where_a_killed_worker_stopped() {
    let model = Staged::allowing(1).await;
    let app = without_workers(Arc::clone(&model)).await;
    let texts: Vec<String> = (0..130).map(|n| format!("Room {n}")).collect();
    let location = accepted(&app, "/api/v1/embed/async", &json!({ "texts": texts })).await;
    let killed = worker(&app);
    model.reached().await;
    assert_eq!(task(&app, &location).await["progress"], json!({"done": 64, "total": 130}));
    crash(killed).await;
    execute(&app.admin_url, "UPDATE jobs SET due_at = now()").await;
    // For what is left, and not once more.
    model.allowed.add_permits(2);
    let _worker = worker(&app);
    let done = ended(&app, &location).await;
    assert_eq!((&done["status"], &done["result"]["count"]), (&json!("succeeded"), &json!(130)));
    let all = model.model.embed(texts, TextRole::Passage, Lane::Bulk).await.unwrap().vectors;
    for (index, vector) in all.iter().enumerate() {
        let similarity = cosine(&done["result"]["embeddings"][index], &json!(vector));
        assert!(similarity > 0.9999, "text {index}: {similarity}");
    }
}

#[tokio::test]
async fn a_stopped_replica_leaves_its_work_to_another_at_once() {
    let model = Staged::allowing(1).await;
    let first = TestApp::with(|setup| setup.embedder = Some(Arc::clone(&model) as _)).await;
    let database = (first.database_url.clone(), first.admin_url.clone());
    let unhindered = Staged::allowing(1000).await;
    let second = TestApp::with(|setup| {
        setup.database = Some(database);
        setup.catalog.jobs.workers = 0;
        setup.embedder = Some(unhindered as _);
    })
    .await;
    let location = accepted(&first, "/api/v1/documents/async", &documents(4 * TOGETHER)).await;
    model.reached().await;
    first.stop().await;
    // No lease, of half a minute, has to run out before.
    let _worker = worker(&second);
    let done = ended(&second, &location).await;
    assert_eq!(stored_titles(&done, "created"), titles(4 * TOGETHER));
}

#[tokio::test]
async fn an_outage_of_the_database_only_delays_a_task() {
    let model = Staged::allowing(2).await;
    let app = TestApp::with(|setup| {
        setup.through_proxy = true;
        setup.embedder = Some(Arc::clone(&model) as _);
        setup.catalog.jobs.lease_ms = 1500;
    })
    .await;
    let location = accepted(&app, "/api/v1/documents/async", &documents(4 * TOGETHER)).await;
    model.reached().await;
    let proxy = app.proxy.as_ref().unwrap();
    proxy.cut();
    model.open();
    eventually("the outage is noticed", async || app.get("/health").send().await.unwrap().status() == 503)
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    proxy.mend();
    eventually("the task can be read", async || app.get(&location).send().await.unwrap().status() == 200)
        .await;
    let done = ended(&app, &location).await;
    assert_eq!(done["status"], "succeeded", "{done}");
    assert_eq!(stored_titles(&done, "created"), titles(4 * TOGETHER));
    assert_eq!(stored(&app).await, 256);
}

#[tokio::test]
async fn a_model_that_fails_for_a_while_delays_a_task_and_one_that_cannot_ends_it() {
    let model = Staged::allowing(1000).await;
    let name = || "m".to_owned();
    let away = ModelError::Unavailable { model: name(), reason: "connection refused".into() };
    let busy = ModelError::Overloaded { model: name(), retry_after: Duration::ZERO };
    *model.failures.lock().unwrap() = vec![away.clone(), busy, away];
    let app = without_workers(Arc::clone(&model)).await;
    let _worker = worker(&app);
    let body = json!({"texts": ["a"]});
    assert_eq!(ended(&app, &accepted(&app, "/api/v1/embed/async", &body).await).await["status"], "succeeded");

    let broken = ModelError::Failed { model: name(), reason: "secret address".into() };
    *model.failures.lock().unwrap() = vec![broken];
    let failed = ended(&app, &accepted(&app, "/api/v1/embed/async", &body).await).await;
    assert_eq!((&failed["status"], &failed["result"]), (&json!("failed"), &Value::Null));
    assert!(!failed["error"].as_str().unwrap().contains("secret"), "the cause leaks: {failed}");
}

#[tokio::test]
async fn a_task_that_fails_tells_what_it_had_stored() {
    let model = Staged::allowing(2).await;
    let app = without_workers(Arc::clone(&model)).await;
    let _worker = worker(&app);
    good(app.post("/api/v1/collections").json(&json!({"name": "rooms"})).send().await.unwrap()).await;
    let mut body = documents(4 * TOGETHER);
    body["collection"] = json!("rooms");
    let location = accepted(&app, "/api/v1/documents/async", &body).await;
    done(&app, &location, 128).await;
    app.delete("/api/v1/collections/rooms").send().await.unwrap();
    model.open();
    let failed = ended(&app, &location).await;
    assert_eq!(failed["status"], "failed", "{failed}");
    assert!(failed["error"].as_str().unwrap().contains("rooms"), "{failed}");
    assert_eq!(stored_titles(&failed, "created"), titles(128));
}

#[tokio::test]
async fn what_stands_twice_in_a_task_or_is_stored_is_stored_as_one_after_the_other() {
    let app = TestApp::start().await;
    let outcomes = async |documents: Value| {
        let body = json!({ "documents": documents });
        let ended = ended(&app, &accepted(&app, "/api/v1/documents/async", &body).await).await;
        let documents = ended["result"]["documents"].as_array().unwrap_or_else(|| panic!("{ended}")).clone();
        let outcome = |document: &Value| {
            (document["status"].as_str().unwrap().to_owned(), document["version"].as_i64().unwrap())
        };
        documents.iter().map(outcome).collect::<Vec<_>>()
    };
    let named = |name: &str, content: &str| json!({"external_id": name, "content": content});
    let unnamed = |content: &str| json!({"content": content});
    let (created, updated, unchanged) =
        (("created".into(), 1), ("updated".into(), 2), ("unchanged".into(), 1));
    let same_name = json!([named("a", "The pier opens at six."), named("a", "The pier opens at seven.")]);
    assert_eq!(outcomes(same_name).await, [created.clone(), updated.clone()]);
    let same_content = json!([named("b", "The ferry is blue."), unnamed("The ferry is blue.")]);
    assert_eq!(outcomes(same_content).await, [created.clone(), unchanged.clone()]);
    let apart = json!([unnamed("The bell is old."), named("c", "The bell is old."), unnamed("No bell.")]);
    assert_eq!(outcomes(apart).await, [created.clone(), created.clone(), created.clone()]);
    let mixed = json!([unnamed("No bell."), unnamed("A new bell."), named("b", "The ferry is red.")]);
    assert_eq!(outcomes(mixed).await, [unchanged, created, updated]);
    assert_eq!(stored(&app).await, 6);
}

#[tokio::test]
async fn a_document_that_the_model_refuses_fails_alone() {
    let model = Staged::allowing(1000).await;
    let app = without_workers(Arc::clone(&model)).await;
    let _worker = worker(&app);
    let mut body = documents(4);
    body["documents"][1]["content"] = json!(REFUSED);
    let ended = ended(&app, &accepted(&app, "/api/v1/documents/async", &body).await).await;
    assert_eq!((&ended["status"], &ended["progress"]["done"]), (&json!("succeeded"), &json!(4)), "{ended}");
    assert_eq!(stored_titles(&ended, "created"), ["Room 0", "Room 2", "Room 3"]);
    let failed = &ended["result"]["failed"];
    assert_eq!((&failed[0]["index"], &failed[0]["code"]), (&json!(1), &json!("unfit_for_model")), "{ended}");
    assert!(failed[0]["detail"].as_str().unwrap().contains("too long"), "{ended}");
}
