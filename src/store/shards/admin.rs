//! Making and removing shards with the owner's role.

use futures_util::future::{join_all, try_join_all};
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::{
    Client, Config, GenericClient, NoTls, Row,
    config::Host,
    types::{ToSql, Type},
};

use super::SEARCHED;
use crate::store::{
    BuildResources, IndexError, IndexKind, IndexSpec, describe,
    indexes::{Driver, formatted, open},
    parse_url,
    plans::MAX_SCAN_TUPLES,
};

/// What a shard holds.
const ON_SHARD: &str = "
    CREATE EXTENSION IF NOT EXISTS vector;
    CREATE TABLE IF NOT EXISTS passage_shard (
        id uuid PRIMARY KEY, tenant_id uuid NOT NULL, collection_id uuid NOT NULL, space_id text NOT NULL,
        metadata jsonb NOT NULL, embedding vector NOT NULL);
    CREATE INDEX IF NOT EXISTS passage_shard_place ON passage_shard (collection_id, tenant_id, space_id);
    -- What index scans have given the connection that asks, in this transaction.
    CREATE OR REPLACE VIEW passage_shard_reads AS
        SELECT coalesce(sum(pg_stat_get_xact_tuples_returned(i.indexrelid)), 0)::bigint AS given
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
        WHERE i.indrelid = 'passage_shard'::regclass AND a.amname = 'hnsw'";

/// The table that the shards are partitions of. Indexes are theirs.
const PARENT: &str = "
    CREATE EXTENSION IF NOT EXISTS postgres_fdw;
    CREATE TABLE passage_shards (
        id uuid NOT NULL, tenant_id uuid NOT NULL, collection_id uuid NOT NULL, space_id text NOT NULL,
        metadata jsonb NOT NULL, embedding vector NOT NULL) PARTITION BY HASH (id)";

/// Fills the shards while nobody writes, and lets triggers do so from then on.
const FILL: &str = "
    LOCK TABLE passages IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO passage_shards (id, tenant_id, collection_id, space_id, metadata, embedding)
        SELECT id, tenant_id, collection_id, space_id, metadata, embedding FROM passages;
    CREATE FUNCTION copy_to_shards() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            DELETE FROM passage_shards WHERE id = ANY (ARRAY(SELECT id FROM removed));
        END IF;
        IF TG_OP <> 'DELETE' THEN
            INSERT INTO passage_shards (id, tenant_id, collection_id, space_id, metadata, embedding)
                SELECT id, tenant_id, collection_id, space_id, metadata, embedding FROM added;
        END IF;
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER passages_added_to_shards AFTER INSERT ON passages
        REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION copy_to_shards();
    CREATE TRIGGER passages_changed_in_shards AFTER UPDATE ON passages
        REFERENCING NEW TABLE AS added OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION copy_to_shards();
    CREATE TRIGGER passages_removed_from_shards AFTER DELETE ON passages
        REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION copy_to_shards();
    -- Who reads passages reads shards.
    DO $$
    DECLARE reader text; shard text;
    BEGIN
        FOR reader, shard IN
            SELECT DISTINCT grantee, relname FROM information_schema.role_table_grants, pg_class
            WHERE table_schema = 'public' AND table_name = 'passages' AND privilege_type = 'SELECT'
              AND relnamespace = 'public'::regnamespace AND relname ~ '^passage_shard(s|_[0-9]+(_reads)?)$'
        LOOP
            EXECUTE format('GRANT SELECT ON %I TO %I', shard, reader);
        END LOOP;
    END
    $$";

/// Shards and how to reach them.
const KNOWN: &str = "
    SELECT c.relname::text AS name, server.*, login.*
    FROM pg_class c JOIN pg_foreign_table t ON t.ftrelid = c.oid
    JOIN pg_foreign_server s ON s.oid = t.ftserver JOIN pg_user_mappings m ON m.srvid = s.oid,
    LATERAL (SELECT max(option_value) FILTER (WHERE option_name = 'host') AS host,
                    max(option_value) FILTER (WHERE option_name = 'port') AS port,
                    max(option_value) FILTER (WHERE option_name = 'dbname') AS database
             FROM pg_options_to_table(s.srvoptions)) server,
    LATERAL (SELECT max(option_value) FILTER (WHERE option_name = 'user') AS login,
                    max(option_value) FILTER (WHERE option_name = 'password') AS password
             FROM pg_options_to_table(m.umoptions)) login
    WHERE c.relname ~ '^passage_shard_[0-9]+$' AND c.relnamespace = 'public'::regnamespace
    ORDER BY s.oid";

/// A server that holds a part of the vectors.
#[derive(Debug, Clone)]
pub struct Shard {
    host: String,
    port: u16,
    database: String,
    user: String,
    password: SecretString,
}

/// A shard as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardState {
    /// Name of its table on the primary.
    pub name: String,
    /// Host, port and database.
    pub address: String,
    /// Passages in it.
    pub passages: i64,
    /// Its vector indexes: the name, the bytes, and whether it is whole.
    pub indexes: Vec<(String, i64, bool)>,
}

impl Shard {
    /// From a URL with a user, a password and one host. PostgreSQL lets only superusers through
    /// without a password.
    pub fn parse(url: &SecretString) -> Result<Self, IndexError> {
        let config = parse_url(url)?;
        let wrong = |what: &str| IndexError::Invalid(format!("the URL of a shard {what}"));
        let host = match config.get_hosts() {
            [Host::Tcp(name)] => name.clone(),
            [Host::Unix(path)] => path.display().to_string(),
            _ => return Err(wrong("must name one host")),
        };
        let password = config.get_password().ok_or_else(|| wrong("needs a password"))?;
        Ok(Self {
            host,
            port: config.get_ports().first().copied().unwrap_or(5432),
            database: config.get_dbname().ok_or_else(|| wrong("must name a database"))?.to_owned(),
            user: config.get_user().ok_or_else(|| wrong("must name a user"))?.to_owned(),
            password: String::from_utf8_lossy(password).into_owned().into(),
        })
    }

    fn from_row(row: &Row) -> Self {
        let text = |column: &str| row.get::<_, Option<String>>(column).unwrap_or_default();
        Self {
            host: text("host"),
            port: text("port").parse().unwrap_or(5432),
            database: text("database"),
            user: text("login"),
            password: text("password").into(),
        }
    }

    fn address(&self) -> String {
        format!("{}:{}/{}", self.host, self.port, self.database)
    }

    fn failed(&self, error: &tokio_postgres::Error) -> IndexError {
        IndexError::Invalid(format!("the shard {}: {}", self.address(), describe(error)))
    }

    /// Runs statements there.
    async fn at<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, IndexError> {
        let mut config = Config::new();
        config.host(&self.host).port(self.port).dbname(&self.database).user(&self.user);
        config.password(self.password.expose_secret()).connect_timeout(std::time::Duration::from_secs(5));
        let (client, connection) = config.connect(NoTls).await.map_err(|error| self.failed(&error))?;
        let driver = tokio::spawn(connection);
        let done = work(&client).await.map_err(|error| self.failed(&error));
        drop(client);
        let _ = driver.await;
        done
    }
}

/// The owner's connection to the primary.
pub struct ShardAdmin {
    client: Client,
    driver: Driver,
}

impl ShardAdmin {
    /// Connects directly, never through a transaction-mode PgBouncer.
    pub async fn connect(admin_url: &SecretString) -> Result<Self, IndexError> {
        let (client, driver) = open(admin_url).await?;
        client.batch_execute("SET statement_timeout = 0").await?;
        Ok(Self { client, driver })
    }

    /// Ends the connection.
    pub async fn close(self) {
        drop(self.client);
        self.driver.ended().await;
    }

    /// Spreads the vectors over these servers. Searches go on; whoever stores waits while the vectors are
    /// copied, then while indexes are built searches are as before.
    pub async fn create(&mut self, shards: &[Shard], resources: BuildResources) -> Result<(), IndexError> {
        if shards.is_empty() {
            return Err(IndexError::Invalid("give the URL of at least one server".into()));
        }
        if !self.known().await?.is_empty() {
            return Err(IndexError::Invalid(
                "there are shards already; `ragway shards drop` removes them, the documents stay".into(),
            ));
        }
        try_join_all(shards.iter().map(prepare)).await?;
        self.fill(shards).await?;
        self.build_indexes(resources).await
    }

    async fn fill(&mut self, shards: &[Shard]) -> Result<(), IndexError> {
        let transaction = self.client.transaction().await?;
        transaction.batch_execute(PARENT).await.map_err(|error| not_made(&error))?;
        for (number, shard) in shards.iter().enumerate() {
            let statement = attach(&transaction, shard, number, shards.len()).await?;
            transaction.batch_execute(&statement).await.map_err(|error| not_made(&error))?;
        }
        transaction.batch_execute(FILL).await.map_err(|error| not_made(&error))?;
        Ok(transaction.commit().await?)
    }

    /// Builds the index of each space that lacks it on a shard, and lets searches use the shards.
    pub async fn build_indexes(&self, resources: BuildResources) -> Result<(), IndexError> {
        let rows = self
            .client
            .query_typed(
                "SELECT id, dimension, 'passages_hnsw_' || left(md5(id), 16) AS name FROM embedding_spaces",
                &[],
            )
            .await?;
        let mut indexes = Vec::new();
        for row in rows {
            let dimension = usize::try_from(row.get::<_, i32>("dimension")).unwrap_or(0);
            let kind = IndexKind::shared(dimension);
            if kind != IndexKind::Exact {
                indexes.push(self.definition(row.get("name"), row.get("id"), kind, dimension).await?);
            }
        }
        let known = self.known().await?;
        try_join_all(known.iter().map(|(_, shard)| build(shard, &indexes, resources))).await?;
        for (name, _) in &known {
            // Without statistics the limit of a search is not sent along.
            self.client.batch_execute(&format!("ANALYZE {name}")).await?;
        }
        Ok(self.client.batch_execute(SEARCHED).await?)
    }

    async fn definition(
        &self,
        name: String,
        space: String,
        kind: IndexKind,
        dimension: usize,
    ) -> Result<ShardIndex, IndexError> {
        let IndexSpec { m, ef_construction, .. } = IndexSpec::new(kind);
        let (expression, operators) = (kind.expression("embedding", dimension), kind.operator_class());
        let template = format!(
            "SELECT format('CREATE INDEX CONCURRENTLY IF NOT EXISTS %I ON passage_shard USING hnsw (({expression}) {operators})
                            WITH (m = {m}, ef_construction = {ef_construction}) WHERE space_id = %L', $1, $2)"
        );
        let parameters = [(&name as _, Type::TEXT), (&space as _, Type::TEXT)];
        let statement = formatted(&self.client, &template, &parameters).await?;
        Ok(ShardIndex { name, statement })
    }

    /// The shards as they are. Fails where one cannot be reached.
    pub async fn states(&self) -> Result<Vec<ShardState>, IndexError> {
        let known = self.known().await?;
        try_join_all(known.iter().map(|(name, shard)| state(name, shard))).await
    }

    /// Removes the shards: searches are on the primary again. Returns what could not be removed on a shard.
    pub async fn remove(&mut self) -> Result<Vec<String>, IndexError> {
        let known = self.known().await?;
        let transaction = self.client.transaction().await?;
        transaction
            .batch_execute(
                "DROP FUNCTION IF EXISTS copy_to_shards CASCADE; DROP TABLE IF EXISTS passage_shards CASCADE",
            )
            .await?;
        for number in 0..known.len() {
            transaction
                .batch_execute(&format!("DROP SERVER IF EXISTS ragway_shard_{number} CASCADE"))
                .await?;
        }
        transaction.commit().await?;
        let removed = join_all(known.iter().map(|(_, shard)| {
            let statement = "DROP VIEW IF EXISTS passage_shard_reads; DROP TABLE IF EXISTS passage_shard";
            shard.at(async |client| client.batch_execute(statement).await)
        }));
        Ok(removed
            .await
            .into_iter()
            .filter_map(|removed| removed.err().map(|error| error.to_string()))
            .collect())
    }

    async fn known(&self) -> Result<Vec<(String, Shard)>, IndexError> {
        let rows = self.client.query_typed(KNOWN, &[]).await?;
        Ok(rows.iter().map(|row| (row.get("name"), Shard::from_row(row))).collect())
    }
}

/// An index to be built on each shard.
struct ShardIndex {
    name: String,
    statement: String,
}

/// Makes the table of a shard, which must hold nothing yet.
async fn prepare(shard: &Shard) -> Result<(), IndexError> {
    let filled = shard.at(async |client| {
        client.batch_execute(ON_SHARD).await?;
        let row = client.query_typed_one("SELECT EXISTS (SELECT FROM passage_shard)", &[]).await?;
        Ok(row.get::<_, bool>(0))
    });
    match filled.await? {
        false => Ok(()),
        true => Err(IndexError::Invalid(format!(
            "the shard {} holds passages already; where no ragway uses them any more: DROP TABLE passage_shard CASCADE",
            shard.address()
        ))),
    }
}

/// Statements that make a shard a partition. Without sorting, only the index gives rows in order.
async fn attach(
    client: &impl GenericClient,
    shard: &Shard,
    number: usize,
    of: usize,
) -> Result<String, IndexError> {
    let ef_search = IndexSpec::new(IndexKind::Hnsw).ef_search;
    let template = format!(
        "SELECT format(
            'CREATE SERVER ragway_shard_{number} FOREIGN DATA WRAPPER postgres_fdw OPTIONS (
                 host %L, port %L, dbname %L, extensions ''vector'', async_capable ''true'', batch_size ''100'',
                 connect_timeout ''5'', options ''-c enable_sort=off -c jit=off -c hnsw.ef_search={ef_search}
                 -c hnsw.iterative_scan=relaxed_order -c hnsw.max_scan_tuples={MAX_SCAN_TUPLES}'');
             CREATE USER MAPPING FOR PUBLIC SERVER ragway_shard_{number} OPTIONS (user %L, password %L);
             CREATE FOREIGN TABLE passage_shard_{number} PARTITION OF passage_shards
                 FOR VALUES WITH (MODULUS {of}, REMAINDER {number})
                 SERVER ragway_shard_{number} OPTIONS (table_name ''passage_shard'');
             CREATE FOREIGN TABLE passage_shard_{number}_reads (given bigint)
                 SERVER ragway_shard_{number} OPTIONS (table_name ''passage_shard_reads'')', $1, $2, $3, $4, $5)"
    );
    let port = shard.port.to_string();
    let texts = [&shard.host, &port, &shard.database, &shard.user, shard.password.expose_secret()];
    let parameters = texts.each_ref().map(|text| (text as &(dyn ToSql + Sync), Type::TEXT));
    let row = client.query_typed_one(&template, &parameters).await?;
    Ok(row.get(0))
}

async fn build(shard: &Shard, indexes: &[ShardIndex], resources: BuildResources) -> Result<(), IndexError> {
    let BuildResources { memory_mb, workers } = resources;
    let built = shard.at(async |client| {
        client
            .batch_execute(&format!(
                "SET maintenance_work_mem = '{memory_mb}MB'; SET max_parallel_maintenance_workers = {workers}"
            ))
            .await?;
        for ShardIndex { name, statement } in indexes {
            // Of a build that was interrupted.
            let broken = client
                .query_typed_opt(
                    "SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid",
                    &[(name, Type::TEXT)],
                )
                .await?;
            if broken.is_some() {
                client.batch_execute(&format!("DROP INDEX CONCURRENTLY {name}")).await?;
            }
            client.batch_execute(statement).await?;
        }
        client.batch_execute("VACUUM ANALYZE passage_shard").await
    });
    built.await
}

async fn state(name: &str, shard: &Shard) -> Result<ShardState, IndexError> {
    let (passages, indexes) = shard
        .at(async |client| {
            let row = client.query_typed_one("SELECT count(*) FROM passage_shard", &[]).await?;
            let indexes = client
                .query_typed(
                    "SELECT c.relname::text, pg_relation_size(c.oid), i.indisvalid FROM pg_index i
                     JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
                     WHERE i.indrelid = 'passage_shard'::regclass AND a.amname = 'hnsw' ORDER BY 1",
                    &[],
                )
                .await?;
            Ok((row.get(0), indexes.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()))
        })
        .await?;
    Ok(ShardState { name: name.to_owned(), address: shard.address(), passages, indexes })
}

/// PostgreSQL's words, and what to do where it is known.
fn not_made(error: &tokio_postgres::Error) -> IndexError {
    let told = describe(error);
    if told.contains("permission denied") {
        return IndexError::Invalid(format!(
            "{told}; as a superuser: CREATE EXTENSION postgres_fdw; GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO the owner's role"
        ));
    }
    IndexError::Invalid(format!("the shards were not made, and searches are as before: {told}"))
}
