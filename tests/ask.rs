use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{method, path},
};

use crate::harness::{Setup, TestApp, good, local_llm, problem};
use ragway::{config::OpenAiEntry, models::openai::OpenAiGenerator};

const QUESTION: &str = "What does it cost to take a bicycle?";

/// A remote LLM that streams these pieces of text.
async fn llm_saying(pieces: &[&str]) -> MockServer {
    let mut body = String::new();
    for piece in pieces {
        let delta = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": null}]});
        body.push_str(&format!("data: {delta}\n\n"));
    }
    let end = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let usage = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [],
        "usage": {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}});
    body.push_str(&format!("data: {end}\n\ndata: {usage}\n\ndata: [DONE]\n\n"));
    answering(ResponseTemplate::new(200).set_body_raw(body, "text/event-stream")).await
}

async fn answering(response: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("POST")).and(path("/v1/chat/completions")).respond_with(response).mount(&server).await;
    server
}

fn use_remote(setup: &mut Setup, name: &str, server: &MockServer) {
    let url = format!("{}/v1", server.uri()).parse().unwrap();
    let mut entry = OpenAiEntry::new(name, url, "m", 4096);
    entry.timeouts.first_byte_ms = 1500;
    setup.backends.push(Arc::new(OpenAiGenerator::new(&entry, None).unwrap()));
}

async fn ferry_with(server: &MockServer) -> TestApp {
    let app = TestApp::with(|setup| use_remote(setup, "remote", server)).await;
    app.store_ferry().await;
    app
}

async fn answer(app: &TestApp) -> Value {
    good(app.ask(json!({"question": QUESTION})).await).await
}

#[tokio::test]
async fn a_cited_answer_of_a_remote_model_is_passed_on() {
    let server = llm_saying(&["A bicycle costs", " 3 euros each way [1]", "."]).await;
    let app = ferry_with(&server).await;
    let body = answer(&app).await;
    assert_eq!(body["answer"], "A bicycle costs 3 euros each way. [1]");
    assert_eq!(
        (&body["method"], &body["answered"], &body["model"]),
        (&json!("generated"), &json!(true), &json!("remote"))
    );
    let citation = &body["citations"][0];
    assert_eq!((&citation["n"], &citation["attached"]), (&json!(1), &json!(false)));
    assert_eq!(citation["quote"], "A bicycle costs 3 euros each way.");
    assert_eq!(citation["title"], "Fares");
    assert_eq!(body["usage"], json!({"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}));
    let sent: Value = serde_json::from_slice(&server.received_requests().await.unwrap()[0].body).unwrap();
    let prompt = sent["messages"].to_string();
    assert!(prompt.contains(QUESTION) && prompt.contains("A bicycle costs 3 euros"), "{prompt}");
}

#[tokio::test]
async fn a_citation_that_was_not_retrieved_never_reaches_the_user() {
    let server = llm_saying(&["A bicycle costs 3 euros each way [17]."]).await;
    let body = answer(&ferry_with(&server).await).await;
    assert_eq!(body["answer"], "A bicycle costs 3 euros each way. [1]");
    assert_eq!(body["citations"][0]["attached"], true);
    assert!(body["notes"][0].as_str().unwrap().contains("not retrieved"));
}

#[tokio::test]
async fn a_forgotten_citation_is_attached_and_marked() {
    let server = llm_saying(&["A bicycle costs 3 euros each way."]).await;
    let body = answer(&ferry_with(&server).await).await;
    assert_eq!(body["answer"], "A bicycle costs 3 euros each way. [1]");
    assert_eq!(body["citations"][0]["attached"], true);
}

#[tokio::test]
async fn an_unsupported_answer_is_replaced_by_the_documents_own_words() {
    let server = llm_saying(&["A bicycle costs 7 euros each way [1]."]).await;
    let body = answer(&ferry_with(&server).await).await;
    assert_eq!(body["method"], "extractive");
    assert!(body["answer"].as_str().unwrap().contains("“A bicycle costs 3 euros each way.” [1]"), "{body}");
    assert!(!body["answer"].as_str().unwrap().contains('7'));
    assert!(body["notes"][0].as_str().unwrap().contains("do not support"));
}

#[tokio::test]
async fn an_unsupported_sentence_after_a_supported_one_is_left_out_and_noted() {
    let server =
        llm_saying(&["A bicycle costs 3 euros each way [1]. A tandem is sold for 900 dollars [1]."]).await;
    let body = answer(&ferry_with(&server).await).await;
    assert_eq!(body["answer"], "A bicycle costs 3 euros each way. [1]");
    assert_eq!(body["method"], "generated");
    assert!(body["notes"][0].as_str().unwrap().contains("left out"));
}

#[tokio::test]
async fn a_model_that_finds_no_answer_is_believed() {
    let server = llm_saying(&["The documents do not contain", " the answer."]).await;
    let body = answer(&ferry_with(&server).await).await;
    assert_eq!((&body["method"], &body["answered"]), (&json!("abstained"), &json!(false)));
    assert_eq!(body["answer"], "The documents do not contain the answer.");
}

#[tokio::test]
async fn what_the_documents_do_not_hold_is_not_asked_of_a_model() {
    let server = llm_saying(&["Paris."]).await;
    let app = ferry_with(&server).await;
    let body =
        good(app.ask(json!({"question": "Who painted the ceiling of the Sistine Chapel?"})).await).await;
    assert_eq!((&body["method"], &body["answered"]), (&json!("abstained"), &json!(false)));
    assert!(server.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_next_backend_takes_over_and_what_failed_is_told() {
    let broken = answering(ResponseTemplate::new(500)).await;
    let server = llm_saying(&["A bicycle costs 3 euros each way [1]."]).await;
    let app = TestApp::with(|setup| {
        use_remote(setup, "broken", &broken);
        use_remote(setup, "remote", &server);
    })
    .await;
    app.store_ferry().await;
    let body = answer(&app).await;
    assert_eq!((&body["model"], &body["method"]), (&json!("remote"), &json!("generated")));
    let attempt = &body["attempts"][0];
    assert_eq!((&attempt["model"], &attempt["tries"]), (&json!("broken"), &json!(1)));
    let health = good(app.get("/health").send().await.unwrap()).await;
    assert_eq!(
        health["answers"],
        json!([{"model": "broken", "healthy": false, "breaker": "closed", "load": 0},
            {"model": "remote", "healthy": true, "breaker": "closed", "load": 0}])
    );
    let metrics = app.get("/metrics").send().await.unwrap().text().await.unwrap();
    for line in [
        "answer_requests_total{backend=\"broken\",outcome=\"unavailable\"} 1",
        "answer_requests_total{backend=\"remote\",outcome=\"answered\"} 1",
        "answer_fallbacks_total{backend=\"broken\"} 1",
        "answer_tokens_total{backend=\"remote\",direction=\"completion\"} 10",
        "answer_breaker_state{backend=\"remote\"} 0",
        "answer_first_byte_seconds_count{backend=\"remote\"} 1",
        "answer_first_byte_seconds_bucket{backend=\"remote\",le=\"+Inf\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn without_a_working_backend_the_documents_answer() {
    let slow = answering(ResponseTemplate::new(200).set_delay(Duration::from_secs(20))).await;
    let body = answer(&ferry_with(&slow).await).await;
    assert_eq!((&body["method"], &body["model"]), (&json!("extractive"), &json!("extractive")));
    assert!(body["attempts"][0]["error"].as_str().unwrap().contains("1500 ms"), "{body}");
}

#[tokio::test]
async fn the_deadline_covers_every_backend() {
    let slow = answering(ResponseTemplate::new(200).set_delay(Duration::from_secs(20))).await;
    let app = TestApp::with(|setup| {
        setup.catalog.ask.deadline_ms = 700;
        use_remote(setup, "slow", &slow);
    })
    .await;
    app.store_ferry().await;
    let body = answer(&app).await;
    assert_eq!(body["method"], "extractive");
    assert!(body["notes"][0].as_str().unwrap().contains("deadline"), "{body}");
}

#[tokio::test]
async fn a_streamed_answer_equals_the_whole_one() {
    let server =
        llm_saying(&["A bicycle costs 3 eu", "ros each way [1]. Children", " under six travel free [1]."])
            .await;
    let app = ferry_with(&server).await;
    let mut whole = answer(&app).await;
    let response = app.ask(json!({"question": QUESTION, "stream": true})).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let events = events(&response.text().await.unwrap());
    let kinds: Vec<&str> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["sources", "delta", "citation", "delta", "citation", "done"]);
    assert!(events[0].1["sources"][0]["text"].as_str().unwrap().contains("3 euros"));
    let text: String = events.iter().filter_map(|(_, data)| data["text"].as_str()).collect();
    assert_eq!(text, whole["answer"].as_str().unwrap());
    let mut done = events.last().unwrap().1.clone();
    for body in [&mut done, &mut whole] {
        body.as_object_mut().unwrap().remove("elapsed_time");
        body.as_object_mut().unwrap().remove("answer_id");
    }
    assert_eq!(done, whole);
}

fn events(text: &str) -> Vec<(String, Value)> {
    text.split("\n\n")
        .filter(|block| !block.is_empty())
        .map(|block| {
            let (event, data) = block.split_once('\n').unwrap();
            let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            (event.strip_prefix("event: ").unwrap().to_owned(), data)
        })
        .collect()
}

#[tokio::test]
async fn explain_shows_plan_scores_prompt_and_times() {
    let server = llm_saying(&["A bicycle costs 3 euros each way [1]."]).await;
    let app = ferry_with(&server).await;
    let body = good(app.ask(json!({"question": QUESTION, "explain": true, "k": 2})).await).await;
    let explain = &body["explain"];
    assert_eq!(explain["k"], 2);
    assert!(explain["score"].as_f64().unwrap() >= explain["answer_cut"].as_f64().unwrap());
    assert_eq!(explain["prompt"][0]["role"], "system");
    let stages: Vec<_> = explain["stages"].as_array().unwrap().iter().map(|stage| &stage["stage"]).collect();
    assert_eq!(stages, ["embed question", "search", "rank sentences", "generate and check"]);
    assert!(explain["passages"][0]["similarity"].as_f64().unwrap() > 0.4);
}

#[tokio::test]
async fn filters_and_collections_bound_what_is_read() {
    let server = llm_saying(&["A bicycle costs 3 euros each way [1]."]).await;
    let app = ferry_with(&server).await;
    let body = good(app.ask(json!({"question": QUESTION, "filters": {"topic": "animals"}})).await).await;
    assert_eq!(body["answered"], false);
    let nowhere = app.ask(json!({"question": QUESTION, "collection": "none"})).await;
    problem(nowhere, 404, "unknown_collection").await;
}

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong() {
    let app = TestApp::start().await;
    let wrong = async |body: Value, code: &str| problem(app.ask(body).await, 400, code).await;
    wrong(json!({"question": " "}), "invalid_request").await;
    wrong(json!({"question": "a\u{0}"}), "invalid_request").await;
    wrong(json!({"question": "a", "k": 0}), "invalid_request").await;
    wrong(json!({"question": "a", "k": 51}), "invalid_request").await;
    wrong(json!({"question": "a", "filters": 5}), "invalid_request").await;
    let told = wrong(json!({"question": "a", "model": "gpt-9"}), "unknown_model").await;
    assert!(told["detail"].as_str().unwrap().contains("extractive"));
}

/// The whole path on real weights: SmolLM2 must never say what the documents do not.
#[tokio::test]
async fn the_local_model_answers_from_the_documents() {
    let llm = local_llm().await;
    let app = TestApp::with(|setup| setup.backends.push(llm)).await;
    app.store_ferry().await;
    for (question, fact) in [(QUESTION, "3 euros"), ("When does the first ferry leave Nordby?", "06:40")] {
        let body = good(app.ask(json!({"question": question})).await).await;
        assert_eq!(body["answered"], true, "{body}");
        assert!(body["answer"].as_str().unwrap().contains(fact), "{body}");
        assert!(!body["citations"].as_array().unwrap().is_empty());
    }
}
