//! Every endpoint of the published document, and the paths that lead around it.

use ragway::{access::Permission, http::openapi::document_json};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{SECRET, by_secret, claims, start, tokens::hs256};
use crate::{
    harness::{TestApp, good, problem},
    mcp::{calling, post},
};

struct Endpoint {
    method: Method,
    path: String,
    /// Absent: open.
    roles: Option<Vec<String>>,
}

/// What the document says.
fn endpoints() -> Vec<Endpoint> {
    let document: Value = serde_json::from_str(&document_json().unwrap()).unwrap();
    let mut endpoints = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let requirements = operation["security"].as_array().unwrap_or_else(|| panic!("{method} {path}"));
            let roles = requirements.iter().filter_map(|one| one["bearerAuth"].as_array()).flatten();
            endpoints.push(Endpoint {
                method: method.to_uppercase().parse().unwrap(),
                path: path.replace("{model_type}", "text-embedding").replace(['{', '}'], ""),
                roles: (!requirements.is_empty())
                    .then(|| roles.map(|role| role.as_str().unwrap().to_owned()).collect()),
            });
        }
    }
    assert!(endpoints.len() > 40);
    endpoints
}

async fn call(app: &TestApp, endpoint: &Endpoint, permissions: Option<&[&str]>) -> Response {
    let request = app.client.request(endpoint.method.clone(), format!("{}{}", app.url, endpoint.path));
    let request = match permissions {
        Some(permissions) => request.bearer_auth(hs256(SECRET, &claims(json!({"permissions": permissions})))),
        None => request,
    };
    // A body that no endpoint takes: what is refused is refused before it is read.
    request.body("not JSON").send().await.unwrap()
}

#[tokio::test]
async fn every_endpoint_wants_what_the_document_says() {
    let app = start(by_secret()).await;
    let all = Permission::ALL.map(Permission::name);
    for endpoint in endpoints() {
        let name = format!("{} {}", endpoint.method, endpoint.path);
        let nobody = call(&app, &endpoint, None).await;
        let Some(roles) = &endpoint.roles else {
            assert!(nobody.status().is_success(), "{name}: {}", nobody.status());
            continue;
        };
        assert_eq!(nobody.status(), 401, "{name}");
        assert_eq!(nobody.headers()["www-authenticate"], "Bearer realm=\"ragway\"", "{name}");
        let others: Vec<&str> =
            all.into_iter().filter(|name| !roles.iter().any(|role| role == name)).collect();
        let other = call(&app, &endpoint, Some(&others)).await;
        assert_eq!(other.status() == 403, !roles.is_empty(), "{name} with {others:?}: {}", other.status());
        for role in roles {
            let enough = call(&app, &endpoint, Some(&[role])).await;
            assert!(
                ![401, 403].contains(&enough.status().as_u16()),
                "{name} with {role}: {}",
                enough.status()
            );
        }
    }
}

#[tokio::test]
async fn refusals_have_the_shape_of_the_protocol() {
    let app = start(by_secret()).await;
    let told = async |path: &str, token: Option<&str>| {
        let request = app.post(path).json(&json!({}));
        let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
        let response = request.send().await.unwrap();
        assert!(response.headers().contains_key("www-authenticate"), "{path}");
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let admin = hs256(SECRET, &claims(json!({"permissions": ["admin"]})));
    for path in ["/v1/embeddings", "/embeddings", "/v1/chat/completions", "/v1/vector_stores/x/search"] {
        let (status, body) = told(path, None).await;
        assert_eq!(status, 401, "{path}");
        assert_eq!(body["error"]["code"], "invalid_api_key", "{path}: {body}");
        assert_eq!(body["error"]["type"], "invalid_request_error", "{path}: {body}");
        assert!(body["error"].as_object().unwrap().contains_key("param"), "{path}: {body}");
        let (status, body) = told(path, Some(&admin)).await;
        assert_eq!((status, &body["error"]["code"]), (403, &json!("missing_permission")), "{path}: {body}");
    }
    for path in ["/embed", "/similarity", "/tokenize", "/", "/rerank"] {
        let (status, body) = told(path, None).await;
        assert_eq!((status, &body["error_type"]), (401, &json!("Validation")), "{path}: {body}");
        assert!(body["error"].is_string());
        assert_eq!(told(path, Some(&admin)).await.0, 403, "{path}");
    }
    for path in ["/v1/rerank", "/v2/rerank"] {
        let (status, body) = told(path, Some("rubbish")).await;
        assert_eq!(status, 401, "{path}: {body}");
        assert!(body["message"].is_string() && body["id"].is_string(), "{path}: {body}");
        assert_eq!(told(path, Some(&admin)).await.0, 403, "{path}");
    }
    let (status, body) = told("/mcp", None).await;
    assert_eq!((status, &body["error"]["data"]["code"]), (401, &json!("no_credentials")), "{body}");
    assert_eq!((&body["jsonrpc"], &body["id"]), (&json!("2.0"), &Value::Null));
    let (status, body) = told("/mcp", Some(&admin)).await;
    assert_eq!((status, &body["error"]["data"]["code"]), (403, &json!("missing_permission")), "{body}");
    let refused = app.post("/api/v1/search").bearer_auth(&admin).json(&json!({})).send().await.unwrap();
    assert!(refused.headers()["www-authenticate"].to_str().unwrap().contains("insufficient_scope"));
    let told = problem(refused, 403, "missing_permission").await;
    assert_eq!(told["detail"], "this needs the permission `search`; the key or token has: admin");
}

#[tokio::test]
async fn a_tool_needs_its_own_permission() {
    let app = start(by_secret()).await;
    let called = async |tool: &str, arguments: Value, permission: &str| {
        let token = hs256(SECRET, &claims(json!({"permissions": [permission]})));
        let response = post(&app, &calling(tool, &arguments)).bearer_auth(token).send().await.unwrap();
        good(response).await["result"].clone()
    };
    let may = async |tool: &str, arguments: &Value, permission: &str| {
        let result = called(tool, arguments.clone(), permission).await;
        let refused = result.to_string().contains("missing_permission");
        assert_eq!(result["isError"], refused, "{result}");
        !refused
    };
    let (question, query) = (json!({"question": "What?"}), json!({"query": "x"}));
    assert!(may("ask", &question, "ask").await && !may("ask", &question, "search").await);
    assert!(may("search", &query, "search").await && !may("search", &query, "ask").await);
    assert!(may("list_collections", &json!({}), "search").await);
    assert!(!may("list_collections", &json!({}), "ask").await);
}

/// The status of a request that no client library would send.
async fn raw(app: &TestApp, request: &str) -> u16 {
    let mut stream = TcpStream::connect(app.url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A server that refuses may close at once.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("{request}: {answer}"))
}

#[tokio::test]
async fn no_way_of_writing_a_path_leads_around_the_check() {
    let app = start(by_secret()).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert_eq!(raw(&app, &get("/health/live")).await, 200);
    for path in [
        "/api/v1/collections",
        "/api/v1/%63ollections",
        "/%61pi/v1/collections",
        "/api/v1/collections?x=/health",
        "//api/v1/collections",
        "/api//v1/collections",
        "/api/v1/collections/",
        "/api/v1/./collections",
        "/health/../api/v1/collections",
        "/health/%2e%2e/api/v1/collections",
        "/health%2f..%2fapi/v1/collections",
        "/docs/../api/v1/collections",
        "/docs%2f..%2f..%2fapi/v1/collections",
        "/API/v1/collections",
        "/api/v1/collections%00",
        "/api/v1/collections;x=/health",
        "/api\\v1\\collections",
        "http://localhost/api/v1/collections",
    ] {
        // Under `/docs/` nothing but the files of the page can be found.
        let status = raw(&app, &get(path)).await;
        let nothing = if path.starts_with("/docs/") { 404 } else { 401 };
        assert!([nothing, 400].contains(&status), "{path}: {status}");
    }
    let usage = "/api/v1/usage";
    for method in ["HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "get", "QUERY"] {
        let request = format!("{method} {usage} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        assert_eq!(raw(&app, &request).await, 401, "{method}");
    }
    let token = hs256(SECRET, &claims(json!({"permissions": ["admin"]})));
    for header in [
        format!("authorization: Bearer {token}\r\nauthorization: Bearer x"),
        format!("authorization: Bearer x\r\nx-api-key: {token}"),
        format!("authorization : Bearer {token}"),
        format!("x-authorization: Bearer {token}"),
        format!("cookie: authorization=Bearer {token}"),
        format!("authorization: Bearer\u{a0}{token}"),
    ] {
        let request =
            format!("GET {usage} HTTP/1.1\r\nhost: localhost\r\n{header}\r\nconnection: close\r\n\r\n");
        let status = raw(&app, &request).await;
        assert!([400, 401].contains(&status), "{header}: {status}");
    }
    let good = format!(
        "GET {usage} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(raw(&app, &good).await, 200);
}

#[tokio::test]
async fn what_is_not_there_is_told_to_those_who_may_come_in() {
    let app = start(by_secret()).await;
    let token = hs256(SECRET, &claims(json!({})));
    problem(app.get("/nowhere").send().await.unwrap(), 401, "no_credentials").await;
    problem(app.get("/nowhere").bearer_auth(&token).send().await.unwrap(), 404, "not_found").await;
    let wrong = app.get("/api/v1/search").bearer_auth(&token).send().await.unwrap();
    problem(wrong, 405, "method_not_allowed").await;
}

#[tokio::test]
async fn pages_of_allowed_origins_can_ask_and_read_why_not() {
    let app = TestApp::with(|setup| {
        setup.auth = Some(by_secret());
        setup.catalog.http.cors.origins = vec!["https://app.example".into()];
    })
    .await;
    let url = format!("{}/api/v1/search", app.url);
    let preflight = app.client.request(Method::OPTIONS, url).header("origin", "https://app.example");
    let preflight = preflight
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization, x-api-key");
    assert_eq!(preflight.send().await.unwrap().status(), 200);
    let refused = app.post("/api/v1/search").header("origin", "https://app.example").send().await.unwrap();
    assert_eq!(refused.headers()["access-control-allow-origin"], "https://app.example");
    problem(refused, 401, "no_credentials").await;
}

#[tokio::test]
async fn where_nobody_is_asked_keys_of_clients_do_no_harm() {
    let app = TestApp::start().await;
    let request = app.get("/v1/models").bearer_auth("sk-dummy").header("x-api-key", "dummy");
    good(request.send().await.unwrap()).await;
}
