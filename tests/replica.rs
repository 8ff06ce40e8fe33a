//! A streaming replica that answers searches, and one that takes over.

use std::time::Duration;

use ragway::store::{Store, StoreError, migrate};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use url::Url;

use crate::{
    harness::{TestApp, another_server, catalog, eventually, execute, fresh_database, good},
    standby::{Standby, connect},
};

/// Whether a search is answered while the primary lets nobody read passages.
async fn answered_without_primary(app: &TestApp, search: Value) -> bool {
    let client = connect(&app.admin_url).await;
    client.batch_execute("BEGIN; LOCK TABLE passages IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let search = app.post("/api/v1/search").json(&search).timeout(Duration::from_secs(3)).send().await;
    client.batch_execute("ROLLBACK").await.unwrap();
    search.is_ok_and(|response| response.status() == 200)
}

/// The same of a replica that works: it must not take over the lock.
async fn replica_answers(app: &TestApp, replica: &SecretString, query: &str) -> bool {
    pause(replica).await;
    let answered = answered_without_primary(app, json!({"query": query})).await;
    execute(replica, "SELECT pg_wal_replay_resume()").await;
    answered
}

/// Lets the replica stay where it is.
async fn pause(replica: &SecretString) {
    execute(replica, "SELECT pg_wal_replay_pause()").await;
    let client = connect(replica).await;
    eventually("replay stands", async || {
        let state = client.query_typed_one("SELECT pg_get_wal_replay_pause_state()", &[]).await.unwrap();
        state.get::<_, String>(0) == "paused"
    })
    .await;
}

/// What a search finds first.
async fn first(app: &TestApp, query: &str) -> String {
    let found = good(app.search(json!({"query": query})).await).await;
    found["results"][0]["external_id"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_replica_answers_searches_and_none_misses_what_was_stored_before() {
    let primary = another_server().await;
    let (url, admin_url) = (primary.url(), primary.admin_url());
    migrate(&admin_url, Some("ragway")).await.unwrap();
    let mut standby = Standby::of(&primary).await;
    standby.ready(&url).await;
    let replica = standby.url(&admin_url);
    let app = TestApp::with(|setup| {
        setup.database = Some((url.clone(), admin_url.clone()));
        setup.replica_url = Some(standby.url(&url));
        // What is remembered, no server has to be asked.
        setup.catalog.search.cache.max_bytes = 0;
    })
    .await;
    app.store_ferry().await;
    eventually("the replica answers", async || replica_answers(&app, &replica, "bicycle").await).await;
    assert_eq!(first(&app, "What does a bicycle cost?").await, "fares");

    // A replica that is behind does not answer for what it lacks, but for other collections it does.
    good(app.post("/api/v1/collections").json(&json!({"name": "other"})).send().await.unwrap()).await;
    app.store_in("other", "The saloon has forty seats.").await;
    eventually("all is there", async || {
        let there = connect(&replica).await.query_typed_one("SELECT count(*) FROM documents", &[]).await;
        there.unwrap().get::<_, i64>(0) == 4
    })
    .await;
    pause(&replica).await;
    let winter = json!({"content": "The winter ferry has snow chains.", "external_id": "winter"});
    let stored = app.store(winter.clone()).await;
    assert_eq!(first(&app, "snow chains in winter").await, "winter");
    let path = format!("/api/v1/documents/{}", stored["id"].as_str().unwrap());
    assert!(app.delete(&path).send().await.unwrap().status().is_success());
    assert_ne!(first(&app, "snow chains in winter").await, "winter");
    app.store(winter).await;
    assert!(!answered_without_primary(&app, json!({"query": "bicycle"})).await, "it lacks three changes");
    assert!(answered_without_primary(&app, json!({"query": "seats", "collection": "other"})).await);
    execute(&replica, "SELECT pg_wal_replay_resume()").await;
    eventually("it answers again", async || replica_answers(&app, &replica, "snow").await).await;

    // Gone, the primary does its work; back, it is used again.
    standby.stop().await;
    assert_eq!(first(&app, "snow chains in winter").await, "winter");
    assert!(!answered_without_primary(&app, json!({"query": "snow"})).await);
    standby.start();
    standby.ready(&url).await;
    eventually("it is used again", async || replica_answers(&app, &replica, "snow").await).await;

    // The application goes on with a server that has taken over.
    let both = url.expose_secret().replacen(
        &format!(":{}/", port(&url)),
        &format!(":{},127.0.0.1:{}/", port(&url), standby.port),
        1,
    );
    let either = SecretString::from(format!("{both}?target_session_attrs=read-write"));
    let surviving = TestApp::with(|setup| setup.database = Some((either, admin_url.clone()))).await;
    assert_eq!(first(&surviving, "snow chains in winter").await, "winter");
    primary.stop().await.unwrap();
    execute(&standby.url(&admin_url), "SELECT pg_promote()").await;
    eventually("it serves again", async || {
        surviving.search(json!({"query": "snow chains in winter"})).await.status() == 200
    })
    .await;
    surviving.store(json!({"content": "The new harbour is open.", "external_id": "harbour"})).await;
    assert_eq!(first(&surviving, "Is the new harbour open?").await, "harbour");
    standby.stop().await;
}

fn port(url: &SecretString) -> u16 {
    Url::parse(url.expose_secret()).unwrap().port().unwrap()
}

#[tokio::test]
async fn another_database_is_no_replica() {
    let ((url, _), (other, _)) = (fresh_database().await, fresh_database().await);
    let settings = catalog().database;
    let refused = Store::connect(&url, &settings).await.unwrap().with_replica(&other, &settings).await;
    assert!(matches!(refused, Err(StoreError::NotAReplica)));
    // One that cannot be reached may come later.
    let gone = SecretString::from("postgresql://ragway:x@127.0.0.1:1/ragway");
    let store = Store::connect(&url, &settings).await.unwrap().with_replica(&gone, &settings).await.unwrap();
    store.ping().await.unwrap();
}
