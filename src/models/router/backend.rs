//! A generator, how much it is asked at once, and how it fared.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    breaker::{Breaker, BreakerState, Entry, Outcome},
    counts::Counts,
};
use crate::{
    config::{BreakerSettings, Limits, OpenAiEntry},
    models::{Generator, ModelError, forward::ForwardError},
};

/// `Retry-After` of a backend whose queue here is full.
const QUEUE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A generator and what `models.toml` says of its use.
#[derive(Clone)]
pub struct BackendSpec {
    pub generator: Arc<dyn Generator>,
    pub limits: Limits,
    pub breaker: BreakerSettings,
}

impl BackendSpec {
    /// A server.
    pub fn remote(generator: Arc<dyn Generator>, entry: &OpenAiEntry) -> Self {
        Self { generator, limits: entry.limits, breaker: entry.breaker }
    }

    /// A model in this process: it has a queue of its own, and what it fails at it fails at again.
    pub fn local(generator: Arc<dyn Generator>) -> Self {
        let limits = Limits { max_concurrent: 1024, queue: 0, retries: 0 };
        Self { generator, limits, breaker: BreakerSettings::default() }
    }
}

/// A backend in use.
pub struct Backend {
    spec: BackendSpec,
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    breaker: Mutex<Breaker>,
    pub counts: Counts,
}

impl Backend {
    pub fn new(spec: BackendSpec) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(spec.limits.max_concurrent)),
            waiting: AtomicUsize::new(0),
            breaker: Mutex::new(Breaker::new(spec.breaker)),
            counts: Counts::default(),
            spec,
        }
    }

    pub fn name(&self) -> &str {
        self.spec.generator.name()
    }

    pub fn generator(&self) -> &dyn Generator {
        self.spec.generator.as_ref()
    }

    pub fn retries(&self) -> u32 {
        self.spec.limits.retries
    }

    /// Requests under way and waiting.
    pub fn load(&self) -> usize {
        self.spec.limits.max_concurrent - self.slots.available_permits()
            + self.waiting.load(Ordering::Relaxed)
    }

    /// What the breaker would say to a request now.
    pub fn look(&self) -> Entry {
        self.with_breaker(|breaker| breaker.look(Instant::now()))
    }

    pub fn state(&self) -> BreakerState {
        self.with_breaker(|breaker| breaker.state(Instant::now()))
    }

    pub fn last_succeeded(&self) -> bool {
        self.with_breaker(|breaker| breaker.last_succeeded())
    }

    /// Waits for a place among the requests under way; fails when too many wait.
    pub async fn slot(self: &Arc<Self>) -> Result<Slot, ModelError> {
        let slots = Arc::clone(&self.slots);
        if let Ok(permit) = Arc::clone(&slots).try_acquire_owned() {
            return Ok(Slot { _permit: permit });
        }
        let full =
            || ModelError::Overloaded { model: self.name().to_owned(), retry_after: QUEUE_RETRY_AFTER };
        let _place = Place::take(&self.waiting, self.spec.limits.queue).ok_or_else(full)?;
        let permit = slots.acquire_owned().await.map_err(|_| full())?;
        Ok(Slot { _permit: permit })
    }

    /// Asks the breaker whether a request may be sent; with `last_resort` it may be open.
    pub fn enter(self: &Arc<Self>, last_resort: bool) -> Result<Trial, Refused> {
        let entry = self.with_breaker(|breaker| breaker.enter(Instant::now()));
        match entry {
            Entry::Shut if !last_resort => return Err(Refused::Shut),
            Entry::Paused(retry_after) => {
                let model = self.name().to_owned();
                return Err(Refused::Paused(ModelError::Overloaded { model, retry_after }));
            }
            Entry::Free | Entry::Probe | Entry::Shut => {}
        }
        Ok(Trial { backend: Arc::clone(self), entry, open: true })
    }

    /// Counts what came of a request after its first byte.
    pub fn record_later_failure(&self, error: &ForwardError) {
        self.counts.broke_off();
        self.with_breaker(|breaker| breaker.record(Entry::Free, outcome(error), Instant::now()));
    }

    fn with_breaker<T>(&self, work: impl FnOnce(&mut Breaker) -> T) -> T {
        work(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One of the requests under way, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
}

/// A place in the queue for a slot.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let more = |waiting: usize| (waiting < most).then_some(waiting + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a request is not sent.
pub enum Refused {
    Shut,
    /// The server wants a pause.
    Paused(ModelError),
}

/// A request whose outcome the breaker waits for. Dropped without one, it says nothing.
pub struct Trial {
    backend: Arc<Backend>,
    entry: Entry,
    open: bool,
}

impl Trial {
    pub fn entry(&self) -> Entry {
        self.entry
    }

    pub fn succeeded(self) {
        self.record(Outcome::Succeeded);
    }

    pub fn failed(self, error: &ForwardError) {
        self.record(outcome(error));
    }

    fn record(mut self, outcome: Outcome) {
        self.open = false;
        self.backend.with_breaker(|breaker| breaker.record(self.entry, outcome, Instant::now()));
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if self.open {
            self.backend.counts.cancelled();
            self.backend.with_breaker(|breaker| breaker.record(self.entry, Outcome::Nothing, Instant::now()));
        }
    }
}

fn outcome(error: &ForwardError) -> Outcome {
    if error.is_callers_fault() {
        return Outcome::Nothing;
    }
    match &error.error {
        ModelError::Unfit { .. } | ModelError::BadImage { .. } => Outcome::Nothing,
        ModelError::Overloaded { retry_after, .. } => Outcome::Busy(*retry_after),
        ModelError::TimedOut { .. }
        | ModelError::Unavailable { .. }
        | ModelError::NotLoaded { .. }
        | ModelError::Failed { .. } => Outcome::Failed,
    }
}
