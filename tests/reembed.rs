//! A collection goes over to another model while it is searched and written to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use ragway::{
    config::{EmbeddingSpace, JobSettings},
    models::{Embedder, Embeddings, Lane, ModelError, TextRole, Token},
    store::{
        ExpectedVersion, NewDocument, PassageQuery, PassageSet, SearchEffort, SpaceAdded, SpaceSwitch,
        StoreError, TenantId,
    },
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinHandle};

use crate::harness::{self, TestApp, execute, good, problem};

const TENANT: TenantId = TenantId::DEFAULT;
const COLLECTION: &str = "/api/v1/collections/default";
const REEMBED: &str = "/api/v1/collections/default/reembed";
/// The passages of [`Turned`] are shorter than those of all-MiniLM-L6-v2.
const TURNED_TOKENS: usize = 64;

/// all-MiniLM-L6-v2 with its axes turned round: the same similarities within the space, the same
/// dimension, and none to any vector outside of it. It works only as often as it is allowed to.
struct Turned {
    model: Arc<dyn Embedder>,
    space: EmbeddingSpace,
    passages: Semaphore,
    embedded: AtomicUsize,
}

impl Turned {
    async fn allowing(passages: usize) -> Arc<Self> {
        let space =
            EmbeddingSpace { id: "turned@1:mean:l2:fp32".into(), model: "turned".into(), dimension: 384 };
        let (model, embedded) = (harness::embedder().await, AtomicUsize::new(0));
        Arc::new(Self { model, space, passages: Semaphore::new(passages), embedded })
    }

    async fn free() -> Arc<Self> {
        Self::allowing(Semaphore::MAX_PERMITS / 2).await
    }

    fn open(&self) {
        self.passages.add_permits(10_000);
    }

    /// Batches of passages that were embedded.
    fn embedded(&self) -> usize {
        self.embedded.load(Ordering::SeqCst)
    }
}

impl Embedder for Turned {
    fn space(&self) -> &EmbeddingSpace {
        &self.space
    }

    fn max_tokens(&self) -> usize {
        TURNED_TOKENS
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.model.count_tokens(text)
    }

    fn tokenize(&self, text: &str, special: bool) -> Result<Vec<Token>, ModelError> {
        self.model.tokenize(text, special)
    }

    fn embed(
        &self,
        texts: Vec<String>,
        role: TextRole,
        lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        Box::pin(async move {
            if role == TextRole::Passage {
                assert_eq!(lane, Lane::Bulk, "a re-embedding must yield to interactive work");
                self.passages.acquire().await.unwrap().forget();
                self.embedded.fetch_add(1, Ordering::SeqCst);
            }
            let mut embeddings = self.model.embed(texts, role, lane).await?;
            embeddings.vectors.iter_mut().for_each(|vector| vector.rotate_right(1));
            Ok(embeddings)
        })
    }
}

/// all-MiniLM-L6-v2 that holds queries back until it is told to go on.
struct HeldQueries {
    model: Arc<dyn Embedder>,
    hold: AtomicBool,
    arrived: Semaphore,
    go: Semaphore,
}

impl Embedder for HeldQueries {
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
        Box::pin(async move {
            let embeddings = self.model.embed(texts, role, lane).await?;
            if role == TextRole::Query && self.hold.load(Ordering::SeqCst) {
                self.arrived.add_permits(1);
                self.go.acquire().await.unwrap().forget();
            }
            Ok(embeddings)
        })
    }
}

/// Both models, and workers in the server.
async fn with_turned(turned: &Arc<Turned>) -> TestApp {
    let other = Arc::clone(turned);
    TestApp::with(|setup| setup.other = Some(other)).await
}

/// Both models; jobs are left to the workers that the test starts.
async fn without_workers(turned: &Arc<Turned>) -> TestApp {
    let other = Arc::clone(turned);
    TestApp::with(|setup| {
        setup.other = Some(other);
        setup.catalog.jobs.workers = 0;
    })
    .await
}

/// A worker of another process, as far as the database can tell; aborting it is a crash.
fn worker(app: &TestApp) -> JoinHandle<()> {
    let settings = JobSettings { workers: 1, poll_ms: 50, ..JobSettings::default() };
    tokio::spawn(app.rag.clone().with_job_settings(settings).run_jobs(std::future::pending()))
}

async fn get(app: &TestApp, path: &str) -> Value {
    good(app.get(path).send().await.unwrap()).await
}

async fn start(app: &TestApp) -> Value {
    let response = app.post(REEMBED).json(&json!({"model": "turned"})).send().await.unwrap();
    assert_eq!(response.status(), 202);
    good(response).await
}

/// Repeats until it holds. Bulk work gives way to all others', so that on a busy machine it takes its time.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), wait).await.expect(what);
}

async fn cut_over(app: &TestApp) {
    until("the cutover", async || get(app, REEMBED).await["stage"] == "cut_over").await;
}

async fn finish(app: &TestApp) {
    good(app.post(&format!("{REEMBED}/finish")).send().await.unwrap()).await;
}

fn sentence(n: usize) -> String {
    const THINGS: [&str; 8] =
        ["bicycle", "saxophone", "volcano", "passport", "pancake", "glacier", "telescope", "penguin"];
    const PLACES: [&str; 8] = ["Lisbon", "Nairobi", "Osaka", "Quito", "Tromsø", "Perth", "Havana", "Vilnius"];
    let (thing, place) = (THINGS[n % 8], PLACES[n / 8 % 8]);
    format!("The {thing} of {place} has the number {}.", 100 + n)
}

async fn store(app: &TestApp, n: usize) {
    app.store(json!({"content": sentence(n), "external_id": format!("d{n}")})).await;
}

/// The passages found for a document's own text, best first.
async fn found(app: &TestApp, n: usize) -> Vec<Value> {
    let body = json!({"query": sentence(n), "k": 5, "threshold": -1.0});
    good(app.search(body).await).await["results"].as_array().unwrap().clone()
}

/// Finds the document by its own text, best of all: only vectors of one space can give that.
async fn assert_found(app: &TestApp, n: usize) {
    let results = found(app, n).await;
    let best = &results[0];
    assert_eq!(best["external_id"], format!("d{n}"), "{results:#?}");
    assert!(best["similarity"].as_f64().unwrap() > 0.95, "{best}");
}

/// Rows of two columns of text.
async fn pairs(url: &SecretString, statement: &str) -> Vec<(String, String)> {
    let (client, connection) =
        tokio_postgres::connect(url.expose_secret(), tokio_postgres::NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    let rows = client.query(statement, &[]).await.unwrap();
    drop(client);
    driver.await.unwrap().unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// How many passages there are of each space.
async fn passages_by_space(app: &TestApp) -> BTreeMap<String, usize> {
    let rows = pairs(&app.admin_url, "SELECT id::text, space_id FROM passages").await;
    let mut counts = BTreeMap::new();
    for (_, space) in rows {
        *counts.entry(space.split('@').next().unwrap().to_owned()).or_default() += 1;
    }
    counts
}

/// Searches until it is told to stop; the passages of each answer.
async fn searcher(
    app: Arc<TestApp>,
    documents: usize,
    answers: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Vec<Vec<String>> {
    let mut seen = Vec::new();
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        n = (n + 1) % documents;
        let results = found(&app, n).await;
        assert_eq!(results[0]["external_id"], format!("d{n}"), "{results:#?}");
        assert!(results[0]["similarity"].as_f64().unwrap() > 0.95, "{results:#?}");
        assert_eq!(results.len(), 5);
        answers.fetch_add(1, Ordering::SeqCst);
        seen.push(results.iter().map(|result| result["id"].as_str().unwrap().to_owned()).collect());
    }
    seen
}

/// Stores documents until it is told to stop, replacing every third and deleting every fifth;
/// the numbers of those that are to be there.
async fn writer(app: Arc<TestApp>, first: usize, stop: Arc<AtomicBool>) -> Vec<usize> {
    let mut there = Vec::new();
    for n in first.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        if n % 3 == 0 {
            app.store(json!({"content": "To be replaced.", "external_id": format!("d{n}")})).await;
        }
        store(&app, n).await;
        if n % 5 == 0 {
            let (gone, _) = pairs(
                &app.admin_url,
                &format!("SELECT id::text, external_id FROM documents WHERE external_id = 'd{n}'"),
            )
            .await
            .remove(0);
            let deleted = app.delete(&format!("/api/v1/documents/{gone}")).send().await.unwrap();
            assert_eq!(deleted.status(), 204);
        } else {
            there.push(n);
        }
    }
    there
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_replicas_search_and_write_throughout_and_no_space_is_mixed() {
    const DOCUMENTS: usize = 16;
    let turned = Turned::free().await;
    let first = Arc::new(with_turned(&turned).await);
    let (urls, other) = ((first.database_url.clone(), first.admin_url.clone()), Arc::clone(&turned));
    let second = TestApp::with(|setup| {
        setup.database = Some(urls);
        setup.other = Some(other);
    });
    let second = Arc::new(second.await);
    for n in 0..DOCUMENTS {
        store(&first, n).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let replicas = [&first, &second];
    let answers = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
    let searchers = [0, 1].map(|n| {
        let (app, answers) = (Arc::clone(replicas[n]), Arc::clone(&answers[n]));
        tokio::spawn(searcher(app, DOCUMENTS, answers, Arc::clone(&stop)))
    });
    let writers = [(&first, 1000), (&second, 2000)]
        .map(|(app, n)| tokio::spawn(writer(Arc::clone(app), n, Arc::clone(&stop))));

    // Each searcher asks after it and is answered.
    let pause = async || {
        let before = answers.each_ref().map(|count| count.load(Ordering::SeqCst));
        until("more answers", async || {
            let now = answers.each_ref().map(|count| count.load(Ordering::SeqCst));
            // The first may have been on its way before.
            now.iter().zip(before).all(|(now, before)| *now > before + 2)
        })
        .await;
    };
    pause().await;
    start(&second).await;
    cut_over(&first).await;
    pause().await;
    let spaces: BTreeMap<_, _> =
        pairs(&first.admin_url, "SELECT id::text, space_id FROM passages").await.into_iter().collect();
    good(first.delete(REEMBED).send().await.unwrap()).await;
    pause().await;
    start(&first).await;
    cut_over(&second).await;
    finish(&second).await;
    pause().await;
    stop.store(true, Ordering::SeqCst);

    // An answer is of one space as far as its passages are still known; each searcher saw both.
    for searched in join_all(searchers).await {
        let mut used = BTreeSet::new();
        for answer in searched.unwrap() {
            let of: BTreeSet<_> = answer.iter().filter_map(|id| spaces.get(id)).collect();
            assert!(of.len() < 2, "passages of two spaces in one answer");
            used.extend(of);
        }
        assert_eq!(used.len(), 2, "{used:?}");
    }
    let mut expected: Vec<usize> = (0..DOCUMENTS).collect();
    for written in join_all(writers).await {
        expected.extend(written.unwrap());
    }
    assert!(expected.len() > DOCUMENTS);
    for n in &expected {
        assert_found(&first, *n).await;
    }
    let shown = get(&first, COLLECTION).await;
    assert_eq!(shown["documents"], expected.len());
    assert_eq!((&shown["space"], &shown["reembedding"]), (&json!("turned@1:mean:l2:fp32"), &Value::Null));
    until("the old vectors are deleted", async || passages_by_space(&first).await.len() == 1).await;
    assert_eq!(passages_by_space(&first).await["turned"], expected.len());
}

#[tokio::test]
async fn a_crash_in_the_middle_costs_one_document_at_most_and_searches_do_not_notice() {
    let turned = Turned::allowing(3).await;
    let app = without_workers(&turned).await;
    for n in 0..8 {
        store(&app, n).await;
    }
    let begun = start(&app).await;
    assert_eq!(
        (&begun["stage"], &begun["done"], &begun["total"]),
        (&json!("backfilling"), &json!(0), &json!(8))
    );
    assert_eq!((&begun["running"], &begun["error"]), (&json!(true), &Value::Null));
    let again = start(&app).await;
    assert_eq!(again["task_id"], begun["task_id"], "one re-embedding was started twice");
    let crashing = worker(&app);
    until("three documents are done", async || get(&app, REEMBED).await["done"] == 3).await;
    crashing.abort();
    let _ = crashing.await;
    assert_found(&app, 7).await;
    let shown = get(&app, COLLECTION).await;
    assert!(shown["space"].as_str().unwrap().starts_with("all-MiniLM-L6-v2@"));
    assert_eq!(shown["reembedding"]["stage"], "backfilling");
    assert_eq!(shown["passages"], 8, "passages that no search reads are counted");
    assert_eq!(get(&app, "/api/v1/documents").await["documents"][0]["passages"], 1);
    let task = get(&app, &format!("/api/v1/tasks/{}", begun["task_id"].as_str().unwrap())).await;
    assert_eq!(task["progress"], json!({"done": 3, "total": 8}));

    turned.open();
    execute(&app.admin_url, "UPDATE jobs SET due_at = now()").await;
    let _worker = worker(&app);
    cut_over(&app).await;
    assert_eq!(turned.embedded(), 8, "what was done before the crash was done again");
    for n in 0..8 {
        assert_found(&app, n).await;
    }
}

#[tokio::test]
async fn a_cancelled_one_leaves_nothing_and_can_be_started_again() {
    let turned = Turned::allowing(2).await;
    let app = with_turned(&turned).await;
    for n in 0..6 {
        store(&app, n).await;
    }
    start(&app).await;
    until("two documents are done", async || get(&app, REEMBED).await["done"] == 2).await;
    let finish = app.post(&format!("{REEMBED}/finish")).send().await.unwrap();
    problem(finish, 409, "reembedding_conflict").await;
    let kept = good(app.delete(REEMBED).send().await.unwrap()).await;
    assert_eq!((&kept["model"], &kept["reembedding"]), (&json!("all-MiniLM-L6-v2"), &Value::Null));
    problem(app.get(REEMBED).send().await.unwrap(), 404, "no_reembedding").await;
    problem(app.delete(REEMBED).send().await.unwrap(), 404, "no_reembedding").await;
    turned.open();
    until("its vectors are deleted", async || passages_by_space(&app).await.len() == 1).await;
    assert_found(&app, 5).await;
    start(&app).await;
    cut_over(&app).await;
    assert_found(&app, 5).await;
}

#[tokio::test]
async fn rolling_back_finds_what_was_stored_since() {
    let turned = Turned::free().await;
    let app = with_turned(&turned).await;
    store(&app, 0).await;
    start(&app).await;
    cut_over(&app).await;
    store(&app, 1).await;
    assert_eq!(
        passages_by_space(&app).await,
        BTreeMap::from([("all-MiniLM-L6-v2".into(), 2), ("turned".into(), 2)])
    );
    // As a replica of the version before stores a document: in one space, that which is live.
    store(&app, 2).await;
    execute(
        &app.admin_url,
        "DELETE FROM passages p USING documents d WHERE d.id = p.document_id
         AND d.external_id = 'd2' AND p.space_id LIKE 'all-%'",
    )
    .await;
    let back = good(app.delete(REEMBED).send().await.unwrap()).await;
    assert_eq!((&back["model"], &back["passages"]), (&json!("all-MiniLM-L6-v2"), &json!(3)));
    for n in 0..3 {
        assert_found(&app, n).await;
    }
    until("the new vectors are deleted", async || passages_by_space(&app).await.len() == 1).await;
}

#[tokio::test]
async fn writers_that_know_of_one_space_leave_no_gap() {
    let turned = Turned::allowing(1).await;
    let other = Arc::clone(&turned);
    let app = TestApp::with(|setup| {
        setup.other = Some(other);
        setup.catalog.http.request_timeout_ms = 5_000;
    })
    .await;
    store(&app, 0).await;
    store(&app, 1).await;
    start(&app).await;
    until("a document is done", async || get(&app, REEMBED).await["done"] == 1).await;
    let copy = |n: usize| {
        // The statements of version 0.1 with the vector of a stored passage.
        format!(
            "INSERT INTO documents (id, tenant_id, collection_id, external_id, content_hash, title, source, format, content, metadata)
             SELECT gen_random_uuid(), tenant_id, collection_id, 'd{n}', '\\x{n:02}', title, source, format, '{}', metadata
             FROM documents WHERE external_id = 'd0';
             INSERT INTO passages (id, tenant_id, collection_id, space_id, document_id, metadata, ordinal, heading, content, embedding)
             SELECT gen_random_uuid(), p.tenant_id, p.collection_id, p.space_id, d.id, p.metadata, 0, NULL, d.content, p.embedding
             FROM passages p, documents d
             WHERE d.external_id = 'd{n}' AND p.space_id LIKE 'all-%'
               AND p.document_id = (SELECT id FROM documents WHERE external_id = 'd0');",
            sentence(n)
        )
    };
    execute(&app.admin_url, &copy(40)).await;
    turned.open();
    cut_over(&app).await;
    assert_found(&app, 40).await;
    // One that looked the collection up before the cutover and stores after it.
    execute(&app.admin_url, &copy(41)).await;
    until("it is found", async || found(&app, 41).await[0]["external_id"] == "d41").await;
}

#[tokio::test]
async fn a_change_of_metadata_reaches_both_spaces() {
    let turned = Turned::free().await;
    let app = with_turned(&turned).await;
    store(&app, 0).await;
    start(&app).await;
    cut_over(&app).await;
    app.store(json!({"content": sentence(0), "external_id": "d0", "metadata": {"year": 2026}})).await;
    let rows = pairs(&app.admin_url, "SELECT metadata::text, space_id FROM passages").await;
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|(metadata, _)| metadata == r#"{"year": 2026}"#), "{rows:?}");
}

#[tokio::test]
async fn documents_are_cut_by_what_the_new_model_reads() {
    let turned = Turned::free().await;
    let app = with_turned(&turned).await;
    let long: Vec<String> = (0..20).map(sentence).collect();
    let stored = app.store(json!({"content": long.join(" ")})).await;
    start(&app).await;
    cut_over(&app).await;
    let shown = get(&app, COLLECTION).await;
    assert!(shown["passages"].as_i64().unwrap() > stored["passages"].as_i64().unwrap(), "{shown}");
    let rows =
        pairs(&app.admin_url, "SELECT content, id::text FROM passages WHERE space_id LIKE 'turned%'").await;
    let longest = rows.iter().map(|(content, _)| turned.count_tokens(content)).max().unwrap();
    assert!(longest + 2 <= TURNED_TOKENS, "{longest}");
}

#[tokio::test]
async fn a_query_on_its_way_when_its_space_goes_is_embedded_again() {
    let turned = Turned::free().await;
    let model = Arc::new(HeldQueries {
        model: harness::embedder().await,
        hold: AtomicBool::new(false),
        arrived: Semaphore::new(0),
        go: Semaphore::new(0),
    });
    let (held, other) = (Arc::clone(&model), Arc::clone(&turned));
    let app = TestApp::with(|setup| {
        setup.embedder = Some(held);
        setup.other = Some(other);
    })
    .await;
    for n in 0..3 {
        store(&app, n).await;
    }
    model.hold.store(true, Ordering::SeqCst);
    let query = async {
        let best = found(&app, 2).await[0].clone();
        assert_eq!(best["external_id"], "d2");
        assert!(best["similarity"].as_f64().unwrap() > 0.95, "{best}");
    };
    let change = async {
        model.arrived.acquire().await.unwrap().forget();
        start(&app).await;
        cut_over(&app).await;
        finish(&app).await;
        until("the old vectors are deleted", async || passages_by_space(&app).await.len() == 1).await;
        model.hold.store(false, Ordering::SeqCst);
        model.go.add_permits(1);
    };
    tokio::join!(query, change);
}

#[tokio::test]
async fn an_old_look_at_the_spaces_is_refused_by_the_store() {
    let turned = Turned::free().await;
    let app = without_workers(&turned).await;
    store(&app, 0).await;
    let db = app.rag.store();
    let before = db.collection(TENANT, "default").await.unwrap();
    let document = NewDocument {
        external_id: None,
        content_hash: vec![1],
        file_hash: None,
        title: None,
        source: None,
        format: "text/plain",
        content: "New.".into(),
        image: None,
        metadata: json!({}),
        expected: ExpectedVersion::Anything,
    };
    let set = |space: &EmbeddingSpace| PassageSet { space: space.clone(), passages: Vec::new(), embedded: 0 };
    let sets = [set(&before.space)];
    assert_eq!(db.add_space(TENANT, &before, &turned.space).await.unwrap(), SpaceAdded::Filling);
    let saved = db.save_document(TENANT, &before, &document, &sets, None).await;
    assert!(matches!(saved, Err(StoreError::SpacesChanged(_))), "a document would have been missed");
    let switched =
        db.switch_space(TENANT, &before, &turned.space, ragway::store::Previous::Keep).await.unwrap();
    assert_eq!(switched, SpaceSwitch::Incomplete);

    let _worker = worker(&app);
    start(&app).await;
    cut_over(&app).await;
    // The set of the live space is missing.
    let saved = db.save_document(TENANT, &before, &document, &sets, None).await;
    assert!(matches!(saved, Err(StoreError::SpacesChanged(_))));
    let search = || async {
        let query = PassageQuery {
            tenant: TENANT,
            collection: &before,
            vector: vec![1.0; 384],
            k: 1,
            min_similarity: -1.0,
            filter: None,
            effort: SearchEffort::Indexed,
        };
        db.nearest_passages(query).await
    };
    assert_eq!(search().await.unwrap().passages.len(), 1, "the kept space is whole");
    finish(&app).await;
    assert!(matches!(search().await, Err(StoreError::SpacesChanged(_))));
}

#[tokio::test]
async fn the_database_itself_keeps_spaces_and_pointers_in_order() {
    let turned = Turned::allowing(0).await;
    let app = without_workers(&turned).await;
    store(&app, 0).await;
    let (client, connection) =
        tokio_postgres::connect(app.admin_url.expose_secret(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
        .batch_execute("SELECT register_embedding_space('turned@1:mean:l2:fp32', 'turned', 384)")
        .await
        .unwrap();
    let refused = async |statement: &str| {
        client.batch_execute(statement).await.unwrap_err().as_db_error().unwrap().message().to_owned()
    };
    let told = refused("UPDATE collections SET space_id = 'turned@1:mean:l2:fp32'").await;
    assert!(told.contains("foreign key"), "{told}");
    start(&app).await;
    let told = refused(
        "SELECT register_embedding_space('third', 'third', 384);
         INSERT INTO collection_spaces (collection_id, tenant_id, space_id, state)
         SELECT id, tenant_id, 'third', 'filling' FROM collections",
    )
    .await;
    assert!(told.contains("collection_spaces_other"), "{told}");
    let told = refused("UPDATE collection_spaces SET state = 'live'").await;
    assert!(told.contains("collection_spaces_live"), "{told}");
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_what_to_do() {
    let turned = Turned::allowing(0).await;
    let app = without_workers(&turned).await;
    let post =
        async |path: &str, model: &str| app.post(path).json(&json!({"model": model})).send().await.unwrap();
    problem(post(REEMBED, "gpt").await, 400, "unknown_model").await;
    problem(post("/api/v1/collections/none/reembed", "turned").await, 404, "unknown_collection").await;
    problem(post(REEMBED, "all-MiniLM-L6-v2").await, 409, "reembedding_conflict").await;
    problem(app.get(REEMBED).send().await.unwrap(), 404, "no_reembedding").await;
    // Another one is on its way.
    let space = EmbeddingSpace { id: "third@1".into(), model: "third".into(), dimension: 3 };
    let collection = app.rag.store().collection(TENANT, "default").await.unwrap();
    app.rag.store().add_space(TENANT, &collection, &space).await.unwrap();
    let told = problem(post(REEMBED, "turned").await, 409, "reembedding_conflict").await;
    assert!(told["detail"].as_str().unwrap().contains("with third"), "{told}");
    // A model that is not there any more costs no writer anything.
    store(&app, 0).await;
    assert_found(&app, 0).await;
}
