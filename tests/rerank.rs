//! Reranking: cross-encoders against transformers, other servers, and every protocol's shape.

use std::{collections::HashMap, path::Path, sync::Arc};

use candle_core::Tensor;
use ragway::{
    config::{RerankerEntry, RerankerKind},
    models::{
        Lane, ModelError, Reranker, Rerankers, candle::bert::cross_encoder::CrossEncoder,
        remote::RemoteReranker,
    },
};
use reqwest::Response;
use serde_json::{Value, json};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{body_partial_json, method, path},
};

use crate::{
    compat::openai_error,
    harness::{TestApp, good},
    multilingual::{golden, weight},
};

const QUERY: &str = "When does the last ferry leave the island?";
const TEXTS: [&str; 3] = [
    "A bicycle costs three euros and children travel free.",
    "The last ferry leaves the island at ten in the evening.",
    "?",
];

/// What `tests/golden/make_reranker.py` recorded.
fn recorded() -> Value {
    golden("reranker.json")
}

fn checkpoint<'a>(recorded: &'a Value, name: &str) -> &'a Value {
    recorded["checkpoints"].as_array().unwrap().iter().find(|made| made["name"] == name).unwrap()
}

/// A folder with a checkpoint's files as the hub names them.
fn folder_of(recorded: &Value, checkpoint: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let shapes: HashMap<String, Vec<usize>> = serde_json::from_value(checkpoint["tensors"].clone()).unwrap();
    let tensors: HashMap<String, Tensor> =
        shapes.into_iter().map(|(name, shape)| (name.clone(), weight(&name, &shape))).collect();
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
    std::fs::write(folder.path().join("config.json"), checkpoint["config"].to_string()).unwrap();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/multilingual/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(kept).unwrap()).unwrap();
    if checkpoint["name"] == "bert" {
        tokenizer["post_processor"] = pairs_with_types(&recorded["template"]["pair"]);
    }
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    folder
}

/// A template such as `<s>:0 $A:0 </s>:0 $B:1 </s>:1`, as tokenizer.json has it.
fn pairs_with_types(template: &Value) -> Value {
    let parts = template.as_str().unwrap().split(' ').map(|part| {
        let (what, kind) = part.rsplit_once(':').unwrap();
        let kind: u32 = kind.parse().unwrap();
        match what.strip_prefix('$') {
            Some(text) => json!({"Sequence": {"id": text, "type_id": kind}}),
            None => json!({"SpecialToken": {"id": what, "type_id": kind}}),
        }
    });
    let single = json!([
        {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
    ]);
    let special = |name: &str, id: u32| json!({"id": name, "ids": [id], "tokens": [name]});
    json!({
        "type": "TemplateProcessing", "single": single, "pair": parts.collect::<Value>(),
        "special_tokens": {"<s>": special("<s>", 0), "</s>": special("</s>", 2)},
    })
}

fn entry(name: &str, rest: &str) -> RerankerEntry {
    toml::from_str(&format!("name = \"{name}\"\n{rest}")).unwrap()
}

pub fn cross_encoder(name: &str) -> CrossEncoder {
    let recorded = recorded();
    let folder = folder_of(&recorded, checkpoint(&recorded, name));
    let entry = entry(name, &format!("kind = \"cross_encoder\"\nmax_tokens = {}", recorded["max_tokens"]));
    assert_eq!(entry.kind, RerankerKind::CrossEncoder);
    CrossEncoder::load(&entry, folder.path()).unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

#[tokio::test]
async fn cross_encoders_equal_transformers() {
    let recorded = recorded();
    for name in ["bert", "xlm-roberta"] {
        let model = cross_encoder(name);
        let pairs = checkpoint(&recorded, name)["pairs"].as_array().unwrap();
        let documents = texts(&recorded["texts"]);
        for (query, pairs) in ["query", "long_query"].iter().zip(pairs.chunks(documents.len())) {
            let query = recorded[query].as_str().unwrap().to_owned();
            let relevance = model.rerank(query, documents.clone(), Lane::Interactive).await.unwrap();
            for (index, pair) in pairs.iter().enumerate() {
                let off = f64::from(relevance.raw[index]) - pair["logit"].as_f64().unwrap();
                assert!(off.abs() < 2e-5, "{name} {index}: {off}");
                assert_eq!(relevance.truncated.contains(&index), pair["truncated"] == true, "{name} {index}");
            }
            let tokens: u64 = pairs.iter().map(|pair| pair["tokens"].as_u64().unwrap()).sum();
            assert_eq!(relevance.tokens as u64, tokens);
            for (score, raw) in relevance.scores.iter().zip(&relevance.raw) {
                assert!((score - 1.0 / (1.0 + (-raw).exp())).abs() < 1e-6);
            }
        }
    }
}

#[tokio::test]
async fn a_pairs_score_does_not_depend_on_its_neighbours() {
    let model = cross_encoder("bert");
    let all = TEXTS.map(str::to_owned).to_vec();
    let together = model.rerank(QUERY.into(), all.clone(), Lane::Interactive).await.unwrap();
    for (index, text) in all.into_iter().enumerate() {
        let alone = model.rerank(QUERY.into(), vec![text], Lane::Bulk).await.unwrap();
        assert!((alone.raw[0] - together.raw[index]).abs() < 1e-5);
    }
}

#[test]
fn weights_and_limits_that_do_not_fit_are_said() {
    let recorded = recorded();
    let folder = folder_of(&recorded, checkpoint(&recorded, "bert"));
    let load = |entry: &RerankerEntry| CrossEncoder::load(entry, folder.path()).err().unwrap().to_string();
    let error = load(&entry("small", "kind = \"cross_encoder\"\nmax_tokens = 49"));
    assert!(error.contains("models.toml says max_tokens 49, the model reads 48"), "{error}");
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let error = load(&entry("small", "kind = \"cross_encoder\"\nmax_tokens = 48"));
    assert!(error.contains("No such file"), "{error}");
}

/// ragway with the small cross-encoder as the route's reranker.
async fn app() -> TestApp {
    let model: Arc<dyn Reranker> = Arc::new(cross_encoder("bert"));
    let gone = ModelError::NotLoaded { model: "gone".into(), reason: "its weights are not here".into() };
    let entries = vec![("gone".to_owned(), Err(gone)), ("bert".to_owned(), Ok(model))];
    TestApp::with(|setup| {
        setup.rerankers = Rerankers::new(entries, vec!["gone".into(), "bert".into()]);
    })
    .await
}

async fn post(app: &TestApp, path: &str, body: Value) -> Response {
    app.post(path).json(&body).send().await.unwrap()
}

/// What the model itself says of [`TEXTS`].
async fn logits() -> Vec<f32> {
    let texts = TEXTS.map(str::to_owned).to_vec();
    cross_encoder("bert").rerank(QUERY.into(), texts, Lane::Interactive).await.unwrap().raw
}

#[tokio::test]
async fn every_protocol_ranks_alike() {
    let (app, logits) = (app().await, logits().await);
    let mut order = vec![0, 1, 2];
    order.sort_by(|&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]));
    let indices = |list: &Value| -> Vec<usize> {
        list.as_array().unwrap().iter().map(|item| item["index"].as_u64().unwrap() as usize).collect()
    };

    let body =
        json!({"query": QUERY, "texts": TEXTS, "truncate": true, "raw_scores": true, "return_text": true});
    let tei = good(post(&app, "/rerank", body).await).await;
    assert_eq!(indices(&tei), order);
    assert!((tei[0]["score"].as_f64().unwrap() as f32 - logits[order[0]]).abs() < 1e-5);
    assert_eq!(tei[0]["text"], TEXTS[order[0]]);

    let body = json!({"query": QUERY, "documents": TEXTS, "top_n": 2, "return_documents": true});
    let infinity = good(post(&app, "/rerank", body).await).await;
    assert_eq!((&infinity["object"], &infinity["model"]), (&json!("rerank"), &json!("bert")));
    assert_eq!(indices(&infinity["results"]), order[..2]);
    assert_eq!(infinity["results"][0]["document"], TEXTS[order[0]]);
    assert!(infinity["usage"]["total_tokens"].as_u64().unwrap() > 30);

    let body = json!({"query": QUERY, "documents": TEXTS, "model": "bert", "max_tokens_per_doc": 4096});
    let cohere = good(post(&app, "/v2/rerank", body).await).await;
    assert_eq!(indices(&cohere["results"]), order);
    let score = cohere["results"][0]["relevance_score"].as_f64().unwrap() as f32;
    assert!((score - 1.0 / (1.0 + (-logits[order[0]]).exp())).abs() < 1e-5);
    assert!(cohere["results"][0].get("document").is_none());
    assert!(cohere["meta"]["warnings"][0].as_str().unwrap().contains("only its beginning was read"));

    let documents = json!([{"text": TEXTS[0], "title": "Fares"}, TEXTS[1], {"text": TEXTS[2]}]);
    let body = json!({"query": QUERY, "documents": documents, "return_documents": true, "top_n": 1});
    let first = good(post(&app, "/v1/rerank", body).await).await;
    assert_eq!(first["results"][0]["document"]["text"], TEXTS[order[0]]);
    assert_eq!(first["results"].as_array().unwrap().len(), 1);

    let usage = good(app.get("/api/v1/usage?group_by=backend").send().await.unwrap()).await;
    assert!(usage.to_string().contains("\"bert\""), "{usage}");
    app.stop().await;
}

#[tokio::test]
async fn bad_requests_are_refused_in_each_protocols_shape() {
    let app = app().await;
    for (body, status, said) in [
        (json!({"query": " ", "documents": ["a"]}), 400, "query: is empty"),
        (json!({"query": "q", "documents": []}), 400, "documents: give at least one text"),
        (json!({"query": "q", "documents": ["a", " "]}), 400, "documents[1]: is empty"),
        (json!({"query": "q", "documents": ["a"], "model": "rerank-v3.5"}), 404, "Known: bert"),
        (json!({"query": "q", "documents": [{"title": "no text"}]}), 400, "an object with `text`"),
        (json!({"query": "q", "documents": ["a"], "model": "gone"}), 503, "its weights are not here"),
        (json!({"query": "q", "documents": vec!["a"; 2049]}), 400, "2049 texts in one request"),
    ] {
        let response = post(&app, "/v2/rerank", body).await;
        let got = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        assert_eq!(got, status, "{body}");
        assert!(body["message"].as_str().unwrap().contains(said), "{body}");
    }
    let long = json!({"query": "q", "texts": ["a", "The ferry leaves and leaves. ".repeat(20)]});
    for (body, status, said) in [
        (json!({"query": "q", "texts": []}), 400, "`texts` is empty"),
        (json!({"query": "q"}), 422, "give `query` and `texts` (TEI)"),
        (long, 422, "texts[1]: is with the query longer than bert reads"),
    ] {
        let response = post(&app, "/rerank", body).await;
        let got = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        assert_eq!(got, status, "{body}");
        assert!(body["error"].as_str().unwrap().contains(said), "{body}");
    }
    let body = json!({"query": "q", "documents": ["a"], "model": "x"});
    let message =
        openai_error(post(&app, "/rerank", body).await, 404, "model_not_found", json!("model")).await;
    assert!(message.contains("Known: bert"), "{message}");
    app.stop().await;
}

#[tokio::test]
async fn without_a_reranker_the_answer_says_what_to_do() {
    let app = TestApp::start().await;
    let response = post(&app, "/v2/rerank", json!({"query": "q", "documents": ["a"]})).await;
    assert_eq!(response.status(), 503);
    let body: Value = response.json().await.unwrap();
    assert!(body["message"].as_str().unwrap().contains("[routes.rerank]"), "{body}");
    app.stop().await;
}

pub fn remote(server: &MockServer, api: &str, batch: usize) -> RemoteReranker {
    let rest = format!(
        "kind = \"remote\"\n[remote]\napi = \"{api}\"\nbase_url = \"{}\"\nmodel = \"m\"\nbatch = {batch}",
        server.uri()
    );
    RemoteReranker::new(&entry("elsewhere", &rest)).unwrap()
}

#[tokio::test]
async fn servers_of_both_kinds_are_asked_in_batches() {
    let server = MockServer::start().await;
    let answer = |scores: [(usize, f64); 2]| {
        scores
            .map(|(index, score)| json!({"index": index, "score": score, "relevance_score": score}))
            .to_vec()
    };
    let first = body_partial_json(json!({"query": "q", "texts": ["a", "b"], "raw_scores": true}));
    let second = body_partial_json(json!({"query": "q", "texts": ["c"], "truncate": true}));
    Mock::given(method("POST"))
        .and(path("/rerank"))
        .and(first)
        .respond_with(ResponseTemplate::new(200).set_body_json(answer([(1, 2.0), (0, -1.0)])))
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .and(path("/rerank"))
        .and(second)
        .respond_with(ResponseTemplate::new(200).set_body_json(json!([{"index": 0, "score": 0.0}])))
        .mount(&server)
        .await;
    let documents = body_partial_json(json!({"model": "m", "documents": ["a", "b"], "top_n": 2}));
    let results = json!({"results": answer([(1, 0.9), (0, 0.1)]), "usage": {"total_tokens": 7}});
    Mock::given(method("POST"))
        .and(path("/rerank"))
        .and(documents)
        .respond_with(ResponseTemplate::new(200).set_body_json(results))
        .mount(&server)
        .await;

    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let tei = remote(&server, "tei", 2);
    let relevance = tei.rerank("q".into(), texts(&["a", "b", "c"]), Lane::Interactive).await.unwrap();
    assert_eq!(relevance.raw, [-1.0, 2.0, 0.0]);
    assert!((relevance.scores[2] - 0.5).abs() < 1e-6);
    let cohere = remote(&server, "cohere", 32);
    let relevance = cohere.rerank("q".into(), texts(&["a", "b"]), Lane::Interactive).await.unwrap();
    assert_eq!((relevance.scores.as_slice(), relevance.tokens), (&[0.1, 0.9][..], 7));
}

#[tokio::test]
async fn answers_of_servers_are_checked_before_they_are_believed() {
    for (body, said) in [
        (json!([{"index": 0, "score": 1.0}]), "lacks the score of a text"),
        (json!([{"index": 0, "score": 1.0}, {"index": 2, "score": 1.0}]), "names a text that was not sent"),
        (json!([{"index": 0, "score": "x"}]), "holds no scores"),
        (json!({"data": []}), "holds no results"),
    ] {
        let server = MockServer::start().await;
        let response = ResponseTemplate::new(200).set_body_json(body);
        Mock::given(method("POST")).respond_with(response).mount(&server).await;
        let texts = vec!["a".to_owned(), "b".to_owned()];
        let error =
            remote(&server, "tei", 32).rerank("q".into(), texts, Lane::Interactive).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn vector_stores_are_collections() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    let body =
        json!({"query": ["first ferry", "in the morning"], "max_num_results": 2, "rewrite_query": true});
    let page = good(post(&app, "/v1/vector_stores/default/search", body).await).await;
    assert_eq!(page["object"], "vector_store.search_results.page");
    assert_eq!(page["search_query"], json!(["first ferry", "in the morning"]));
    let first = &page["data"][0];
    assert!(first["score"].as_f64().unwrap() > 0.3, "{page}");
    assert_eq!(first["content"][0]["type"], "text");
    assert!(first["file_id"].is_string() && first["filename"].is_string() && first["attributes"].is_object());
    assert_eq!((&page["has_more"], &page["next_page"]), (&json!(false), &Value::Null));

    let threshold =
        json!({"query": "ferry", "ranking_options": {"ranker": "auto", "score_threshold": 0.999}});
    let page = good(post(&app, "/v1/vector_stores/default/search", threshold).await).await;
    assert_eq!(page["data"], json!([]));
    let many = json!({"query": "ferry", "max_num_results": 51});
    let refused = post(&app, "/v1/vector_stores/default/search", many).await;
    openai_error(refused, 400, "invalid_request", json!("max_num_results")).await;
    let absent = post(&app, "/v1/vector_stores/nowhere/search", json!({"query": "ferry"})).await;
    assert_eq!(absent.status(), 404);
    app.stop().await;
}
