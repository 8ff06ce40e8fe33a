use std::path::Path;

use serde_json::Value;

use crate::harness::TestApp;
use ragway::http::openapi::document_json;

/// `cargo run -- openapi > openapi/ragway.json` publishes it anew.
#[tokio::test]
async fn the_published_document_is_the_served_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/ragway.json");
    let published = std::fs::read_to_string(path).unwrap();
    let current = document_json().unwrap();
    assert!(published == current, "the API changed: run `cargo run -- openapi > openapi/ragway.json`");
    let app = TestApp::start().await;
    let served: Value = app.get("/openapi.json").send().await.unwrap().json().await.unwrap();
    assert_eq!(served, serde_json::from_str::<Value>(&published).unwrap());
}

#[test]
fn a_token_may_be_sent_but_need_not() {
    let document: Value = serde_json::from_str(&document_json().unwrap()).unwrap();
    let scheme = &document["components"]["securitySchemes"]["bearerAuth"];
    assert_eq!((&scheme["type"], &scheme["scheme"]), (&"http".into(), &"bearer".into()));
    let security = |path: &str, method: &str| document["paths"][path][method]["security"].clone();
    let one_of = |roles: &[&str]| {
        let roles = roles.iter().map(|role| serde_json::json!({"bearerAuth": [role]}));
        Value::Array([serde_json::json!({})].into_iter().chain(roles).collect())
    };
    assert_eq!(security("/api/v1/search", "post"), one_of(&["search"]));
    assert_eq!(security("/api/v1/tasks/{task_id}", "get"), one_of(&["embedding", "ingest", "admin"]));
    assert_eq!(security("/v1/models", "get"), serde_json::json!([{}, {"bearerAuth": []}]));
    assert_eq!(security("/health", "get"), serde_json::json!([]));
}

#[test]
fn every_operation_is_described_with_its_errors() {
    let document: Value = serde_json::from_str(&document_json().unwrap()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations += 1;
            let name = format!("{method} {path}");
            assert!(operation["summary"].is_string() && operation["description"].is_string(), "{name}");
            let errors =
                operation["responses"].as_object().unwrap().keys().filter(|code| *code >= &"400".to_owned());
            let plain = ["/health/live", "/metrics", "/version"].contains(&path.as_str());
            assert!(plain || errors.count() > 0, "{name} names no error");
            if let Some(reference) =
                operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str()
            {
                let mut schema = schemas[reference.rsplit('/').next().unwrap()].to_string();
                for (other, inner) in schemas {
                    if schema.contains(&format!("schemas/{other}\"")) {
                        schema.push_str(&inner.to_string());
                    }
                }
                assert!(schema.contains("example"), "{name} has no example");
            }
        }
    }
    assert!(operations >= 18, "{operations}");
}
