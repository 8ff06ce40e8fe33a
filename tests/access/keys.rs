//! Keys of programs: made, used, revoked, expired, of other tenants.

use ragway::{
    access::{Actor, KeyRequest, Permission, Permissions, create_key, revoke_key},
    config::AuthSettings,
    store::TenantId,
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::start;
use crate::harness::{TestApp, eventually, execute, good, problem};

const ACME: TenantId = TenantId(Uuid::from_u128(0x0000_0000_0000_7000_8000_0000_0000_00aa));

async fn with_acme() -> TestApp {
    let app = start(AuthSettings::default()).await;
    let made = format!("INSERT INTO tenants (id, name) VALUES ('{}', 'acme')", ACME.0);
    execute(&app.admin_url, &made).await;
    app
}

fn request(tenant: TenantId, permissions: &[Permission]) -> KeyRequest<'static> {
    KeyRequest {
        tenant,
        name: "a test",
        permissions: permissions.iter().copied().collect(),
        expires_at: None,
    }
}

async fn make(app: &TestApp, request: &KeyRequest<'_>) -> (Uuid, String) {
    let made = create_key(&app.owner().await, request, &Actor::CommandLine("tester".into())).await;
    let (id, key) = made.unwrap();
    (id, key.expose_secret().to_owned())
}

#[tokio::test]
async fn a_key_works_wherever_clients_put_it_for_what_it_permits() {
    let app = with_acme().await;
    let (_, key) = make(&app, &request(TenantId::DEFAULT, &[Permission::Embedding])).await;
    let body = json!({"input": "one", "model": "text-embedding"});
    let embed = || app.post("/v1/embeddings").json(&body);
    good(embed().bearer_auth(&key).send().await.unwrap()).await;
    good(embed().header("X-API-Key", &key).send().await.unwrap()).await;
    good(embed().header("api-key", &key).send().await.unwrap()).await;
    good(embed().basic_auth("proxy", Some("x")).header("x-api-key", &key).send().await.unwrap()).await;
    let search = app.post("/api/v1/search").json(&json!({"query": "x"})).bearer_auth(&key);
    problem(search.send().await.unwrap(), 403, "missing_permission").await;
    // Tokens are not known here; neither is half a key, or one that was changed.
    let mut changed = key.clone();
    changed.replace_range(key.len() - 2.., if key.ends_with("AA") { "BB" } else { "AA" });
    for wrong in ["a.b.c", "ragway_", &key[..key.len() - 1], &changed, &key.to_uppercase(), "' OR 1=1 --"] {
        let response = app.get("/api/v1/collections").bearer_auth(wrong).send().await.unwrap();
        let told = problem(response, 401, "invalid_credentials").await;
        assert!(!told.to_string().contains(&key[8..30]), "{told}");
    }
}

#[tokio::test]
async fn use_is_charged_to_the_key() {
    let app = with_acme().await;
    let (id, key) =
        make(&app, &request(TenantId::DEFAULT, &[Permission::Embedding, Permission::Admin])).await;
    let body = json!({"texts": ["one two three"]});
    good(app.post("/api/v1/embed").json(&body).bearer_auth(&key).send().await.unwrap()).await;
    let usage = app.get("/api/v1/usage?group_by=key").bearer_auth(&key).send().await.unwrap();
    let usage = good(usage).await;
    assert_eq!(
        (&usage["rows"][0]["key"], &usage["rows"][0]["total_tokens"]),
        (&json!(id), &json!(5)),
        "{usage}"
    );
}

#[tokio::test]
async fn a_key_reaches_its_own_tenant_only() {
    let app = with_acme().await;
    let all: Vec<Permission> = Permissions::all().iter().collect();
    let (_, ours) = make(&app, &request(TenantId::DEFAULT, &all)).await;
    let (_, theirs) = make(&app, &request(ACME, &all)).await;
    let collection = json!({"name": "default"});
    good(app.post("/api/v1/collections").json(&collection).bearer_auth(&theirs).send().await.unwrap()).await;
    let store = app.post("/api/v1/documents").json(&json!({"content": "The vault's number is 4711."}));
    let stored = good(store.bearer_auth(&ours).send().await.unwrap()).await;
    let id = stored["documents"][0]["id"].as_str().unwrap().to_owned();

    let list = app.get("/api/v1/documents").bearer_auth(&theirs).send().await.unwrap();
    assert_eq!(good(list).await["total"], 0);
    let search = json!({"query": "The vault's number", "threshold": -1});
    let found = app.post("/api/v1/search").json(&search).bearer_auth(&theirs).send().await.unwrap();
    assert_eq!(good(found).await["count"], 0);
    let ask = json!({"question": "What is the vault's number?"});
    let answer = good(app.post("/api/v1/ask").json(&ask).bearer_auth(&theirs).send().await.unwrap()).await;
    assert!(!answer.to_string().contains("4711"), "{answer}");
    let path = format!("/api/v1/documents/{id}");
    let shown = app.get(&path).bearer_auth(&theirs).send().await.unwrap();
    problem(shown, 404, "unknown_document").await;
    let deleted = app.delete(&path).bearer_auth(&theirs).send().await.unwrap();
    problem(deleted, 404, "unknown_document").await;
    good(app.get(&path).bearer_auth(&ours).send().await.unwrap()).await;
}

#[tokio::test]
async fn a_revoked_key_ends_on_every_replica_and_an_expired_one_by_itself() {
    let app = with_acme().await;
    let urls = (app.database_url.clone(), app.admin_url.clone());
    let replica = TestApp::with(|setup| {
        setup.auth = Some(AuthSettings::default());
        setup.database = Some(urls);
    })
    .await;
    let (id, key) = make(&app, &request(TenantId::DEFAULT, &[Permission::Search])).await;
    let listed = async |app: &TestApp| app.get("/api/v1/collections").bearer_auth(&key).send().await.unwrap();
    for one in [&app, &replica] {
        good(listed(one).await).await;
    }
    let user = Actor::CommandLine("tester".into());
    let owner = app.owner().await;
    assert!(revoke_key(&owner, id, &user).await.unwrap());
    assert!(!revoke_key(&owner, id, &user).await.unwrap(), "it is revoked already");
    assert!(!revoke_key(&owner, Uuid::now_v7(), &user).await.unwrap());
    for one in [&app, &replica] {
        eventually("the key is refused", async || listed(one).await.status() == 401).await;
        let told = problem(listed(one).await, 401, "invalid_credentials").await;
        assert_eq!(told["detail"], "the key was revoked");
    }

    for (hours, status) in [(1, 200), (-1, 401)] {
        let end = OffsetDateTime::now_utc() + time::Duration::hours(hours);
        let short = KeyRequest { expires_at: Some(end), ..request(TenantId::DEFAULT, &[Permission::Search]) };
        let (_, key) = make(&app, &short).await;
        let response = app.get("/api/v1/collections").bearer_auth(&key).send().await.unwrap();
        assert_eq!(response.status(), status, "{hours}");
        if status == 401 {
            assert_eq!(problem(response, 401, "invalid_credentials").await["detail"], "the key has expired");
        }
    }
}

#[tokio::test]
async fn what_is_stored_is_no_key() {
    let app = with_acme().await;
    let (id, key) = make(&app, &request(ACME, &[Permission::Search, Permission::Ask])).await;
    let rows = app.owner().await.keys(Some(ACME)).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].id, rows[0].tenant_name.as_str(), rows[0].permissions.len()), (id, "acme", 2));
    let (client, connection) =
        tokio_postgres::connect(app.admin_url.expose_secret(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let row = client.query_one("SELECT k::text AS row FROM api_keys k", &[]).await.unwrap();
    let row: String = row.get("row");
    assert!(!row.contains(&key) && !row.contains(&key["ragway_".len()..]), "{row}");
    // What is stored, shown as a key, is none.
    let hash = row.split("\\\\x").nth(1).unwrap()[..64].to_owned();
    for wrong in [hash.clone(), format!("ragway_{hash}")] {
        let response = app.get("/api/v1/collections").bearer_auth(wrong).send().await.unwrap();
        problem(response, 401, "invalid_credentials").await;
    }
}

#[tokio::test]
async fn without_the_database_nobody_is_taken_for_somebody_else() {
    let app = TestApp::with(|setup| {
        setup.auth = Some(AuthSettings::default());
        setup.through_proxy = true;
    })
    .await;
    let (_, key) = make(&app, &request(TenantId::DEFAULT, &[Permission::Embedding])).await;
    app.proxy.as_ref().unwrap().cut();
    let embed = app.post("/api/v1/embed").json(&json!({"texts": ["a"]})).bearer_auth(&key);
    let response = embed.send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    problem(response, 503, "database_unavailable").await;
    let tei = app.post("/embed").json(&json!({"inputs": "a"})).bearer_auth(&key).send().await.unwrap();
    assert_eq!(tei.status(), 503);
    assert_eq!(tei.json::<Value>().await.unwrap()["error_type"], "Unhealthy");
    app.proxy.as_ref().unwrap().mend();
    let again = || app.post("/api/v1/embed").json(&json!({"texts": ["a"]})).bearer_auth(&key);
    eventually("the key works", async || again().send().await.unwrap().status() == 200).await;
}
