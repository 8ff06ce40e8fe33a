//! The side of jobs that workers see: take one, renew the lease, record steps, end it.
//!
//! A lease is a token that only the worker knows that took the job last. Every
//! write names it, so that a worker that was believed dead changes nothing when
//! it comes back. A job whose lease has run out is taken again.

use std::{borrow::Cow, time::Duration};

use tokio_postgres::{Transaction, types::Type};
use uuid::Uuid;

use super::{
    Parameter, Store, StoreError, TenantId,
    sealed::{JOB_PAYLOAD, JOB_RESULT, STEP_OUTCOME, Seals},
};

/// The right to work on a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub tenant: TenantId,
    pub job: Uuid,
    token: Uuid,
}

/// A job that was taken.
#[derive(Debug, Clone)]
pub struct ClaimedJob {
    pub lease: Lease,
    /// The key that it was asked for with.
    pub key: Option<Uuid>,
    pub kind: String,
    pub payload: Vec<u8>,
    /// Items that earlier attempts have done: the next step begins here.
    pub done: i64,
    pub total: i64,
    /// This one included, since the job last made progress.
    pub attempts: i32,
}

/// A piece of a job that is done.
#[derive(Debug, Clone, Copy)]
pub struct JobStep<'a> {
    /// Number of the first item of the piece.
    pub position: i64,
    /// Items that are done with this piece.
    pub done: i64,
    /// Items that there are now.
    pub total: i64,
    /// What came out, in the form that the job's kind defines.
    pub outcome: &'a [u8],
}

/// What becomes of a job after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same would fail again.
    Never,
    /// Queued again after a pause, unless this was the last attempt.
    After(Duration),
}

/// Completed with the parameters of [`fence`].
const HELD: &str = "id = $1 AND tenant_id = $2 AND lease_token = $3";

/// For ended jobs: `$4` is the new state. One that failed keeps what was to be done, and has no result.
const END: &str = "
    UPDATE jobs SET state = $4, result = $5, error = $6, lease_token = NULL, updated_at = now(), finished_at = now(),
                    payload = CASE WHEN $4 = 'failed' THEN payload END,
                    sealed_by = CASE WHEN $4 = 'failed' THEN sealed_by ELSE $7 END,
                    expires_at = now() + keep * CASE WHEN $4 = 'failed' THEN 7 ELSE 1 END";

impl Store {
    /// Takes the job of one of these kinds that has been due longest, of any tenant.
    ///
    /// A job whose workers were lost too often is given up on the way.
    pub async fn claim_job(&self, kinds: &[&str], lease: Duration) -> Result<Option<ClaimedJob>, StoreError> {
        let token = Uuid::now_v7();
        // Whose job it is has to be known before it can be read.
        let claimed = self
            .connection()
            .await?
            .query_typed_opt(
                "SELECT job, tenant FROM claim_job($1, $2, $3)",
                &[(&token, Type::UUID), (&lease.as_secs_f64(), Type::FLOAT8), (&kinds, Type::TEXT_ARRAY)],
            )
            .await?;
        let Some(claimed) = claimed else { return Ok(None) };
        let lease = Lease { tenant: TenantId(claimed.get("tenant")), job: claimed.get("job"), token };
        let statement =
            format!("SELECT key_id, kind, payload, sealed_by, done, total, attempts FROM jobs WHERE {HELD}");
        let row = self.tenant(lease.tenant).await?.query_typed_opt(&statement, &fence(&lease)).await?;
        let Some(row) = row else { return Ok(None) };
        let payload = self.seals(lease.tenant).bytes(&row, lease.job, JOB_PAYLOAD, 0)?;
        Ok(Some(ClaimedJob {
            lease,
            key: row.get("key_id"),
            kind: row.get("kind"),
            payload: payload.unwrap_or_default(),
            done: row.get("done"),
            total: row.get("total"),
            attempts: row.get("attempts"),
        }))
    }

    /// Holds the job for as long again.
    pub async fn renew_lease(&self, lease: &Lease, duration: Duration) -> Result<(), StoreError> {
        let seconds = duration.as_secs_f64();
        let statement = format!(
            "UPDATE jobs SET due_at = now() + make_interval(secs => $4), updated_at = now() WHERE {HELD}"
        );
        self.write_held(lease, &statement, &[(&seconds, Type::FLOAT8)]).await
    }

    /// Records a piece of work. Recording the same piece again changes nothing.
    pub async fn record_step(&self, lease: &Lease, step: JobStep<'_>) -> Result<(), StoreError> {
        let mut connection = self.tenant(lease.tenant).await?;
        let transaction = connection.transaction().await?;
        record_step(&transaction, self.seals(lease.tenant), lease, step).await?;
        Ok(transaction.commit().await?)
    }

    /// Ends the job well.
    pub async fn finish_job(&self, lease: &Lease, result: &[u8]) -> Result<(), StoreError> {
        self.end(lease, "succeeded", Some(result), None).await
    }

    /// Ends an attempt that failed, and the job when it is not to be tried again.
    pub async fn fail_job(&self, lease: &Lease, error: &str, retry: Retry) -> Result<(), StoreError> {
        if let Retry::After(pause) = retry {
            let statement = format!(
                "UPDATE jobs SET state = 'queued', due_at = now() + make_interval(secs => $4), error = $5,
                                 lease_token = NULL, updated_at = now()
                 WHERE {HELD} AND attempts < max_attempts"
            );
            let pause = pause.as_secs_f64();
            let queued =
                self.write_held(lease, &statement, &[(&pause, Type::FLOAT8), (&error, Type::TEXT)]).await;
            if !matches!(queued, Err(StoreError::LeaseLost)) {
                return queued;
            }
        }
        self.end(lease, "failed", None, Some(error)).await
    }

    /// Gives the job back for any worker to go on after a pause; the attempt does not count.
    pub async fn release_job(&self, lease: &Lease, pause: Duration) -> Result<(), StoreError> {
        let statement = format!(
            "UPDATE jobs SET state = 'queued', due_at = now() + make_interval(secs => $4), attempts = attempts - 1,
                             lease_token = NULL, updated_at = now() WHERE {HELD}"
        );
        self.write_held(lease, &statement, &[(&pause.as_secs_f64(), Type::FLOAT8)]).await
    }

    async fn end(
        &self,
        lease: &Lease,
        state: &str,
        result: Option<&[u8]>,
        error: Option<&str>,
    ) -> Result<(), StoreError> {
        let statement = format!("{END} WHERE {HELD}");
        let seals = self.seals(lease.tenant);
        let result = result.map(|result| seals.seal_bytes(lease.job, JOB_RESULT, 0, result)).transpose()?;
        let parameters: [Parameter; 4] = [
            (&state, Type::TEXT),
            (&result, Type::BYTEA),
            (&error, Type::TEXT),
            (&seals.writing(), Type::INT4),
        ];
        self.write_held(lease, &statement, &parameters).await
    }

    /// A write that nothing comes of when the lease is lost.
    async fn write_held(
        &self,
        lease: &Lease,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<(), StoreError> {
        let all = [&fence(lease), parameters].concat();
        let changed = self.tenant(lease.tenant).await?.execute_typed(statement, &all).await?;
        if changed == 0 { Err(StoreError::LeaseLost) } else { Ok(()) }
    }
}

/// Records a piece of work in the transaction that does it: neither is there without the other.
///
/// Fails with [`StoreError::LeaseLost`] when the job is another's or was cancelled; the
/// transaction is then not to be committed. Until it ends, nobody can take or cancel the job.
pub(super) async fn record_step(
    transaction: &Transaction<'_>,
    seals: Seals<'_>,
    lease: &Lease,
    step: JobStep<'_>,
) -> Result<(), StoreError> {
    record_steps(transaction, seals, lease, &[step]).await
}

/// [`record_step`] for several pieces; the last says how far the job is with them.
pub(super) async fn record_steps(
    transaction: &Transaction<'_>,
    seals: Seals<'_>,
    lease: &Lease,
    steps: &[JobStep<'_>],
) -> Result<(), StoreError> {
    let Some(last) = steps.last() else { return Ok(()) };
    // What moves on is not hopeless: attempts count from the last progress.
    let statement = format!(
        "WITH held AS (
             UPDATE jobs SET done = $4, total = $5, attempts = 1, updated_at = now() WHERE {HELD} RETURNING id, tenant_id
         ), step AS (
             INSERT INTO job_steps (job_id, tenant_id, position, outcome, sealed_by)
             SELECT id, tenant_id, position, outcome, $8
             FROM held, unnest($6::bigint[], $7::bytea[]) AS new (position, outcome)
             ON CONFLICT (job_id, position) DO NOTHING
         ) SELECT FROM held"
    );
    let positions: Vec<i64> = steps.iter().map(|step| step.position).collect();
    let outcomes = steps.iter();
    let outcomes =
        outcomes.map(|step| seals.seal_bytes(lease.job, STEP_OUTCOME, step.position, step.outcome));
    let outcomes: Vec<Cow<'_, [u8]>> = outcomes.collect::<Result<_, _>>()?;
    let parameters: [Parameter; 5] = [
        (&last.done, Type::INT8),
        (&last.total, Type::INT8),
        (&positions, Type::INT8_ARRAY),
        (&outcomes, Type::BYTEA_ARRAY),
        (&seals.writing(), Type::INT4),
    ];
    let all = [fence(lease).as_slice(), &parameters].concat();
    match transaction.query_typed_opt(&statement, &all).await? {
        Some(_) => Ok(()),
        None => Err(StoreError::LeaseLost),
    }
}

/// Parameters 1 to 3 of [`HELD`].
fn fence(lease: &Lease) -> [Parameter<'_>; 3] {
    [(&lease.job, Type::UUID), (&lease.tenant.0, Type::UUID), (&lease.token, Type::UUID)]
}
