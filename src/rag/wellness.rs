//! Whether this replica can do its work.

use std::time::Duration;

use super::{Rag, RagError, embed::EmbedderChoice};
use crate::{
    config::TEXT_ROUTE,
    models::{Lane, ModelError, TextRole, deadline::Deadline},
    store::{StoreError, TenantId},
};

/// Longest wait for a vector; a model that takes longer has much to do.
const PATIENCE: Duration = Duration::from_secs(1);

impl Rag {
    /// Whether requests that name no collection can be served: the database answers, `default` is of a
    /// space that a loaded model makes, and that model makes a vector of a word.
    ///
    /// A model with too much to do is no reason to send requests elsewhere, where they would be too much
    /// too; one whose threads are not well is.
    pub async fn check_ready(&self, tenant: TenantId) -> Result<(), RagError> {
        let embedder = match self.collection_or_default(tenant, None).await {
            Ok(collection) => self.embedder_of(&collection).await?,
            Err(RagError::Store(StoreError::UnknownCollection(_))) => {
                self.embedder(&EmbedderChoice::Type(TEXT_ROUTE.to_owned())).await?
            }
            Err(error) => return Err(error),
        };
        let word = embedder.embed(vec!["ready".to_owned()], TextRole::Passage, Lane::Interactive);
        match Deadline::after(PATIENCE).hold(word).await {
            Some(Ok(_)) => Ok(()),
            None | Some(Err(ModelError::Overloaded { .. } | ModelError::TimedOut { .. })) => {
                Ok(embedder.check_alive()?)
            }
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Fails when a thread of a model in this process has ended or is stuck, which only a new process
    /// mends; nothing else makes it fail.
    pub fn check_alive(&self) -> Result<(), ModelError> {
        self.embedders.check_alive()?;
        self.rerankers.check_alive()?;
        self.answers.check_alive()
    }
}
