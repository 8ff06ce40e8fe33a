//! The job that does what a collection's spaces ask for.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    config::EmbeddingSpace,
    rag::{Caller, Rag, RagError, extract::Format, gate::Gate, ingest::Content, usage::Operation},
    store::{
        ClaimedJob, Collection, JobStep, Lease, OtherSpace, OtherState, PassageSet, Previous, SpaceProgress,
        SpaceSwitch, StoreError,
    },
};

use super::{Performed, caller_of, to_stored};

/// Longer than a transaction that stores a document.
const MOMENT: Duration = Duration::from_secs(1);
/// Documents looked for at once.
const FILL_PAGE: i64 = 100;
/// How long a job waits for the name of the one that fills a space, and how often it looks.
const NAMING: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

/// A collection that goes over to another space, or gives one up. What is to be done stands in
/// the collection's row: the job can be interrupted anywhere and begun again by any replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReembedWork {
    pub collection: String,
    /// The space that it may fill and have searches go over to; none: it only deletes what was given up.
    #[serde(default)]
    pub target: Option<String>,
    /// What the space has to find for that.
    #[serde(default)]
    pub gate: Option<Gate>,
}

/// What the job ends with.
#[derive(Serialize)]
struct StoredSpace<'a> {
    space: &'a str,
}

impl ReembedWork {
    pub(super) const KIND: &'static str = "reembed";
}

impl Rag {
    /// Fills a space and cuts over, deletes what was given up, sees to what late writers left.
    ///
    /// Two that run this at once do no harm, only work that is thrown away.
    pub(super) async fn perform_reembed(
        &self,
        job: &ClaimedJob,
        work: ReembedWork,
    ) -> Result<Performed, RagError> {
        let caller = caller_of(job);
        let tenant = caller.tenant;
        let mut gate = work.gate.as_ref();
        let begun = Instant::now();
        loop {
            let collection = match self.store.collection(tenant, &work.collection).await {
                Err(StoreError::UnknownCollection(_)) => return Ok(Performed::Whole(Vec::new())),
                collection => collection?,
            };
            match &collection.other {
                Some(OtherSpace { space, state: OtherState::Filling, job: named, .. }) => {
                    match named {
                        Some(named) if *named != job.lease.job => return ended(&collection),
                        None if begun.elapsed() < NAMING => tokio::time::sleep(LOOK).await,
                        // Whoever asked for another space may want it measured first.
                        _ if work.target.as_ref() != Some(&space.id) => return ended(&collection),
                        _ => {
                            self.fill(caller, &collection, space, Some(&job.lease)).await?;
                            if let Some(gate) = gate.take() {
                                self.pass_gate(caller, &collection, gate).await?;
                            }
                            self.switch(caller, &collection, space).await?;
                        }
                    }
                }
                _ if self.store.delete_retired(tenant, &collection).await? => {}
                // A replica of an earlier version writes to one space only. When it looked the
                // collection up before the cutover, that is the one that nobody reads now.
                Some(OtherSpace { age, .. }) => {
                    return match self.longest_request().checked_sub(*age) {
                        Some(pause) => Ok(Performed::UpTo(pause + MOMENT)),
                        None => {
                            self.fill(caller, &collection, &collection.space, None).await?;
                            ended(&collection)
                        }
                    };
                }
                None => return ended(&collection),
            }
        }
    }

    /// Lets searches read the space, where nothing is missing in it.
    async fn switch(
        &self,
        caller: Caller,
        collection: &Collection,
        space: &EmbeddingSpace,
    ) -> Result<(), RagError> {
        let switch = self.store.switch_space(caller.tenant, collection, space, Previous::Keep).await?;
        if switch == SpaceSwitch::Done {
            let Collection { name, space: from, .. } = collection;
            tracing::info!("collection {name} went over from {} to {}", from.id, space.id);
        }
        Ok(())
    }

    /// Embeds what has no passages in the space yet, and records the progress of the job that does
    /// it. Ends early when the space is given up. The caller is charged.
    pub(in crate::rag) async fn fill(
        &self,
        caller: Caller,
        collection: &Collection,
        space: &EmbeddingSpace,
        lease: Option<&Lease>,
    ) -> Result<(), RagError> {
        let tenant = caller.tenant;
        let mut progress = self.store.space_progress(tenant, collection, space).await?;
        let mut after = Uuid::nil();
        loop {
            let page = self.store.documents_without(tenant, collection, space, after, FILL_PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = *last;
            for id in page {
                if !self.fill_document(caller, collection, space, id).await? {
                    return Ok(());
                }
                progress.done += 1;
                self.record(lease, progress).await?;
            }
        }
    }

    async fn record(&self, lease: Option<&Lease>, progress: SpaceProgress) -> Result<(), RagError> {
        let Some(lease) = lease else { return Ok(()) };
        let SpaceProgress { done, documents } = progress;
        // One piece for all: what is done stands with the documents.
        let step = JobStep { position: 0, done, total: documents.max(done), outcome: &[] };
        Ok(self.store.record_step(lease, step).await?)
    }

    /// Embeds one document into the space; `false`: the collection does not hold the space any more.
    async fn fill_document(
        &self,
        caller: Caller,
        collection: &Collection,
        space: &EmbeddingSpace,
        id: Uuid,
    ) -> Result<bool, RagError> {
        let tenant = caller.tenant;
        let Some(text) = self.store.stored_text(tenant, id).await? else { return Ok(true) };
        let image = text.image.clone().map(Bytes::from);
        let content = match (&image, Format::from_media_type(&text.format)) {
            (Some(image), _) => Content::Picture { caption: &text.content, image },
            (None, Some(format)) => {
                Content::Text { title: text.title.as_deref(), format, text: &text.content }
            }
            (None, None) => {
                let format = &text.format;
                return Err(RagError::Reembedding(format!(
                    "document {id} is {format}, which cannot be embedded anew"
                )));
            }
        };
        let (PassageSet { passages, .. }, tokens) =
            self.embedded_passages(collection, space, &content).await?;
        self.ledger().record(caller, Operation::Reembed, &space.model, tokens);
        if passages.is_empty() {
            let model = &space.model;
            return Err(RagError::Reembedding(format!("document {id} gives no passages for {model}")));
        }
        Ok(self.store.add_passages(tenant, collection, space, &text, &passages).await?)
    }

    /// How long a request may take that stores a document.
    fn longest_request(&self) -> Duration {
        Duration::from_millis(self.catalog.http.request_timeout_ms)
    }
}

fn ended(collection: &Collection) -> Result<Performed, RagError> {
    to_stored(&StoredSpace { space: &collection.space.id }).map(Performed::Whole)
}
