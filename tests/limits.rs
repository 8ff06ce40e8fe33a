//! How much a client may ask for: requests a minute and at once, the size, time, depth and coding of bodies.

use std::time::Duration;

use futures_util::stream;
use ragway::http::openapi::document_json;
use reqwest::{Method, RequestBuilder, Response, multipart};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    cache::Redis,
    harness::{Setup, TestApp, eventually, good, problem},
};

/// An operation of the published document.
struct Operation {
    method: Method,
    path: String,
    /// Media types of its body; none: it has none.
    media_types: Vec<String>,
    /// The schema of its errors; empty: it is not limited.
    errors: String,
}

impl Operation {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn request(&self, app: &TestApp) -> RequestBuilder {
        app.client.request(self.method.clone(), format!("{}{}", app.url, self.path))
    }

    fn json(&self, app: &TestApp, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.request(app).header("content-type", "application/json").body(body)
    }

    /// The error of a response, which must have this status and the operation's own shape.
    async fn refused(&self, response: Response, statuses: &[u16]) -> Value {
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        assert!(statuses.contains(&status), "{}: {status} {text}", self.name());
        let body = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{}: {text}", self.name()));
        self.check_shape(&body);
        body
    }

    fn check_shape(&self, body: &Value) {
        let fits = match self.errors.as_str() {
            "Problem" => {
                body["status"].is_u64() && body["code"].is_string() && body["request_id"].is_string()
            }
            "OpenAiErrorBody" => body["error"]["message"].is_string() && body["error"]["type"].is_string(),
            "TeiErrorBody" => body["error"].is_string() && body["error_type"].is_string(),
            "CohereErrorBody" => body["message"].is_string() && body["id"].is_string(),
            other => panic!("{}: {other}", self.name()),
        };
        assert!(fits, "{}: not {}: {body}", self.name(), self.errors);
    }
}

/// All operations of the published document.
fn operations() -> Vec<Operation> {
    let document: Value = serde_json::from_str(&document_json().unwrap()).unwrap();
    let mut found = Vec::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse() else { panic!("{method}") };
            let content = operation["requestBody"]["content"].as_object();
            let refusal = operation["responses"]["429"]["content"].as_object();
            let errors = refusal.and_then(|content| content.values().next()?["schema"]["$ref"].as_str());
            found.push(Operation {
                method,
                path: template
                    .replace("{model_type}", "text-embedding")
                    .replace("{name}", "default")
                    .replace(['{', '}'], ""),
                media_types: content.map_or(Vec::new(), |content| content.keys().cloned().collect()),
                errors: errors.and_then(|schema| schema.rsplit('/').next()).unwrap_or_default().to_owned(),
            });
        }
    }
    assert!(found.len() > 40, "{}", found.len());
    found
}

/// Those that read a JSON body.
fn with_body() -> Vec<Operation> {
    let mut operations = operations();
    operations.retain(|operation| operation.media_types.iter().any(|kind| kind == "application/json"));
    assert!(operations.len() > 20, "{}", operations.len());
    operations
}

/// Clients are told apart by `X-Forwarded-For`, and so many requests a minute of each are allowed.
fn limited(setup: &mut Setup, per_address: u32) {
    setup.catalog.limits.per_address = per_address;
    setup.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
}

async fn list_models(app: &TestApp, address: &str) -> Response {
    app.get("/v1/models").header("x-forwarded-for", address).send().await.unwrap()
}

/// How many of `count` requests of an address are let through.
async fn let_through(app: &TestApp, address: &str, count: usize) -> usize {
    let mut good = 0;
    for _ in 0..count {
        let status = list_models(app, address).await.status().as_u16();
        assert!([200, 429].contains(&status), "{status}");
        good += usize::from(status == 200);
    }
    good
}

fn number(response: &Response, header: &str) -> u64 {
    let value = response.headers().get(header).unwrap_or_else(|| panic!("no {header}"));
    value.to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_request_over_the_limit_is_refused_in_the_shape_of_its_endpoint() {
    let app = TestApp::with(|setup| limited(setup, 1)).await;
    assert_eq!(let_through(&app, "192.0.2.1", 2).await, 1);
    let mut refused = 0;
    for operation in operations() {
        let request = operation.request(&app).header("x-forwarded-for", "192.0.2.1");
        let response = request.send().await.unwrap();
        if operation.path.starts_with("/health")
            || ["/metrics", "/version"].contains(&operation.path.as_str())
        {
            assert_eq!(response.status(), 200, "{}", operation.name());
            assert!(response.headers().get("ratelimit-limit").is_none());
            continue;
        }
        refused += 1;
        assert_eq!((number(&response, "ratelimit-limit"), number(&response, "ratelimit-remaining")), (1, 0));
        assert!((1..=60).contains(&number(&response, "retry-after")), "{}", operation.name());
        assert!((1..=60).contains(&number(&response, "ratelimit-reset")), "{}", operation.name());
        let body = operation.refused(response, &[429]).await;
        assert!(body.to_string().contains("more than 1 requests a minute from this address"), "{body}");
    }
    assert!(refused > 40, "{refused}");
    let mcp = app.post("/mcp").header("x-forwarded-for", "192.0.2.1").json(&json!({})).send().await.unwrap();
    assert_eq!(mcp.status(), 429);
    let body: Value = mcp.json().await.unwrap();
    assert_eq!(
        (&body["jsonrpc"], &body["error"]["data"]["code"]),
        (&json!("2.0"), &json!("too_many_requests"))
    );
    for path in ["/", "/ui/app.js", "/docs/", "/openapi.json", "/metrics"] {
        let page = app.get(path).header("x-forwarded-for", "192.0.2.1").send().await.unwrap();
        assert_eq!(page.status(), 200, "{path}");
    }
    // What leads nowhere is counted too.
    let nowhere = app.get("//health").header("x-forwarded-for", "192.0.2.1").send().await.unwrap();
    problem(nowhere, 429, "too_many_requests").await;
}

#[tokio::test]
async fn what_is_left_is_told_with_each_answer() {
    let app = TestApp::with(|setup| limited(setup, 3)).await;
    for left in [2, 1, 0] {
        let response = list_models(&app, "192.0.2.1").await;
        assert_eq!(
            (number(&response, "ratelimit-limit"), number(&response, "ratelimit-remaining")),
            (3, left)
        );
        assert!(response.headers().get("retry-after").is_none());
    }
    // One is allowed again after 20 s: not 0, and not rounded down.
    let refused = list_models(&app, "192.0.2.1").await;
    assert!((1..=20).contains(&number(&refused, "retry-after")));
}

#[tokio::test]
async fn addresses_are_those_that_a_trusted_proxy_names() {
    let app = TestApp::with(|setup| limited(setup, 2)).await;
    assert_eq!(let_through(&app, "192.0.2.1", 4).await, 2);
    // What the client itself wrote stands to the left of it.
    assert_eq!(let_through(&app, "203.0.113.9, 192.0.2.1", 2).await, 0);
    assert_eq!(let_through(&app, "192.0.2.1, 203.0.113.9", 4).await, 2);
    // A /64 is one customer.
    assert_eq!(let_through(&app, "2001:db8::1", 2).await, 2);
    assert_eq!(let_through(&app, "2001:db8::2:1", 2).await, 0);
    assert_eq!(let_through(&app, "2001:db8:0:1::1", 3).await, 2);
}

#[tokio::test]
async fn nobody_gets_more_by_a_forged_header() {
    let app = TestApp::with(|setup| {
        setup.catalog.limits.per_address = 2;
        setup.catalog.limits.exempt_loopback = false;
    })
    .await;
    let mut let_through = 0;
    for number in 0..6 {
        let forged = format!("192.0.2.{number}");
        let request = app.get("/v1/models").header("x-forwarded-for", &forged);
        let request = request.header("forwarded", format!("for={forged}")).header("x-real-ip", &forged);
        let_through += usize::from(request.send().await.unwrap().status() == 200);
    }
    assert_eq!(let_through, 2);
}

#[tokio::test]
async fn this_machine_itself_is_free_unless_it_is_a_proxy_or_not_wanted() {
    let app = TestApp::with(|setup| setup.catalog.limits.per_address = 1).await;
    for _ in 0..3 {
        good(app.get("/v1/models").send().await.unwrap()).await;
    }
    // A proxy that is not trusted: all its clients are one.
    assert_eq!(let_through(&app, "192.0.2.1", 1).await, 1);
    assert_eq!(let_through(&app, "192.0.2.2", 1).await, 0);
}

#[tokio::test]
async fn a_tenant_has_a_limit_of_its_own_and_the_narrower_one_is_told() {
    let app = TestApp::with(|setup| {
        limited(setup, 10);
        setup.catalog.limits.per_tenant = 2;
    })
    .await;
    for (number_of, left) in [(1, 1), (2, 0)] {
        let response = list_models(&app, &format!("192.0.2.{number_of}")).await;
        assert_eq!(
            (number(&response, "ratelimit-limit"), number(&response, "ratelimit-remaining")),
            (2, left)
        );
    }
    let refused = list_models(&app, "192.0.2.3").await;
    assert_eq!((refused.status().as_u16(), number(&refused, "ratelimit-limit")), (429, 2));
    assert!(refused.text().await.unwrap().contains("of this tenant"));
}

#[tokio::test]
async fn replicas_count_together_in_redis_and_alone_without_it() {
    let mut redis = Redis::start().await;
    let first = TestApp::with(|setup| {
        limited(setup, 6);
        setup.redis_url = Some(redis.url().into());
    })
    .await;
    let database = (first.database_url.clone(), first.admin_url.clone());
    let second = TestApp::with(|setup| {
        limited(setup, 6);
        setup.redis_url = Some(redis.url().into());
        setup.database = Some(database);
    })
    .await;
    // They connect in the background.
    for (app, name) in [(&first, "198.51.100.1"), (&second, "198.51.100.2")] {
        let key = format!("ragway:limit:address:{name}");
        eventually("the replica counts in Redis", async || {
            list_models(app, name).await;
            redis.keys_like(&key).await.len() == 1
        })
        .await;
    }
    let (there, here) =
        (let_through(&first, "192.0.2.1", 4).await, let_through(&second, "192.0.2.1", 4).await);
    assert_eq!((there, here), (4, 2));
    let refused = list_models(&first, "192.0.2.1").await;
    assert_eq!((refused.status().as_u16(), number(&refused, "ratelimit-remaining")), (429, 0));
    assert!((1..=10).contains(&number(&refused, "retry-after")));
    assert!((51..=60).contains(&number(&refused, "ratelimit-reset")));
    // All at once: none is counted twice, none is missed.
    let requests =
        (0..40).map(|number| list_models(if number % 2 == 0 { &first } else { &second }, "192.0.2.2"));
    let responses = futures_util::future::join_all(requests).await;
    assert_eq!(responses.iter().filter(|response| response.status() == 200).count(), 6);
    // Keys end by themselves.
    let mut connection = redis.connection().await.unwrap();
    for key in redis.keys_like("ragway:limit:*").await {
        let left_ms: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut connection).await.unwrap();
        assert!((1..=60_000).contains(&left_ms), "{key}: {left_ms}");
    }

    redis.stop();
    // Nothing fails; each replica counts by itself.
    assert_eq!(let_through(&first, "192.0.2.3", 8).await, 6);
    assert_eq!(let_through(&second, "192.0.2.3", 8).await, 6);
    redis.start_again();
    eventually("requests are counted in Redis again", async || {
        list_models(&first, "192.0.2.4").await;
        redis.connection().await.is_some() && redis.keys_like("ragway:limit:*").await.len() == 1
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_in_the_shape_of_its_endpoint() {
    let app = TestApp::with(|setup| setup.catalog.http.max_body_bytes = 20_000).await;
    for operation in with_body() {
        let large = format!("{{\"input\": \"{}\"}}", "a".repeat(20_000));
        operation.refused(operation.json(&app, large.clone()).send().await.unwrap(), &[413]).await;
        let pieces: Vec<_> =
            large.as_bytes().chunks(999).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
        let chunked = reqwest::Body::wrap_stream(stream::iter(pieces));
        operation.refused(operation.json(&app, chunked).send().await.unwrap(), &[413]).await;
        if operation.media_types.iter().any(|kind| kind == "multipart/form-data") {
            let field = if operation.path.contains("documents") { "file" } else { "image" };
            let part = multipart::Part::bytes(vec![b'a'; 20_001]).file_name("a.txt");
            let form = multipart::Form::new().part(field, part);
            operation.refused(operation.request(&app).multipart(form).send().await.unwrap(), &[413]).await;
        }
    }
    let mcp = app.post("/mcp").json(&json!({"a": "a".repeat(20_000)})).send().await.unwrap();
    assert_eq!(mcp.status(), 413);
}

/// Sends the head of a request, and what may be of its body; the connection stays open.
async fn begin(app: &TestApp, operation: &Operation, content_type: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(app.url.strip_prefix("http://").unwrap()).await.unwrap();
    let head = format!(
        "{} {} HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n{body}",
        operation.method, operation.path
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// What comes until the server closes the connection: status and body.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> (u16, String) {
    let mut told = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut told)).await;
    ended.expect("the server closes the connection").unwrap();
    let told = String::from_utf8(told).unwrap();
    let status = told.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = told.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    (status.unwrap_or_else(|| panic!("no response: {told:?}")), body)
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let app = TestApp::with(|setup| setup.catalog.http.body_timeout_ms = 300).await;
    for operation in with_body() {
        let mut stream = begin(&app, &operation, "application/json", "1\r\n{\r\n").await;
        let (status, body) = rest(&mut stream).await;
        assert_eq!(status, 408, "{}: {body}", operation.name());
        operation.check_shape(&serde_json::from_str(&body).unwrap());
        if operation.media_types.iter().any(|kind| kind == "multipart/form-data") {
            let part = "--b\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\nabc";
            let part = format!("{:x}\r\n{part}\r\n", part.len());
            let mut stream = begin(&app, &operation, "multipart/form-data; boundary=b", &part).await;
            let (status, body) = rest(&mut stream).await;
            assert_eq!(status, 408, "{}: {body}", operation.name());
        }
    }
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up_however_it_trickles() {
    let app = TestApp::with(|setup| setup.catalog.http.body_timeout_ms = 500).await;
    let operation = with_body().remove(0);
    let stream = begin(&app, &operation, "application/json", "1\r\n{\r\n").await;
    let (mut reading, mut writing) = stream.into_split();
    let trickle = tokio::spawn(async move {
        // Until the server has closed the connection.
        while writing.write_all(b"1\r\n \r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let (status, _) = rest(&mut reading).await;
    assert_eq!(status, 408);
    trickle.await.unwrap();
}

#[tokio::test]
async fn a_head_that_does_not_come_is_given_up() {
    let app = TestApp::start().await;
    let mut stream = TcpStream::connect(app.url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    assert_eq!(rest(&mut stream).await.0, 408);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let app = TestApp::start().await;
    let long = format!("x-long: {}\r\n", "a".repeat(200_000));
    let many: String = (0..500).map(|number| format!("x-{number}: a\r\n")).collect();
    for headers in [long, many] {
        let mut stream = TcpStream::connect(app.url.strip_prefix("http://").unwrap()).await.unwrap();
        let head = format!("GET /v1/models HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        // It may be refused before all of it was sent.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut told = vec![0; 64];
        let read = stream.read(&mut told).await.unwrap();
        let told = String::from_utf8_lossy(&told[..read]);
        assert!(told.starts_with("HTTP/1.1 431") || told.starts_with("HTTP/1.1 400"), "{told}");
    }
    good(app.get("/health").send().await.unwrap()).await;
}

#[tokio::test]
async fn more_requests_at_once_than_there_are_seats_are_sent_away() {
    let app = TestApp::with(|setup| setup.catalog.http.max_in_flight = 1).await;
    let operation = with_body().remove(0);
    let held = begin(&app, &operation, "application/json", "1\r\n{\r\n").await;
    eventually("the only seat is taken", async || {
        app.get("/v1/models").send().await.unwrap().status() == 503
    })
    .await;
    for operation in operations() {
        let response = operation.request(&app).send().await.unwrap();
        if operation.path.starts_with("/health")
            || ["/metrics", "/version"].contains(&operation.path.as_str())
        {
            assert_eq!(response.status(), 200, "{}", operation.name());
            continue;
        }
        assert_eq!(number(&response, "retry-after"), 1, "{}", operation.name());
        operation.refused(response, &[503]).await;
    }
    // Whoever leaves makes room.
    drop(held);
    eventually("the seat is free again", async || {
        app.get("/v1/models").send().await.unwrap().status() == 200
    })
    .await;
    // So does whoever was answered.
    for _ in 0..3 {
        eventually("each is served", async || app.get("/v1/models").send().await.unwrap().status() == 200)
            .await;
    }
}

#[tokio::test]
async fn json_that_is_nested_10_000_deep_is_refused() {
    const DEEP: usize = 10_000;
    let app = TestApp::start().await;
    let arrays = format!("{}{}", "[".repeat(DEEP), "]".repeat(DEEP));
    let objects = format!("{}1{}", "{\"a\":".repeat(DEEP), "}".repeat(DEEP));
    for operation in with_body() {
        for body in [&arrays, &objects] {
            let response = operation.json(&app, body.clone()).send().await.unwrap();
            // A body that cannot be read is 422 for clients of TEI.
            operation.refused(response, &[if operation.errors == "TeiErrorBody" { 422 } else { 400 }]).await;
        }
    }
    let in_field = [
        ("/api/v1/documents", format!("{{\"content\": \"a\", \"metadata\": {objects}}}")),
        ("/api/v1/search", format!("{{\"query\": \"a\", \"filter\": {objects}}}")),
        ("/v1/chat/completions", format!("{{\"model\": \"ragway\", \"messages\": {arrays}}}")),
        ("/v1/embeddings", format!("{{\"model\": \"all-MiniLM-L6-v2\", \"input\": {arrays}}}")),
        ("/mcp", arrays.clone()),
        (
            "/mcp",
            format!("{{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"tools/call\", \"params\": {objects}}}"),
        ),
    ];
    for (path, body) in in_field {
        let request = app.post(path).header("content-type", "application/json");
        let request = request.header("accept", "application/json, text/event-stream");
        assert_eq!(request.body(body).send().await.unwrap().status(), 400, "{path}");
    }
    good(app.get("/health").send().await.unwrap()).await;
}

#[tokio::test]
async fn compressed_bodies_are_not_read() {
    let app = TestApp::start().await;
    for operation in with_body() {
        for coding in ["gzip", "br", "zstd", "gzip, identity"] {
            let request = operation.json(&app, "{}").header("content-encoding", coding);
            let body = operation.refused(request.send().await.unwrap(), &[415]).await;
            assert!(body.to_string().contains("content-encoding"), "{body}");
        }
    }
    let plain =
        app.post("/api/v1/embed").header("content-encoding", "identity").json(&json!({"texts": ["a"]}));
    good(plain.send().await.unwrap()).await;
}
