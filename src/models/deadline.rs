//! Until when a caller waits.
//!
//! A deadline holds for all that a future does: it is handed down with the task, so that no
//! signature between the request and a model's queue has to name it.

use std::time::{Duration, Instant};

use super::ModelError;

tokio::task_local! {
    static CURRENT: Option<Deadline>;
}

/// When an answer is of no more use.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
    /// What the caller allowed altogether.
    limit: Duration,
}

impl Deadline {
    /// So long from now.
    pub fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }

    /// That of the work which asks; none where nobody set one.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|deadline| *deadline).ok().flatten()
    }

    /// Time until then; none once it has passed.
    pub fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    pub fn has_passed(&self) -> bool {
        self.at <= Instant::now()
    }

    /// Runs `work` under this deadline; nothing once it has passed, and the rest is dropped.
    pub async fn hold<T>(self, work: impl Future<Output = T>) -> Option<T> {
        CURRENT.scope(Some(self), self.wait(work)).await
    }

    /// What `work` gives; nothing once this deadline has passed.
    pub(super) async fn wait<T>(self, work: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout_at(self.at.into(), work).await.ok()
    }

    /// Why `model` gave nothing.
    pub fn missed(self, model: String) -> ModelError {
        ModelError::TimedOut { model, after: self.limit }
    }
}

/// Runs `work` without the deadline of whoever began it: others wait for it too.
pub async fn unlimited<T>(work: impl Future<Output = T>) -> T {
    CURRENT.scope(None, work).await
}
