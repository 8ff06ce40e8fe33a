use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{TestApp, assets, catalog, cosine, embedder, floats, good, problem};
use ragway::{
    config::{EmbedderEntry, Precision},
    models::{Embedder, Lane, TextRole, candle::bert::BertEmbedder},
};

#[tokio::test]
async fn vectors_have_the_documented_shape() {
    let app = TestApp::start().await;
    for path in ["/api/v1/embed", "/api/v1/embed/text-embedding", "/embed/text-embedding"] {
        let texts = json!({"texts": ["When does the ferry leave?", "A bicycle costs 3 euros."]});
        let body = good(app.post(path).json(&texts).send().await.unwrap()).await;
        assert_eq!((&body["count"], &body["dimension"]), (&json!(2), &json!(384)), "{path}");
        assert_eq!(body["model"], "all-MiniLM-L6-v2");
        assert_eq!(body["space"], "all-MiniLM-L6-v2@53aa51172d14:mean:l2:fp32");
        assert!(body["elapsed_time"].as_f64().unwrap() > 0.0);
        let vector = floats(&body["embeddings"][0]);
        assert!((cosine(&vector, &vector) - 1.0).abs() < 1e-6);
        assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4, "not normalised");
    }
    let named = json!({"texts": ["a"], "model_name": "all-MiniLM-L6-v2"});
    good(app.post("/api/v1/embed").json(&named).send().await.unwrap()).await;
}

#[tokio::test]
async fn a_text_longer_than_the_model_reads_is_reported() {
    let app = TestApp::start().await;
    let long = "ferry ".repeat(400);
    let body = json!({"texts": ["short", long]});
    let body = good(app.post("/api/v1/embed").json(&body).send().await.unwrap()).await;
    assert_eq!(body["truncated"], json!([1]));
}

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong() {
    let app = TestApp::start().await;
    let send = async |path: &str, body: Value| app.post(path).json(&body).send().await.unwrap();
    let told = problem(send("/embed/audio", json!({"texts": ["a"]})).await, 400, "unknown_model").await;
    assert!(told["detail"].as_str().unwrap().starts_with("Unknown model type: audio"));
    let unknown = json!({"texts": ["a"], "model_name": "gpt"});
    problem(send("/api/v1/embed", unknown).await, 400, "unknown_model").await;
    problem(send("/api/v1/embed", json!({"texts": []})).await, 400, "invalid_request").await;
    let told =
        problem(send("/api/v1/embed", json!({"texts": ["a", " "]})).await, 400, "invalid_request").await;
    assert!(told["detail"].as_str().unwrap().contains("texts[1]"));
    let many = json!({"texts": vec!["a"; 2049]});
    let told = problem(send("/api/v1/embed", many).await, 400, "invalid_request").await;
    assert!(told["detail"].as_str().unwrap().contains("2048"));
}

/// Texts with the vectors of sentence-transformers; `tests/golden/make_minilm.py` makes them.
fn reference() -> Vec<(String, Vec<f32>)> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/minilm.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 20);
    cases.iter().map(|case| (case["text"].as_str().unwrap().to_owned(), floats(&case["vector"]))).collect()
}

#[tokio::test]
async fn vectors_equal_those_of_sentence_transformers() {
    let cases = reference();
    let texts = cases.iter().map(|(text, _)| text.clone()).collect();
    let embedded = embedder().await.embed(texts, TextRole::Passage, Lane::Interactive).await.unwrap();
    for ((text, expected), vector) in cases.iter().zip(&embedded.vectors) {
        let cosine = cosine(expected, vector);
        assert!(cosine > 0.999_99, "{cosine}: {text}");
    }
}

/// Against the same reference vectors.
#[tokio::test]
async fn shorter_precisions_stay_close_to_sentence_transformers() {
    let cases = reference();
    for (precision, space, least) in [(Precision::Bf16, ":bf16", 0.999_9), (Precision::Int8, ":int8", 0.99)] {
        let entry = EmbedderEntry { precision, ..catalog().embedders.remove(0) };
        let folder = assets().obtain(&entry.name, &entry.files, &entry.sources).await.unwrap();
        let embedder =
            tokio::task::spawn_blocking(move || BertEmbedder::load(&entry, &folder)).await.unwrap();
        let embedder = embedder.unwrap();
        assert!(embedder.space().id.ends_with(space), "{}", embedder.space().id);
        let texts = cases.iter().map(|(text, _)| text.clone()).collect();
        let embedded = embedder.embed(texts, TextRole::Passage, Lane::Bulk).await.unwrap();
        for ((text, expected), vector) in cases.iter().zip(&embedded.vectors) {
            let cosine = cosine(expected, vector);
            assert!(cosine > least, "{precision:?} {cosine}: {text}");
        }
    }
}

#[tokio::test]
async fn a_vector_does_not_depend_on_its_neighbours() {
    let embedder = embedder().await;
    let alone = embedder
        .embed(vec!["A bicycle costs 3 euros.".into()], TextRole::Passage, Lane::Interactive)
        .await
        .unwrap();
    let texts = vec!["ferry ".repeat(200), "A bicycle costs 3 euros.".into(), "x".into()];
    let together = embedder.embed(texts, TextRole::Passage, Lane::Interactive).await.unwrap();
    assert!(cosine(&alone.vectors[0], &together.vectors[1]) > 0.999_99);
}
