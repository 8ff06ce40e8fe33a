//! Tokens and cost are counted, and limited.

use ragway::{
    config::Quota,
    rag::{
        Caller,
        usage::{Operation, Tokens},
    },
    store::TenantId,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Setup, TestApp, eventually, good, problem};

async fn usage(app: &TestApp, query: &str) -> Value {
    good(app.get(&format!("/api/v1/usage{query}")).send().await.unwrap()).await
}

async fn embed(app: &TestApp) -> reqwest::Response {
    app.post("/api/v1/embed").json(&json!({"texts": ["one two three"]})).send().await.unwrap()
}

fn quota(text: &str) -> Quota {
    toml::from_str(text).unwrap()
}

#[tokio::test]
async fn every_use_is_counted_once_for_what_served_it() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    good(embed(&app).await).await;
    good(app.search(json!({"query": "bicycle"})).await).await;
    good(app.ask(json!({"question": "What does it cost to take a bicycle?"})).await).await;
    let openai = json!({"input": "one two three", "model": "text-embedding"});
    good(app.post("/v1/embeddings").json(&openai).send().await.unwrap()).await;

    let rows = usage(&app, "?group_by=operation,backend").await;
    let row = |operation: &str, backend: &str| {
        let found = rows["rows"].as_array().unwrap().iter();
        let mut found = found.filter(|row| row["operation"] == operation && row["backend"] == backend);
        found.next().cloned().unwrap_or_else(|| panic!("{operation} {backend}: {rows}"))
    };
    let model = "all-MiniLM-L6-v2";
    assert_eq!(row("ingest", model)["requests"], 3);
    assert_eq!(row("embed", model)["requests"], 2);
    // [CLS] one two three [SEP], twice.
    assert_eq!(row("embed", model)["embed_tokens"], 10);
    assert_eq!(
        (&row("search", model)["requests"], &row("search", model)["embed_tokens"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(row("ask", "extractive")["requests"], 1);
    let question = row("ask", model);
    assert_eq!(question["requests"], 0);
    assert!(question["embed_tokens"].as_i64().unwrap() > 5);
    assert_eq!(rows["total"]["requests"], 7);

    let days = usage(&app, "?group_by=day,key,tenant").await;
    assert_eq!(days["rows"].as_array().unwrap().len(), 1);
    assert_eq!(days["rows"][0]["day"], days["to"]);
    assert_eq!(days["rows"][0]["key"], Value::Null);
    assert_eq!(days["rows"][0]["tenant"], TenantId::DEFAULT.0.to_string());
    assert_eq!(days["total"], rows["total"]);
    assert_eq!(usage(&app, "?from=2020-01-01&to=2020-12-31").await["rows"], json!([]));

    let metrics = app.get("/metrics").send().await.unwrap().text().await.unwrap();
    let line = "usage_requests_total{backend=\"extractive\",operation=\"ask\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn wrong_questions_about_usage_are_told_what_is_wrong() {
    let app = TestApp::start().await;
    for query in [
        "?from=yesterday",
        "?group_by=colour",
        "?from=2026-02-01&to=2026-01-01",
        "?from=2020-01-01&to=2026-01-01",
        "?until=1",
    ] {
        let response = app.get(&format!("/api/v1/usage{query}")).send().await.unwrap();
        problem(response, 400, "invalid_request").await;
    }
}

#[tokio::test]
async fn counts_reach_the_database_in_time_and_when_ragway_stops() {
    let app = TestApp::with(|setup| setup.catalog.usage.flush_ms = 50).await;
    good(embed(&app).await).await;
    let stored = async |app: &TestApp| {
        let day = time::OffsetDateTime::now_utc().date();
        app.rag.store().usage_spent(day, day.replace_day(1).unwrap()).await.unwrap()
    };
    eventually("the counts are written", async || !stored(&app).await.is_empty()).await;

    let slow = |setup: &mut Setup| {
        setup.catalog.usage.flush_ms = 3_600_000;
        setup.database = Some((app.database_url.clone(), app.admin_url.clone()));
    };
    let second = TestApp::with(slow).await;
    // The one that it writes at its start.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    good(embed(&second).await).await;
    assert_eq!(stored(&app).await[0].month.requests, 1);
    second.stop().await;
    assert_eq!(stored(&app).await[0].month.requests, 2);
}

#[tokio::test]
async fn counts_wait_while_the_database_is_away() {
    let app = TestApp::with(|setup| setup.through_proxy = true).await;
    let proxy = app.proxy.as_ref().unwrap();
    proxy.cut();
    good(embed(&app).await).await;
    assert!(app.rag.ledger().flush().await.is_err());
    proxy.mend();
    eventually("the counts are written", async || app.rag.ledger().flush().await.is_ok()).await;
    assert_eq!(usage(&app, "").await["total"]["requests"], 1);
}

#[tokio::test]
async fn a_quota_that_is_used_up_refuses_until_its_period_ends() {
    let tight = quota("per = \"tenant\"\nperiod = \"month\"\ntokens = 8");
    let app = TestApp::with(|setup| setup.catalog.quotas = vec![tight]).await;
    good(embed(&app).await).await;
    // 5 of 8 are used: the next one may still begin.
    good(embed(&app).await).await;
    let refused = embed(&app).await;
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(wait > 0 && wait <= 31 * 86_400, "{wait}");
    let told = problem(refused, 429, "quota_exceeded").await;
    assert!(told["detail"].as_str().unwrap().contains("8 tokens a month"), "{told}");
    problem(app.search(json!({"query": "a"})).await, 429, "quota_exceeded").await;
    problem(app.ask(json!({"question": "a"})).await, 429, "quota_exceeded").await;
    let document = app.post("/api/v1/documents").json(&json!({"content": "a"}));
    problem(document.send().await.unwrap(), 429, "quota_exceeded").await;

    let openai = json!({"input": "a", "model": "text-embedding"});
    let refused = app.post("/v1/embeddings").json(&openai).send().await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["x-should-retry"]),
        (429, &"false".parse().unwrap())
    );
    let body: Value = refused.json().await.unwrap();
    assert_eq!(
        (&body["error"]["type"], &body["error"]["code"]),
        (&json!("insufficient_quota"), &json!("insufficient_quota"))
    );

    let quotas = usage(&app, "").await["quotas"].clone();
    assert_eq!((&quotas[0]["tokens"], &quotas[0]["tokens_used"]), (&json!(8), &json!(10)));
    let metrics = app.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("quota_refusals_total 5"), "{metrics}");
}

#[tokio::test]
async fn replicas_and_restarts_share_what_was_used() {
    let tight = || vec![quota("per = \"tenant\"\nperiod = \"day\"\ntokens = 5")];
    let first = TestApp::with(|setup| setup.catalog.quotas = tight()).await;
    good(embed(&first).await).await;
    let urls = (first.database_url.clone(), first.admin_url.clone());
    first.stop().await;
    let second = TestApp::with(|setup| {
        setup.catalog.quotas = tight();
        setup.database = Some(urls);
    })
    .await;
    problem(embed(&second).await, 429, "quota_exceeded").await;
}

#[tokio::test]
async fn each_key_has_its_own_quota() {
    let tight = quota("per = \"key\"\nperiod = \"day\"\ntokens = 5");
    let app = TestApp::with(|setup| setup.catalog.quotas = vec![tight]).await;
    let ledger = app.rag.ledger();
    let key = |n| Caller { tenant: TenantId::DEFAULT, key: Some(Uuid::from_u128(n)) };
    let tokens = Tokens { prompt: 3, completion: 2, ..Tokens::default() };
    ledger.record(key(1), Operation::Chat, "m", tokens);
    assert!(ledger.admit(key(1)).await.is_err());
    ledger.admit(key(2)).await.unwrap();
    ledger.admit(Caller::DEFAULT).await.unwrap();
    ledger.flush().await.unwrap();
    assert!(ledger.admit(key(1)).await.is_err());
    let rows = usage(&app, "?group_by=key").await;
    assert_eq!(rows["rows"][0]["key"], Uuid::from_u128(1).to_string());
    assert_eq!(rows["rows"][0]["total_tokens"], 5);
}
