//! Stored documents: listed, read, deleted.

use uuid::Uuid;

use super::{Rag, RagError};
use crate::store::{Document, DocumentPage, ExpectedVersion, TenantId};

impl Rag {
    /// A page of a collection's documents.
    pub async fn documents(
        &self,
        tenant: TenantId,
        collection: Option<&str>,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<DocumentPage, RagError> {
        let collection = self.collection_or_default(tenant, collection).await?;
        Ok(self.store.documents(tenant, &collection, after, limit).await?)
    }

    /// One document with its text.
    pub async fn document(&self, tenant: TenantId, id: Uuid) -> Result<Document, RagError> {
        self.store.document(tenant, id).await?.ok_or(RagError::UnknownDocument(id))
    }

    /// Deletes a document with its passages, if it is the version that is expected.
    pub async fn delete_document(
        &self,
        tenant: TenantId,
        id: Uuid,
        expected: &ExpectedVersion,
    ) -> Result<(), RagError> {
        if self.store.delete_document(tenant, id, expected).await? {
            Ok(())
        } else {
            Err(RagError::UnknownDocument(id))
        }
    }
}
