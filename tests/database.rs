//! The database: gone and back, migrated by many, used by a role without power.

use serde_json::json;

use crate::harness::{TestApp, eventually, fresh_database, good, problem};
use ragway::store::migrate;
use secrecy::ExposeSecret;

#[tokio::test]
async fn a_lost_database_is_503_and_recovers_by_itself() {
    let app = TestApp::with(|setup| setup.through_proxy = true).await;
    app.store_ferry().await;
    let proxy = app.proxy.as_ref().unwrap();
    proxy.cut();
    eventually("health notices", async || app.get("/health").send().await.unwrap().status() == 503).await;
    let lost = app.search(json!({"query": "bicycle"})).await;
    assert!(lost.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    let told = problem(lost, 503, "database_unavailable").await;
    assert!(!told["detail"].as_str().unwrap().contains("127.0.0.1"), "the cause leaks: {told}");
    problem(app.ask(json!({"question": "What does a bicycle cost?"})).await, 503, "database_unavailable")
        .await;
    problem(app.get("/health/ready").send().await.unwrap(), 503, "database_unavailable").await;
    assert_eq!(app.get("/health/live").send().await.unwrap().status(), 200);
    // Embedding needs no database.
    good(app.post("/api/v1/embed").json(&json!({"texts": ["a"]})).send().await.unwrap()).await;
    proxy.mend();
    eventually("searches work again", async || app.search(json!({"query": "bicycle"})).await.status() == 200)
        .await;
}

#[tokio::test]
async fn replicas_that_start_at_once_migrate_once() {
    let (_, admin_url) = fresh_database().await;
    crate::harness::execute(&admin_url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
    let reports = futures_util::future::join_all((0..4).map(|_| migrate(&admin_url, Some("ragway")))).await;
    let applied: Vec<usize> = reports.into_iter().map(|report| report.unwrap().applied.len()).collect();
    assert_eq!(applied.iter().filter(|count| **count > 0).count(), 1, "{applied:?}");
}

#[tokio::test]
async fn a_role_without_power_is_content_with_a_schema_that_is_there() {
    let (url, admin_url) = fresh_database().await;
    assert!(migrate(&url, None).await.unwrap().applied.is_empty());
    // A newer program's.
    let newer = "INSERT INTO refinery_schema_history VALUES (9999, 'newer', '', '')";
    crate::harness::execute(&admin_url, newer).await;
    assert!(migrate(&url, None).await.unwrap().applied.is_empty());
    let older = "DELETE FROM refinery_schema_history WHERE version > 7";
    crate::harness::execute(&admin_url, older).await;
    let refused = migrate(&url, None).await.unwrap_err().to_string();
    assert!(refused.contains("`ragway migrate`") && refused.contains("DATABASE_ADMIN_URL"), "{refused}");
    crate::harness::execute(&admin_url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
    let refused = migrate(&url, None).await.unwrap_err().to_string();
    assert!(refused.contains("`ragway migrate`"), "{refused}");
}

#[tokio::test]
async fn the_application_role_reads_and_writes_rows_and_nothing_else() {
    let (url, _) = fresh_database().await;
    let (client, connection) =
        tokio_postgres::connect(url.expose_secret(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("SELECT count(*) FROM passages").await.unwrap();
    for statement in
        ["CREATE TABLE t (id int)", "DROP TABLE passages", "ALTER TABLE passages DISABLE TRIGGER ALL"]
    {
        let refused = client.batch_execute(statement).await.unwrap_err();
        assert!(refused.as_db_error().is_some(), "{statement}");
    }
}
