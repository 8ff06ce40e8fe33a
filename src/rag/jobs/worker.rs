//! Workers: take a job, hold it, work on it, end it.

use std::time::{Duration, Instant};

use futures_util::{
    FutureExt,
    future::{join_all, join3},
};
use tokio::task::JoinSet;
use tracing::{Instrument, Span, field::Empty};

use super::{JobOutcome, Performed, Work};
use crate::{
    models::ModelError,
    rag::{
        Rag, RagError,
        sweep::{Stop, jittered, sweep},
    },
    store::{ClaimedJob, Lease, Retry, StoreError},
    telemetry::{WORK, begin_trace},
};

/// Between two attempts to reach a database that is away.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// After the words of some passages could not be indexed.
const FAILED_PAUSE: Duration = Duration::from_secs(60);
/// Expired jobs that are removed at once.
const SWEEP_PORTION: i64 = 200;

impl Rag {
    /// Works on jobs of all replicas until `stop` is done; gives back what it has not finished.
    ///
    /// Dropped instead, it ends as a killed process does: others go on when its leases run out.
    pub async fn run_jobs(self, stop: impl Future<Output = ()> + Send + 'static) {
        let stop: Stop = stop.boxed().shared();
        let workers = (0..self.job_settings.workers).map(|_| self.work(stop.clone()));
        let expired = sweep("expired jobs", SWEEP_PORTION, stop.clone(), |most| self.store.sweep_jobs(most));
        join3(join_all(workers), expired, self.fill_lexical_indexes(stop.clone())).await;
    }

    async fn work(&self, stop: Stop) {
        let mut reached = true;
        while stop.peek().is_none() {
            match self.store.claim_job(Work::KINDS, self.job_settings.lease()).await {
                Ok(Some(job)) => {
                    reached = true;
                    let span = span_of(&job);
                    self.attempt(job, &stop).instrument(span).await;
                    continue;
                }
                Ok(None) => reached = true,
                // An outage is told once, not at every look.
                Err(error) if reached => {
                    reached = false;
                    tracing::warn!(%error, "no jobs can be taken at the moment: {error}");
                }
                Err(_) => {}
            }
            tokio::select! {
                () = stop.clone() => {}
                () = tokio::time::sleep(jittered(self.job_settings.poll())) => {}
                () = self.job_added.notified() => {}
            }
        }
    }

    async fn attempt(&self, job: ClaimedJob, stop: &Stop) {
        let (lease, attempts) = (job.lease.clone(), job.attempts);
        let counted = self.job_counts.begin(&job.kind);
        tracing::info!(done = job.done, "task {} begins", lease.job);
        // A task of its own: it can be stopped, and a panic ends only this attempt.
        let mut work = JoinSet::new();
        work.spawn(self.clone().perform(job).in_current_span());
        let ended = tokio::select! {
            ended = work.join_next() => ended,
            () = self.hold(&lease) => None,
            () = stop.clone() => {
                work.shutdown().await;
                self.give_back(&lease).await;
                return;
            }
        };
        work.shutdown().await;
        let result = match ended {
            Some(Ok(result)) => result,
            Some(Err(panicked)) => Err(panicked.into()),
            None => {
                return tracing::info!("task {} was cancelled or taken over", lease.job);
            }
        };
        counted.end(outcome(&result));
        self.settle(&lease, attempts, result, stop).await;
    }

    /// Renews the lease until it is lost.
    async fn hold(&self, lease: &Lease) {
        let duration = self.job_settings.lease();
        let mut runs_out = Instant::now() + duration;
        let mut pause = duration / 6;
        while Instant::now() < runs_out {
            tokio::time::sleep(pause).await;
            let asked = Instant::now();
            match self.store.renew_lease(lease, duration).await {
                Ok(()) => (runs_out, pause) = (asked + duration, duration / 6),
                Err(StoreError::LeaseLost) => return,
                Err(error) => {
                    tracing::debug!(%error, "the lease could not be renewed: {error}");
                    pause = DATABASE_PAUSE.min(duration / 6);
                }
            }
        }
    }

    async fn settle(&self, lease: &Lease, attempts: i32, result: Result<Performed, RagError>, stop: &Stop) {
        let ended = match &result {
            Ok(Performed::Whole(result)) => self.insist(stop, || self.store.finish_job(lease, result)).await,
            Ok(Performed::UpTo(pause)) => self.insist(stop, || self.store.release_job(lease, *pause)).await,
            Err(RagError::Store(StoreError::LeaseLost)) => Err(StoreError::LeaseLost),
            // The model asks to wait: that is no failure, and is not counted as one.
            Err(RagError::Model(ModelError::Overloaded { retry_after, .. })) => {
                let pause = jittered((*retry_after).max(DATABASE_PAUSE));
                self.insist(stop, || self.store.release_job(lease, pause)).await
            }
            Err(error) => {
                tracing::warn!(%error, "task {} failed: {error}", lease.job);
                let retry = match error.is_retryable() {
                    true => Retry::After(jittered(self.job_settings.retry_after(attempts))),
                    false => Retry::Never,
                };
                let shown = shown(error);
                self.insist(stop, || self.store.fail_job(lease, &shown, retry)).await
            }
        };
        match ended {
            Ok(()) => tracing::info!("task {} left the worker", lease.job),
            Err(StoreError::LeaseLost) => {
                tracing::info!("task {} was cancelled or taken over", lease.job);
            }
            // Nothing is lost: the lease runs out and the job is taken again.
            Err(error) => {
                tracing::warn!(%error, "task {} could not be ended: {error}", lease.job)
            }
        }
    }

    /// Repeats a write while the database is away, as long as a lease lasts at most.
    async fn insist<W: Future<Output = Result<(), StoreError>>>(
        &self,
        stop: &Stop,
        write: impl Fn() -> W,
    ) -> Result<(), StoreError> {
        let end = Instant::now() + self.job_settings.lease();
        loop {
            match write().await {
                Err(error) if error.is_retryable() && Instant::now() < end && stop.peek().is_none() => {
                    tokio::select! {
                        () = tokio::time::sleep(DATABASE_PAUSE) => {}
                        () = stop.clone() => {}
                    }
                }
                ended => return ended,
            }
        }
    }

    async fn give_back(&self, lease: &Lease) {
        match self.store.release_job(lease, Duration::ZERO).await {
            Ok(()) => tracing::info!("task {} is left to another worker", lease.job),
            Err(error) => {
                tracing::warn!(%error, "task {} stays leased for a while: {error}", lease.job)
            }
        }
    }

    /// Indexes the words of passages that were stored without: by an earlier version, or beside one.
    async fn fill_lexical_indexes(&self, stop: Stop) {
        while stop.peek().is_none() {
            let pause = match self.store.fill_lexical_index().await {
                Ok(true) => continue,
                Ok(false) => self.job_settings.poll(),
                Err(error) => {
                    tracing::warn!(%error, "words of passages are not indexed at the moment: {error}");
                    FAILED_PAUSE
                }
            };
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => {}
                () = stop.clone() => {}
            }
        }
    }
}

/// An attempt in the log and as a trace of its own: the request that asked for it has long been answered.
fn span_of(job: &ClaimedJob) -> Span {
    let (task, tenant) = (job.lease.job, job.lease.tenant.0);
    let span = tracing::info_span!(
        target: WORK,
        parent: None,
        "task",
        otel.kind = Empty,
        trace_id = Empty,
        %task,
        kind = job.kind,
        %tenant,
        attempts = job.attempts,
    );
    if let Some(id) = begin_trace(&span, "consumer") {
        span.record("trace_id", id);
    }
    span
}

fn outcome(result: &Result<Performed, RagError>) -> JobOutcome {
    match result {
        Ok(Performed::Whole(_)) => JobOutcome::Succeeded,
        Ok(Performed::UpTo(_)) | Err(RagError::Model(ModelError::Overloaded { .. })) => JobOutcome::Paused,
        Err(RagError::Store(StoreError::LeaseLost)) => JobOutcome::Lost,
        Err(_) => JobOutcome::Failed,
    }
}

/// What a client may read of an error; the whole of it is in the log.
fn shown(error: &RagError) -> String {
    match error.is_internal() {
        true => "something failed inside ragway; its log has the cause under this task's id".into(),
        false => error.to_string(),
    }
}
