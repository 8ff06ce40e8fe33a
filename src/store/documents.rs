//! Documents: what users hand in, list and delete.

use bytes::Bytes;
use pgvector::Vector;
use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::{
    Row, Transaction,
    error::SqlState,
    types::{Json, Type},
};
use uuid::Uuid;

use super::{
    Collection, FromRow, JobStep, Lease, Store, StoreError, TenantId,
    leases::record_step,
    lexical::{TermSource, announce_terms, insert_missing_terms, insert_terms},
    reembedding::{Lock, lock, spaces},
};
use crate::config::EmbeddingSpace;

/// A document to be stored, already cut into embedded passages.
#[derive(Debug, Clone)]
pub struct NewDocument {
    /// The caller's own name of the document; storing another content under it replaces the document.
    pub external_id: Option<String>,
    /// SHA-256 of the content.
    pub content_hash: Vec<u8>,
    pub title: Option<String>,
    pub source: Option<String>,
    pub format: &'static str,
    pub content: String,
    /// The file, where the document is a picture; its content is then the caption.
    pub image: Option<Bytes>,
    pub metadata: Value,
}

/// A passage of a [`NewDocument`], in reading order.
#[derive(Debug, Clone)]
pub struct NewPassage {
    pub heading: Option<String>,
    pub content: String,
    /// A vector of its set's space.
    pub vector: Vec<f32>,
}

/// A document cut and embedded for one space.
#[derive(Debug, Clone)]
pub struct PassageSet {
    pub space: EmbeddingSpace,
    pub passages: Vec<NewPassage>,
}

/// What storing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveOutcome {
    Created,
    /// Title, source or metadata changed, or the content under an external id.
    Updated,
    /// This content was there already.
    Unchanged,
}

/// A stored document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    pub id: Uuid,
    pub outcome: SaveOutcome,
    pub passages: i64,
}

/// The step of a job that storing one document is; recorded in the transaction that stores it.
pub struct DocumentStep<'a> {
    pub lease: &'a Lease,
    /// Number of the document among the job's.
    pub position: i64,
    /// Documents of the job.
    pub total: i64,
    /// What came out, in the form that the job's kind defines.
    pub outcome: &'a (dyn Fn(&NewDocument, &Saved) -> Vec<u8> + Send + Sync),
}

/// A document without its content.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentSummary {
    pub id: Uuid,
    pub external_id: Option<String>,
    pub title: Option<String>,
    pub source: Option<String>,
    pub format: String,
    pub metadata: Value,
    pub bytes: i64,
    pub passages: i64,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// A document with its content.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub summary: DocumentSummary,
    pub collection: String,
    pub content: String,
}

/// The file of a document that is a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentImage {
    /// Media type.
    pub format: String,
    pub bytes: Vec<u8>,
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentPage {
    pub documents: Vec<DocumentSummary>,
    /// Documents of the whole collection.
    pub total: i64,
    /// Where the next page begins; absent on the last.
    pub next: Option<Uuid>,
}

/// Where passages are put.
#[derive(Clone, Copy)]
pub(super) struct PassagePlace<'a> {
    pub(super) tenant: TenantId,
    pub(super) collection: &'a Collection,
    pub(super) space: &'a EmbeddingSpace,
    pub(super) document: Uuid,
    /// Of the document.
    pub(super) title: Option<&'a str>,
}

impl FromRow for DocumentSummary {
    fn from_row(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            external_id: row.get("external_id"),
            title: row.get("title"),
            source: row.get("source"),
            format: row.get("format"),
            metadata: row.get("metadata"),
            bytes: row.get("bytes"),
            passages: row.get("passages"),
            created_at: row.get("created_at"),
            updated_at: row.get("updated_at"),
        }
    }
}

const SUMMARY: &str = "
    SELECT d.id, d.external_id, d.title, d.source, d.format, d.metadata,
           coalesce(octet_length(d.image), octet_length(d.content))::bigint AS bytes,
           d.created_at, d.updated_at, c.name AS collection, d.content_hash,
           (SELECT count(*) FROM passages p WHERE p.document_id = d.id AND p.space_id = c.space_id) AS passages";

impl Store {
    /// The document of this content, if it is stored.
    ///
    /// Title, source and metadata that changed are written, so that handing the
    /// same content in again costs no embedding. `step` is recorded when it is stored.
    pub async fn refresh_document(
        &self,
        tenant: TenantId,
        collection: &Collection,
        document: &NewDocument,
        step: Option<&DocumentStep<'_>>,
    ) -> Result<Option<Saved>, StoreError> {
        let mut connection = self.tenant(tenant).await?;
        let transaction = connection.transaction().await?;
        let refreshed = refresh(&transaction, tenant, collection, document).await?;
        match &refreshed {
            Some(saved) => commit(transaction, document, saved, step).await?,
            None => transaction.rollback().await?,
        }
        Ok(refreshed)
    }

    /// Stores a document with its passages, or finds it stored already; records `step`. All or nothing.
    ///
    /// There is one set a space; that of the live one must be among them. Fails with
    /// [`StoreError::SpacesChanged`] when the collection now holds a space that
    /// `collection` does not name, or searches another than it says.
    pub async fn save_document(
        &self,
        tenant: TenantId,
        collection: &Collection,
        document: &NewDocument,
        sets: &[PassageSet],
        step: Option<&DocumentStep<'_>>,
    ) -> Result<Saved, StoreError> {
        let mut connection = self.tenant(tenant).await?;
        let transaction = connection.transaction().await?;
        // One writer for a content: the second of two equal requests waits and finds it.
        transaction
            .query_typed(
                "SELECT pg_advisory_xact_lock(hashtextextended($1::text || encode($2, 'hex'), 0))",
                &[(&collection.id.to_string(), Type::TEXT), (&document.content_hash, Type::BYTEA)],
            )
            .await?;
        if let Some(saved) = refresh(&transaction, tenant, collection, document).await? {
            commit(transaction, document, &saved, step).await?;
            return Ok(saved);
        }
        lock(&transaction, tenant, collection, Lock::Write).await?;
        let held = spaces(&transaction, tenant, collection).await?;
        let known = |id: &str| collection.spaces().any(|space| space.id == id);
        let set_of = |id: &str| sets.iter().find(|set| set.space.id == id);
        let live = held.iter().find(|space| space.state == "live").and_then(|live| set_of(&live.id));
        let all_known = held.iter().all(|space| space.state == "dropping" || known(&space.id));
        let Some(live) = live.filter(|_| all_known) else {
            return Err(StoreError::SpacesChanged(collection.name.clone()));
        };
        let replaced = remove_external(&transaction, tenant, collection, document).await?;
        let id = replaced.unwrap_or_else(Uuid::now_v7);
        insert_document(&transaction, tenant, collection, document, id).await?;
        for space in held.iter().filter(|space| space.state != "dropping") {
            // A set may be missing where the other space's model failed; filling makes up for it.
            let Some(PassageSet { space, passages }) = set_of(&space.id) else { continue };
            let title = document.title.as_deref();
            let place = PassagePlace { tenant, collection, space, document: id, title };
            self.insert_passages(&transaction, place, &document.metadata, passages).await?;
        }
        let outcome = if replaced.is_some() { SaveOutcome::Updated } else { SaveOutcome::Created };
        let saved = Saved { id, outcome, passages: i64::try_from(live.passages.len()).unwrap_or(i64::MAX) };
        commit(transaction, document, &saved, step).await?;
        drop(connection);
        self.fold_terms(tenant, collection.id).await;
        Ok(saved)
    }

    /// Documents in the order they came, `limit` of them after the one given.
    pub async fn documents(
        &self,
        tenant: TenantId,
        collection: &Collection,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<DocumentPage, StoreError> {
        let connection = self.tenant(tenant).await?;
        let statement = format!(
            "{SUMMARY} FROM documents d JOIN collections c ON c.id = d.collection_id
             WHERE d.tenant_id = $1 AND d.collection_id = $2 AND ($3 IS NULL OR d.id > $3)
             ORDER BY d.id LIMIT $4"
        );
        let rows = connection
            .query_typed(
                &statement,
                &[
                    (&tenant.0, Type::UUID),
                    (&collection.id, Type::UUID),
                    (&after, Type::UUID),
                    (&(limit + 1), Type::INT8),
                ],
            )
            .await?;
        let total = connection
            .query_typed_one(
                "SELECT count(*) FROM documents WHERE tenant_id = $1 AND collection_id = $2",
                &[(&tenant.0, Type::UUID), (&collection.id, Type::UUID)],
            )
            .await?
            .get(0);
        let mut documents: Vec<_> = rows.iter().map(DocumentSummary::from_row).collect();
        let more = i64::try_from(documents.len()).unwrap_or(i64::MAX) > limit;
        documents.truncate(usize::try_from(limit).unwrap_or(0));
        let next = if more { documents.last().map(|document| document.id) } else { None };
        Ok(DocumentPage { documents, total, next })
    }

    /// One document with its content.
    pub async fn document(&self, tenant: TenantId, id: Uuid) -> Result<Option<Document>, StoreError> {
        let statement = format!(
            "{SUMMARY}, d.content FROM documents d JOIN collections c ON c.id = d.collection_id
             WHERE d.tenant_id = $1 AND d.id = $2"
        );
        let row = self
            .tenant(tenant)
            .await?
            .query_typed_opt(&statement, &[(&tenant.0, Type::UUID), (&id, Type::UUID)])
            .await?;
        Ok(row.map(|row| Document {
            summary: DocumentSummary::from_row(&row),
            collection: row.get("collection"),
            content: row.get("content"),
        }))
    }

    /// The picture that a document is.
    pub async fn document_image(
        &self,
        tenant: TenantId,
        id: Uuid,
    ) -> Result<Option<DocumentImage>, StoreError> {
        let row = self
            .tenant(tenant)
            .await?
            .query_typed_opt(
                "SELECT format, image FROM documents WHERE tenant_id = $1 AND id = $2 AND image IS NOT NULL",
                &[(&tenant.0, Type::UUID), (&id, Type::UUID)],
            )
            .await?;
        Ok(row.map(|row| DocumentImage { format: row.get("format"), bytes: row.get("image") }))
    }

    /// Deletes a document with its passages; says whether there was one.
    pub async fn delete_document(&self, tenant: TenantId, id: Uuid) -> Result<bool, StoreError> {
        let deleted = self
            .tenant(tenant)
            .await?
            .query_typed_opt(
                "DELETE FROM documents WHERE tenant_id = $1 AND id = $2 RETURNING collection_id",
                &[(&tenant.0, Type::UUID), (&id, Type::UUID)],
            )
            .await?;
        if let Some(row) = &deleted {
            self.fold_terms(tenant, row.get("collection_id")).await;
        }
        Ok(deleted.is_some())
    }

    pub(super) async fn insert_passages(
        &self,
        transaction: &Transaction<'_>,
        place: PassagePlace<'_>,
        metadata: &Value,
        passages: &[NewPassage],
    ) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = passages.iter().map(|_| Uuid::now_v7()).collect();
        let ordinals: Vec<i32> = (0..).take(passages.len()).collect();
        let headings: Vec<Option<&str>> = passages.iter().map(|passage| passage.heading.as_deref()).collect();
        let contents: Vec<&str> = passages.iter().map(|passage| passage.content.as_str()).collect();
        let vectors: Vec<Vector> =
            passages.iter().map(|passage| Vector::from(passage.vector.clone())).collect();
        announce_terms(transaction).await?;
        transaction
            .execute_typed(
                "INSERT INTO passages
                     (id, tenant_id, collection_id, space_id, document_id, metadata, ordinal, heading, content, embedding)
                 SELECT id, $1, $2, $3, $4, $5, ordinal, heading, content, embedding
                 FROM unnest($6::uuid[], $7::int[], $8::text[], $9::text[], $10::vector[])
                      AS new (id, ordinal, heading, content, embedding)",
                &[
                    (&place.tenant.0, Type::UUID),
                    (&place.collection.id, Type::UUID),
                    (&place.space.id, Type::TEXT),
                    (&place.document, Type::UUID),
                    (&Json(metadata), Type::JSONB),
                    (&ids, Type::UUID_ARRAY),
                    (&ordinals, Type::INT4_ARRAY),
                    (&headings, Type::TEXT_ARRAY),
                    (&contents, Type::TEXT_ARRAY),
                    (&vectors, self.pgvector.vector_array.clone()),
                ],
            )
            .await?;
        let sources = ids.iter().zip(passages).map(|(id, passage)| TermSource {
            id: *id,
            heading: passage.heading.as_deref().or(place.title),
            content: &passage.content,
        });
        insert_terms(transaction, &sources.collect::<Vec<_>>()).await
    }
}

async fn commit(
    transaction: Transaction<'_>,
    document: &NewDocument,
    saved: &Saved,
    step: Option<&DocumentStep<'_>>,
) -> Result<(), StoreError> {
    if let Some(&DocumentStep { lease, position, total, outcome }) = step {
        let outcome = outcome(document, saved);
        let step = JobStep { position, done: position + 1, total, outcome: &outcome };
        record_step(&transaction, lease, step).await?;
    }
    Ok(transaction.commit().await?)
}

async fn refresh(
    transaction: &Transaction<'_>,
    tenant: TenantId,
    collection: &Collection,
    document: &NewDocument,
) -> Result<Option<Saved>, StoreError> {
    let statement = format!(
        "{SUMMARY} FROM documents d JOIN collections c ON c.id = d.collection_id
         WHERE d.tenant_id = $1 AND d.collection_id = $2 AND d.content_hash = $3
           AND ($4 IS NULL OR d.external_id = $4)
         ORDER BY d.id LIMIT 1"
    );
    let stored = transaction
        .query_typed_opt(
            &statement,
            &[
                (&tenant.0, Type::UUID),
                (&collection.id, Type::UUID),
                (&document.content_hash, Type::BYTEA),
                (&document.external_id, Type::TEXT),
            ],
        )
        .await?
        .map(|row| DocumentSummary::from_row(&row));
    let Some(stored) = stored else { return Ok(None) };
    let same = stored.title == document.title
        && stored.source == document.source
        && stored.metadata == document.metadata;
    if !same {
        // The caption is no part of what makes two pictures the same.
        let caption = document.image.as_ref().map(|_| &document.content);
        announce_terms(transaction).await?;
        transaction
            .execute_typed(
                // A trigger copies the metadata to the passages.
                "WITH changed AS (
                     UPDATE documents SET title = $2, source = $3, metadata = $4, content = coalesce($5, content),
                                          updated_at = now() WHERE id = $1
                 ) UPDATE passages SET content = $5 WHERE document_id = $1 AND $5 IS NOT NULL",
                &[
                    (&stored.id, Type::UUID),
                    (&document.title, Type::TEXT),
                    (&document.source, Type::TEXT),
                    (&Json(&document.metadata), Type::JSONB),
                    (&caption, Type::TEXT),
                ],
            )
            .await?;
        // A trigger has removed those of a caption that is another now.
        if caption.is_some() {
            insert_missing_terms(transaction, &[stored.id]).await?;
        }
    }
    let outcome = if same { SaveOutcome::Unchanged } else { SaveOutcome::Updated };
    Ok(Some(Saved { id: stored.id, outcome, passages: stored.passages }))
}

/// Removes what is stored under the document's external id and returns its id for reuse.
async fn remove_external(
    transaction: &Transaction<'_>,
    tenant: TenantId,
    collection: &Collection,
    document: &NewDocument,
) -> Result<Option<Uuid>, StoreError> {
    let Some(external_id) = &document.external_id else { return Ok(None) };
    let removed = transaction
        .query_typed_opt(
            "DELETE FROM documents WHERE tenant_id = $1 AND collection_id = $2 AND external_id = $3 RETURNING id",
            &[(&tenant.0, Type::UUID), (&collection.id, Type::UUID), (external_id, Type::TEXT)],
        )
        .await?;
    Ok(removed.map(|row| row.get("id")))
}

async fn insert_document(
    transaction: &Transaction<'_>,
    tenant: TenantId,
    collection: &Collection,
    document: &NewDocument,
    id: Uuid,
) -> Result<(), StoreError> {
    transaction
        .execute_typed(
            "INSERT INTO documents
                 (id, tenant_id, collection_id, external_id, content_hash, title, source, format, content, metadata,
                  image)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            &[
                (&id, Type::UUID),
                (&tenant.0, Type::UUID),
                (&collection.id, Type::UUID),
                (&document.external_id, Type::TEXT),
                (&document.content_hash, Type::BYTEA),
                (&document.title, Type::TEXT),
                (&document.source, Type::TEXT),
                (&document.format, Type::TEXT),
                (&document.content, Type::TEXT),
                (&Json(&document.metadata), Type::JSONB),
                (&document.image.as_deref(), Type::BYTEA),
            ],
        )
        .await
        .map_err(|error| match error.code() {
            Some(code) if *code == SqlState::FOREIGN_KEY_VIOLATION => {
                StoreError::UnknownCollection(collection.name.clone())
            }
            _ => error.into(),
        })?;
    Ok(())
}
