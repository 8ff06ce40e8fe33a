//! What belongs to no endpoint: request ids, CORS, pages, metrics.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::harness::{TestApp, eventually, good};

#[tokio::test]
async fn a_request_id_is_made_or_kept_when_it_is_harmless() {
    let app = TestApp::start().await;
    let id = async |sent: &str| {
        let response = app.get("/health/live").header("x-request-id", sent).send().await.unwrap();
        response.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(id("order-66").await, "order-66");
    assert_ne!(id("a b").await, "a b");
    assert_eq!(id(&"x".repeat(65)).await.len(), 36);
}

#[tokio::test]
async fn browsers_of_other_origins_are_let_in_only_by_configuration() {
    let closed = TestApp::start().await;
    let preflight = async |app: &TestApp, origin: &str| {
        let request = app.client.request(Method::OPTIONS, format!("{}/api/v1/ask", app.url));
        let request = request
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type");
        request.send().await.unwrap()
    };
    let response = preflight(&closed, "https://app.example").await;
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    let open =
        TestApp::with(|setup| setup.catalog.http.cors.origins = vec!["https://app.example".into()]).await;
    let response = preflight(&open, "https://app.example").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["access-control-allow-origin"], "https://app.example");
    assert!(response.headers()["access-control-allow-methods"].to_str().unwrap().contains("POST"));
    let response = preflight(&open, "https://evil.example").await;
    assert!(!response.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn the_pages_are_served_and_allow_nothing_foreign() {
    let app = TestApp::start().await;
    let page = app.get("/").send().await.unwrap();
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    for (name, value) in [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")] {
        assert_eq!(page.headers()[name], value);
    }
    let html = page.text().await.unwrap();
    let loaded: Vec<&str> = html.split('"').filter(|part| part.starts_with("ui/")).collect();
    assert!(loaded.len() >= 3);
    assert!(!html.contains("<style") && !html.contains("style=") && !html.contains("<script>"));
    for asset in loaded {
        assert_eq!(app.get(&format!("/{asset}")).send().await.unwrap().status(), 200, "{asset}");
    }
    let docs = app.get("/docs").send().await.unwrap();
    let policy = docs.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(docs.headers()["x-content-type-options"], "nosniff");
    assert!(docs.url().path() == "/docs/" && docs.text().await.unwrap().contains("swagger-ui"));
    let initializer = app.get("/docs/swagger-initializer.js").send().await.unwrap();
    assert!(initializer.headers().contains_key("content-security-policy"));
    assert!(initializer.text().await.unwrap().contains("\"/openapi.json\""));
    good(app.get("/ui/samples.json").send().await.unwrap()).await;
}

#[tokio::test]
async fn metrics_have_the_documented_names() {
    let app = TestApp::start().await;
    good(app.post("/api/v1/embed").json(&json!({"texts": ["a"]})).send().await.unwrap()).await;
    app.get("/api/v1/documents/01a20df1-c90a-778c-bc07-8675a1fe67f4").send().await.unwrap();
    let metrics = async || app.get("/metrics").send().await.unwrap().text().await.unwrap();
    // Workers look for jobs now and then.
    eventually("no connection is in use", async || metrics().await.contains("\ndb_active_connections 0"))
        .await;
    let text = metrics().await;
    for line in [
        "embedding_requests_total{endpoint=\"/api/v1/embed\",status=\"200\"} 1",
        "embedding_requests_total{endpoint=\"/api/v1/documents/{id}\",status=\"404\"} 1",
        "embedding_request_duration_seconds_count{endpoint=\"/api/v1/embed\"} 1",
        "model_loaded{model=\"all-MiniLM-L6-v2\"} 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn health_names_database_and_model() {
    let app = TestApp::start().await;
    let health = good(app.get("/health").send().await.unwrap()).await;
    assert_eq!(health["status"], "healthy");
    assert_eq!((&health["database"], &health["model"]), (&json!("connected"), &json!("all-MiniLM-L6-v2")));
    assert_eq!(good(app.get("/health/live").send().await.unwrap()).await["status"], "alive");
    assert_eq!(good(app.get("/health/ready").send().await.unwrap()).await["status"], "ready");
    assert_eq!(good(app.get("/version").send().await.unwrap()).await["version"], env!("CARGO_PKG_VERSION"));
}
