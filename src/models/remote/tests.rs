use serde_json::json;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{body_partial_json, header, method, path},
};

use std::time::Duration;

use super::*;
use crate::config::{BUILT_IN, Catalog};

/// The built-in catalog with one remote entry more, as models.toml would have it.
fn embedder(server: &MockServer, api: &str, more: &str) -> RemoteEmbedder {
    let text = format!(
        "{BUILT_IN}\n[[embedder]]\nname = \"far\"\nkind = \"remote\"\ndimension = 2\nmax_tokens = 64\n\
         min_similarity = 0.3\nanswer_cut = 0.6\nprefixes = {{ query = \"query: \" }}\n\
         [embedder.remote]\napi = \"{api}\"\nbase_url = \"{}/\"\nmodel = \"m\"\n{more}\n",
        server.uri()
    );
    let catalog = Catalog::parse(&text, "models.toml").unwrap();
    let entry = catalog.embedder("far").unwrap();
    RemoteEmbedder::new(entry, catalog.space_of(entry)).unwrap()
}

async fn embed(embedder: &RemoteEmbedder, texts: &[&str]) -> Result<Embeddings, ModelError> {
    let texts = texts.iter().map(ToString::to_string).collect();
    embedder.embed(texts, TextRole::Query, Lane::Interactive).await
}

#[tokio::test]
async fn openai_batches_keep_their_order_and_come_back_normalised() {
    let server = MockServer::start().await;
    for (input, vectors) in [
        // The server may answer in any order: `index` counts.
        (
            json!(["query: a", "query: b"]),
            json!([{"index": 1, "embedding": [0.0, 2.0]}, {"index": 0, "embedding": [3.0, 4.0]}]),
        ),
        (json!(["query: c"]), json!([{"index": 0, "embedding": [1.0, 0.0]}])),
    ] {
        Mock::given(method("POST"))
            .and(path("/embeddings"))
            .and(body_partial_json(json!({"model": "m", "input": input, "encoding_format": "float"})))
            .respond_with(ResponseTemplate::new(200).set_body_json(
                json!({"object": "list", "data": vectors, "usage": {"prompt_tokens": 5, "total_tokens": 5}}),
            ))
            .expect(1)
            .mount(&server)
            .await;
    }
    let embedded = embed(&embedder(&server, "openai", "batch = 2"), &["a", "b", "c"]).await.unwrap();
    assert_eq!(embedded.vectors, [[0.6, 0.8], [0.0, 1.0], [1.0, 0.0]]);
    assert_eq!(embedded.tokens, [2, 3, 5]);
}

#[tokio::test]
async fn tei_is_asked_not_to_cut() {
    let server = MockServer::start().await;
    Mock::given(path("/embed"))
        .and(body_partial_json(json!({"inputs": ["query: a"], "truncate": false})))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!([[0.0, 1.0]])))
        .expect(1)
        .mount(&server)
        .await;
    assert_eq!(embed(&embedder(&server, "tei", ""), &["a"]).await.unwrap().vectors, [[0.0, 1.0]]);

    let server = MockServer::start().await;
    let said = json!({"error": "Input validation error: `inputs` must have less than 512 tokens. Given: 800", "error_type": "Validation"});
    Mock::given(path("/embed"))
        .respond_with(ResponseTemplate::new(422).set_body_json(said))
        .expect(1)
        .mount(&server)
        .await;
    let error = embed(&embedder(&server, "tei", ""), &["a"]).await.unwrap_err();
    assert!(matches!(error, ModelError::Unfit { .. }) && error.to_string().contains("512 tokens"), "{error}");
}

#[tokio::test]
async fn an_outage_is_ridden_out_and_the_key_is_sent() {
    // A variable that is always there: a test cannot set one while others run.
    let variable = "PATH";
    let key = std::env::var(variable).unwrap();
    let server = MockServer::start().await;
    Mock::given(header("authorization", format!("Bearer {key}")))
        .respond_with(ResponseTemplate::new(503))
        .up_to_n_times(2)
        .mount(&server)
        .await;
    Mock::given(header("authorization", format!("Bearer {key}")))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!([[0.0, 1.0]])))
        .expect(1)
        .mount(&server)
        .await;
    let far = embedder(&server, "tei", &format!("api_key_env = \"{variable}\""));
    embed(&far, &["a"]).await.unwrap();
}

#[tokio::test]
async fn refusals_are_not_repeated() {
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(401)).expect(1).mount(&server).await;
    let error = embed(&embedder(&server, "openai", ""), &["a"]).await.unwrap_err();
    assert!(error.to_string().contains("refuses the key"), "{error}");
}

#[tokio::test]
async fn what_comes_back_is_checked() {
    for (body, told) in [
        (json!([[0.0, 1.0, 2.0]]), "3 dimensions, models.toml says 2"),
        (json!([[0.0, 1.0], [0.0, 1.0]]), "1 texts with 2 vectors"),
        (json!([[0.0, 1e60]]), "not finite"),
        (json!({"hello": "world"}), "holds no vectors"),
    ] {
        let server = MockServer::start().await;
        Mock::given(method("POST"))
            .respond_with(ResponseTemplate::new(200).set_body_json(body))
            .mount(&server)
            .await;
        let error = embed(&embedder(&server, "tei", "timeout_ms = 900"), &["a"]).await.unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
}

#[tokio::test]
async fn a_silent_server_costs_the_time_limit_and_no_more() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(200).set_delay(Duration::from_secs(20)))
        .mount(&server)
        .await;
    let error = embed(&embedder(&server, "tei", "timeout_ms = 100"), &["a"]).await.unwrap_err();
    assert!(matches!(error, ModelError::TimedOut { .. }), "{error}");
}
