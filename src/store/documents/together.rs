//! Many documents are stored in one transaction: what each of them alone costs beside its passages is paid once.

use serde_json::Value;
use tokio_postgres::{
    Transaction,
    types::{Json, Type},
};
use uuid::Uuid;

use super::{
    DocumentStep, NewDocument, PassageOwner, PassagePlace, PassageSet, SaveOutcome, Saved,
    identity::{are_apart, is_any_stored, lock_identities},
    saving::live_set,
};
use crate::store::{
    Collection, JobStep, Store, StoreError, TenantId,
    leases::record_steps,
    reembedding::{Lock, lock, spaces},
    sealed::{DOCUMENT_CONTENT, Seals, Text},
};

impl Store {
    /// Stores documents of which nothing is stored yet, each with its passages, and records the steps of a job
    /// that they are, from `first` on. All or nothing.
    ///
    /// Says whether it did: not where one is stored, is an image, expects a version, or is there twice. Those
    /// are for [`Store::save_document`], as which it fails otherwise.
    pub async fn save_new_documents(
        &self,
        tenant: TenantId,
        collection: &Collection,
        documents: &[(&NewDocument, &[PassageSet])],
        first: &DocumentStep<'_>,
    ) -> Result<bool, StoreError> {
        let new: Vec<&NewDocument> = documents.iter().map(|(document, _)| *document).collect();
        if !are_apart(&new) || new.iter().any(|document| document.image.is_some()) {
            return Ok(false);
        }
        let mut connection = self.tenant(tenant).await?;
        let transaction = connection.transaction().await?;
        lock_identities(&transaction, collection, &new).await?;
        lock(&transaction, tenant, collection, Lock::Write).await?;
        if is_any_stored(&transaction, tenant, collection, &new).await? {
            return Ok(false);
        }
        let held = spaces(&transaction, tenant, collection).await?;
        let live = |(_, sets): &(_, &[PassageSet])| live_set(&held, collection, sets).map(saved_set);
        let saved = documents.iter().map(live).collect::<Result<Vec<Saved>, StoreError>>()?;
        let seals = self.seals(tenant);
        insert_documents(&transaction, seals, collection, &new, &saved).await?;
        for held in held.iter().filter(|held| held.state != "dropping") {
            let mut space = None;
            let mut rows = Vec::new();
            for ((document, sets), saved) in documents.iter().zip(&saved) {
                // A set may be missing where the other space's model failed; filling makes up for it.
                let Some(set) = sets.iter().find(|set| set.space.id == held.id) else { continue };
                space = Some(&set.space);
                rows.extend(PassageOwner::of(document, saved.id).rows(&set.passages));
            }
            let Some(space) = space else { continue };
            let place = PassagePlace { tenant, collection, space };
            self.insert_passages(&transaction, place, &rows).await?;
        }
        record(&transaction, seals, &new, &saved, first).await?;
        transaction.commit().await?;
        drop(connection);
        self.fold_terms(tenant, collection.id).await;
        Ok(true)
    }
}

/// A new document, as its passages in the live space say.
fn saved_set(live: &PassageSet) -> Saved {
    Saved {
        id: Uuid::now_v7(),
        outcome: SaveOutcome::Created,
        passages: i64::try_from(live.passages.len()).unwrap_or(i64::MAX),
        embedded: live.embedded,
        version: 1,
    }
}

async fn insert_documents(
    transaction: &Transaction<'_>,
    seals: Seals<'_>,
    collection: &Collection,
    documents: &[&NewDocument],
    saved: &[Saved],
) -> Result<(), StoreError> {
    fn column<'a, T>(documents: &[&'a NewDocument], value: impl Fn(&'a NewDocument) -> T) -> Vec<T> {
        documents.iter().map(|document| value(document)).collect()
    }
    let ids: Vec<Uuid> = saved.iter().map(|saved| saved.id).collect();
    let external_ids = column(documents, |document| &document.external_id);
    let content_hashes = column(documents, |document| &document.content_hash);
    let file_hashes = column(documents, |document| &document.file_hash);
    let titles = column(documents, |document| &document.title);
    let sources = column(documents, |document| &document.source);
    let formats = column(documents, |document| document.format);
    let contents = saved.iter().zip(documents);
    let contents =
        contents.map(|(saved, document)| seals.seal_text(saved.id, DOCUMENT_CONTENT, &document.content));
    let contents: Vec<Text<'_>> = contents.collect::<Result<_, _>>()?;
    let plain: Vec<_> = contents.iter().map(|text| &text.plain).collect();
    let sealed: Vec<_> = contents.iter().map(|text| &text.sealed).collect();
    let metadata: Vec<Json<&Value>> = column(documents, |document| Json(&document.metadata));
    transaction
        .execute_typed(
            "INSERT INTO documents (id, tenant_id, collection_id, external_id, content_hash, file_hash, title, source,
                                    format, content, metadata, sealed_content, sealed_by)
             SELECT id, $1, $2, external_id, content_hash, file_hash, title, source, format, content, metadata,
                    sealed_content, $13
             FROM unnest($3::uuid[], $4::text[], $5::bytea[], $6::bytea[], $7::text[], $8::text[], $9::text[],
                         $10::text[], $11::jsonb[], $12::bytea[])
                  AS new (id, external_id, content_hash, file_hash, title, source, format, content, metadata,
                          sealed_content)",
            &[
                (&seals.tenant().0, Type::UUID),
                (&collection.id, Type::UUID),
                (&ids, Type::UUID_ARRAY),
                (&external_ids, Type::TEXT_ARRAY),
                (&content_hashes, Type::BYTEA_ARRAY),
                (&file_hashes, Type::BYTEA_ARRAY),
                (&titles, Type::TEXT_ARRAY),
                (&sources, Type::TEXT_ARRAY),
                (&formats, Type::TEXT_ARRAY),
                (&plain, Type::TEXT_ARRAY),
                (&metadata, Type::JSONB_ARRAY),
                (&sealed, Type::BYTEA_ARRAY),
                (&seals.writing(), Type::INT4),
            ],
        )
        .await?;
    Ok(())
}

async fn record(
    transaction: &Transaction<'_>,
    seals: Seals<'_>,
    documents: &[&NewDocument],
    saved: &[Saved],
    first: &DocumentStep<'_>,
) -> Result<(), StoreError> {
    let outcomes = documents.iter().zip(saved).map(|(document, saved)| (first.outcome)(document, saved));
    let outcomes: Vec<Vec<u8>> = outcomes.collect();
    let step = |(outcome, position)| JobStep { position, done: position + 1, total: first.total, outcome };
    let steps: Vec<JobStep<'_>> =
        outcomes.iter().map(Vec::as_slice).zip(first.position..).map(step).collect();
    record_steps(transaction, seals, first.lease, &steps).await
}
