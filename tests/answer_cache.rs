//! `[ask.cache]`: which questions get an answer again, and which never do.

use serde_json::{Value, json};
use uuid::Uuid;
use wiremock::MockServer;

use crate::{
    harness::{TestApp, execute, good},
    llm::{say, use_remote},
};
use ragway::{
    rag::{
        ask::{AskRequest, AskRerank, Writing},
        ingest::SourceFile,
    },
    store::TenantId,
};

const QUESTION: &str = "What does it cost to take a bicycle?";
const SAME: &str = "To take a bicycle, what does it cost?";

/// A cache that takes any similar question: what tells them apart is the rest.
async fn cached(server: &MockServer) -> TestApp {
    say(server, &["A bicycle costs 3 euros each way [1]."]).await;
    let app = TestApp::with(|setup| {
        use_remote(setup, "remote", server);
        setup.catalog.ask.cache.enabled = true;
        setup.catalog.ask.cache.min_similarity = 0.8;
    })
    .await;
    app.store_ferry().await;
    app
}

async fn ask(app: &TestApp, body: Value) -> Value {
    good(app.ask(body).await).await
}

async fn is_cached(app: &TestApp, body: Value) -> bool {
    !ask(app, body).await["cached"].is_null()
}

#[tokio::test]
async fn the_same_question_in_other_words_gets_the_same_answer_marked() {
    let server = MockServer::start().await;
    let app = cached(&server).await;
    let first = ask(&app, json!({"question": QUESTION})).await;
    assert_eq!(first["cached"], Value::Null);
    let again = ask(&app, json!({"question": SAME})).await;
    assert_eq!(again["cached"]["question"], QUESTION);
    assert!(again["cached"]["similarity"].as_f64().unwrap() >= 0.8);
    assert_eq!((&again["answer"], &again["citations"]), (&first["answer"], &first["citations"]));
    assert_eq!((&again["context"], &again["usage"]["total_tokens"]), (&first["context"], &json!(0)));
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
    let stream = app.ask(json!({"question": QUESTION, "stream": true})).await.text().await.unwrap();
    let kinds: Vec<&str> = stream.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(kinds, ["sources", "delta", "citation", "done"]);
}

#[tokio::test]
async fn what_is_asked_otherwise_is_asked_anew() {
    let server = MockServer::start().await;
    let app = cached(&server).await;
    ask(&app, json!({"question": QUESTION})).await;
    assert!(is_cached(&app, json!({"question": QUESTION})).await);
    for other in [
        json!({"question": "What does it cost to take a bicycle in 2019?"}),
        json!({"question": "What does it not cost to take a bicycle?"}),
        json!({"question": "What does it cost to take a bicycle to Nordby?"}),
        json!({"question": "What does it cost to take a dog?"}),
        json!({"question": QUESTION, "filters": {"topic": "money"}}),
        json!({"question": QUESTION, "k": 2}),
        json!({"question": QUESTION, "model": "remote"}),
        json!({"question": QUESTION, "explain": true}),
    ] {
        assert!(!is_cached(&app, other.clone()).await, "{other}");
    }
    ask(&app, json!({"question": "What did a bicycle cost in 2019?"})).await;
    assert!(!is_cached(&app, json!({"question": "What did a bicycle cost in 2020?"})).await);
}

#[tokio::test]
async fn no_answer_outlives_a_change_of_the_documents() {
    let server = MockServer::start().await;
    let app = cached(&server).await;
    let remembered = async || {
        ask(&app, json!({"question": QUESTION})).await;
        is_cached(&app, json!({"question": QUESTION})).await
    };
    let forgotten = async |what: &str| {
        assert!(!is_cached(&app, json!({"question": QUESTION})).await, "{what}");
        assert!(remembered().await, "{what}");
    };
    assert!(remembered().await);
    let added = app.store(json!({"content": "Soup is served until midnight.", "external_id": "soup"})).await;
    forgotten("added").await;
    app.store(json!({"content": "Soup is served until noon.", "external_id": "soup"})).await;
    forgotten("replaced").await;
    let labelled =
        json!({"content": "Soup is served until noon.", "external_id": "soup", "metadata": {"a": 1}});
    app.store(labelled.clone()).await;
    forgotten("metadata").await;
    app.store(labelled).await;
    assert!(is_cached(&app, json!({"question": QUESTION})).await, "nothing changed");
    let id = added["id"].as_str().unwrap();
    assert!(app.delete(&format!("/api/v1/documents/{id}")).send().await.unwrap().status().is_success());
    forgotten("deleted").await;
    // Another replica's writes are the same rows.
    execute(&app.admin_url, "UPDATE documents SET title = 'Prices' WHERE external_id = 'fares'").await;
    forgotten("changed elsewhere").await;
}

#[tokio::test]
async fn collections_and_tenants_have_answers_of_their_own() {
    let server = MockServer::start().await;
    let app = cached(&server).await;
    ask(&app, json!({"question": QUESTION})).await;
    let fares = "A bicycle costs 3 euros each way. Children under six travel free.";
    good(app.post("/api/v1/collections").json(&json!({"name": "other"})).send().await.unwrap()).await;
    app.store_in("other", fares).await;
    assert!(!is_cached(&app, json!({"question": QUESTION, "collection": "other"})).await);
    assert!(is_cached(&app, json!({"question": QUESTION, "collection": "other"})).await);

    let tenant = TenantId(Uuid::now_v7());
    let insert = format!("INSERT INTO tenants (id, name) VALUES ('{}', 'second')", tenant.0);
    execute(&app.admin_url, &insert).await;
    app.rag.ensure_default_collection(tenant).await.unwrap();
    let file = SourceFile {
        bytes: fares.as_bytes().to_vec(),
        content_type: Some("text/plain".into()),
        ..SourceFile::default()
    };
    app.rag.ingest(tenant.into(), None, file).await.unwrap();
    let request = AskRequest {
        caller: tenant.into(),
        collection: None,
        question: QUESTION.into(),
        k: None,
        filter: None,
        model: None,
        explain: false,
        writing: Writing::default(),
        rerank: AskRerank::Configured,
    };
    assert_eq!(app.rag.ask_whole(request.clone()).await.unwrap().cached, None);
    assert!(app.rag.ask_whole(request).await.unwrap().cached.is_some());
}

#[tokio::test]
async fn what_an_outage_made_of_an_answer_is_not_kept_and_nothing_is_where_it_is_off() {
    let server = MockServer::start().await;
    let app = cached(&server).await;
    say(&server, &["A bicycle costs 7 euros each way [1]."]).await;
    assert_eq!(ask(&app, json!({"question": QUESTION})).await["method"], "extractive");
    assert!(!is_cached(&app, json!({"question": QUESTION})).await);

    say(&server, &["A bicycle costs 3 euros each way [1]."]).await;
    let app = TestApp::with(|setup| use_remote(setup, "remote", &server)).await;
    app.store_ferry().await;
    ask(&app, json!({"question": QUESTION})).await;
    assert!(!is_cached(&app, json!({"question": QUESTION})).await);
}
