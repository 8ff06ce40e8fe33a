//! Documents: what users hand in, list and delete.

use std::borrow::Cow;

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
    Collection, FromRow, JobStep, Lease, Parameter, Store, StoreError, TenantId,
    leases::record_step,
    lexical::{TermSource, announce_terms, insert_missing_terms, insert_terms},
    reembedding::{Lock, lock, spaces},
    sealed::{
        DOCUMENT_CONTENT, DOCUMENT_IMAGE, OVERHEAD, PASSAGE_CONTENT, PASSAGE_HASH, PASSAGE_HEADING,
        PassageText, SealError, Seals, Text, insert_passage_texts, is_retired,
    },
};
use crate::config::{EmbeddingSpace, KeyId};

/// A document to be stored, already cut into embedded passages.
#[derive(Debug, Clone)]
pub struct NewDocument {
    /// The caller's own name of the document; storing another content under it replaces the document.
    pub external_id: Option<String>,
    /// SHA-256 of the content.
    pub content_hash: Vec<u8>,
    /// SHA-256 of the file that it was read from. Without an external id, another content of the
    /// same file replaces the document.
    pub file_hash: Option<Vec<u8>>,
    pub title: Option<String>,
    pub source: Option<String>,
    pub format: &'static str,
    pub content: String,
    /// The file, where the document is a picture; its content is then the caption.
    pub image: Option<Bytes>,
    pub metadata: Value,
    /// What must be there already for it to be stored.
    pub expected: ExpectedVersion,
}

/// A document as it was after one of its changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentVersion {
    pub id: Uuid,
    /// 1, and one more with each change.
    pub version: i64,
}

/// What a writer believes to be stored; it must not overwrite what it has not seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// Whatever is there, or nothing.
    #[default]
    Anything,
    /// The document, in any version.
    Existing,
    OneOf(Vec<DocumentVersion>),
}

impl ExpectedVersion {
    fn check(&self, stored: Option<DocumentVersion>) -> Result<(), StoreError> {
        let met = match self {
            ExpectedVersion::Anything => true,
            ExpectedVersion::Existing => stored.is_some(),
            ExpectedVersion::OneOf(versions) => stored.is_some_and(|stored| versions.contains(&stored)),
        };
        if met { Ok(()) } else { Err(StoreError::VersionChanged(stored.map(|stored| stored.version))) }
    }
}

/// A passage of a [`NewDocument`], in reading order.
#[derive(Debug, Clone)]
pub struct NewPassage {
    pub heading: Option<String>,
    pub content: String,
    /// A vector of its set's space.
    pub vector: Vec<f32>,
    /// SHA-256 of the text that the vector is of; none where it is of no text, or of one not known.
    pub embedded_hash: Option<[u8; 32]>,
}

/// A passage that is stored, with what it was embedded from.
#[derive(Debug, Clone)]
pub struct EarlierPassage {
    /// Of the document.
    pub title: Option<String>,
    pub heading: Option<String>,
    pub content: String,
    pub vector: Vec<f32>,
    /// See [`NewPassage::embedded_hash`].
    pub embedded_hash: Option<Vec<u8>>,
}

impl EarlierPassage {
    fn open(row: &Row, seals: Seals<'_>) -> Result<Self, StoreError> {
        let id = row.get("id");
        Ok(Self {
            title: row.get("title"),
            heading: seals.text(row, id, PASSAGE_HEADING)?,
            content: seals.needed_text(row, id, PASSAGE_CONTENT)?,
            vector: row.get("vector"),
            embedded_hash: seals.twin_bytes(row, id, PASSAGE_HASH)?,
        })
    }
}

/// A document cut and embedded for one space.
#[derive(Debug, Clone)]
pub struct PassageSet {
    pub space: EmbeddingSpace,
    pub passages: Vec<NewPassage>,
    /// How many of them were embedded for it; the vectors of the others were there.
    pub embedded: i64,
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
    /// See [`PassageSet::embedded`].
    pub embedded: i64,
    /// See [`DocumentVersion::version`].
    pub version: i64,
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
    /// See [`DocumentVersion::version`].
    pub version: i64,
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
            version: row.get("version"),
            created_at: row.get("created_at"),
            updated_at: row.get("updated_at"),
        }
    }
}

/// Passages written by one statement, which must end before it times out.
const INSERT_BATCH: usize = 256;

/// What [`SUMMARY`] takes off.
const _: () = assert!(OVERHEAD == 28);

const SUMMARY: &str = "
    SELECT d.id, d.external_id, d.title, d.source, d.format, d.metadata,
           (coalesce(octet_length(d.image), octet_length(d.content), octet_length(d.sealed_content))
                - CASE WHEN d.sealed_by IS NULL THEN 0 ELSE 28 END)::bigint AS bytes,
           d.created_at, d.updated_at, c.name AS collection, d.version,
           (SELECT count(*) FROM passages p WHERE p.document_id = d.id AND p.space_id = c.space_id) AS passages";

impl Store {
    /// Whether a document of this content is stored, so that nothing needs to be embedded.
    pub async fn holds_content(
        &self,
        tenant: TenantId,
        collection: &Collection,
        document: &NewDocument,
    ) -> Result<bool, StoreError> {
        let connection = self.tenant(tenant).await?;
        let statement = format!("SELECT EXISTS (SELECT FROM documents d WHERE {SAME_CONTENT})");
        let row =
            connection.query_typed_one(&statement, &same_content(&tenant.0, collection, document)).await?;
        Ok(row.get(0))
    }

    /// Passages in a space of the document that this one replaces; none where it replaces none.
    pub async fn earlier_passages(
        &self,
        tenant: TenantId,
        collection: &Collection,
        document: &NewDocument,
        space: &EmbeddingSpace,
    ) -> Result<Vec<EarlierPassage>, StoreError> {
        let (replaced, identity) = replaced(document);
        let statement = format!(
            "SELECT p.id, d.title, p.heading, p.content, p.embedding::real[] AS vector, p.embedded_hash,
                    s.sealed_by, s.sealed_heading, s.sealed_content, s.sealed_embedded_hash
             FROM documents d JOIN passages p ON p.document_id = d.id AND p.space_id = $4
             LEFT JOIN sealed_passages s ON s.passage_id = p.id
             WHERE d.tenant_id = $1 AND d.collection_id = $2 AND {replaced}"
        );
        let rows = self
            .tenant(tenant)
            .await?
            .query_typed(
                &statement,
                &[(&tenant.0, Type::UUID), (&collection.id, Type::UUID), identity, (&space.id, Type::TEXT)],
            )
            .await?;
        rows.iter().map(|row| EarlierPassage::open(row, self.seals(tenant))).collect()
    }

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
        lock_identity(&transaction, collection, document).await?;
        lock(&transaction, tenant, collection, Lock::Write).await?;
        let replaced = find_replaced(&transaction, tenant, collection, document).await?;
        document.expected.check(replaced)?;
        let seals = self.seals(tenant);
        if let Some(saved) = refresh(&transaction, seals, collection, document).await? {
            commit(transaction, seals, document, &saved, step).await?;
            return Ok(saved);
        }
        let held = spaces(&transaction, tenant, collection).await?;
        let known = |id: &str| collection.spaces().any(|space| space.id == id);
        let set_of = |id: &str| sets.iter().find(|set| set.space.id == id);
        let live = held.iter().find(|space| space.state == "live").and_then(|live| set_of(&live.id));
        let all_known = held.iter().all(|space| space.state == "dropping" || known(&space.id));
        let Some(live) = live.filter(|_| all_known) else {
            return Err(StoreError::SpacesChanged(collection.name.clone()));
        };
        let written = match replaced {
            Some(replaced) => replace_document(&transaction, seals, document, replaced.id).await?,
            None => insert_document(&transaction, seals, collection, document).await?,
        };
        for space in held.iter().filter(|space| space.state != "dropping") {
            // A set may be missing where the other space's model failed; filling makes up for it.
            let Some(PassageSet { space, passages, .. }) = set_of(&space.id) else { continue };
            let title = document.title.as_deref();
            let place = PassagePlace { tenant, collection, space, document: written.id, title };
            self.insert_passages(&transaction, place, &document.metadata, passages).await?;
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
            "{SUMMARY}, d.content, d.sealed_by, d.sealed_content FROM documents d JOIN collections c ON c.id = d.collection_id
             WHERE d.tenant_id = $1 AND d.id = $2"
        );
        let row = self
            .tenant(tenant)
            .await?
            .query_typed_opt(&statement, &[(&tenant.0, Type::UUID), (&id, Type::UUID)])
            .await?;
        let open = |row: Row| {
            Ok(Document {
                summary: DocumentSummary::from_row(&row),
                collection: row.get("collection"),
                content: self.seals(tenant).needed_text(&row, id, DOCUMENT_CONTENT)?,
            })
        };
        row.map(open).transpose()
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
                "SELECT format, image, sealed_by FROM documents WHERE tenant_id = $1 AND id = $2 AND image IS NOT NULL",
                &[(&tenant.0, Type::UUID), (&id, Type::UUID)],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        let bytes = self.seals(tenant).bytes(&row, id, DOCUMENT_IMAGE, 0)?;
        Ok(bytes.map(|bytes| DocumentImage { format: row.get("format"), bytes }))
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

    /// Writes passages and their terms, some hundred in a statement: a document may have any number.
    pub(super) async fn insert_passages(
        &self,
        transaction: &Transaction<'_>,
        place: PassagePlace<'_>,
        metadata: &Value,
        passages: &[NewPassage],
    ) -> Result<(), StoreError> {
        announce_terms(transaction).await?;
        for (batch, first) in passages.chunks(INSERT_BATCH).zip((0..).step_by(INSERT_BATCH)) {
            self.insert_batch(transaction, place, metadata, first, batch).await?;
        }
        Ok(())
    }

    /// `first` is the ordinal of the first one.
    async fn insert_batch(
        &self,
        transaction: &Transaction<'_>,
        place: PassagePlace<'_>,
        metadata: &Value,
        first: i32,
        passages: &[NewPassage],
    ) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = passages.iter().map(|_| Uuid::now_v7()).collect();
        let ordinals: Vec<i32> = (first..).take(passages.len()).collect();
        let vectors: Vec<Vector> =
            passages.iter().map(|passage| Vector::from(passage.vector.clone())).collect();
        let texts = ids.iter().zip(passages).map(|(id, passage)| PassageText {
            id: *id,
            heading: passage.heading.as_deref(),
            content: &passage.content,
            embedded_hash: passage.embedded_hash.as_ref().map(<[u8; 32]>::as_slice),
        });
        let texts: Vec<PassageText<'_>> = texts.collect();
        let seals = self.seals(place.tenant);
        // What is sealed stands in a table of its own.
        let plain = || texts.iter().map(|text| seals.writing().is_none().then_some(text));
        let headings: Vec<Option<&str>> = plain().map(|text| text?.heading).collect();
        let contents: Vec<Option<&str>> = plain().map(|text| Some(text?.content)).collect();
        let hashes: Vec<Option<&[u8]>> = plain().map(|text| text?.embedded_hash).collect();
        transaction
            .execute_typed(
                "INSERT INTO passages
                     (id, tenant_id, collection_id, space_id, document_id, metadata, ordinal, heading, content, embedding,
                      embedded_hash)
                 SELECT id, $1, $2, $3, $4, $5, ordinal, heading, content, embedding, embedded_hash
                 FROM unnest($6::uuid[], $7::int[], $8::text[], $9::text[], $10::vector[], $11::bytea[])
                      AS new (id, ordinal, heading, content, embedding, embedded_hash)",
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
                    (&hashes, Type::BYTEA_ARRAY),
                ],
            )
            .await?;
        insert_passage_texts(transaction, seals, &texts).await?;
        if !place.collection.lexical {
            return Ok(());
        }
        let sources = texts.iter().map(|text| TermSource {
            id: text.id,
            heading: text.heading.or(place.title),
            content: text.content,
        });
        insert_terms(transaction, &sources.collect::<Vec<_>>()).await
    }
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

/// Of a document `d` that holds the content of another one already; takes [`same_content`].
const SAME_CONTENT: &str = "d.tenant_id = $1 AND d.collection_id = $2 AND d.content_hash = $3
           AND ($4 IS NULL OR d.external_id = $4)";

fn same_content<'a>(
    tenant: &'a Uuid,
    collection: &'a Collection,
    document: &'a NewDocument,
) -> [Parameter<'a>; 4] {
    [
        (tenant, Type::UUID),
        (&collection.id, Type::UUID),
        (&document.content_hash, Type::BYTEA),
        (&document.external_id, Type::TEXT),
    ]
}

/// Of the document `d` that is replaced, with its parameter `$3`: what has the same external id, or else was read
/// from the same file.
fn replaced(document: &NewDocument) -> (&'static str, Parameter<'_>) {
    match &document.external_id {
        Some(external_id) => ("d.external_id = $3", (external_id, Type::TEXT)),
        None => ("d.file_hash = $3", (&document.file_hash, Type::BYTEA)),
    }
}

/// One writer for a document: the second of two that come at once waits and finds what the first stored.
async fn lock_identity(
    transaction: &Transaction<'_>,
    collection: &Collection,
    document: &NewDocument,
) -> Result<(), StoreError> {
    transaction
        .query_typed(
            "SELECT pg_advisory_xact_lock(hashtextextended($1::text || coalesce(' ' || $2, encode($3, 'hex')), 0))",
            &[
                (&collection.id.to_string(), Type::TEXT),
                (&document.external_id, Type::TEXT),
                (&document.content_hash, Type::BYTEA),
            ],
        )
        .await?;
    Ok(())
}

/// The document that this one replaces, locked against being deleted or changed.
async fn find_replaced(
    transaction: &Transaction<'_>,
    tenant: TenantId,
    collection: &Collection,
    document: &NewDocument,
) -> Result<Option<DocumentVersion>, StoreError> {
    let (replaced, identity) = replaced(document);
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

impl FromRow for DocumentVersion {
    fn from_row(row: &Row) -> Self {
        Self { id: row.get("id"), version: row.get("version") }
    }
}
