use serde_json::json;

use crate::harness::{TestApp, eventually, execute, good, problem};

#[tokio::test]
async fn collections_are_made_listed_and_deleted_with_their_documents() {
    let app = TestApp::start().await;
    let made = app.post("/api/v1/collections").json(&json!({"name": "handbook"})).send().await.unwrap();
    assert_eq!(made.status(), 201);
    assert_eq!(good(made).await["dimension"], 384);
    let document = json!({"content": "The bridge opens at noon."});
    good(app.post("/api/v1/documents?collection=handbook").json(&document).send().await.unwrap()).await;
    let shown = good(app.get("/api/v1/collections/handbook").send().await.unwrap()).await;
    assert_eq!((&shown["documents"], &shown["passages"]), (&json!(1), &json!(1)));
    let listed = good(app.get("/api/v1/collections").send().await.unwrap()).await;
    let names: Vec<_> = listed["collections"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["default", "handbook"]);
    assert_eq!(app.delete("/api/v1/collections/handbook").send().await.unwrap().status(), 204);
    let gone = app.get("/api/v1/collections/handbook").send().await.unwrap();
    problem(gone, 404, "unknown_collection").await;
}

#[tokio::test]
async fn one_collection_does_not_see_another() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    good(app.post("/api/v1/collections").json(&json!({"name": "other"})).send().await.unwrap()).await;
    let found = app.search(json!({"query": "bicycle", "threshold": -1.0, "collection": "other"})).await;
    assert_eq!(good(found).await["count"], 0);
}

#[tokio::test]
async fn wrong_names_are_refused() {
    let app = TestApp::start().await;
    for name in ["", "a b", "../x", "x\u{0}"] {
        let response = app.post("/api/v1/collections").json(&json!({"name": name})).send().await.unwrap();
        problem(response, 400, "invalid_request").await;
    }
    let again = app.post("/api/v1/collections").json(&json!({"name": "default"})).send().await.unwrap();
    problem(again, 409, "collection_exists").await;
    let unknown = json!({"name": "new", "model": "gpt"});
    let unknown = app.post("/api/v1/collections").json(&unknown).send().await.unwrap();
    problem(unknown, 400, "unknown_model").await;
}

#[tokio::test]
async fn a_collection_of_another_space_is_refused_with_what_to_do() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    // The same dimension, another model: only the space tells them apart.
    execute(
        &app.admin_url,
        "SELECT register_embedding_space('other@0:mean:l2:fp32', 'other', 384);
         INSERT INTO collections (id, tenant_id, name, space_id)
         SELECT gen_random_uuid(), id, 'foreign', 'other@0:mean:l2:fp32' FROM tenants",
    )
    .await;
    let found = app.search(json!({"query": "bicycle", "collection": "foreign"})).await;
    let told = problem(found, 409, "space_mismatch").await;
    assert!(told["detail"].as_str().unwrap().contains("make a new collection"));
    let asked = app.ask(json!({"question": "bicycle?", "collection": "foreign"})).await;
    problem(asked, 409, "space_mismatch").await;
    let document = json!({"content": "The bridge opens at noon."});
    let stored = app.post("/api/v1/documents?collection=foreign").json(&document).send().await.unwrap();
    problem(stored, 409, "space_mismatch").await;
    good(app.get("/health/ready").send().await.unwrap()).await;
    execute(
        &app.admin_url,
        "DELETE FROM collections WHERE name = 'default'; UPDATE collections SET name = 'default'",
    )
    .await;
    // Probes are told for a second what was found out.
    let ready = async || app.get("/health/ready").send().await.unwrap();
    eventually("it is not ready", async || ready().await.status() == 409).await;
    problem(ready().await, 409, "space_mismatch").await;
}

#[tokio::test]
async fn the_database_itself_refuses_a_vector_of_another_space() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    let (client, connection) =
        tokio_postgres::connect(secrecy::ExposeSecret::expose_secret(&app.admin_url), tokio_postgres::NoTls)
            .await
            .unwrap();
    tokio::spawn(connection);
    client
        .batch_execute("SELECT register_embedding_space('other@0:mean:l2:fp32', 'other', 384)")
        .await
        .unwrap();
    let mixed = client.batch_execute("UPDATE passages SET space_id = 'other@0:mean:l2:fp32'").await;
    assert!(mixed.unwrap_err().as_db_error().unwrap().message().contains("foreign key"));
    let short = client.batch_execute("UPDATE passages SET embedding = '[1,2,3]'").await;
    assert!(short.unwrap_err().as_db_error().unwrap().message().contains("384 dimensions"));
}
