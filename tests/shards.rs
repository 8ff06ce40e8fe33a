//! Vectors on two other servers: a search over them finds what one over the single table finds.

use futures_util::future::try_join_all;
use ragway::{
    config::EmbeddingSpace,
    rag::filters::parse_filter,
    store::{
        BuildResources, Collection, Filter, FoundPassage, LexicalQuery, NearestPassages, PassageQuery,
        PlanKind, SearchEffort, Shard, ShardAdmin, Store, StoreError, TenantId, embedded::EmbeddedPostgres,
    },
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use crate::harness::{TestApp, another_server, catalog, execute, fresh_database, good};

const TENANT: TenantId = TenantId::DEFAULT;
const RESOURCES: BuildResources = BuildResources { memory_mb: 128, workers: 0 };
const ROWS: i64 = 24_000;

/// A collection of generated passages of eight dimensions, a hundred a document, with words.
async fn collection(store: &Store, admin_url: &SecretString) -> Collection {
    let space = EmbeddingSpace { id: "test@8".into(), model: "test".into(), dimension: 8 };
    store.create_collection(TENANT, "many", &space).await.unwrap();
    execute(
        admin_url,
        &format!(
            "SELECT setseed(0.5);
             INSERT INTO documents (id, tenant_id, collection_id, content_hash, format, content)
                 SELECT gen_random_uuid(), tenant_id, id, n::text::bytea, 'text/plain', n::text
                 FROM collections, generate_series(0, {ROWS} / 100 - 1) n WHERE name = 'many';
             INSERT INTO passages (id, tenant_id, collection_id, space_id, document_id, ordinal, content, metadata, embedding)
                 SELECT gen_random_uuid(), d.tenant_id, d.collection_id, 'test@8', d.id, n,
                        'ferry number ' || n || CASE WHEN n % 50 = 0 THEN ' to Nordby' ELSE '' END,
                        jsonb_build_object('n', 100 * d.content::int + n, 'even', n % 2 = 0),
                        (SELECT array_agg(random() - 0.5 ORDER BY i)::real[]::vector FROM generate_series(1, 8 + n * 0) i)
                 FROM documents d, generate_series(0, 99) n;
             ANALYZE"
        ),
    )
    .await;
    while store.fill_lexical_index().await.unwrap() {}
    store.collection(TENANT, "many").await.unwrap()
}

async fn search(
    store: &Store,
    collection: &Collection,
    vector: &[f32],
    filter: Option<&Filter>,
    effort: SearchEffort,
) -> Result<NearestPassages, StoreError> {
    let query = PassageQuery {
        tenant: TENANT,
        collection,
        vector: vector.to_vec(),
        k: 10,
        min_similarity: -1.0,
        filter,
        effort,
    };
    store.nearest_passages(query).await
}

fn filter(value: Value) -> Option<Filter> {
    parse_filter(&value).unwrap()
}

/// Vectors that differ from each other.
fn vectors() -> impl Iterator<Item = Vec<f32>> {
    (1..=8).map(|n| (1..=8).map(|i| ((n * i * 37) % 19) as f32 - 9.0).collect())
}

/// The same passages in the same order, with the same scores.
fn assert_same(found: &[FoundPassage], expected: &[FoundPassage]) {
    let ids = |passages: &[FoundPassage]| passages.iter().map(|passage| passage.id).collect::<Vec<_>>();
    assert_eq!(ids(found), ids(expected));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found.similarity - expected.similarity).abs() < 1e-6, "{found:?} {expected:?}");
        assert_eq!(found.content, expected.content);
    }
}

async fn connect(url: &SecretString) -> Client {
    let (client, connection) = tokio_postgres::connect(url.expose_secret(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn number(url: &SecretString, statement: &str) -> i64 {
    connect(url).await.query_typed_one(statement, &[]).await.unwrap().get(0)
}

fn shards(servers: &[EmbeddedPostgres]) -> Vec<Shard> {
    servers.iter().map(|server| Shard::parse(&server.admin_url()).unwrap()).collect()
}

#[tokio::test]
async fn a_search_over_shards_equals_one_over_a_single_table() {
    let (url, admin_url) = fresh_database().await;
    let store = Store::connect(&url, &catalog().database).await.unwrap();
    let many = collection(&store, &admin_url).await;
    let filters = [
        None,
        filter(json!({"even": true})),
        filter(json!({"type": "gt", "key": "n", "value": 4000})),
        filter(json!({"n": 77})),
    ];
    // What the single table says.
    let words = || LexicalQuery {
        tenant: TENANT,
        collection: &many,
        text: "the ferry to Nordby",
        vector: vec![1.0; 8],
        k: 20,
        filter: filters[1].as_ref(),
    };
    let by_words = store.lexical_matches(words()).await.unwrap().unwrap();
    assert_eq!(by_words.passages.len(), 20);

    let servers = try_join_all([0, 1].map(|_| async { Ok::<_, ()>(another_server().await) })).await.unwrap();
    let mut admin = ShardAdmin::connect(&admin_url).await.unwrap();
    admin.create(&shards(&servers), RESOURCES).await.unwrap();
    assert!(admin.create(&shards(&servers), RESOURCES).await.is_err(), "there are shards already");
    let states = admin.states().await.unwrap();
    assert_eq!(states.iter().map(|state| state.passages).sum::<i64>(), ROWS);
    assert!(states.iter().all(|state| state.passages > ROWS / 3 && state.indexes[0].2), "{states:?}");

    let scanned = async || {
        let mut scans = 0;
        for server in &servers {
            let of_indexes =
                "SELECT sum(idx_scan)::bigint FROM pg_stat_user_indexes WHERE indexrelname ~ 'hnsw'";
            scans += number(&server.admin_url(), of_indexes).await;
        }
        scans
    };
    // The index of the primary is of no use any more.
    execute(&admin_url, "DO $$ BEGIN EXECUTE 'DROP INDEX passages_hnsw_' || left(md5('test@8'), 16); END $$")
        .await;
    let before = scanned().await;
    for vector in vectors() {
        for filter in &filters {
            let found = search(&store, &many, &vector, filter.as_ref(), SearchEffort::Indexed).await.unwrap();
            let exact = search(&store, &many, &vector, filter.as_ref(), SearchEffort::Exact).await.unwrap();
            assert_same(&found.passages, &exact.passages);
            let few = filter == &filters[3];
            assert_eq!(found.plan.kind, if few { PlanKind::Exact } else { PlanKind::Index }, "{filter:?}");
        }
    }
    assert_eq!(store.lexical_matches(words()).await.unwrap().unwrap(), by_words);
    // Statistics are written a little later.
    crate::harness::eventually("the shards tell what they scanned", async || scanned().await >= before + 48)
        .await;
    let (plan, shard) = (explained(&url).await, servers[0].admin_url());
    assert_eq!(plan.matches("Async Foreign Scan").count(), 2, "{plan}");
    assert_eq!(plan.matches("ASC NULLS LAST LIMIT 10").count(), 2, "{plan}");

    // What is written is there at once, what is deleted is gone.
    let near = search(&store, &many, &[1.0; 8], None, SearchEffort::Indexed).await.unwrap().passages;
    let gone = near[0].document_id;
    let changed = near.iter().find(|passage| passage.document_id != gone).unwrap().document_id;
    let change =
        format!("UPDATE documents SET metadata = '{{\"even\": true, \"new\": 1}}' WHERE id = '{changed}'");
    execute(&admin_url, &format!("DELETE FROM documents WHERE id = '{gone}'; {change}")).await;
    let now = search(&store, &many, &[1.0; 8], filters[1].as_ref(), SearchEffort::Indexed).await.unwrap();
    assert_eq!(now.plan.kind, PlanKind::Index);
    assert!(now.passages.iter().all(|passage| passage.document_id != gone));
    let exact = search(&store, &many, &[1.0; 8], filters[1].as_ref(), SearchEffort::Exact).await.unwrap();
    assert_same(&now.passages, &exact.passages);
    let changed = "SELECT count(*) FROM passage_shards WHERE metadata @> '{\"new\": 1}'";
    assert_eq!(number(&admin_url, changed).await, 100);
    // A transaction that is given up leaves nothing on a shard.
    let client = connect(&admin_url).await;
    client.batch_execute("BEGIN; DELETE FROM documents WHERE content = '1'; ROLLBACK").await.unwrap();
    let states = admin.states().await.unwrap();
    assert_eq!(states.iter().map(|state| state.passages).sum::<i64>(), ROWS - 100);

    // Without a shard a search does not tell half of the truth; what the primary does alone it does.
    let [first, second] = <[EmbeddedPostgres; 2]>::try_from(servers).ok().unwrap();
    second.stop().await.unwrap();
    let failed = search(&store, &many, &[1.0; 8], None, SearchEffort::Indexed).await.unwrap_err();
    assert!(matches!(failed, StoreError::Unavailable(_)), "{failed:?}");
    search(&store, &many, &[1.0; 8], None, SearchEffort::Exact).await.unwrap();
    let left = admin.remove().await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(admin.states().await.unwrap().is_empty());
    admin.close().await;
    assert_eq!(number(&shard, "SELECT count(*) FROM pg_class WHERE relname ~ '^passage_shard'").await, 0);
    let alone = search(&store, &many, &[1.0; 8], filters[1].as_ref(), SearchEffort::Indexed).await.unwrap();
    assert_same(&alone.passages, &exact.passages);
    first.stop().await.unwrap();
}

#[tokio::test]
async fn both_lists_are_joined_over_shards_as_over_a_single_table() {
    let app = TestApp::with(|setup| setup.catalog.search.cache.max_bytes = 0).await;
    app.store_ferry().await;
    // Passages around those that are there, in a few directions: so many that an index is asked.
    execute(
        &app.admin_url,
        "SELECT setseed(0.5);
         INSERT INTO passages (id, tenant_id, collection_id, space_id, document_id, ordinal, content, metadata, embedding)
         SELECT gen_random_uuid(), p.tenant_id, p.collection_id, p.space_id, p.document_id, 1000 + n,
                p.content || ' ' || n || CASE WHEN n % 7 = 0 THEN ' in Nordby' ELSE '' END,
                jsonb_build_object('even', n % 2 = 0),
                (SELECT array_agg(v + CASE WHEN i <= 6 THEN (random() - 0.5) / 4 + n * 0 ELSE 0 END ORDER BY i)::real[]::vector
                 FROM unnest(p.embedding::real[]) WITH ORDINALITY dimension (v, i))
         FROM passages p, generate_series(1, 4000) n;
         ANALYZE passages",
    )
    .await;
    while app.rag.store().fill_lexical_index().await.unwrap() {}
    let results = |found: &Value| found["results"].as_array().unwrap().clone();
    let search = async |query: &str, filters: Value, exact: bool| {
        let body = json!({"query": query, "k": 20, "mode": "hybrid", "threshold": -1.0, "filters": filters,
            "exact": exact, "explain": true});
        good(app.search(body).await).await
    };
    let searches = [
        ("What does a bicycle cost in Nordby?", Value::Null),
        ("ferry timetable", Value::Null),
        ("bicycle", json!({"even": true})),
    ];
    let mut of_one_table = Vec::new();
    for (query, filters) in &searches {
        let found = search(query, filters.clone(), true).await;
        assert_eq!((&found["mode"], results(&found).len()), (&json!("hybrid"), 20), "{found}");
        of_one_table.push(found);
    }
    let servers = try_join_all([0, 1].map(|_| async { Ok::<_, ()>(another_server().await) })).await.unwrap();
    let mut admin = ShardAdmin::connect(&app.admin_url).await.unwrap();
    admin.create(&shards(&servers), RESOURCES).await.unwrap();
    admin.close().await;
    execute(&app.admin_url, "DO $$ BEGIN EXECUTE (SELECT 'DROP INDEX ' || indexname FROM pg_indexes WHERE indexname ~ '^passages_hnsw_'); END $$").await;
    for ((query, filters), expected) in searches.into_iter().zip(of_one_table) {
        let found = search(query, filters, false).await;
        assert_eq!(found["plan"]["kind"], "index", "{found}");
        assert_eq!(results(&found), results(&expected));
    }
    for server in servers {
        server.stop().await.unwrap();
    }
}

/// The plan of what a search reads of the shards, for the application's role.
async fn explained(url: &SecretString) -> String {
    let part = |shard: i32| {
        let distance = "p.embedding::vector(8) <=> '[1,1,1,1,1,1,1,1]'::vector";
        format!(
            "(SELECT p.id, {distance} FROM passage_shard_{shard} p WHERE p.space_id = 'test@8'
              AND p.metadata @> '{{\"even\": true}}' ORDER BY {distance} LIMIT 10)"
        )
    };
    let statement = format!(
        "EXPLAIN (VERBOSE) SELECT * FROM (SELECT * FROM ({} UNION ALL {}) part (id, distance) OFFSET 0) near
         WHERE near.distance IS NOT NULL",
        part(0),
        part(1)
    );
    let client = connect(url).await;
    client.batch_execute("SET enable_sort = off").await.unwrap();
    let rows = client.query_typed(&statement, &[]).await.unwrap();
    rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn what_else_spreads_the_table_is_searched_as_one() {
    let (url, admin_url) = fresh_database().await;
    let store = Store::connect(&url, &catalog().database).await.unwrap();
    let many = collection(&store, &admin_url).await;
    execute(
        &admin_url,
        "CREATE TABLE passage_shards AS SELECT id, tenant_id, collection_id, space_id, metadata, embedding FROM passages;
         CREATE INDEX ON passage_shards USING hnsw ((embedding::vector(8)) vector_cosine_ops) WHERE space_id = 'test@8';
         GRANT SELECT ON passage_shards TO ragway;
         DO $$ BEGIN EXECUTE 'DROP INDEX passages_hnsw_' || left(md5('test@8'), 16); END $$",
    )
    .await;
    let plan = async || search(&store, &many, &[1.0; 8], None, SearchEffort::Indexed).await.unwrap();
    assert_eq!(plan().await.plan.kind, PlanKind::Exact, "nobody said that it is whole");
    execute(&admin_url, "COMMENT ON TABLE passage_shards IS 'searches read it'").await;
    let found = plan().await;
    assert_eq!(found.plan.kind, PlanKind::Index);
    let exact = search(&store, &many, &[1.0; 8], None, SearchEffort::Exact).await.unwrap();
    assert_same(&found.passages, &exact.passages);
}

#[tokio::test]
async fn servers_that_cannot_be_shards_are_refused() {
    let parse = |url: &str| Shard::parse(&SecretString::from(url)).unwrap_err().to_string();
    assert!(parse("postgresql://user@host/database").contains("password"));
    assert!(parse("postgresql://user:password@one,two/database").contains("one host"));
    assert!(parse("postgresql://user:password@host").contains("database"));
    let (_, admin_url) = fresh_database().await;
    let mut admin = ShardAdmin::connect(&admin_url).await.unwrap();
    let gone = Shard::parse(&SecretString::from("postgresql://user:secret@127.0.0.1:1/gone")).unwrap();
    let refused = admin.create(&[gone], RESOURCES).await.unwrap_err().to_string();
    assert!(refused.contains("127.0.0.1:1/gone") && !refused.contains("secret"), "{refused}");
    assert!(admin.create(&[], RESOURCES).await.is_err());
    admin.close().await;
}
