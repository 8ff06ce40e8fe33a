//! Malformed requests of every kind get a problem, never a crash.

use serde_json::json;

use crate::harness::{TestApp, good, problem};

#[tokio::test]
async fn malformed_bodies_are_problems() {
    let app = TestApp::start().await;
    for path in [
        "/api/v1/embed",
        "/api/v1/embed/batch",
        "/api/v1/embed/cached",
        "/embed/text-embedding",
        "/api/v1/search",
        "/api/v1/ask",
        "/api/v1/documents",
        "/api/v1/collections",
    ] {
        let raw = async |body: &[u8]| {
            let request = app.post(path).header("content-type", "application/json").body(body.to_vec());
            request.send().await.unwrap()
        };
        problem(raw(b"{").await, 400, "invalid_request").await;
        problem(raw(b"").await, 400, "invalid_request").await;
        problem(raw(b"[]").await, 400, "invalid_request").await;
        problem(raw(b"{\"question\": \"\xff\xfe\"}").await, 400, "invalid_request").await;
        problem(raw(&b"[".repeat(5000)).await, 400, "invalid_request").await;
        let none = app.post(path).body("x").header("content-type", "text/plain").send().await.unwrap();
        problem(none, 415, "unsupported_content_type").await;
    }
    good(app.get("/health").send().await.unwrap()).await;
}

#[tokio::test]
async fn an_unknown_path_is_404_and_a_wrong_method_405_with_the_right_ones() {
    let app = TestApp::start().await;
    problem(app.get("/nothing").send().await.unwrap(), 404, "not_found").await;
    problem(app.get("/ui/nothing.js").send().await.unwrap(), 404, "not_found").await;
    let wrong = app.get("/api/v1/ask").send().await.unwrap();
    assert_eq!(wrong.headers()["allow"], "POST");
    problem(wrong, 405, "method_not_allowed").await;
    let wrong = app.delete("/api/v1/documents").send().await.unwrap();
    assert_eq!(wrong.headers()["allow"], "GET, POST");
    problem(wrong, 405, "method_not_allowed").await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_ended() {
    let app = TestApp::with(|setup| setup.catalog.http.request_timeout_ms = 1).await;
    let texts = json!({"texts": vec!["ferry ".repeat(200); 16]});
    problem(app.post("/api/v1/embed").json(&texts).send().await.unwrap(), 504, "timed_out").await;
}
