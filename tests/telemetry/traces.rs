//! Traces as a collector gets them, and the logs beside them.

use std::collections::HashMap;

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value as Any,
    trace::v1::{Span, span::SpanKind, status::StatusCode as Outcome},
};
use prost::Message;
use ragway::config::BUILT_IN;
use reqwest::Client;
use serde_json::{Value, json};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{method, path},
};

use super::Program;
use crate::{
    cli::ragway,
    harness::{eventually, good},
    llm::{saying, upstream},
};

/// The trace of a caller, and the caller's span.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// Words that stand in texts only, each in those of one endpoint.
const STORED: &str = "Quagmarch";
const EMBEDDED: &str = "Zorblaxian";
const SEARCHED: &str = "Plimquatish";
const CHATTED: &str = "Vexnoria";
const QUEUED: &str = "Drimwaddle";
const WRONG: &str = "Grumboldish";
const KEY: &str = "sk-Wobblefinch-4711";

/// The catalog with one answer backend and one more embedder, both on these servers.
fn catalog(llm: &MockServer, embedder: &MockServer) -> String {
    let backends = BUILT_IN.split_once("[routes.answer]\nbackends = [").unwrap().1.split_once(']').unwrap().0;
    let text = BUILT_IN
        .replace("https://api.openai.com", &llm.uri())
        .replace(&format!("backends = [{backends}]"), "backends = [\"openai\"]");
    format!(
        "{text}\n[[embedder]]\nname = \"elsewhere\"\nkind = \"remote\"\ndimension = 2\nmax_tokens = 256\n\
         min_similarity = 0.3\nanswer_cut = 0.6\nload = \"lazy\"\n[embedder.remote]\napi = \"openai\"\n\
         base_url = \"{}/v1\"\nmodel = \"m\"\n\n[routes.embed.elsewhere]\ncandidates = [\"elsewhere\"]\n",
        embedder.uri()
    )
}

async fn collector() -> MockServer {
    let server = MockServer::start().await;
    let mock = Mock::given(method("POST")).and(path("/v1/traces"));
    mock.respond_with(ResponseTemplate::new(200)).mount(&server).await;
    server
}

async fn embedding_server() -> MockServer {
    let server = MockServer::start().await;
    let answer = json!({"data": [{"index": 0, "embedding": [0.6, 0.8]}], "usage": {"prompt_tokens": 3}});
    let mock = Mock::given(method("POST")).and(path("/v1/embeddings"));
    mock.respond_with(ResponseTemplate::new(200).set_body_json(answer)).mount(&server).await;
    server
}

/// The spans that a collector got, after a check of the requests that brought them.
async fn spans_of(collector: &MockServer) -> Vec<Span> {
    let mut spans = Vec::new();
    for request in collector.received_requests().await.unwrap() {
        assert_eq!(request.headers["content-type"], "application/x-protobuf");
        let batch = ExportTraceServiceRequest::decode(request.body.as_slice()).unwrap();
        for of_resource in batch.resource_spans {
            let attributes = of_resource.resource.unwrap().attributes;
            let service = attributes.into_iter().find(|attribute| attribute.key == "service.name").unwrap();
            assert_eq!(service.value.unwrap().value, Some(Any::StringValue("ragway".into())));
            spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    spans
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

/// The attribute of a span, as text.
fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.clone()) {
        Some(Any::StringValue(text)) => text,
        Some(Any::IntValue(number)) => number.to_string(),
        other => panic!("{}: {key} is {other:?}", span.name),
    }
}

/// Stores, embeds, searches, asks, chats and queues, each with a word of its own in its texts.
async fn use_everything(url: &str) {
    let client = Client::new();
    let post =
        async |path: &str, body: Value| client.post(format!("{url}{path}")).json(&body).send().await.unwrap();
    let document = format!("# Fares\n\nA bicycle of the make {STORED} costs 3 euros each way.");
    good(post("/api/v1/documents", json!({"content": document, "title": STORED})).await).await;
    good(post("/api/v1/embed", json!({"texts": [format!("One {EMBEDDED} text")]})).await).await;
    good(post("/api/v1/embed/cached", json!({"texts": [format!("One {EMBEDDED} text")]})).await).await;
    good(post("/api/v1/search", json!({"query": format!("A {SEARCHED} query")})).await).await;
    let question = format!("What does a bicycle of the make {STORED} cost?");
    let asked = client.post(format!("{url}/api/v1/ask")).header("traceparent", parent("01"));
    let asked = asked.header("x-request-id", "the-question").json(&json!({"question": question}));
    let answer = good(asked.send().await.unwrap()).await;
    assert_eq!(answer["method"], "generated", "{answer}");
    let messages = json!([{"role": "user", "content": format!("Tell me about {CHATTED}")}]);
    let passed_on = json!({"model": "openai", "messages": messages, "stream": true});
    let streamed = post("/v1/chat/completions", passed_on).await.text().await.unwrap();
    assert!(streamed.contains(STORED) && streamed.contains("[DONE]"), "{streamed}");
    let messages = json!([{"role": "user", "content": question}]);
    good(post("/v1/chat/completions", json!({"model": "ragway", "messages": messages})).await).await;
    let elsewhere = client.post(format!("{url}/embed/elsewhere")).header("x-request-id", "elsewhere");
    good(elsewhere.json(&json!({"texts": [EMBEDDED]})).send().await.unwrap()).await;
    let silent = client.post(format!("{url}/api/v1/search")).header("traceparent", parent("00"));
    let silent = silent.header("x-request-id", "not-sampled").json(&json!({"query": SEARCHED}));
    good(silent.send().await.unwrap()).await;

    let wrong =
        post("/api/v1/search", json!({"query": WRONG, "filters": {"type": "like", "key": WRONG}})).await;
    assert_eq!(wrong.status(), 400);
    let broken = client.post(format!("{url}/api/v1/ask")).header("content-type", "application/json");
    let broken = broken.body(format!("{{\"question\": {WRONG}"));
    assert_eq!(broken.send().await.unwrap().status(), 400);

    let queued = json!({"documents": [{"content": format!("The {QUEUED} is a bird."), "title": QUEUED}]});
    let task = good(post("/api/v1/documents/async", queued).await).await;
    let location = format!("{url}/api/v1/tasks/{}", task["task_id"].as_str().unwrap());
    let status = async || good(client.get(&location).send().await.unwrap()).await["status"].clone();
    eventually("the task succeeds", async || status().await == "succeeded").await;
}

#[tokio::test]
async fn a_request_is_one_trace_from_its_caller_to_other_servers_and_no_text_is_logged() {
    let (collector, embedder) = (collector().await, embedding_server().await);
    let words = format!("A bicycle of the make {STORED} costs 3 euros each way. [1]");
    let llm = upstream(saying(&[&words])).await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.uri()),
        ("OPENAI_API_KEY", KEY.to_owned()),
        ("RUST_LOG", "trace".to_owned()),
    ];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let program = Program::start(&catalog(&llm, &embedder), &variables).await;
    use_everything(&program.url).await;
    let log = program.stop();
    let spans = spans_of(&collector).await;
    check_trace_of_question(&spans, &llm).await;
    check_other_traces(&spans, &embedder).await;
    check_log(&log);
    for word in [STORED, EMBEDDED, SEARCHED, CHATTED, QUEUED, WRONG, KEY] {
        let line = log.lines().find(|line| line.contains(word));
        assert!(line.is_none(), "a text is in the log: {line:?}");
        let span = spans.iter().find(|span| format!("{span:?}").contains(word));
        assert!(span.is_none(), "a text is in a trace: {span:?}");
    }
}

async fn check_trace_of_question(spans: &[Span], llm: &MockServer) {
    let of_trace: Vec<&Span> = spans.iter().filter(|span| hex(&span.trace_id) == TRACE).collect();
    let names: HashMap<String, &str> =
        of_trace.iter().map(|span| (hex(&span.span_id), span.name.as_str())).collect();
    let mut edges: Vec<(&str, &str)> = of_trace
        .iter()
        .map(|span| match hex(&span.parent_span_id).as_str() {
            CALLER => ("caller", span.name.as_str()),
            // A span whose parent is not there panics: the trace is connected.
            parent => (names[parent], span.name.as_str()),
        })
        .collect();
    edges.sort_unstable();
    edges.dedup();
    for edge in [
        ("caller", "POST /api/v1/ask"),
        ("POST /api/v1/ask", "search"),
        ("search", "embed"),
        ("search", "database"),
        ("POST /api/v1/ask", "ask"),
        ("ask", "llm"),
    ] {
        assert!(edges.contains(&edge), "{edge:?} is not in {edges:?}");
    }
    let named = |name: &str| *of_trace.iter().find(|span| span.name == name).unwrap();
    let request = named("POST /api/v1/ask");
    assert_eq!(request.kind(), SpanKind::Server);
    assert_eq!(attribute(request, "http.route"), "/api/v1/ask");
    assert_eq!(attribute(request, "http.response.status_code"), "200");
    assert_eq!(attribute(request, "request_id"), "the-question");
    let asked = named("llm");
    assert_eq!((asked.kind(), attribute(asked, "backend").as_str()), (SpanKind::Client, "openai"));
    assert_eq!(attribute(asked, "gen_ai.usage.output_tokens"), "10");
    assert_eq!(attribute(named("search"), "mode"), "hybrid");

    let told = format!("00-{TRACE}-{}-01", hex(&asked.span_id));
    let received = llm.received_requests().await.unwrap();
    let told_of = |header: &str| received.iter().any(|request| request.headers["traceparent"] == header);
    assert!(told_of(&told), "the backend was not told of {told}");
}

async fn check_other_traces(spans: &[Span], embedder: &MockServer) {
    let named =
        |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}"));
    // The embedding server got the span of its call.
    let sent = embedder.received_requests().await.unwrap();
    let told = sent.last().unwrap().headers["traceparent"].to_str().unwrap();
    let call = spans.iter().find(|span| told.contains(&hex(&span.span_id))).unwrap();
    assert_eq!((call.name.as_str(), attribute(call, "model").as_str()), ("embed", "elsewhere"));
    assert!(told.contains(&hex(&call.trace_id)));
    // A job is a trace of its own.
    let job = named("task");
    assert!(job.parent_span_id.is_empty() && job.kind() == SpanKind::Consumer);
    let ingest = spans.iter().find(|span| span.name == "ingest" && span.trace_id == job.trace_id).unwrap();
    assert_eq!(ingest.parent_span_id, job.span_id);
    let sampled = |id: &str| {
        spans.iter().any(|span| span.attributes.iter().any(|a| format!("{:?}", a.value).contains(id)))
    };
    assert!(sampled("elsewhere") && !sampled("not-sampled"), "what the caller does not sample is left out");
    let refused = spans.iter().find(|span| {
        span.name == "POST /api/v1/search" && attribute(span, "http.response.status_code") == "400"
    });
    let status = refused.unwrap().status.as_ref().map(|status| status.code());
    assert_ne!(status, Some(Outcome::Error), "the caller's fault is no error of the server");
}

fn check_log(log: &str) {
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let ends = |id: &str| {
        let end = |line: &&Value| line["msg"] == "[REQUEST - END]" && line["request_id"] == id;
        lines.iter().find(end).unwrap_or_else(|| panic!("{id} has no end"))
    };
    let end = ends("the-question");
    assert_eq!((&end["trace_id"], &end["status"]), (&json!(TRACE), &json!(200)));
    assert_eq!(end["tenant"], "00000000-0000-7000-8000-000000000001");
    assert_eq!(end["endpoint"], "/api/v1/ask");
    assert_eq!(ends("elsewhere")["trace_id"].as_str().unwrap().len(), 32);
    let task = lines.iter().find(|line| line["msg"] == "[TASK - END]").expect("the task's end");
    assert!(task["trace_id"].is_string() && task["tenant"] == end["tenant"] && task["kind"] == "ingest");
    // A key that stands twice in a line is more than some readers of JSON take.
    for line in log.lines().filter(|line| line.contains("[TASK - ") || line.contains("[REQUEST - ")) {
        for key in
            ["\"task\":", "\"kind\":", "\"attempts\":", "\"tenant\":", "\"request_id\":", "\"status\":"]
        {
            assert!(line.matches(key).count() < 2, "{line}");
        }
    }
    // Parts of traces make no lines.
    assert!(!lines.iter().any(|line| line["msg"].as_str().is_some_and(|msg| msg.starts_with("[EMBED"))));
    assert!(lines.iter().any(|line| line["level"] == 10), "nothing was traced");
}

#[tokio::test]
async fn a_collector_that_is_away_fails_nothing_and_is_told_once() {
    let (llm, embedder) = (upstream(ResponseTemplate::new(500)).await, embedding_server().await);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OPENAI_API_KEY", KEY),
    ];
    let program = Program::start(&catalog(&llm, &embedder), &variables).await;
    let client = Client::new();
    let log = program.log.clone();
    let warnings =
        || std::fs::read_to_string(&log).unwrap().matches("the collector does not take traces").count();
    let embed = async || {
        let request = client.post(format!("{}/api/v1/embed", program.url)).json(&json!({"texts": ["a"]}));
        good(request.send().await.unwrap()).await
    };
    eventually("the outage is told", async || {
        embed().await;
        warnings() > 0
    })
    .await;
    for _ in 0..20 {
        embed().await;
    }
    // What happens after the response has begun is logged under the request's id as well.
    let post = |path: &str, body: Value| client.post(format!("{}{path}", program.url)).json(&body);
    good(post("/api/v1/documents", json!({"content": "A bicycle costs 3 euros."})).send().await.unwrap())
        .await;
    let asked = post("/api/v1/ask", json!({"question": "What does a bicycle cost?"}));
    let answer = good(asked.header("x-request-id", "no-backend").send().await.unwrap()).await;
    assert_eq!(answer["method"], "extractive", "{answer}");
    let log = program.stop();
    let failed = log.lines().find(|line| line.contains("an answer backend failed")).unwrap();
    assert!(failed.contains("\"request_id\":\"no-backend\"") && failed.contains("\"trace_id\":"), "{failed}");
    assert_eq!(log.matches("\"msg\":\"the collector does not take traces").count(), 1);
}

#[test]
fn settings_that_mean_nothing_are_named() {
    let home = tempfile::tempdir().unwrap();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    for (variable, value, told) in [
        ("OTEL_TRACES_SAMPLER", "often", "known are always_on, always_off"),
        ("OTEL_TRACES_SAMPLER", "traceidratio", "OTEL_TRACES_SAMPLER_ARG"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "number of milliseconds"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318", "must begin with http"),
    ] {
        let mut command = ragway(home.path());
        let output =
            command.args(["serve", "--port", "0"]).envs([endpoint, (variable, value)]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(told), "{variable}={value}: {said}");
    }
}
