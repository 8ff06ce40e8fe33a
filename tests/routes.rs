//! Model types: chosen once, loaded when needed, missing without harm to the others.

use std::sync::Arc;

use ragway::{
    app::embedders_on_demand,
    config::{BUILT_IN, Catalog, PoolSettings},
    models::{Lane, ModelError, TextRole},
    store::{RouteChoice, Store},
};
use serde_json::json;
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::path};

use crate::harness::{TestApp, embedder, fresh_database, good, offline_assets, problem};

fn pool() -> PoolSettings {
    PoolSettings { min_connections: 1, ..PoolSettings::default() }
}

#[tokio::test]
async fn the_first_choice_is_recorded_and_holds_for_the_second_replica() {
    let (url, _) = fresh_database().await;
    let store = Store::connect(&url, &pool()).await.unwrap();
    assert_eq!(store.route_choice("multilingual").await.unwrap(), None);
    let choice = |model: &str| RouteChoice { model: model.into(), space: format!("{model}@1") };
    let candidates = ["a".to_owned(), "b".to_owned()];
    let (a, b) = (choice("a"), choice("b"));
    let (one, two) = tokio::join!(
        store.record_route("multilingual", &a, &candidates),
        store.record_route("multilingual", &b, &candidates),
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one, two, "two replicas agreed on two models");
    assert_eq!(store.route_choice("multilingual").await.unwrap(), Some(one));
    // The operator took both out of models.toml.
    let new = store.record_route("multilingual", &choice("c"), &["c".to_owned()]).await.unwrap();
    assert_eq!(new, choice("c"));
}

#[tokio::test]
async fn a_model_without_weights_is_503_with_the_fix_and_the_others_serve() {
    // The catalog as it is, with a hub and a pip that cannot be reached.
    let app = TestApp::with(|setup| setup.on_demand = true).await;
    let missing = app.post("/embed/image-embedding").json(&json!({"texts": ["a cat"]})).send().await.unwrap();
    assert_eq!(missing.headers()["retry-after"], "60");
    let told = problem(missing, 503, "model_not_loaded").await;
    let detail = told["detail"].as_str().unwrap();
    assert!(detail.contains("clip-ViT-B-32") && detail.contains("ragway models fetch"), "{detail}");
    let vectors =
        good(app.post("/embed/text-embedding").json(&json!({"texts": ["a cat"]})).send().await.unwrap())
            .await;
    assert_eq!(vectors["dimension"], 384);
    let ready = good(app.get("/health/ready").send().await.unwrap()).await;
    let state = |model_type: &str| {
        let models = ready["models"].as_array().unwrap();
        models.iter().find(|model| model["model_type"] == model_type).unwrap()["state"].clone()
    };
    assert_eq!((state("text-embedding"), state("image-embedding")), (json!("loaded"), json!("failed")));
}

#[tokio::test]
async fn a_changed_entry_under_an_old_name_is_refused() {
    let app = TestApp::with(|setup| setup.on_demand = true).await;
    good(app.post("/embed/text-embedding").json(&json!({"texts": ["a cat"]})).send().await.unwrap()).await;
    // A second replica on the same database, whose models.toml pools in another way.
    let other = BUILT_IN.replacen("pooling = \"mean\"", "pooling = \"cls\"", 1);
    let catalog = Arc::new(Catalog::parse(&other, "models.toml").unwrap());
    let store = Store::connect(&app.database_url, &pool()).await.unwrap();
    let embedders = embedders_on_demand(catalog, offline_assets(), store);
    let error = embedders.of_type("text-embedding").await.unwrap().err().unwrap();
    assert!(matches!(error, ModelError::NotLoaded { .. }), "{error}");
    assert!(error.to_string().contains("give the changed entry a name of its own"), "{error}");
}

/// The route's first choice is a server; the weights stand in for it.
async fn behind(server: &MockServer) -> TestApp {
    let entry = format!(
        "[[embedder]]\nname = \"server\"\nkind = \"remote\"\ndimension = 384\nmax_tokens = 256\n\
         min_similarity = 0.3\nanswer_cut = 0.6\n[embedder.remote]\napi = \"tei\"\nbase_url = \"{}\"\n\
         timeout_ms = 400\nsame_space_as = \"all-MiniLM-L6-v2\"\n",
        server.uri()
    );
    let text = format!("{BUILT_IN}\n{entry}").replacen(
        "candidates = [\"all-MiniLM-L6-v2\"]",
        "candidates = [\"server\"]\nreplicas = [\"all-MiniLM-L6-v2\"]",
        1,
    );
    let catalog = Catalog::parse(&text, "models.toml").unwrap();
    TestApp::with(|setup| {
        setup.on_demand = true;
        setup.catalog = catalog;
    })
    .await
}

async fn vector_of(app: &TestApp, text: &str) -> Vec<f64> {
    let body = json!({"texts": [text]});
    let embedded = good(app.post("/embed/text-embedding").json(&body).send().await.unwrap()).await;
    assert_eq!(embedded["model"], "all-MiniLM-L6-v2", "the space is that of the weights");
    embedded["embeddings"][0].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

async fn true_vector(text: &str) -> Vec<f32> {
    let embedded = embedder().await.embed(vec![text.into()], TextRole::Passage, Lane::Interactive).await;
    embedded.unwrap().vectors.remove(0)
}

fn cosine(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
}

#[tokio::test]
async fn a_replica_stands_in_for_a_server_that_is_down() {
    let server = MockServer::start().await;
    Mock::given(path("/embed")).respond_with(ResponseTemplate::new(503)).mount(&server).await;
    let app = behind(&server).await;
    let cosine = cosine(&vector_of(&app, "a ferry").await, &true_vector("a ferry").await);
    assert!(cosine > 0.99999, "{cosine}");
    assert!(!server.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_makes_other_vectors_is_found_out_before_it_is_used() {
    let server = MockServer::start().await;
    let wrong: Vec<f32> = (0..384u16).map(|i| f32::from(i % 7) - 3.0).collect();
    let answer = ResponseTemplate::new(200).set_body_json(json!([wrong]));
    Mock::given(path("/embed")).respond_with(answer).mount(&server).await;
    let app = behind(&server).await;
    let cosine = cosine(&vector_of(&app, "a ferry").await, &true_vector("a ferry").await);
    assert!(cosine > 0.99999, "a vector of another space came out: {cosine}");
}
