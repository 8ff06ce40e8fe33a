//! Documents, passages and their vectors in PostgreSQL.
//!
//! Absent here: models, HTTP. Absent elsewhere: SQL. Every function names its
//! tenant, and so do its transactions to the database; every vector names its space.

mod audit;
mod collections;
mod documents;
pub mod embedded;
mod feedback;
mod filter;
mod indexes;
mod jobs;
mod keys;
mod leases;
mod lexical;
mod migrate;
mod passages;
mod plans;
mod preview;
mod reach;
mod reembedding;
mod replica;
mod routes;
mod sealed;
mod session;
mod shards;
mod tenants;
mod usage;

pub use audit::{AuditEntry, DONE, NewAuditEntry};
pub use collections::{Collection, Words};
pub use documents::{
    Document, DocumentImage, DocumentPage, DocumentStep, DocumentSummary, DocumentVersion, EarlierPassage,
    ExpectedVersion, NewDocument, NewPassage, PassageSet, SaveOutcome, Saved, Standing,
};
pub use feedback::{NewAnswer, QuotedPassage, RatedAnswer, Rating};
pub use filter::{Comparison, Filter};
pub use indexes::{
    BuildProgress, BuildResources, BuildStatus, BuiltIndex, IndexAdmin, IndexError, IndexKind, IndexSpec,
    VectorIndex,
};
pub use jobs::{Job, JobState, NewJob};
pub use keys::{ApiKey, NewApiKey};
pub use leases::{ClaimedJob, JobStep, Lease, Retry};
pub use lexical::{LexicalMatches, LexicalQuery};
use migrate::{ITERATIVE_SCAN, parse_version};
pub use migrate::{ServerReport, migrate};
pub use passages::{FoundPassage, NearestPassages, PassageQuery, SearchEffort, SearchScores};
pub use plans::{Candidates, PlanKind, SearchPlan};
pub use reach::wait_until_reachable;
pub use reembedding::{OtherSpace, OtherState, Previous, SpaceAdded, SpaceProgress, SpaceSwitch, StoredText};
use replica::Role;
pub use routes::RouteChoice;
use sealed::Keyring;
pub use sealed::{Rekeyed, RetiredKeys, SealError, SealedTable};
use session::{Cancellable, Session, Sessions, TenantSession, alone, see_tenant};
pub use shards::{Shard, ShardAdmin, ShardState};
pub use tenants::{Tenant, TenantAdmin, TenantError, TenantIsolation};
pub use usage::{UsageAccount, UsageCounts, UsageGrouping, UsageQuery, UsageSpent, UsageSum};

use std::{str::FromStr, sync::Arc, time::Duration};

use bb8::{CustomizeConnection, Pool, PooledConnection, RunError};
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::{
    Client, Config, Row,
    error::SqlState,
    types::{Kind, ToSql, Type},
};
use uuid::Uuid;

use crate::config::{EncryptionSettings, PoolSettings};

/// Whose rows are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub Uuid);

impl TenantId {
    /// The tenant of an installation without accounts; the first migration makes it.
    pub const DEFAULT: TenantId = TenantId(Uuid::from_u128(0x0000_0000_0000_7000_8000_0000_0000_0001));
}

/// The database, through one pool; and another to its read replica, where it has one.
#[derive(Clone)]
pub struct Store {
    pool: Pool<Sessions>,
    most_connections: u32,
    pgvector: Pgvector,
    /// Empty before [`Store::with_keys`].
    keyring: Arc<Keyring>,
    role: Role,
    probes: plans::Probes,
    known: collections::KnownCollections,
}

/// The pool of connections: how many there are, and how long was waited for one.
#[derive(Debug, Clone, Copy)]
pub struct PoolStatus {
    /// In use now.
    pub active: u32,
    pub open: u32,
    /// May be open.
    pub most: u32,
    /// Uses that waited for a connection and got one.
    pub waited: u64,
    /// Uses that waited in vain.
    pub timed_out: u64,
    /// By all together.
    pub wait: Duration,
}

/// What is to be known of the extension; its types have no fixed OID.
#[derive(Debug, Clone)]
struct Pgvector {
    vector: Type,
    vector_array: Type,
    /// Without it, a filtered index scan could return too few rows.
    iterative_scan: bool,
}

type Connection<'a> = PooledConnection<'a, Sessions>;

/// A parameter and its type. Types are given, not asked for, so that no named
/// statement is prepared: those break behind a transaction-mode PgBouncer.
type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

impl Store {
    /// Connects with the application's role to a migrated database.
    pub async fn connect(url: &SecretString, settings: &PoolSettings) -> Result<Self, StoreError> {
        let pool = Self::pool(url, settings)?;
        let pgvector = Pgvector::look_up(&*pool.get().await?).await?;
        let most_connections = most_connections(settings);
        let (probes, known) = Default::default();
        let keyring = Arc::new(Keyring::new(&EncryptionSettings::default()));
        Ok(Self { pool, most_connections, pgvector, keyring, role: Role::Primary(None), probes, known })
    }

    fn pool(url: &SecretString, settings: &PoolSettings) -> Result<Pool<Sessions>, StoreError> {
        let mut config = parse_url(url)?;
        config.application_name("ragway");
        session::set_timeouts(&mut config, Duration::from_millis(settings.connect_timeout_ms));
        let largest = most_connections(settings);
        Ok(Pool::builder()
            .max_size(largest)
            .min_idle(Some(settings.min_connections.min(largest)))
            .connection_timeout(Duration::from_millis(settings.connect_timeout_ms))
            .idle_timeout(Some(Duration::from_millis(settings.idle_timeout_ms)))
            // An unreachable server is an answer, not something to wait ten seconds for.
            .retry_connection(false)
            .test_on_check_out(false)
            .connection_customizer(Box::new(StatementTimeout { ms: settings.statement_timeout_ms }))
            .build_unchecked(Sessions::new(config)))
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.connection().await?.simple_query("SELECT 1").await?;
        Ok(())
    }

    /// How the pool of connections is, and was since the start.
    pub fn pool_status(&self) -> PoolStatus {
        let state = self.pool.state();
        PoolStatus {
            active: state.connections.saturating_sub(state.idle_connections),
            open: state.connections,
            most: self.most_connections,
            waited: state.statistics.get_waited,
            timed_out: state.statistics.get_timed_out,
            wait: state.statistics.get_wait_time,
        }
    }

    /// A connection for what belongs to no tenant: of rows that do it sees none.
    async fn connection(&self) -> Result<Connection<'_>, StoreError> {
        // Of connections that broke while nobody used them none is handed out: each would fail a request.
        loop {
            let connection = self.pool.get().await?;
            if connection.is_usable() {
                return Ok(connection);
            }
        }
    }

    /// A connection that sees the rows of one tenant.
    async fn tenant(&self, tenant: TenantId) -> Result<TenantSession<'_>, StoreError> {
        Ok(TenantSession::new(self.connection().await?, tenant))
    }

    /// A connection for a statement that takes long, and that nobody needs once its caller has left.
    async fn cancellable(&self) -> Result<Cancellable<'_>, StoreError> {
        Ok(Cancellable::new(self.connection().await?))
    }
}

/// Connections that a pool has at most.
fn most_connections(settings: &PoolSettings) -> u32 {
    match settings.max_connections {
        0 => 2 * std::thread::available_parallelism().map_or(2, |n| n.get() as u32).clamp(10, 25),
        count => count,
    }
}

/// Limits how long a statement may run, on every new connection.
#[derive(Debug)]
struct StatementTimeout {
    ms: u64,
}

impl CustomizeConnection<Session, tokio_postgres::Error> for StatementTimeout {
    fn on_acquire<'a>(
        &'a self,
        connection: &'a mut Session,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send + 'a>> {
        let statement = format!("SET statement_timeout = {}", self.ms);
        let set: BoxFuture<'a, _> = Box::pin(async move { connection.batch_execute(&statement).await });
        set
    }
}

impl Pgvector {
    async fn look_up(client: &Client) -> Result<Self, StoreError> {
        let row = client
            .query_typed_opt(
                "SELECT t.oid, t.typarray, e.extversion FROM pg_type t, pg_extension e
                 WHERE t.oid = to_regtype('vector') AND e.extname = 'vector'",
                &[],
            )
            .await?
            .ok_or(StoreError::NoPgvector)?;
        let vector = Type::new("vector".into(), row.get("oid"), Kind::Simple, "public".into());
        let array = Kind::Array(vector.clone());
        Ok(Self {
            vector_array: Type::new("_vector".into(), row.get("typarray"), array, "public".into()),
            iterative_scan: parse_version(row.get("extversion")) >= ITERATIVE_SCAN,
            vector,
        })
    }
}

fn parse_url(url: &SecretString) -> Result<Config, StoreError> {
    Config::from_str(url.expose_secret()).map_err(|error| StoreError::Unavailable(error.to_string()))
}

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or the connection was lost; the same request may succeed later.
    #[error("the database cannot be reached: {0}")]
    Unavailable(String),
    /// Every connection of the pool was in use for too long.
    #[error("no database connection became free in time")]
    PoolExhausted,
    /// Its disk has no room for what was to be written; what is stored can be read.
    #[error("the database's disk is full: {0}")]
    DiskFull(String),
    /// A statement ran longer than allowed.
    #[error("a database statement took too long and was cancelled")]
    StatementTimedOut,
    /// The read replica is another database.
    #[error(
        "DATABASE_REPLICA_URL is no copy of the database at DATABASE_URL: give a streaming replica of it, with the same database name"
    )]
    NotAReplica,
    /// The server lacks the extension.
    #[error("the database has no pgvector: run `CREATE EXTENSION vector` in it as its owner")]
    NoPgvector,
    /// There is no such collection.
    #[error("there is no collection `{0}`")]
    UnknownCollection(String),
    /// A collection of this name exists.
    #[error("there is already a collection `{0}`")]
    CollectionExists(String),
    /// A name or a text holds NUL, which neither `text` nor `jsonb` can.
    #[error(
        "a name or text holds the character NUL (U+0000), which cannot be stored or looked for; remove it"
    )]
    Nul,
    /// The collection went over to another space since it was looked up: look again.
    #[error("collection `{0}` went over to another embedding space meanwhile; try again")]
    SpacesChanged(String),
    /// The document is not what the writer expected; its version, where there is one.
    #[error("{}", version_changed(*.0))]
    VersionChanged(Option<i64>),
    /// The tenant has this many jobs that have not ended.
    #[error(
        "{0} jobs are queued already, and no more are taken; try again when some have ended, or cancel some"
    )]
    TooManyJobs(i64),
    /// The job was cancelled, or another worker has taken it.
    #[error("this worker no longer holds the job: it was cancelled, or its lease ran out")]
    LeaseLost,
    /// A text cannot be sealed or opened; the message says what to do.
    #[error(transparent)]
    Sealed(#[from] SealError),
    /// A migration failed.
    #[error("the database could not be migrated: {0}")]
    Migration(String),
    /// A defect: a statement that the schema does not allow.
    #[error("database statement failed: {0}")]
    Statement(#[source] tokio_postgres::Error),
}

impl StoreError {
    /// Whether the same request may succeed a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            StoreError::Unavailable(_)
            | StoreError::PoolExhausted
            | StoreError::DiskFull(_)
            | StoreError::StatementTimedOut
            | StoreError::SpacesChanged(_)
            | StoreError::TooManyJobs(_) => true,
            StoreError::NoPgvector
            | StoreError::NotAReplica
            | StoreError::UnknownCollection(_)
            | StoreError::CollectionExists(_)
            | StoreError::Nul
            | StoreError::VersionChanged(_)
            | StoreError::LeaseLost
            | StoreError::Sealed(_)
            | StoreError::Migration(_)
            | StoreError::Statement(_) => false,
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.code() {
            Some(code) if *code == SqlState::QUERY_CANCELED => StoreError::StatementTimedOut,
            Some(code) if *code == SqlState::DISK_FULL => StoreError::DiskFull(describe(&error)),
            Some(code) if is_outage(code) => StoreError::Unavailable(describe(&error)),
            // What is sent is UTF-8, so that nothing else can be wrong with it.
            Some(code)
                if [SqlState::CHARACTER_NOT_IN_REPERTOIRE, SqlState::UNTRANSLATABLE_CHARACTER]
                    .contains(code) =>
            {
                StoreError::Nul
            }
            Some(code) if *code == SqlState::READ_ONLY_SQL_TRANSACTION => {
                session::primary_has_moved();
                StoreError::Unavailable(describe(&error))
            }
            Some(_) if sealed::is_retired(&error) => SealError::Retired.into(),
            Some(_) => StoreError::Statement(error),
            // Without a code the server did not speak: the connection failed. A value that
            // could not be converted has no code either and is a defect.
            None if error.is_closed() || is_io(&error) => StoreError::Unavailable(describe(&error)),
            None => StoreError::Statement(error),
        }
    }
}

impl From<RunError<tokio_postgres::Error>> for StoreError {
    fn from(error: RunError<tokio_postgres::Error>) -> Self {
        match error {
            RunError::User(error) => StoreError::Unavailable(describe(&error)),
            RunError::TimedOut => StoreError::PoolExhausted,
        }
    }
}

/// Shutdowns, restarts, exhausted connections and resources: classes 08, 53 and 57.
fn is_outage(code: &SqlState) -> bool {
    ["08", "53", "57"].iter().any(|class| code.code().starts_with(class))
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>())
}

fn version_changed(stored: Option<i64>) -> String {
    match stored {
        Some(version) => format!(
            "the document is now version {version}, not the one that If-Match names; get it, and decide anew what to write"
        ),
        None => "there is no document of that external_id, which If-Match says there is".into(),
    }
}

/// tokio-postgres' own message is only the kind; the cause stands behind it.
fn describe(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Rows read by column name belong to the statement beside them; a missing
/// column is a defect that the first test finds.
trait FromRow {
    fn from_row(row: &Row) -> Self;
}
