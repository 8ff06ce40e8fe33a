//! The database keeps tenants apart, whatever a statement's own conditions are.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use ragway::{
    config::EmbeddingSpace,
    rag::{Caller, embed::EmbedderChoice, ingest::SourceFile},
    store::{
        NewAnswer, NewJob, PassageQuery, QuotedPassage, Rating, SearchEffort, Store, StoreError, TenantAdmin,
        TenantId, TenantIsolation, UsageAccount, UsageCounts, migrate,
    },
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::{
    cache::Redis,
    encryption::{keys, written},
    harness::{TestApp, catalog, database_of_version, eventually, execute, fresh_database},
};

/// Tables whose rows belong to nobody in particular.
const SHARED: &[&str] = &["embedding_spaces", "embed_routes", "encryption_keys", "refinery_schema_history"];

async fn connect(url: &SecretString) -> Client {
    let (client, connection) = tokio_postgres::connect(url.expose_secret(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn number(client: &Client, statement: &str) -> i64 {
    client.query_one(statement, &[]).await.unwrap_or_else(|error| panic!("{statement}: {error:?}")).get(0)
}

/// What a statement of one tenant counts; without a tenant where there is none.
async fn count_as(client: &Client, tenant: Option<TenantId>, statement: &str) -> i64 {
    client.batch_execute("BEGIN").await.unwrap();
    if let Some(tenant) = tenant {
        see(client, tenant).await;
    }
    let count = number(client, statement).await;
    client.batch_execute("COMMIT").await.unwrap();
    count
}

async fn see(client: &Client, tenant: TenantId) {
    client.query_one("SELECT set_config('app.tenant', $1, true)", &[&tenant.0.to_string()]).await.unwrap();
}

/// Every table and view of ours with rows of tenants.
async fn guarded(admin: &Client) -> Vec<String> {
    let statement = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'v')
                     AND relnamespace = 'public'::regnamespace ORDER BY relname";
    let rows = admin.query(statement, &[]).await.unwrap();
    let names = rows.iter().map(|row| row.get::<_, String>(0));
    names.filter(|name| !SHARED.contains(&name.as_str())).collect()
}

async fn new_tenant(admin_url: &SecretString, name: &str) -> TenantId {
    let admin = TenantAdmin::connect(admin_url).await.unwrap();
    let id = admin.create(name).await.unwrap();
    admin.close().await;
    id
}

/// Gives a tenant rows in every table: documents through ragway, the rest as ragway writes it.
async fn populate(app: &TestApp, tenant: TenantId) {
    let caller = Caller::from(tenant);
    app.rag.ensure_default_collection(tenant).await.unwrap();
    for (name, text) in
        [("fares", "A bicycle costs 3 euros each way."), ("times", "The ferry leaves at noon.")]
    {
        let file = SourceFile {
            bytes: format!("{text} This is of {}.", tenant.0).into_bytes(),
            content_type: Some("text/plain".into()),
            external_id: Some(name.into()),
            ..SourceFile::default()
        };
        app.rag.ingest(caller, None, file).await.unwrap();
    }
    let store = app.rag.store();
    let collection = store.collection(tenant, "default").await.unwrap();
    let admin = connect(&app.admin_url).await;
    let passage = admin
        .query_one("SELECT id, document_id FROM passages WHERE tenant_id = $1 LIMIT 1", &[&tenant.0])
        .await
        .unwrap();
    let answer = NewAnswer {
        id: Uuid::now_v7(),
        tenant,
        key: None,
        collection: collection.id,
        texts: Some(("What does it cost?".into(), "3 euros [1].".into())),
        method: "generated",
        backend: "m".into(),
        prompt_tokens: 1,
        completion_tokens: 1,
        cost_nano: 1,
        elapsed: Duration::from_millis(1),
        citations: vec![QuotedPassage {
            n: 1,
            document: passage.get("document_id"),
            passage: passage.get("id"),
        }],
    };
    store.record_answer(&answer).await.unwrap();
    assert!(store.rate_answer(tenant, answer.id, Rating::Up, Some("Right.")).await.unwrap());
    store.add_usage(&[used(tenant)]).await.unwrap();
    let job = NewJob {
        key: None,
        kind: "test",
        payload: b"{\"texts\":[]}".to_vec(),
        total: 1,
        max_attempts: 1,
        keep: Duration::from_secs(60),
    };
    let job = store.enqueue_job(tenant, &job, 10).await.unwrap();
    // What only a worker, folding or the owner write.
    admin
        .batch_execute(&format!(
            "INSERT INTO job_steps VALUES ('{job}', '{0}', 0, '[]');
             INSERT INTO term_counts SELECT id, tenant_id, 'bicycl', 1 FROM lexical_indexes WHERE tenant_id = '{0}';
             INSERT INTO collection_indexes
                 SELECT id, tenant_id, space_id, 'exact', 16, 64, 100, NULL FROM collections WHERE tenant_id = '{0}';
             INSERT INTO collection_fields SELECT id, tenant_id, 'year', 'of ' || id FROM collections
                 WHERE tenant_id = '{0}'",
            tenant.0
        ))
        .await
        .unwrap();
}

fn used(tenant: TenantId) -> (UsageAccount, UsageCounts) {
    let day = time::OffsetDateTime::now_utc().date();
    let account = UsageAccount { day, tenant, key: None, operation: "ask", backend: "m".into() };
    (account, UsageCounts { requests: 1, ..UsageCounts::default() })
}

#[tokio::test]
async fn a_transaction_sees_the_rows_of_its_tenant_and_without_one_none() {
    let app = TestApp::with(|setup| setup.encryption = keys(&[1])).await;
    let tenants = [TenantId::DEFAULT, new_tenant(&app.admin_url, "second").await];
    for tenant in tenants {
        populate(&app, tenant).await;
    }
    let (admin, client) = (connect(&app.admin_url).await, connect(&app.database_url).await);
    let mut seen = 0;
    for table in guarded(&admin).await {
        let all = format!("SELECT count(*) FROM {table}");
        let total = match table.starts_with("tenant_") {
            // A view has its condition for everybody.
            true => number(&admin, &format!("SELECT count(*) FROM {}", &table["tenant_".len()..])).await,
            false => number(&admin, &all).await,
        };
        let mut parts = Vec::new();
        for tenant in tenants {
            parts.push(count_as(&client, Some(tenant), &all).await);
        }
        assert_eq!(parts.iter().sum::<i64>(), total, "{table}: {parts:?}");
        assert_eq!(count_as(&client, None, &all).await, 0, "{table}");
        assert_eq!(count_as(&client, Some(TenantId(Uuid::now_v7())), &all).await, 0, "{table}");
        // An empty table proves nothing.
        assert!(total == 0 || parts.iter().all(|part| *part > 0), "{table}: {parts:?}");
        seen += usize::from(total > 0);
        let columns = "SELECT count(*) FROM information_schema.columns WHERE column_name = 'tenant_id' AND table_name = ";
        if number(&admin, &format!("{columns}'{table}'")).await > 0 {
            let [first, second] = tenants;
            let foreign = format!("SELECT count(*) FROM {table} WHERE tenant_id <> '{}'", first.0);
            assert_eq!(count_as(&client, Some(first), &foreign).await, 0, "{table}");
            assert!(total == 0 || count_as(&client, Some(second), &foreign).await > 0, "{table}");
        }
    }
    assert!(seen >= 20, "only {seen} tables and views have rows");
    // What a transaction named is gone with it.
    assert_eq!(number(&client, "SELECT count(*) FROM documents").await, 0);
    assert_eq!(app.rag.store().tenant_isolation().await.unwrap(), TenantIsolation::Enforced);
}

#[tokio::test]
async fn every_table_is_guarded_or_known_to_be_shared() {
    let (_, admin_url) = fresh_database().await;
    let admin = connect(&admin_url).await;
    let rows = admin
        .query(
            "SELECT c.relname, c.relrowsecurity, EXISTS (SELECT FROM pg_policy p
                 WHERE p.polrelid = c.oid AND p.polname = 'tenant_rows' AND p.polcmd = '*' AND p.polpermissive
                   AND p.polroles = '{0}') AS guarded,
                    (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid) AS policies
             FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace",
            &[],
        )
        .await
        .unwrap();
    for row in &rows {
        let name: &str = row.get("relname");
        let guarded = row.get("relrowsecurity") && row.get("guarded") && row.get::<_, i64>("policies") == 1;
        assert_ne!(
            guarded,
            SHARED.contains(&name),
            "{name}: a migration that makes a table calls keep_tenants_apart for it, or its rows belong to \
             nobody and it is named in SHARED"
        );
    }
    assert!(rows.len() >= 20, "{}", rows.len());
}

#[tokio::test]
async fn nothing_is_written_to_another_tenant() {
    let app = TestApp::start().await;
    let second = new_tenant(&app.admin_url, "second").await;
    for tenant in [TenantId::DEFAULT, second] {
        populate(&app, tenant).await;
    }
    let (admin, mut client) = (connect(&app.admin_url).await, connect(&app.database_url).await);
    let theirs = format!("SELECT count(*) FROM documents WHERE tenant_id = '{}' AND title IS NULL", second.0);
    let before = number(&admin, &theirs).await;
    assert!(before > 0);
    let transaction = client.transaction().await.unwrap();
    transaction
        .query_one("SELECT set_config('app.tenant', $1, true)", &[&TenantId::DEFAULT.0.to_string()])
        .await
        .unwrap();
    assert!(transaction.execute("UPDATE documents SET title = 'mine'", &[]).await.unwrap() > 0);
    assert!(transaction.execute("DELETE FROM answers", &[]).await.unwrap() > 0);
    assert!(transaction.execute("DELETE FROM tenant_passages", &[]).await.unwrap() > 0);
    transaction.commit().await.unwrap();
    assert_eq!(number(&admin, &theirs).await, before);
    for table in ["answers", "passages"] {
        let left = format!("SELECT count(*) FROM {table} WHERE tenant_id = '{}'", second.0);
        assert!(number(&admin, &left).await > 0, "{table}");
    }
    for statement in [
        format!("INSERT INTO collections SELECT gen_random_uuid(), '{}', 'x', id FROM embedding_spaces", second.0),
        format!("UPDATE documents SET tenant_id = '{}'", second.0),
        format!(
            "INSERT INTO tenant_passages SELECT (p).* FROM (SELECT jsonb_populate_record(p,
                 jsonb_build_object('id', gen_random_uuid(), 'ordinal', -1, 'tenant_id', '{}')) p FROM passages p LIMIT 1) p",
            second.0
        ),
    ] {
        app.store(json!({"content": "Something to copy."})).await;
        client.batch_execute("BEGIN").await.unwrap();
        see(&client, TenantId::DEFAULT).await;
        let refused = client.batch_execute(&statement).await.unwrap_err();
        let message = refused.as_db_error().map_or("", |error| error.message());
        assert!(message.contains("row-level security") || message.contains("check option"), "{statement}: {message}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test]
async fn what_is_done_for_all_tenants_is_done_and_told_no_further() {
    let app = TestApp::start().await;
    let second = new_tenant(&app.admin_url, "second").await;
    let store = app.rag.store();
    let job = NewJob {
        key: None,
        kind: "test",
        payload: b"of the second".to_vec(),
        total: 1,
        max_attempts: 3,
        keep: Duration::ZERO,
    };
    let id = store.enqueue_job(second, &job, 10).await.unwrap();
    let claimed = store.claim_job(&["test"], Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!((claimed.lease.tenant, claimed.lease.job), (second, id));
    assert_eq!((claimed.payload.as_slice(), claimed.attempts), (b"of the second".as_slice(), 1));
    store.finish_job(&claimed.lease, b"[]").await.unwrap();
    assert_eq!(store.job(TenantId::DEFAULT, id).await.unwrap(), None);
    eventually("it is swept", async || store.job(second, id).await.unwrap().is_none()).await;
    eventually("its row too", async || {
        store.sweep_jobs(10).await.unwrap();
        number(&connect(&app.admin_url).await, "SELECT count(*) FROM jobs").await == 0
    })
    .await;

    // One that is gone keeps nobody's usage from being written.
    let erased = TenantId(Uuid::now_v7());
    store.add_usage(&[used(erased), used(second), used(TenantId::DEFAULT)]).await.unwrap();
    store.add_usage(&[used(second)]).await.unwrap();
    let today = used(second).0.day;
    let spent = store.usage_spent(today, today).await.unwrap();
    let of = |tenant| {
        let mut of_tenant = spent.iter().filter(move |spent| spent.tenant == tenant);
        of_tenant.next().map(|spent| spent.today.requests)
    };
    assert_eq!((of(second), of(TenantId::DEFAULT), of(erased)), (Some(2), Some(1), None));

    // Indexes of all tenants are filled.
    for tenant in [TenantId::DEFAULT, second] {
        populate(&app, tenant).await;
    }
    execute(
        &app.admin_url,
        "DELETE FROM passage_terms; UPDATE lexical_indexes SET fill_from = '00000000-0000-0000-0000-000000000000'",
    )
    .await;
    let admin = connect(&app.admin_url).await;
    let missing = "SELECT count(*) FROM passages p WHERE NOT EXISTS (SELECT FROM passage_terms t WHERE t.passage_id = p.id)";
    eventually("the words are indexed again", async || number(&admin, missing).await == 0).await;
    let strangers = "SELECT count(*) FROM passage_terms t JOIN passages p ON p.id = t.passage_id WHERE p.tenant_id <> t.tenant_id";
    assert_eq!(number(&admin, strangers).await, 0);
}

#[tokio::test]
async fn vectors_that_one_tenant_has_computed_are_not_told_to_another() {
    let app = TestApp::start().await;
    let second = new_tenant(&app.admin_url, "second").await;
    let choice = EmbedderChoice::Type("text-embedding".into());
    let role = ragway::models::TextRole::Query;
    let hits = async |tenant: TenantId| {
        let texts = vec!["the plan that nobody may know of".to_owned()];
        app.rag.embed_cached(tenant.into(), &choice, texts, role).await.unwrap().hits.len()
    };
    assert_eq!((hits(second).await, hits(second).await), (0, 1));
    assert_eq!((hits(TenantId::DEFAULT).await, hits(TenantId::DEFAULT).await), (0, 1));
}

/// A collection of generated passages with random vectors and words. Every 67th is rare.
async fn generate(admin_url: &SecretString, tenant: TenantId, rows: usize) {
    execute(
        admin_url,
        &format!(
            "INSERT INTO documents (id, tenant_id, collection_id, content_hash, format, content)
                 SELECT id, tenant_id, id, '\\x00', 'text/plain', 'generated' FROM collections
                 WHERE tenant_id = '{0}';
             SET ragway.terms = 'written';
             INSERT INTO passages (id, tenant_id, collection_id, space_id, document_id, ordinal, content, metadata, embedding)
             SELECT gen_random_uuid(), c.tenant_id, c.id, c.space_id, c.id, n, 'passage',
                    jsonb_build_object('n', n, 'rare', n % 67 = 0),
                    (SELECT array_agg(random() - 0.5)::real[]::vector(16) FROM generate_series(1, 16 + n * 0))
             FROM collections c, generate_series(1, {rows}) n WHERE c.tenant_id = '{0}';
             INSERT INTO passage_terms (passage_id, tenant_id, index_id, language, words, terms)
             SELECT p.id, p.tenant_id, i.id, 'english', 2,
                    array_to_tsvector(ARRAY['@' || i.id, 'word' || p.ordinal % 500, 'passage'])
             FROM passages p JOIN lexical_indexes i USING (collection_id) WHERE p.tenant_id = '{0}';",
            tenant.0
        ),
    )
    .await;
}

#[tokio::test]
async fn searches_use_the_indexes_though_their_conditions_are_taken_away() {
    let (url, admin_url) = fresh_database().await;
    let store = Store::connect(&url, &catalog().database).await.unwrap();
    let second = new_tenant(&admin_url, "second").await;
    let space = EmbeddingSpace { id: "test@16".into(), model: "test".into(), dimension: 16 };
    for (tenant, rows) in [(TenantId::DEFAULT, 30_000), (second, 600)] {
        store.create_collection(tenant, "default", &space).await.unwrap();
        generate(&admin_url, tenant, rows).await;
    }
    execute(&admin_url, "VACUUM ANALYZE passages").await;
    execute(&admin_url, "VACUUM ANALYZE passage_terms").await;
    let (client, admin) = (connect(&url).await, connect(&admin_url).await);
    let vector = format!("'[{}]'::vector(16)", ["0.1"; 16].join(","));
    let nearest = format!(
        "SELECT id FROM tenant_passages p WHERE space_id = 'test@16'
         ORDER BY p.embedding::vector(16) <=> {vector} LIMIT 10"
    );
    let statement = format!("SELECT id FROM lexical_indexes WHERE tenant_id = '{}'", TenantId::DEFAULT.0);
    let words = format!(
        "SELECT passage_id FROM tenant_passage_terms WHERE terms @@ '''@{}'' & ''word7'''::tsquery",
        number(&admin, &statement).await
    );
    let filtered = r#"SELECT id FROM tenant_passages p WHERE p.metadata @> '{"rare": true}'"#.to_owned();
    let cases =
        [(&nearest, "passages_hnsw_"), (&words, "passage_terms_terms"), (&filtered, "passages_metadata")];
    for (statement, index) in cases {
        client.batch_execute("BEGIN").await.unwrap();
        see(&client, TenantId::DEFAULT).await;
        let plan = client.query(&format!("EXPLAIN {statement}"), &[]).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        client.batch_execute("COMMIT").await.unwrap();
        assert!(plan.iter().any(|line| line.contains(index)), "{plan:#?}");
    }
    // They find one tenant's passages: 600 of 30,600, and as many as were asked for.
    for (statement, count) in [(&nearest, 10), (&filtered, 600 / 67), (&words, 0)] {
        client.batch_execute("BEGIN; SET LOCAL hnsw.iterative_scan = strict_order").await.unwrap();
        see(&client, second).await;
        let rows = client.query(statement, &[]).await.unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        let ids: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
        let theirs = "SELECT count(*) FROM passages WHERE id = ANY($1) AND tenant_id = $2";
        let theirs: i64 = admin.query_one(theirs, &[&ids, &second.0]).await.unwrap().get(0);
        assert_eq!((ids.len(), theirs), (count, count as i64), "{statement}");
    }
}

#[tokio::test]
async fn an_old_database_goes_on_until_it_is_told_to_keep_tenants_apart() {
    let (url, admin_url) = database_of_version(13).await;
    let store = Store::connect(&url, &catalog().database).await.unwrap();
    execute(
        &admin_url,
        "SELECT register_embedding_space('test@16', 'test', 16);
         INSERT INTO collections (id, tenant_id, name, space_id)
             SELECT gen_random_uuid(), id, 'default', 'test@16' FROM tenants",
    )
    .await;
    // A search of the version before holds the tables for a while; the update waits and leaves it alone.
    let reader = connect(&url).await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM passages").await.unwrap();
    let updating = tokio::spawn({
        let admin_url = admin_url.clone();
        async move { migrate(&admin_url, Some("ragway")).await }
    });
    let watcher = connect(&admin_url).await;
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'passages'::regclass";
    eventually("the update waits", async || number(&watcher, waits).await == 1).await;
    eventually("it steps back", async || number(&watcher, waits).await == 0).await;
    reader.batch_execute("SELECT count(*) FROM collections; COMMIT").await.unwrap();
    assert_eq!(updating.await.unwrap().unwrap().applied[0], "V14__tenants_apart");

    // Its statements name no tenant.
    assert_eq!(number(&reader, "SELECT count(*) FROM collections").await, 1);
    assert_eq!(store.tenant_isolation().await.unwrap(), TenantIsolation::NotYet);
    assert_eq!(store.collection(TenantId::DEFAULT, "default").await.unwrap().name, "default");
    let (refused, _, told) = tenant_command(&url, &admin_url, &["create", "second"]);
    assert!(!refused.status.success() && told.contains("`ragway tenant enforce`"), "{told}");

    let (done, said, told) = tenant_command(&url, &admin_url, &["enforce"]);
    assert!(done.status.success() && said.contains("tables are on now"), "{said}{told}");
    assert_eq!(number(&reader, "SELECT count(*) FROM collections").await, 0);
    assert_eq!(store.collection(TenantId::DEFAULT, "default").await.unwrap().name, "default");
    let (again, said, _) = tenant_command(&url, &admin_url, &["enforce"]);
    assert!(again.status.success() && said.contains("nothing to do"), "{said}");
    // The owner is exempt: with its role alone there can be no second tenant.
    let (refused, _, told) = tenant_command(&admin_url, &admin_url, &["create", "second"]);
    assert!(!refused.status.success() && told.contains("a role of its own"), "{told}");
    let (refused, _, told) = tenant_command(&url, &url, &["list"]);
    assert!(!refused.status.success() && told.contains("DATABASE_ADMIN_URL"), "{told}");
    let (made, said, told) = tenant_command(&url, &admin_url, &["create", "second"]);
    assert!(made.status.success() && Uuid::parse_str(said.trim()).is_ok(), "{said}{told}");
}

fn tenant_command(
    url: &SecretString,
    admin_url: &SecretString,
    arguments: &[&str],
) -> (Output, String, String) {
    run_tenant_command(url, admin_url, None, arguments)
}

fn run_tenant_command(
    url: &SecretString,
    admin_url: &SecretString,
    redis_url: Option<&str>,
    arguments: &[&str],
) -> (Output, String, String) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ragway"));
    command.env_clear().env("RAGWAY_HOME", home.path()).current_dir(home.path());
    command.env("DATABASE_URL", url.expose_secret()).env("DATABASE_ADMIN_URL", admin_url.expose_secret());
    if let Some(redis_url) = redis_url {
        command.env("REDIS_URL", redis_url);
    }
    // Where nothing is sealed it does no harm.
    command.env("RAGWAY_ENCRYPTION_KEYS", format!("plain,{}", written(&[1])));
    let output = command.arg("tenant").args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

/// The lines of an exported file.
fn lines(folder: &Path, kind: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.join(format!("{kind}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_tenant_is_exported_and_erased_without_a_trace() {
    let redis = Redis::start().await;
    let app = TestApp::with(|setup| setup.redis_url = Some(redis.url().into())).await;
    exported_and_erased(&app, &redis).await;
}

#[tokio::test]
async fn so_is_one_whose_texts_are_sealed() {
    let redis = Redis::start().await;
    let app = TestApp::with(|setup| {
        setup.redis_url = Some(redis.url().into());
        setup.encryption = keys(&[1]);
    })
    .await;
    exported_and_erased(&app, &redis).await;
}

async fn exported_and_erased(app: &TestApp, redis: &Redis) {
    let run = |arguments: &[&str]| {
        run_tenant_command(&app.database_url, &app.admin_url, Some(&redis.url()), arguments)
    };
    let (made, id, told) = run(&["create", "second"]);
    assert!(made.status.success(), "{told}");
    let second = TenantId(Uuid::parse_str(id.trim()).unwrap());
    let (refused, _, told) = run(&["create", "second"]);
    assert!(!refused.status.success() && told.contains("already a tenant `second`"), "{told}");
    for tenant in [TenantId::DEFAULT, second] {
        populate(app, tenant).await;
    }
    let choice = EmbedderChoice::Type("text-embedding".into());
    for tenant in [TenantId::DEFAULT, second] {
        let texts = vec!["a text".to_owned()];
        app.rag.embed_cached(tenant.into(), &choice, texts, ragway::models::TextRole::Query).await.unwrap();
    }
    eventually("both are cached", async || redis.keys().await.len() == 2).await;
    // What was counted is written before rows are counted.
    app.rag.ledger().flush().await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("export");
    let (done, said, told) = run(&["export", "second", "--to", target.to_str().unwrap()]);
    assert!(done.status.success(), "{told}");
    assert!(said.contains("documents.jsonl: 2"), "{said}");
    let (refused, _, told) = run(&["export", "second", "--to", target.to_str().unwrap()]);
    assert!(!refused.status.success() && told.contains("cannot be made"), "{told}");
    let exported: BTreeMap<&str, Vec<Value>> =
        ["tenant", "collections", "documents", "passages", "jobs", "usage", "answers"]
            .map(|kind| (kind, lines(&target, kind)))
            .into();
    assert_eq!(exported["tenant"][0]["name"], "second");
    let documents = &exported["documents"];
    assert_eq!(documents.len(), 2);
    assert!(documents[0]["content"].as_str().unwrap().ends_with(&format!("This is of {}.", second.0)));
    assert_eq!(
        (&documents[0]["external_id"], &documents[0]["collection"]),
        (&json!("fares"), &json!("default"))
    );
    assert_eq!(exported["passages"][0]["document_id"], documents[0]["id"]);
    assert_eq!(exported["answers"][0]["comment"], "Right.");
    assert_eq!(exported["answers"][0]["citations"][0]["n"], 1);
    assert_eq!(exported["jobs"][0]["payload"], "{\"texts\":[]}");
    assert_eq!(exported["jobs"][0]["steps"], json!(["[]"]));
    assert!(exported["usage"].iter().any(|row| row["operation"] == "ask" && row["requests"] == 1));
    let written = fs::read_dir(&target).unwrap();
    for file in written {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains(&TenantId::DEFAULT.0.to_string()), "{text}");
    }

    let (refused, _, told) = run(&["erase", "second"]);
    assert!(!refused.status.success() && told.contains("2 documents") && told.contains("--yes"), "{told}");
    let (refused, _, told) = run(&["erase", "default", "--yes"]);
    assert!(!refused.status.success() && told.contains("stays"), "{told}");
    let admin = connect(&app.admin_url).await;
    assert!(traces(&admin, second).await.len() >= 15);
    let others = traces(&admin, TenantId::DEFAULT).await;
    let (done, said, told) = run(&["erase", &second.0.to_string(), "--yes"]);
    assert!(done.status.success() && said.contains("is erased"), "{said}{told}");
    assert_eq!(traces(&admin, second).await, Vec::<String>::new());
    assert_eq!(traces(&admin, TenantId::DEFAULT).await, others);
    // These say whose they are by what they belong to.
    for table in ["answer_citations", "collection_versions"] {
        assert_eq!(number(&admin, &format!("SELECT count(*) FROM {table}")).await, 1, "{table}");
    }
    let left = redis.keys().await;
    assert!(left.len() == 1 && left[0].contains(&TenantId::DEFAULT.0.to_string()), "{left:?}");
    let (_, said, _) = run(&["list"]);
    assert!(!said.contains("second") && said.contains("default"), "{said}");
    // Whoever still asks in its name finds and leaves nothing.
    let unknown = app.rag.store().collection(second, "default").await;
    assert!(matches!(unknown, Err(StoreError::UnknownCollection(_))), "{unknown:?}");
    assert!(app.rag.ensure_default_collection(second).await.is_err());
    app.rag.ledger().flush().await.unwrap();
    assert_eq!(traces(&admin, second).await, Vec::<String>::new());
}

/// Tables that say a tenant's id anywhere, and in how many rows.
async fn traces(admin: &Client, tenant: TenantId) -> Vec<String> {
    let statement =
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
                     ORDER BY relname";
    let mut found = Vec::new();
    for row in admin.query(statement, &[]).await.unwrap() {
        let table: &str = row.get(0);
        let statement = format!("SELECT count(*) FROM {table} t WHERE t::text LIKE '%{}%'", tenant.0);
        let count = number(admin, &statement).await;
        if count > 0 {
            found.push(format!("{table}: {count}"));
        }
    }
    found
}

/// PgBouncer before a database: in transaction mode, with one connection to it.
struct PgBouncer {
    url: SecretString,
    process: Child,
    _folder: tempfile::TempDir,
}

impl PgBouncer {
    async fn before(url: &SecretString) -> Self {
        let mut url = url::Url::parse(url.expose_secret()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let users = folder.path().join("users.txt");
        fs::write(&users, format!("\"{}\" \"{}\"\n", url.username(), url.password().unwrap())).unwrap();
        let config = folder.path().join("pgbouncer.ini");
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = plain\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 1\n",
            url.port().unwrap(),
            users.display()
        );
        fs::write(&config, settings).unwrap();
        let mut command = Command::new("pgbouncer");
        // It refuses to run as root.
        if fs::metadata("/root").is_ok_and(|_| fs::read_dir("/root").is_ok()) {
            for path in [folder.path(), &users, &config] {
                fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            }
            command.args(["-u", "nobody"]);
        }
        let started = command.arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = started
            .unwrap_or_else(|error| panic!("pgbouncer cannot be run ({error}): apt-get install pgbouncer"));
        url.set_port(Some(port)).unwrap();
        let bouncer = Self { url: url.to_string().into(), process, _folder: folder };
        eventually("PgBouncer answers", async || {
            tokio_postgres::connect(bouncer.url.expose_secret(), NoTls).await.is_ok()
        })
        .await;
        bouncer
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_pgbouncer_no_tenant_stays_on_the_connection() {
    let (url, admin_url) = fresh_database().await;
    let bouncer = PgBouncer::before(&url).await;
    let store = Store::connect(&bouncer.url, &catalog().database).await.unwrap();
    let space = EmbeddingSpace { id: "test@16".into(), model: "test".into(), dimension: 16 };
    let mut tenants = vec![TenantId::DEFAULT];
    for n in 0..4 {
        tenants.push(new_tenant(&admin_url, &format!("tenant-{n}")).await);
    }
    for (n, tenant) in tenants.iter().enumerate() {
        store.create_collection(*tenant, &format!("of-{n}"), &space).await.unwrap();
        generate(&admin_url, *tenant, 10 + n).await;
    }
    let work = tenants.iter().enumerate().map(|(n, tenant)| {
        let (store, tenant) = (store.clone(), *tenant);
        tokio::spawn(async move {
            for _ in 0..40 {
                let all = store.collections(tenant).await.unwrap();
                let names: Vec<&str> = all.iter().map(|collection| collection.name.as_str()).collect();
                assert_eq!(names, [format!("of-{n}")]);
                let query = PassageQuery {
                    tenant,
                    collection: &all[0],
                    vector: vec![0.1; 16],
                    k: 100,
                    min_similarity: -1.0,
                    filter: None,
                    effort: SearchEffort::Indexed,
                };
                assert_eq!(store.nearest_passages(query).await.unwrap().passages.len(), 10 + n);
                // A statement that fails must not leave its transaction open.
                let taken = store.create_collection(tenant, names[0], &all[0].space).await;
                assert!(matches!(taken, Err(StoreError::CollectionExists(_))), "{taken:?}");
            }
        })
    });
    // Beside them one that names nobody, on the same connection.
    let nobody = connect(&bouncer.url).await;
    let (work, ()) = tokio::join!(join_all(work), async {
        for _ in 0..200 {
            let rows = nobody.simple_query(
                "SELECT count(*), coalesce(current_setting('app.tenant', true), '') FROM documents",
            );
            let rows = rows.await.unwrap();
            let row = rows.iter().find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some((row.get(0), row.get(1))),
                _ => None,
            });
            assert_eq!(row, Some((Some("0"), Some(""))));
        }
    });
    for done in work {
        done.unwrap();
    }
    let admin = connect(&admin_url).await;
    let connections =
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'ragway' AND datname = current_database()";
    assert_eq!(number(&admin, connections).await, 1, "they did not share a connection");
}
