//! A collection goes over to another model's space while it is used.
//!
//! 1. The collection holds a second space, which a job fills document by document;
//!    documents stored meanwhile are written to both.
//! 2. When every document has its passages there, and a gate passes where one was given
//!    ([`super::gate`]), searches read that space: one pointer turns, under a lock that
//!    finds out whether one is missing.
//! 3. The first space is kept, and written to, so that the pointer can turn back,
//!    until someone finishes the re-embedding or starts another.
//!
//! Documents are cut anew: each model reads another number of tokens, and nothing
//! of a passage that was cut for one may be left unread by the other.

use uuid::Uuid;

use super::{
    Caller, Rag, RagError,
    embed::EmbedderChoice,
    gate::Gate,
    jobs::{ReembedWork, Work},
};
use crate::{
    config::EmbeddingSpace,
    store::{
        Collection, Job, OtherSpace, OtherState, Previous, SpaceAdded, SpaceProgress, SpaceSwitch, TenantId,
    },
};

/// How often a request looks a collection up whose spaces change under it. Each change takes
/// longer than a request, so that the second look is nearly always the last.
pub(super) const LOOK_UPS: usize = 4;

/// The spaces of a collection that is re-embedded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reembedding {
    pub stage: ReembeddingStage,
    pub from: EmbeddingSpace,
    pub to: EmbeddingSpace,
    pub job: Option<Uuid>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReembeddingStage {
    /// Searches read `from`; documents are being embedded into `to`.
    Backfilling,
    /// Searches read `to`; `from` is kept, to go back to.
    CutOver,
}

/// A re-embedding with how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReembeddingStatus {
    pub reembedding: Reembedding,
    pub progress: SpaceProgress,
    /// The job that works on it, until that expires.
    pub job: Option<Job>,
}

impl Reembedding {
    /// Of a collection that holds a second space.
    pub fn of(collection: &Collection) -> Option<Self> {
        let OtherSpace { space, state, job, .. } = collection.other.clone()?;
        let live = collection.space.clone();
        Some(match state {
            OtherState::Filling => Self { stage: ReembeddingStage::Backfilling, from: live, to: space, job },
            OtherState::Kept => Self { stage: ReembeddingStage::CutOver, from: space, to: live, job },
        })
    }
}

impl Rag {
    /// Starts to re-embed a collection with another model, goes on with what was interrupted, or
    /// finds it being done.
    ///
    /// With a gate, also where it is being done already, searches only go over when it passes; else the job
    /// fails and says why, and nothing changes for searches.
    pub async fn start_reembedding(
        &self,
        caller: Caller,
        name: &str,
        model: &str,
        gate: Option<Gate>,
    ) -> Result<ReembeddingStatus, RagError> {
        let tenant = caller.tenant;
        self.ledger().admit(caller).await?;
        let collection = self.store.collection(tenant, name).await?;
        // Both loaded: what cannot work is refused now, not by a job later.
        let target = self.embedder(&EmbedderChoice::Model(model.to_owned())).await?;
        self.embedder_of(&collection).await?;
        if let Some(gate) = &gate {
            self.check_gate(caller, &collection, gate).await?;
        }
        match self.store.add_space(tenant, &collection, target.space()).await? {
            SpaceAdded::Filling => {}
            SpaceAdded::Live => {
                return Err(RagError::Reembedding(format!(
                    "collection `{name}` is of the model {model} already; there is nothing to do"
                )));
            }
            SpaceAdded::Busy(other) => {
                return Err(RagError::Reembedding(format!(
                    "collection `{name}` is being re-embedded with {other}; wait until that is done, or cancel it"
                )));
            }
        }
        let status = self.reembedding(tenant, name).await?;
        if let Some(job) = status.job.as_ref().filter(|job| !job.state.is_final()) {
            if gate.is_none() {
                return Ok(status);
            }
            // Another one takes its place, behind what it has done.
            self.store.cancel_job(tenant, job.id).await?;
        }
        let target = Some(target.space().id.clone());
        let work = ReembedWork { collection: collection.name.clone(), target, gate };
        // Whichever job looks meanwhile waits for the name, and then knows whether it is meant.
        self.store.set_filling_job(tenant, &collection, None).await?;
        let job = self.enqueue(caller, Work::Reembed(work)).await?;
        self.store.set_filling_job(tenant, &collection, Some(job)).await?;
        self.reembedding(tenant, name).await
    }

    /// Where a collection's re-embedding stands.
    pub async fn reembedding(&self, tenant: TenantId, name: &str) -> Result<ReembeddingStatus, RagError> {
        let collection = self.store.collection(tenant, name).await?;
        let reembedding =
            Reembedding::of(&collection).ok_or_else(|| RagError::NoReembedding(name.to_owned()))?;
        let progress = self.store.space_progress(tenant, &collection, &reembedding.to).await?;
        let job = match reembedding.job {
            Some(id) => self.store.job(tenant, id).await?,
            None => None,
        };
        Ok(ReembeddingStatus { reembedding, progress, job })
    }

    /// Cancels a re-embedding, or goes back to the space before it. The new vectors are given up.
    pub async fn roll_back_reembedding(&self, caller: Caller, name: &str) -> Result<Collection, RagError> {
        let tenant = caller.tenant;
        loop {
            let collection = self.store.collection(tenant, name).await?;
            let Some(OtherSpace { space, state, .. }) = &collection.other else {
                return Err(RagError::NoReembedding(name.to_owned()));
            };
            let done = match state {
                OtherState::Filling => self.store.retire_space(tenant, &collection, space, *state).await?,
                OtherState::Kept => {
                    // Searches need its model again.
                    self.embedder_of_space(&collection, space).await?;
                    self.fill(caller, &collection, space, None).await?;
                    let switch = self.store.switch_space(tenant, &collection, space, Previous::Drop).await?;
                    switch == SpaceSwitch::Done
                }
            };
            if done {
                self.enqueue_cleaning(caller, &collection).await?;
                return self.collection(tenant, name).await;
            }
        }
    }

    /// Gives up the space before a re-embedding that has cut over.
    pub async fn finish_reembedding(&self, caller: Caller, name: &str) -> Result<Collection, RagError> {
        let tenant = caller.tenant;
        let collection = self.store.collection(tenant, name).await?;
        match &collection.other {
            Some(OtherSpace { space, state: OtherState::Kept, .. }) => {
                self.fill(caller, &collection, &collection.space, None).await?;
                self.store.retire_space(tenant, &collection, space, OtherState::Kept).await?;
                self.enqueue_cleaning(caller, &collection).await?;
                self.collection(tenant, name).await
            }
            Some(OtherSpace { space, .. }) => Err(RagError::Reembedding(format!(
                "collection `{name}` is still being re-embedded with {}; it can be cancelled, not finished",
                space.model
            ))),
            None => Err(RagError::NoReembedding(name.to_owned())),
        }
    }

    /// Has what was given up deleted.
    async fn enqueue_cleaning(&self, caller: Caller, collection: &Collection) -> Result<Uuid, RagError> {
        let work = ReembedWork { collection: collection.name.clone(), target: None, gate: None };
        self.enqueue(caller, Work::Reembed(work)).await
    }
}
