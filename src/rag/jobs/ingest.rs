//! The job that stores documents.

use std::pin::pin;

use futures_util::{StreamExt, future::try_join3, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Work, caller_of, from_stored, to_stored};
use crate::{
    models::ModelError,
    rag::{
        Caller, Rag, RagError,
        extract::ExtractError,
        ingest::{CutDocument, EMBED_BATCH, Ingested, Prepared, SourceFile},
    },
    store::{
        ClaimedJob, DocumentStep, ExpectedVersion, JobStep, NewDocument, SaveOutcome, Saved, StoreError,
    },
};

/// Documents for one collection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IngestWork {
    pub collection: String,
    pub documents: Vec<StoredFile>,
}

/// A [`SourceFile`] of text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredFile {
    name: Option<String>,
    content_type: Option<String>,
    content: String,
    title: Option<String>,
    source: Option<String>,
    external_id: Option<String>,
    #[serde(default)]
    metadata: Value,
}

/// A document of a job, as far as it has come.
struct Item<T> {
    position: i64,
    name: Option<String>,
    done: Result<T, RagError>,
}

/// What became of one document.
#[derive(Debug, Clone)]
pub enum DocumentOutcome {
    Stored(Ingested),
    Refused {
        /// Its title, where one was given.
        name: Option<String>,
        fault: DocumentFault,
        detail: String,
    },
}

/// Why a document was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentFault {
    /// A field that cannot be taken.
    Invalid,
    /// Not a format that is read.
    UnsupportedFormat,
    /// Empty, binary or damaged.
    Unreadable,
    /// The model refuses its text.
    Unfit,
}

/// [`DocumentOutcome`] as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredOutcome {
    Stored {
        id: Uuid,
        title: Option<String>,
        outcome: StoredSave,
        passages: i64,
        #[serde(default)]
        embedded: i64,
        #[serde(default = "first_version")]
        version: i64,
    },
    Refused {
        name: Option<String>,
        fault: DocumentFault,
        detail: String,
    },
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredSave {
    Created,
    Updated,
    Unchanged,
}

/// Of a step that was recorded before there were versions.
fn first_version() -> i64 {
    1
}

impl IngestWork {
    pub(super) const KIND: &'static str = "ingest";
}

impl Rag {
    /// Queues what [`Rag::ingest`] does at once, for many documents of text.
    ///
    /// Refuses what concerns the whole request: no such collection, one that no model
    /// fills, and a lone document that cannot be stored.
    pub async fn ingest_later(
        &self,
        caller: Caller,
        collection: Option<&str>,
        mut documents: Vec<SourceFile>,
    ) -> Result<Uuid, RagError> {
        self.ledger().admit(caller).await?;
        let collection = self.collection_to_fill(caller.tenant, collection).await?;
        self.check_space(&collection)?;
        if let [document] = documents.as_mut_slice() {
            *document = self.checked(std::mem::take(document)).await?;
        }
        let documents = documents.into_iter().map(StoredFile::try_from).collect::<Result<_, _>>()?;
        self.enqueue(caller, Work::Ingest(IngestWork { collection: collection.name, documents })).await
    }

    /// Cuts, embeds and stores documents in their order, all three at once: the model works on while
    /// documents are cut and stored. Whoever goes on after an interruption begins behind the last one
    /// that is stored.
    pub(super) async fn perform_ingest(
        &self,
        job: &ClaimedJob,
        work: IngestWork,
    ) -> Result<Vec<u8>, RagError> {
        let (caller, collection) = (caller_of(job), Some(work.collection.as_str()));
        let left = work.documents.into_iter().zip(0i64..).skip(usize::try_from(job.done).unwrap_or(0));
        let (cut, mut to_embed) = mpsc::channel(1);
        let (embedded, mut to_store) = mpsc::channel(1);
        let cutting = self.cut_groups(caller, collection, left, cut);
        let embedding = async move {
            let groups = stream::poll_fn(|context| to_embed.poll_recv(context));
            let mut groups = pin!(groups.map(|group| self.embed_group(group)).buffered(2));
            while let Some(group) = groups.next().await {
                // Nobody takes it where storing has failed.
                if embedded.send(group).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let storing = async {
            while let Some(group) = to_store.recv().await {
                self.store_group(job, collection, group).await?;
            }
            Ok(Vec::new())
        };
        Box::pin(try_join3(cutting, embedding, storing)).await.map(|((), (), result)| result)
    }

    /// Sends documents in groups of as many as are embedded in one call.
    async fn cut_groups(
        &self,
        caller: Caller,
        collection: Option<&str>,
        files: impl Iterator<Item = (StoredFile, i64)>,
        groups: mpsc::Sender<Vec<Item<CutDocument>>>,
    ) -> Result<(), RagError> {
        let mut files = files.peekable();
        if files.peek().is_none() {
            return Ok(());
        }
        let (mut group, mut passages) = (Vec::new(), 0);
        let mut filled = self.collection_to_fill(caller.tenant, collection).await?;
        for (file, position) in files {
            let name = file.name.clone().or_else(|| file.title.clone());
            let done = self.cut(caller, &filled, file.into()).await;
            let missing = done.as_ref().map_or(0, CutDocument::missing);
            if passages + missing > EMBED_BATCH || group.len() == EMBED_BATCH {
                passages = 0;
                if groups.send(std::mem::take(&mut group)).await.is_err() {
                    return Ok(());
                }
                filled = self.collection_to_fill(caller.tenant, collection).await?;
            }
            passages += missing;
            group.push(Item { position, name, done });
        }
        // Nobody takes it where storing has failed.
        let _ = groups.send(group).await;
        Ok(())
    }

    async fn embed_group(&self, group: Vec<Item<CutDocument>>) -> Vec<Item<Prepared>> {
        let (mut documents, mut steps) = (Vec::new(), Vec::new());
        for Item { position, name, done } in group {
            let refused = done.map(|document| documents.push(document)).err();
            steps.push((position, name, refused));
        }
        let mut embedded = self.embed_together(documents).await.into_iter();
        let step = |(position, name, refused): (i64, Option<String>, Option<RagError>)| {
            let done = refused.map_or_else(|| embedded.next(), |error| Some(Err(error)))?;
            Some(Item { position, name, done })
        };
        steps.into_iter().map_while(step).collect()
    }

    /// In one transaction where all are new, else each in one of its own, so that one that fails fails alone.
    async fn store_group(
        &self,
        job: &ClaimedJob,
        collection: Option<&str>,
        group: Vec<Item<Prepared>>,
    ) -> Result<(), RagError> {
        let prepared: Vec<&Prepared> = group.iter().filter_map(|step| step.done.as_ref().ok()).collect();
        if let (Some(first), true) = (group.first(), prepared.len() == group.len()) {
            match self.store_new(caller_of(job), &prepared, &document_step(job, first.position)).await {
                Ok(true) => return Ok(()),
                Err(RagError::Store(StoreError::LeaseLost)) => return Err(StoreError::LeaseLost.into()),
                Err(error) => tracing::debug!(%error, "documents are stored one by one: {error}"),
                Ok(false) => {}
            }
        }
        for document in group {
            self.ingest_step(job, collection, document).await?;
        }
        Ok(())
    }

    async fn ingest_step(
        &self,
        job: &ClaimedJob,
        collection: Option<&str>,
        document: Item<Prepared>,
    ) -> Result<(), RagError> {
        let Item { position, name, done } = document;
        let step = document_step(job, position);
        let stored = match done {
            Ok(prepared) => self.store_prepared(caller_of(job), collection, prepared, Some(&step)).await,
            Err(error) => Err(error),
        };
        let Err(error) = stored else { return Ok(()) };
        let (fault, detail) = DocumentFault::of(&error).ok_or(error)?;
        let outcome = to_stored(&StoredOutcome::Refused { name, fault, detail })?;
        let step = JobStep { position, done: position + 1, total: job.total, outcome: &outcome };
        Ok(self.store.record_step(&job.lease, step).await?)
    }
}

/// The step that storing a document is.
fn document_step(job: &ClaimedJob, position: i64) -> DocumentStep<'_> {
    DocumentStep { lease: &job.lease, position, total: job.total, outcome: &stored_outcome }
}

/// What became of the documents, in their order.
pub(super) fn result(steps: &[Vec<u8>]) -> Result<Vec<DocumentOutcome>, RagError> {
    steps.iter().map(|step| from_stored(step).map(StoredOutcome::into_outcome)).collect()
}

fn stored_outcome(document: &NewDocument, saved: &Saved) -> Vec<u8> {
    let outcome = match saved.outcome {
        SaveOutcome::Created => StoredSave::Created,
        SaveOutcome::Updated => StoredSave::Updated,
        SaveOutcome::Unchanged => StoredSave::Unchanged,
    };
    let title = document.title.clone();
    let Saved { id, passages, embedded, version, .. } = *saved;
    let stored = StoredOutcome::Stored { id, title, outcome, passages, embedded, version };
    // Numbers, strings and names: there is nothing in it that JSON cannot hold.
    to_stored(&stored).unwrap_or_default()
}

impl StoredOutcome {
    fn into_outcome(self) -> DocumentOutcome {
        match self {
            StoredOutcome::Stored { id, title, outcome, passages, embedded, version } => {
                let outcome = match outcome {
                    StoredSave::Created => SaveOutcome::Created,
                    StoredSave::Updated => SaveOutcome::Updated,
                    StoredSave::Unchanged => SaveOutcome::Unchanged,
                };
                let saved = Saved { id, outcome, passages, embedded, version };
                DocumentOutcome::Stored(Ingested { saved, title })
            }
            StoredOutcome::Refused { name, fault, detail } => {
                DocumentOutcome::Refused { name, fault, detail }
            }
        }
    }
}

impl DocumentFault {
    /// The fault, where it is the document's: the others can still be stored.
    fn of(error: &RagError) -> Option<(Self, String)> {
        let fault = match error {
            RagError::Invalid(_) => DocumentFault::Invalid,
            RagError::Extract(ExtractError::Unsupported { .. } | ExtractError::Picture { .. }) => {
                DocumentFault::UnsupportedFormat
            }
            RagError::Extract(_) => DocumentFault::Unreadable,
            RagError::Model(ModelError::Unfit { .. }) => DocumentFault::Unfit,
            _ => return None,
        };
        Some((fault, error.to_string()))
    }
}

impl TryFrom<SourceFile> for StoredFile {
    type Error = RagError;

    fn try_from(file: SourceFile) -> Result<Self, RagError> {
        let content = String::from_utf8(file.bytes)
            .map_err(|_| RagError::Invalid("documents: must be text to be stored later".into()))?;
        Ok(Self {
            name: file.name,
            content_type: file.content_type,
            content,
            title: file.title,
            source: file.source,
            external_id: file.external_id,
            metadata: file.metadata,
        })
    }
}

impl From<StoredFile> for SourceFile {
    fn from(file: StoredFile) -> Self {
        Self {
            name: file.name,
            content_type: file.content_type,
            bytes: file.content.into_bytes(),
            title: file.title,
            source: file.source,
            external_id: file.external_id,
            metadata: file.metadata,
            expected: ExpectedVersion::Anything,
        }
    }
}
