//! What makes two documents the same, and what is stored of one already.

use std::collections::HashSet;

use tokio_postgres::{Transaction, types::Type};
use uuid::Uuid;

use super::{EarlierPassage, ExpectedVersion, NewDocument};
use crate::{
    config::EmbeddingSpace,
    store::{Collection, Parameter, Store, StoreError, TenantId},
};

/// What is stored of a document that is to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Unknown,
    /// Another content, which is replaced.
    Earlier,
    /// This content: nothing needs to be embedded.
    Stored,
}

impl Store {
    /// What is stored of a document now; others may store it before it is.
    pub async fn standing(
        &self,
        tenant: TenantId,
        collection: &Collection,
        document: &NewDocument,
    ) -> Result<Standing, StoreError> {
        let (replaced, identity) = replaced(document, 5);
        let statement = format!(
            "SELECT EXISTS (SELECT FROM documents d WHERE {SAME_CONTENT}) AS same,
                    EXISTS (SELECT FROM documents d
                            WHERE d.tenant_id = $1 AND d.collection_id = $2 AND {replaced}) AS earlier"
        );
        let parameters = [same_content(&tenant.0, collection, document).as_slice(), &[identity]].concat();
        let row = self.tenant(tenant).await?.query_typed_one(&statement, &parameters).await?;
        Ok(match (row.get("same"), row.get("earlier")) {
            (true, _) => Standing::Stored,
            (false, true) => Standing::Earlier,
            (false, false) => Standing::Unknown,
        })
    }

    /// Passages in a space of the document that this one replaces; none where it replaces none.
    pub async fn earlier_passages(
        &self,
        tenant: TenantId,
        collection: &Collection,
        document: &NewDocument,
        space: &EmbeddingSpace,
    ) -> Result<Vec<EarlierPassage>, StoreError> {
        let (replaced, identity) = replaced(document, 3);
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
}

/// Of a document `d` that holds the content of another one already; takes [`same_content`].
pub(super) const SAME_CONTENT: &str = "d.tenant_id = $1 AND d.collection_id = $2 AND d.content_hash = $3
           AND ($4 IS NULL OR d.external_id = $4)";

pub(super) fn same_content<'a>(
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

/// Of the document `d` that is replaced, with its parameter, number `n`: what has the same external id, or
/// else was read from the same file.
pub(super) fn replaced(document: &NewDocument, n: usize) -> (String, Parameter<'_>) {
    match &document.external_id {
        Some(external_id) => (format!("d.external_id = ${n}"), (external_id, Type::TEXT)),
        None => (format!("d.file_hash = ${n}"), (&document.file_hash, Type::BYTEA)),
    }
}

/// One writer for a document: the second of two that come at once waits and finds what the first stored.
///
/// All writers of several take them in one order, so that none waits for one that waits for it.
pub(super) async fn lock_identities(
    transaction: &Transaction<'_>,
    collection: &Collection,
    documents: &[&NewDocument],
) -> Result<(), StoreError> {
    let external_ids: Vec<&Option<String>> = documents.iter().map(|document| &document.external_id).collect();
    let hashes: Vec<&[u8]> = documents.iter().map(|document| document.content_hash.as_slice()).collect();
    transaction
        .query_typed(
            "SELECT pg_advisory_xact_lock(key) FROM (
                 SELECT DISTINCT hashtextextended(
                     $1::text || coalesce(' ' || external_id, encode(content_hash, 'hex')), 0) AS key
                 FROM unnest($2::text[], $3::bytea[]) AS new (external_id, content_hash) ORDER BY key
             ) keys",
            &[
                (&collection.id.to_string(), Type::TEXT),
                (&external_ids, Type::TEXT_ARRAY),
                (&hashes, Type::BYTEA_ARRAY),
            ],
        )
        .await?;
    Ok(())
}

/// Whether none of the documents would replace or be another of them, or expects a version.
pub(super) fn are_apart(documents: &[&NewDocument]) -> bool {
    let (mut names, mut contents, mut files) = (HashSet::new(), HashSet::new(), HashSet::new());
    documents.iter().all(|document| {
        let new_content = contents.insert(&document.content_hash);
        let new_file = document.file_hash.as_ref().is_none_or(|hash| files.insert(hash));
        let is_new = match &document.external_id {
            Some(name) => names.insert(name),
            None => new_content && new_file,
        };
        is_new && document.expected == ExpectedVersion::Anything
    })
}

/// Whether any of the documents is stored, in this version or another.
pub(super) async fn is_any_stored(
    transaction: &Transaction<'_>,
    tenant: TenantId,
    collection: &Collection,
    documents: &[&NewDocument],
) -> Result<bool, StoreError> {
    let names: Vec<&String> = documents.iter().filter_map(|document| document.external_id.as_ref()).collect();
    let unnamed = || documents.iter().filter(|document| document.external_id.is_none());
    let contents: Vec<&[u8]> = unnamed().map(|document| document.content_hash.as_slice()).collect();
    let files: Vec<&[u8]> = unnamed().filter_map(|document| document.file_hash.as_deref()).collect();
    let row = transaction
        .query_typed_one(
            "SELECT EXISTS (SELECT FROM documents
                            WHERE tenant_id = $1 AND collection_id = $2 AND external_id = ANY($3))
                 OR EXISTS (SELECT FROM documents
                            WHERE tenant_id = $1 AND collection_id = $2 AND content_hash = ANY($4))
                 OR EXISTS (SELECT FROM documents
                            WHERE tenant_id = $1 AND collection_id = $2 AND file_hash = ANY($5))",
            &[
                (&tenant.0, Type::UUID),
                (&collection.id, Type::UUID),
                (&names, Type::TEXT_ARRAY),
                (&contents, Type::BYTEA_ARRAY),
                (&files, Type::BYTEA_ARRAY),
            ],
        )
        .await?;
    Ok(row.get(0))
}
