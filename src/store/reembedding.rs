//! Collections that go over from one embedding space to another.
//!
//! Every change of a collection's spaces locks the collection's row; every
//! transaction that writes passages locks it for sharing (`FOR KEY SHARE`)
//! before it looks which spaces there are. So a writer either sees the change,
//! or the change sees the writer's rows.

use std::time::Duration;

use tokio_postgres::{Row, Transaction, types::Type};
use uuid::Uuid;

use super::{
    Collection, NewPassage, Store, StoreError, TenantId,
    documents::{PassageOwner, PassagePlace},
    sealed::{DOCUMENT_CONTENT, DOCUMENT_IMAGE, Seals},
};
use crate::config::EmbeddingSpace;

/// The space that a collection holds beside the one that searches read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherSpace {
    pub space: EmbeddingSpace,
    pub state: OtherState,
    /// How long it has been in this state.
    pub age: Duration,
    /// The job that fills it, while that can be looked up.
    pub job: Option<Uuid>,
}

/// What the other space is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherState {
    /// Documents are being embedded into it; searches will read it when all are.
    Filling,
    /// Searches read it before, and can again.
    Kept,
}

/// What asking for another space did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpaceAdded {
    /// The space is being filled from now on, or was already.
    Filling,
    /// Searches read this space already.
    Live,
    /// The collection is going over to the space of this model.
    Busy(String),
}

/// What turning the pointer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpaceSwitch {
    /// Searches read the new space from now on.
    Done,
    /// Some documents have no passages in it yet; nothing was changed.
    Incomplete,
    /// The collection does not hold the space any more.
    Gone,
}

/// What becomes of the space that was live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Previous {
    /// It can be gone back to.
    Keep,
    Drop,
}

/// Documents of a collection, and those that have passages in a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceProgress {
    pub documents: i64,
    pub done: i64,
}

/// What a document's passages are cut from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredText {
    pub id: Uuid,
    pub content_hash: Vec<u8>,
    pub title: Option<String>,
    pub format: String,
    pub content: String,
    /// Of a picture; its content is the caption.
    pub image: Option<Vec<u8>>,
}

impl StoredText {
    fn open(row: &Row, seals: Seals<'_>) -> Result<Self, StoreError> {
        let id = row.get("id");
        Ok(Self {
            id,
            content_hash: row.get("content_hash"),
            title: row.get("title"),
            format: row.get("format"),
            content: seals.needed_text(row, id, DOCUMENT_CONTENT)?,
            image: seals.bytes(row, id, DOCUMENT_IMAGE, 0)?,
        })
    }
}

/// Documents whose passages of a dropped space are deleted in one transaction.
const DROP_BATCH: i64 = 200;

impl Store {
    /// Makes the collection hold another space, to be filled. One that was kept from an earlier
    /// re-embedding is dropped, or filled again where it is the one asked for.
    pub async fn add_space(
        &self,
        tenant: TenantId,
        collection: &Collection,
        space: &EmbeddingSpace,
    ) -> Result<SpaceAdded, StoreError> {
        self.register_space(space).await?;
        let mut connection = self.tenant(tenant).await?;
        let transaction = connection.transaction().await?;
        lock(&transaction, tenant, collection, Lock::Change).await?;
        for row in spaces(&transaction, tenant, collection).await? {
            match (row.id == space.id, row.state.as_str()) {
                (true, "live") => return Ok(SpaceAdded::Live),
                (true, "filling") => return Ok(SpaceAdded::Filling),
                (false, "filling") => return Ok(SpaceAdded::Busy(row.model)),
                (false, "kept") => {
                    set_state(&transaction, tenant, collection, &row.id, "dropping").await?;
                }
                _ => {}
            }
        }
        transaction
            .execute_typed(
                "INSERT INTO collection_spaces (collection_id, tenant_id, space_id, state)
                 VALUES ($1, $2, $3, 'filling')
                 ON CONFLICT (collection_id, tenant_id, space_id)
                     DO UPDATE SET state = 'filling', job_id = NULL, since = now()",
                &[(&collection.id, Type::UUID), (&tenant.0, Type::UUID), (&space.id, Type::TEXT)],
            )
            .await?;
        transaction.commit().await?;
        Ok(SpaceAdded::Filling)
    }

    /// Lets searches read `to` instead of the live space, if every document has passages in it.
    /// Searches go on meanwhile; writers wait.
    pub async fn switch_space(
        &self,
        tenant: TenantId,
        collection: &Collection,
        to: &EmbeddingSpace,
        previous: Previous,
    ) -> Result<SpaceSwitch, StoreError> {
        let mut connection = self.tenant(tenant).await?;
        let transaction = connection.transaction().await?;
        lock(&transaction, tenant, collection, Lock::Change).await?;
        let held = spaces(&transaction, tenant, collection).await?;
        let state = held.iter().find(|row| row.id == to.id).map_or("dropping", |row| row.state.as_str());
        match state {
            "live" => return Ok(SpaceSwitch::Done),
            "filling" | "kept" => {}
            _ => return Ok(SpaceSwitch::Gone),
        }
        if !missing(&transaction, tenant, collection, to, Uuid::nil(), 1).await?.is_empty() {
            return Ok(SpaceSwitch::Incomplete);
        }
        // Two live, or two others, are never there, not even between two statements.
        let live = held.iter().filter(|row| row.state == "live");
        for row in live.clone() {
            set_state(&transaction, tenant, collection, &row.id, "dropping").await?;
        }
        set_state(&transaction, tenant, collection, &to.id, "live").await?;
        if previous == Previous::Keep {
            for row in live {
                set_state(&transaction, tenant, collection, &row.id, "kept").await?;
            }
        }
        transaction
            .execute_typed(
                "UPDATE collections SET space_id = $3 WHERE id = $1 AND tenant_id = $2",
                &[(&collection.id, Type::UUID), (&tenant.0, Type::UUID), (&to.id, Type::TEXT)],
            )
            .await?;
        transaction.commit().await?;
        Ok(SpaceSwitch::Done)
    }

    /// Stops holding the other space, if it is in this state; says whether it was.
    pub async fn retire_space(
        &self,
        tenant: TenantId,
        collection: &Collection,
        space: &EmbeddingSpace,
        state: OtherState,
    ) -> Result<bool, StoreError> {
        let state = match state {
            OtherState::Filling => "filling",
            OtherState::Kept => "kept",
        };
        let mut connection = self.tenant(tenant).await?;
        let transaction = connection.transaction().await?;
        lock(&transaction, tenant, collection, Lock::Change).await?;
        let held = spaces(&transaction, tenant, collection).await?;
        let there = held.iter().any(|row| row.id == space.id && row.state == state);
        if there {
            set_state(&transaction, tenant, collection, &space.id, "dropping").await?;
        }
        transaction.commit().await?;
        Ok(there)
    }

    /// Deletes passages of spaces that are no longer held, a batch; says whether there is more.
    pub async fn delete_retired(
        &self,
        tenant: TenantId,
        collection: &Collection,
    ) -> Result<bool, StoreError> {
        let mut connection = self.tenant(tenant).await?;
        let transaction = connection.transaction().await?;
        lock(&transaction, tenant, collection, Lock::Write).await?;
        let retired = spaces(&transaction, tenant, collection).await?;
        let Some(space) = retired.into_iter().find(|row| row.state == "dropping") else { return Ok(false) };
        let parameters = [
            (&collection.id as &(dyn tokio_postgres::types::ToSql + Sync), Type::UUID),
            (&tenant.0, Type::UUID),
            (&space.id, Type::TEXT),
        ];
        // Whole documents: one that has any passages in a space has all of them.
        let deleted = transaction
            .execute_typed(
                "DELETE FROM passages WHERE space_id = $3 AND document_id IN (
                     SELECT DISTINCT document_id FROM passages
                     WHERE collection_id = $1 AND tenant_id = $2 AND space_id = $3 LIMIT $4)",
                &[&parameters[..], &[(&DROP_BATCH, Type::INT8)]].concat(),
            )
            .await?;
        if deleted == 0 {
            transaction
                .execute_typed(
                    "DELETE FROM collection_spaces
                     WHERE collection_id = $1 AND tenant_id = $2 AND space_id = $3 AND state = 'dropping'",
                    &parameters,
                )
                .await?;
        }
        transaction.commit().await?;
        drop(connection);
        self.fold_terms(tenant, collection.id).await;
        Ok(true)
    }

    /// Documents without passages in a space that the collection holds, in the order of their ids.
    pub async fn documents_without(
        &self,
        tenant: TenantId,
        collection: &Collection,
        space: &EmbeddingSpace,
        after: Uuid,
        limit: i64,
    ) -> Result<Vec<Uuid>, StoreError> {
        let mut connection = self.tenant(tenant).await?;
        let transaction = connection.transaction().await?;
        let found = missing(&transaction, tenant, collection, space, after, limit).await?;
        transaction.commit().await?;
        Ok(found)
    }

    /// What a document's passages are cut from; absent when it was deleted.
    pub async fn stored_text(&self, tenant: TenantId, id: Uuid) -> Result<Option<StoredText>, StoreError> {
        let row = self
            .tenant(tenant)
            .await?
            .query_typed_opt(
                "SELECT id, content_hash, title, format, content, image, sealed_by, sealed_content
                 FROM documents WHERE tenant_id = $1 AND id = $2",
                &[(&tenant.0, Type::UUID), (&id, Type::UUID)],
            )
            .await?;
        row.map(|row| StoredText::open(&row, self.seals(tenant))).transpose()
    }

    /// Adds a document's passages of another space. Nothing is added when the document was changed
    /// or deleted meanwhile or has them already; `false`: the collection does not hold the space any more.
    pub async fn add_passages(
        &self,
        tenant: TenantId,
        collection: &Collection,
        space: &EmbeddingSpace,
        text: &StoredText,
        passages: &[NewPassage],
    ) -> Result<bool, StoreError> {
        let mut connection = self.tenant(tenant).await?;
        let transaction = connection.transaction().await?;
        lock(&transaction, tenant, collection, Lock::Write).await?;
        let held = spaces(&transaction, tenant, collection).await?;
        let Some(held) = held.iter().find(|row| row.id == space.id && row.state != "dropping") else {
            return Ok(false);
        };
        let document = transaction
            .query_typed_opt(
                "SELECT metadata FROM documents d WHERE id = $1 AND tenant_id = $2 AND content_hash = $3
                 FOR UPDATE",
                &[(&text.id, Type::UUID), (&tenant.0, Type::UUID), (&text.content_hash, Type::BYTEA)],
            )
            .await?;
        let there = transaction
            .query_typed_opt(
                "SELECT 1 FROM passages WHERE document_id = $1 AND space_id = $2 LIMIT 1",
                &[(&text.id, Type::UUID), (&space.id, Type::TEXT)],
            )
            .await?;
        if let (Some(document), None) = (document, there) {
            let metadata = document.get("metadata");
            let owner = PassageOwner { document: text.id, title: text.title.as_deref(), metadata: &metadata };
            let rows: Vec<_> = owner.rows(passages).collect();
            let place = PassagePlace { tenant, collection, space };
            self.insert_passages(&transaction, place, &rows).await?;
            if held.state == "live" {
                // Searches find more now: a trigger of the table raises the collection's version.
                let touch = "UPDATE documents SET updated_at = updated_at WHERE id = $1";
                transaction.execute_typed(touch, &[(&text.id, Type::UUID)]).await?;
            }
        }
        transaction.commit().await?;
        drop(connection);
        self.fold_terms(tenant, collection.id).await;
        Ok(true)
    }

    /// How far a space is filled.
    pub async fn space_progress(
        &self,
        tenant: TenantId,
        collection: &Collection,
        space: &EmbeddingSpace,
    ) -> Result<SpaceProgress, StoreError> {
        let row = self
            .tenant(tenant)
            .await?
            .query_typed_one(
                "SELECT count(*) AS documents, count(*) FILTER (WHERE space_id = $3) AS done FROM (
                     SELECT document_id, max(space_id) FILTER (WHERE space_id = $3) AS space_id FROM passages
                     WHERE collection_id = $1 AND tenant_id = $2 GROUP BY document_id) AS by_document",
                &[(&collection.id, Type::UUID), (&tenant.0, Type::UUID), (&space.id, Type::TEXT)],
            )
            .await?;
        Ok(SpaceProgress { documents: row.get("documents"), done: row.get("done") })
    }

    /// Names the job that fills the other space, or none for now.
    pub async fn set_filling_job(
        &self,
        tenant: TenantId,
        collection: &Collection,
        job: Option<Uuid>,
    ) -> Result<(), StoreError> {
        self.tenant(tenant)
            .await?
            .execute_typed(
                "UPDATE collection_spaces SET job_id = $3
                 WHERE collection_id = $1 AND tenant_id = $2 AND state = 'filling'",
                &[(&collection.id, Type::UUID), (&tenant.0, Type::UUID), (&job, Type::UUID)],
            )
            .await?;
        Ok(())
    }
}

/// What a transaction is about to do with a collection's spaces.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lock {
    /// Write passages: several at once.
    Write,
    /// Change which spaces there are: alone.
    Change,
}

/// A space as the collection holds it.
pub(super) struct HeldSpace {
    pub(super) id: String,
    pub(super) state: String,
    model: String,
}

/// To be taken before [`spaces`], and before a document's row.
pub(super) async fn lock(
    transaction: &Transaction<'_>,
    tenant: TenantId,
    collection: &Collection,
    lock: Lock,
) -> Result<(), StoreError> {
    let statement = match lock {
        Lock::Write => "SELECT 1 FROM collections WHERE id = $1 AND tenant_id = $2 FOR KEY SHARE",
        Lock::Change => "SELECT 1 FROM collections WHERE id = $1 AND tenant_id = $2 FOR UPDATE",
    };
    transaction
        .query_typed_opt(statement, &[(&collection.id, Type::UUID), (&tenant.0, Type::UUID)])
        .await?
        .map(|_| ())
        .ok_or_else(|| StoreError::UnknownCollection(collection.name.clone()))
}

/// The spaces of a locked collection.
pub(super) async fn spaces(
    transaction: &Transaction<'_>,
    tenant: TenantId,
    collection: &Collection,
) -> Result<Vec<HeldSpace>, StoreError> {
    let rows = transaction
        .query_typed(
            "SELECT h.space_id, h.state, s.model FROM collection_spaces h JOIN embedding_spaces s ON s.id = h.space_id
             WHERE h.collection_id = $1 AND h.tenant_id = $2",
            &[(&collection.id, Type::UUID), (&tenant.0, Type::UUID)],
        )
        .await?;
    let held =
        |row: &Row| HeldSpace { id: row.get("space_id"), state: row.get("state"), model: row.get("model") };
    Ok(rows.iter().map(held).collect())
}

async fn set_state(
    transaction: &Transaction<'_>,
    tenant: TenantId,
    collection: &Collection,
    space: &str,
    state: &str,
) -> Result<(), StoreError> {
    transaction
        .execute_typed(
            "UPDATE collection_spaces SET state = $4, since = now()
             WHERE collection_id = $1 AND tenant_id = $2 AND space_id = $3",
            &[
                (&collection.id, Type::UUID),
                (&tenant.0, Type::UUID),
                (&space, Type::TEXT),
                (&state, Type::TEXT),
            ],
        )
        .await?;
    Ok(())
}

/// Documents with passages in some space, and none in this one. A document whose text gave no
/// passages is none of them.
async fn missing(
    transaction: &Transaction<'_>,
    tenant: TenantId,
    collection: &Collection,
    space: &EmbeddingSpace,
    after: Uuid,
    limit: i64,
) -> Result<Vec<Uuid>, StoreError> {
    let rows = transaction
        .query_typed(
            "SELECT d.id FROM documents d
             WHERE d.tenant_id = $1 AND d.collection_id = $2 AND d.id > $4
               AND NOT EXISTS (SELECT FROM passages p WHERE p.document_id = d.id AND p.space_id = $3)
               AND EXISTS (SELECT FROM passages p WHERE p.document_id = d.id)
             ORDER BY d.id LIMIT $5",
            &[
                (&tenant.0, Type::UUID),
                (&collection.id, Type::UUID),
                (&space.id, Type::TEXT),
                (&after, Type::UUID),
                (&limit, Type::INT8),
            ],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get("id")).collect())
}
