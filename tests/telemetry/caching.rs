//! What browsers and caches between may keep.

use reqwest::{Response, StatusCode};
use serde_json::json;

use crate::harness::TestApp;

const PUBLIC: [&str; 7] = [
    "/",
    "/ui/app.js",
    "/ui/style.css",
    "/ui/samples.json",
    "/openapi.json",
    "/docs/",
    "/docs/swagger-ui.css",
];

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn pages_and_the_api_document_are_kept_and_asked_about_by_their_tags() {
    let app =
        TestApp::with(|setup| setup.catalog.http.cors.origins = vec!["https://app.example".into()]).await;
    for path in PUBLIC {
        let first = app.get(path).send().await.unwrap();
        let tag = header(&first, "etag").to_owned();
        assert!(tag.len() > 30 && tag.starts_with('"'), "{path}: {tag}");
        assert_eq!(header(&first, "cache-control"), "public, no-cache", "{path}");
        assert!(header(&first, "vary").contains("Origin"), "{path}");
        assert!(!first.bytes().await.unwrap().is_empty(), "{path}");

        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let again = app.get(path).header("if-none-match", &known).send().await.unwrap();
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path} {known}");
            assert_eq!(header(&again, "etag"), tag, "{path}");
            assert_eq!(header(&again, "cache-control"), "public, no-cache", "{path}");
            assert!(!again.headers().contains_key("content-length"), "{path}");
            assert!(again.bytes().await.unwrap().is_empty(), "{path}");
        }
        for other in ["\"other\"", "no tag at all"] {
            let again = app.get(path).header("if-none-match", other).send().await.unwrap();
            assert_eq!((again.status(), header(&again, "etag")), (StatusCode::OK, &*tag), "{path} {other}");
        }
        let foreign = app.get(path).header("origin", "https://app.example").send().await.unwrap();
        assert_eq!(header(&foreign, "access-control-allow-origin"), "https://app.example", "{path}");
        assert!(header(&foreign, "vary").contains("Origin"), "{path}");
    }
    // Each content has a tag of its own.
    let tag = async |path| header(&app.get(path).send().await.unwrap(), "etag").to_owned();
    assert_ne!(tag("/ui/app.js").await, tag("/ui/style.css").await);
}

#[tokio::test]
async fn what_is_somebodys_is_kept_nowhere() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    for path in [
        "/api/v1/documents",
        "/api/v1/documents/01a20df1-c90a-778c-bc07-8675a1fe67f4",
        "/api/v1/collections",
        "/api/v1/usage",
        "/v1/models",
        "/health",
        "/health/ready",
        "/metrics",
        "/ui/none.js",
        "/nowhere",
    ] {
        let response = app.get(path).send().await.unwrap();
        assert_eq!(header(&response, "cache-control"), "no-store", "{path}");
        assert!(!response.headers().contains_key("etag"), "{path}");
    }
    let found = app.search(json!({"query": "bicycle"})).await;
    assert_eq!(header(&found, "cache-control"), "no-store");
    let streamed = app.ask(json!({"question": "What does a bicycle cost?", "stream": true})).await;
    assert_eq!(header(&streamed, "cache-control"), "no-store");
}
