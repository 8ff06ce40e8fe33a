//! One document is stored, whether or not it is known; or deleted.

use std::borrow::Cow;

use serde_json::Value;
use tokio_postgres::{
    Transaction,
    error::SqlState,
    types::{Json, Type},
};
use uuid::Uuid;

use super::{
    DocumentStep, DocumentSummary, DocumentVersion, ExpectedVersion, NewDocument, PassageOwner, PassagePlace,
    PassageSet, SaveOutcome, Saved,
    identity::{SAME_CONTENT, lock_identities, replaced, same_content},
    listing::SUMMARY,
};
use crate::config::KeyId;
use crate::store::{
    Collection, FromRow, JobStep, Parameter, Store, StoreError, TenantId,
    leases::record_step,
    lexical::{announce_terms, insert_missing_terms},
    reembedding::{HeldSpace, Lock, lock, spaces},
    sealed::{
        DOCUMENT_CONTENT, DOCUMENT_IMAGE, PassageText, SealError, Seals, Text, insert_passage_texts,
        is_retired,
    },
};

impl Store {
    /// Stores a document with its passages, or finds it stored already; records `step`. All or nothing.
    ///
    /// Title, source and metadata of one that is stored are written where they changed, and its
    /// passages left alone. Two that store the same document do so one after the other.
    ///
    /// There is one set a space; that of the live one must be among them. Fails with
    /// [`StoreError::SpacesChanged`] when the collection now holds a space that
    /// `collection` does not name, searches another than it says, or `sets` lacks the live one; with
    /// [`StoreError::VersionChanged`] when what is stored is not what `document` expects.
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
        lock_identities(&transaction, collection, &[document]).await?;
        lock(&transaction, tenant, collection, Lock::Write).await?;
        let replaced = find_replaced(&transaction, tenant, collection, document).await?;
        document.expected.check(replaced)?;
        let seals = self.seals(tenant);
        if let Some(saved) = refresh(&transaction, seals, collection, document).await? {
            commit(transaction, seals, document, &saved, step).await?;
            return Ok(saved);
        }
        let held = spaces(&transaction, tenant, collection).await?;
        let live = live_set(&held, collection, sets)?;
        let written = match replaced {
            Some(replaced) => replace_document(&transaction, seals, document, replaced.id).await?,
            None => insert_document(&transaction, seals, collection, document).await?,
        };
        for space in held.iter().filter(|space| space.state != "dropping") {
            // A set may be missing where the other space's model failed; filling makes up for it.
            let Some(set) = sets.iter().find(|set| set.space.id == space.id) else { continue };
            let place = PassagePlace { tenant, collection, space: &set.space };
            let rows: Vec<_> = PassageOwner::of(document, written.id).rows(&set.passages).collect();
            self.insert_passages(&transaction, place, &rows).await?;
        }
        let saved = Saved {
            id: written.id,
            outcome: if replaced.is_some() { SaveOutcome::Updated } else { SaveOutcome::Created },
            passages: i64::try_from(live.passages.len()).unwrap_or(i64::MAX),
            embedded: live.embedded,
            version: written.version,
        };
        commit(transaction, seals, document, &saved, step).await?;
        drop(connection);
        self.fold_terms(tenant, collection.id).await;
        Ok(saved)
    }

    /// Deletes a document with its passages; says whether there was one.
    ///
    /// Fails with [`StoreError::VersionChanged`] when there is another version than expected.
    pub async fn delete_document(
        &self,
        tenant: TenantId,
        id: Uuid,
        expected: &ExpectedVersion,
    ) -> Result<bool, StoreError> {
        let mut connection = self.tenant(tenant).await?;
        let transaction = connection.transaction().await?;
        let deleted = transaction
            .query_typed_opt(
                "DELETE FROM documents WHERE tenant_id = $1 AND id = $2 RETURNING collection_id, id, version",
                &[(&tenant.0, Type::UUID), (&id, Type::UUID)],
            )
            .await?;
        let Some(row) = deleted else { return Ok(false) };
        expected.check(Some(DocumentVersion::from_row(&row)))?;
        transaction.commit().await?;
        drop(connection);
        self.fold_terms(tenant, row.get("collection_id")).await;
        Ok(true)
    }
}

/// The set of the space that searches read.
///
/// Fails where it is missing, or where the collection holds a space that it did not when the sets were made.
pub(super) fn live_set<'a>(
    held: &[HeldSpace],
    collection: &Collection,
    sets: &'a [PassageSet],
) -> Result<&'a PassageSet, StoreError> {
    let known = |id: &str| collection.spaces().any(|space| space.id == id);
    let all_known = held.iter().all(|space| space.state == "dropping" || known(&space.id));
    let live = held.iter().find(|space| space.state == "live");
    live.filter(|_| all_known)
        .and_then(|live| sets.iter().find(|set| set.space.id == live.id))
        .ok_or_else(|| StoreError::SpacesChanged(collection.name.clone()))
}

async fn commit(
    transaction: Transaction<'_>,
    seals: Seals<'_>,
    document: &NewDocument,
    saved: &Saved,
    step: Option<&DocumentStep<'_>>,
) -> Result<(), StoreError> {
    if let Some(&DocumentStep { lease, position, total, outcome }) = step {
        let outcome = outcome(document, saved);
        let step = JobStep { position, done: position + 1, total, outcome: &outcome };
        record_step(&transaction, seals, lease, step).await?;
    }
    Ok(transaction.commit().await?)
}

/// The document that this one replaces, locked against being deleted or changed.
async fn find_replaced(
    transaction: &Transaction<'_>,
    tenant: TenantId,
    collection: &Collection,
    document: &NewDocument,
) -> Result<Option<DocumentVersion>, StoreError> {
    let (replaced, identity) = replaced(document, 3);
    let statement = format!(
        "SELECT d.id, d.version FROM documents d WHERE d.tenant_id = $1 AND d.collection_id = $2 AND {replaced}
         ORDER BY d.id LIMIT 1 FOR UPDATE"
    );
    let found = transaction
        .query_typed_opt(&statement, &[(&tenant.0, Type::UUID), (&collection.id, Type::UUID), identity])
        .await?;
    Ok(found.map(|row| DocumentVersion::from_row(&row)))
}

/// What is stored of this content, with the labels that it has now.
async fn refresh(
    transaction: &Transaction<'_>,
    seals: Seals<'_>,
    collection: &Collection,
    document: &NewDocument,
) -> Result<Option<Saved>, StoreError> {
    let statement = format!(
        "{SUMMARY}, d.file_hash FROM documents d JOIN collections c ON c.id = d.collection_id
         WHERE {SAME_CONTENT} ORDER BY d.id LIMIT 1 FOR UPDATE OF d"
    );
    let tenant = seals.tenant().0;
    let row = transaction.query_typed_opt(&statement, &same_content(&tenant, collection, document)).await?;
    let Some(row) = row else { return Ok(None) };
    let stored = DocumentSummary::from_row(&row);
    if document.file_hash.is_some() && row.get::<_, Option<Vec<u8>>>("file_hash") != document.file_hash {
        // Another file, or one stored before files were known. No change of the document.
        transaction
            .execute_typed(
                "UPDATE documents SET file_hash = $2 WHERE id = $1",
                &[(&stored.id, Type::UUID), (&document.file_hash, Type::BYTEA)],
            )
            .await?;
    }
    let same = stored.title == document.title
        && stored.source == document.source
        && stored.metadata == document.metadata;
    let version =
        if same { stored.version } else { relabel(transaction, seals, document, stored.id).await? };
    let outcome = if same { SaveOutcome::Unchanged } else { SaveOutcome::Updated };
    Ok(Some(Saved { id: stored.id, outcome, passages: stored.passages, embedded: 0, version }))
}

/// Writes title, source and metadata, and the caption of a picture; returns the version that this makes.
async fn relabel(
    transaction: &Transaction<'_>,
    seals: Seals<'_>,
    document: &NewDocument,
    id: Uuid,
) -> Result<i64, StoreError> {
    let metadata = Json(&document.metadata);
    let labels: [Parameter; 4] = [
        (&id, Type::UUID),
        (&document.title, Type::TEXT),
        (&document.source, Type::TEXT),
        (&metadata, Type::JSONB),
    ];
    // A trigger copies the metadata to the passages.
    if !has_new_caption(transaction, seals, document, id).await? {
        let changed = transaction
            .query_typed_one(
                "UPDATE documents SET title = $2, source = $3, metadata = $4, updated_at = now()
                 WHERE id = $1 RETURNING version",
                &labels,
            )
            .await?;
        return Ok(changed.get("version"));
    }
    let sealed = SealedDocument::of(seals, id, document)?;
    announce_terms(transaction).await?;
    let changed = transaction
        .query_typed_one(
            "UPDATE documents SET title = $2, source = $3, metadata = $4, content = $5, sealed_content = $6,
                                  image = $7, sealed_by = $8, updated_at = now()
             WHERE id = $1 RETURNING version",
            &[labels, sealed.written()].concat(),
        )
        .await?;
    write_caption(transaction, seals, id, &document.content).await?;
    Ok(changed.get("version"))
}

/// Whether a document is a picture with another caption: that is no part of what makes two pictures the same.
async fn has_new_caption(
    transaction: &Transaction<'_>,
    seals: Seals<'_>,
    document: &NewDocument,
    id: Uuid,
) -> Result<bool, StoreError> {
    if document.image.is_none() {
        return Ok(false);
    }
    let stored = transaction
        .query_typed_one(
            "SELECT content, sealed_by, sealed_content FROM documents WHERE id = $1",
            &[(&id, Type::UUID)],
        )
        .await?;
    Ok(seals.needed_text(&stored, id, DOCUMENT_CONTENT)? != document.content)
}

/// Writes the caption of a picture to its passages, one for each space.
async fn write_caption(
    transaction: &Transaction<'_>,
    seals: Seals<'_>,
    id: Uuid,
    caption: &str,
) -> Result<(), StoreError> {
    let plain = seals.writing().is_none().then_some(caption);
    let rows = transaction
        .query_typed(
            "UPDATE passages SET content = $2 WHERE document_id = $1 RETURNING id",
            &[(&id, Type::UUID), (&plain, Type::TEXT)],
        )
        .await?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.get("id")).collect();
    // A trigger sees only what is plain.
    for statement in [
        "DELETE FROM passage_terms WHERE passage_id = ANY($1)",
        "DELETE FROM sealed_passages WHERE passage_id = ANY($1)",
    ] {
        transaction.execute_typed(statement, &[(&ids, Type::UUID_ARRAY)]).await?;
    }
    let text = |id: &Uuid| PassageText { id: *id, heading: None, content: caption, embedded_hash: None };
    insert_passage_texts(transaction, seals, &ids.iter().map(text).collect::<Vec<_>>()).await?;
    insert_missing_terms(transaction, seals, &[id]).await.map(drop)
}

/// Another content for a document; its passages, of all spaces, are removed.
async fn replace_document(
    transaction: &Transaction<'_>,
    seals: Seals<'_>,
    document: &NewDocument,
    id: Uuid,
) -> Result<DocumentVersion, StoreError> {
    let of_document: Parameter = (&id, Type::UUID);
    transaction
        .execute_typed("DELETE FROM passages WHERE document_id = $1", std::slice::from_ref(&of_document))
        .await?;
    let sealed = SealedDocument::of(seals, id, document)?;
    let row = transaction
        .query_typed_one(
            "UPDATE documents SET content_hash = $2, file_hash = $3, title = $4, source = $5, format = $6,
                                  metadata = $7, content = $8, sealed_content = $9, image = $10, sealed_by = $11,
                                  updated_at = now()
             WHERE id = $1 RETURNING id, version",
            &[&[of_document], written(document, &Json(&document.metadata)).as_slice(), &sealed.written()].concat(),
        )
        .await?;
    Ok(DocumentVersion::from_row(&row))
}

async fn insert_document(
    transaction: &Transaction<'_>,
    seals: Seals<'_>,
    collection: &Collection,
    document: &NewDocument,
) -> Result<DocumentVersion, StoreError> {
    let id = Uuid::now_v7();
    let tenant = seals.tenant().0;
    let sealed = SealedDocument::of(seals, id, document)?;
    let place: [Parameter; 4] = [
        (&id, Type::UUID),
        (&tenant, Type::UUID),
        (&collection.id, Type::UUID),
        (&document.external_id, Type::TEXT),
    ];
    let row = transaction
        .query_typed_one(
            "INSERT INTO documents
                 (id, tenant_id, collection_id, external_id, content_hash, file_hash, title, source, format, metadata,
                  content, sealed_content, image, sealed_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING id, version",
            &[&place, written(document, &Json(&document.metadata)).as_slice(), &sealed.written()].concat(),
        )
        .await
        .map_err(|error| match error.code() {
            Some(code) if *code == SqlState::FOREIGN_KEY_VIOLATION && !is_retired(&error) => {
                StoreError::UnknownCollection(collection.name.clone())
            }
            _ => error.into(),
        })?;
    Ok(DocumentVersion::from_row(&row))
}

/// Columns of a document that another content changes, from `content_hash` to `metadata`.
fn written<'a>(document: &'a NewDocument, metadata: &'a Json<&'a Value>) -> [Parameter<'a>; 6] {
    [
        (&document.content_hash, Type::BYTEA),
        (&document.file_hash, Type::BYTEA),
        (&document.title, Type::TEXT),
        (&document.source, Type::TEXT),
        (&document.format, Type::TEXT),
        (metadata, Type::JSONB),
    ]
}

/// What a row holds of a document's content, and of the picture that it is.
struct SealedDocument<'a> {
    content: Text<'a>,
    image: Option<Cow<'a, [u8]>>,
    sealed_by: Option<KeyId>,
}

impl<'a> SealedDocument<'a> {
    fn of(seals: Seals<'_>, id: Uuid, document: &'a NewDocument) -> Result<Self, SealError> {
        let image = document.image.as_deref().map(|image| seals.seal_bytes(id, DOCUMENT_IMAGE, 0, image));
        Ok(Self {
            content: seals.seal_text(id, DOCUMENT_CONTENT, &document.content)?,
            image: image.transpose()?,
            sealed_by: seals.writing(),
        })
    }

    /// `content`, `sealed_content`, `image`, `sealed_by`.
    fn written(&self) -> [Parameter<'_>; 4] {
        [
            (&self.content.plain, Type::TEXT),
            (&self.content.sealed, Type::BYTEA),
            (&self.image, Type::BYTEA),
            (&self.sealed_by, Type::INT4),
        ]
    }
}
