//! Servers of language models, replaced by a mock server: what they stream, and how ragway asks them.

use std::sync::Arc;

use ragway::{
    config::OpenAiEntry,
    models::{Generator, openai::OpenAiGenerator},
};
use serde_json::{Value, json};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{method, path},
};

use crate::harness::{Setup, TestApp};

/// A chunk of a stream, with these fields beside or in place of the usual ones.
pub fn chunk(choice: Value, more: Value) -> Value {
    let mut chunk = json!({"id": "c-1", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": [choice]});
    chunk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    chunk
}

/// A stream of these chunks.
pub fn server_sent(chunks: &[Value]) -> ResponseTemplate {
    let mut body: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    body.push_str("data: [DONE]\n\n");
    ResponseTemplate::new(200).set_body_raw(body, "text/event-stream")
}

/// What a model streams that says this, piece by piece.
pub fn saying(pieces: &[&str]) -> ResponseTemplate {
    let said =
        |text| chunk(json!({"index": 0, "delta": {"content": text}, "finish_reason": null}), json!({}));
    let mut chunks: Vec<Value> = pieces.iter().map(said).collect();
    chunks.push(chunk(json!({"index": 0, "delta": {}, "finish_reason": "stop"}), json!({})));
    let usage = json!({"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100});
    chunks.push(chunk(Value::Null, json!({"choices": [], "usage": usage})));
    server_sent(&chunks)
}

/// A server that always responds so.
pub async fn upstream(response: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    respond(&server, response).await;
    server
}

/// Lets a server say something else from now on.
pub async fn say(server: &MockServer, pieces: &[&str]) {
    server.reset().await;
    respond(server, saying(pieces)).await;
}

async fn respond(server: &MockServer, response: ResponseTemplate) {
    let mock = Mock::given(method("POST")).and(path("/v1/chat/completions"));
    mock.respond_with(response).mount(server).await;
}

/// The body of the request that a server got last.
pub async fn received(server: &MockServer) -> Value {
    serde_json::from_slice(&server.received_requests().await.unwrap().last().unwrap().body).unwrap()
}

/// The backend that asks a server.
pub fn remote(name: &str, server: &MockServer, context_tokens: usize) -> Arc<dyn Generator> {
    let url = format!("{}/v1", server.uri()).parse().unwrap();
    let mut entry = OpenAiEntry::new(name, url, "upstream-model", context_tokens);
    entry.timeouts.first_byte_ms = 1500;
    Arc::new(OpenAiGenerator::new(&entry, None).unwrap())
}

/// Adds a server to the backends.
pub fn use_remote(setup: &mut Setup, name: &str, server: &MockServer) {
    setup.backends.push(remote(name, server, 4096));
}

/// A ragway with the documents about the ferry, whose backend `remote` is this server.
pub async fn ferry_with(server: &MockServer) -> TestApp {
    let app = TestApp::with(|setup| use_remote(setup, "remote", server)).await;
    app.store_ferry().await;
    app
}
