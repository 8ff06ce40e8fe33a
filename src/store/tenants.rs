//! Tenants: made, listed, told apart by the database, and erased, with the owner's role; what one
//! has, read out as JSON.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures_util::TryStreamExt;
use secrecy::SecretString;
use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::{
    Client, IsolationLevel, Row, Transaction,
    error::SqlState,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::{
    FromRow, Store, StoreError, TenantId,
    indexes::{Driver, open},
    sealed::{
        ANSWER, ANSWER_COMMENT, ANSWER_QUESTION, DOCUMENT_CONTENT, DOCUMENT_IMAGE, JOB_PAYLOAD, JOB_RESULT,
        PASSAGE_CONTENT, PASSAGE_HEADING, STEP_OUTCOME, Seals,
    },
    see_tenant,
};
use crate::config::KeyId;

/// Whose rows are kept apart from those of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    pub created_at: OffsetDateTime,
    pub documents: i64,
}

impl FromRow for Tenant {
    fn from_row(row: &Row) -> Self {
        Self {
            id: TenantId(row.get("id")),
            name: row.get("name"),
            created_at: row.get("created_at"),
            documents: row.get("documents"),
        }
    }
}

/// Whether the database keeps tenants apart, for the role that ragway works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantIsolation {
    /// A statement sees rows of the tenant that its transaction names, and no others.
    Enforced,
    /// Not yet: replicas of a version before could still be running.
    NotYet,
    /// The role owns the tables, or is exempt from policies.
    RoleExempt,
}

/// Why a tenant was not made, or removed.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// What was asked for cannot be; the message says why.
    #[error("{0}")]
    Invalid(String),
    /// Others have used the tables without a pause.
    #[error(
        "the table {0} was in use all the time; what is done stays done: repeat it when fewer or shorter statements run"
    )]
    TableBusy(String),
    /// What was read out could not be written.
    #[error("the export cannot be written: {0}")]
    Output(#[from] std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<tokio_postgres::Error> for TenantError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Store(error.into())
    }
}

/// The owner's connection.
pub struct TenantAdmin {
    client: Client,
    driver: Driver,
}

/// How often a table is asked for that others use, and how long each time: whoever comes meanwhile waits as long.
const LOCK_ATTEMPTS: usize = 60;
const LOCK_TIMEOUT: &str = "SET lock_timeout = '250ms'";
const LOCK_PAUSE: Duration = Duration::from_millis(250);
/// Writers may hold what an erasure needs and need what it holds.
const ERASE_ATTEMPTS: usize = 5;

const TENANTS: &str = "
    SELECT t.id, t.name, t.created_at, coalesce(d.documents, 0) AS documents FROM tenants t
    LEFT JOIN (SELECT tenant_id, count(*) AS documents FROM documents GROUP BY 1) d ON d.tenant_id = t.id
    ORDER BY t.id";

/// Tables with rows of tenants, for `format`.
const GUARDED: &str = "
    SELECT p.polrelid::regclass::text AS table FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
    WHERE p.polname = 'tenant_rows' AND NOT c.relrowsecurity ORDER BY c.oid = 'tenants'::regclass, c.oid";

/// Collections go first: what is in them goes with them. Who administered what stays known.
const HOLDING: &str = "
    SELECT format('DELETE FROM %s WHERE tenant_id = $1', c.oid::regclass) AS statement
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE a.attname = 'tenant_id' AND NOT a.attisdropped AND c.relkind IN ('r', 'p')
      AND c.relnamespace = 'public'::regnamespace AND c.oid <> 'audit_log'::regclass
    ORDER BY c.oid <> 'collections'::regclass, c.oid";

impl TenantAdmin {
    /// Connects with the owner's role. [`TenantError::Invalid`] with another.
    pub async fn connect(admin_url: &SecretString) -> Result<Self, TenantError> {
        let (client, driver) = open(admin_url).await?;
        let owns = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'tenants'::regclass";
        if !client.query_typed_one(owns, &[]).await?.get::<_, bool>(0) {
            return Err(TenantError::Invalid(
                "tenants are the business of the tables' owner: give its role in DATABASE_ADMIN_URL".into(),
            ));
        }
        Ok(Self { client, driver })
    }

    /// Ends the connection.
    pub async fn close(self) {
        drop(self.client);
        self.driver.ended().await;
    }

    /// All of them, in the order they were made.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, TenantError> {
        Ok(self.client.query_typed(TENANTS, &[]).await?.iter().map(Tenant::from_row).collect())
    }

    /// Makes a tenant of a name that no other has.
    pub async fn create(&self, name: &str) -> Result<TenantId, TenantError> {
        let id = Uuid::now_v7();
        let inserted = self
            .client
            .execute_typed(
                "INSERT INTO tenants (id, name) VALUES ($1, $2)",
                &[(&id, Type::UUID), (&name, Type::TEXT)],
            )
            .await;
        match inserted {
            Ok(_) => Ok(TenantId(id)),
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                Err(TenantError::Invalid(format!("there is already a tenant `{name}`")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Turns the policies on that the migrations have made; says for which tables.
    ///
    /// Replicas of a version before them see nothing any more. A table at a time, as soon as nobody
    /// uses it: whoever came behind this would wait for the one before it.
    pub async fn enforce(&self) -> Result<Vec<String>, TenantError> {
        self.client.batch_execute(LOCK_TIMEOUT).await?;
        let rows = self.client.query_typed(GUARDED, &[]).await?;
        let tables: Vec<String> = rows.iter().map(|row| row.get("table")).collect();
        for table in &tables {
            self.enforce_for(table).await?;
        }
        Ok(tables)
    }

    async fn enforce_for(&self, table: &str) -> Result<(), TenantError> {
        let statement = format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY");
        for _ in 0..LOCK_ATTEMPTS {
            match self.client.batch_execute(&statement).await {
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                done => return Ok(done?),
            }
        }
        Err(TenantError::TableBusy(table.to_owned()))
    }

    /// Whether a tenant may be removed: not the one that is always there.
    pub fn check_erasable(tenant: TenantId) -> Result<(), TenantError> {
        if tenant == TenantId::DEFAULT {
            return Err(TenantError::Invalid(
                "this is the tenant of whoever does not log in, and stays; its collections can be deleted"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Removes a tenant with every row of its own, in one transaction.
    pub async fn erase(&mut self, tenant: TenantId) -> Result<(), TenantError> {
        Self::check_erasable(tenant)?;
        for _ in 1..ERASE_ATTEMPTS {
            match self.try_to_erase(tenant).await {
                Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => {}
                done => return Ok(done?),
            }
        }
        Ok(self.try_to_erase(tenant).await?)
    }

    async fn try_to_erase(&mut self, tenant: TenantId) -> Result<(), tokio_postgres::Error> {
        let transaction = self.client.transaction().await?;
        let id = [(&tenant.0 as &(dyn ToSql + Sync), Type::UUID)];
        // In the order of those who write documents. Nobody can add a row of the tenant from now on.
        for statement in [
            "SELECT 1 FROM collections WHERE tenant_id = $1 ORDER BY id FOR UPDATE",
            "SELECT 1 FROM tenants WHERE id = $1 FOR UPDATE",
        ] {
            transaction.query_typed(statement, &id).await?;
        }
        for row in transaction.query_typed(HOLDING, &[]).await? {
            transaction.execute_typed(row.get("statement"), &id).await?;
        }
        transaction.execute_typed("DELETE FROM tenants WHERE id = $1", &id).await?;
        transaction.commit().await
    }
}

impl Store {
    /// Whether a statement without a condition on the tenant sees rows of one only.
    pub async fn tenant_isolation(&self) -> Result<TenantIsolation, StoreError> {
        let row = self
            .connection()
            .await?
            .query_typed_one(
                "SELECT coalesce(bool_and(c.relrowsecurity), false) AS enabled,
                        coalesce(bool_and(row_security_active(c.oid)), false) AS active
                 FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE p.polname = 'tenant_rows'",
                &[],
            )
            .await?;
        Ok(match (row.get("enabled"), row.get("active")) {
            (false, _) => TenantIsolation::NotYet,
            (true, false) => TenantIsolation::RoleExempt,
            (true, true) => TenantIsolation::Enforced,
        })
    }

    /// Reads out what a tenant has, as it is at one moment. `write` gets the name of a kind of thing
    /// and one of them, as a line of JSON; the kinds come one after the other. Not more than one thing
    /// is in memory at a time. Vectors and indexes are left out: they are made from the rest.
    pub async fn export_tenant(
        &self,
        tenant: TenantId,
        mut write: impl FnMut(&'static str, &str) -> std::io::Result<()>,
    ) -> Result<(), TenantError> {
        let mut connection = self.connection().await?;
        let transaction = connection
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        see_tenant(&transaction, tenant)?;
        transaction.query_typed("SELECT set_config('statement_timeout', '0', true)", &[]).await?;
        for exported in EXPORTED {
            export(&transaction, self.seals(tenant), exported, &mut write).await?;
        }
        Ok(transaction.commit().await?)
    }
}

async fn export(
    transaction: &Transaction<'_>,
    seals: Seals<'_>,
    Exported { kind, things, texts }: Exported,
    write: &mut impl FnMut(&'static str, &str) -> std::io::Result<()>,
) -> Result<(), TenantError> {
    let rows = transaction.query_typed_raw(things, [(&seals.tenant().0, Type::UUID)]).await?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.try_next().await? {
        let mut line: String = row.get("line");
        for (name, text) in texts(&row, seals)? {
            // Behind the last of what the database has told: numbers stay as exact as they are there.
            line.truncate(line.len() - 1);
            line.push_str(&format!(",\"{name}\":{text}}}"));
        }
        write(kind, &line)?;
    }
    Ok(())
}

/// A kind of thing that a tenant has.
#[derive(Clone, Copy)]
struct Exported {
    kind: &'static str,
    /// Selects those of the tenant `$1`: an object of JSON as `line`, and what `texts` reads.
    things: &'static str,
    /// More for the object, by name: what may be sealed.
    texts: Texts,
}

type Texts = fn(&Row, Seals<'_>) -> Result<Vec<(&'static str, Value)>, StoreError>;

const NO_TEXTS: Texts = |_, _| Ok(Vec::new());

/// What belongs to a tenant.
const EXPORTED: [Exported; 7] = [
    Exported {
        kind: "tenant",
        things: "SELECT row_to_json(thing)::text AS line FROM (
                     SELECT id, name, created_at FROM tenants WHERE id = $1) thing",
        texts: NO_TEXTS,
    },
    Exported {
        kind: "collections",
        things: "SELECT row_to_json(thing)::text AS line FROM (
                     SELECT id, name, space_id AS space, lexical, created_at FROM collections
                     WHERE tenant_id = $1 ORDER BY id) thing",
        texts: NO_TEXTS,
    },
    Exported {
        kind: "documents",
        things: "SELECT row_to_json(thing)::text AS line, d.id, d.content, d.image, d.sealed_by, d.sealed_content
                 FROM documents d JOIN collections c ON c.id = d.collection_id, LATERAL (
                     SELECT d.id, c.name AS collection, d.external_id, d.title, d.source, d.format, d.metadata,
                            d.created_at, d.updated_at) thing
                 WHERE d.tenant_id = $1 ORDER BY d.id",
        texts: |row, seals| {
            let id = row.get("id");
            let image = seals.bytes(row, id, DOCUMENT_IMAGE, 0)?;
            Ok(vec![
                ("content", seals.needed_text(row, id, DOCUMENT_CONTENT)?.into()),
                ("image_base64", image.map(|image| BASE64.encode(image)).into()),
            ])
        },
    },
    Exported {
        kind: "passages",
        things: "SELECT row_to_json(thing)::text AS line, p.id, p.heading, p.content,
                        s.sealed_by, s.sealed_heading, s.sealed_content
                 FROM passages p JOIN collection_spaces h
                      ON (h.collection_id, h.tenant_id, h.space_id) = (p.collection_id, p.tenant_id, p.space_id)
                 LEFT JOIN sealed_passages s ON s.passage_id = p.id, LATERAL (
                     SELECT p.id, p.document_id, p.space_id AS space, p.ordinal, p.metadata) thing
                 WHERE p.tenant_id = $1 AND h.state <> 'dropping' ORDER BY p.document_id, p.space_id, p.ordinal",
        texts: |row, seals| {
            let id = row.get("id");
            Ok(vec![
                ("heading", seals.text(row, id, PASSAGE_HEADING)?.into()),
                ("content", seals.needed_text(row, id, PASSAGE_CONTENT)?.into()),
            ])
        },
    },
    Exported {
        kind: "jobs",
        things: "SELECT row_to_json(thing)::text AS line, j.id, j.payload, j.result, j.sealed_by,
                        ARRAY(SELECT s.position FROM job_steps s WHERE s.job_id = j.id ORDER BY s.position) AS positions,
                        ARRAY(SELECT s.outcome FROM job_steps s WHERE s.job_id = j.id ORDER BY s.position) AS outcomes,
                        ARRAY(SELECT s.sealed_by FROM job_steps s WHERE s.job_id = j.id ORDER BY s.position) AS keys
                 FROM jobs j, LATERAL (
                     SELECT j.id, j.kind, j.state, j.done, j.total, j.error, j.key_id, j.created_at, j.finished_at) thing
                 WHERE j.tenant_id = $1 ORDER BY j.id",
        texts: |row, seals| {
            let id = row.get("id");
            let told = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            let steps = row.get::<_, Vec<i64>>("positions").into_iter().zip(row.get::<_, Vec<Vec<u8>>>("outcomes"));
            let steps = steps.zip(row.get::<_, Vec<Option<KeyId>>>("keys"));
            let steps = steps.map(|((position, outcome), key)| {
                seals.open_bytes(key, id, STEP_OUTCOME, position, outcome).map(told)
            });
            Ok(vec![
                ("payload", seals.bytes(row, id, JOB_PAYLOAD, 0)?.map(told).into()),
                ("result", seals.bytes(row, id, JOB_RESULT, 0)?.map(told).into()),
                ("steps", steps.collect::<Result<Vec<_>, _>>()?.into()),
            ])
        },
    },
    Exported {
        kind: "usage",
        things: "SELECT row_to_json(thing)::text AS line FROM (
                     SELECT day, key_id, operation, backend, requests, embed_tokens, prompt_tokens, completion_tokens,
                            estimated_tokens, cost_nano
                     FROM usage_daily WHERE tenant_id = $1 ORDER BY day, key_id, operation, backend) thing",
        texts: NO_TEXTS,
    },
    Exported {
        kind: "answers",
        things: "SELECT row_to_json(thing)::text AS line, a.id, a.question, a.answer, a.comment, a.sealed_by,
                        a.sealed_question, a.sealed_answer, a.sealed_comment
                 FROM answers a JOIN collections c ON c.id = a.collection_id, LATERAL (
                     SELECT a.id, c.name AS collection, a.key_id, a.method, a.backend, a.prompt_tokens,
                            a.completion_tokens, a.cost_nano, a.elapsed_ms, a.rating, a.rated_at, a.created_at,
                            ARRAY(SELECT json_build_object('n', q.n, 'document_id', q.document_id,
                                                           'passage_id', q.passage_id)
                                  FROM answer_citations q WHERE q.answer_id = a.id ORDER BY q.n, q.passage_id)
                                AS citations) thing
                 WHERE a.tenant_id = $1 ORDER BY a.id",
        texts: |row, seals| {
            let id = row.get("id");
            Ok(vec![
                ("question", seals.text(row, id, ANSWER_QUESTION)?.into()),
                ("answer", seals.text(row, id, ANSWER)?.into()),
                ("comment", seals.text(row, id, ANSWER_COMMENT)?.into()),
            ])
        },
    },
];
