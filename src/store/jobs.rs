//! Jobs: work that outlives the request that asked for it, as those see it who
//! ask for it. [`super::leases`] is the side of those who do it.

use std::time::Duration;

use time::OffsetDateTime;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    Store, StoreError, TenantId,
    sealed::{JOB_PAYLOAD, JOB_RESULT, STEP_OUTCOME, Seals},
};

/// Work to be queued.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The key that it was asked for with.
    pub key: Option<Uuid>,
    /// Tells the worker what the payload is.
    pub kind: &'static str,
    /// What is to be done, in the form that the kind defines.
    pub payload: Vec<u8>,
    /// Items that are to be done, for the progress shown; a step can correct it.
    pub total: i64,
    /// After so many attempts without progress the job is given up.
    pub max_attempts: i32,
    /// How long it can be read after its end; a failed one seven times as long.
    pub keep: Duration,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    Queued,
    Running,
    Succeeded,
    /// Given up; the payload and the last error are kept for a while.
    Failed,
    Cancelled,
}

/// A job without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub id: Uuid,
    pub kind: String,
    pub state: JobState,
    /// What it ended with, in the form that the kind defines.
    pub result: Option<Vec<u8>>,
    pub done: i64,
    pub total: i64,
    /// Attempts since it last made progress.
    pub attempts: i32,
    /// Why the last attempt, or the job, failed.
    pub error: Option<String>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    pub finished_at: Option<OffsetDateTime>,
    pub expires_at: Option<OffsetDateTime>,
}

impl JobState {
    /// Whether nothing will change it any more.
    pub fn is_final(self) -> bool {
        match self {
            JobState::Queued | JobState::Running => false,
            JobState::Succeeded | JobState::Failed | JobState::Cancelled => true,
        }
    }

    fn from_name(name: &str) -> Self {
        match name {
            "queued" => JobState::Queued,
            "running" => JobState::Running,
            "succeeded" => JobState::Succeeded,
            "cancelled" => JobState::Cancelled,
            // The column's check leaves only this one.
            _ => JobState::Failed,
        }
    }
}

impl Job {
    fn open(row: &Row, seals: Seals<'_>) -> Result<Self, StoreError> {
        let id = row.get("id");
        Ok(Self {
            id,
            kind: row.get("kind"),
            state: JobState::from_name(row.get("state")),
            result: seals.bytes(row, id, JOB_RESULT, 0)?,
            done: row.get("done"),
            total: row.get("total"),
            attempts: row.get("attempts"),
            error: row.get("error"),
            created_at: row.get("created_at"),
            updated_at: row.get("updated_at"),
            finished_at: row.get("finished_at"),
            expires_at: row.get("expires_at"),
        })
    }
}

/// What outlived its time is gone, whether or not it has been swept yet.
const LIVING: &str = "
    SELECT id, kind, state, result, sealed_by, done, total, attempts, error, created_at, updated_at, finished_at,
           expires_at
    FROM jobs WHERE tenant_id = $1 AND (expires_at IS NULL OR expires_at > now())";

impl Store {
    /// Queues a job and returns its id.
    ///
    /// Fails with [`StoreError::TooManyJobs`] when the tenant has `most` that have not ended.
    pub async fn enqueue_job(&self, tenant: TenantId, job: &NewJob, most: i64) -> Result<Uuid, StoreError> {
        let id = Uuid::now_v7();
        let seals = self.seals(tenant);
        let payload = seals.seal_bytes(id, JOB_PAYLOAD, 0, &job.payload)?;
        let mut connection = self.tenant(tenant).await?;
        let transaction = connection.transaction().await?;
        // One at a time for a tenant, so that the count is true.
        transaction
            .query_typed(
                "SELECT pg_advisory_xact_lock(hashtextextended('ragway.jobs.' || $1::text, 0))",
                &[(&tenant.0.to_string(), Type::TEXT)],
            )
            .await?;
        let queued = transaction
            .execute_typed(
                "INSERT INTO jobs (id, tenant_id, kind, payload, total, max_attempts, keep, key_id, sealed_by)
                 SELECT $1, $2, $3, $4, $5, $6, make_interval(secs => $7), $9, $10
                 WHERE (SELECT count(*) FROM jobs WHERE tenant_id = $2 AND state IN ('queued', 'running')) < $8",
                &[
                    (&id, Type::UUID),
                    (&tenant.0, Type::UUID),
                    (&job.kind, Type::TEXT),
                    (&payload, Type::BYTEA),
                    (&job.total, Type::INT8),
                    (&job.max_attempts, Type::INT4),
                    (&job.keep.as_secs_f64(), Type::FLOAT8),
                    (&most, Type::INT8),
                    (&job.key, Type::UUID),
                    (&seals.writing(), Type::INT4),
                ],
            )
            .await?;
        transaction.commit().await?;
        if queued == 0 { Err(StoreError::TooManyJobs(most)) } else { Ok(id) }
    }

    /// The job of this id, until it expires.
    pub async fn job(&self, tenant: TenantId, id: Uuid) -> Result<Option<Job>, StoreError> {
        let row = self
            .tenant(tenant)
            .await?
            .query_typed_opt(&format!("{LIVING} AND id = $2"), &[(&tenant.0, Type::UUID), (&id, Type::UUID)])
            .await?;
        row.map(|row| Job::open(&row, self.seals(tenant))).transpose()
    }

    /// The latest jobs, the newest first, `limit` of them at most.
    pub async fn jobs(&self, tenant: TenantId, limit: i64) -> Result<Vec<Job>, StoreError> {
        let rows = self
            .tenant(tenant)
            .await?
            .query_typed(
                &format!("{LIVING} ORDER BY id DESC LIMIT $2"),
                &[(&tenant.0, Type::UUID), (&limit, Type::INT8)],
            )
            .await?;
        rows.iter().map(|row| Job::open(row, self.seals(tenant))).collect()
    }

    /// Outcomes of the steps that a job has recorded, in the order of their positions.
    pub async fn job_steps(&self, tenant: TenantId, id: Uuid) -> Result<Vec<Vec<u8>>, StoreError> {
        let rows = self
            .tenant(tenant)
            .await?
            .query_typed(
                "SELECT position, outcome, sealed_by FROM job_steps WHERE tenant_id = $1 AND job_id = $2 ORDER BY position",
                &[(&tenant.0, Type::UUID), (&id, Type::UUID)],
            )
            .await?;
        let seals = self.seals(tenant);
        let opened = rows.iter().map(|row| seals.bytes(row, id, STEP_OUTCOME, row.get("position")));
        opened.map(|outcome| Ok(outcome?.unwrap_or_default())).collect()
    }

    /// Ends a job that has not ended; one that has stays as it is.
    ///
    /// A worker that runs it can record nothing from now on, and stops when it notices.
    pub async fn cancel_job(&self, tenant: TenantId, id: Uuid) -> Result<Option<Job>, StoreError> {
        self.tenant(tenant)
            .await?
            .execute_typed(
                "UPDATE jobs SET state = 'cancelled', lease_token = NULL, payload = NULL, sealed_by = NULL,
                                 updated_at = now(), finished_at = now(), expires_at = now() + keep
                 WHERE tenant_id = $1 AND id = $2 AND state IN ('queued', 'running')",
                &[(&tenant.0, Type::UUID), (&id, Type::UUID)],
            )
            .await?;
        self.job(tenant, id).await
    }

    /// Removes jobs of every tenant that have expired, `limit` of them at most; says how many.
    pub async fn sweep_jobs(&self, limit: i64) -> Result<u64, StoreError> {
        let removed = self
            .connection()
            .await?
            .query_typed_one("SELECT sweep_jobs($1)", &[(&limit, Type::INT8)])
            .await?;
        Ok(u64::try_from(removed.get::<_, i64>(0)).unwrap_or(0))
    }
}
