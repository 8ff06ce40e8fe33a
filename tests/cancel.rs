//! A client that leaves stops the work that was done for it, before and after the answer began.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use ragway::{
    config::{EmbeddingSpace, OpenAiEntry},
    models::{Embedder, Embeddings, Lane, ModelError, TextRole, Token, openai::OpenAiGenerator},
};
use reqwest::RequestBuilder;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
    task::JoinHandle,
};

use crate::{
    harness::{TestApp, embedder, eventually, good},
    mcp,
};

const QUESTION: &str = "What does it cost to take a bicycle?";

/// An LLM that says a first sentence, or nothing, and then keeps its caller waiting.
struct Hanging {
    url: url::Url,
    /// A request has arrived.
    asked: Arc<Notify>,
    /// Ends when the caller has closed the connection.
    gone: JoinHandle<()>,
}

impl Hanging {
    async fn start(first: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
        let asked = Arc::new(Notify::new());
        let arrived = Arc::clone(&asked);
        let gone = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut received = Vec::new();
            while !received.ends_with(b"}") {
                socket.read_buf(&mut received).await.unwrap();
            }
            if let Some(first) = first {
                let event = json!({ "choices": [{ "index": 0, "delta": { "content": first } }] });
                let event = format!("data: {event}\n\n");
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                let answer = format!("{head}{:x}\r\n{event}\r\n", event.len());
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
            arrived.notify_one();
            // 0 bytes: closed. An error: reset.
            while matches!(socket.read_buf(&mut received).await, Ok(1..)) {}
        });
        Self { url, asked, gone }
    }

    fn entry(&self) -> OpenAiEntry {
        let mut entry = OpenAiEntry::new("hanging", self.url.clone(), "m", 4096);
        entry.timeouts.first_byte_ms = 600_000;
        entry.timeouts.whole_ms = 600_000;
        entry
    }
}

async fn app_asking(upstream: &Hanging) -> TestApp {
    let generator = OpenAiGenerator::new(&upstream.entry(), None).unwrap();
    let app = TestApp::with(|setup| {
        setup.catalog.ask.deadline_ms = 600_000;
        setup.backends.push(Arc::new(generator));
    })
    .await;
    app.store_ferry().await;
    app
}

async fn within_a_minute<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.unwrap_or_else(|_| panic!("{what}"))
}

#[tokio::test]
async fn the_upstream_request_is_closed_when_the_client_leaves() {
    // The first sentence is never complete, so that an answer that is not streamed has not begun.
    let ways: [fn(&TestApp) -> RequestBuilder; 3] = [
        |app| app.post("/api/v1/ask").json(&json!({"question": QUESTION})),
        |app| app.post("/api/v1/ask").json(&json!({"question": QUESTION, "stream": true})),
        |app| mcp::post(app, &mcp::calling("ask", &json!({"question": QUESTION}))),
    ];
    for (request, first) in ways.into_iter().flat_map(|way| [(way, None), (way, Some("A bicycle"))]) {
        let upstream = Hanging::start(first).await;
        let app = app_asking(&upstream).await;
        let request = request(&app);
        let asking = tokio::spawn(async move {
            let response = request.send().await.unwrap();
            // A stream has begun with its sources; it is read until it ends, which it does not.
            let mut body = response.bytes_stream();
            while body.next().await.is_some() {}
        });
        within_a_minute("the upstream is asked", upstream.asked.notified()).await;
        assert_eq!(app.rag.answers().status()[0].load, 1);
        assert!(!upstream.gone.is_finished());
        asking.abort();
        within_a_minute("the upstream sees the abort", upstream.gone).await.unwrap();
        eventually("the slot is free", async || app.rag.answers().status()[0].load == 0).await;
    }
}

/// The embedder of the tests, but questions never get a vector.
struct Stalled {
    inner: Arc<dyn Embedder>,
    asked: Arc<Notify>,
    dropped: Arc<AtomicUsize>,
}

struct CountDrop(Arc<AtomicUsize>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Embedder for Stalled {
    fn space(&self) -> &EmbeddingSpace {
        self.inner.space()
    }
    fn max_tokens(&self) -> usize {
        self.inner.max_tokens()
    }
    fn count_tokens(&self, text: &str) -> usize {
        self.inner.count_tokens(text)
    }
    fn tokenize(&self, text: &str, special: bool) -> Result<Vec<Token>, ModelError> {
        self.inner.tokenize(text, special)
    }
    fn embed(&self, _: Vec<String>, _: TextRole, _: Lane) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        let count = CountDrop(Arc::clone(&self.dropped));
        self.asked.notify_one();
        async move {
            let _count = count;
            std::future::pending().await
        }
        .boxed()
    }
}

/// Requests that search, in every way to ask for that.
fn searches(app: &TestApp) -> [RequestBuilder; 4] {
    let (query, question) = (json!({"query": QUESTION}), json!({"question": QUESTION}));
    [
        app.post("/api/v1/search").json(&query),
        app.post("/api/v1/ask").json(&question),
        mcp::post(app, &mcp::calling("search", &query)),
        mcp::post(app, &mcp::calling("ask", &question)),
    ]
}

#[tokio::test]
async fn retrieval_stops_when_the_client_leaves() {
    let (asked, dropped) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let stalled =
        Stalled { inner: embedder().await, asked: Arc::clone(&asked), dropped: Arc::clone(&dropped) };
    let app = TestApp::with(|setup| setup.embedder = Some(Arc::new(stalled))).await;
    for request in searches(&app) {
        dropped.store(0, Ordering::SeqCst);
        let asking = tokio::spawn(request.send());
        within_a_minute("the model is asked", asked.notified()).await;
        assert_eq!(dropped.load(Ordering::SeqCst), 0);
        asking.abort();
        eventually("the model's work is dropped", async || dropped.load(Ordering::SeqCst) == 1).await;
    }
}

/// A connection to the database beside ragway's.
async fn connect(url: &SecretString) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(url.expose_secret(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn the_database_stops_searching_when_the_client_leaves() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    let (owner, watcher) = (connect(&app.admin_url).await, connect(&app.database_url).await);
    // A search waits for this lock within its statement.
    owner.batch_execute("BEGIN; LOCK TABLE passages IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let searching = async || {
        let statement = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                         AND state = 'active' AND query LIKE '%FROM tenant_passages p%' AND pid <> pg_backend_pid()";
        watcher.query_one(statement, &[]).await.unwrap().get::<_, i64>(0)
    };
    for request in searches(&app) {
        let asking = tokio::spawn(request.send());
        // By vectors and by words, each in a statement of its own.
        eventually("the database searches", async || searching().await > 0).await;
        asking.abort();
        eventually("the database has stopped", async || searching().await == 0).await;
    }
    owner.batch_execute("ROLLBACK").await.unwrap();
    // No cancellation reaches a later statement.
    for _ in 0..20 {
        good(app.search(json!({"query": QUESTION})).await).await;
    }
    assert_eq!(app.rag.store().pool_status().active, 0);
}
