//! Documents as they are stored: listed, read.

use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{Document, DocumentImage, DocumentPage, DocumentSummary};
use crate::store::{
    Collection, FromRow, Store, StoreError, TenantId,
    sealed::{DOCUMENT_CONTENT, DOCUMENT_IMAGE, OVERHEAD},
};

/// What [`SUMMARY`] takes off.
const _: () = assert!(OVERHEAD == 28);

pub(super) const SUMMARY: &str = "
    SELECT d.id, d.external_id, d.title, d.source, d.format, d.metadata,
           (coalesce(octet_length(d.image), octet_length(d.content), octet_length(d.sealed_content))
                - CASE WHEN d.sealed_by IS NULL THEN 0 ELSE 28 END)::bigint AS bytes,
           d.created_at, d.updated_at, c.name AS collection, d.version,
           (SELECT count(*) FROM passages p WHERE p.document_id = d.id AND p.space_id = c.space_id) AS passages";

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

impl Store {
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
}
