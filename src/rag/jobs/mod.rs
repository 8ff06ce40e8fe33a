//! Work that outlives its request: queued in the database, done by any replica.
//!
//! A job is worked on in steps, each recorded together with what it did. Whoever
//! goes on after an interruption begins behind the last recorded step, so that
//! nothing is lost and nothing is seen to happen twice.

mod counts;
mod embed;
mod ingest;
mod reembed;
mod worker;

pub(super) use counts::JobCounts;
pub use counts::{JobOutcome, KindCounts};
pub use ingest::{DocumentFault, DocumentOutcome};
pub(super) use reembed::ReembedWork;

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use self::{embed::EmbedWork, ingest::IngestWork};
use super::{Caller, Rag, RagError, embed::Embedded};
use crate::store::{ClaimedJob, Job, JobState, NewJob, TenantId};

/// What a job is to do.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Embed(EmbedWork),
    Ingest(IngestWork),
    Reembed(ReembedWork),
}

/// A job as those see it who asked for it.
#[derive(Debug, Clone)]
pub struct Task {
    pub id: Uuid,
    pub state: JobState,
    /// Items done: texts or documents.
    pub done: i64,
    pub total: i64,
    /// Why it failed, or why the last attempt did.
    pub error: Option<String>,
    pub result: Option<TaskResult>,
    /// From the request to the end.
    pub elapsed: Option<Duration>,
}

/// What a job ended with.
#[derive(Debug, Clone)]
pub enum TaskResult {
    Embedded(Embedded),
    /// What became of each document, in the order of the request; of those that the job
    /// came to where it was cancelled or failed.
    Ingested(Vec<DocumentOutcome>),
}

/// How a job's work went that did not fail.
enum Performed {
    /// It is done; what came out.
    Whole(Vec<u8>),
    /// There is nothing to do for a while.
    UpTo(Duration),
}

impl Work {
    /// Every kind that this version can do; others are left to replicas that can.
    const KINDS: &'static [&'static str] = &[EmbedWork::KIND, IngestWork::KIND, ReembedWork::KIND];

    fn kind(&self) -> &'static str {
        match self {
            Work::Embed(_) => EmbedWork::KIND,
            Work::Ingest(_) => IngestWork::KIND,
            Work::Reembed(_) => ReembedWork::KIND,
        }
    }

    fn items(&self) -> usize {
        match self {
            Work::Embed(work) => work.texts.len(),
            Work::Ingest(work) => work.documents.len(),
            // Counted when it begins.
            Work::Reembed(_) => 0,
        }
    }

    fn to_payload(&self) -> Result<Vec<u8>, RagError> {
        match self {
            Work::Embed(work) => to_stored(work),
            Work::Ingest(work) => to_stored(work),
            Work::Reembed(work) => to_stored(work),
        }
    }

    fn from_payload(kind: &str, payload: &[u8]) -> Result<Self, RagError> {
        match kind {
            EmbedWork::KIND => Ok(Work::Embed(from_stored(payload)?)),
            IngestWork::KIND => Ok(Work::Ingest(from_stored(payload)?)),
            ReembedWork::KIND => Ok(Work::Reembed(from_stored(payload)?)),
            other => Err(RagError::Job(format!("unknown kind `{other}`"))),
        }
    }
}

impl Rag {
    /// The task of this id, with its result once it has ended.
    pub async fn task(&self, tenant: TenantId, id: Uuid) -> Result<Task, RagError> {
        let job = self.store.job(tenant, id).await?.ok_or(RagError::UnknownTask(id))?;
        let result = self.task_result(tenant, &job).await?;
        Ok(Task { result, ..job.into() })
    }

    /// Cancels a task that has not ended; returns how it stands, without a result.
    pub async fn cancel_task(&self, tenant: TenantId, id: Uuid) -> Result<Task, RagError> {
        Ok(self.store.cancel_job(tenant, id).await?.ok_or(RagError::UnknownTask(id))?.into())
    }

    /// Queues a job, which is charged to the caller, and wakes a worker of this replica.
    pub(super) async fn enqueue(&self, caller: Caller, work: Work) -> Result<Uuid, RagError> {
        let total = i64::try_from(work.items()).unwrap_or(i64::MAX);
        let settings = self.job_settings.clone();
        let most = match work {
            Work::Embed(_) | Work::Ingest(_) => settings.max_open,
            // It completes what has been changed already, and there are as many as collections.
            Work::Reembed(_) => i64::MAX,
        };
        let (kind, payload) =
            // Megabytes of texts: not on a thread that serves requests.
            tokio::task::spawn_blocking(move || work.to_payload().map(|payload| (work.kind(), payload))).await??;
        let job = NewJob {
            key: caller.key,
            kind,
            payload,
            total,
            max_attempts: settings.max_attempts,
            keep: settings.keep(),
        };
        let id = self.store.enqueue_job(caller.tenant, &job, most).await?;
        self.job_counts.queued(kind);
        self.job_added.notify_one();
        Ok(id)
    }

    /// What this replica did with jobs of each kind since it started.
    pub fn job_counts(&self) -> Vec<(&'static str, KindCounts)> {
        self.job_counts.read(Work::KINDS)
    }

    async fn perform(self, mut job: ClaimedJob) -> Result<Performed, RagError> {
        // Megabytes that nobody needs any more.
        let payload = std::mem::take(&mut job.payload);
        let work = Work::from_payload(&job.kind, &payload)?;
        drop(payload);
        match work {
            Work::Embed(work) => Box::pin(self.perform_embed(&job, work)).await.map(Performed::Whole),
            Work::Ingest(work) => Box::pin(self.perform_ingest(&job, work)).await.map(Performed::Whole),
            Work::Reembed(work) => Box::pin(self.perform_reembed(&job, work)).await,
        }
    }

    async fn task_result(&self, tenant: TenantId, job: &Job) -> Result<Option<TaskResult>, RagError> {
        let ready = match job.kind.as_str() {
            EmbedWork::KIND => job.state == JobState::Succeeded,
            IngestWork::KIND => job.state.is_final(),
            _ => false,
        };
        if !ready {
            return Ok(None);
        }
        let steps = self.store.job_steps(tenant, job.id).await?;
        let (kind, ended) = (job.kind.clone(), job.result.clone().unwrap_or_default());
        let result = tokio::task::spawn_blocking(move || match kind.as_str() {
            EmbedWork::KIND => embed::result(&ended, &steps).map(TaskResult::Embedded),
            _ => ingest::result(&steps).map(TaskResult::Ingested),
        });
        result.await?.map(Some)
    }
}

impl From<Job> for Task {
    fn from(job: Job) -> Self {
        let elapsed = job.finished_at.map(|finished| (finished - job.created_at).unsigned_abs());
        Task {
            id: job.id,
            state: job.state,
            done: job.done,
            total: job.total,
            error: job.error,
            result: None,
            elapsed,
        }
    }
}

/// Who asked for a job.
fn caller_of(job: &ClaimedJob) -> Caller {
    Caller { tenant: job.lease.tenant, key: job.key }
}

/// The form in which payloads, outcomes and results are stored: JSON, which a later version can add to.
fn to_stored(value: &impl Serialize) -> Result<Vec<u8>, RagError> {
    serde_json::to_vec(value).map_err(|error| RagError::Job(error.to_string()))
}

fn from_stored<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RagError> {
    serde_json::from_slice(bytes).map_err(|error| RagError::Job(error.to_string()))
}
