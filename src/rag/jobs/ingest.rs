//! The job that stores documents.

use futures_util::future::try_join;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Work, caller_of, from_stored, to_stored};
use crate::{
    rag::{
        Caller, Rag, RagError,
        extract::ExtractError,
        ingest::{Ingested, Prepared, SourceFile},
    },
    store::{ClaimedJob, DocumentStep, ExpectedVersion, JobStep, NewDocument, SaveOutcome, Saved},
};

/// Documents of a job that wait, embedded, to be stored.
const AHEAD: usize = 2;

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

    pub(super) async fn perform_ingest(
        &self,
        job: &ClaimedJob,
        work: IngestWork,
    ) -> Result<Vec<u8>, RagError> {
        let caller = caller_of(job);
        let collection = Some(work.collection.as_str());
        let left = work.documents.into_iter().zip(0i64..).skip(usize::try_from(job.done).unwrap_or(0));
        // The model works on while documents are stored, one after the other: whoever goes on after an
        // interruption begins behind the last one.
        let (ready, mut stored) = mpsc::channel(AHEAD);
        let prepare = async move {
            for (file, position) in left {
                let name = file.name.clone().or_else(|| file.title.clone());
                let prepared = self.prepare(caller, collection, file.into()).await;
                // Nobody takes it where storing has failed.
                if ready.send((position, name, prepared)).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let store = async {
            while let Some((position, name, prepared)) = stored.recv().await {
                self.ingest_step(job, collection, position, name, prepared).await?;
            }
            Ok(Vec::new())
        };
        Box::pin(try_join(prepare, store)).await.map(|((), result)| result)
    }

    async fn ingest_step(
        &self,
        job: &ClaimedJob,
        collection: Option<&str>,
        position: i64,
        name: Option<String>,
        prepared: Result<Prepared, RagError>,
    ) -> Result<(), RagError> {
        let step = DocumentStep { lease: &job.lease, position, total: job.total, outcome: &stored_outcome };
        let stored = match prepared {
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
