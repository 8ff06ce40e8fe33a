//! What is administered is written down, and stays.

use ragway::{
    access::{Actor, KeyRequest, Permission, create_key, revoke_key},
    store::{AuditEntry, TenantId},
};
use secrecy::ExposeSecret;
use serde_json::json;

use super::{SECRET, by_secret, claims, start, tokens::hs256};
use crate::harness::{TestApp, good, problem};

async fn log(app: &TestApp) -> Vec<AuditEntry> {
    let mut entries = app.owner().await.audit_log(100).await.unwrap();
    entries.reverse();
    entries
}

#[tokio::test]
async fn who_did_what_to_what_and_what_came_of_it() {
    let app = start(by_secret()).await;
    let admin = hs256(SECRET, &claims(json!({"sub": "ada\u{0}\n", "permissions": ["admin"]})));
    let name = json!({"name": "handbook"});
    let make = || app.post("/api/v1/collections").json(&name).bearer_auth(&admin);
    good(make().header("x-request-id", "first").send().await.unwrap()).await;
    problem(make().send().await.unwrap(), 409, "collection_exists").await;
    let reembed = app.post("/api/v1/collections/handbook/reembed").json(&json!({"model": "none"}));
    problem(reembed.bearer_auth(&admin).send().await.unwrap(), 400, "unknown_model").await;
    let delete = |name: &str| app.delete(&format!("/api/v1/collections/{name}")).bearer_auth(&admin);
    assert_eq!(delete("handbook").send().await.unwrap().status(), 204);
    assert_eq!(delete("a%0Ab").send().await.unwrap().status(), 404);
    // Who may not, does nothing that is written down.
    let other = hs256(SECRET, &claims(json!({"permissions": ["ingest"]})));
    let refused = app.delete("/api/v1/collections/default").bearer_auth(other).send().await.unwrap();
    problem(refused, 403, "missing_permission").await;

    let entries = log(&app).await;
    let told: Vec<_> = entries
        .iter()
        .map(|entry| (entry.action.as_str(), entry.target.as_str(), entry.outcome.as_deref().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("collection.create", "handbook", "done"),
            ("collection.create", "handbook", "collection_exists"),
            ("reembedding.start", "handbook", "unknown_model"),
            ("collection.delete", "handbook", "done"),
            ("collection.delete", "a\u{fffd}b", "unknown_collection"),
        ]
    );
    assert_eq!(entries[0].request_id.as_deref(), Some("first"));
    assert!(entries.iter().all(|entry| entry.actor == "token of ada\u{fffd}\u{fffd}"));
    assert!(entries.iter().all(|entry| entry.tenant == TenantId::DEFAULT && entry.request_id.is_some()));
}

#[tokio::test]
async fn keys_that_are_made_and_revoked_are_written_down_with_them() {
    let app = TestApp::start().await;
    let user = Actor::CommandLine("tester".into());
    let request = KeyRequest {
        tenant: TenantId::DEFAULT,
        name: "crawler",
        permissions: [Permission::Ingest].into_iter().collect(),
        expires_at: None,
    };
    let owner = app.owner().await;
    let (id, key) = create_key(&owner, &request, &user).await.unwrap();
    assert!(revoke_key(&owner, id, &user).await.unwrap());
    assert!(!revoke_key(&owner, id, &user).await.unwrap());
    let entries = log(&app).await;
    let told: Vec<_> = entries.iter().map(|entry| (entry.action.as_str(), entry.target.clone())).collect();
    let made = format!("key {id} (crawler): ingest");
    assert_eq!(told, [("key.create", made), ("key.revoke", format!("key {id}"))]);
    assert!(entries.iter().all(|entry| entry.actor == "command line of tester"));
    assert!(entries.iter().all(|entry| entry.outcome.as_deref() == Some("done")));
    assert!(!format!("{entries:?}").contains(key.expose_secret()));
}

#[tokio::test]
async fn the_applications_role_can_only_add_to_the_log() {
    let app = TestApp::start().await;
    good(app.post("/api/v1/collections").json(&json!({"name": "x"})).send().await.unwrap()).await;
    assert_eq!(log(&app).await[0].actor, "anyone");
    let (client, connection) =
        tokio_postgres::connect(app.database_url.expose_secret(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    for statement in ["DELETE FROM audit_log", "UPDATE audit_log SET actor = 'me'", "TRUNCATE audit_log"] {
        let error = client.batch_execute(statement).await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{statement}: {error}");
    }
    assert_eq!(log(&app).await.len(), 1);
}
