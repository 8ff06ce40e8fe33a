//! Vector indexes and the plans that use them, over more passages than are worth ingesting: no passage
//! that a search should find is lost, whatever the plan.

use ragway::{
    config::EmbeddingSpace,
    rag::{filters::parse_filter, recall::measure_recall},
    store::{
        BuildProgress, BuildResources, BuildStatus, Candidates, Collection, Filter, IndexAdmin, IndexError,
        IndexKind, IndexSpec, NearestPassages, PassageQuery, PlanKind, SearchEffort, Store, TenantId,
    },
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::harness::{catalog, eventually, execute, fresh_database};

const TENANT: TenantId = TenantId::DEFAULT;
const RESOURCES: BuildResources = BuildResources { memory_mb: 256, workers: 0 };

/// A database with collections of generated passages.
struct Generated {
    store: Store,
    admin_url: SecretString,
}

impl Generated {
    async fn start() -> Self {
        let (url, admin_url) = fresh_database().await;
        let store = Store::connect(&url, &catalog().database).await.unwrap();
        Self { store, admin_url }
    }

    /// A collection of `rows` passages with random vectors. Every fifth points away from where the
    /// query points, and every 67th is rare. Its space's index is built afterwards, as a whole.
    async fn collection(&self, name: &str, dimension: usize, rows: usize) -> Collection {
        let space = EmbeddingSpace { id: format!("test@{dimension}"), model: "test".into(), dimension };
        let collection = self.store.create_collection(TENANT, name, &space).await.unwrap();
        execute(
            &self.admin_url,
            &format!(
                "DO $$ BEGIN EXECUTE 'DROP INDEX IF EXISTS passages_hnsw_' || left(md5('{}'), 16); END $$;
                 INSERT INTO documents (id, tenant_id, collection_id, content_hash, format, content)
                     SELECT id, tenant_id, id, '\\x00', 'text/plain', 'generated' FROM collections WHERE name = '{name}';
                 INSERT INTO passages (id, tenant_id, collection_id, space_id, document_id, ordinal, content, metadata, embedding)
                 SELECT gen_random_uuid(), c.tenant_id, c.id, c.space_id, c.id, n, 'passage',
                        jsonb_build_object('n', n, 'rare', n % 67 = 0, 'far', n % 5 = 0),
                        (SELECT array_agg(CASE WHEN i > 1 THEN random() - 0.5 WHEN n % 5 = 0 THEN -2 ELSE 2 END
                                          ORDER BY i)::real[]::vector({dimension})
                         FROM generate_series(1, {dimension} + n * 0) i)
                 FROM collections c, generate_series(1, {rows}) n WHERE c.name = '{name}';",
                space.id
            ),
        )
        .await;
        let admin = IndexAdmin::connect(&self.admin_url).await.unwrap();
        admin.share(TENANT, &collection, RESOURCES, |_| {}).await.unwrap();
        admin.close().await;
        execute(&self.admin_url, "VACUUM ANALYZE passages").await;
        let statement = format!("SELECT count(*) FROM passages WHERE space_id = 'test@{dimension}'");
        let indexed = self.store.built_index(&collection).await.unwrap().map(|built| built.rows as i64);
        assert!(indexed.is_none() || indexed == Some(self.number(&statement).await), "{indexed:?}");
        collection
    }

    /// The collection as it is now.
    async fn again(&self, collection: &Collection) -> Collection {
        self.store.collection(TENANT, &collection.name).await.unwrap()
    }

    async fn search(
        &self,
        collection: &Collection,
        filter: Option<&Filter>,
        k: usize,
        effort: SearchEffort,
    ) -> NearestPassages {
        let mut vector = vec![0.1; collection.space.dimension];
        vector[0] = 1.0;
        let query =
            PassageQuery { tenant: TENANT, collection, vector, k, min_similarity: -1.0, filter, effort };
        self.store.nearest_passages(query).await.unwrap()
    }

    async fn build(&self, collection: &Collection, spec: IndexSpec) -> Result<(), IndexError> {
        let admin = IndexAdmin::connect(&self.admin_url).await?;
        let built = admin.build_own(TENANT, collection, spec, RESOURCES, |_| {}).await;
        admin.close().await;
        built
    }

    async fn number(&self, statement: &str) -> i64 {
        let (client, connection) =
            tokio_postgres::connect(self.admin_url.expose_secret(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.query_typed_one(statement, &[]).await.unwrap().get(0)
    }

    async fn own_indexes(&self) -> i64 {
        self.number("SELECT count(*) FROM pg_class WHERE relname ~ '^passages_own_'").await
    }
}

fn filter(value: Value) -> Option<Filter> {
    parse_filter(&value).unwrap()
}

fn share(found: &NearestPassages, exact: &NearestPassages) -> f64 {
    let right =
        found.passages.iter().filter(|passage| exact.passages.iter().any(|other| other.id == passage.id));
    right.count() as f64 / exact.passages.len() as f64
}

#[tokio::test]
async fn no_plan_finds_fewer_passages_than_there_are() {
    let generated = Generated::start().await;
    let small = generated.collection("small", 16, 400).await;
    let large = generated.collection("large", 16, 30_000).await;
    let condition =
        |kind: &str, key: &str, value: Value| filter(json!({"type": kind, "key": key, "value": value}));
    let cases = [
        // Filter, passages that pass it, the plan of a search for ten.
        (&large, None, 30_000, PlanKind::Index),
        (&large, filter(json!({"rare": true})), 447, PlanKind::Exact),
        (&large, condition("lte", "n", json!(450)), 450, PlanKind::Exact),
        (&large, condition("lte", "n", json!(4)), 4, PlanKind::Exact),
        (&large, condition("gt", "n", json!(99_999)), 0, PlanKind::Exact),
        (&large, condition("gt", "n", json!(15_000)), 15_000, PlanKind::Index),
        (&large, filter(json!({"missing": 1})), 0, PlanKind::Exact),
        (&large, filter(json!({"far": false})), 24_000, PlanKind::Index),
        // They lie behind everything that the scan looks at.
        (&large, filter(json!({"far": true})), 6000, PlanKind::IndexThenExact),
        // Another collection has most of the index.
        (&small, None, 400, PlanKind::Exact),
        (&small, filter(json!({"far": true})), 80, PlanKind::Exact),
    ];
    for (collection, filter, matches, plan) in &cases {
        for k in [1, 10, 1000] {
            let told = format!("{filter:?}, k = {k}");
            let found = generated.search(collection, filter.as_ref(), k, SearchEffort::Indexed).await;
            let exact = generated.search(collection, filter.as_ref(), k, SearchEffort::Exact).await;
            assert_eq!(found.passages.len(), k.min(*matches), "{told}");
            assert_eq!(exact.passages.len(), k.min(*matches), "{told}");
            assert!(found.passages.is_sorted_by(|a, b| a.similarity >= b.similarity), "{told}");
            if k == 10 {
                assert_eq!(found.plan.kind, *plan, "{told}");
            }
            if found.plan.kind != PlanKind::Index {
                assert_eq!(found.passages, exact.passages, "{told}");
                continue;
            }
            assert!(share(&found, &exact) >= 0.9, "{told}: {}", share(&found, &exact));
        }
    }
    let plan = generated.search(&large, cases[1].1.as_ref(), 10, SearchEffort::Indexed).await.plan;
    assert_eq!(plan.candidates, Candidates::Counted(447));
    // A filter that 1.5 % pass, over queries from everywhere in the collection.
    let report = measure_recall(&generated.store, TENANT, &large, cases[1].1.as_ref(), 10, 20).await.unwrap();
    assert_eq!((report.queries, report.recall), (20, 1.0));
    let report = measure_recall(&generated.store, TENANT, &large, None, 10, 20).await.unwrap();
    assert!(report.recall >= 0.9 && report.through_index == 20, "{report:?}");
}

#[tokio::test]
async fn an_empty_collection_is_searched_and_a_missing_index_costs_only_time() {
    let generated = Generated::start().await;
    let empty = generated.collection("empty", 16, 0).await;
    for effort in [SearchEffort::Indexed, SearchEffort::Exact] {
        assert!(generated.search(&empty, None, 1000, effort).await.passages.is_empty());
    }
    assert!(measure_recall(&generated.store, TENANT, &empty, None, 10, 5).await.is_err());
    let large = generated.collection("large", 16, 8000).await;
    assert_eq!(generated.search(&large, None, 10, SearchEffort::Indexed).await.plan.kind, PlanKind::Index);
    let name = large.index.name.as_ref().unwrap();
    execute(&generated.admin_url, &format!("DROP INDEX {name}")).await;
    let found = generated.search(&large, None, 10, SearchEffort::Indexed).await;
    assert_eq!((found.plan.kind, found.passages.len()), (PlanKind::Exact, 10));
    // So is one whose build was interrupted: no search may use it.
    assert_eq!(generated.store.built_index(&large).await.unwrap(), None);
}

#[tokio::test]
async fn a_collection_has_the_index_that_it_chooses() {
    let generated = Generated::start().await;
    let shared = generated.collection("large", 64, 8000).await;
    assert!(!shared.index.own && shared.index.spec.kind == IndexKind::Hnsw);
    let exact = generated.search(&shared, None, 10, SearchEffort::Exact).await;
    for (kind, least) in [(IndexKind::Hnsw, 0.9), (IndexKind::Halfvec, 0.9), (IndexKind::Binary, 0.5)] {
        let spec = IndexSpec { m: 24, ef_construction: 100, ef_search: 200, kind };
        generated.build(&shared, spec).await.unwrap();
        let own = generated.again(&shared).await;
        assert!(own.index.own);
        assert_eq!(own.index.spec, spec);
        let built = generated.store.built_index(&own).await.unwrap().unwrap();
        assert!(built.valid && built.rows == 8000.0, "{built:?}");
        assert_eq!(generated.own_indexes().await, 1, "the one before is dropped");
        let found = generated.search(&own, None, 10, SearchEffort::Indexed).await;
        assert_eq!((found.plan.kind, found.plan.index), (PlanKind::Index, kind));
        assert!(share(&found, &exact) >= least, "{kind:?}: {}", share(&found, &exact));
        // Compared again by the whole vectors.
        let same = |passage: &ragway::store::FoundPassage| {
            exact.passages.iter().find(|other| other.id == passage.id).is_none_or(|other| other == passage)
        };
        assert!(found.passages.iter().all(same), "{kind:?}");
    }
    generated.build(&shared, IndexSpec::new(IndexKind::Exact)).await.unwrap();
    let none = generated.again(&shared).await;
    let found = generated.search(&none, None, 10, SearchEffort::Indexed).await;
    assert_eq!((found.plan.kind, found.passages), (PlanKind::Exact, exact.passages));
    assert_eq!(generated.own_indexes().await, 0);
    let admin = IndexAdmin::connect(&generated.admin_url).await.unwrap();
    admin.share(TENANT, &none, RESOURCES, |_| {}).await.unwrap();
    assert_eq!(generated.again(&none).await.index, shared.index);
}

#[tokio::test]
async fn dimensions_over_2000_get_the_index_that_can_hold_them() {
    let generated = Generated::start().await;
    for (dimension, kind) in [(2500, IndexKind::Halfvec), (5000, IndexKind::Exact)] {
        let collection = generated.collection(&format!("d{dimension}"), dimension, 20).await;
        assert_eq!(collection.index.spec.kind, kind);
        let built = generated.store.built_index(&collection).await.unwrap();
        assert_eq!(built.is_some_and(|index| index.valid), kind == IndexKind::Halfvec);
        assert_eq!(generated.search(&collection, None, 10, SearchEffort::Indexed).await.passages.len(), 10);
        let told =
            generated.build(&collection, IndexSpec::new(IndexKind::Hnsw)).await.unwrap_err().to_string();
        assert!(told.contains("up to 2000 dimensions"), "{told}");
        generated.build(&collection, IndexSpec::new(IndexKind::Binary)).await.unwrap();
        let own = generated.again(&collection).await;
        assert!(generated.store.built_index(&own).await.unwrap().unwrap().valid);
        assert_eq!(generated.search(&own, None, 10, SearchEffort::Indexed).await.passages.len(), 10);
    }
}

#[tokio::test]
async fn an_interrupted_build_is_seen_and_removed_and_others_wait_their_turn() {
    let generated = Generated::start().await;
    let collection = generated.collection("large", 64, 10_000).await;
    let spec = IndexSpec { ef_construction: 500, ..IndexSpec::new(IndexKind::Hnsw) };
    let admin = IndexAdmin::connect(&generated.admin_url).await.unwrap();
    let (seen, mut first) = tokio::sync::mpsc::unbounded_channel::<BuildProgress>();
    {
        let progress = |progress: BuildProgress| seen.send(progress).unwrap();
        let build = admin.build_own(TENANT, &collection, spec, RESOURCES, progress);
        tokio::pin!(build);
        tokio::select! {
            built = &mut build => panic!("it was too fast to be interrupted: {built:?}"),
            told = first.recv() => assert!(told.unwrap().phase.starts_with("building index")),
        }
        let second = generated.build(&collection, spec).await;
        assert!(matches!(second, Err(IndexError::Busy)), "{second:?}");
        let builds = BuildStatus::look(&generated.admin_url).await.unwrap();
        assert!(builds.running.is_some() && builds.leftovers.is_empty(), "{builds:?}");
        // Documents are stored meanwhile.
        execute(&generated.admin_url, "UPDATE passages SET heading = 'new' WHERE ordinal = 1").await;
    }
    drop(admin);
    let left = async || BuildStatus::look(&generated.admin_url).await.unwrap();
    eventually("the build is given up", async || left().await.running.is_none()).await;
    assert_eq!(left().await.leftovers.len(), 1);
    assert_eq!(
        generated.search(&collection, None, 10, SearchEffort::Indexed).await.plan.kind,
        PlanKind::Index
    );
    assert!(!generated.again(&collection).await.index.own);
    // The next one clears up, and deleting the collection leaves nothing for ever.
    generated.build(&collection, spec).await.unwrap();
    assert_eq!((left().await.leftovers.len(), generated.own_indexes().await), (0, 1));
    generated.store.delete_collection(TENANT, "large").await.unwrap();
    assert_eq!(left().await.leftovers.len(), 1);
    let admin = IndexAdmin::connect(&generated.admin_url).await.unwrap();
    assert_eq!(admin.drop_leftovers().await.unwrap().len(), 1);
    assert_eq!(generated.own_indexes().await, 0);
}

#[tokio::test]
async fn a_declared_field_is_compared_through_its_index() {
    let generated = Generated::start().await;
    let collection = generated.collection("large", 16, 30_000).await;
    let few = filter(json!({"type": "lte", "key": "n", "value": 450}));
    let plan = generated.search(&collection, few.as_ref(), 10, SearchEffort::Indexed).await.plan;
    assert!(matches!(plan.candidates, Candidates::Estimated(_)), "{plan:?}");
    let admin = IndexAdmin::connect(&generated.admin_url).await.unwrap();
    admin.declare_field(TENANT, &collection, "n", RESOURCES, |_| {}).await.unwrap();
    let declared = generated.again(&collection).await;
    assert_eq!(declared.fields, ["n"]);
    let found = generated.search(&declared, few.as_ref(), 10, SearchEffort::Indexed).await;
    assert_eq!((found.passages.len(), found.plan.candidates), (10, Candidates::Counted(450)));
    let twice = admin.declare_field(TENANT, &declared, "n", RESOURCES, |_| {}).await;
    assert!(twice.unwrap_err().to_string().contains("already"));
    let odd = "it's \"odd\"; DROP TABLE passages; --";
    admin.declare_field(TENANT, &declared, odd, RESOURCES, |_| {}).await.unwrap();
    assert!(admin.drop_field(TENANT, &declared, odd).await.unwrap());
    assert!(!admin.drop_field(TENANT, &declared, odd).await.unwrap());
    let used = generated
        .number("SELECT count(*) FROM pg_class c, collection_fields f WHERE c.relname = f.index_name")
        .await;
    assert_eq!(used, 1);
}
