//! Values of rows that are plain or sealed.
//!
//! A statement selects `sealed_by` and, by the names here, the columns of what it reads.

use std::borrow::Cow;

use tokio_postgres::Row;
use uuid::Uuid;

use super::keyring::{Keyring, Place, SealError};
use crate::{
    config::KeyId,
    store::{Store, StoreError, TenantId},
};

/// A column whose sealed values stand in another one.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct TwinColumn {
    /// With its table: bound to what is sealed.
    pub name: &'static str,
    pub plain: &'static str,
    pub sealed: &'static str,
}

/// A column that holds bytes, plain or sealed.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct BytesColumn {
    /// With its table: bound to what is sealed.
    pub name: &'static str,
    pub column: &'static str,
}

const fn twin(name: &'static str, plain: &'static str, sealed: &'static str) -> TwinColumn {
    TwinColumn { name, plain, sealed }
}

pub(in crate::store) const DOCUMENT_CONTENT: TwinColumn =
    twin("documents.content", "content", "sealed_content");
pub(in crate::store) const DOCUMENT_IMAGE: BytesColumn =
    BytesColumn { name: "documents.image", column: "image" };
pub(in crate::store) const PASSAGE_HEADING: TwinColumn =
    twin("passages.heading", "heading", "sealed_heading");
pub(in crate::store) const PASSAGE_CONTENT: TwinColumn =
    twin("passages.content", "content", "sealed_content");
pub(in crate::store) const PASSAGE_HASH: TwinColumn =
    twin("passages.embedded_hash", "embedded_hash", "sealed_embedded_hash");
pub(in crate::store) const ANSWER_QUESTION: TwinColumn =
    twin("answers.question", "question", "sealed_question");
pub(in crate::store) const ANSWER: TwinColumn = twin("answers.answer", "answer", "sealed_answer");
pub(in crate::store) const ANSWER_COMMENT: TwinColumn = twin("answers.comment", "comment", "sealed_comment");
pub(in crate::store) const JOB_PAYLOAD: BytesColumn = BytesColumn { name: "jobs.payload", column: "payload" };
pub(in crate::store) const JOB_RESULT: BytesColumn = BytesColumn { name: "jobs.result", column: "result" };
pub(in crate::store) const STEP_OUTCOME: BytesColumn =
    BytesColumn { name: "job_steps.outcome", column: "outcome" };

/// A text for a [`TwinColumn`]: the value of one of the two columns, null in the other.
#[derive(Debug, Default)]
pub(in crate::store) struct Text<'a> {
    pub plain: Option<&'a str>,
    pub sealed: Option<Vec<u8>>,
}

/// Seals and opens the values of one tenant.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Seals<'a> {
    pub(super) keyring: &'a Keyring,
    tenant: TenantId,
}

impl Store {
    /// Of this tenant's rows.
    pub(in crate::store) fn seals(&self, tenant: TenantId) -> Seals<'_> {
        Seals::new(&self.keyring, tenant)
    }
}

impl<'a> Seals<'a> {
    pub fn new(keyring: &'a Keyring, tenant: TenantId) -> Self {
        Self { keyring, tenant }
    }

    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// `sealed_by` of a row that is written now.
    pub fn writing(&self) -> Option<KeyId> {
        self.keyring.writing()
    }

    pub fn seal_text<'t>(&self, row: Uuid, column: TwinColumn, text: &'t str) -> Result<Text<'t>, SealError> {
        let sealed = self.seal_twin(row, column, text.as_bytes())?;
        Ok(Text { plain: sealed.is_none().then_some(text), sealed })
    }

    /// The value of the second column; none: it belongs into the first.
    pub fn seal_twin(
        &self,
        row: Uuid,
        column: TwinColumn,
        value: &[u8],
    ) -> Result<Option<Vec<u8>>, SealError> {
        self.keyring.seal(self.place(row, column.name, 0), value)
    }

    /// `part`: see [`Place::part`].
    pub fn seal_bytes<'t>(
        &self,
        row: Uuid,
        column: BytesColumn,
        part: i64,
        value: &'t [u8],
    ) -> Result<Cow<'t, [u8]>, SealError> {
        self.keyring.seal_or_keep(self.place(row, column.name, part), value)
    }

    /// A text of the row with this id; none where it has none.
    pub fn text(&self, row: &Row, id: Uuid, column: TwinColumn) -> Result<Option<String>, StoreError> {
        let Some((key, sealed)) = sealed_twin(row, column) else { return Ok(row.get(column.plain)) };
        let place = self.place(id, column.name, 0);
        let opened = self.keyring.open(key, place, sealed)?;
        let text = String::from_utf8(opened).map_err(|_| SealError::Damaged { key, place })?;
        Ok(Some(text))
    }

    /// A text that no row lacks.
    pub fn needed_text(&self, row: &Row, id: Uuid, column: TwinColumn) -> Result<String, StoreError> {
        let absent = || SealError::Absent(self.place(id, column.name, 0)).into();
        self.text(row, id, column)?.ok_or_else(absent)
    }

    /// As [`Seals::text`], where the column holds bytes.
    pub fn twin_bytes(&self, row: &Row, id: Uuid, column: TwinColumn) -> Result<Option<Vec<u8>>, StoreError> {
        let Some((key, sealed)) = sealed_twin(row, column) else { return Ok(row.get(column.plain)) };
        Ok(Some(self.keyring.open(key, self.place(id, column.name, 0), sealed)?))
    }

    /// Bytes of the row with this id; none where it has none.
    pub fn bytes(
        &self,
        row: &Row,
        id: Uuid,
        column: BytesColumn,
        part: i64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(value) = row.get::<_, Option<Vec<u8>>>(column.column) else { return Ok(None) };
        Ok(Some(self.open_bytes(row.get("sealed_by"), id, column, part, value)?))
    }

    /// A value of a row that `key` has sealed, if any.
    pub fn open_bytes(
        &self,
        key: Option<KeyId>,
        id: Uuid,
        column: BytesColumn,
        part: i64,
        value: Vec<u8>,
    ) -> Result<Vec<u8>, SealError> {
        self.keyring.open_or_keep(key, self.place(id, column.name, part), value)
    }

    fn place(&self, row: Uuid, column: &'static str, part: i64) -> Place {
        Place { tenant: self.tenant.0, row, column, part }
    }
}

/// The sealed value and its key; none where the row is plain, or has no value.
fn sealed_twin(row: &Row, column: TwinColumn) -> Option<(KeyId, Vec<u8>)> {
    row.get::<_, Option<KeyId>>("sealed_by").zip(row.get(column.sealed))
}
