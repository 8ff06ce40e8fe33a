//! Every use of a model is refused by quotas before it begins, and charged to the caller afterwards.

use std::sync::Arc;

use futures_util::StreamExt;
use ragway::{
    config::{LlmEntry, OpenAiEntry, Price, Quota},
    rag::{Caller, embed::EmbedderChoice},
    store::TenantId,
};
use reqwest::Response;
use serde_json::{Value, json};
use uuid::Uuid;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{body_string_contains, method},
};

use crate::{
    chat::{Counting, conversation, user},
    harness::{Setup, TestApp, eventually, execute, good, problem},
    llm::{chunk, received, saying, server_sent, upstream, use_remote},
};

const QUESTION: &str = "What does it cost to take a bicycle?";

/// A backend with a price: 1 for a million tokens read, 10 for a million written.
fn priced(setup: &mut Setup, name: &str, server: &MockServer) {
    let base = format!("{}/v1", server.uri()).parse().unwrap();
    let mut entry = OpenAiEntry::new(name, base, "upstream-model", 4096);
    entry.price = Some(Price { input_per_million: 1.0, output_per_million: 10.0 });
    setup.catalog.llms.push(LlmEntry::Openai(entry));
    use_remote(setup, name, server);
}

async fn before(server: &MockServer) -> TestApp {
    TestApp::with(|setup| priced(setup, "remote", server)).await
}

async fn complete(app: &TestApp, body: &Value) -> Response {
    app.post("/v1/chat/completions").json(body).send().await.unwrap()
}

/// The sums of one operation and backend.
async fn used(app: &TestApp, operation: &str, backend: &str) -> Value {
    let usage = good(app.get("/api/v1/usage?group_by=operation,backend").send().await.unwrap()).await;
    let rows = usage["rows"].as_array().unwrap().iter();
    let mut rows = rows.filter(|row| row["operation"] == operation && row["backend"] == backend);
    rows.next().cloned().unwrap_or(Value::Null)
}

fn numbers(row: &Value) -> [i64; 4] {
    ["requests", "prompt_tokens", "completion_tokens", "estimated_tokens"]
        .map(|name| row[name].as_i64().unwrap_or_else(|| panic!("{name}: {row}")))
}

fn whole(usage: Value) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({"id": "c", "object": "chat.completion", "created": 1,
        "model": "m", "choices": [{"index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": "abc abc"}}], "usage": usage}))
}

#[tokio::test]
async fn a_request_that_is_passed_on_is_charged_by_what_the_backend_counts() {
    let server = upstream(whole(json!({"prompt_tokens": 100, "completion_tokens": 20}))).await;
    let app = before(&server).await;
    let request = json!({"model": "remote", "messages": user("Hi")});
    let body = good(complete(&app, &request).await).await;
    assert_eq!(body["ragway"]["notes"], json!([]));
    let row = used(&app, "chat", "remote").await;
    assert_eq!((numbers(&row), &row["cost"]), ([1, 100, 20, 0], &json!(0.0003)));

    let metrics = app.get("/metrics").send().await.unwrap().text().await.unwrap();
    let labels = "backend=\"remote\",operation=\"chat\"";
    assert!(metrics.contains(&format!("usage_requests_total{{{labels}}} 1")), "{metrics}");
    assert!(metrics.contains(&format!("usage_cost_total{{{labels}}} 0.0003")), "{metrics}");
}

#[tokio::test]
async fn what_a_backend_does_not_count_is_estimated_and_told() {
    for usage in [Value::Null, json!({}), json!({"prompt_tokens": 0, "completion_tokens": 0})] {
        let server = upstream(whole(usage)).await;
        let app = before(&server).await;
        let request = json!({"model": "remote", "messages": user("abc abc abc")});
        let body = good(complete(&app, &request).await).await;
        assert!(body["ragway"]["notes"][0].as_str().unwrap().contains("estimate"), "{body}");
        assert_eq!(numbers(&used(&app, "chat", "remote").await), [1, 3, 2, 5]);
    }
}

#[tokio::test]
async fn a_stream_is_charged_by_its_usage_which_the_client_sees_only_if_it_asked() {
    let server = upstream(saying(&["Hello there"])).await;
    let app = before(&server).await;
    let mut request = json!({"model": "remote", "messages": user("Hi"), "stream": true});
    let silent = complete(&app, &request).await.text().await.unwrap();
    assert_eq!(received(&server).await["stream_options"], json!({"include_usage": true}));
    assert!(silent.ends_with("data: [DONE]\n\n") && !silent.contains("prompt_tokens"), "{silent}");
    assert_eq!(numbers(&used(&app, "chat", "remote").await), [1, 90, 10, 0]);
    request["stream_options"] = json!({"include_usage": true});
    let told = complete(&app, &request).await.text().await.unwrap();
    assert!(told.contains("\"prompt_tokens\":90"), "{told}");
    assert_eq!(numbers(&used(&app, "chat", "remote").await), [2, 180, 20, 0]);
}

#[tokio::test]
async fn a_stream_that_counts_nothing_or_breaks_off_is_estimated() {
    let said =
        |text: &str| chunk(json!({"index": 0, "delta": {"content": text}, "finish_reason": null}), json!({}));
    let end = chunk(json!({"index": 0, "delta": {}, "finish_reason": "stop"}), json!({}));
    let broken = ResponseTemplate::new(200)
        .set_body_raw(format!("data: {}\n\n", said("abc abc")), "text/event-stream");
    for response in [server_sent(&[said("abc"), said("abc"), end]), broken] {
        let app = before(&upstream(response).await).await;
        let request = json!({"model": "remote", "messages": user("abc"), "stream": true});
        complete(&app, &request).await.text().await.unwrap();
        assert_eq!(numbers(&used(&app, "chat", "remote").await), [1, 1, 2, 3]);
    }
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_is_charged_for_what_was_sent() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
    let hanging = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            socket.read_buf(&mut request).await.unwrap();
        }
        let event = json!({"choices": [{"index": 0, "delta": {"content": "abc abc"}}]});
        let event = format!("data: {event}\n\n");
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let answer = format!("{head}{:x}\r\n{event}\r\n", event.len());
        socket.write_all(answer.as_bytes()).await.unwrap();
        while matches!(socket.read_buf(&mut request).await, Ok(1..)) {}
    });
    let entry = OpenAiEntry::new("remote", base, "m", 4096);
    let generator = ragway::models::openai::OpenAiGenerator::new(&entry, None).unwrap();
    let app = TestApp::with(|setup| setup.backends.push(Arc::new(generator))).await;
    let request = json!({"model": "remote", "messages": user("abc abc abc"), "stream": true});
    let mut events = complete(&app, &request).await.bytes_stream();
    assert!(events.next().await.unwrap().is_ok());
    assert_eq!(used(&app, "chat", "remote").await, Value::Null, "it is not over yet");
    drop(events);
    hanging.await.unwrap();
    eventually("it is charged", async || used(&app, "chat", "remote").await != Value::Null).await;
    assert_eq!(numbers(&used(&app, "chat", "remote").await), [1, 3, 2, 5]);
}

#[tokio::test]
async fn a_model_in_this_process_is_charged_too() {
    let app = TestApp::with(|setup| setup.backends.push(Arc::new(Counting))).await;
    for stream in [false, true] {
        let request = json!({"model": "local", "messages": user("Hi"), "stream": stream});
        complete(&app, &request).await.text().await.unwrap();
    }
    assert_eq!(numbers(&used(&app, "chat", "local").await), [2, 40, 4, 0]);
}

#[tokio::test]
async fn a_rewritten_question_is_charged_beside_its_answer() {
    let server = MockServer::start().await;
    for (contained, said) in [
        ("Rewrite this question", "What does the ferry cost for children under six?"),
        ("<passages-", "Children under six travel free [1]."),
    ] {
        let mock = Mock::given(method("POST")).and(body_string_contains(contained));
        mock.respond_with(saying(&[said])).mount(&server).await;
    }
    let app = before(&server).await;
    app.store_ferry().await;
    good(complete(&app, &json!({"model": "ragway", "messages": conversation()})).await).await;
    assert_eq!(numbers(&used(&app, "rewrite", "remote").await), [0, 90, 10, 0]);
    assert_eq!(numbers(&used(&app, "ask", "remote").await), [1, 90, 10, 0]);
}

#[tokio::test]
async fn sentences_that_are_ranked_are_charged() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    let embedded = async |operation: &str| {
        used(&app, operation, "all-MiniLM-L6-v2").await["embed_tokens"].as_i64().unwrap()
    };
    good(app.search(json!({"query": QUESTION})).await).await;
    let answer = good(app.ask(json!({"question": QUESTION})).await).await;
    assert_eq!(answer["method"], "extractive");
    // Both sentences of the passage about fares, beside the question.
    let (question, all) = (embedded("search").await, embedded("ask").await);
    assert!(all >= question + 15, "{question} {all}");
}

#[tokio::test]
async fn an_answer_says_and_records_what_it_is_charged_for() {
    let event = |delta: Value, reason: Value| {
        chunk(json!({"index": 0, "delta": delta, "finish_reason": reason}), json!({}))
    };
    let text = "A bicycle costs 3 euros each way [1].";
    let uncounted = [event(json!({"content": text}), Value::Null), event(json!({}), json!("stop"))];
    for (response, estimated) in [(server_sent(&uncounted), true), (saying(&[text]), false)] {
        let app = before(&upstream(response).await).await;
        app.store_ferry().await;
        let answer = good(app.ask(json!({"question": QUESTION})).await).await;
        assert_eq!((&answer["method"], &answer["model"]), (&json!("generated"), &json!("remote")));
        assert_eq!(answer["usage"]["estimated"].as_bool().unwrap_or_default(), estimated);
        let row = used(&app, "ask", "remote").await;
        for name in ["prompt_tokens", "completion_tokens"] {
            assert!(row[name].as_i64().unwrap() > 5);
            assert_eq!(answer["usage"][name], row[name], "{answer}");
        }
        assert_eq!(row["estimated_tokens"].as_i64().unwrap() > 0, estimated);
        let stored = format!(
            "DO $$ BEGIN ASSERT (SELECT (prompt_tokens, completion_tokens, cost_nano) = ({}, {}, {}) FROM answers); END $$",
            row["prompt_tokens"],
            row["completion_tokens"],
            (row["cost"].as_f64().unwrap() * 1e9).round()
        );
        execute(&app.admin_url, &stored).await;
    }
}

#[tokio::test]
async fn who_has_used_its_quota_reaches_no_backend() {
    let server = upstream(saying(&["A bicycle costs 3 euros each way [1]."])).await;
    let app = TestApp::with(|setup| {
        priced(setup, "remote", &server);
        setup.backends.push(Arc::new(Counting));
        let quota: Quota = toml::from_str("per = \"tenant\"\nperiod = \"month\"\ncost = 0.0001").unwrap();
        setup.catalog.quotas = vec![quota];
    })
    .await;
    app.store_ferry().await;
    let request =
        |model: &str, stream: bool| json!({"model": model, "messages": conversation(), "stream": stream});
    complete(&app, &request("remote", true)).await.text().await.unwrap();
    assert_eq!(numbers(&used(&app, "chat", "remote").await), [1, 90, 10, 0]);
    let asked = server.received_requests().await.unwrap().len();
    for model in ["remote", "local", "ragway"] {
        for stream in [false, true] {
            let refused = complete(&app, &request(model, stream)).await;
            assert_eq!(refused.headers()["x-should-retry"], "false");
            assert!(refused.headers().contains_key("retry-after"));
            let (status, body) = (refused.status(), refused.json::<Value>().await.unwrap());
            assert_eq!((status.as_u16(), &body["error"]["code"]), (429, &json!("insufficient_quota")));
        }
    }
    assert_eq!(server.received_requests().await.unwrap().len(), asked);
    assert_eq!(used(&app, "chat", "local").await, Value::Null);
    let path = "/api/v1/collections/default/reembed";
    let reembed = app.post(path).json(&json!({"model": "all-MiniLM-L6-v2"})).send().await.unwrap();
    problem(reembed, 429, "quota_exceeded").await;
}

#[tokio::test]
async fn an_embedder_of_the_same_name_does_not_get_a_backends_price() {
    let server = MockServer::start().await;
    let app = TestApp::with(|setup| priced(setup, "all-MiniLM-L6-v2", &server)).await;
    good(app.post("/api/v1/embed").json(&json!({"texts": ["one two three"]})).send().await.unwrap()).await;
    let row = used(&app, "embed", "all-MiniLM-L6-v2").await;
    assert_eq!((&row["embed_tokens"], &row["cost"]), (&json!(5), &json!(0.0)));
}

#[tokio::test]
async fn work_in_the_background_is_charged_to_the_key_that_asked_for_it() {
    let app = TestApp::start().await;
    let key = Uuid::from_u128(7);
    let caller = Caller { tenant: TenantId::DEFAULT, key: Some(key) };
    let choice = EmbedderChoice::Type("text-embedding".into());
    // Two steps of the job.
    let texts = vec!["one two three".to_owned(); 65];
    let task = app.rag.embed_later(caller, &choice, texts).await.unwrap();
    let path = format!("/api/v1/tasks/{task}");
    eventually("the task ends", async || {
        good(app.get(&path).send().await.unwrap()).await["status"] == "succeeded"
    })
    .await;
    let usage = good(app.get("/api/v1/usage?group_by=key,operation").send().await.unwrap()).await;
    assert_eq!(usage["rows"].as_array().unwrap().len(), 1, "{usage}");
    let row = &usage["rows"][0];
    assert_eq!((&row["key"], &row["operation"]), (&json!(key), &json!("embed")));
    assert_eq!((&row["requests"], &row["embed_tokens"]), (&json!(1), &json!(65 * 5)));
}

#[tokio::test]
async fn old_answers_are_removed_however_many_there_are() {
    let first = TestApp::start().await;
    let insert = "INSERT INTO answers (id, tenant_id, collection_id, method, backend, prompt_tokens,
            completion_tokens, cost_nano, elapsed_ms, created_at)
        SELECT gen_random_uuid(), c.tenant_id, c.id, 'abstained', 'm', 0, 0, 0, 0, now() - interval '1 year'
        FROM collections c, generate_series(1, 1200)";
    execute(&first.admin_url, insert).await;
    let urls = (first.database_url.clone(), first.admin_url.clone());
    first.stop().await;
    let second = TestApp::with(|setup| setup.database = Some(urls)).await;
    let (client, connection) = tokio_postgres::connect(
        secrecy::ExposeSecret::expose_secret(&second.admin_url),
        tokio_postgres::NoTls,
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let count =
        async || -> i64 { client.query_one("SELECT count(*) FROM answers", &[]).await.unwrap().get(0) };
    eventually("all are removed", async || count().await == 0).await;
}

#[tokio::test]
async fn bytes_pass_through_unchanged() {
    let answer = r#"{ "z":1.50e0, "choices" : [ {"finish_reason":"stop","index":0,
        "message":{"role":"assistant","content":"\u00e9"}} ],  "n": 123456789012345678901234567890,
        "usage":{"prompt_tokens":1,"completion_tokens":1} }"#;
    let first =
        r#"{"id":"c-1" , "created":7,"z":1.50e0,"choices":[{"index":0,"delta":{"content":"\u00e9"}}]}"#;
    let last = r#"{"id":"c-1","created":7,"choices":[{"delta":{}, "finish_reason":"stop"}] }"#;
    let whole = ResponseTemplate::new(200).set_body_raw(answer, "application/json");
    let events = format!("data: {first}\n\ndata: {last}\n\ndata: [DONE]\n\n");
    let streamed = ResponseTemplate::new(200).set_body_raw(events, "text/event-stream");
    for (response, more) in [(whole, ""), (streamed, "\"stream\" : true, ")] {
        let server = upstream(response).await;
        let app = before(&server).await;
        let asked = format!(
            r#"{{ "tools":[{{"b":1.50e0,"a":"\u00e9"}}], {more}"model" :"remote", "messages":[], "n":1e2 }}"#
        );
        let request = app.post("/v1/chat/completions").header("content-type", "application/json");
        let got = request.body(asked.clone()).send().await.unwrap().text().await.unwrap();
        let sent = server.received_requests().await.unwrap().remove(0).body;
        let mut wanted = asked.replace("\"remote\"", "\"upstream-model\"");
        let added = r#""ragway":{"attempts":[],"model":"remote","notes":[]}"#;
        if more.is_empty() {
            assert_eq!(got, format!("{},{added}}}", answer.strip_suffix('}').unwrap()));
        } else {
            wanted = wanted.strip_suffix('}').unwrap().to_owned();
            wanted.push_str(r#","stream_options":{"include_usage":true}}"#);
            let last = last.strip_suffix('}').unwrap();
            assert_eq!(got, format!("data: {first}\n\ndata: {last},{added}}}\n\ndata: [DONE]\n\n"));
        }
        assert_eq!(String::from_utf8(sent).unwrap(), wanted);
    }
}

#[tokio::test]
async fn listed_models_can_be_called() {
    let app = TestApp::with(|setup| setup.backends.push(Arc::new(Counting))).await;
    let listed = good(app.get("/v1/models").send().await.unwrap()).await;
    let names: Vec<&str> =
        listed["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert!(names.contains(&"local") && names.contains(&"default"), "{names:?}");
    for model in ["local", "default"] {
        let body = good(complete(&app, &json!({"model": model, "messages": user("Hi")})).await).await;
        assert_eq!(body["ragway"]["model"], "local");
    }
    // Without backends the route leads nowhere.
    let app = TestApp::start().await;
    let listed = good(app.get("/v1/models").send().await.unwrap()).await;
    assert!(!listed["data"].as_array().unwrap().iter().any(|model| model["id"] == "default"), "{listed}");
    let refused = complete(&app, &json!({"model": "default", "messages": user("Hi")})).await;
    assert_eq!(refused.status(), 503);
}
