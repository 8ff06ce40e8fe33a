//! Which indexes there are, how large, and what is left of interrupted builds.

use secrecy::SecretString;
use tokio_postgres::types::Type;

use super::{
    BuildProgress, IndexError,
    admin::{LEFTOVERS, build_progress, open},
};
use crate::store::{Collection, Store, StoreError, TenantId};

/// An index as it is in the database.
#[derive(Debug, Clone, PartialEq)]
pub struct BuiltIndex {
    /// False: its build was interrupted, or goes on.
    pub valid: bool,
    pub bytes: i64,
    /// Vectors in it when PostgreSQL last looked.
    pub rows: f64,
}

/// What builds are doing, or have left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildStatus {
    pub running: Option<BuildProgress>,
    /// Indexes that no search uses and the next build drops.
    pub leftovers: Vec<String>,
}

impl BuildStatus {
    /// Looks with the owner's role: others do not see its progress.
    pub async fn look(admin_url: &SecretString) -> Result<Self, IndexError> {
        let (client, driver) = open(admin_url).await?;
        let running = build_progress(&client, None).await?;
        // What is being built is not left yet.
        let leftovers = match running {
            Some(_) => Vec::new(),
            None => client.query_typed(LEFTOVERS, &[]).await?.iter().map(|row| row.get(0)).collect(),
        };
        drop(client);
        driver.ended().await;
        Ok(Self { running, leftovers })
    }
}

impl Store {
    /// The index that searches of the collection use; absent where it is not there.
    pub async fn built_index(&self, collection: &Collection) -> Result<Option<BuiltIndex>, StoreError> {
        let row = self
            .connection()
            .await?
            .query_typed_opt(
                "SELECT i.indisvalid, pg_relation_size(c.oid) AS bytes, greatest(c.reltuples, 0)::float8 AS rows
                 FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid WHERE c.oid = to_regclass($1)",
                &[(&collection.index.name, Type::TEXT)],
            )
            .await?;
        Ok(row.map(|row| BuiltIndex {
            valid: row.get("indisvalid"),
            bytes: row.get("bytes"),
            rows: row.get("rows"),
        }))
    }

    /// Vectors in the index that the collections of its space share.
    pub async fn shared_index_rows(&self, collection: &Collection) -> Result<f64, StoreError> {
        let row = self
            .connection()
            .await?
            .query_typed_one(
                "SELECT coalesce((SELECT greatest(reltuples, 0)::float8 FROM pg_class
                                  WHERE oid = to_regclass($1)), 0)",
                &[(&collection.index.shared_name, Type::TEXT)],
            )
            .await?;
        Ok(row.get(0))
    }

    /// Vectors of the collection's live space, chosen by chance. As arrays: the driver would look the
    /// type `vector` up, and never end where the rows are many.
    pub async fn sample_vectors(
        &self,
        tenant: TenantId,
        collection: &Collection,
        count: i64,
    ) -> Result<Vec<Vec<f32>>, StoreError> {
        let rows = self
            .tenant(tenant)
            .await?
            .query_typed(
                "SELECT p.embedding::real[] FROM passages p
                 WHERE p.tenant_id = $1 AND p.collection_id = $2 AND p.space_id = $3 ORDER BY random() LIMIT $4",
                &[
                    (&tenant.0, Type::UUID),
                    (&collection.id, Type::UUID),
                    (&collection.space.id, Type::TEXT),
                    (&count, Type::INT8),
                ],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
