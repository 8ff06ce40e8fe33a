//! Who administered what. Entries are added and told their outcome; the application's role may not change or
//! delete one (see `migrate`).

use time::OffsetDateTime;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{FromRow, Store, StoreError, TenantId};

/// The outcome of what succeeded.
pub const DONE: &str = "done";

/// What is about to be done.
#[derive(Debug, Clone, Copy)]
pub struct NewAuditEntry<'a> {
    /// Whose rows it is about.
    pub tenant: TenantId,
    /// Who does it.
    pub actor: &'a str,
    /// Such as `collection.delete`.
    pub action: &'a str,
    /// What it is done to.
    pub target: &'a str,
    /// Absent at the command line.
    pub request_id: Option<&'a str>,
}

/// What was done, or at least begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    pub id: Uuid,
    pub at: OffsetDateTime,
    pub tenant: TenantId,
    pub actor: String,
    pub action: String,
    pub target: String,
    pub request_id: Option<String>,
    /// [`DONE`], or the code of the error; absent where the server or the client left before the end.
    pub outcome: Option<String>,
}

impl FromRow for AuditEntry {
    fn from_row(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            at: row.get("at"),
            tenant: TenantId(row.get("tenant_id")),
            actor: row.get("actor"),
            action: row.get("action"),
            target: row.get("target"),
            request_id: row.get("request_id"),
            outcome: row.get("outcome"),
        }
    }
}

impl Store {
    /// Adds an entry without an outcome and returns its id.
    pub async fn begin_audit(&self, entry: &NewAuditEntry<'_>) -> Result<Uuid, StoreError> {
        let id = Uuid::now_v7();
        self.tenant(entry.tenant)
            .await?
            .execute_typed(
                "INSERT INTO audit_log (id, tenant_id, actor, action, target, request_id)
                 VALUES ($1, $2, $3, $4, $5, $6)",
                &[
                    (&id, Type::UUID),
                    (&entry.tenant.0, Type::UUID),
                    (&entry.actor, Type::TEXT),
                    (&entry.action, Type::TEXT),
                    (&entry.target, Type::TEXT),
                    (&entry.request_id, Type::TEXT),
                ],
            )
            .await?;
        Ok(id)
    }

    /// Says what came of it.
    pub async fn end_audit(&self, tenant: TenantId, id: Uuid, outcome: &str) -> Result<(), StoreError> {
        self.tenant(tenant)
            .await?
            .execute_typed(
                "UPDATE audit_log SET outcome = $2 WHERE id = $1 AND outcome IS NULL",
                &[(&id, Type::UUID), (&outcome, Type::TEXT)],
            )
            .await?;
        Ok(())
    }

    /// The newest entries of all tenants, newest first: for the owner's role, which sees them.
    pub async fn audit_log(&self, limit: i64) -> Result<Vec<AuditEntry>, StoreError> {
        let rows = self
            .connection()
            .await?
            .query_typed(
                "SELECT id, at, tenant_id, actor, action, target, request_id, outcome FROM audit_log
                 ORDER BY id DESC LIMIT $1",
                &[(&limit, Type::INT8)],
            )
            .await?;
        Ok(rows.iter().map(AuditEntry::from_row).collect())
    }
}
