//! Passages that a reranker puts into order: searches, questions, OpenAI's vector stores, tools.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::future::BoxFuture;
use ragway::models::{Lane, ModelError, Relevance, Reranker, Rerankers};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Notify;
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::method};

use crate::{
    compat::openai_error,
    harness::{TestApp, eventually, good, problem},
    mcp,
    rerank::{cross_encoder, remote},
};

const QUERY: &str = "What does a bicycle cost?";
/// Of this one two passages hold words.
const RIDE: &str = "What does a bicycle cost on the first ferry?";

async fn with(reranker: impl Reranker + 'static, name: &str) -> TestApp {
    let entries = vec![(name.to_owned(), Ok(Arc::new(reranker) as Arc<dyn Reranker>))];
    let rerankers = Rerankers::new(entries, vec![name.to_owned()]);
    let app = TestApp::with(|setup| {
        setup.rerankers = rerankers;
        setup.catalog.search.rerank.timeout_ms = 20_000;
    });
    let app = app.await;
    app.store_ferry().await;
    app
}

/// A server that thinks of each text as often as it holds this word.
async fn preferring(word: &'static str) -> MockServer {
    let server = MockServer::start().await;
    let answer = move |request: &Request| {
        let body: Value = request.body_json().unwrap();
        let texts = body["documents"].as_array().unwrap();
        let score = |text: &Value| if text.as_str().unwrap().contains(word) { 0.9 } else { 0.2 };
        let results = texts.iter().enumerate();
        let results: Vec<Value> =
            results.map(|(index, text)| json!({"index": index, "relevance_score": score(text)})).collect();
        ResponseTemplate::new(200).set_body_json(json!({ "results": results }))
    };
    Mock::given(method("POST")).respond_with(answer).mount(&server).await;
    server
}

async fn search(app: &TestApp, rerank: Value, k: usize) -> Value {
    let body = json!({"query": QUERY, "k": k, "threshold": -1.0, "rerank": rerank});
    good(app.search(body).await).await
}

fn results(found: &Value) -> Vec<Value> {
    found["results"].as_array().unwrap().clone()
}

fn names(found: &Value) -> Vec<String> {
    let name = |result: &Value| result["external_id"].as_str().unwrap().to_owned();
    results(found).iter().map(name).collect()
}

async fn used(app: &TestApp, operation: &str) -> Value {
    let usage = good(app.get("/api/v1/usage?group_by=operation,backend").send().await.unwrap()).await;
    let rows = usage["rows"].as_array().unwrap().clone();
    rows.into_iter().find(|row| row["operation"] == operation).unwrap_or_default()
}

#[tokio::test]
async fn a_search_has_the_order_and_the_scores_of_the_cross_encoder() {
    let app = with(cross_encoder("bert"), "bert").await;
    app.store(json!({"content": "Bicycles and bicycles. ".repeat(30), "external_id": "long"})).await;
    let plain = search(&app, json!(false), 10).await;
    assert!(plain.get("rerank").is_none(), "{plain}");
    let passages = results(&plain);
    assert_eq!(passages.len(), 4);
    assert!(passages.iter().all(|passage| passage["scores"]["rerank"].is_null()));
    let texts: Vec<String> = passages.iter().map(|p| p["content"].as_str().unwrap().to_owned()).collect();
    let said = cross_encoder("bert").rerank(QUERY.into(), texts, Lane::Interactive).await.unwrap();
    let mut order: Vec<usize> = (0..4).collect();
    order.sort_by(|&a, &b| said.raw[b].total_cmp(&said.raw[a]));

    let found = search(&app, json!(true), 3).await;
    let expected: Vec<String> = order.iter().map(|&index| names(&plain)[index].clone()).collect();
    assert_eq!(names(&found), expected[..3]);
    for (result, &index) in results(&found).iter().zip(&order) {
        let score = result["scores"]["rerank"].as_f64().unwrap() as f32;
        assert!((score - said.scores[index]).abs() < 1e-5, "{result}");
        assert_eq!(result["similarity"], passages[index]["similarity"]);
        assert_eq!(result["scores"]["dense"], passages[index]["scores"]["dense"]);
    }
    assert_eq!((&found["rerank"]["model"], &found["rerank"]["candidates"]), (&json!("bert"), &json!(4)));
    assert_eq!((&found["rerank"]["error"], &found["count"]), (&Value::Null, &json!(3)));
    let cut: Vec<usize> = (0..3).filter(|place| said.truncated.contains(&order[*place])).collect();
    assert_eq!(found["rerank"]["truncated"], json!(cut));
    assert!(said.truncated.contains(&names(&plain).iter().position(|name| name == "long").unwrap()));

    let (search_row, rerank_row) = (used(&app, "search").await, used(&app, "rerank").await);
    assert_eq!((&search_row["requests"], &rerank_row["requests"]), (&json!(2), &json!(0)));
    assert_eq!((&rerank_row["backend"], &rerank_row["embed_tokens"]), (&json!("bert"), &json!(said.tokens)));
    app.stop().await;
}

#[tokio::test]
async fn what_the_reranker_does_not_read_follows_as_it_was_found() {
    let server = preferring("ferry").await;
    let app = with(remote(&server, "cohere", 32), "elsewhere").await;
    let plain = names(&search(&app, json!(false), 3).await);
    let found = search(&app, json!({"model": "elsewhere", "candidates": 1}), 3).await;
    assert_eq!((names(&found), &found["rerank"]["candidates"]), (plain.clone(), &json!(1)));
    let scores: Vec<Value> =
        results(&found).iter().map(|result| result["scores"]["rerank"].clone()).collect();
    assert_eq!(scores[1..], [Value::Null, Value::Null]);
    // Two are needed to find the other one: the last is first then.
    let found = search(&app, json!(true), 1).await;
    assert_eq!((names(&found), &found["rerank"]["candidates"]), (vec!["times".to_owned()], &json!(3)));
    assert_ne!(plain[0], "times");
    // The server does not tell what it read.
    let row = used(&app, "rerank").await;
    assert!(row["embed_tokens"].as_i64().unwrap() > 50, "{row}");
    assert_eq!(row["estimated_tokens"], row["embed_tokens"]);
    // Nothing is found, nothing is read.
    let body = json!({"query": QUERY, "rerank": true, "filters": {"topic": "none"}});
    let found = good(app.search(body).await).await;
    assert_eq!(found["rerank"], json!({"model": null, "candidates": 0, "truncated": [], "error": null}));
    app.stop().await;
}

#[tokio::test]
async fn a_reranker_that_fails_or_is_slow_costs_the_order_only_and_that_is_said() {
    for (response, said) in [
        (ResponseTemplate::new(500), "elsewhere` is unavailable"),
        (ResponseTemplate::new(200).set_body_json(json!([])), "elsewhere` is unavailable"),
        (ResponseTemplate::new(200).set_delay(std::time::Duration::from_secs(600)), "did not answer within"),
    ] {
        let server = MockServer::start().await;
        Mock::given(method("POST")).respond_with(response).mount(&server).await;
        let reranker: Arc<dyn Reranker> = Arc::new(remote(&server, "cohere", 32));
        let app = TestApp::with(|setup| {
            setup.rerankers =
                Rerankers::new(vec![("elsewhere".into(), Ok(reranker))], vec!["elsewhere".into()]);
            setup.catalog.search.rerank.timeout_ms = 3_000;
        });
        let app = app.await;
        app.store_ferry().await;
        let plain = search(&app, json!(false), 3).await;
        let found = search(&app, json!(true), 3).await;
        assert_eq!(results(&found), results(&plain));
        let error = found["rerank"]["error"].as_str().unwrap();
        assert!(error.contains(said), "{error}");
        assert_eq!(found["rerank"]["model"], Value::Null);

        let answer =
            good(app.ask(json!({"question": QUERY, "model": "extractive", "rerank": true})).await).await;
        assert!(answer["answer"].as_str().unwrap().contains("3 euros"), "{answer}");
        assert!(answer["notes"].to_string().contains("the reranker did not work"), "{answer}");

        let body = json!({"query": QUERY, "ranking_options": {"ranker": "auto"}});
        let path = "/v1/vector_stores/default/search";
        let page = good(app.post(path).json(&body).send().await.unwrap()).await;
        assert!(page["rerank"]["error"].as_str().unwrap().contains(said), "{page}");
        // A threshold of another scale cannot be held.
        let body = json!({"query": QUERY, "ranking_options": {"ranker": "auto", "score_threshold": 0.5}});
        let refused = app.post(path).json(&body).send().await.unwrap();
        assert!(refused.status().is_server_error(), "{}", refused.status());
        app.stop().await;
    }
}

#[tokio::test]
async fn questions_are_answered_from_what_the_reranker_prefers() {
    let server = preferring("06:40").await;
    let app = with(remote(&server, "cohere", 32), "elsewhere").await;
    let ask = async |rerank: Option<Value>| {
        let mut body = json!({"question": RIDE, "k": 1, "explain": true, "model": "extractive"});
        if let Some(rerank) = rerank {
            body["rerank"] = rerank;
        }
        good(app.ask(body).await).await
    };
    let stages = |answer: &Value| answer["explain"]["stages"].to_string();
    let plain = ask(None).await;
    assert!(!stages(&plain).contains("rerank"), "{plain}");
    assert!(plain["explain"]["passages"][0]["text"].as_str().unwrap().contains("bicycle"), "{plain}");
    let reranked = ask(Some(json!(true))).await;
    let passage = &reranked["explain"]["passages"][0];
    assert!(passage["text"].as_str().unwrap().contains("06:40"), "{reranked}");
    assert!((passage["scores"]["rerank"].as_f64().unwrap() - 0.9).abs() < 1e-6, "{passage}");
    assert!(stages(&reranked).contains("rerank"), "{reranked}");
    assert_eq!(reranked["notes"], json!([]));
    app.stop().await;

    // As models.toml says, unless the question says otherwise.
    let reranker: Arc<dyn Reranker> = Arc::new(remote(&server, "cohere", 32));
    let app = TestApp::with(|setup| {
        setup.rerankers = Rerankers::new(vec![("elsewhere".into(), Ok(reranker))], vec!["elsewhere".into()]);
        setup.catalog.ask.rerank = true;
    });
    let app = app.await;
    app.store_ferry().await;
    let body = json!({"question": RIDE, "k": 1, "explain": true, "model": "extractive"});
    let answer = good(app.ask(body.clone()).await).await;
    assert!(answer["explain"]["passages"][0]["text"].as_str().unwrap().contains("06:40"), "{answer}");
    let off = json!({"question": RIDE, "k": 1, "explain": true, "model": "extractive", "rerank": false});
    let answer = good(app.ask(off).await).await;
    assert!(answer["explain"]["passages"][0]["text"].as_str().unwrap().contains("bicycle"), "{answer}");
    app.stop().await;
}

#[tokio::test]
async fn vector_stores_take_a_ranker_and_hold_its_threshold() {
    let server = preferring("bicycle").await;
    let app = with(remote(&server, "cohere", 32), "elsewhere").await;
    let post = async |options: Value| {
        let body = json!({"query": QUERY, "ranking_options": options});
        app.post("/v1/vector_stores/default/search").json(&body).send().await.unwrap()
    };
    for ranker in ["auto", "default-2024-11-15", "elsewhere"] {
        let page = good(post(json!({"ranker": ranker, "score_threshold": 0.5})).await).await;
        let data = page["data"].as_array().unwrap();
        assert_eq!(data.len(), 1, "{page}");
        assert!((data[0]["score"].as_f64().unwrap() - 0.9).abs() < 1e-6, "{page}");
        assert_eq!(page["rerank"]["model"], "elsewhere");
    }
    let page = good(post(json!({"ranker": "auto", "score_threshold": 0.95})).await).await;
    assert_eq!(page["data"], json!([]));
    let page = good(post(json!({"ranker": "none", "score_threshold": 0.3})).await).await;
    assert!(page.get("rerank").is_none(), "{page}");
    let told = openai_error(
        post(json!({"ranker": "other"})).await,
        400,
        "invalid_request",
        json!("ranking_options.ranker"),
    );
    assert!(told.await.contains("Known: elsewhere"));
    app.stop().await;
}

#[tokio::test]
async fn what_cannot_be_reranked_is_refused_with_what_to_do() {
    let server = preferring("ferry").await;
    let app = with(remote(&server, "cohere", 32), "elsewhere").await;
    for (rerank, code, said) in [
        (json!({"model": "none"}), "unknown_model", "Unknown reranking model: none. Known: elsewhere"),
        (json!({"candidates": 0}), "invalid_request", "rerank.candidates: must be at least 1"),
        (
            json!({"candidates": 201}),
            "invalid_request",
            "rerank.candidates: must be between 1 and 200, is 201",
        ),
        (json!("yes"), "invalid_request", "`rerank` must be true, false, or an object"),
        (json!({"k": 3}), "invalid_request", "`rerank` must be true, false, or an object"),
    ] {
        let told = problem(app.search(json!({"query": "q", "rerank": rerank})).await, 400, code).await;
        assert!(told["detail"].as_str().unwrap().contains(said), "{told}");
        let told = problem(app.ask(json!({"question": "q", "rerank": rerank})).await, 400, code).await;
        assert!(told["detail"].as_str().unwrap().contains(said), "{told}");
    }
    app.stop().await;

    let app = TestApp::start().await;
    let told = problem(app.search(json!({"query": "q", "rerank": true})).await, 400, "unknown_model").await;
    assert!(told["detail"].as_str().unwrap().contains("add a [[reranker]] to models.toml"), "{told}");
    let called = mcp::post(&app, &mcp::calling("search", &json!({"query": "q", "rerank": true})));
    let called = good(called.send().await.unwrap()).await;
    assert_eq!(called["result"]["isError"], true, "{called}");
    assert!(called.to_string().contains("no reranker is set up"), "{called}");
    let body = json!({"query": "ferry", "ranking_options": {"ranker": "auto"}});
    let page = app.post("/v1/vector_stores/default/search").json(&body).send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    app.stop().await;
}

/// Never answers; tells when it was asked and when nobody waits any more.
struct Hanging {
    asked: Arc<Notify>,
    left: Arc<AtomicBool>,
}

struct Leaving(Arc<AtomicBool>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Reranker for Hanging {
    fn name(&self) -> &str {
        "hanging"
    }

    fn rerank(&self, _: String, _: Vec<String>, _: Lane) -> BoxFuture<'_, Result<Relevance, ModelError>> {
        let leaving = Leaving(Arc::clone(&self.left));
        self.asked.notify_one();
        Box::pin(async move {
            let _leaving = leaving;
            std::future::pending().await
        })
    }
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_reranking() {
    let (asked, left) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let app = with(Hanging { asked: Arc::clone(&asked), left: Arc::clone(&left) }, "hanging").await;
    let body = json!({"query": QUERY, "rerank": true});
    let request = tokio::spawn(app.post("/api/v1/search").json(&body).send());
    asked.notified().await;
    assert!(!left.load(Ordering::SeqCst));
    request.abort();
    eventually("the reranking is given up", async || left.load(Ordering::SeqCst)).await;
    app.stop().await;
}
