//! What clients send by mistake or out of malice, through every route that embeds: a correct vector
//! or a clear refusal.

use ragway::models::{Lane, TextRole};
use reqwest::Response;
use serde_json::{Value, json};

use crate::harness::{TestApp, cosine, embedder, floats, good};

/// A route that embeds, in the words of its protocol.
struct Route {
    path: &'static str,
    /// The body's field that holds the texts.
    field: &'static str,
    /// Whether a text that is too long is cut unless the request says otherwise.
    cuts: bool,
}

const ROUTES: [Route; 8] = [
    Route { path: "/api/v1/embed", field: "texts", cuts: true },
    Route { path: "/api/v1/embed/batch", field: "texts", cuts: true },
    Route { path: "/api/v1/embed/cached", field: "texts", cuts: true },
    Route { path: "/api/v1/embed/text-embedding", field: "texts", cuts: true },
    Route { path: "/embed/text-embedding", field: "texts", cuts: true },
    Route { path: "/v1/embeddings", field: "input", cuts: true },
    Route { path: "/embeddings", field: "input", cuts: true },
    Route { path: "/embed", field: "inputs", cuts: false },
];

impl Route {
    fn body(&self, texts: &[&str]) -> Value {
        let mut body = json!({self.field: texts});
        if self.field == "input" {
            body["model"] = json!("all-MiniLM-L6-v2");
        }
        body
    }

    async fn send(&self, app: &TestApp, texts: &[&str]) -> Response {
        app.post(self.path).json(&self.body(texts)).send().await.unwrap()
    }

    async fn vectors(&self, app: &TestApp, texts: &[&str]) -> Vec<Vec<f32>> {
        let body = good(self.send(app, texts).await).await;
        match self.field {
            "texts" => body["embeddings"].as_array().unwrap().iter().map(floats).collect(),
            "input" => {
                body["data"].as_array().unwrap().iter().map(|item| floats(&item["embedding"])).collect()
            }
            _ => body.as_array().unwrap().iter().map(floats).collect(),
        }
    }

    /// Asserts that `response` is a refusal of the client's own making that says more than a word.
    async fn refused(&self, response: Response) {
        let status = response.status().as_u16();
        let told = response.text().await.unwrap();
        assert!((400..=422).contains(&status), "{}: {status} {told}", self.path);
        assert!(serde_json::from_str::<Value>(&told).is_ok() && told.len() > 40, "{}: {told}", self.path);
    }
}

#[tokio::test]
async fn unusual_texts_have_the_vectors_that_the_model_gives_them() {
    let app = TestApp::start().await;
    let texts = [
        "a",
        "before\u{0}after",
        "متى تغادر العبّارة الأولى؟",
        "מתי יוצאת המעבורת הראשונה?",
        "最初のフェリーは何時に出発しますか。",
        "첫 번째 페리는 언제 출발하나요? 🛳️\u{200d}\u{202e}",
    ];
    let owned = texts.map(str::to_owned).to_vec();
    let expected = embedder().await.embed(owned, TextRole::Passage, Lane::Interactive).await.unwrap();
    for route in ROUTES {
        let vectors = route.vectors(&app, &texts).await;
        assert_eq!(vectors.len(), texts.len(), "{}", route.path);
        for ((vector, expected), text) in vectors.iter().zip(&expected.vectors).zip(texts) {
            assert!(cosine(vector, expected) > 0.999_99, "{}: {text:?}", route.path);
        }
    }
}

#[tokio::test]
async fn a_text_of_100_000_characters_is_cut_and_said_so_or_refused() {
    let app = TestApp::start().await;
    let long = "ferries ".repeat(12_500);
    let beginning = "ferries ".repeat(300);
    for route in ROUTES {
        if !route.cuts {
            route.refused(route.send(&app, &["a", &long]).await).await;
            continue;
        }
        let body = good(route.send(&app, &["a", &long]).await).await;
        if route.path != "/embeddings" {
            // Infinity's answer has no place for it.
            assert_eq!(body["truncated"], json!([1]), "{}", route.path);
        }
        let vectors = route.vectors(&app, &[&long, &beginning]).await;
        assert!(cosine(&vectors[0], &vectors[1]) > 0.999_99, "{}", route.path);
        if route.field == "texts" {
            let mut body = route.body(&[&long]);
            body["truncate"] = json!(false);
            route.refused(app.post(route.path).json(&body).send().await.unwrap()).await;
        }
    }
}

#[tokio::test]
async fn as_many_texts_as_are_allowed_and_one_more() {
    // Bulk work comes last, and a busy machine is no fault.
    let app = TestApp::with(|setup| setup.catalog.http.request_timeout_ms = 600_000).await;
    let texts = ["a"; 2049];
    for route in ROUTES {
        let vectors = route.vectors(&app, &texts[..2048]).await;
        assert_eq!(vectors.len(), 2048, "{}", route.path);
        assert!(cosine(&vectors[0], &vectors[2047]) > 0.999_99, "{}", route.path);
        route.refused(route.send(&app, &texts).await).await;
    }
}

#[tokio::test]
async fn what_is_no_text_is_refused() {
    let app = TestApp::start().await;
    for route in ROUTES.iter().chain(&[Route { path: "/api/v1/embed/async", field: "texts", cuts: true }]) {
        for empty in ["", " \t\n"] {
            route.refused(route.send(&app, &["a", empty]).await).await;
        }
        route.refused(route.send(&app, &[]).await).await;
        let [before, after] = [&b"{\"model\":\"all-MiniLM-L6-v2\",\""[..], &b"\":[\"caf\xe9\"]}"[..]];
        let latin1 = [before, route.field.as_bytes(), after].concat();
        let request = app.post(route.path).header("content-type", "application/json").body(latin1);
        route.refused(request.send().await.unwrap()).await;
    }
}

/// PostgreSQL takes NUL in no text. What is asked to be stored or looked for with it is the client's mistake.
#[tokio::test]
async fn nul_in_any_name_or_text_is_told_and_never_a_fault_of_ours() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    let nul = "a\u{0}b";
    let document = |field: &str, value: Value| {
        let mut document = json!({"content": "The ferry leaves at noon."});
        document[field] = value;
        document
    };
    let collection = "/api/v1/collections/a%00b";
    let requests = [
        app.get(collection),
        app.delete(collection),
        app.get(&format!("{collection}/reembed")),
        app.delete(&format!("{collection}/reembed")),
        app.post(&format!("{collection}/reembed/finish")),
        app.post(&format!("{collection}/reembed")).json(&json!({"model": "all-MiniLM-L6-v2"})),
        app.post("/api/v1/collections").json(&json!({"name": nul})),
        app.get("/api/v1/documents?collection=a%00b"),
        app.get("/api/v1/documents/a%00b"),
        app.get("/api/v1/tasks/a%00b"),
        app.get("/api/v1/usage?tenant=a%00b"),
        app.post("/embed/a%00b").json(&json!({"texts": ["a"]})),
        app.post("/api/v1/embed/async").json(&json!({"texts": ["a"], "model": nul})),
        app.post("/v1/vector_stores/a%00b/search").json(&json!({"query": "a"})),
        app.post("/v1/vector_stores/default/search").json(&json!({"query": nul})),
        app.post("/api/v1/search").json(&json!({"query": "a", "collection": nul})),
        app.post("/api/v1/search").json(&json!({"query": "a", "filter": {"a": nul}})),
        app.post("/api/v1/search").json(&json!({"query": "a", "filter": {nul: "a"}})),
        app.post("/api/v1/ask").json(&json!({"question": nul})),
        app.post("/api/v1/ask").json(&json!({"question": "a", "collection": nul})),
        app.post("/v1/chat/completions")
            .json(&json!({"model": "ragway", "messages": [{"role": "user", "content": nul}]})),
        app.post("/api/v1/documents").json(&json!({"collection": nul, "content": "a"})),
        app.post("/api/v1/documents").json(&document("external_id", json!(nul))),
        app.post("/api/v1/documents").json(&document("title", json!(nul))),
        app.post("/api/v1/documents").json(&document("source", json!(nul))),
        app.post("/api/v1/documents").json(&document("content", json!(nul))),
        app.post("/api/v1/documents").json(&document("metadata", json!({"a": nul}))),
        app.post("/api/v1/documents").json(&document("metadata", json!({nul: "a"}))),
        app.post("/api/v1/documents").json(&document("metadata", json!({"a": [{"b": nul}]}))),
        app.post("/api/v1/documents/async").json(&json!({"documents": [document("content", json!(nul))]})),
        app.post("/api/v1/documents/async")
            .json(&json!({"documents": [document("metadata", json!({nul: 1}))]})),
        app.post("/api/v1/documents/async")
            .json(&json!({"documents": [document("external_id", json!(nul))], "collection": nul})),
        app.post("/api/v1/feedback").json(&json!({"answer_id": nul, "rating": "up"})),
    ];
    for request in requests {
        let sent = request.try_clone().unwrap().build().unwrap();
        let what = format!("{} {}", sent.method(), sent.url());
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let told = response.text().await.unwrap();
        assert!((400..=422).contains(&status), "{what}: {status} {told}");
        assert!(told.len() > 40 && !told.contains("internal"), "{what}: {told}");
    }
    // The connections are as good as before.
    let found = good(app.search(json!({"query": "bicycle", "threshold": -1.0})).await).await;
    assert_ne!(found["count"], 0);
}
