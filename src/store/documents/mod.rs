//! Documents: what users hand in, list and delete.

mod identity;
mod listing;
mod passages;
mod saving;
mod together;

pub use identity::Standing;
pub(super) use passages::{PassageOwner, PassagePlace};

use bytes::Bytes;
use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    FromRow, Lease, StoreError,
    sealed::{PASSAGE_CONTENT, PASSAGE_HASH, PASSAGE_HEADING, Seals},
};
use crate::config::EmbeddingSpace;

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

impl FromRow for DocumentVersion {
    fn from_row(row: &Row) -> Self {
        Self { id: row.get("id"), version: row.get("version") }
    }
}
