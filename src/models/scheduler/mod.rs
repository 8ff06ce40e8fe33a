//! The queue in front of a model.
//!
//! Each model has an OS thread of its own. Callers' items (tokenised texts,
//! decoded images) wait in two lanes; the thread joins what waits, of whichever
//! callers, into batches of a bounded cost. There is no timer: on an idle model
//! an item runs at once, and while a batch runs the next one gathers.
//!
//! The interactive lane goes first. A bulk batch lets interactive items pass at
//! every point where the model calls `pause`, and bulk work that has waited for
//! [`Limits::ageing`] gets its turn all the same, so neither lane starves the other.
//! Within a lane callers take turns item by item.
//!
//! Absent here: what an item is.

mod queue;
#[cfg(test)]
mod tests;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use self::queue::{Queue, Taken, Ticket};
use super::{Lane, ModelError};

/// A model that computes batches.
pub trait BatchModel: Send + Sync + 'static {
    type Item: Send + Sync + 'static;
    type Output: Send + 'static;

    /// One output for each item, in their order.
    ///
    /// `pause` may be called from any thread wherever another batch could be computed in between;
    /// it may call [`BatchModel::run`] again. A model that cannot pause never calls it.
    fn run(&self, items: &[&Self::Item], pause: Pause<'_>) -> Result<Vec<Self::Output>, ModelError>;
}

/// Called by a model to let more urgent work pass.
pub type Pause<'a> = &'a (dyn Fn() + Sync);

/// Bounds of a scheduler; costs are those that callers give with their items (tokens of a text).
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Cost of an interactive batch. A single item may cost more.
    pub interactive_batch: usize,
    /// Cost of a bulk batch: a model that cannot pause keeps interactive items waiting for as long.
    pub bulk_batch: usize,
    /// Cost of all items that wait in one lane. A lane that is empty takes a call of any size.
    pub queue: usize,
    /// Bulk work that has waited for longer goes ahead of interactive work, once.
    pub ageing: Duration,
}

/// Sends items to a model's thread. The thread ends when the scheduler is dropped.
pub struct Scheduler<M: BatchModel> {
    shared: Arc<Shared<M>>,
}

struct Shared<M: BatchModel> {
    name: String,
    model: M,
    limits: Limits,
    queue: Mutex<Queue<M::Item, M::Output>>,
    arrived: Condvar,
    /// Calls that wait in the interactive lane, readable without the lock.
    urgent: AtomicUsize,
}

impl<M: BatchModel> Scheduler<M> {
    /// Starts the thread. `name` is the model's, for errors and the thread.
    pub fn start(name: &str, limits: Limits, model: M) -> Result<Self, ModelError> {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            model,
            limits,
            queue: Mutex::new(Queue::new()),
            arrived: Condvar::new(),
            urgent: AtomicUsize::new(0),
        });
        let worker = Arc::clone(&shared);
        thread::Builder::new()
            .name(format!("model-{name}"))
            .spawn(move || worker.serve())
            .map_err(|error| ModelError::Failed { model: name.to_owned(), reason: error.to_string() })?;
        Ok(Self { shared })
    }

    pub fn model(&self) -> &M {
        &self.shared.model
    }

    /// Computes `items`, each with its cost; outputs in their order. Dropping the future cancels
    /// what has not begun.
    ///
    /// Fails with [`ModelError::Overloaded`] at once where the lane is full, and as the model does.
    pub async fn submit(
        &self,
        items: Vec<(M::Item, usize)>,
        lane: Lane,
    ) -> Result<Vec<M::Output>, ModelError> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        let ticket = Ticket::new(items.len(), reply);
        {
            let mut queue = self.shared.lock();
            queue.admit(items, ticket, lane, self.shared.limits.queue).map_err(|retry_after| {
                ModelError::Overloaded { model: self.shared.name.clone(), retry_after }
            })?;
            self.shared.publish(&queue);
        }
        self.shared.arrived.notify_one();
        answer.await.map_err(|_| self.shared.failed("its thread has stopped; restart ragway".into()))?
    }
}

impl<M: BatchModel> Drop for Scheduler<M> {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.arrived.notify_one();
    }
}

impl<M: BatchModel> Shared<M> {
    /// Works until the scheduler is dropped.
    fn serve(&self) {
        while let Some((batch, lane)) = self.next() {
            let cost = batch.iter().map(|taken| taken.cost).sum();
            let started = Instant::now();
            match lane {
                Lane::Interactive => self.compute(batch, &|| {}),
                Lane::Bulk => {
                    let passing = Passing::new();
                    self.compute(batch, &|| self.let_pass(&passing));
                }
            }
            self.lock().done(lane, cost, started.elapsed());
        }
    }

    /// Waits for work; nothing once the scheduler is dropped.
    fn next(&self) -> Option<(Batch<M>, Lane)> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(lane) = queue.turn(self.limits.ageing) {
                let budget = match lane {
                    Lane::Interactive => self.limits.interactive_batch,
                    Lane::Bulk => self.limits.bulk_batch,
                };
                let batch = queue.take(lane, budget);
                self.publish(&queue);
                if !batch.is_empty() {
                    return Some((batch, lane));
                }
            } else {
                queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Computes what waits in the interactive lane, in the middle of a bulk batch.
    fn let_pass(&self, passing: &Passing) {
        if self.urgent.load(Ordering::Relaxed) == 0 {
            return;
        }
        // One thread at a time: the others go on with the bulk batch.
        let Ok(mut spent) = passing.spent.try_lock() else { return };
        let started = Instant::now();
        if *spent > passing.allowed(started) {
            return;
        }
        let batch = {
            let mut queue = self.lock();
            let batch = queue.take(Lane::Interactive, self.limits.interactive_batch);
            self.publish(&queue);
            batch
        };
        if !batch.is_empty() {
            self.compute(batch, &|| {});
        }
        *spent += started.elapsed();
    }

    /// Runs a batch and tells its callers. When it fails, each caller's items are run alone, so
    /// that only the one whose item it was gets the error.
    fn compute(&self, batch: Batch<M>, pause: Pause<'_>) {
        let error = match self.run(&batch, pause) {
            Ok(outputs) => {
                for (taken, output) in batch.into_iter().zip(outputs) {
                    taken.ticket.deliver(taken.index, output);
                }
                return;
            }
            Err(error) => error,
        };
        let callers = queue::by_caller(batch);
        let alone = callers.len() == 1;
        for batch in callers {
            let ticket = Arc::clone(&batch[0].ticket);
            let result = if alone { Err(error.clone()) } else { self.run(&batch, pause) };
            match result {
                Ok(outputs) => {
                    for (taken, output) in batch.into_iter().zip(outputs) {
                        taken.ticket.deliver(taken.index, output);
                    }
                }
                Err(error) => ticket.fail(error),
            }
        }
    }

    fn run(
        &self,
        batch: &[Taken<M::Item, M::Output>],
        pause: Pause<'_>,
    ) -> Result<Vec<M::Output>, ModelError> {
        let items: Vec<&M::Item> = batch.iter().map(|taken| &taken.item).collect();
        let outputs = catch_unwind(AssertUnwindSafe(|| self.model.run(&items, pause)))
            .unwrap_or_else(|panic| Err(self.failed(format!("it panicked: {}", message(&*panic)))))?;
        if outputs.len() == items.len() {
            Ok(outputs)
        } else {
            Err(self.failed(format!("{} outputs for {} items", outputs.len(), items.len())))
        }
    }

    fn publish(&self, queue: &Queue<M::Item, M::Output>) {
        self.urgent.store(queue.calls(Lane::Interactive), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Queue<M::Item, M::Output>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, reason: String) -> ModelError {
        ModelError::Failed { model: self.name.clone(), reason }
    }
}

type Batch<M> = Vec<Taken<<M as BatchModel>::Item, <M as BatchModel>::Output>>;

/// How much of a bulk batch's time went to interactive items.
struct Passing {
    started: Instant,
    spent: Mutex<Duration>,
}

impl Passing {
    fn new() -> Self {
        Self { started: Instant::now(), spent: Mutex::new(Duration::ZERO) }
    }

    /// Four fifths of the time so far, so that on a single thread a bulk batch still ends.
    fn allowed(&self, now: Instant) -> Duration {
        (now - self.started) * 4 / 5
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}
