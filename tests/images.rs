//! Pictures as documents, queries and inputs, with a small CLIP; see `golden/make_clip.py`.

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::{
    checkpoint,
    harness::{TestApp, good, problem},
};

const MODEL: &str = "clip-legacy";

fn file(name: &str) -> Vec<u8> {
    checkpoint::read(&format!("clip/{name}"))
}

fn base64(name: &str) -> String {
    STANDARD.encode(file(name))
}

/// With a collection `pictures` whose model reads images.
async fn app() -> TestApp {
    let app = TestApp::start().await;
    let collection = json!({"name": "pictures", "model": MODEL});
    good(app.post("/api/v1/collections").json(&collection).send().await.unwrap()).await;
    app
}

async fn post(app: &TestApp, path: &str, body: &Value) -> reqwest::Response {
    app.post(path).json(body).send().await.unwrap()
}

async fn store(app: &TestApp, document: Value) -> Value {
    let body = good(post(app, "/api/v1/documents?collection=pictures", &document).await).await;
    body["documents"][0].clone()
}

/// Titles of what a search in `pictures` finds, with the first one's similarity.
async fn titles(app: &TestApp, mut query: Value) -> (Vec<String>, f64) {
    query["collection"] = json!("pictures");
    query["threshold"] = json!(-1.0);
    let body = good(app.search(query).await).await;
    let results = body["results"].as_array().unwrap();
    let titles = results.iter().map(|result| result["title"].as_str().unwrap().to_owned()).collect();
    (titles, results[0]["similarity"].as_f64().unwrap())
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[tokio::test]
async fn images_and_texts_are_embedded_into_one_space() {
    let app = app().await;
    let golden = checkpoint::golden();
    let expected = golden["checkpoints"][0]["images"].as_array().unwrap();
    let expected = expected.iter().find(|image| image["file"] == "alpha.png").unwrap();
    let uri = format!("data:image/png;base64,{}", base64("alpha.png"));
    for path in ["/embed/image-embedding", "/api/v1/embed/image-embedding"] {
        let images = json!({"images": [base64("small.png"), base64("alpha.png"), uri]});
        let by_json = good(post(&app, path, &images).await).await;
        assert_eq!((&by_json["count"], &by_json["dimension"]), (&json!(3), &json!(24)));
        assert_eq!(by_json["model"], MODEL);
        for vector in [&by_json["embeddings"][1], &by_json["embeddings"][2]] {
            let pairs = floats(vector).into_iter().zip(floats(&expected["vector"]));
            assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) < 1e-5);
        }
        let part = |name: &str| Part::bytes(file(name)).file_name(name.to_owned());
        let form = Form::new().part("image", part("small.png")).part("image", part("alpha.png"));
        let by_form = good(app.post(path).multipart(form).send().await.unwrap()).await;
        assert_eq!(
            by_form["embeddings"].as_array().unwrap()[..],
            by_json["embeddings"].as_array().unwrap()[..2]
        );
        let texts = json!({"texts": ["a photo of a red car"]});
        let text = good(post(&app, path, &texts).await).await;
        assert_eq!(text["space"], by_json["space"]);
        assert_ne!(text["embeddings"][0], by_json["embeddings"][0]);
    }
}

#[tokio::test]
async fn wrong_embed_requests_are_told_what_is_wrong() {
    let app = app().await;
    let images = json!({"images": [base64("small.png")]});
    let told = problem(post(&app, "/embed/text-embedding", &images).await, 422, "unfit_for_model").await;
    assert!(told["detail"].as_str().unwrap().contains("reads no images"));
    let path = "/embed/image-embedding";
    for (body, status, code, detail) in [
        (json!({}), 400, "invalid_request", "`texts` or `images`"),
        (json!({"texts": ["a"], "images": ["AAAA"]}), 400, "invalid_request", "not both"),
        (json!({"images": []}), 400, "invalid_request", "at least one image"),
        (json!({"images": vec!["AAAA"; 2049]}), 400, "invalid_request", "2048"),
        (
            json!({"images": ["AAAA", "http://127.0.0.1/a.png"]}),
            400,
            "image_url_refused",
            "images[1]: image URLs are not allowed",
        ),
        (json!({"images": ["?"]}), 400, "invalid_request", "not base64"),
        (json!({"images": [STANDARD.encode("a red car")]}), 422, "unreadable_image", "images[0]: is text"),
        (json!({"images": [STANDARD.encode("<svg></svg>")]}), 422, "unreadable_image", "SVG"),
        (json!({"texts": ["a"], "audio": []}), 400, "invalid_request", "audio"),
    ] {
        let told = problem(post(&app, path, &body).await, status, code).await;
        assert!(told["detail"].as_str().unwrap().contains(detail), "{told}");
    }
    let form = Form::new().text("picture", "x");
    problem(app.post(path).multipart(form).send().await.unwrap(), 400, "invalid_request").await;
    let plain = app.post(path).header("content-type", "text/plain").body("a").send().await.unwrap();
    problem(plain, 415, "unsupported_content_type").await;
}

#[tokio::test]
async fn images_are_found_by_text_and_by_image() {
    let app = app().await;
    for name in ["landscape.jpg", "palette.png", "lossy.webp", "animated.gif"] {
        let stored =
            store(&app, json!({"image": base64(name), "title": name, "metadata": {"kind": "picture"}})).await;
        assert_eq!((&stored["status"], &stored["passages"]), (&json!("created"), &json!(1)));
    }
    store(&app, json!({"content": "The ferry leaves the harbour in the morning.", "title": "text"})).await;
    let (found, similarity) = titles(&app, json!({"image": base64("lossy.webp")})).await;
    assert_eq!((found.len(), found[0].as_str()), (5, "lossy.webp"));
    assert!(similarity > 0.999_99, "{similarity}");
    // Saved anew in another format the picture is still the nearest.
    let (width, height) = (480, 300);
    let decoded = ragway::models::images::decode(&file("lossy.webp")).unwrap();
    assert_eq!(decoded.dimensions(), (width, height));
    let mut png = std::io::Cursor::new(Vec::new());
    decoded.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let (found, _) = titles(&app, json!({"image": STANDARD.encode(png.into_inner())})).await;
    assert_eq!(found[0], "lossy.webp");
    let (found, _) = titles(&app, json!({"query": "The ferry leaves the harbour in the morning."})).await;
    assert_eq!((found.len(), found[0].as_str()), (5, "text"));
    let only_pictures = json!({"query": "a ferry", "filters": {"kind": "picture"}});
    assert_eq!(titles(&app, only_pictures).await.0.len(), 4);
    let body =
        json!({"query": "a", "collection": "pictures", "threshold": -1.0, "filters": {"kind": "picture"}});
    let body = good(app.search(body).await).await;
    for result in body["results"].as_array().unwrap() {
        assert!(result["format"].as_str().unwrap().starts_with("image/"), "{result}");
        assert_eq!(result["content"], result["title"]);
    }
}

#[tokio::test]
async fn searches_take_a_text_or_an_image() {
    let app = app().await;
    let told = problem(app.search(json!({"k": 1})).await, 400, "invalid_request").await;
    assert!(told["detail"].as_str().unwrap().contains("`query`"));
    problem(app.search(json!({"query": "a", "image": "AAAA"})).await, 400, "invalid_request").await;
    let image = base64("small.png");
    problem(app.search(json!({"image": image})).await, 422, "unfit_for_model").await;
    let url = json!({"image": "https://host.example/a.png", "collection": "pictures"});
    problem(app.search(url).await, 400, "image_url_refused").await;
    let broken = json!({"image": &base64("landscape.jpg")[..8000], "collection": "pictures"});
    let told = problem(app.search(broken).await, 422, "unreadable_image").await;
    assert!(told["detail"].as_str().unwrap().contains("cut off"), "{told}");
}

#[tokio::test]
async fn a_stored_image_is_served_as_it_was_sent() {
    let app = app().await;
    let form = Form::new()
        .part("file", Part::bytes(file("turned.jpg")).file_name("turned.jpg"))
        .part("file", Part::bytes(file("animated.gif")).file_name("animated.gif"));
    let sent = app.post("/api/v1/documents?collection=pictures").multipart(form).send().await.unwrap();
    let documents = good(sent).await["documents"].clone();
    for (index, (name, kind)) in
        [("turned.jpg", "image/jpeg"), ("animated.gif", "image/gif")].iter().enumerate()
    {
        let path = format!("/api/v1/documents/{}", documents[index]["id"].as_str().unwrap());
        let document = good(app.get(&path).send().await.unwrap()).await;
        assert_eq!((&document["format"], &document["content"]), (&json!(kind), &json!(name)));
        assert_eq!(document["bytes"], file(name).len());
        let image = app.get(&format!("{path}/image")).send().await.unwrap();
        assert_eq!(image.status(), 200);
        assert_eq!(image.headers()["content-type"], *kind);
        assert_eq!(image.headers()["x-content-type-options"], "nosniff");
        assert_eq!(image.headers()["content-disposition"], "inline");
        assert_eq!(image.bytes().await.unwrap(), file(name));
        assert_eq!(app.delete(&path).send().await.unwrap().status(), 204);
        problem(app.get(&format!("{path}/image")).send().await.unwrap(), 404, "unknown_document").await;
    }
    let text = store(&app, json!({"content": "A bicycle costs 3 euros."})).await;
    let path = format!("/api/v1/documents/{}/image", text["id"].as_str().unwrap());
    problem(app.get(&path).send().await.unwrap(), 404, "unknown_document").await;
    problem(app.get("/api/v1/documents/x/image").send().await.unwrap(), 400, "invalid_request").await;
}

#[tokio::test]
async fn an_image_is_known_by_its_bytes_and_captioned_anew() {
    let app = app().await;
    let image = |title: &str| json!({"image": base64("alpha.png"), "title": title});
    let first = store(&app, image("a gate")).await;
    assert_eq!(store(&app, image("a gate")).await["status"], "unchanged");
    let renamed = store(&app, image("a bridge")).await;
    assert_eq!((&renamed["status"], &renamed["id"]), (&json!("updated"), &first["id"]));
    let body =
        good(app.search(json!({"query": "x", "collection": "pictures", "threshold": -1.0})).await).await;
    assert_eq!((&body["count"], &body["results"][0]["content"]), (&json!(1), &json!("a bridge")));
    // Another picture under the same external id replaces the first.
    let of = |name: &str| json!({"image": base64(name), "external_id": "cover"});
    let one = store(&app, of("small.png")).await;
    let other = store(&app, of("grey16.png")).await;
    assert_eq!((&other["status"], &other["id"]), (&json!("updated"), &one["id"]));
    let path = format!("/api/v1/documents/{}/image", one["id"].as_str().unwrap());
    assert_eq!(app.get(&path).send().await.unwrap().bytes().await.unwrap(), file("grey16.png"));
}

#[tokio::test]
async fn an_image_for_a_text_collection_is_refused_with_the_way_out() {
    let app = app().await;
    let image = json!({"image": base64("small.png"), "title": "x"});
    let told = problem(post(&app, "/api/v1/documents", &image).await, 422, "unfit_for_model").await;
    assert!(
        told["detail"].as_str().unwrap().contains("a collection with a model that does (clip-ViT-B-32)"),
        "{told}"
    );
    // The other document of the same form is stored.
    let form = Form::new()
        .part("file", Part::bytes(file("small.png")).file_name("small.png"))
        .part("file", Part::text("A bicycle costs 3 euros.").file_name("fares.md"));
    let sent = app.post("/api/v1/documents").multipart(form).send().await.unwrap();
    assert_eq!(sent.status(), 207);
    let body = good(sent).await;
    assert_eq!(
        (&body["failed"][0]["index"], &body["failed"][0]["code"]),
        (&json!(0), &json!("unfit_for_model"))
    );
    assert_eq!(body["documents"][0]["title"], "fares.md");
}

#[tokio::test]
async fn bad_images_are_not_stored() {
    let app = app().await;
    let path = "/api/v1/documents?collection=pictures";
    for (document, status, code, detail) in [
        (json!({"title": "x"}), 400, "invalid_request", "`content` or `image`"),
        (json!({"content": "a", "image": "AAAA"}), 400, "invalid_request", "not both"),
        (json!({"image": "https://host.example/a.png"}), 400, "invalid_request", "send the image's bytes"),
        (json!({"image": STANDARD.encode("a ferry")}), 422, "unreadable_image", "is text"),
        (json!({"image": STANDARD.encode(&file("palette.png")[..4000])}), 422, "unreadable_image", "image"),
        (
            json!({"content": "GIF89a is a format", "content_type": "image/gif"}),
            422,
            "unreadable_image",
            "image",
        ),
    ] {
        let told = problem(post(&app, path, &document).await, status, code).await;
        assert!(told["detail"].as_str().unwrap().contains(detail), "{told}");
    }
    let listed = good(app.get(path).send().await.unwrap()).await;
    assert_eq!(listed["total"], 0);
}
