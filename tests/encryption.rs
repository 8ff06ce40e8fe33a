//! Texts of documents, sealed in the database: what is there to read, what opens, and another key.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures_util::future::join_all;
use ragway::{
    config::EncryptionSettings,
    store::{JobStep, NewJob, SealError, Store, StoreError, TenantAdmin, TenantId},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::{
    checkpoint,
    harness::{TestApp, catalog, eventually, execute, good, problem},
};

/// A word that is nowhere else.
const MARK: &str = "zyxquarl";
const TENANT: TenantId = TenantId::DEFAULT;

/// Keys of these ids as the variable has them.
pub fn written(ids: &[u8]) -> String {
    let entries = ids.iter().map(|id| format!("{id}:{}", BASE64.encode([id + 40; 32])));
    entries.collect::<Vec<_>>().join(",")
}

/// Keys of these ids; the first one seals.
pub fn keys(ids: &[u8]) -> EncryptionSettings {
    EncryptionSettings::parse(&written(ids)).unwrap()
}

/// An application that seals with the first of these keys; with none where there are none.
async fn app(ids: &[u8]) -> TestApp {
    TestApp::with(|setup| setup.encryption = keys(ids)).await
}

/// Another one on the same database.
async fn beside(app: &TestApp, ids: &[u8]) -> TestApp {
    let urls = (app.database_url.clone(), app.admin_url.clone());
    TestApp::with(|setup| {
        setup.encryption = keys(ids);
        setup.database = Some(urls);
    })
    .await
}

async fn client(url: &SecretString) -> Client {
    let (client, connection) = tokio_postgres::connect(url.expose_secret(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn number(client: &Client, statement: &str) -> i64 {
    client.query_one(statement, &[]).await.unwrap_or_else(|error| panic!("{statement}: {error:?}")).get(0)
}

/// Tables in which a row holds these bytes anywhere, in a text, a document of JSON or a row of bytes.
async fn tables_with(client: &Client, bytes: &[u8]) -> Vec<String> {
    let tables =
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
                  ORDER BY relname";
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = std::str::from_utf8(bytes).unwrap_or("never found");
    let mut found = Vec::new();
    for row in client.query(tables, &[]).await.unwrap() {
        let table: String = row.get(0);
        let statement = format!(
            "SELECT count(*) FROM {table} t WHERE t::text ILIKE '%{text}%' OR t::text LIKE '%{hex}%'
                 OR t::text LIKE '%{}%'",
            BASE64.encode(bytes)
        );
        if number(client, &statement).await > 0 {
            found.push(table);
        }
    }
    found
}

fn picture() -> Vec<u8> {
    checkpoint::read("clip/small.png")
}

/// Stores a text, a picture and a document in the background, asks, rates; in a collection without a lexical index.
async fn use_everything(app: &TestApp) -> Uuid {
    for (name, model) in [("quiet", Value::Null), ("pictures", json!("clip-legacy"))] {
        let collection = json!({"name": name, "model": model, "lexical": false});
        let made = good(app.post("/api/v1/collections").json(&collection).send().await.unwrap()).await;
        assert_eq!(made["lexical"], false);
    }
    let document = json!({"content": format!("# Part {MARK}\n\nThe {MARK} is painted blue and opens at seven."),
                          "title": "Rules", "external_id": "rules", "content_type": "text/markdown"});
    let path = "/api/v1/documents?collection=quiet";
    let stored = good(app.post(path).json(&document).send().await.unwrap()).await;
    let image = json!({"image": BASE64.encode(picture()), "title": "A picture"});
    good(app.post("/api/v1/documents?collection=pictures").json(&image).send().await.unwrap()).await;
    let later = json!({"collection": "quiet",
                       "documents": [{"content": format!("The second {MARK} is green."), "title": "More"}]});
    let task = good(app.post("/api/v1/documents/async").json(&later).send().await.unwrap()).await;
    let path = format!("/api/v1/tasks/{}", task["task_id"].as_str().unwrap());
    eventually("the document is stored", async || {
        good(app.get(&path).send().await.unwrap()).await["status"] == "succeeded"
    })
    .await;
    // A job that nobody does, so that what is to be done stays.
    let job = NewJob {
        key: None,
        kind: "test",
        payload: format!("to do: {MARK}").into_bytes(),
        total: 1,
        max_attempts: 3,
        keep: Duration::from_secs(600),
    };
    let job = app.rag.store().enqueue_job(TENANT, &job, 100).await.unwrap();
    let ask = json!({"question": format!("When does the {MARK} open?"), "collection": "quiet"});
    let answer = good(app.ask(ask).await).await;
    assert!(answer["answer"].as_str().unwrap().contains("seven"), "{answer}");
    let rating =
        json!({"answer_id": answer["answer_id"], "rating": "up", "comment": format!("Yes, the {MARK}.")});
    good(app.post("/api/v1/feedback").json(&rating).send().await.unwrap()).await;
    assert!(!stored["documents"][0]["id"].is_null(), "{stored}");
    job
}

#[tokio::test]
async fn no_table_holds_a_word_of_a_sealed_document() {
    let (plain, sealed) = (app(&[]).await, app(&[1]).await);
    for app in [&plain, &sealed] {
        use_everything(app).await;
    }
    let (in_plain, in_sealed) = (client(&plain.admin_url).await, client(&sealed.admin_url).await);
    // What is looked for would be found.
    let found = tables_with(&in_plain, MARK.as_bytes()).await;
    assert_eq!(found, ["answers", "documents", "jobs", "passages"], "{found:?}");
    assert_eq!(tables_with(&in_plain, &picture()[..64]).await, ["documents"]);
    assert_eq!(tables_with(&in_sealed, MARK.as_bytes()).await, Vec::<String>::new());
    assert_eq!(tables_with(&in_sealed, &picture()[..64]).await, Vec::<String>::new());
    assert_eq!(number(&in_sealed, "SELECT count(*) FROM passage_terms").await, 0);
    assert_eq!(number(&in_sealed, "SELECT count(*) FROM job_steps WHERE sealed_by = 1").await, 1);

    // Whoever asks ragway reads all of it.
    let documents = good(sealed.get("/api/v1/documents?collection=quiet").send().await.unwrap()).await;
    let rules = &documents["documents"][0];
    let text = format!("# Part {MARK}\n\nThe {MARK} is painted blue and opens at seven.");
    assert_eq!(rules["bytes"], text.len(), "{rules}");
    let path = format!("/api/v1/documents/{}", rules["id"].as_str().unwrap());
    assert_eq!(good(sealed.get(&path).send().await.unwrap()).await["content"], text);
    let search = json!({"query": "painted blue", "collection": "quiet"});
    let found = good(sealed.search(search).await).await;
    assert_eq!(found["results"][0]["heading"], format!("Part {MARK}"), "{found}");
    let pictures = good(sealed.get("/api/v1/documents?collection=pictures").send().await.unwrap()).await;
    assert_eq!(pictures["documents"][0]["bytes"], picture().len());
    let path = format!("/api/v1/documents/{}/image", pictures["documents"][0]["id"].as_str().unwrap());
    assert_eq!(sealed.get(&path).send().await.unwrap().bytes().await.unwrap(), picture());
    let rated = sealed.rag.store().rated_answers(TENANT, None, 10).await.unwrap();
    assert_eq!(rated[0].comment.as_deref(), Some(format!("Yes, the {MARK}.").as_str()));
    assert!(rated[0].answer.as_deref().unwrap().contains("seven"), "{rated:?}");
    let job = sealed.rag.store().claim_job(&["test"], Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(job.payload, format!("to do: {MARK}").into_bytes());
}

#[tokio::test]
async fn a_collection_without_a_lexical_index_is_searched_by_vectors() {
    let app = app(&[1]).await;
    for (name, lexical) in [("quiet", json!(false)), ("loud", json!(true))] {
        let collection = json!({"name": name, "lexical": lexical});
        let made = good(app.post("/api/v1/collections").json(&collection).send().await.unwrap()).await;
        assert_eq!(made["lexical"], lexical);
        app.store_in(name, "The ferry to Nordby leaves at seven. A bicycle costs 3 euros.").await;
    }
    let client = client(&app.admin_url).await;
    let indexed = "SELECT count(*) FROM passage_terms t JOIN passages p ON p.id = t.passage_id
                   JOIN collections c ON c.id = p.collection_id WHERE c.name = ";
    assert_eq!(number(&client, &format!("{indexed}'quiet'")).await, 0);
    assert!(number(&client, &format!("{indexed}'loud'")).await > 0);
    let search = |collection: &str, mode: Option<&str>| {
        app.search(json!({"query": "ferry to Nordby", "collection": collection, "mode": mode}))
    };
    let refused = problem(search("quiet", Some("lexical")).await, 409, "lexical_index_off").await;
    assert!(refused["detail"].as_str().unwrap().contains("`quiet` was made without"), "{refused}");
    for mode in [None, Some("hybrid"), Some("dense")] {
        let found = good(search("quiet", mode).await).await;
        assert_eq!(found["mode"], "dense", "{found}");
        assert!(found["results"][0]["content"].as_str().unwrap().contains("Nordby"), "{found}");
    }
    let found = good(search("loud", Some("lexical")).await).await;
    assert!(found["results"][0]["content"].as_str().unwrap().contains("Nordby"), "{found}");
    let answer =
        good(app.ask(json!({"question": "What does a bicycle cost?", "collection": "quiet"})).await).await;
    assert!(answer["answer"].as_str().unwrap().contains("3 euros"), "{answer}");
}

#[tokio::test]
async fn what_was_copied_from_another_row_or_tenant_does_not_open() {
    let app = app(&[1]).await;
    let admin = TenantAdmin::connect(&app.admin_url).await.unwrap();
    let other = admin.create("other").await.unwrap();
    admin.close().await;
    let ids: Vec<Uuid> = join_all(["The first one is red.", "The second one is blue."].map(async |text| {
        let stored = app.store(json!({"content": text, "external_id": text})).await;
        stored["id"].as_str().unwrap().parse().unwrap()
    }))
    .await;
    let get = |id: Uuid| app.get(&format!("/api/v1/documents/{id}")).send();
    good(get(ids[0]).await.unwrap()).await;
    execute(
        &app.admin_url,
        &format!(
            "SET ragway.resealing = 'on';
             UPDATE documents d SET sealed_content = o.sealed_content FROM documents o
                 WHERE d.id = '{}' AND o.id = '{}';
             UPDATE sealed_passages s SET sealed_content = o.sealed_content
                 FROM sealed_passages o WHERE s.passage_id <> o.passage_id;",
            ids[0], ids[1]
        ),
    )
    .await;
    let refused = problem(get(ids[0]).await.unwrap(), 500, "internal_error").await;
    assert!(!refused.to_string().contains("sealed"), "{refused}");
    good(get(ids[1]).await.unwrap()).await;
    problem(app.search(json!({"query": "Which one is red?"})).await, 500, "internal_error").await;

    // The whole row, as it is, given to another tenant.
    let client = client(&app.admin_url).await;
    app.rag.ensure_default_collection(other).await.unwrap();
    let moved = "UPDATE documents d SET tenant_id = c.tenant_id, collection_id = c.id
                 FROM collections c WHERE d.id = $1 AND c.tenant_id = $2";
    client.batch_execute("SET ragway.resealing = 'on'").await.unwrap();
    assert_eq!(client.execute(moved, &[&ids[1], &other.0]).await.unwrap(), 1);
    let opened = app.rag.store().document(other, ids[1]).await.unwrap_err();
    assert!(matches!(opened, StoreError::Sealed(SealError::Damaged { key: 1, .. })), "{opened}");
}

#[tokio::test]
async fn a_key_that_is_missing_or_another_is_told_at_start_and_never_shown() {
    let app = app(&[1]).await;
    let stored = app.store(json!({"content": "The ferry is blue.", "external_id": "ferry"})).await;
    let connect = async |settings: &str| {
        let store = Store::connect(&app.database_url, &catalog().database).await.unwrap();
        store.with_keys(&EncryptionSettings::parse(settings).unwrap()).await.map(drop)
    };
    for settings in ["", &written(&[2]), &format!("plain,{}", written(&[2]))] {
        let refused = connect(settings).await.unwrap_err().to_string();
        assert!(refused.contains("key 1") && refused.contains("RAGWAY_ENCRYPTION_KEYS"), "{refused}");
    }
    let another = format!("1:{}", BASE64.encode([9; 32]));
    let refused = connect(&another).await.unwrap_err();
    assert!(matches!(refused, StoreError::Sealed(SealError::WrongKey(1))), "{refused}");
    // What was refused has left nothing.
    assert_eq!(number(&client(&app.admin_url).await, "SELECT count(*) FROM encryption_keys").await, 1);
    connect(&written(&[2, 1])).await.unwrap();

    // A gateway that was there before the key is told of it by the row.
    let newer = beside(&app, &[2, 1]).await;
    let body = json!({"content": "The ferry is red now.", "external_id": "ferry"});
    newer.store(body).await;
    let path = format!("/api/v1/documents/{}", stored["id"].as_str().unwrap());
    let refused = problem(app.get(&path).send().await.unwrap(), 500, "internal_error").await;
    assert!(refused["detail"].as_str().unwrap().contains("log has the cause"), "{refused}");
    let id = stored["id"].as_str().unwrap().parse().unwrap();
    let opened = app.rag.store().document(TENANT, id).await.unwrap_err();
    assert!(opened.to_string().contains("add `2:…` to RAGWAY_ENCRYPTION_KEYS"), "{opened}");
    assert_eq!(good(newer.get(&path).send().await.unwrap()).await["content"], "The ferry is red now.");
}

#[tokio::test]
async fn sealed_documents_change_and_move_to_another_caption_as_plain_ones_do() {
    let app = app(&[1]).await;
    let collection = json!({"name": "pictures", "model": "clip-legacy"});
    good(app.post("/api/v1/collections").json(&collection).send().await.unwrap()).await;
    let store = async |title: &str| {
        let image = json!({"image": BASE64.encode(picture()), "title": title, "external_id": "p"});
        let path = "/api/v1/documents?collection=pictures";
        good(app.post(path).json(&image).send().await.unwrap()).await["documents"][0].clone()
    };
    let first = store("A quiet harbour").await;
    let second = store("A stormy lighthouse").await;
    assert_eq!((&first["id"], &second["status"]), (&second["id"], &json!("updated")));
    assert_eq!(second["version"], 2);
    let by_words = json!({"query": "lighthouse", "collection": "pictures", "mode": "lexical"});
    let found = good(app.search(by_words).await).await;
    assert_eq!(found["results"][0]["content"], "A stormy lighthouse", "{found}");
    let gone = json!({"query": "harbour", "collection": "pictures", "mode": "lexical"});
    assert_eq!(good(app.search(gone).await).await["results"], json!([]));
    let path = format!("/api/v1/documents/{}", first["id"].as_str().unwrap());
    assert_eq!(good(app.get(&path).send().await.unwrap()).await["content"], "A stormy lighthouse");
    let image = app.get(&format!("{path}/image")).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(image, picture());

    // Passages that a changed document had before are known again though their hashes are sealed.
    let part = |n: usize| {
        format!("## Part {n}\n\n{}", format!("Rule {n} holds for bicycles on the car deck. ").repeat(12))
    };
    let text = |last: usize| (0..6).chain([last]).map(part).collect::<Vec<_>>().join("\n\n");
    let before = app.store(json!({"content": text(7), "external_id": "rules"})).await;
    let after = app.store(json!({"content": text(8), "external_id": "rules"})).await;
    let count = |stored: &Value, key: &str| stored[key].as_i64().unwrap();
    assert!(count(&before, "embedded") >= 7, "{before}");
    assert!(count(&after, "embedded") <= 2 && count(&after, "passages") >= 7, "{after}");
}

/// How many rows each key has sealed, and how many are plain (0).
async fn sealed_by(client: &Client) -> BTreeMap<i32, i64> {
    let rows = client
        .query(
            "SELECT coalesce(sealed_by, 0), count(*) FROM (
                 SELECT sealed_by FROM documents
                 UNION ALL SELECT s.sealed_by FROM passages p LEFT JOIN sealed_passages s ON s.passage_id = p.id
                 UNION ALL SELECT sealed_by FROM answers WHERE num_nonnulls(question, sealed_question) > 0
                 UNION ALL SELECT sealed_by FROM jobs WHERE num_nonnulls(payload, result) > 0
                 UNION ALL SELECT sealed_by FROM job_steps) rows GROUP BY 1",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// `ragway rekey` with these keys; what it printed.
fn rekey(app: &TestApp, keys: &str, arguments: &[&str]) -> (bool, String) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ragway"));
    command.env_clear().env("RAGWAY_HOME", home.path()).current_dir(home.path());
    command.env("DATABASE_URL", app.database_url.expose_secret());
    command.env("DATABASE_ADMIN_URL", app.admin_url.expose_secret());
    let output = command.env("RAGWAY_ENCRYPTION_KEYS", keys).arg("rekey").args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

#[tokio::test]
async fn plain_rows_are_sealed_and_opened_again_by_rekey() {
    let plain = app(&[]).await;
    let job = use_everything(&plain).await;
    // In a collection with a lexical index, too.
    plain.store_ferry().await;
    let client = client(&plain.admin_url).await;
    let state = "SELECT sum(version)::bigint FROM (SELECT version FROM documents UNION ALL
                     SELECT version FROM collection_versions) v";
    let terms = "SELECT count(*) FROM passage_terms";
    let words = number(&client, terms).await;
    assert!(words >= 3);

    // What is new is sealed, and the rest can still be read.
    let mixed = beside(&plain, &[1]).await;
    mixed.store_in("quiet", "The third one is sealed.").await;
    let kinds = sealed_by(&client).await;
    assert!(kinds[&0] >= 10 && kinds[&1] >= 2, "{kinds:?}");
    let found = good(mixed.search(json!({"query": "Where may dogs be?"})).await).await;
    assert!(found["results"][0]["content"].as_str().unwrap().contains("Dogs"), "{found}");
    let versions = number(&client, state).await;

    let (done, said) = rekey(&plain, &written(&[1]), &[]);
    assert!(done && said.contains("every text is sealed with the key 1"), "{said}");
    assert_eq!(sealed_by(&client).await.keys().collect::<Vec<_>>(), [&1]);
    assert_eq!(tables_with(&client, b"painted blue").await, Vec::<String>::new());
    // Nothing has changed for readers: no version, no word, no answer.
    assert_eq!((number(&client, state).await, number(&client, terms).await), (versions, words));
    let found = good(mixed.search(json!({"query": "Nordby", "mode": "lexical"})).await).await;
    assert_eq!(found["results"][0]["external_id"], "times", "{found}");
    let rated = mixed.rag.store().rated_answers(TENANT, None, 10).await.unwrap();
    assert_eq!(rated[0].comment.as_deref(), Some(format!("Yes, the {MARK}.").as_str()));
    let (done, said) = rekey(&plain, &written(&[1]), &[]);
    assert!(done && said.contains("0 documents, 0 passages, 0 answers, 0 jobs, 0 job_steps"), "{said}");

    // A job that is being done goes on under another key.
    let store = mixed.rag.store();
    let claimed = store.claim_job(&["test"], Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!((claimed.lease.job, claimed.payload), (job, format!("to do: {MARK}").into_bytes()));
    let step = |position| JobStep { position, done: position + 1, total: 2, outcome: b"a piece" };
    store.record_step(&claimed.lease, step(0)).await.unwrap();

    // And back.
    let (done, said) = rekey(&plain, &format!("plain,{}", written(&[1])), &["--retire"]);
    assert!(
        done && said.contains("no text is sealed\nno longer needed in RAGWAY_ENCRYPTION_KEYS: 1"),
        "{said}"
    );
    assert_eq!(sealed_by(&client).await.keys().collect::<Vec<_>>(), [&0]);
    assert_eq!((number(&client, state).await, number(&client, terms).await), (versions, words));
    let store = plain.rag.store();
    store.record_step(&claimed.lease, step(1)).await.unwrap();
    store.finish_job(&claimed.lease, b"done").await.unwrap();
    assert_eq!(store.job(TENANT, job).await.unwrap().unwrap().result.as_deref(), Some(b"done".as_slice()));
    assert_eq!(store.job_steps(TENANT, job).await.unwrap(), [b"a piece", b"a piece"]);
    let found = tables_with(&client, MARK.as_bytes()).await;
    assert_eq!(found, ["answers", "documents", "passages"], "{found:?}");
    // A gateway that still seals is told so, rather than sealing what nobody could open.
    let job =
        NewJob { key: None, kind: "x", payload: vec![1], total: 1, max_attempts: 1, keep: Duration::ZERO };
    let refused = mixed.rag.store().enqueue_job(TENANT, &job, 100).await.unwrap_err();
    assert!(matches!(refused, StoreError::Sealed(SealError::Retired)), "{refused}");
}

#[tokio::test]
async fn another_key_takes_over_while_documents_are_stored_and_found() {
    let old = app(&[1]).await;
    let text = |n: usize, round: usize| format!("Ferry {n} of fleet {round} carries {} cars.", n * 7 + round);
    let store = async |app: &TestApp, n: usize, round: usize| {
        app.store(json!({"content": text(n, round), "external_id": format!("d{n}")})).await
    };
    for n in 0..40 {
        store(&old, n, 0).await;
    }
    let new = Arc::new(beside(&old, &[2, 1]).await);
    let (stop, rounds, searches) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    // Both keys are written with: a gateway may still have the old one first.
    let former = beside(&old, &[1, 2]).await;
    let write = async {
        let mut round = 1;
        while !stop.load(Ordering::SeqCst) {
            for n in (0..60).step_by(3) {
                let app = if n % 2 == 0 { &former } else { &*new };
                let stored = store(app, n, round).await;
                assert!(["created", "updated"].contains(&stored["status"].as_str().unwrap()), "{stored}");
            }
            rounds.store(round, Ordering::SeqCst);
            round += 1;
        }
    };
    let read = async {
        while !stop.load(Ordering::SeqCst) {
            let n = searches.fetch_add(1, Ordering::SeqCst) % 40;
            let body = json!({"query": format!("Ferry {n}"), "k": 3});
            let found = good(new.search(body).await).await;
            assert!(!found["results"].as_array().unwrap().is_empty(), "{found}");
        }
    };
    let owner = new.owner().await.with_keys(&keys(&[2, 1])).await.unwrap();
    let rotate = async {
        let mut batches = 0;
        let rekeyed = owner.rekey(|_, _| batches += 1).await.unwrap();
        while rounds.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.store(true, Ordering::SeqCst);
        (rekeyed, batches)
    };
    let ((rekeyed, batches), (), ()) = futures_util::join!(rotate, write, read);
    assert!(batches >= 2 && searches.load(Ordering::SeqCst) > 2, "{batches} {rekeyed:?}");
    let written: u64 = rekeyed.rows.iter().map(|(_, rows)| rows).sum();
    assert!(written >= 40, "{rekeyed:?}");

    // The last writer with the old key has gone; once more, and no row is left under it.
    former.stop().await;
    assert_eq!(owner.rekey(|_, _| {}).await.unwrap().left, 0);
    let keys = owner.retire_keys().await.unwrap();
    assert_eq!((keys.retired.as_slice(), keys.in_use.as_slice()), ([1].as_slice(), [].as_slice()));
    let client = client(&old.admin_url).await;
    assert_eq!(sealed_by(&client).await.keys().collect::<Vec<_>>(), [&2]);
    assert_eq!(number(&client, "SELECT sum(id)::bigint FROM encryption_keys").await, 2);
    let only = beside(&old, &[2]).await;
    let round = rounds.load(Ordering::SeqCst);
    for n in 0..60 {
        let id: Option<Uuid> = client
            .query_opt("SELECT id FROM documents WHERE external_id = $1", &[&format!("d{n}")])
            .await
            .unwrap()
            .map(|row| row.get(0));
        let Some(id) = id else {
            assert!(n >= 40 && n % 3 > 0, "{n} is lost");
            continue;
        };
        let stored = only.rag.store().document(TENANT, id).await.unwrap().unwrap();
        assert_eq!(stored.content, text(n, if n % 3 == 0 { round } else { 0 }));
        // One passage each, of the text that the document has now.
        let found = good(only.search(json!({"query": stored.content, "k": 1})).await).await;
        assert_eq!(found["results"][0]["content"], stored.content);
    }
}

#[tokio::test]
async fn rows_that_others_hold_are_left_and_told() {
    let app = app(&[1]).await;
    let stored = app.store(json!({"content": "The ferry is blue."})).await;
    let holder = client(&app.admin_url).await;
    holder.batch_execute("BEGIN").await.unwrap();
    let id: Uuid = stored["id"].as_str().unwrap().parse().unwrap();
    holder.query("SELECT 1 FROM documents WHERE id = $1 FOR UPDATE", &[&id]).await.unwrap();
    let (done, said) = rekey(&app, &written(&[2, 1]), &["--retire"]);
    assert!(!done && said.contains("1 rows were held by others, or written with another key"), "{said}");
    holder.batch_execute("COMMIT").await.unwrap();
    let (done, said) = rekey(&app, &written(&[2, 1]), &[]);
    assert!(done && said.contains("written anew: 1 documents, 0 passages"), "{said}");
    assert!(said.contains("no text is sealed with 1 now"), "{said}");
    // As long as its use has not ended, rows may still be sealed with it.
    app.store(json!({"content": "The ferry is red."})).await;
    let (refused, said) = rekey(&app, &written(&[2]), &[]);
    assert!(!refused && said.contains("the encryption key 1"), "{said}");
    let (done, said) = rekey(&app, &written(&[2, 1]), &["--retire"]);
    assert!(done && said.contains("written anew: 1 documents, 1 passages"), "{said}");
    assert!(said.contains("no longer needed in RAGWAY_ENCRYPTION_KEYS: 1"), "{said}");
    let (refused, said) = rekey(&app, "", &[]);
    assert!(!refused && said.contains("the encryption key 2"), "{said}");
}
