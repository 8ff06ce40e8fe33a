//! Documents that change: what is embedded anew, what readers see meanwhile, what is left of a deleted one.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, join, join_all};
use ragway::{
    config::EmbeddingSpace,
    models::{Embedder, Embeddings, Lane, ModelError, TextRole},
};
use reqwest::{Response, header, multipart::Form};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    documents::{file, pdf, upload},
    harness::{TestApp, cosine, embedder, execute, good, problem},
};

/// all-MiniLM-L6-v2 that remembers which passages it was asked to embed.
struct Counting {
    model: Arc<dyn Embedder>,
    asked: Mutex<Vec<String>>,
}

impl Counting {
    async fn new() -> Arc<Self> {
        Arc::new(Self { model: embedder().await, asked: Mutex::default() })
    }

    /// What was embedded since the last look.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Embedder for Counting {
    fn space(&self) -> &EmbeddingSpace {
        self.model.space()
    }

    crate::harness::reads_as_its_model!();

    fn embed(
        &self,
        texts: Vec<String>,
        role: TextRole,
        lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        if role == TextRole::Passage {
            self.asked.lock().unwrap().extend(texts.clone());
        }
        self.model.embed(texts, role, lane)
    }
}

/// Paragraphs of 1 to 6 sentences without any heading: nothing but their words tells where to cut.
fn paragraphs(count: usize) -> Vec<String> {
    let mut state = 11usize;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    let words = ["the", "ferry", "leaves", "pier", "before", "noon", "with", "cars", "and", "bicycles"];
    let mut sentence = |n: usize| {
        let length = 6 + random(14);
        let said: Vec<&str> = (0..length).map(|_| words[random(words.len())]).collect();
        format!("Entry {n} says that {}.", said.join(" "))
    };
    (0..count).map(|n| (0..1 + n * 7 % 6).map(|_| sentence(n)).collect::<Vec<_>>().join(" ")).collect()
}

async fn client(app: &TestApp) -> tokio_postgres::Client {
    use secrecy::ExposeSecret;
    let url = app.admin_url.expose_secret();
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn a_changed_document_embeds_only_what_changed() {
    let model = Counting::new().await;
    let app = TestApp::with(|setup| {
        setup.embedder = Some(Arc::clone(&model) as _);
        setup.catalog.ingest.passage_tokens = 80;
    })
    .await;
    let store = async |paragraphs: &[String]| {
        let document = json!({"content": paragraphs.join("\n\n"), "external_id": "log", "title": "Log",
                              "content_type": "text/plain"});
        app.store(document).await
    };
    let mut text = paragraphs(240);
    let first = store(&text).await;
    let passages = first["passages"].as_i64().unwrap();
    assert!(passages >= 100, "{first}");
    assert_eq!((model.take().len() as i64, &first["embedded"]), (passages, &first["passages"]));

    let mut version = 1;
    let mut changed = async |what: &str, text: &[String], most: usize| {
        let stored = store(text).await;
        let asked = model.take();
        assert!((1..=most).contains(&asked.len()), "{what}: {} of {stored}", asked.len());
        version += 1;
        assert_eq!(
            (&stored["status"], &stored["id"], &stored["embedded"], &stored["version"]),
            (&json!("updated"), &first["id"], &json!(asked.len()), &json!(version)),
            "{what}"
        );
        asked
    };
    text[130].push_str(" The harbour office is closed on Sundays.");
    let asked = changed("a sentence added", &text, 3).await;
    assert!(asked.iter().any(|passage| passage.contains("harbour office")));
    text[70] = text[70].replace("Entry 70 ", "Record 70 ");
    changed("a word changed", &text, 3).await;
    text.insert(
        140,
        "A new lighthouse was built. It is painted red and white, and it can be climbed.".into(),
    );
    changed("a paragraph inserted", &text, 3).await;
    text.remove(30);
    changed("a paragraph removed", &text, 3).await;
    text.insert(0, "This log was begun anew.".into());
    changed("something before all", &text, 3).await;
    text.push("This log ends here.".into());
    changed("something after all", &text, 3).await;
    let moved: Vec<String> = text.drain(190..210).collect();
    text.splice(20..20, moved);
    changed("paragraphs moved", &text, 9).await;
    // Long enough for passages of its own.
    text.splice(90..90, paragraphs(12).into_iter().map(|new| new.replace("Entry", "Note")));
    changed("many paragraphs inserted", &text, 16).await;

    // What is kept has the vectors that it would be given now, in its place.
    let client = client(&app).await;
    let rows = client
        .query(
            "SELECT ordinal, content, embedding::real[] FROM passages WHERE ordinal % 9 = 0 ORDER BY ordinal",
            &[],
        )
        .await
        .unwrap();
    let texts = rows.iter().map(|row| format!("Log\n{}", row.get::<_, &str>(1))).collect();
    let anew = model.model.embed(texts, TextRole::Passage, Lane::Bulk).await.unwrap().vectors;
    for (row, anew) in rows.iter().zip(&anew) {
        let similarity = cosine(&row.get::<_, Vec<f32>>(2), anew);
        assert!(similarity > 0.9999, "passage {}: {similarity}", row.get::<_, i32>(0));
    }
    let whole = text.join("\n\n");
    let rows = client.query("SELECT content FROM passages ORDER BY ordinal", &[]).await.unwrap();
    let mut at = 0;
    for row in rows {
        let content: &str = row.get(0);
        let found = whole[at..].find(content).expect("passages in the order of the text");
        at += found + 1;
    }
}

#[tokio::test]
async fn what_was_stored_without_hashes_is_known_all_the_same_and_another_title_is_not() {
    let model = Counting::new().await;
    let app = TestApp::with(|setup| setup.embedder = Some(Arc::clone(&model) as _)).await;
    let mut text = paragraphs(60);
    let store = async |text: &[String], title: &str| {
        let document = json!({"content": text.join("\n\n"), "external_id": "log", "title": title,
                              "content_type": "text/plain"});
        let stored = app.store(document).await;
        (model.take().len() as i64, stored["passages"].as_i64().unwrap())
    };
    let (embedded, passages) = store(&text, "Log").await;
    assert_eq!(embedded, passages);
    execute(
        &app.admin_url,
        "UPDATE passages SET embedded_hash = NULL; UPDATE documents SET file_hash = NULL",
    )
    .await;
    text[30].push_str(" It rained.");
    assert!(store(&text, "Log").await.0 <= 3);
    text[30].push_str(" It snowed.");
    assert!(store(&text, "Log").await.0 <= 3);
    // Passages are embedded under the title where they have no heading.
    text[30].push_str(" It froze.");
    let (embedded, passages) = store(&text, "Diary").await;
    assert_eq!(embedded, passages);
}

#[tokio::test]
async fn a_table_that_gets_a_row_keeps_the_other_passages() {
    let model = Counting::new().await;
    let app = TestApp::with(|setup| setup.embedder = Some(Arc::clone(&model) as _)).await;
    let mut rows: Vec<String> =
        (0..300).map(|n| format!("Island {n},{} inhabitants,{} boats", n * 37 % 900, n % 11)).collect();
    let store = async |rows: &[String]| {
        let content = format!("Name,People,Boats\n{}\n", rows.join("\n"));
        let stored = app
            .store(json!({"content": content, "external_id": "islands", "content_type": "text/csv"}))
            .await;
        (model.take().len() as i64, stored["passages"].as_i64().unwrap())
    };
    let (embedded, passages) = store(&rows).await;
    assert!(embedded == passages && passages > 10, "{passages}");
    rows.insert(100, "Island X,4 inhabitants,1 boat".into());
    assert!((1..=3).contains(&store(&rows).await.0));
}

/// Sentences that all name the version that they are of; cut into several passages.
fn version(n: usize) -> String {
    (0..12).map(|s| format!("In edition v{n}x the ferry of line {s} leaves the pier at noon. ")).collect()
}

fn versions_in(results: &Value) -> Vec<String> {
    let results = results["results"].as_array().unwrap();
    let texts = results.iter().map(|result| result["content"].as_str().unwrap());
    let mut seen: Vec<String> = texts
        .flat_map(|text| text.split_whitespace().filter(|word| word.starts_with('v') && word.ends_with('x')))
        .map(str::to_owned)
        .collect();
    seen.sort();
    seen.dedup();
    seen
}

#[tokio::test]
async fn readers_see_the_old_version_or_the_new_one() {
    let app = TestApp::with(|setup| setup.catalog.ingest.passage_tokens = 50).await;
    let put =
        |n| app.store(json!({"content": version(n), "external_id": "lines", "content_type": "text/plain"}));
    let passages = put(0).await["passages"].as_u64().unwrap();
    assert!(passages >= 4);
    let done = AtomicBool::new(false);
    let write = async {
        for n in 1..=10 {
            assert_eq!(put(n).await["status"], "updated");
        }
        done.store(true, Ordering::SeqCst);
    };
    let read = async |mode: &str| {
        let mut all = Vec::new();
        while !done.load(Ordering::SeqCst) {
            let body =
                json!({"query": "When does the ferry leave?", "k": 60, "threshold": -1.0, "mode": mode});
            let found = good(app.search(body).await).await;
            let seen = versions_in(&found);
            assert_eq!(seen.len(), 1, "{mode}: {seen:?}");
            if mode != "hybrid" {
                assert_eq!(found["count"], passages, "{mode}: a part of a version");
            }
            all.extend(seen);
            // Questions go before passages: without a pause hardly one would be embedded.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        all.dedup();
        all.len()
    };
    let ((), dense, hybrid, lexical) = tokio::join!(write, read("dense"), read("hybrid"), read("lexical"));
    assert!(
        dense > 2 && hybrid > 2 && lexical > 2,
        "{dense}, {hybrid}, {lexical}: nothing changed meanwhile"
    );
}

#[tokio::test]
async fn two_that_store_one_document_at_once_store_one_of_the_two_whole() {
    let app = TestApp::start().await;
    let texts = ["Anna says the bridge opens at noon.", "Ben says the bridge opens at one."];
    let put = async |who: usize, round: usize| {
        let document = json!({"content": texts[who], "external_id": "bridge", "source": format!("{who}-{round}"),
                              "metadata": {"by": who}});
        let response = app.post("/api/v1/documents").json(&document).send().await.unwrap();
        good(response).await["documents"][0]["id"].clone()
    };
    for round in 0..40 {
        let ids = join_all([0, 1, 0, 1].map(|who| put(who, round))).await;
        assert!(ids.iter().all(|id| id == &ids[0]), "{ids:?}");
        let listed = good(app.get("/api/v1/documents").send().await.unwrap()).await;
        assert_eq!(listed["total"], 1, "{listed}");
        let who = listed["documents"][0]["metadata"]["by"].as_u64().unwrap() as usize;
        let source = format!("{who}-{round}");
        assert_eq!(listed["documents"][0]["source"], source.as_str());
        let found = good(app.search(json!({"query": "bridge", "threshold": -1.0})).await).await;
        assert_eq!(found["count"], 1, "{found}");
        let result = &found["results"][0];
        assert_eq!(
            (&result["content"], &result["metadata"]["by"]),
            (&json!(texts[who]), &json!(who)),
            "half of each"
        );
        if round % 10 == 9 {
            // Or deleted, by a third.
            let path = format!("/api/v1/documents/{}", ids[0].as_str().unwrap());
            let (deleted, _) = join(app.delete(&path).send(), put(0, round)).await;
            assert_eq!(deleted.unwrap().status(), 204);
        }
    }
}

#[tokio::test]
async fn a_writer_does_not_overwrite_what_it_has_not_seen() {
    let app = TestApp::start().await;
    let put = async |content: &str, external_id: Option<&str>, tag: &str| {
        let body = json!({"content": content, "external_id": external_id});
        app.post("/api/v1/documents").header(header::IF_MATCH, tag).json(&body).send().await.unwrap()
    };
    let tag_of = |response: &Response| response.headers()["etag"].to_str().unwrap().to_owned();
    problem(put("The bridge.", Some("bridge"), "*").await, 412, "version_changed").await;
    let created =
        app.post("/api/v1/documents").json(&json!({"content": "The bridge.", "external_id": "bridge"}));
    let created = created.send().await.unwrap();
    let first = tag_of(&created);
    let document = good(created).await["documents"][0].clone();
    assert_eq!(document["version"], 1);
    let path = format!("/api/v1/documents/{}", document["id"].as_str().unwrap());
    let shown = app.get(&path).send().await.unwrap();
    assert_eq!(tag_of(&shown), first);
    assert_eq!(good(shown).await["version"], 1);

    let second = put("The bridge is open.", Some("bridge"), &first).await;
    let tag = tag_of(&second);
    assert_eq!(good(second).await["documents"][0]["version"], 2);
    // Someone who has seen the first version only.
    let told =
        problem(put("The bridge is shut.", Some("bridge"), &first).await, 412, "version_changed").await;
    assert!(told["detail"].as_str().unwrap().contains("version 2"), "{told}");
    problem(put("The bridge.", Some("other"), &tag).await, 412, "version_changed").await;
    problem(put("The bridge.", Some("bridge"), "\"nonsense\"").await, 412, "version_changed").await;
    problem(put("The bridge.", None, &tag).await, 400, "invalid_request").await;
    let refused = app.delete(&path).header(header::IF_MATCH, &first).send().await.unwrap();
    problem(refused, 412, "version_changed").await;
    assert!(good(app.get(&path).send().await.unwrap()).await["content"].as_str().unwrap().ends_with("open."));

    // Labels are changes too, and what is the same is none.
    let relabelled =
        app.store(json!({"content": "The bridge is open.", "external_id": "bridge", "title": "B"})).await;
    assert_eq!((&relabelled["status"], &relabelled["version"]), (&json!("updated"), &json!(3)));
    let same =
        app.store(json!({"content": "The bridge is open.", "external_id": "bridge", "title": "B"})).await;
    assert_eq!((&same["status"], &same["version"]), (&json!("unchanged"), &json!(3)));
    let tag = tag_of(&app.get(&path).send().await.unwrap());
    let tags = format!("{first}, {tag}");
    assert_eq!(app.delete(&path).header(header::IF_MATCH, tags).send().await.unwrap().status(), 204);
    problem(app.delete(&path).header(header::IF_MATCH, tag).send().await.unwrap(), 404, "unknown_document")
        .await;
}

#[tokio::test]
async fn the_same_file_is_the_same_document_however_it_was_read() {
    let app = TestApp::start().await;
    let bytes = pdf("The tower is 40 metres high.");
    let send = async |name: &str| {
        let form = Form::new().part("file", file(name, bytes.clone()));
        good(upload(&app, form).await).await["documents"][0].clone()
    };
    let first = send("tower.pdf").await;
    let again = send("tower.pdf").await;
    assert_eq!(
        (&again["status"], &again["id"], &again["version"]),
        (&json!("unchanged"), &first["id"], &json!(1))
    );
    // As an earlier version of ragway read it.
    execute(
        &app.admin_url,
        "UPDATE documents SET content = 'Thetoweris', content_hash = '\\x00'; UPDATE passages SET content = 'Thetoweris'",
    )
    .await;
    let anew = send("tower.pdf").await;
    assert_eq!((&anew["status"], &anew["id"]), (&json!("updated"), &first["id"]));
    let listed = good(app.get("/api/v1/documents").send().await.unwrap()).await;
    assert_eq!(listed["total"], 1);
    let found = good(app.search(json!({"query": "tower height", "threshold": -1.0})).await).await;
    assert_eq!(found["count"], 1);
    assert!(found["results"][0]["content"].as_str().unwrap().contains("40 metres"), "{found}");
}

#[tokio::test]
async fn nothing_is_left_of_a_deleted_document() {
    let app = TestApp::with(|setup| setup.catalog.ask.cache.enabled = true).await;
    app.store_ferry().await;
    let text = "# Garden\n\nThe quillwort blooms in May. Visitors see the quillwort behind the glass house.";
    let stored = app.store(json!({"content": text, "title": "Quillwort"})).await;
    let id = stored["id"].as_str().unwrap();
    let question = json!({"question": "When does the quillwort bloom?"});
    for _ in 0..2 {
        let answer = good(app.ask(question.clone()).await).await;
        assert_eq!(answer["citations"][0]["document_id"], id, "{answer}");
    }
    let traces = [id, "quillwort", "Quillwort"];
    assert!(!tables_with(&app, &traces).await.is_empty());

    assert_eq!(app.delete(&format!("/api/v1/documents/{id}")).send().await.unwrap().status(), 204);
    assert_eq!(tables_with(&app, &traces).await, Vec::<String>::new());
    for mode in ["dense", "lexical", "hybrid"] {
        let found = app.search(json!({"query": "quillwort", "threshold": -1.0, "mode": mode})).await;
        let found = good(found).await;
        assert!(!found.to_string().contains("blooms in May"), "{mode}: {found}");
    }
    let answer = good(app.ask(question).await).await;
    assert_eq!((&answer["answered"], &answer["citations"]), (&json!(false), &json!([])), "{answer}");
}

/// Tables with a row that holds one of the words, as text or in bytes.
async fn tables_with(app: &TestApp, words: &[&str]) -> Vec<String> {
    let client = client(app).await;
    let tables = client
        .query("SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'", &[])
        .await
        .unwrap();
    let mut found = Vec::new();
    for table in tables.iter().map(|row| row.get::<_, String>(0)) {
        for word in words {
            let statement = format!(
                "SELECT count(*) FROM {table} t
                 WHERE strpos(t::text, $1) > 0 OR strpos(t::text, encode(convert_to($1, 'UTF8'), 'hex')) > 0"
            );
            if client.query_one(&statement, &[word]).await.unwrap().get::<_, i64>(0) > 0 {
                found.push(format!("{table}: {word}"));
            }
        }
    }
    found
}

/// Sends the beginning of a request, then as much of its body as the server takes; the status of its
/// answer and the bytes sent until then.
async fn send_until_refused(app: &TestApp, head: &str, most: usize) -> (String, usize) {
    let address = app.url.strip_prefix("http://").unwrap();
    let (mut from, mut to) = TcpStream::connect(address).await.unwrap().into_split();
    to.write_all(head.replace("HOST", address).as_bytes()).await.unwrap();
    let answer = async {
        let mut answer = vec![0; 4096];
        let length = from.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    let mut sent = 0;
    let chunk = [b"10000\r\n".as_slice(), &[b'a'; 0x10000], b"\r\n"].concat();
    let send = async {
        while sent < most && to.write_all(&chunk).await.is_ok() {
            sent += chunk.len();
        }
        std::future::pending::<()>().await;
    };
    tokio::pin!(answer);
    let answer = tokio::select! {
        answer = &mut answer => answer,
        () = send => String::new(),
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("no answer"),
    };
    (answer, sent)
}

#[tokio::test]
async fn a_file_of_500_mb_is_refused_before_it_is_read() {
    const HUGE: usize = 500_000_000;
    let app = TestApp::with(|setup| setup.catalog.http.max_body_bytes = 1 << 20).await;
    let types = [
        ("/api/v1/documents", "multipart/form-data; boundary=x"),
        ("/api/v1/documents", "application/json"),
        ("/api/v1/documents/async", "application/json"),
        ("/api/v1/embed/text-embedding", "multipart/form-data; boundary=x"),
    ];
    for (path, content_type) in types {
        let head = format!("POST {path} HTTP/1.1\r\nHost: HOST\r\nContent-Type: {content_type}\r\n");
        let announced = format!("{head}Content-Length: {HUGE}\r\n\r\n");
        let (answer, _) = send_until_refused(&app, &announced, 0).await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body_too_large"), "{path}: {answer}");

        // One that does not say how long it is gets no further than the limit and what the sockets hold.
        let field = if path.contains("embed") { "image" } else { "file" };
        let part = format!("--x\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"a\"\r\n\r\n");
        let part = if content_type.starts_with("multipart") { part } else { "{\"content\": \"".into() };
        let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{part}\r\n", part.len());
        let (answer, sent) = send_until_refused(&app, &chunked, HUGE).await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body_too_large"), "{path}: {answer}");
        assert!(sent < 32 << 20, "{path}: {sent} bytes were taken");
    }
    let listed = good(app.get("/api/v1/documents").send().await.unwrap()).await;
    assert_eq!(listed["total"], 0);
}
