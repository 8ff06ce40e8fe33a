use serde_json::{Value, json};

use crate::harness::{TestApp, execute, good, problem};

async fn ids(app: &TestApp, body: Value) -> Vec<String> {
    let body = good(app.search(body).await).await;
    let results = body["results"].as_array().unwrap();
    assert_eq!(body["count"], results.len());
    results.iter().map(|result| result["external_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_nearest_passage_comes_first_with_its_document() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    let body =
        good(app.search(json!({"query": "What does a bicycle cost?", "k": 2, "threshold": -1.0})).await)
            .await;
    let first = &body["results"][0];
    assert_eq!(first["external_id"], "fares");
    assert_eq!(first["title"], "Fares");
    assert!(first["content"].as_str().unwrap().contains("3 euros"));
    assert!(first["similarity"].as_f64().unwrap() > body["results"][1]["similarity"].as_f64().unwrap());
    assert_eq!(body["count"], 2);
}

#[tokio::test]
async fn the_threshold_defaults_to_that_of_the_model() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    assert!(ids(&app, json!({"query": "quantum chromodynamics of gluons"})).await.is_empty());
    assert_eq!(ids(&app, json!({"query": "quantum chromodynamics", "threshold": -1.0})).await.len(), 3);
}

#[tokio::test]
async fn filters_select_and_never_lose_rows() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    let found = async |filters: Value| {
        let mut found = ids(&app, json!({"query": "ferry", "threshold": -1.0, "filters": filters})).await;
        found.sort();
        found
    };
    assert_eq!(found(json!({"topic": "time"})).await, ["times"]);
    assert_eq!(found(json!({"topic": "time", "year": 1999})).await, [""; 0]);
    assert_eq!(found(json!({"type": "gte", "key": "year", "value": 2025})).await, ["fares", "times"]);
    assert_eq!(found(json!({"type": "ne", "key": "topic", "value": "time"})).await, ["fares", "pets"]);
    assert_eq!(found(json!({"type": "nin", "key": "missing", "value": [1]})).await.len(), 3);
    let nested = json!({"type": "or", "filters": [
        {"type": "eq", "key": "topic", "value": "money"},
        {"type": "and", "filters": [{"type": "lt", "key": "year", "value": 2025},
                                    {"type": "in", "key": "topic", "value": ["animals", "x"]}]}]});
    assert_eq!(found(nested).await, ["fares", "pets"]);
    // A number is not less than a text.
    assert!(found(json!({"type": "lt", "key": "topic", "value": 5})).await.is_empty());
}

#[tokio::test]
async fn every_operator_finds_what_it_says() {
    let app = TestApp::start().await;
    let stored = [
        ("a", json!({"tags": ["red", "big"], "size": 3, "box": {"w": 1, "h": 2}, "note": null})),
        ("b", json!({"tags": ["red"], "size": 3.5, "date": "2026-02-01"})),
        ("c", json!({"tags": "red", "size": "3", "date": "2025-12-31", "open": true})),
        ("d", json!({})),
    ];
    for (name, metadata) in &stored {
        app.store(json!({"content": format!("Ferry {name}."), "external_id": name, "metadata": metadata}))
            .await;
    }
    let check = async |filters: Value, expected: &str| {
        let body = json!({"query": "ferry", "threshold": -1.0, "filters": filters});
        let mut found = ids(&app, body).await;
        found.sort();
        assert_eq!(found.concat(), expected, "{filters}");
    };
    let on = |kind: &str, key: &str, value: Value| json!({"type": kind, "key": key, "value": value});
    check(on("eq", "size", json!(3)), "a").await;
    check(on("eq", "size", json!(3.0)), "a").await;
    check(on("eq", "size", json!("3")), "c").await;
    check(on("eq", "tags", json!(["red"])), "b").await;
    check(on("eq", "tags", json!("red")), "c").await;
    check(on("eq", "box", json!({"w": 1})), "").await;
    check(on("eq", "box", json!({"h": 2, "w": 1})), "a").await;
    check(on("eq", "note", json!(null)), "a").await;
    check(on("ne", "size", json!(3)), "bcd").await;
    check(on("in", "size", json!([3, "3", 9])), "ac").await;
    check(on("in", "size", json!([])), "").await;
    check(on("nin", "size", json!([3, "3"])), "bd").await;
    check(on("gt", "size", json!(3)), "b").await;
    check(on("lte", "size", json!(3)), "a").await;
    check(on("gte", "date", json!("2026-01-01")), "b").await;
    check(on("lt", "date", json!("2026-01-01")), "c").await;
    check(on("contains", "tags", json!("red")), "ab").await;
    check(on("contains", "tags", json!(["big", "red"])), "a").await;
    check(json!({"type": "exists", "key": "note"}), "a").await;
    check(on("exists", "size", json!(false)), "d").await;
    // What cannot be compared is not found, and so found by its negation.
    let not = |filter: Value| json!({"type": "not", "filter": filter});
    check(not(on("gt", "size", json!(3))), "acd").await;
    check(not(not(on("gt", "size", json!(3)))), "b").await;
    check(not(json!({"type": "exists", "key": "open"})), "abd").await;
    let both = json!({"type": "and", "filters": [on("lt", "size", json!(9)), on("eq", "missing", json!(1))]});
    check(not(both.clone()), "abcd").await;
    check(json!({"type": "or", "filters": [both, on("eq", "open", json!(true))]}), "c").await;
}

#[tokio::test]
async fn filters_that_nest_too_deep_are_refused_with_the_limit() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    let inner = r#"{"type": "exists", "key": "a"}"#;
    let nested = |levels: usize| {
        let open = r#"{"type": "and", "filters": ["#.repeat(levels);
        format!("{open}{inner}{}", "]}".repeat(levels))
    };
    for (levels, limit) in [(1000, "127 levels"), (100_000, "127 levels"), (40, "16 levels")] {
        for (path, field) in [("/api/v1/search", "query"), ("/api/v1/ask", "question")] {
            let body = format!("{{\"{field}\": \"ferry\", \"filters\": {}}}", nested(levels));
            let request = app.post(path).header("content-type", "application/json").body(body);
            let told = problem(request.send().await.unwrap(), 400, "invalid_request").await;
            assert!(told["detail"].as_str().unwrap().contains(limit), "{told}");
        }
    }
    let plain = format!("{}1{}", r#"{"a": "#.repeat(30), "}".repeat(30));
    let body = format!("{{\"query\": \"ferry\", \"filters\": {plain}}}");
    let request = app.post("/api/v1/search").header("content-type", "application/json").body(body);
    problem(request.send().await.unwrap(), 400, "invalid_request").await;
    assert_eq!(ids(&app, json!({"query": "ferry", "threshold": -1.0})).await.len(), 3);
}

#[tokio::test]
async fn sql_in_a_filter_is_only_text() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    let attack = "' OR true); DROP TABLE passages; --";
    for filters in [
        json!({attack: attack}),
        json!({"type": "eq", "key": attack, "value": attack}),
        json!({"type": "gt", "key": attack, "value": attack}),
        json!({"type": "in", "key": attack, "value": [attack]}),
    ] {
        assert!(ids(&app, json!({"query": "ferry", "threshold": -1.0, "filters": filters})).await.is_empty());
    }
    assert_eq!(ids(&app, json!({"query": "ferry", "threshold": -1.0})).await.len(), 3);
}

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong() {
    let app = TestApp::start().await;
    let wrong = async |body: Value| problem(app.search(body).await, 400, "invalid_request").await;
    for k in [0, -1, 1001] {
        assert!(wrong(json!({"query": "a", "k": k})).await["detail"].as_str().unwrap().starts_with("k:"));
    }
    wrong(json!({"query": "  "})).await;
    wrong(json!({"query": "a\u{0}b"})).await;
    wrong(json!({"query": "a", "threshold": 2.0})).await;
    wrong(json!({"query": 5})).await;
    wrong(json!({"query": "a", "treshold": 0.5})).await;
    wrong(json!({"query": "a".repeat(40_000)})).await;
    let told = wrong(json!({"query": "a", "filters": {"type": "like", "key": "a", "value": "b"}})).await;
    assert!(told["detail"].as_str().unwrap().contains("unknown operator `like`"));
    problem(app.search(json!({"query": "a", "collection": "none"})).await, 404, "unknown_collection").await;
}

/// A filter that few rows pass, over many rows, through the index.
#[tokio::test]
async fn a_selective_filter_finds_its_rows_through_the_index() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    // Copies of one passage with random vectors: enough that the planner takes the index.
    execute(
        &app.admin_url,
        "INSERT INTO passages (id, tenant_id, collection_id, space_id, document_id, ordinal, content, metadata, embedding)
         SELECT gen_random_uuid(), p.tenant_id, p.collection_id, p.space_id, p.document_id, 1000 + n, 'copy',
                jsonb_build_object('rare', n % 100 = 0),
                (SELECT array_agg(random() - 0.5)::real[]::vector(384) FROM generate_series(1, 384 + n * 0))
         FROM (SELECT * FROM passages LIMIT 1) p, generate_series(1, 6000) n;
         ANALYZE passages",
    )
    .await;
    let found = async |exact: bool| {
        let body =
            json!({"query": "ferry", "k": 20, "threshold": -1.0, "filters": {"rare": true}, "exact": exact});
        ids(&app, body).await.len()
    };
    assert_eq!(found(true).await, 20);
    assert_eq!(found(false).await, 20);
}

/// How many searches were given again.
fn repeated(app: &TestApp) -> u64 {
    app.rag.repeated_searches().counts().0
}

#[tokio::test]
async fn a_search_that_comes_again_is_remembered_until_its_collection_changes() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    let urls = (app.database_url.clone(), app.admin_url.clone());
    let other = TestApp::with(|setup| setup.database = Some(urls)).await;
    let query = json!({"query": "bicycle", "threshold": -1.0});
    let search = async |app: &TestApp| {
        let mut found = good(app.search(query.clone()).await).await;
        found.as_object_mut().unwrap().remove("elapsed_time");
        found
    };
    let first = search(&app).await;
    assert_eq!((search(&app).await, repeated(&app)), (first.clone(), 1));
    assert_eq!(search(&other).await, first, "the other replica remembers its own");
    assert_eq!(repeated(&other), 0);

    // Whichever replica stores, replaces or deletes, the next search of each sees it.
    let document = |text: &str| json!({"content": text, "external_id": "bells"});
    for change in ["Bicycle bells are 4 euros.", "Bicycle bells are 5 euros.", ""] {
        match change {
            "" => {
                let listed = good(app.get("/api/v1/documents").send().await.unwrap()).await;
                let is_bells = |document: &&Value| document["external_id"] == "bells";
                let bells =
                    listed["documents"].as_array().unwrap().iter().find(is_bells).unwrap()["id"].clone();
                let path = format!("/api/v1/documents/{}", bells.as_str().unwrap());
                assert_eq!(other.delete(&path).send().await.unwrap().status(), 204);
            }
            text => _ = other.store(document(text)).await,
        }
        for app in [&app, &other] {
            let found = search(app).await;
            let bells: Vec<&str> = found["results"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|result| result["external_id"] == "bells")
                .map(|result| result["content"].as_str().unwrap())
                .collect();
            assert_eq!(bells, if change.is_empty() { vec![] } else { vec![change] });
        }
    }
    assert_eq!(search(&app).await, first);
}

/// What was known of a collection a moment ago serves the next search, which is not to be misled by it.
#[tokio::test]
async fn a_collection_that_is_deleted_or_made_anew_is_so_for_the_next_search() {
    let app = TestApp::start().await;
    let make = async || {
        good(app.post("/api/v1/collections").json(&json!({"name": "boats"})).send().await.unwrap()).await
    };
    let search = async |query: &str, mode: &str| {
        let body = json!({"query": query, "mode": mode, "collection": "boats", "threshold": -1.0});
        app.search(body).await
    };
    make().await;
    app.store_in("boats", "The Hulda sails at noon.").await;
    for mode in ["dense", "hybrid"] {
        assert_eq!(good(search("Hulda", mode).await).await["count"], 1);
    }
    assert_eq!(app.delete("/api/v1/collections/boats").send().await.unwrap().status(), 204);
    for mode in ["dense", "hybrid"] {
        // One that was asked before, and one that was not.
        for query in ["Hulda", "sails"] {
            problem(search(query, mode).await, 404, "unknown_collection").await;
        }
    }
    make().await;
    app.store_in("boats", "The Solveig sails at six.").await;
    for mode in ["dense", "hybrid"] {
        let found = good(search("Hulda", mode).await).await;
        assert_eq!(found["results"][0]["content"], "The Solveig sails at six.", "{found}");
    }
}

#[tokio::test]
async fn only_the_very_same_search_is_given_again() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    good(app.post("/api/v1/collections").json(&json!({"name": "other"})).send().await.unwrap()).await;
    app.store_in("other", "A bicycle of another collection costs 9 euros.").await;
    let searches = [
        json!({"query": "bicycle"}),
        json!({"query": "Bicycle"}),
        json!({"query": "bicycle", "k": 1}),
        json!({"query": "bicycle", "threshold": 0.9}),
        json!({"query": "bicycle", "threshold": -1.0}),
        json!({"query": "bicycle", "mode": "dense"}),
        json!({"query": "bicycle", "mode": "lexical"}),
        json!({"query": "bicycle", "collection": "other"}),
        json!({"query": "bicycle", "filters": {"topic": "money"}}),
        json!({"query": "bicycle", "filters": {"year": 2025}}),
    ];
    let mut found = Vec::new();
    for search in &searches {
        found.push(good(app.search(search.clone()).await).await["results"].clone());
    }
    assert_eq!(repeated(&app), 0);
    for (search, before) in searches.iter().zip(&found) {
        assert_eq!(good(app.search(search.clone()).await).await["results"], *before, "{search}");
    }
    assert_eq!(repeated(&app), searches.len() as u64);
    // Asked for to measure.
    for _ in 0..2 {
        good(app.search(json!({"query": "bicycle", "exact": true})).await).await;
    }
    assert_eq!(repeated(&app), searches.len() as u64);

    let without = TestApp::with(|setup| setup.catalog.search.cache.max_bytes = 0).await;
    without.store_ferry().await;
    for _ in 0..2 {
        good(without.search(searches[0].clone()).await).await;
    }
    assert_eq!(repeated(&without), 0);
}
