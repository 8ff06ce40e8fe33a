//! Passages are written, with their terms.

use pgvector::Vector;
use serde_json::Value;
use tokio_postgres::{
    Transaction,
    types::{Json, Type},
};
use uuid::Uuid;

use super::{NewDocument, NewPassage};
use crate::{
    config::EmbeddingSpace,
    store::{
        Collection, Store, StoreError, TenantId,
        lexical::{TermSource, announce_terms, insert_terms},
        sealed::{PassageText, insert_passage_texts},
    },
};

/// Passages written by one statement, which must end before it times out.
const INSERT_BATCH: usize = 256;

/// Where passages are put.
#[derive(Clone, Copy)]
pub(in crate::store) struct PassagePlace<'a> {
    pub tenant: TenantId,
    pub collection: &'a Collection,
    pub space: &'a EmbeddingSpace,
}

/// A document that passages are of.
#[derive(Clone, Copy)]
pub(in crate::store) struct PassageOwner<'a> {
    pub document: Uuid,
    pub title: Option<&'a str>,
    pub metadata: &'a Value,
}

/// A passage as it is written.
#[derive(Clone, Copy)]
pub(in crate::store) struct PassageRow<'a> {
    owner: PassageOwner<'a>,
    ordinal: i32,
    passage: &'a NewPassage,
}

impl<'a> PassageOwner<'a> {
    /// A document as it is stored under this id.
    pub fn of(document: &'a NewDocument, id: Uuid) -> Self {
        Self { document: id, title: document.title.as_deref(), metadata: &document.metadata }
    }

    pub fn rows(self, passages: &'a [NewPassage]) -> impl Iterator<Item = PassageRow<'a>> {
        let row = move |(passage, ordinal)| PassageRow { owner: self, ordinal, passage };
        passages.iter().zip(0..).map(row)
    }
}

impl Store {
    /// Writes passages and their terms, some hundred in a statement: a document may have any number.
    ///
    /// Arrays in an INSERT are as fast as binary COPY here, which the application's role could only use by way
    /// of a temporary table: see `benches/README.md`.
    pub(in crate::store) async fn insert_passages(
        &self,
        transaction: &Transaction<'_>,
        place: PassagePlace<'_>,
        rows: &[PassageRow<'_>],
    ) -> Result<(), StoreError> {
        announce_terms(transaction).await?;
        for batch in rows.chunks(INSERT_BATCH) {
            self.insert_batch(transaction, place, batch).await?;
        }
        Ok(())
    }

    async fn insert_batch(
        &self,
        transaction: &Transaction<'_>,
        place: PassagePlace<'_>,
        rows: &[PassageRow<'_>],
    ) -> Result<(), StoreError> {
        let passages = || rows.iter().map(|row| row.passage);
        let ids: Vec<Uuid> = rows.iter().map(|_| Uuid::now_v7()).collect();
        let documents: Vec<Uuid> = rows.iter().map(|row| row.owner.document).collect();
        let metadata: Vec<Json<&Value>> = rows.iter().map(|row| Json(row.owner.metadata)).collect();
        let ordinals: Vec<i32> = rows.iter().map(|row| row.ordinal).collect();
        let vectors: Vec<Vector> = passages().map(|passage| Vector::from(passage.vector.clone())).collect();
        let texts = ids.iter().zip(passages()).map(|(id, passage)| PassageText {
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
                 SELECT id, $1, $2, $3, document, metadata, ordinal, heading, content, embedding, embedded_hash
                 FROM unnest($4::uuid[], $5::uuid[], $6::jsonb[], $7::int[], $8::text[], $9::text[], $10::vector[],
                             $11::bytea[])
                      AS new (id, document, metadata, ordinal, heading, content, embedding, embedded_hash)",
                &[
                    (&place.tenant.0, Type::UUID),
                    (&place.collection.id, Type::UUID),
                    (&place.space.id, Type::TEXT),
                    (&ids, Type::UUID_ARRAY),
                    (&documents, Type::UUID_ARRAY),
                    (&metadata, Type::JSONB_ARRAY),
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
        let sources = ids.iter().zip(rows).map(|(id, row)| TermSource {
            id: *id,
            heading: row.passage.heading.as_deref().or(row.owner.title),
            content: &row.passage.content,
        });
        insert_terms(transaction, &sources.collect::<Vec<_>>()).await
    }
}
