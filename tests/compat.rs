//! The endpoints for clients of other servers: shapes and errors. The clients
//! themselves run in `.ci/clients`.

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::Response;
use serde_json::{Value, json};

use crate::{
    checkpoint,
    harness::{TestApp, good, problem},
};

const TEXTS: [&str; 2] = ["When does the ferry leave?", "A bicycle costs 3 euros."];

async fn post(app: &TestApp, path: &str, body: Value) -> Response {
    app.post(path).json(&body).send().await.unwrap()
}

async fn post_raw(app: &TestApp, path: &str, body: &'static str) -> Response {
    app.post(path).header("content-type", "application/json").body(body).send().await.unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn decoded(value: &Value) -> Vec<f32> {
    let bytes = BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap();
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The vectors of ragway's own API, which every other endpoint must agree with.
async fn own_vectors(app: &TestApp, texts: &[&str]) -> Vec<Vec<f32>> {
    let body = good(post(app, "/api/v1/embed", json!({"texts": texts})).await).await;
    body["embeddings"].as_array().unwrap().iter().map(floats).collect()
}

/// An error in OpenAI's shape; its message.
pub async fn openai_error(response: Response, status: u16, code: &str, param: Value) -> String {
    let (got, request_id) = (response.status().as_u16(), response.headers().contains_key("x-request-id"));
    let body: Value = response.json().await.unwrap();
    assert_eq!(got, status, "{body}");
    assert!(request_id);
    let error = body["error"].as_object().unwrap();
    let mut keys: Vec<&str> = error.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["code", "message", "param", "type"], "{body}");
    assert_eq!((&error["code"], &error["param"]), (&json!(code), &param), "{body}");
    let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
    assert_eq!(error["type"], kind, "{body}");
    error["message"].as_str().unwrap().to_owned()
}

/// An error in TEI's shape; its message.
async fn tei_error(response: Response, status: u16, kind: &str) -> String {
    let got = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    assert_eq!((got, &body["error_type"]), (status, &json!(kind)), "{body}");
    assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
    body["error"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn openai_vectors_are_ragways_own_in_both_encodings() {
    let app = TestApp::start().await;
    let own = own_vectors(&app, &TEXTS).await;
    let request = json!({"input": TEXTS, "model": "all-MiniLM-L6-v2", "user": "u", "anything": {"else": 1}});
    let body = good(post(&app, "/v1/embeddings", request).await).await;
    assert_eq!((&body["object"], &body["model"]), (&json!("list"), &json!("all-MiniLM-L6-v2")));
    assert_eq!(body["data"].as_array().unwrap().len(), 2);
    for (index, vector) in own.iter().enumerate() {
        let item = &body["data"][index];
        assert_eq!((&item["object"], &item["index"]), (&json!("embedding"), &json!(index)));
        assert!(largest_difference(&floats(&item["embedding"]), vector) < 1e-6);
    }
    let tokens = good(post(&app, "/tokenize", json!({"inputs": TEXTS})).await).await;
    let tokens: usize =
        tokens.as_array().unwrap().iter().map(|tokens| tokens.as_array().unwrap().len()).sum();
    assert_eq!(body["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
    assert!(body.get("truncated").is_none());

    let request = json!({"input": TEXTS[1], "model": "all-MiniLM-L6-v2", "encoding_format": "base64"});
    let body = good(post(&app, "/v1/embeddings", request).await).await;
    assert!(largest_difference(&decoded(&body["data"][0]["embedding"]), &own[1]) < 1e-6);
}

#[tokio::test]
async fn a_model_is_known_by_its_name_its_hub_name_and_its_type() {
    let app = TestApp::start().await;
    for model in ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "text-embedding"] {
        let body = good(post(&app, "/v1/embeddings", json!({"input": "a", "model": model})).await).await;
        assert_eq!(body["model"], "all-MiniLM-L6-v2", "{model}");
        for path in [model, &model.replace('/', "%2F")] {
            let shown = good(app.get(&format!("/v1/models/{path}")).send().await.unwrap()).await;
            assert_eq!((&shown["id"], &shown["object"]), (&json!("all-MiniLM-L6-v2"), &json!("model")));
        }
    }
    for path in ["/v1/models", "/models"] {
        let listed = good(app.get(path).send().await.unwrap()).await;
        assert_eq!(listed["object"], "list");
        let models = listed["data"].as_array().unwrap();
        let model = models.iter().find(|model| model["id"] == "all-MiniLM-L6-v2").unwrap();
        assert!(model["created"].is_u64() && model["owned_by"] == "ragway" && model["object"] == "model");
    }
    let unknown = app.get("/v1/models/nobody/gpt").send().await.unwrap();
    openai_error(unknown, 404, "model_not_found", json!("model")).await;
}

#[tokio::test]
async fn openai_errors_have_all_four_fields() {
    let app = TestApp::start().await;
    let send = async |body: Value| post(&app, "/v1/embeddings", body).await;
    let unknown = send(json!({"input": "a", "model": "text-embedding-3-small"})).await;
    let told = openai_error(unknown, 404, "model_not_found", json!("model")).await;
    assert!(told.contains("all-MiniLM-L6-v2"), "{told}");
    for tokens in [json!([1, 2]), json!([[1, 2], [3]])] {
        let refused = send(json!({"input": tokens, "model": "text-embedding"})).await;
        let told = openai_error(refused, 400, "invalid_request", json!("input")).await;
        assert!(told.contains("check_embedding_ctx_length=False"), "{told}");
    }
    let input = async |input: Value| {
        let refused = send(json!({"input": input, "model": "text-embedding"})).await;
        openai_error(refused, 400, "invalid_request", json!("input")).await
    };
    assert!(input(json!("")).await.contains("input[0]: is empty"));
    assert!(input(json!(["a", " "])).await.contains("input[1]: is empty"));
    assert!(input(json!([])).await.starts_with("input: give at least one"));
    assert!(input(json!(vec!["a"; 2049])).await.contains("2048"));

    let raw = async |body: &'static str, path: &str| {
        openai_error(post_raw(&app, path, body).await, 400, "invalid_request", Value::Null).await
    };
    for path in ["/v1/embeddings", "/embeddings"] {
        raw("{", path).await;
        raw("", path).await;
        assert!(raw("{\"input\": {}, \"model\": \"m\"}", path).await.contains("a text or an array of texts"));
        let plain = app.post(path).header("content-type", "text/plain").body("x").send().await.unwrap();
        openai_error(plain, 415, "unsupported_content_type", Value::Null).await;
    }
    assert!(raw("{\"input\": \"a\"}", "/v1/embeddings").await.contains("`model`"));
    let none = app.get("/v1/threads").send().await.unwrap();
    openai_error(none, 404, "not_found", Value::Null).await;
    let wrong = app.get("/v1/embeddings").send().await.unwrap();
    assert_eq!(wrong.headers()["allow"], "POST");
    openai_error(wrong, 405, "method_not_allowed", Value::Null).await;
}

#[tokio::test]
async fn a_body_over_the_limit_and_slow_work_keep_each_protocols_shape() {
    let app = TestApp::with(|setup| setup.catalog.http.max_body_bytes = 1000).await;
    let large = json!({"input": "a".repeat(2000), "model": "text-embedding"});
    openai_error(post(&app, "/v1/embeddings", large).await, 413, "body_too_large", Value::Null).await;
    let large = json!({"inputs": "a".repeat(2000)});
    tei_error(post(&app, "/embed", large).await, 413, "Validation").await;

    let app = TestApp::with(|setup| setup.catalog.http.request_timeout_ms = 1).await;
    let texts = vec!["ferry ".repeat(200); 16];
    let slow = json!({"input": texts, "model": "text-embedding"});
    openai_error(post(&app, "/v1/embeddings", slow).await, 504, "timed_out", Value::Null).await;
    tei_error(post(&app, "/embed", json!({"inputs": texts})).await, 424, "Backend").await;
}

#[tokio::test]
async fn vectors_are_cut_only_to_lengths_that_the_catalog_allows() {
    let app = TestApp::with(|setup| setup.catalog.embedders[0].cut_dimensions = vec![128]).await;
    let own = own_vectors(&app, &TEXTS[..1]).await;
    let send = async |dimensions: usize| {
        let body = json!({"input": TEXTS[0], "model": "text-embedding", "dimensions": dimensions});
        post(&app, "/v1/embeddings", body).await
    };
    let whole = good(send(384).await).await;
    assert!(largest_difference(&floats(&whole["data"][0]["embedding"]), &own[0]) < 1e-6);
    let cut = floats(&good(send(128).await).await["data"][0]["embedding"]);
    let length = own[0][..128].iter().map(|x| x * x).sum::<f32>().sqrt();
    let wanted: Vec<f32> = own[0][..128].iter().map(|x| x / length).collect();
    assert!(largest_difference(&cut, &wanted) < 1e-6);
    let told = openai_error(send(256).await, 400, "invalid_request", json!("dimensions")).await;
    assert!(told.contains("possible: 384, 128"), "{told}");
    let refused = post(&app, "/embed", json!({"inputs": "a", "dimensions": 256})).await;
    assert!(tei_error(refused, 422, "Validation").await.contains("possible: 384, 128"));
    let cut = good(post(&app, "/embed", json!({"inputs": TEXTS[0], "dimensions": 128})).await).await;
    assert!(largest_difference(&floats(&cut[0]), &wanted) < 1e-6);
}

#[tokio::test]
async fn tei_embeds_compares_and_leaves_the_typed_path_alone() {
    let app = TestApp::start().await;
    let own = own_vectors(&app, &TEXTS).await;
    for path in ["/embed", "/"] {
        let body = json!({"inputs": TEXTS, "normalize": true, "prompt_name": "passage", "truncate": null});
        let vectors = good(post(&app, path, body).await).await;
        assert!(largest_difference(&floats(&vectors[1]), &own[1]) < 1e-6);
        let one = good(post(&app, path, json!({"inputs": TEXTS[0]})).await).await;
        assert_eq!(one.as_array().unwrap().len(), 1);
        assert!(largest_difference(&floats(&one[0]), &own[0]) < 1e-6);
    }
    let typed = good(post(&app, "/embed/text-embedding", json!({"texts": TEXTS})).await).await;
    assert_eq!(typed["count"], 2);
    problem(post(&app, "/embed/info", json!({"texts": TEXTS})).await, 400, "unknown_model").await;

    let cosine: f32 = own[0].iter().zip(&own[1]).map(|(a, b)| a * b).sum();
    for (path, parameters) in [("/similarity", json!({"truncate": true})), ("/", Value::Null)] {
        let inputs = json!({"source_sentence": TEXTS[0], "sentences": [TEXTS[0], TEXTS[1]]});
        let body = json!({"inputs": inputs, "parameters": parameters});
        let scores = good(post(&app, path, body).await).await;
        assert!(largest_difference(&floats(&scores), &[1.0, cosine]) < 1e-5, "{path}: {scores}");
    }
}

#[tokio::test]
async fn tei_refuses_or_cuts_what_is_too_long() {
    let app = TestApp::start().await;
    let tail = "A bicycle costs 3 euros each way.";
    let long = format!("{}{tail}", "ferry ".repeat(400));
    let send = async |path: &str, body: Value| post(&app, path, body).await;
    for refused in [json!({"inputs": ["a", &long]}), json!({"inputs": ["a", &long], "truncate": false})] {
        let told = tei_error(send("/embed", refused).await, 422, "Validation").await;
        assert!(told.contains("inputs[1]") && told.contains("256 tokens"), "{told}");
    }
    let compared = json!({"inputs": {"source_sentence": "a", "sentences": [&long]}});
    tei_error(send("/similarity", compared).await, 422, "Validation").await;
    let compared =
        json!({"inputs": {"source_sentence": "a", "sentences": [&long]}, "parameters": {"truncate": true}});
    good(send("/similarity", compared).await).await;

    // 256 tokens less [CLS] and [SEP]; "ferry" is one.
    let words = json!({"inputs": tail, "add_special_tokens": false});
    let words = good(send("/tokenize", words).await).await[0].as_array().unwrap().len();
    let end = format!("{}{tail}", "ferry ".repeat(254 - words));
    let wanted = own_vectors(&app, &[&"ferry ".repeat(254), &end]).await;
    for (direction, wanted) in [("right", &wanted[0]), ("left", &wanted[1]), ("Left", &wanted[1])] {
        let body = json!({"inputs": &long, "truncate": true, "truncation_direction": direction});
        let cut = good(send("/embed", body).await).await;
        assert!(largest_difference(&floats(&cut[0]), wanted) < 1e-5, "{direction}");
    }
}

#[tokio::test]
async fn tei_errors_have_their_two_fields() {
    let app = TestApp::start().await;
    let send = async |path: &str, body: Value| post(&app, path, body).await;
    for path in ["/embed", "/tokenize", "/"] {
        tei_error(send(path, json!({"inputs": []})).await, 400, "Empty").await;
        let told = tei_error(send(path, json!({"inputs": ["a", ""]})).await, 422, "Validation").await;
        assert_eq!(told, "inputs[1]: is empty");
        let many = json!({"inputs": vec!["a"; 2049]});
        assert!(tei_error(send(path, many).await, 422, "Validation").await.contains("2048"));
        tei_error(send(path, json!({"inputs": [[1, 2]]})).await, 422, "Validation").await;
        tei_error(send(path, json!({"inputs": 7})).await, 422, "Validation").await;
        tei_error(post_raw(&app, path, "{").await, 422, "Validation").await;
    }
    let huge = json!({"inputs": "a ".repeat(1 << 21)});
    assert!(
        tei_error(send("/tokenize", huge).await, 422, "Validation")
            .await
            .starts_with("inputs: 4194304 bytes")
    );
    let nothing = json!({"inputs": {"source_sentence": "a", "sentences": []}});
    tei_error(send("/similarity", nothing).await, 400, "Empty").await;
    let raw = json!({"inputs": "a", "normalize": false});
    assert!(tei_error(send("/embed", raw).await, 422, "Validation").await.starts_with("normalize:"));
    let prompt = json!({"inputs": "a", "prompt_name": "poem"});
    assert!(tei_error(send("/embed", prompt).await, 422, "Validation").await.contains("query, passage"));
}

#[tokio::test]
async fn tokens_say_where_they_stand() {
    let app = TestApp::start().await;
    let text = "Ünïted ferries";
    let tokens = good(post(&app, "/tokenize", json!({"inputs": text})).await).await;
    let tokens = tokens[0].as_array().unwrap();
    let outer = [&tokens[0], &tokens[tokens.len() - 1]];
    for (token, text) in outer.iter().zip(["[CLS]", "[SEP]"]) {
        assert_eq!((&token["text"], &token["special"]), (&json!(text), &json!(true)));
        assert_eq!((&token["start"], &token["stop"]), (&Value::Null, &Value::Null));
    }
    let characters: Vec<char> = text.chars().collect();
    let mut covered = String::new();
    for token in &tokens[1..tokens.len() - 1] {
        let place = |key: &str| usize::try_from(token[key].as_u64().unwrap()).unwrap();
        let part: String = characters[place("start")..place("stop")].iter().collect();
        assert_eq!((&token["text"], &token["special"]), (&json!(part), &json!(false)));
        covered.push_str(&part);
    }
    assert_eq!(covered, text.replace(' ', ""));
    let bare =
        good(post(&app, "/tokenize", json!({"inputs": [text], "add_special_tokens": false})).await).await;
    assert_eq!(bare[0].as_array().unwrap()[..], tokens[1..tokens.len() - 1]);
}

#[tokio::test]
async fn info_tells_the_models_limits() {
    let app = TestApp::with(|setup| setup.catalog.http.max_texts = 100).await;
    let info = good(app.get("/info").send().await.unwrap()).await;
    assert_eq!(info["model_id"], "all-MiniLM-L6-v2");
    assert_eq!((&info["model_sha"], &info["model_dtype"]), (&json!("53aa51172d14"), &json!("float32")));
    assert_eq!(info["model_type"], json!({"embedding": {"pooling": "mean"}}));
    assert_eq!((&info["max_input_length"], &info["max_client_batch_size"]), (&json!(256), &json!(100)));
    assert_eq!(
        (&info["auto_truncate"], &info["version"]),
        (&json!(false), &json!(env!("CARGO_PKG_VERSION")))
    );
}

#[tokio::test]
async fn infinity_takes_texts_and_says_what_it_does_not_take() {
    let app = TestApp::start().await;
    let own = own_vectors(&app, &TEXTS).await;
    let request =
        json!({"input": TEXTS, "model": "default/not-specified", "modality": "text", "dimensions": 0});
    let body = good(post(&app, "/embeddings", request).await).await;
    assert_eq!((&body["object"], &body["model"]), (&json!("list"), &json!("all-MiniLM-L6-v2")));
    assert!(largest_difference(&floats(&body["data"][1]["embedding"]), &own[1]) < 1e-6);
    assert!(body["usage"]["prompt_tokens"].as_u64().unwrap() > 10);
    let request = json!({"input": TEXTS[0], "encoding_format": "base64"});
    let body = good(post(&app, "/embeddings", request).await).await;
    assert!(largest_difference(&decoded(&body["data"][0]["embedding"]), &own[0]) < 1e-6);
    let audio =
        post(&app, "/embeddings", json!({"input": "data:audio/wav;base64,AAAA", "modality": "audio"})).await;
    let told = openai_error(audio, 400, "invalid_request", json!("modality")).await;
    assert!(told.contains("audio"), "{told}");
    let unknown = post(&app, "/embeddings", json!({"input": "a", "model": "gpt"})).await;
    openai_error(unknown, 404, "model_not_found", json!("model")).await;
}

#[tokio::test]
async fn a_model_without_weights_is_told_at_once() {
    let app = TestApp::with(|setup| setup.on_demand = true).await;
    let request = json!({"input": "a cat", "model": "clip-ViT-B-32"});
    let missing = post(&app, "/v1/embeddings", request.clone()).await;
    // OpenAI's SDKs would otherwise wait a minute and try again.
    assert_eq!(missing.headers()["x-should-retry"], "false");
    let told = openai_error(missing, 503, "model_not_loaded", Value::Null).await;
    assert!(told.contains("ragway models fetch"), "{told}");
    openai_error(post(&app, "/embeddings", request).await, 503, "model_not_loaded", Value::Null).await;
    good(post(&app, "/v1/embeddings", json!({"input": "a cat", "model": "text-embedding"})).await).await;
    let listed = good(app.get("/v1/models").send().await.unwrap()).await;
    let names: Vec<&Value> = listed["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert!(
        names.contains(&&json!("all-MiniLM-L6-v2")) && !names.contains(&&json!("clip-ViT-B-32")),
        "{listed}"
    );
}

#[tokio::test]
async fn infinity_takes_images() {
    let app = TestApp::start().await;
    let image = BASE64_STANDARD.encode(checkpoint::read("clip/small.png"));
    let uri = format!("data:image/png;base64,{image}");
    let own = good(post(&app, "/embed/image-embedding", json!({"images": [&image]})).await).await;
    let own = floats(&own["embeddings"][0]);
    for model in [json!(null), json!("default/not-specified"), json!("image-embedding")] {
        let request = json!({"input": [&uri, &image], "model": model, "modality": "image"});
        let body = good(post(&app, "/embeddings", request).await).await;
        assert_eq!(body["data"].as_array().unwrap().len(), 2);
        for item in body["data"].as_array().unwrap() {
            assert!(largest_difference(&floats(&item["embedding"]), &own) < 1e-6);
        }
    }
    let one = json!({"input": &uri, "modality": "image", "encoding_format": "base64"});
    let one = good(post(&app, "/embeddings", one).await).await;
    assert!(largest_difference(&decoded(&one["data"][0]["embedding"]), &own) < 1e-6);

    let refused = async |input: Value, model: &str, status: u16, code: &str| {
        let request = json!({"input": input, "model": model, "modality": "image"});
        openai_error(post(&app, "/embeddings", request).await, status, code, json!("input")).await
    };
    let image_type = "image-embedding";
    let url = json!(["https://pictures.example/a.png"]);
    assert!(refused(url, image_type, 400, "invalid_request").await.starts_with("input[0]: is a URL"));
    assert!(refused(json!([]), image_type, 400, "invalid_request").await.starts_with("input: "));
    let text = json!([&uri, BASE64_STANDARD.encode("no picture")]);
    assert!(refused(text, image_type, 422, "unreadable_image").await.starts_with("input[1]"));
    let told = refused(json!(&uri), "text-embedding", 422, "unfit_for_model").await;
    assert!(told.contains("reads no images"), "{told}");
}

#[tokio::test]
async fn endpoint_labels_do_not_grow_with_what_clients_name() {
    let app = TestApp::start().await;
    for name in ["a", "b/c", "d"] {
        app.get(&format!("/v1/models/{name}")).send().await.unwrap();
    }
    let text = app.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(
        text.contains("embedding_requests_total{endpoint=\"/v1/models/{id:.+}\",status=\"404\"} 3"),
        "{text}"
    );
}

/// What Swagger UI offers to send: the examples of a schema's properties.
fn example(document: &Value, schema: &Value) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return example(document, &document["components"]["schemas"][reference.rsplit('/').next().unwrap()]);
    }
    let given = [&schema["example"], &schema["examples"][0], &schema["enum"][0]];
    if let Some(given) = given.into_iter().find(|given| !given.is_null()) {
        return given.clone();
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let parts = parts.iter().flat_map(|part| example(document, part).as_object().unwrap().clone());
        return Value::Object(parts.collect());
    }
    if let Some(one) = schema["oneOf"].as_array() {
        return example(document, one.iter().find(|one| one["type"] != "null").unwrap());
    }
    let properties = schema["properties"].as_object().unwrap().iter();
    Value::Object(properties.map(|(name, schema)| (name.clone(), example(document, schema))).collect())
}

#[tokio::test]
async fn the_documents_examples_work() {
    let app = TestApp::start().await;
    let document = good(app.get("/openapi.json").send().await.unwrap()).await;
    let mut sent = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let operation = &item["post"];
        let tag = operation["tags"][0].as_str().unwrap_or_default();
        if ["openai", "tei", "infinity"].contains(&tag) {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let path = path.replace("{vector_store_id}", "default");
            good(post(&app, &path, example(&document, schema)).await).await;
            sent += 1;
        }
    }
    assert_eq!(sent, 8);
}
