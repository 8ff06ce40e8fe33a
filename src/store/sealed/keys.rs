//! Which keys rows are sealed with: looked at when a store is given its keys.

use std::sync::Arc;

use tokio_postgres::{error::SqlState, types::Type};

use super::keyring::{Keyring, SealError};
use crate::{
    config::{EncryptionSettings, KeyId},
    store::{Store, StoreError},
};

impl Store {
    /// The same with keys. Fails with [`StoreError::Sealed`] when the database has rows that they do not open.
    pub async fn with_keys(self, settings: &EncryptionSettings) -> Result<Self, StoreError> {
        let store = Self { keyring: Arc::new(Keyring::new(settings)), ..self };
        let known = store.check_keys().await?;
        let Some(writing) = store.keyring.writing().filter(|key| !known.contains(key)) else {
            return Ok(store);
        };
        let proof = store.keyring.proof(writing)?;
        store
            .connection()
            .await?
            .execute_typed(
                "INSERT INTO encryption_keys (id, proof) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING",
                &[(&writing, Type::INT4), (&proof, Type::BYTEA)],
            )
            .await?;
        // Another process may have come first, with another key under the same id.
        store.check_keys().await?;
        Ok(store)
    }

    /// The keys that rows may be sealed with, each of which is in the keyring.
    async fn check_keys(&self) -> Result<Vec<KeyId>, StoreError> {
        let rows = self
            .connection()
            .await?
            .query_typed("SELECT id, proof FROM encryption_keys ORDER BY id", &[])
            .await?;
        let check = |row: &tokio_postgres::Row| {
            let id = row.get("id");
            self.keyring.check(id, row.get("proof")).map(|()| id)
        };
        Ok(rows.iter().map(check).collect::<Result<_, SealError>>()?)
    }
}

/// Whether a row was refused because no row may be sealed with its key any more.
pub(in crate::store) fn is_retired(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION)
        && error
            .as_db_error()
            .and_then(|error| error.constraint())
            .is_some_and(|constraint| constraint.ends_with("_sealed_by_fkey"))
}
