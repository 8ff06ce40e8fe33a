//! Collections: made, listed, deleted.

use super::{DEFAULT_COLLECTION, Rag, RagError, embed::EmbedderChoice};
use crate::{
    config::TEXT_ROUTE,
    store::{Collection, StoreError, TenantId, Words},
};

const MAX_NAME_BYTES: usize = 128;

impl Rag {
    /// Makes a collection bound to the space of `model`, a name or a model type, or of the text route's,
    /// with a lexical index.
    pub async fn create_collection(
        &self,
        tenant: TenantId,
        name: &str,
        model: Option<&str>,
    ) -> Result<Collection, RagError> {
        self.create_collection_with(tenant, name, model, Words::Indexed).await
    }

    /// [`Rag::create_collection`], also without a lexical index.
    pub async fn create_collection_with(
        &self,
        tenant: TenantId,
        name: &str,
        model: Option<&str>,
        words: Words,
    ) -> Result<Collection, RagError> {
        check_name(name)?;
        let choice = match model {
            Some(model) if self.catalog.routes.embed.contains_key(model) => {
                EmbedderChoice::Type(model.to_owned())
            }
            Some(model) => EmbedderChoice::Model(model.to_owned()),
            None => EmbedderChoice::Type(TEXT_ROUTE.to_owned()),
        };
        let space = self.space(&choice).await?;
        Ok(self.store.create_collection_with(tenant, name, &space, words).await?)
    }

    /// Makes `default` where it is missing.
    pub async fn ensure_default_collection(&self, tenant: TenantId) -> Result<Collection, RagError> {
        match self.create_collection(tenant, DEFAULT_COLLECTION, None).await {
            Err(RagError::Store(StoreError::CollectionExists(name))) => {
                Ok(self.store.collection(tenant, &name).await?)
            }
            other => other,
        }
    }

    /// Where documents go: the named collection, or `default`, which is made again if it was deleted.
    pub(super) async fn collection_to_fill(
        &self,
        tenant: TenantId,
        name: Option<&str>,
    ) -> Result<Collection, RagError> {
        match self.collection_or_default(tenant, name).await {
            Err(RagError::Store(StoreError::UnknownCollection(_))) if name.is_none() => {
                self.ensure_default_collection(tenant).await
            }
            other => other,
        }
    }

    /// All collections with their counts.
    pub async fn collections(&self, tenant: TenantId) -> Result<Vec<Collection>, RagError> {
        Ok(self.store.collections(tenant).await?)
    }

    /// One collection with its counts.
    pub async fn collection(&self, tenant: TenantId, name: &str) -> Result<Collection, RagError> {
        Ok(self.store.counted_collection(tenant, name).await?)
    }

    /// Deletes a collection with everything in it.
    pub async fn delete_collection(&self, tenant: TenantId, name: &str) -> Result<(), RagError> {
        Ok(self.store.delete_collection(tenant, name).await?)
    }
}

fn check_name(name: &str) -> Result<(), RagError> {
    let plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(plain) {
        return Err(RagError::Invalid(format!(
            "name: must be letters, digits, `.`, `_` and `-`, at most {MAX_NAME_BYTES} bytes"
        )));
    }
    Ok(())
}
