//! The terms of passages, written with them.

use std::collections::HashSet;

use tokio_postgres::{Row, Transaction, types::Type};
use uuid::Uuid;

use super::terms::PassageTerms;
use crate::store::{
    StoreError,
    sealed::{PASSAGE_CONTENT, PASSAGE_HEADING, Seals},
};

/// A passage whose terms are to be written.
pub(in crate::store) struct TermSource<'a> {
    pub id: Uuid,
    /// What it stands under.
    pub heading: Option<&'a str>,
    pub content: &'a str,
}

/// Texts taken apart between two looks at other work.
const BATCH: usize = 16;

/// Says in a transaction that it writes the terms of passages itself: see the migration.
pub(in crate::store) async fn announce_terms(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    transaction.query_typed("SELECT set_config('ragway.terms', 'written', true)", &[]).await?;
    Ok(())
}

/// Writes the terms of passages that have none, into the indexes of their spaces.
pub(in crate::store) async fn insert_terms(
    transaction: &Transaction<'_>,
    passages: &[TermSource<'_>],
) -> Result<(), StoreError> {
    let mut terms = Vec::with_capacity(passages.len());
    for batch in passages.chunks(BATCH) {
        terms.extend(batch.iter().map(|passage| PassageTerms::of(passage.heading, passage.content)));
        tokio::task::yield_now().await;
    }
    let ids: Vec<Uuid> = passages.iter().map(|passage| passage.id).collect();
    let languages: Vec<&str> = terms.iter().map(|terms| terms.language).collect();
    let lengths: Vec<i32> = terms.iter().map(|terms| terms.length).collect();
    let texts: Vec<&str> = terms.iter().map(|terms| terms.text.as_str()).collect();
    let signs: Vec<&str> = terms.iter().map(|terms| terms.signs.as_str()).collect();
    transaction
        .execute_typed(
            "INSERT INTO passage_terms (passage_id, tenant_id, index_id, language, words, terms)
             SELECT p.id, i.tenant_id, i.id, new.language, new.words,
                    to_tsvector(('pg_catalog.' || new.language)::regconfig, new.text) || new.signs::tsvector
                        || array_to_tsvector(ARRAY['@' || i.id])
             FROM unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::text[])
                      AS new (id, language, words, text, signs)
             JOIN passages p ON p.id = new.id
             JOIN lexical_indexes i ON (i.collection_id, i.tenant_id, i.space_id)
                                     = (p.collection_id, p.tenant_id, p.space_id)
             ON CONFLICT (passage_id) DO NOTHING",
            &[
                (&ids, Type::UUID_ARRAY),
                (&languages, Type::TEXT_ARRAY),
                (&lengths, Type::INT4_ARRAY),
                (&texts, Type::TEXT_ARRAY),
                (&signs, Type::TEXT_ARRAY),
            ],
        )
        .await?;
    Ok(())
}

/// Whether every passage that had no terms has them now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Filled {
    All,
    /// Some are being deleted.
    SomeLocked,
}

/// Writes the terms of those passages of a tenant's documents that have none, whatever their space.
pub(in crate::store) async fn insert_missing_terms(
    transaction: &Transaction<'_>,
    seals: Seals<'_>,
    documents: &[Uuid],
) -> Result<Filled, StoreError> {
    let missing = transaction
        .query_typed(
            "SELECT p.id, d.title, p.heading, p.content, s.sealed_by, s.sealed_heading, s.sealed_content
             FROM passages p JOIN documents d ON d.id = p.document_id
             LEFT JOIN sealed_passages s ON s.passage_id = p.id
             JOIN lexical_indexes i ON (i.collection_id, i.tenant_id, i.space_id)
                                     = (p.collection_id, p.tenant_id, p.space_id)
             WHERE p.document_id = ANY($1) AND NOT EXISTS (SELECT FROM passage_terms t WHERE t.passage_id = p.id)
             ORDER BY p.id",
            &[(&documents, Type::UUID_ARRAY)],
        )
        .await?;
    let ids: Vec<Uuid> = missing.iter().map(|row| row.get("id")).collect();
    let held: HashSet<Uuid> = transaction
        .query_typed(
            "SELECT id FROM passages WHERE id = ANY($1) FOR KEY SHARE SKIP LOCKED",
            &[(&ids, Type::UUID_ARRAY)],
        )
        .await?
        .iter()
        .map(|row| row.get("id"))
        .collect();
    let open = |row: &Row| -> Result<_, StoreError> {
        let id = row.get("id");
        let heading = seals.text(row, id, PASSAGE_HEADING)?.or_else(|| row.get("title"));
        Ok((id, heading, seals.needed_text(row, id, PASSAGE_CONTENT)?))
    };
    let held = missing.iter().filter(|row| held.contains(&row.get("id")));
    let texts: Vec<(Uuid, Option<String>, String)> = held.map(open).collect::<Result<_, _>>()?;
    let sources = texts.iter().map(|(id, heading, content)| TermSource {
        id: *id,
        heading: heading.as_deref(),
        content,
    });
    let sources: Vec<_> = sources.collect();
    insert_terms(transaction, &sources).await?;
    Ok(if sources.len() == ids.len() { Filled::All } else { Filled::SomeLocked })
}
