//! Counts that are folded, and indexes that are filled.

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::write::{Filled, insert_missing_terms};
use crate::store::{Collection, Store, StoreError, TenantId, see_tenant};

/// Changes that searches add up themselves.
const UNFOLDED: i64 = 500;
/// Changes folded in one transaction.
const FOLD_BATCH: i64 = 2_000;
/// Documents whose passages get their terms in one transaction.
const FILL_BATCH: i64 = 100;

/// Takes changes out and adds them to the counts. A term that no passage has any more leaves no trace.
const FOLD: &str = "
    WITH taken AS (
        DELETE FROM term_changes WHERE id IN (
            SELECT id FROM term_changes WHERE index_id = $1 ORDER BY id LIMIT $2)
        RETURNING change, language, words, terms
    ), summed AS (
        UPDATE lexical_indexes i SET passages = i.passages + of.change, words = i.words + of.words
        FROM (SELECT coalesce(sum(change), 0) AS change, coalesce(sum(change * words), 0) AS words FROM taken) of
        WHERE i.id = $1
    )
    MERGE INTO term_counts t USING (
        SELECT i.tenant_id, of.term, sum(of.change) AS change FROM (
            SELECT unnest(tsvector_to_array(terms)), change FROM taken
            UNION ALL SELECT '@' || language, change FROM taken
        ) of (term, change), lexical_indexes i
        WHERE i.id = $1 AND of.term <> '@' || $1::bigint
        GROUP BY i.tenant_id, of.term HAVING sum(of.change) <> 0
    ) new ON t.index_id = $1 AND t.term = new.term
    WHEN MATCHED AND t.passages + new.change <= 0 THEN DELETE
    WHEN MATCHED THEN UPDATE SET passages = t.passages + new.change
    WHEN NOT MATCHED THEN INSERT (index_id, tenant_id, term, passages)
        VALUES ($1, new.tenant_id, new.term, new.change)";

impl Store {
    /// Folds what changed in a collection into the counts of its terms, where that is much; where
    /// passages went, in any case, so that their words do not stay.
    ///
    /// That it fails does no harm: searches add what is not folded. It takes a connection: the caller
    /// must hold none, or callers could wait for each other's.
    pub(in crate::store) async fn fold_terms(&self, tenant: TenantId, collection: Uuid) {
        if let Err(error) = self.try_to_fold(tenant, collection).await {
            tracing::warn!(%error, %collection, "the counts of terms are left to the next change: {error}");
        }
    }

    async fn try_to_fold(&self, tenant: TenantId, collection: Uuid) -> Result<(), StoreError> {
        let mut connection = self.tenant(tenant).await?;
        let due = connection
            .query_typed(
                "SELECT i.id FROM lexical_indexes i, LATERAL (
                     SELECT count(*) AS changes, coalesce(min(change), 1) AS least FROM (
                         SELECT change FROM term_changes WHERE index_id = i.id LIMIT $3) first) c
                 WHERE i.tenant_id = $1 AND i.collection_id = $2 AND (c.changes = $3 OR c.least < 0)",
                &[(&tenant.0, Type::UUID), (&collection, Type::UUID), (&UNFOLDED, Type::INT8)],
            )
            .await?;
        for index in due.iter().map(|row| row.get::<_, i64>("id")) {
            loop {
                let transaction = connection.transaction().await?;
                // One at a time; what another leaves, the next change finds.
                let free = transaction
                    .query_typed_opt(
                        "SELECT 1 FROM lexical_indexes WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED",
                        &[(&index, Type::INT8)],
                    )
                    .await?;
                if free.is_none() {
                    break;
                }
                transaction.execute_typed(FOLD, &[(&index, Type::INT8), (&FOLD_BATCH, Type::INT8)]).await?;
                let more: bool = transaction
                    .query_typed_one(
                        "SELECT count(*) >= $2 FROM (
                             SELECT FROM term_changes WHERE index_id = $1 LIMIT $2) first",
                        &[(&index, Type::INT8), (&UNFOLDED, Type::INT8)],
                    )
                    .await?
                    .get(0);
                transaction.commit().await?;
                if !more {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Writes terms of passages that have none: those stored before there was a lexical index, or by a
    /// replica of a version without one. A batch of one index; says whether there may be more to do at once.
    ///
    /// Replicas share the work: one that another is at is left out.
    pub async fn fill_lexical_index(&self) -> Result<bool, StoreError> {
        let mut connection = self.connection().await?;
        let transaction = connection.transaction().await?;
        let index = transaction
            .query_typed_opt(
                "SELECT id, tenant_id, collection_id, fill_from FROM lock_lexical_index_to_fill()",
                &[],
            )
            .await?;
        let Some(index) = index else { return Ok(false) };
        let (tenant, collection): (Uuid, Uuid) = (index.get("tenant_id"), index.get("collection_id"));
        see_tenant(&transaction, TenantId(tenant))?;
        let fill_from: Uuid = index.get("fill_from");
        let documents: Vec<Uuid> = transaction
            .query_typed(
                "SELECT id FROM documents WHERE tenant_id = $1 AND collection_id = $2 AND id >= $3
                 ORDER BY id LIMIT $4",
                &[
                    (&tenant, Type::UUID),
                    (&collection, Type::UUID),
                    (&fill_from, Type::UUID),
                    (&(FILL_BATCH + 1), Type::INT8),
                ],
            )
            .await?
            .iter()
            .map(|row| row.get("id"))
            .collect();
        let (batch, next) = match documents.split_last() {
            Some((last, batch)) if documents.len() > FILL_BATCH as usize => (batch, Some(*last)),
            _ => (documents.as_slice(), None),
        };
        // What someone is deleting is looked at again: the deletion may be undone.
        let filled = insert_missing_terms(&transaction, self.seals(TenantId(tenant)), batch).await?;
        let next = match filled {
            Filled::All => next,
            Filled::SomeLocked => Some(fill_from),
        };
        transaction
            .execute_typed(
                "UPDATE lexical_indexes SET fill_from = $2, ready = ready OR $2 IS NULL WHERE id = $1",
                &[(&index.get::<_, i64>("id"), Type::INT8), (&next, Type::UUID)],
            )
            .await?;
        transaction.commit().await?;
        drop(connection);
        self.fold_terms(TenantId(tenant), collection).await;
        Ok(filled == Filled::All)
    }

    /// How many documents of a collection the filling of its lexical index has still to look at.
    pub async fn lexical_backlog(
        &self,
        tenant: TenantId,
        collection: &Collection,
    ) -> Result<i64, StoreError> {
        let row = self
            .tenant(tenant)
            .await?
            .query_typed_one(
                "SELECT count(*) FROM documents d JOIN lexical_indexes i ON i.collection_id = d.collection_id
                 WHERE i.tenant_id = $1 AND i.collection_id = $2 AND i.space_id = $3 AND d.id >= i.fill_from",
                &[(&tenant.0, Type::UUID), (&collection.id, Type::UUID), (&collection.space.id, Type::TEXT)],
            )
            .await?;
        Ok(row.get(0))
    }
}
