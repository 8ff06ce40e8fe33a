use futures_util::StreamExt;
use serde_json::{Value, json};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{body_partial_json, header, method, path},
};

use super::*;
use crate::models::{GeneratedPart, Speaker, Usage};
use tokio::time::timeout;

const KEY: &str = "sk-very-secret";

fn entry(base_url: &str) -> OpenAiEntry {
    let mut entry = OpenAiEntry::new("remote", base_url.parse().unwrap(), "some-model", 8192);
    entry.api_key_env = Some("SOME_KEY".into());
    entry.timeouts.first_byte_ms = 300;
    entry
}

fn request() -> GenerateRequest {
    let messages = vec![
        Message { speaker: Speaker::System, text: "Be brief.".into() },
        Message { speaker: Speaker::User, text: "Hello?".into() },
    ];
    GenerateRequest {
        messages,
        max_tokens: 32,
        top_p: Some(0.5),
        seed: Some(7),
        stop: vec!["\n\n".into()],
        ..GenerateRequest::default()
    }
}

/// A server that answers every completion in this way.
async fn server(response: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    let mock = Mock::given(method("POST")).and(path("/v1/chat/completions"));
    mock.respond_with(response).mount(&server).await;
    server
}

fn events(events: &[Value]) -> ResponseTemplate {
    let body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    ResponseTemplate::new(200).set_body_raw(body + "data: [DONE]\n\n", "text/event-stream")
}

fn delta(text: &str) -> Value {
    json!({ "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }] })
}

/// Everything that is generated; an error before the stream counts as its only item.
async fn ask(server: &MockServer) -> Vec<Result<GeneratedPart, ModelError>> {
    let entry = entry(&format!("{}/v1", server.uri()));
    let generator = OpenAiGenerator::new(&entry, Some(KEY.to_owned().into())).unwrap();
    match generator.generate(request()).await {
        Ok(stream) => stream.collect().await,
        Err(error) => vec![Err(error)],
    }
}

async fn only_error(response: ResponseTemplate) -> ModelError {
    let server = server(response).await;
    let mut parts = ask(&server).await;
    assert_eq!(parts.len(), 1, "{parts:?}");
    assert_eq!(server.received_requests().await.unwrap().len(), 1, "the request was repeated");
    parts.pop().unwrap().unwrap_err()
}

fn text(text: &str) -> GeneratedPart {
    GeneratedPart::Text(text.to_owned())
}

#[tokio::test]
async fn an_answer_is_streamed_with_its_usage_last() {
    let server = MockServer::start().await;
    let wanted = json!({
        "model": "some-model",
        "messages": [
            { "role": "system", "content": "Be brief." },
            { "role": "user", "content": "Hello?" },
        ],
        "max_tokens": 32,
        "seed": 7,
        "top_p": 0.5,
        "stop": ["\n\n"],
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    let answer = events(&[
        json!({ "choices": [{ "delta": { "role": "assistant", "content": "" } }] }),
        delta("Grüß "),
        delta("dich."),
        json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }] }),
        json!({ "choices": [], "usage": { "prompt_tokens": 12, "completion_tokens": 3 } }),
    ]);
    let mock = Mock::given(method("POST")).and(path("/v1/chat/completions"));
    let mock = mock.and(header("authorization", format!("Bearer {KEY}"))).and(body_partial_json(wanted));
    mock.respond_with(answer).mount(&server).await;

    let parts: Vec<_> = ask(&server).await.into_iter().map(Result::unwrap).collect();
    let usage = Usage { prompt_tokens: 12, completion_tokens: 3 };
    assert_eq!(parts, [text("Grüß "), text("dich."), GeneratedPart::Usage(usage)]);
}

#[tokio::test]
async fn a_server_may_count_nothing_and_give_empty_reasons() {
    let odd = json!({
        "id": 7, "created": "now", "model": null, "usage": null,
        "choices": [{ "delta": { "content": "Hi", "role": "" }, "finish_reason": "", "logprobs": {} }],
    });
    let parts = ask(&server(events(&[odd])).await).await;
    assert_eq!(parts.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [text("Hi")]);
}

#[tokio::test]
async fn a_server_may_answer_in_one_piece() {
    let whole = json!({
        "choices": [{ "message": { "role": "assistant", "content": "All at once." }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 9, "completion_tokens": 4 },
    });
    let parts = ask(&server(ResponseTemplate::new(200).set_body_json(whole)).await).await;
    let usage = Usage { prompt_tokens: 9, completion_tokens: 4 };
    let parts: Vec<_> = parts.into_iter().map(Result::unwrap).collect();
    assert_eq!(parts, [text("All at once."), GeneratedPart::Usage(usage)]);
}

#[tokio::test]
async fn a_refused_key_is_named_by_its_variable_only() {
    for status in [401, 403] {
        let body = json!({ "error": { "message": format!("Incorrect API key: {KEY}"), "code": status } });
        let error = only_error(ResponseTemplate::new(status).set_body_json(body)).await;
        let message = error.to_string();
        assert!(matches!(error, ModelError::Failed { .. }), "{error:?}");
        assert!(message.contains("SOME_KEY") && !message.contains(KEY), "{message}");
    }
}

#[tokio::test]
async fn a_busy_server_says_when_to_come_back() {
    let busy = ResponseTemplate::new(429).insert_header("retry-after", "17");
    let error = only_error(busy.set_body_json(json!({ "error": "slow down" }))).await;
    let ModelError::Overloaded { retry_after, .. } = error else { panic!("{error:?}") };
    assert_eq!(retry_after, Duration::from_secs(17));

    let error = only_error(ResponseTemplate::new(503).insert_header("retry-after", "2")).await;
    assert!(matches!(error, ModelError::Overloaded { retry_after, .. } if retry_after.as_secs() == 2));
    let error = only_error(ResponseTemplate::new(429)).await;
    assert!(matches!(error, ModelError::Overloaded { .. }));
}

#[tokio::test]
async fn a_failing_server_is_unavailable() {
    let error = only_error(ResponseTemplate::new(500).set_body_string("out of memory")).await;
    assert!(matches!(error, ModelError::Unavailable { .. }));
    assert!(error.to_string().contains("out of memory"), "{error}");
    let page = ResponseTemplate::new(200).set_body_raw("<html>", "text/html; charset=utf-8");
    assert!(matches!(only_error(page).await, ModelError::Unavailable { .. }));
}

#[tokio::test]
async fn an_unknown_model_is_a_failure_with_the_servers_words() {
    let body = json!({ "message": "model `some-model` not found", "code": 404 });
    let error = only_error(ResponseTemplate::new(404).set_body_json(body)).await;
    assert!(matches!(error, ModelError::Failed { .. }));
    assert!(error.to_string().contains("`some-model` not found"), "{error}");
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_unfit() {
    let openai = json!({ "error": { "message": "This model's maximum context length is 8192 tokens.",
        "code": "context_length_exceeded" } });
    let llama_cpp = json!({ "error": { "code": 400, "type": "exceed_context_size_error",
        "message": "the request exceeds the available context size" } });
    for body in [openai, llama_cpp] {
        let error = only_error(ResponseTemplate::new(400).set_body_json(body)).await;
        assert!(matches!(error, ModelError::Unfit { .. }), "{error:?}");
    }
    assert!(matches!(only_error(ResponseTemplate::new(413)).await, ModelError::Unfit { .. }));
}

#[tokio::test]
async fn a_hanging_server_times_out() {
    let error = only_error(ResponseTemplate::new(200).set_delay(Duration::from_secs(60))).await;
    assert!(matches!(error, ModelError::TimedOut { after, .. } if after.as_millis() == 300));
}

#[tokio::test]
async fn an_error_in_the_middle_ends_the_stream() {
    let nested = json!({ "error": { "message": "the model crashed", "code": 500 } });
    let flat = json!({ "object": "error", "message": "the model crashed", "code": 500 });
    for error in [nested, flat] {
        let mut parts = ask(&server(events(&[delta("Half"), error, delta("more")])).await).await;
        assert_eq!(parts.len(), 2, "{parts:?}");
        let error = parts.pop().unwrap().unwrap_err();
        assert!(matches!(error, ModelError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains("the model crashed"), "{error}");
    }
    let busy = json!({ "error": { "message": "later", "code": 429 } });
    let parts = ask(&server(events(&[delta("Half"), busy])).await).await;
    assert!(matches!(parts[1], Err(ModelError::Overloaded { .. })));
}

#[tokio::test]
async fn an_event_that_is_no_json_is_an_error() {
    let body = "data: {\"choices\": [{\"delta\": {\"content\": \"Half\"}}]}\n\ndata: oops\n\n";
    let parts = ask(&server(ResponseTemplate::new(200).set_body_raw(body, "text/event-stream")).await).await;
    assert!(parts[0].is_ok());
    assert!(matches!(parts[1], Err(ModelError::Unavailable { .. })));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    // A port that was free a moment ago; nothing listens on it.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let generator = OpenAiGenerator::new(&entry(&format!("http://127.0.0.1:{port}/v1/")), None).unwrap();
    let error = generator.generate(request()).await.err().unwrap();
    assert!(matches!(error, ModelError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().to_lowercase().contains("refused"), "{error}");
}

#[tokio::test]
async fn dropping_the_stream_closes_the_connection() {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut received = Vec::new();
        while !received.ends_with(b"}") {
            socket.read_buf(&mut received).await.unwrap();
        }
        let event = format!("data: {}\n\n", delta("Half"));
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let answer = format!("{head}{:x}\r\n{event}\r\n", event.len());
        socket.write_all(answer.as_bytes()).await.unwrap();
        // Ends when the other side closes.
        socket.read_to_end(&mut received).await.unwrap();
    });
    let mut entry = entry(&format!("http://{address}/v1"));
    entry.timeouts.first_byte_ms = 60_000;
    let generator = OpenAiGenerator::new(&entry, None).unwrap();
    let mut stream = generator.generate(request()).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), text("Half"));
    drop(stream);
    timeout(Duration::from_secs(20), upstream).await.unwrap().unwrap();
}

#[tokio::test]
async fn without_a_key_no_credentials_are_sent() {
    let server = server(events(&[delta("Hi")])).await;
    let generator = OpenAiGenerator::new(&entry(&format!("{}/v1/", server.uri())), None).unwrap();
    let parts: Vec<_> = generator.generate(request()).await.unwrap().collect().await;
    assert_eq!(parts.len(), 1);
    let received = server.received_requests().await.unwrap();
    assert!(!received[0].headers.contains_key("authorization"));
}

#[test]
fn a_key_that_no_header_can_carry_is_refused_without_showing_it() {
    let key = "sk-two\nlines".to_owned();
    let error = OpenAiGenerator::new(&entry("http://127.0.0.1:1/v1"), Some(key.into())).err().unwrap();
    assert!(error.to_string().contains("SOME_KEY") && !error.to_string().contains("sk-two"));
}

#[test]
fn openai_itself_gets_the_new_name_of_the_limit() {
    let generator = OpenAiGenerator::new(&entry("https://api.openai.com/v1"), None).unwrap();
    let body = generator.body(&request()).unwrap();
    assert_eq!(body["max_completion_tokens"], 32);
    assert!(body.get("max_tokens").is_none());
}

#[test]
fn counts_are_on_the_high_side() {
    let generator = OpenAiGenerator::new(&entry("http://127.0.0.1:1/v1"), None).unwrap();
    assert_eq!(generator.count_tokens(""), 0);
    // 10 tokens in GPT-4's vocabulary.
    assert_eq!(generator.count_tokens("The quick brown fox jumps over the lazy dog."), 13);
    assert_eq!(generator.count_tokens("2026-11-24"), 10);
    assert_eq!(generator.count_tokens("日本"), 3);
}

#[tokio::test]
async fn what_is_no_completion_is_told_apart() {
    let json = |body: &str| ResponseTemplate::new(200).set_body_raw(body.to_owned(), "application/json");
    let events = |body: &str| ResponseTemplate::new(200).set_body_raw(body.to_owned(), "text/event-stream");
    for (response, wanted) in [
        (json(""), "answered with nothing"),
        (json("{\"ok\": true}"), "no completion: {\"ok\": true}"),
        (json("%PDF-1.7"), "no completion: %PDF"),
        (json("<html>"), "web page"),
        (json("{\"choices\": \"none\"}"), "no completion"),
        (ResponseTemplate::new(200), "no events"),
        (events("hello\n\n"), "no events"),
        (events("data: {\"choices\": []}\n\ndata: 5\n\n"), "no JSON object"),
    ] {
        let error = only_error(response).await;
        assert!(matches!(error, ModelError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[tokio::test]
async fn half_a_stream_is_no_answer() {
    let half = format!("data: {}\n\n", delta("Half"));
    let ended = "data: {\"choices\": [{\"delta\": {}, \"finish_reason\": \"stop\"}]}\n\n";
    let whole = format!("{half}{ended}");
    for (body, complete) in [(half, false), (whole, true)] {
        let response = ResponseTemplate::new(200).set_body_raw(body, "text/event-stream");
        let parts = ask(&server(response).await).await;
        assert_eq!(parts[0].as_ref().unwrap(), &text("Half"));
        match complete {
            // Without `[DONE]`, which some servers never send.
            true => assert_eq!(parts.len(), 1),
            false => assert!(parts[1].as_ref().unwrap_err().to_string().contains("broke off"), "{parts:?}"),
        }
    }
}

#[tokio::test]
async fn an_error_with_status_200_has_the_code_that_it_names() {
    let busy = json!({ "error": { "message": "later", "code": "429" } });
    assert!(matches!(
        only_error(ResponseTemplate::new(200).set_body_json(busy)).await,
        ModelError::Overloaded { .. }
    ));
    let odd = json!({ "error": { "message": "token expired", "code": 1302 } });
    let error = only_error(ResponseTemplate::new(200).set_body_json(odd)).await;
    assert!(matches!(error, ModelError::Unavailable { .. }), "{error:?}");
    let flat = json!({ "error": "no such model", "choices": [] });
    let error = only_error(ResponseTemplate::new(200).set_body_json(flat)).await;
    assert!(error.to_string().contains("no such model"), "{error}");
}

#[tokio::test]
async fn a_date_and_milliseconds_say_when_to_come_back_too() {
    let date = time::OffsetDateTime::now_utc() + Duration::from_secs(100);
    let date = date.format(&time::format_description::well_known::Rfc2822).unwrap();
    let date = date.replace("+0000", "GMT");
    for (header, value, least, most) in
        [("retry-after", date.as_str(), 50_000, 100_000), ("retry-after-ms", "250", 250, 250)]
    {
        let error = only_error(ResponseTemplate::new(429).insert_header(header, value)).await;
        let ModelError::Overloaded { retry_after, .. } = error else { panic!("{error:?}") };
        assert!((least..=most).contains(&retry_after.as_millis()), "{header}: {retry_after:?}");
    }
}

async fn forward(response: ResponseTemplate, body: Value) -> Result<Forwarded, ForwardError> {
    let server = server(response).await;
    let entry = entry(&format!("{}/v1", server.uri()));
    let generator = OpenAiGenerator::new(&entry, Some(KEY.to_owned().into())).unwrap();
    let request = ForwardRequest::read(body.to_string().into()).unwrap();
    let forwarded = generator.forwarder().unwrap().forward(&request).await;
    let sent = server.received_requests().await.unwrap().remove(0);
    assert_eq!(sent.headers["content-type"], "application/json");
    assert_eq!(sent.body, request.body_for("some-model"));
    forwarded
}

#[tokio::test]
async fn a_forwarded_request_and_its_answer_stay_as_they_are() {
    let asked =
        json!({ "model": "remote", "tools": [{ "type": "function" }], "x_unknown": 7, "stream": false });
    let answer = r#"{"id":"a", "choices":[{"message":{"tool_calls":[]}}], "usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
    let response = ResponseTemplate::new(200).set_body_raw(answer, "application/json");
    let Forwarded::Whole(whole) = forward(response, asked.clone()).await.unwrap() else { panic!() };
    assert_eq!(whole.body, answer);
    assert_eq!(whole.usage(), Some(Usage { prompt_tokens: 3, completion_tokens: 4 }));

    let mut asked = asked;
    asked["stream"] = true.into();
    let chunks = [delta("Hi"), json!({ "choices": [{ "delta": {}, "finish_reason": "tool_calls" }] })];
    let Forwarded::Stream(stream) = forward(events(&chunks), asked.clone()).await.unwrap() else { panic!() };
    let received: Vec<String> = stream.map(|chunk| chunk.unwrap().data).collect().await;
    assert_eq!(received, chunks.map(|chunk| chunk.to_string()));

    // A server that cannot stream.
    let response = ResponseTemplate::new(200).set_body_raw(answer, "application/json");
    let Forwarded::Stream(stream) = forward(response, asked).await.unwrap() else { panic!() };
    let chunks: Vec<_> = stream.map(Result::unwrap).collect().await;
    let chunk: Value = serde_json::from_str(&chunks[0].data).unwrap();
    assert_eq!((chunks.len(), &chunk["object"]), (1, &json!("chat.completion.chunk")));
    assert_eq!(chunk["choices"][0]["delta"], json!({ "tool_calls": [] }));
}

#[tokio::test]
async fn a_refusal_is_kept_in_the_servers_own_words_but_not_one_about_the_key() {
    let body = json!({ "error": { "message": "bad tools", "param": "tools", "code": null } });
    let response = ResponseTemplate::new(400).set_body_json(&body);
    let error = forward(response, json!({ "model": "m" })).await.err().unwrap();
    assert!(error.is_callers_fault());
    let refusal = error.refusal.unwrap();
    assert_eq!((refusal.status, refusal.body), (400, body.to_string()));

    let body = json!({ "error": { "message": format!("Incorrect API key: {KEY}") } });
    let response = ResponseTemplate::new(401).set_body_json(body);
    let error = forward(response, json!({ "model": "m" })).await.err().unwrap();
    assert_eq!(error.refusal, None);
    assert!(!error.to_string().contains(KEY));

    let broken = events(&[delta("Half"), json!({ "error": { "message": "crash", "code": 503 } })]);
    let Forwarded::Stream(stream) = forward(broken, json!({ "stream": true })).await.unwrap() else {
        panic!()
    };
    let last = stream.collect::<Vec<_>>().await.pop().unwrap().err().unwrap();
    assert_eq!(last.refusal.unwrap().status, 503);
}

#[tokio::test]
async fn the_whole_answer_has_a_time_limit() {
    let mut entry = entry("http://127.0.0.1:1/v1");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    entry.base_url = format!("http://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
    entry.timeouts.first_byte_ms = 60_000;
    entry.timeouts.whole_ms = 200;
    let generator = OpenAiGenerator::new(&entry, None).unwrap();
    // Connections are accepted by the kernel; nobody answers.
    let error = generator.generate(request()).await.err().unwrap();
    assert!(matches!(error, ModelError::TimedOut { after, .. } if after.as_millis() == 200), "{error:?}");
}
