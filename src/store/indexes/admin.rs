//! Building and removing indexes with the owner's role, while documents are searched and stored.
//!
//! `CREATE INDEX CONCURRENTLY` keeps nobody waiting, but cannot be part of a
//! transaction: when it is interrupted, it leaves an index that is not valid,
//! which no search uses and every write still pays for. So an index is built
//! under a name that nothing refers to; when it is whole, one row says that it is
//! the collection's. Everything named like an index of ours that no row names is a
//! leftover, and is dropped before the next build.

use std::time::Duration;

use secrecy::SecretString;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, types::Type};
use uuid::Uuid;

use super::{IndexError, IndexKind, IndexSpec};
use crate::store::{Collection, StoreError, TenantId, describe, parse_url};

/// Identifies the lock of index builds among advisory locks of the database: "ragwayix" in ASCII.
const LOCK: i64 = 0x7261_6777_6179_6978;
/// How often the progress is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Names of indexes that nothing uses.
pub(super) const LEFTOVERS: &str = r"
    SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = 'passages'::regclass
      AND (c.relname ~ '^passages_(own|field)_[0-9a-f]{32}$'
               AND c.relname NOT IN (SELECT index_name FROM collection_indexes WHERE index_name IS NOT NULL
                                     UNION ALL SELECT index_name FROM collection_fields)
           OR c.relname ~ '^passages_(own|field|hnsw)_' AND NOT i.indisvalid)
    ORDER BY 1";

/// What a build may use.
#[derive(Debug, Clone, Copy)]
pub struct BuildResources {
    /// Of memory, in MiB. HNSW is built several times faster while its graph fits.
    pub memory_mb: u32,
    /// Processes beside the first; each takes a core.
    pub workers: u32,
}

/// How far a build is, as PostgreSQL tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildProgress {
    pub phase: String,
    /// Tuples in a phase that counts them, else blocks.
    pub done: i64,
    pub total: i64,
}

/// The owner's connection, the only one of its kind in this database.
pub struct IndexAdmin {
    client: Client,
    driver: Driver,
    url: SecretString,
    process: i32,
}

impl IndexAdmin {
    /// Connects directly, never through a transaction-mode PgBouncer. [`IndexError::Busy`] while
    /// another one builds.
    pub async fn connect(admin_url: &SecretString) -> Result<Self, IndexError> {
        let (client, driver) = open(admin_url).await?;
        // Tried, not waited for: a statement that waits would itself be waited for by a concurrent build.
        let row = client
            .query_typed_one(
                "SELECT pg_try_advisory_lock($1) AS free, pg_backend_pid() AS process",
                &[(&LOCK, Type::INT8)],
            )
            .await?;
        if !row.get::<_, bool>("free") {
            return Err(IndexError::Busy);
        }
        // A build whose ragway has ended is given up within the interval.
        client
            .batch_execute("SET statement_timeout = 0; SET client_connection_check_interval = '1s'")
            .await?;
        Ok(Self { client, driver, url: admin_url.clone(), process: row.get("process") })
    }

    /// Ends the connection, and so gives the lock back.
    pub async fn close(self) {
        drop(self.client);
        self.driver.ended().await;
    }

    /// Drops what interrupted builds, deleted collections and dropped spaces have left; returns the names.
    pub async fn drop_leftovers(&self) -> Result<Vec<String>, IndexError> {
        let rows = self.client.query_typed(LEFTOVERS, &[]).await?;
        let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        for name in &names {
            self.drop_index(name).await?;
        }
        Ok(names)
    }

    /// Builds an index of the collection's own and lets searches use it; the one before is dropped then.
    /// [`IndexKind::Exact`] builds none.
    pub async fn build_own(
        &self,
        tenant: TenantId,
        collection: &Collection,
        spec: IndexSpec,
        resources: BuildResources,
        progress: impl Fn(BuildProgress),
    ) -> Result<(), IndexError> {
        spec.check(collection.space.dimension)?;
        self.drop_leftovers().await?;
        let name =
            (spec.kind != IndexKind::Exact).then(|| format!("passages_own_{}", Uuid::now_v7().simple()));
        if let Some(name) = &name {
            let definition = Definition { name, spec, collection, of_collection: true };
            self.create(&definition.statement(&self.client).await?, resources, progress).await?;
        }
        self.client
            .execute_typed(
                "INSERT INTO collection_indexes
                     (collection_id, tenant_id, space_id, kind, m, ef_construction, ef_search, index_name)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                 ON CONFLICT (collection_id, tenant_id, space_id) DO UPDATE SET kind = excluded.kind, m = excluded.m,
                     ef_construction = excluded.ef_construction, ef_search = excluded.ef_search,
                     index_name = excluded.index_name, built_at = now()",
                &[
                    (&collection.id, Type::UUID),
                    (&tenant.0, Type::UUID),
                    (&collection.space.id, Type::TEXT),
                    (&spec.kind.name(), Type::TEXT),
                    (&i32::try_from(spec.m).unwrap_or(i32::MAX), Type::INT4),
                    (&i32::try_from(spec.ef_construction).unwrap_or(i32::MAX), Type::INT4),
                    (&i32::try_from(spec.ef_search).unwrap_or(i32::MAX), Type::INT4),
                    (&name, Type::TEXT),
                ],
            )
            .await?;
        self.drop_leftovers().await?;
        Ok(())
    }

    /// Has searches through the collection's own index look at so many candidates.
    pub async fn set_ef_search(
        &self,
        tenant: TenantId,
        collection: &Collection,
        ef_search: u32,
    ) -> Result<(), IndexError> {
        self.client
            .execute_typed(
                "UPDATE collection_indexes SET ef_search = $4
                 WHERE collection_id = $1 AND tenant_id = $2 AND space_id = $3",
                &[
                    (&collection.id, Type::UUID),
                    (&tenant.0, Type::UUID),
                    (&collection.space.id, Type::TEXT),
                    (&i32::try_from(ef_search).unwrap_or(i32::MAX), Type::INT4),
                ],
            )
            .await?;
        Ok(())
    }

    /// Lets searches use the index of the collection's space again, which is built where it is
    /// missing; drops the collection's own.
    pub async fn share(
        &self,
        tenant: TenantId,
        collection: &Collection,
        resources: BuildResources,
        progress: impl Fn(BuildProgress),
    ) -> Result<(), IndexError> {
        self.drop_leftovers().await?;
        let kind = IndexKind::shared(collection.space.dimension);
        if kind != IndexKind::Exact {
            let spec = IndexSpec::new(kind);
            let definition =
                Definition { name: &collection.index.shared_name, spec, collection, of_collection: false };
            self.create(&definition.statement(&self.client).await?, resources, progress).await?;
        }
        self.client
            .execute_typed(
                "DELETE FROM collection_indexes WHERE collection_id = $1 AND tenant_id = $2 AND space_id = $3",
                &[
                    (&collection.id, Type::UUID),
                    (&tenant.0, Type::UUID),
                    (&collection.space.id, Type::TEXT),
                ],
            )
            .await?;
        self.drop_leftovers().await?;
        Ok(())
    }

    /// Gives order comparisons on a key of the collection's metadata an index.
    pub async fn declare_field(
        &self,
        tenant: TenantId,
        collection: &Collection,
        key: &str,
        resources: BuildResources,
        progress: impl Fn(BuildProgress),
    ) -> Result<(), IndexError> {
        if key.is_empty() || key.contains('\0') {
            return Err(IndexError::Invalid("the key is empty or holds the character NUL".into()));
        }
        self.drop_leftovers().await?;
        if collection.fields.iter().any(|known| known == key) {
            return Err(IndexError::Invalid(format!(
                "`{key}` has an index in `{}` already",
                collection.name
            )));
        }
        let name = format!("passages_field_{}", Uuid::now_v7().simple());
        let statement = formatted(
            &self.client,
            "SELECT format('CREATE INDEX CONCURRENTLY %I ON passages ((metadata -> %L::text)) WHERE collection_id = %L',
                           $1, $2, $3::uuid)",
            &[(&name, Type::TEXT), (&key, Type::TEXT), (&collection.id, Type::UUID)],
        )
        .await?;
        self.create(&statement, resources, progress).await?;
        // The planner knows nothing of the key's values before.
        self.client.batch_execute("ANALYZE passages").await?;
        self.client
            .execute_typed(
                "INSERT INTO collection_fields (collection_id, tenant_id, key, index_name) VALUES ($1, $2, $3, $4)",
                &[
                    (&collection.id, Type::UUID),
                    (&tenant.0, Type::UUID),
                    (&key, Type::TEXT),
                    (&name, Type::TEXT),
                ],
            )
            .await?;
        Ok(())
    }

    /// Takes the index of a key away; says whether there was one.
    pub async fn drop_field(
        &self,
        tenant: TenantId,
        collection: &Collection,
        key: &str,
    ) -> Result<bool, IndexError> {
        let deleted = self
            .client
            .execute_typed(
                "DELETE FROM collection_fields WHERE collection_id = $1 AND tenant_id = $2 AND key = $3",
                &[(&collection.id, Type::UUID), (&tenant.0, Type::UUID), (&key, Type::TEXT)],
            )
            .await?;
        self.drop_leftovers().await?;
        Ok(deleted > 0)
    }

    /// Runs a `CREATE INDEX CONCURRENTLY` and tells how far it is.
    async fn create(
        &self,
        statement: &str,
        resources: BuildResources,
        progress: impl Fn(BuildProgress),
    ) -> Result<(), IndexError> {
        let BuildResources { memory_mb, workers } = resources;
        self.client
            .batch_execute(&format!(
                "SET maintenance_work_mem = '{memory_mb}MB'; SET max_parallel_maintenance_workers = {workers}"
            ))
            .await?;
        let (observer, driver) = open(&self.url).await?;
        let built = tokio::select! {
            built = self.client.batch_execute(statement) => built,
            never = self.watch(&observer, progress) => never,
        };
        drop(observer);
        driver.ended().await;
        if let Err(error) = built {
            // Where the connection is gone this fails too; then the next build removes what is left.
            let _ = self.drop_leftovers().await;
            return Err(IndexError::Failed(advice(&error)));
        }
        Ok(())
    }

    /// Never ends; a progress that cannot be looked at is not shown.
    async fn watch<T>(&self, observer: &Client, progress: impl Fn(BuildProgress)) -> T {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Ok(Some(found)) = build_progress(observer, Some(self.process)).await {
                progress(found);
            }
        }
    }

    async fn drop_index(&self, name: &str) -> Result<(), IndexError> {
        let name = [(&name as _, Type::TEXT)];
        let statement =
            formatted(&self.client, "SELECT format('DROP INDEX CONCURRENTLY IF EXISTS %I', $1)", &name)
                .await?;
        Ok(self.client.batch_execute(&statement).await?)
    }
}

/// A build of this process, or of any.
pub(super) async fn build_progress(
    client: &Client,
    process: Option<i32>,
) -> Result<Option<BuildProgress>, tokio_postgres::Error> {
    let row = client
        .query_typed_opt(
            "SELECT phase, CASE WHEN tuples_total > 0 THEN tuples_done ELSE blocks_done END AS done,
                    CASE WHEN tuples_total > 0 THEN tuples_total ELSE blocks_total END AS total
             FROM pg_stat_progress_create_index
             WHERE relid = 'passages'::regclass AND datname = current_database() AND pid = coalesce($1, pid) LIMIT 1",
            &[(&process, Type::INT4)],
        )
        .await?;
    Ok(row.map(|row| BuildProgress {
        phase: row.get("phase"),
        done: row.get("done"),
        total: row.get("total"),
    }))
}

/// A vector index to be made.
struct Definition<'a> {
    name: &'a str,
    spec: IndexSpec,
    collection: &'a Collection,
    /// Over the collection's passages, not those of its whole space.
    of_collection: bool,
}

impl Definition<'_> {
    /// Names and values are quoted by PostgreSQL, for they cannot be parameters here.
    async fn statement(&self, client: &Client) -> Result<String, IndexError> {
        let IndexSpec { kind, m, ef_construction, .. } = self.spec;
        let space = &self.collection.space;
        let expression = match self.of_collection {
            true => kind.own_expression("embedding", space.dimension),
            false => kind.expression("embedding", space.dimension),
        };
        let operators = kind.operator_class();
        let collection = self.of_collection.then_some(self.collection.id);
        let exists = if self.of_collection { "" } else { "IF NOT EXISTS" };
        let template = format!(
            "SELECT format('CREATE INDEX CONCURRENTLY {exists} %I ON passages USING hnsw (({expression}) {operators})
                            WITH (m = {m}, ef_construction = {ef_construction}) WHERE space_id = %L', $1, $2)
                 || CASE WHEN $3::uuid IS NULL THEN '' ELSE format(' AND collection_id = %L', $3::uuid) END"
        );
        let parameters =
            [(&self.name as _, Type::TEXT), (&space.id as _, Type::TEXT), (&collection as _, Type::UUID)];
        formatted(client, &template, &parameters).await
    }
}

/// A statement that PostgreSQL puts together.
pub(in crate::store) async fn formatted(
    client: &Client,
    template: &str,
    parameters: &[crate::store::Parameter<'_>],
) -> Result<String, IndexError> {
    Ok(client.query_typed_one(template, parameters).await?.get(0))
}

/// Moves a connection's data. Dropped, it closes the connection at once: otherwise that would stay
/// open until its statement has ended.
pub(in crate::store) struct Driver(JoinHandle<Result<(), tokio_postgres::Error>>);

impl Driver {
    /// To be awaited when the client has been dropped.
    pub(in crate::store) async fn ended(mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(in crate::store) async fn open(url: &SecretString) -> Result<(Client, Driver), StoreError> {
    let connected = parse_url(url)?.connect(NoTls).await;
    let (client, connection) = connected.map_err(|error| StoreError::Unavailable(describe(&error)))?;
    Ok((client, Driver(tokio::spawn(connection))))
}

/// PostgreSQL's words, and what to do where it is known.
fn advice(error: &tokio_postgres::Error) -> String {
    let told = describe(error);
    if told.contains("shared memory") {
        return format!(
            "{told}; give it less with --memory-mb, or --workers 0, or the server's container more of /dev/shm"
        );
    }
    if told.contains("must be owner") || told.contains("permission denied") {
        return format!("{told}; DATABASE_ADMIN_URL must be the role that owns the tables");
    }
    told
}
