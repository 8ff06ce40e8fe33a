use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::harness::{TestApp, good, problem};

pub async fn upload(app: &TestApp, form: Form) -> reqwest::Response {
    app.post("/api/v1/documents").multipart(form).send().await.unwrap()
}

pub fn file(name: &str, bytes: impl Into<Vec<u8>>) -> Part {
    Part::bytes(bytes.into()).file_name(name.to_owned())
}

#[tokio::test]
async fn a_document_is_stored_read_and_deleted_for_good() {
    let app = TestApp::start().await;
    let stored =
        app.store(json!({"content": "# Fares\n\nA bicycle costs 3 euros.", "metadata": {"a": 1}})).await;
    assert_eq!(stored["status"], "created");
    let path = format!("/api/v1/documents/{}", stored["id"].as_str().unwrap());
    let shown = good(app.get(&path).send().await.unwrap()).await;
    assert_eq!(shown["title"], "Fares");
    assert_eq!(shown["format"], "text/markdown");
    assert_eq!(shown["metadata"], json!({"a": 1}));
    assert_eq!(shown["collection"], "default");
    assert!(shown["content"].as_str().unwrap().contains("3 euros"));
    assert_eq!(app.delete(&path).send().await.unwrap().status(), 204);
    problem(app.get(&path).send().await.unwrap(), 404, "unknown_document").await;
    problem(app.delete(&path).send().await.unwrap(), 404, "unknown_document").await;
    let found = good(app.search(json!({"query": "bicycle", "threshold": -1.0})).await).await;
    assert_eq!(found["count"], 0, "a deleted document still answers");
}

#[tokio::test]
async fn the_same_content_is_recognised_and_new_metadata_taken_over() {
    let app = TestApp::start().await;
    let first = app.store(json!({"content": "The bridge opens at noon.", "metadata": {"v": 1}})).await;
    let again = app
        .post("/api/v1/documents")
        .json(&json!({"content": "The bridge opens at noon.", "metadata": {"v": 1}}));
    let again = again.send().await.unwrap();
    assert_eq!(again.status(), 200);
    let again = good(again).await["documents"][0].clone();
    assert_eq!((&again["status"], &again["id"]), (&json!("unchanged"), &first["id"]));
    let changed = app.store(json!({"content": "The bridge opens at noon.", "metadata": {"v": 2}})).await;
    assert_eq!((&changed["status"], &changed["id"]), (&json!("updated"), &first["id"]));
    let found = app.search(json!({"query": "bridge", "threshold": -1.0, "filters": {"v": 2}})).await;
    assert_eq!(good(found).await["count"], 1);
}

#[tokio::test]
async fn an_external_id_names_one_document_that_can_be_replaced() {
    let app = TestApp::start().await;
    let first = app.store(json!({"content": "The bridge opens at noon.", "external_id": "bridge"})).await;
    let second = app.store(json!({"content": "The bridge opens at one.", "external_id": "bridge"})).await;
    assert_eq!((&second["status"], &second["id"]), (&json!("updated"), &first["id"]));
    let found = good(app.search(json!({"query": "bridge", "threshold": -1.0})).await).await;
    assert_eq!(found["count"], 1);
    assert!(found["results"][0]["content"].as_str().unwrap().contains("at one"));
    // The same words under another name are another document.
    let third = app.store(json!({"content": "The bridge opens at one.", "external_id": "copy"})).await;
    assert_eq!(third["status"], "created");
}

#[tokio::test]
async fn equal_requests_at_the_same_time_store_one_document() {
    let app = TestApp::start().await;
    let document = json!({"content": "The bridge opens at noon."});
    let stored = futures_util::future::join_all((0..6).map(|_| app.store(document.clone()))).await;
    assert_eq!(stored.iter().filter(|stored| stored["status"] == "created").count(), 1);
    assert!(stored.iter().all(|other| other["id"] == stored[0]["id"]));
}

#[tokio::test]
async fn files_of_every_format_are_read() {
    let app = TestApp::start().await;
    let html = "<!doctype html><html><head><title>Pier</title></head><body><nav>menu</nav><p>The pier is 90 m long.</p></body></html>";
    let form = Form::new()
        .part("file", file("a.txt", "The bridge opens at noon."))
        .part("file", file("b.md", "# Rooms\n\nThere are 12 rooms."))
        .part("file", file("c.html", html))
        .part("file", file("d.pdf", pdf("The tower is 40 metres high.")))
        .text("metadata", r#"{"lot": 7}"#);
    let response = upload(&app, form).await;
    assert_eq!(response.status(), 201);
    let body = good(response).await;
    assert_eq!(body["documents"].as_array().unwrap().len(), 4, "{body}");
    for (query, words) in [("pier length", "90 m"), ("tower height", "40 metres"), ("rooms", "12 rooms")] {
        let found = good(app.search(json!({"query": query, "k": 1, "filters": {"lot": 7}})).await).await;
        assert!(found["results"][0]["content"].as_str().unwrap().contains(words), "{query}: {found}");
        assert!(!found["results"][0]["content"].as_str().unwrap().contains("menu"));
    }
}

#[tokio::test]
async fn a_bad_file_does_not_keep_the_good_ones_out() {
    let app = TestApp::start().await;
    let form = Form::new()
        .part("file", file("good.txt", "The bridge opens at noon."))
        .part("file", file("bad.bin", vec![0u8, 159, 146, 150, 0, 1, 2, 3]))
        .part("file", file("empty.txt", "  \n"));
    let response = upload(&app, form).await;
    assert_eq!(response.status(), 207);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["documents"].as_array().unwrap().len(), 1);
    let failed: Vec<_> =
        body["failed"].as_array().unwrap().iter().map(|f| (&f["index"], &f["name"])).collect();
    assert_eq!(failed, [(&json!(1), &json!("bad.bin")), (&json!(2), &json!("empty.txt"))]);
}

#[tokio::test]
async fn unreadable_content_is_refused_with_the_reason() {
    let app = TestApp::start().await;
    let refused = async |part: Part, status: u16, code: &str| {
        problem(upload(&app, Form::new().part("file", part)).await, status, code).await
    };
    let told = refused(file("a.txt", b"caf\xe9 au lait".to_vec()), 422, "unreadable_document").await;
    assert!(told["detail"].as_str().unwrap().contains("UTF-8"), "{told}");
    refused(file("a.txt", vec![0u8, 1, 2, 3, 255, 254, 7]), 422, "unreadable_document").await;
    refused(file("a.pdf", "%PDF-1.7 and nothing more"), 422, "unreadable_document").await;
    refused(file("a.docx", b"PK\x03\x04 zip".to_vec()), 422, "unreadable_document").await;
    refused(file("a.zip", b"PK\x03\x04 zip".to_vec()), 415, "unsupported_format").await;
    refused(file("a.txt", "  \n "), 422, "unreadable_document").await;
    let nul = app.post("/api/v1/documents").json(&json!({"content": "a\u{0}b"})).send().await.unwrap();
    problem(nul, 422, "unreadable_document").await;
    let list = good(app.get("/api/v1/documents").send().await.unwrap()).await;
    assert_eq!(list["total"], 0);
}

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong() {
    let app = TestApp::start().await;
    let send = async |body: Value| app.post("/api/v1/documents").json(&body).send().await.unwrap();
    problem(send(json!({"contents": "x"})).await, 400, "invalid_request").await;
    problem(send(json!({"content": 7})).await, 400, "invalid_request").await;
    problem(send(json!({"documents": []})).await, 400, "invalid_request").await;
    problem(send(json!({"content": "Some text.", "metadata": [1]})).await, 400, "invalid_request").await;
    problem(send(json!({"content": "Some text.", "metadata": {"a": "\u{0}"}})).await, 400, "invalid_request")
        .await;
    problem(send(json!({"content": "Some text.", "title": "\u{0}"})).await, 400, "invalid_request").await;
    let plain = app.post("/api/v1/documents").body("just text").send().await.unwrap();
    problem(plain, 415, "unsupported_content_type").await;
    let form = Form::new().text("note", "x").part("file", file("a.txt", "Some text."));
    problem(upload(&app, form).await, 400, "invalid_request").await;
    let nowhere = app.post("/api/v1/documents?collection=none").json(&json!({"content": "Some text."}));
    problem(nowhere.send().await.unwrap(), 404, "unknown_collection").await;
    problem(app.get("/api/v1/documents/7").send().await.unwrap(), 400, "invalid_request").await;
    problem(app.get("/api/v1/documents?limit=0").send().await.unwrap(), 400, "invalid_request").await;
    problem(app.get("/api/v1/documents?after=x").send().await.unwrap(), 400, "invalid_request").await;
}

#[tokio::test]
async fn a_listing_has_pages() {
    let app = TestApp::start().await;
    for n in 0..5 {
        app.store(json!({"content": format!("Document number {n}."), "external_id": format!("d{n}")})).await;
    }
    let mut seen = Vec::new();
    let mut path = "/api/v1/documents?limit=2".to_owned();
    loop {
        let page = good(app.get(&path).send().await.unwrap()).await;
        assert_eq!(page["total"], 5);
        let ids = page["documents"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| d["external_id"].as_str().unwrap().to_owned());
        seen.extend(ids);
        match page["next"].as_str() {
            Some(next) => path = format!("/api/v1/documents?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["d0", "d1", "d2", "d3", "d4"]);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let app = TestApp::with(|setup| setup.catalog.http.max_body_bytes = 10_000).await;
    let long = json!({"content": "word ".repeat(4000)});
    problem(app.post("/api/v1/documents").json(&long).send().await.unwrap(), 413, "body_too_large").await;
    let form = Form::new().part("file", file("a.txt", "word ".repeat(4000)));
    problem(upload(&app, form).await, 413, "body_too_large").await;
    let texts = json!({"texts": ["word ".repeat(4000)]});
    problem(app.post("/api/v1/embed").json(&texts).send().await.unwrap(), 413, "body_too_large").await;
}

/// A PDF of one page with one line of text.
pub fn pdf(line: &str) -> Vec<u8> {
    let stream = format!("BT /F1 18 Tf 72 700 Td ({line}) Tj ET");
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>"
            .to_owned(),
        format!("<< /Length {} >>\nstream\n{stream}\nendstream", stream.len()),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>".to_owned(),
    ];
    let mut out = b"%PDF-1.4\n".to_vec();
    let mut offsets = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        offsets.push(out.len());
        out.extend(format!("{} 0 obj\n{object}\nendobj\n", index + 1).bytes());
    }
    let start = out.len();
    out.extend(format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).bytes());
    for offset in offsets {
        out.extend(format!("{offset:010} 00000 n \n").bytes());
    }
    out.extend(
        format!("trailer\n<< /Size {} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n", objects.len() + 1)
            .bytes(),
    );
    out
}
