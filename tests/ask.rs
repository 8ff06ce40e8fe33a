use std::time::Duration;

use serde_json::{Value, json};
use wiremock::{MockServer, ResponseTemplate};

use crate::{
    harness::{TestApp, good, local_llm, problem},
    llm::{ferry_with, remote, saying, upstream, use_remote},
};

const QUESTION: &str = "What does it cost to take a bicycle?";

/// A remote LLM that streams these pieces of text.
async fn llm_saying(pieces: &[&str]) -> MockServer {
    upstream(saying(pieces)).await
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
    let broken = upstream(ResponseTemplate::new(500)).await;
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
    let slow = upstream(ResponseTemplate::new(200).set_delay(Duration::from_secs(20))).await;
    let body = answer(&ferry_with(&slow).await).await;
    assert_eq!((&body["method"], &body["model"]), (&json!("extractive"), &json!("extractive")));
    assert!(body["attempts"][0]["error"].as_str().unwrap().contains("1500 ms"), "{body}");
}

#[tokio::test]
async fn the_deadline_covers_every_backend() {
    let slow = upstream(ResponseTemplate::new(200).set_delay(Duration::from_secs(20))).await;
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

/// `text[start..end]` in code points.
fn slice(text: &Value, start: &Value, end: &Value) -> String {
    let (start, end) = (start.as_u64().unwrap() as usize, end.as_u64().unwrap() as usize);
    text.as_str().unwrap().chars().skip(start).take(end - start).collect()
}

#[tokio::test]
async fn citations_say_where_sentence_and_quote_stand_in_any_script() {
    let said = ["“Ein Rad 🚲 kostet 3 €”, so heißt es [1]. 渡轮九点出发。[2] Die Fähre fährt"];
    let server = llm_saying(&[said[0], " um 9 Uhr [2]."]).await;
    let app = TestApp::with(|setup| {
        setup.catalog.embedders[0].answer_cut = -1.0;
        setup.catalog.embedders[0].min_similarity = -1.0;
        use_remote(setup, "remote", &server);
    })
    .await;
    app.store(
        json!({"content": "Ünser Hafen 🛟.\n\n“Ein Rad 🚲 kostet 3 €”, so heißt es.", "external_id": "a"}),
    )
    .await;
    app.store(json!({"content": "码头。渡轮九点出发。\n\nDie Fähre fährt um 9 Uhr.", "external_id": "b"}))
        .await;
    let response = app.ask(json!({"question": "Was kostet ein Rad 渡轮?", "stream": true})).await;
    let events = events(&response.text().await.unwrap());
    let (sources, done) = (&events[0].1["sources"], &events.last().unwrap().1);
    assert_eq!(done["method"], "generated", "{done}");
    let citations = done["citations"].as_array().unwrap();
    let cited: Vec<String> = citations
        .iter()
        .map(|citation| slice(&done["answer"], &citation["answer_start"], &citation["answer_end"]))
        .collect();
    assert_eq!(
        cited,
        ["“Ein Rad 🚲 kostet 3 €”, so heißt es.", "渡轮九点出发。", "Die Fähre fährt um 9 Uhr."]
    );
    for citation in citations {
        let source = &sources[citation["n"].as_u64().unwrap() as usize - 1];
        assert_eq!(source["passage_id"], citation["passage_id"]);
        assert_eq!(
            slice(&source["text"], &citation["start"], &citation["end"]),
            citation["quote"].as_str().unwrap()
        );
    }
    let streamed: Vec<&Value> =
        events.iter().filter(|(kind, _)| kind == "citation").map(|(_, citation)| citation).collect();
    assert_eq!(streamed, citations.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn every_retrieved_passage_is_accounted_for() {
    let server = llm_saying(&["A bicycle costs 3 euros each way [1]."]).await;
    let app = ferry_with(&server).await;
    let copy = "# Fares\n\nA bicycle costs 3 euros each way. Children under six travel free.";
    app.store(json!({"content": copy, "external_id": "copy"})).await;
    let body = good(app.ask(json!({"question": QUESTION, "k": 4})).await).await;
    let context = body["context"].as_array().unwrap();
    let numbers: Vec<&Value> = context.iter().map(|passage| &passage["n"]).collect();
    assert_eq!(numbers, (1..=context.len()).collect::<Vec<_>>());
    assert_eq!(context[0]["use"], "used");
    assert!(context[0]["tokens"].as_u64().unwrap() > 10);
    assert_eq!((&context[1]["use"], &context[1]["into"]), (&json!("duplicate"), &json!(1)), "{body}");
    let unread =
        good(app.ask(json!({"question": "Who painted the ceiling of the ferry in the Vatican?"})).await)
            .await;
    assert_eq!(unread["method"], "abstained");
    for passage in unread["context"].as_array().unwrap() {
        assert_eq!((&passage["use"], &passage["tokens"]), (&json!("unread"), &Value::Null));
    }
}

#[tokio::test]
async fn what_does_not_fit_the_context_is_told_with_its_tokens() {
    let server = llm_saying(&["A bicycle costs 3 euros each way [1]."]).await;
    let app = TestApp::with(|setup| {
        setup.catalog.embedders[0].min_similarity = -1.0;
        setup.backends.push(remote("remote", &server, 600));
    })
    .await;
    app.store_ferry().await;
    let long: String = (1..25).map(|n| format!("Deck {n} of the bicycle ferry has {n}0 seats. ")).collect();
    app.store(json!({"content": long})).await;
    let body = answer(&app).await;
    let over: Vec<&Value> = body["context"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|passage| passage["use"] == "over_budget")
        .collect();
    assert!(
        !over.is_empty() && over.iter().all(|passage| passage["tokens"].as_u64().unwrap() > 20),
        "{body}"
    );
    assert!(body["notes"].to_string().contains("fit the model's context"), "{body}");
}

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong() {
    let app = TestApp::start().await;
    let wrong = async |body: Value, code: &str| problem(app.ask(body).await, 400, code).await;
    wrong(json!({"question": " "}), "invalid_request").await;
    wrong(json!({"question": "a\u{0}"}), "invalid_request").await;
    wrong(json!({"question": ""}), "invalid_request").await;
    wrong(json!({"question": "\u{1}\u{2}\u{7f}\u{200b}\u{ad}"}), "invalid_request").await;
    let long = wrong(json!({"question": "why ".repeat(50_000)}), "invalid_request").await;
    assert!(long["detail"].as_str().unwrap().contains("200000 bytes"), "{long}");
    wrong(json!({"question": "\u{5b57}".repeat(200_000)}), "invalid_request").await;
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
