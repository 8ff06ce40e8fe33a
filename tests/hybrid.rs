//! Searches for words, and for words and vectors together.

use std::collections::BTreeMap;

use ragway::{
    config::EmbeddingSpace,
    store::{ExpectedVersion, LexicalQuery, NewDocument, NewPassage, PassageSet, SpaceAdded, TenantId},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::harness::{TestApp, eventually, execute, good, problem};

async fn client(app: &TestApp) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(app.admin_url.expose_secret(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Contents found, best first.
async fn found(app: &TestApp, mode: &str, query: &str) -> Vec<String> {
    let body = good(app.search(json!({"query": query, "mode": mode})).await).await;
    assert_eq!(body["mode"], mode);
    let results = body["results"].as_array().unwrap();
    results.iter().map(|result| result["content"].as_str().unwrap().to_owned()).collect()
}

async fn store_all(app: &TestApp, texts: &[&str]) {
    for text in texts {
        app.store(json!({"content": text})).await;
    }
}

#[tokio::test]
async fn words_are_found_and_scored_by_bm25() {
    let app = TestApp::start().await;
    let texts = [
        "Engines of model KX-77 need oil every week, and engines need rest.",
        "Engines are loud.",
        "Sails need wind.",
        "Nothing about any of this.",
    ];
    store_all(&app, &texts).await;
    let body = good(app.search(json!({"query": "engine KX-77", "mode": "lexical"})).await).await;
    let results = body["results"].as_array().unwrap();
    assert_eq!(results.len(), 2, "{body}");
    // A passage stands under its document's title, which for a text without one is none.
    let lengths = [13.0, 3.0, 3.0, 5.0];
    let average = lengths.iter().sum::<f64>() / 4.0;
    let bm25 = |times: f64, with: f64, length: f64| {
        let rarity = (1.0_f64 + (4.0 - with + 0.5) / (with + 0.5)).ln();
        rarity * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length / average))
    };
    // `engines` twice, `KX` and `77` once; in the second passage `engines` once.
    let expected = [bm25(2.0, 2.0, 13.0) + 2.0 * bm25(1.0, 1.0, 13.0), bm25(1.0, 2.0, 3.0)];
    for (result, expected) in results.iter().zip(expected) {
        let score = result["scores"]["lexical"].as_f64().unwrap();
        assert!((score - expected).abs() < 1e-4, "{score} {expected} {result}");
        assert!(result["scores"]["dense"].is_null() && result["scores"]["fused"].is_null());
        assert!(result["similarity"].as_f64().unwrap() > 0.0);
    }
    // Both: what only the words find is there, with its similarity.
    let body = good(app.search(json!({"query": "KX-77", "mode": "hybrid", "threshold": 0.99})).await).await;
    let first = &body["results"][0];
    assert!(first["content"].as_str().unwrap().contains("KX-77"), "{body}");
    assert!(first["scores"]["dense"].is_null() && first["scores"]["fused"].as_f64().is_some());
    let body = good(app.search(json!({"query": "engine", "threshold": -1.0})).await).await;
    assert_eq!((&body["mode"], &body["count"]), (&json!("hybrid"), &json!(4)));
    assert!(body["results"][0]["scores"]["dense"].as_f64().is_some());
}

#[tokio::test]
async fn words_of_languages_without_spaces_are_found_inside_sentences() {
    let app = TestApp::start().await;
    let texts = [
        "我们用大量数据训练模型。",
        "今天天气很好。",
        "ฉันชอบกินข้าวผัดตอนเช้า",
        "데이터로 모델을 훈련합니다",
        "データで学習する",
        "The ship 🚢 left. 训练 takes GPU hours.",
    ];
    store_all(&app, &texts).await;
    assert_eq!(found(&app, "lexical", "训练").await.len(), 2);
    assert_eq!(found(&app, "lexical", "天气").await, [texts[1]]);
    assert_eq!(found(&app, "lexical", "気").await, [""; 0]);
    assert_eq!(found(&app, "lexical", "好").await, [texts[1]]);
    assert_eq!(found(&app, "lexical", "ข้าวผัด").await, [texts[2]]);
    assert_eq!(found(&app, "lexical", "훈련").await, [texts[3]]);
    assert_eq!(found(&app, "lexical", "学習").await, [texts[4]]);
    assert_eq!(found(&app, "lexical", "🚢").await, [texts[5]]);
    // Scripts mixed in one query, and full-width letters.
    assert_eq!(found(&app, "lexical", "ＧＰＵ训练 hour").await[0], texts[5]);
    assert_eq!(found(&app, "hybrid", "训练").await[..2].len(), 2);
}

#[tokio::test]
async fn english_is_foreign_to_a_chinese_collection_with_latin_words() {
    let app = TestApp::start().await;
    let chinese: Vec<String> =
        (0..12).map(|n| format!("第{n}章：用 apt 安装软件包，然后重新启动。")).collect();
    store_all(&app, &chinese.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let store = app.owner().await;
    let collection = store.collection(TenantId::DEFAULT, "default").await.unwrap();
    let knows = async |text| {
        let vector = vec![1.0; collection.space.dimension];
        let query = LexicalQuery {
            tenant: TenantId::DEFAULT,
            collection: &collection,
            text,
            vector,
            k: 5,
            filter: None,
        };
        let matches = store.lexical_matches(query).await.unwrap().unwrap();
        assert!(!matches.passages.is_empty(), "{text}");
        matches.same_language
    };
    assert!(knows("如何安装软件包？").await);
    assert!(!knows("How do I install a package with apt?").await);
    store_all(&app, &["Packages are installed by apt.", "Then restart the machine with apt."]).await;
    assert!(knows("How do I install a package with apt?").await);
}

#[tokio::test]
async fn stems_and_stop_words_are_those_of_each_language() {
    let app = TestApp::start().await;
    let texts = [
        "The captains were running the ships across the northern sea in the winter months.",
        "Die Kapitäne fahren im Winter mit den Schiffen über die nördliche See.",
    ];
    store_all(&app, &texts).await;
    assert_eq!(found(&app, "lexical", "captain run").await, [texts[0]]);
    assert_eq!(found(&app, "lexical", "Kapitän fährt mit Schiff").await, [texts[1]]);
    // Nothing but words that stand everywhere, or no words at all.
    for query in ["the", "the of and", "???", "🦀", "der die das the"] {
        assert!(found(&app, "lexical", query).await.is_empty(), "{query}");
        found(&app, "hybrid", query).await;
    }
    for query in ["'", "\\", "a & !b | (c:*", "<->", "x'y\\z", &"word ".repeat(5000)] {
        for mode in ["lexical", "hybrid"] {
            found(&app, mode, query).await;
        }
    }
}

#[tokio::test]
async fn empty_collections_filters_and_wrong_modes() {
    let app = TestApp::start().await;
    for mode in ["dense", "lexical", "hybrid"] {
        assert!(found(&app, mode, "anything").await.is_empty());
    }
    app.store_ferry().await;
    let filtered =
        json!({"query": "ferry dogs bicycle", "mode": "lexical", "filters": {"topic": "animals"}, "k": 1});
    let body = good(app.search(filtered).await).await;
    assert_eq!((&body["count"], &body["results"][0]["external_id"]), (&json!(1), &json!("pets")));
    problem(app.search(json!({"query": "a", "mode": "sparse"})).await, 400, "invalid_request").await;
    let picture = json!({"image": "data:image/png;base64,iVBORw0KGgo=", "mode": "lexical"});
    let told = problem(app.search(picture).await, 400, "invalid_request").await;
    assert!(told["detail"].as_str().unwrap().contains("no words"), "{told}");
}

/// Counts of terms by index: as kept, and counted anew.
async fn counts(app: &TestApp) -> (BTreeMap<String, i64>, BTreeMap<String, i64>) {
    let client = client(app).await;
    let kept = "SELECT i.space_id || ' ' || c.term AS term, sum(c.n)::bigint AS n FROM (
            SELECT index_id, term, passages AS n FROM term_counts
            UNION ALL SELECT index_id, unnest(tsvector_to_array(terms)), change FROM term_changes
            UNION ALL SELECT index_id, '@' || language, change FROM term_changes
            UNION ALL SELECT id, '=passages', passages FROM lexical_indexes
            UNION ALL SELECT index_id, '=passages', change FROM term_changes
            UNION ALL SELECT id, '=words', words FROM lexical_indexes
            UNION ALL SELECT index_id, '=words', change * words FROM term_changes
        ) c (index_id, term, n) JOIN lexical_indexes i ON i.id = c.index_id
        WHERE c.term <> '@' || i.id GROUP BY 1 HAVING sum(c.n) <> 0";
    let anew = "SELECT p.space_id || ' ' || c.term AS term, sum(c.n)::bigint AS n FROM passage_terms t
        JOIN passages p ON p.id = t.passage_id, LATERAL (
            SELECT unnest(tsvector_to_array(t.terms)), 1
            UNION ALL SELECT '@' || t.language, 1
            UNION ALL SELECT '=passages', 1
            UNION ALL SELECT '=words', t.words
        ) c (term, n) WHERE c.term <> '@' || t.index_id GROUP BY 1";
    let mut read = Vec::new();
    for statement in [kept, anew] {
        let rows = client.query(statement, &[]).await.unwrap();
        read.push(rows.iter().map(|row| (row.get("term"), row.get("n"))).collect::<BTreeMap<String, i64>>());
    }
    let anew = read.pop().unwrap();
    (read.pop().unwrap(), anew)
}

async fn assert_counts(app: &TestApp) -> BTreeMap<String, i64> {
    let (kept, anew) = counts(app).await;
    assert_eq!(kept, anew);
    let unindexed = "SELECT count(*) FROM passages p WHERE NOT EXISTS (
        SELECT FROM passage_terms t WHERE t.passage_id = p.id)";
    assert_eq!(client(app).await.query_one(unindexed, &[]).await.unwrap().get::<_, i64>(0), 0);
    kept
}

#[tokio::test]
async fn counts_are_those_of_a_recount_whatever_is_done() {
    let app = TestApp::start().await;
    let words = ["ferry", "pier", "sail", "fares", "timetable", "dogs", "训练", "nordby", "storms"];
    let mut ids: BTreeMap<usize, String> = BTreeMap::new();
    // The same steps each time, but no order that someone thought of.
    let mut state = 12_345_u64;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for step in 0..40 {
        let name = next(8);
        match ids.get(&name) {
            Some(id) if next(3) == 0 => {
                let deleted = app.delete(&format!("/api/v1/documents/{id}")).send().await.unwrap();
                assert!(deleted.status().is_success());
                ids.remove(&name);
            }
            _ => {
                let text: Vec<_> = (0..=next(30)).map(|_| words[next(words.len())]).collect();
                let content = format!("Step {step}. {}", text.join(" "));
                let saved = app.store(json!({"content": content, "external_id": name.to_string()})).await;
                ids.insert(name, saved["id"].as_str().unwrap().to_owned());
            }
        }
        if step % 8 == 7 {
            assert_counts(&app).await;
        }
    }
    // Writers at once, of the same words.
    let stores = (0..12).map(|n| app.store(json!({"content": format!("Ferry {n} to the pier of Nordby.")})));
    let stored = futures_util::future::join_all(stores).await;
    let kept = assert_counts(&app).await;
    let ferries = kept.iter().find(|(term, _)| term.ends_with(" ferri")).unwrap();
    assert!(*ferries.1 >= 12, "{kept:?}");
    let gone = stored.iter().map(|saved| saved["id"].as_str().unwrap().to_owned()).chain(ids.into_values());
    let deletions = gone.map(|id| app.delete(&format!("/api/v1/documents/{id}")).send()).collect::<Vec<_>>();
    futures_util::future::join_all(deletions).await;
    assert!(assert_counts(&app).await.is_empty());
    // No word of what is deleted stays, neither in the counts nor on the way to them.
    app.store(json!({"content": "One more."})).await;
    let left = "SELECT (SELECT count(*) FROM term_counts WHERE term LIKE 'nordb%')
                     + (SELECT count(*) FROM term_changes WHERE change < 0)";
    assert_eq!(client(&app).await.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn changes_are_folded_into_the_counts_when_they_are_many() {
    let app = TestApp::start().await;
    let (tenant, store) = (TenantId::DEFAULT, app.rag.store());
    let collection = store.collection(tenant, "default").await.unwrap();
    // One document of more passages than may wait.
    let document = NewDocument {
        external_id: None,
        content_hash: vec![1],
        file_hash: None,
        title: Some("Piers".into()),
        source: None,
        format: "text/plain",
        content: "Piers.".into(),
        image: None,
        metadata: json!({}),
        expected: ExpectedVersion::Anything,
    };
    let passages = (0..510).map(|n| NewPassage {
        heading: None,
        content: format!("The pier of island {n} is long."),
        vector: vec![1.0; 384],
        embedded_hash: None,
    });
    let set = PassageSet { space: collection.space.clone(), passages: passages.collect(), embedded: 510 };
    store.save_document(tenant, &collection, &document, &[set], None).await.unwrap();
    let kept = assert_counts(&app).await;
    let client = client(&app).await;
    let count = async |of: &str| client.query_one(of, &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(count("SELECT count(*) FROM term_changes").await, 0);
    assert_eq!(count("SELECT passages FROM term_counts WHERE term = 'pier'").await, 510);
    assert_eq!(count("SELECT passages FROM lexical_indexes").await, 510);
    assert!(kept.values().all(|count| *count > 0));
    assert_eq!(found(&app, "lexical", "island 77").await[0], "The pier of island 77 is long.");
}

#[tokio::test]
async fn a_second_space_is_counted_by_itself() {
    let app = TestApp::start().await;
    app.store(json!({"content": "The pier of Nordby."})).await;
    let (tenant, store) = (TenantId::DEFAULT, app.rag.store());
    let collection = store.collection(tenant, "default").await.unwrap();
    let third = EmbeddingSpace { id: "third@1".into(), model: "third".into(), dimension: 3 };
    assert_eq!(store.add_space(tenant, &collection, &third).await.unwrap(), SpaceAdded::Filling);
    let missing = store.documents_without(tenant, &collection, &third, uuid::Uuid::nil(), 10).await.unwrap();
    let text = store.stored_text(tenant, missing[0]).await.unwrap().unwrap();
    let passage = |content: &str| NewPassage {
        heading: None,
        content: content.into(),
        vector: vec![1.0, 0.0, 0.0],
        embedded_hash: None,
    };
    let passages = [passage("The pier"), passage("of Nordby.")];
    assert!(store.add_passages(tenant, &collection, &third, &text, &passages).await.unwrap());
    let kept = assert_counts(&app).await;
    assert_eq!(kept["third@1 =passages"], 2);
    assert_eq!(kept[&format!("{} pier", collection.space.id)], 1);
    assert_eq!(found(&app, "lexical", "pier").await.len(), 1);
    app.delete("/api/v1/collections/default").send().await.unwrap();
    let left = "SELECT (SELECT count(*) FROM term_counts) + (SELECT count(*) FROM term_changes)
                     + (SELECT count(*) FROM passage_terms) + (SELECT count(*) FROM lexical_indexes)";
    assert_eq!(client(&app).await.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn passages_of_an_earlier_version_are_indexed_afterwards() {
    // Passages change here without their document, so that no version tells of it.
    let app = TestApp::with(|setup| setup.catalog.search.cache.max_bytes = 0).await;
    app.store(json!({"content": "The pier of Nordby is long."})).await;
    // As a replica without a lexical index writes: it does not say that it writes terms.
    execute(
        &app.admin_url,
        "INSERT INTO passages (id, tenant_id, collection_id, space_id, document_id, ordinal, content, metadata, embedding)
         SELECT gen_random_uuid(), tenant_id, collection_id, space_id, document_id, 7, 'A lighthouse stands there.',
                metadata, embedding FROM passages",
    )
    .await;
    eventually("the lighthouse is found", async || !found(&app, "lexical", "lighthouse").await.is_empty())
        .await;
    execute(&app.admin_url, "UPDATE passages SET content = 'A windmill stands there.' WHERE ordinal = 7")
        .await;
    eventually("the windmill is found", async || !found(&app, "lexical", "windmill").await.is_empty()).await;
    assert!(found(&app, "lexical", "lighthouse").await.is_empty());
    assert_counts(&app).await;
}

#[tokio::test]
async fn until_the_words_are_indexed_searches_are_dense() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    // Passages that someone may be deleting are not indexed before that is decided.
    let client = client(&app).await;
    client.batch_execute("BEGIN; SELECT FROM passages FOR UPDATE").await.unwrap();
    execute(
        &app.admin_url,
        "UPDATE lexical_indexes SET ready = false, fill_from = '00000000-0000-0000-0000-000000000000';
         DELETE FROM passage_terms",
    )
    .await;
    let body: Value = good(app.search(json!({"query": "bicycle"})).await).await;
    assert_eq!(body["mode"], "dense", "{body}");
    let told = app.search(json!({"query": "bicycle", "mode": "lexical"})).await;
    assert!(told.headers().contains_key("retry-after"));
    let told = problem(told, 503, "no_lexical_index").await;
    assert!(told["detail"].as_str().unwrap().contains("3 documents are left"), "{told}");
    client.batch_execute("COMMIT").await.unwrap();
    eventually("the index is complete", async || ready(&client).await).await;
    assert_eq!(found(&app, "lexical", "bicycle").await.len(), 1);
    assert_counts(&app).await;
}

async fn ready(client: &tokio_postgres::Client) -> bool {
    client.query_one("SELECT bool_and(ready) FROM lexical_indexes", &[]).await.unwrap().get(0)
}
