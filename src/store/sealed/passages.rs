//! Texts of passages, sealed in a table of their own.

use tokio_postgres::{Transaction, types::Type};
use uuid::Uuid;

use super::{PASSAGE_CONTENT, PASSAGE_HASH, PASSAGE_HEADING, Seals};
use crate::store::StoreError;

/// What is sealed of a passage.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct PassageText<'a> {
    pub id: Uuid,
    pub heading: Option<&'a str>,
    pub content: &'a str,
    pub embedded_hash: Option<&'a [u8]>,
}

/// Writes texts of passages whose rows have none. Without a key it does nothing: texts then belong into the rows.
pub(in crate::store) async fn insert_passage_texts(
    transaction: &Transaction<'_>,
    seals: Seals<'_>,
    texts: &[PassageText<'_>],
) -> Result<(), StoreError> {
    let Some(key) = seals.writing() else { return Ok(()) };
    let ids: Vec<Uuid> = texts.iter().map(|text| text.id).collect();
    let mut headings = Vec::with_capacity(texts.len());
    let mut contents = Vec::with_capacity(texts.len());
    let mut hashes = Vec::with_capacity(texts.len());
    for PassageText { id, heading, content, embedded_hash } in texts {
        let heading = heading.map(|heading| seals.seal_twin(*id, PASSAGE_HEADING, heading.as_bytes()));
        headings.push(heading.transpose()?.flatten());
        contents.push(seals.seal_twin(*id, PASSAGE_CONTENT, content.as_bytes())?);
        let hash = embedded_hash.map(|hash| seals.seal_twin(*id, PASSAGE_HASH, hash));
        hashes.push(hash.transpose()?.flatten());
    }
    transaction
        .execute_typed(
            "INSERT INTO sealed_passages
                 (passage_id, tenant_id, sealed_by, sealed_heading, sealed_content, sealed_embedded_hash)
             SELECT id, $1, $2, heading, content, hash
             FROM unnest($3::uuid[], $4::bytea[], $5::bytea[], $6::bytea[]) AS new (id, heading, content, hash)",
            &[
                (&seals.tenant().0, Type::UUID),
                (&key, Type::INT4),
                (&ids, Type::UUID_ARRAY),
                (&headings, Type::BYTEA_ARRAY),
                (&contents, Type::BYTEA_ARRAY),
                (&hashes, Type::BYTEA_ARRAY),
            ],
        )
        .await?;
    Ok(())
}
