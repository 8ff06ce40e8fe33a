//! A collection goes over to another model's space while it is used.
//!
//! 1. The collection holds a second space, which is filled document by document;
//!    documents stored meanwhile are written to both.
//! 2. When every document has its passages there, searches read that space: one
//!    pointer turns, under a lock that finds out whether one is missing.
//! 3. The first space is kept, and written to, so that the pointer can turn back,
//!    until someone finishes the re-embedding or starts another.
//!
//! What is to be done stands in the database; [`Rag::run_reembedding`] does it, may be
//! stopped at any point, and goes on where it or another replica left off.

use std::time::Duration;

use uuid::Uuid;

use super::{Rag, RagError, embed::EmbedderChoice, extract::Format};
use crate::{
    config::EmbeddingSpace,
    store::{
        Collection, OtherSpace, OtherState, Previous, SpaceAdded, SpaceProgress, SpaceSwitch, StoreError,
        TenantId,
    },
};

/// How often a request looks a collection up whose spaces change under it. Each change takes
/// longer than a request, so that the second look is nearly always the last.
pub(super) const LOOK_UPS: usize = 4;
/// Documents looked for at once.
const FILL_PAGE: i64 = 100;
/// Between two tries when a model or the database is busy or away.
const PAUSES: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// Where a re-embedding stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reembedding {
    pub state: ReembeddingState,
    pub from: EmbeddingSpace,
    pub to: EmbeddingSpace,
    /// Why it does not go on.
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReembeddingState {
    /// Searches read `from`; documents are being embedded into `to`.
    Backfilling,
    /// Searches read `to`; `from` is kept.
    CutOver,
}

impl Reembedding {
    /// Of a collection that holds a second space.
    pub fn of(collection: &Collection) -> Option<Self> {
        let OtherSpace { space, state, error } = collection.other.clone()?;
        let live = collection.space.clone();
        Some(match state {
            OtherState::Filling => {
                Self { state: ReembeddingState::Backfilling, from: live, to: space, error }
            }
            OtherState::Kept => Self { state: ReembeddingState::CutOver, from: space, to: live, error },
        })
    }
}

impl Rag {
    /// Starts to re-embed a collection with another model, or finds it being done.
    /// [`Rag::run_reembedding`] does the work.
    pub async fn start_reembedding(
        &self,
        tenant: TenantId,
        name: &str,
        model: &str,
    ) -> Result<Collection, RagError> {
        let target = self.embedder(&EmbedderChoice::Model(model.to_owned()))?;
        let collection = self.store.collection(tenant, name).await?;
        // Without it nothing could be searched meanwhile.
        self.embedder_of(&collection)?;
        match self.store.add_space(tenant, &collection, target.space()).await? {
            SpaceAdded::Filling => Ok(self.store.collection(tenant, name).await?),
            SpaceAdded::Live => Err(RagError::Reembedding(format!(
                "collection `{name}` is of the model {model} already; there is nothing to do"
            ))),
            SpaceAdded::Busy(other) => Err(RagError::Reembedding(format!(
                "collection `{name}` is being re-embedded with {other}; wait until that is done, or cancel it"
            ))),
        }
    }

    /// Where a collection's re-embedding stands, with how many documents are done.
    pub async fn reembedding(
        &self,
        tenant: TenantId,
        name: &str,
    ) -> Result<(Reembedding, SpaceProgress), RagError> {
        let collection = self.store.collection(tenant, name).await?;
        let reembedding =
            Reembedding::of(&collection).ok_or_else(|| RagError::NoReembedding(name.to_owned()))?;
        let progress = self.store.space_progress(tenant, &collection, &reembedding.to).await?;
        Ok((reembedding, progress))
    }

    /// Cancels a re-embedding, or goes back to the space before it; the new vectors are deleted by
    /// [`Rag::run_reembedding`].
    pub async fn roll_back_reembedding(&self, tenant: TenantId, name: &str) -> Result<Collection, RagError> {
        loop {
            let collection = self.store.collection(tenant, name).await?;
            let Some(other) = &collection.other else { return Err(RagError::NoReembedding(name.to_owned())) };
            let done = match other.state {
                OtherState::Filling => {
                    self.store.retire_space(tenant, &collection, &other.space, other.state).await?
                }
                OtherState::Kept => {
                    self.fill(tenant, &collection, &other.space, &mut |_| ()).await?;
                    let switch =
                        self.store.switch_space(tenant, &collection, &other.space, Previous::Drop).await?;
                    switch == SpaceSwitch::Done
                }
            };
            if done {
                return Ok(self.store.collection(tenant, name).await?);
            }
        }
    }

    /// Gives up the space before a re-embedding that has cut over; its vectors are deleted by
    /// [`Rag::run_reembedding`].
    pub async fn finish_reembedding(&self, tenant: TenantId, name: &str) -> Result<Collection, RagError> {
        let collection = self.store.collection(tenant, name).await?;
        match &collection.other {
            Some(other) if other.state == OtherState::Kept => {
                self.fill(tenant, &collection, &collection.space, &mut |_| ()).await?;
                self.store.retire_space(tenant, &collection, &other.space, other.state).await?;
                Ok(self.store.collection(tenant, name).await?)
            }
            Some(other) => Err(RagError::Reembedding(format!(
                "collection `{name}` is still being re-embedded with {}; it can be cancelled, not finished",
                other.space.model
            ))),
            None => Err(RagError::NoReembedding(name.to_owned())),
        }
    }

    /// Does what the collection's spaces ask for: fills a space and cuts over, deletes what was given up.
    ///
    /// Two that run this at once do no harm, only work that is thrown away.
    pub async fn run_reembedding(
        &self,
        tenant: TenantId,
        name: &str,
        on_progress: &mut (dyn FnMut(SpaceProgress) + Send),
    ) -> Result<(), RagError> {
        loop {
            let collection = match self.store.collection(tenant, name).await {
                Err(StoreError::UnknownCollection(_)) => return Ok(()),
                collection => collection?,
            };
            match &collection.other {
                Some(OtherSpace { space, state: OtherState::Filling, .. }) => {
                    self.fill(tenant, &collection, space, on_progress).await?;
                    if self.store.switch_space(tenant, &collection, space, Previous::Keep).await?
                        == SpaceSwitch::Done
                    {
                        tracing::info!(
                            "collection {name} went over from {} to {}",
                            collection.space.id,
                            space.id
                        );
                    }
                }
                _ if self.store.delete_retired(tenant, &collection).await? => {}
                _ => return Ok(()),
            }
        }
    }

    /// Embeds what has no passages in the space yet. Ends early when the space is given up.
    async fn fill(
        &self,
        tenant: TenantId,
        collection: &Collection,
        space: &EmbeddingSpace,
        on_progress: &mut (dyn FnMut(SpaceProgress) + Send),
    ) -> Result<(), RagError> {
        self.embedder_of_space(collection, space)?;
        let mut progress = self.store.space_progress(tenant, collection, space).await?;
        let mut after = Uuid::nil();
        loop {
            on_progress(progress);
            let page = self.store.documents_without(tenant, collection, space, after, FILL_PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = *last;
            for id in page {
                if !self.fill_document(tenant, collection, space, id).await? {
                    return Ok(());
                }
                progress.done += 1;
                on_progress(progress);
            }
            self.store.record_filling_error(tenant, collection, None).await?;
        }
    }

    /// Embeds one document into the space; `false`: the collection does not hold the space any more.
    async fn fill_document(
        &self,
        tenant: TenantId,
        collection: &Collection,
        space: &EmbeddingSpace,
        id: Uuid,
    ) -> Result<bool, RagError> {
        let Some(text) = self.store.stored_text(tenant, id).await? else { return Ok(true) };
        let format = Format::from_media_type(&text.format).ok_or_else(|| {
            RagError::Reembedding(format!("document {id} is {}, which cannot be embedded anew", text.format))
        })?;
        let title = text.title.as_deref();
        let passages = self.embedded_passages(collection, space, title, format, &text.content).await?;
        if passages.is_empty() {
            let model = &space.model;
            return Err(RagError::Reembedding(format!("document {id} gives no passages for {model}")));
        }
        Ok(self.store.add_passages(tenant, collection, space, &text, &passages).await?)
    }
}
