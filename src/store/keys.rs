//! Keys of programs, and the tenants that they belong to. The application's role finds a key by its hash;
//! who makes, lists and revokes keys has the owner's.

use time::OffsetDateTime;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{FromRow, NewAuditEntry, Store, StoreError, TenantId, audit::DONE};

/// A key to be stored.
#[derive(Debug, Clone)]
pub struct NewApiKey<'a> {
    pub id: Uuid,
    pub tenant: TenantId,
    /// For people.
    pub name: &'a str,
    /// SHA-256 of the key, which itself is not kept.
    pub hash: [u8; 32],
    pub permissions: Vec<&'a str>,
    /// Absent: never.
    pub expires_at: Option<OffsetDateTime>,
}

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub id: Uuid,
    pub tenant: TenantId,
    pub tenant_name: String,
    pub name: String,
    pub permissions: Vec<String>,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
    pub revoked_at: Option<OffsetDateTime>,
}

impl FromRow for ApiKey {
    fn from_row(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            tenant: TenantId(row.get("tenant_id")),
            tenant_name: row.get("tenant_name"),
            name: row.get("name"),
            permissions: row.get("permissions"),
            created_at: row.get("created_at"),
            expires_at: row.get("expires_at"),
            revoked_at: row.get("revoked_at"),
        }
    }
}

const KEYS: &str = "
    SELECT k.id, k.tenant_id, t.name AS tenant_name, k.name, k.permissions, k.created_at, k.expires_at, k.revoked_at
    FROM api_keys k JOIN tenants t ON t.id = k.tenant_id";

impl Store {
    /// Stores a key together with the entry that says who made it.
    pub async fn create_key(&self, key: &NewApiKey<'_>, entry: &NewAuditEntry<'_>) -> Result<(), StoreError> {
        self.connection()
            .await?
            .execute_typed(
                "WITH made AS (
                     INSERT INTO api_keys (id, tenant_id, name, key_hash, permissions, expires_at)
                     VALUES ($1, $2, $3, $4, $5, $6) RETURNING tenant_id)
                 INSERT INTO audit_log (id, tenant_id, actor, action, target, request_id, outcome)
                 SELECT $7, tenant_id, $8, $9, $10, $11, $12 FROM made",
                &[
                    (&key.id, Type::UUID),
                    (&key.tenant.0, Type::UUID),
                    (&key.name, Type::TEXT),
                    (&key.hash.as_slice(), Type::BYTEA),
                    (&key.permissions, Type::TEXT_ARRAY),
                    (&key.expires_at, Type::TIMESTAMPTZ),
                    (&Uuid::now_v7(), Type::UUID),
                    (&entry.actor, Type::TEXT),
                    (&entry.action, Type::TEXT),
                    (&entry.target, Type::TEXT),
                    (&entry.request_id, Type::TEXT),
                    (&DONE, Type::TEXT),
                ],
            )
            .await?;
        Ok(())
    }

    /// The key whose SHA-256 this is, revoked and expired ones too.
    pub async fn key_of_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
        let statement = "SELECT * FROM api_key_of_hash($1)";
        let row =
            self.connection().await?.query_typed_opt(statement, &[(&hash.as_slice(), Type::BYTEA)]).await?;
        Ok(row.map(|row| ApiKey::from_row(&row)))
    }

    /// All keys of a tenant, or of all, in the order in which they were made.
    pub async fn keys(&self, tenant: Option<TenantId>) -> Result<Vec<ApiKey>, StoreError> {
        let statement = format!("{KEYS} WHERE $1::uuid IS NULL OR k.tenant_id = $1 ORDER BY k.id");
        let tenant = tenant.map(|tenant| tenant.0);
        let rows = self.connection().await?.query_typed(&statement, &[(&tenant, Type::UUID)]).await?;
        Ok(rows.iter().map(ApiKey::from_row).collect())
    }

    /// Revokes a key together with the entry that says who did it; false where there is none of this id that
    /// is not revoked.
    pub async fn revoke_key(&self, id: Uuid, entry: &NewAuditEntry<'_>) -> Result<bool, StoreError> {
        let revoked = self
            .connection()
            .await?
            .execute_typed(
                "WITH revoked AS (
                     UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL RETURNING tenant_id)
                 INSERT INTO audit_log (id, tenant_id, actor, action, target, request_id, outcome)
                 SELECT $2, tenant_id, $3, $4, $5, $6, $7 FROM revoked",
                &[
                    (&id, Type::UUID),
                    (&Uuid::now_v7(), Type::UUID),
                    (&entry.actor, Type::TEXT),
                    (&entry.action, Type::TEXT),
                    (&entry.target, Type::TEXT),
                    (&entry.request_id, Type::TEXT),
                    (&DONE, Type::TEXT),
                ],
            )
            .await?;
        Ok(revoked > 0)
    }

    /// The tenant of this id, or else of this name.
    pub async fn find_tenant(&self, id_or_name: &str) -> Result<Option<TenantId>, StoreError> {
        let id = Uuid::try_parse(id_or_name).ok();
        let row = self
            .connection()
            .await?
            .query_typed_opt(
                "SELECT id FROM find_tenant($1, $2) AS id WHERE id IS NOT NULL",
                &[(&id, Type::UUID), (&id_or_name, Type::TEXT)],
            )
            .await?;
        Ok(row.map(|row| TenantId(row.get("id"))))
    }
}
