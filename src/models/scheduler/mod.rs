//! The queue in front of a model.
//!
//! Each model has two lanes, and for each an OS thread of its own. Callers' items (tokenised
//! texts, decoded images) wait in them; the thread joins what waits, of whichever callers, into
//! batches of a bounded cost. There is no timer: on an idle model an item runs at once, and while
//! a batch runs the next one gathers. Within a lane callers take turns item by item.
//!
//! Interactive batches are computed on rayon's own pool, bulk ones on a second pool
//! (`background`) whose threads have a lower priority: the operating system takes the cores from
//! them the moment that an interactive batch begins, wherever in its arithmetic a bulk batch is.
//! While a bulk batch has been running for longer than [`Limits::ageing`], the interactive lane rests
//! a little after each batch, so that neither lane starves the other.
//!
//! Absent here: what an item is.

mod background;
mod counts;
mod queue;
#[cfg(test)]
mod tests;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

pub use self::counts::{BATCH_BOUNDS, BatchCounts, LaneStatus};
use self::queue::{Queue, Taken, Ticket};
use super::{Lane, ModelError, deadline::Deadline};

/// A model that computes batches.
pub trait BatchModel: Send + Sync + 'static {
    type Item: Send + Sync + 'static;
    type Output: Send + 'static;

    /// One output for each item, in their order. What it does on several threads belongs on the
    /// rayon pool that it is called on.
    fn run(&self, items: &[&Self::Item]) -> Result<Vec<Self::Output>, ModelError>;
}

/// Bounds of a scheduler; costs are those that callers give with their items (tokens of a text).
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Cost of an interactive batch. A single item may cost more.
    pub interactive_batch: usize,
    /// Cost of a bulk batch.
    pub bulk_batch: usize,
    /// Cost of all items that wait in one lane. A lane that is empty takes a call of any size.
    pub queue: usize,
    /// A bulk batch that has been running for longer gets a tenth of the time for itself.
    pub ageing: Duration,
    /// An interactive batch that takes longer will not end any more; a bulk batch ten times as long.
    pub stuck: Duration,
}

/// Sends items to a model's threads. They end when the scheduler is dropped.
pub struct Scheduler<M: BatchModel> {
    shared: Arc<Shared<M>>,
}

struct Shared<M: BatchModel> {
    name: String,
    model: M,
    limits: Limits,
    interactive: Line<M>,
    bulk: Line<M>,
}

/// A lane's queue and the bell that wakes its thread.
struct Line<M: BatchModel> {
    queue: Mutex<Queue<M::Item, M::Output>>,
    arrived: Condvar,
}

impl<M: BatchModel> Scheduler<M> {
    /// Starts the threads. `name` is the model's, for errors and the threads.
    pub fn start(name: &str, limits: Limits, model: M) -> Result<Self, ModelError> {
        let shared =
            Shared { name: name.to_owned(), model, limits, interactive: Line::new(), bulk: Line::new() };
        // Dropped before both run, it ends the one that does.
        let scheduler = Self { shared: Arc::new(shared) };
        for (lane, label) in [(Lane::Interactive, "model"), (Lane::Bulk, "bulk")] {
            let worker = Arc::clone(&scheduler.shared);
            thread::Builder::new()
                .name(format!("{label}-{name}"))
                .spawn(move || worker.serve(lane))
                .map_err(|error| scheduler.shared.failed(error.to_string()))?;
        }
        Ok(scheduler)
    }

    /// Each lane's queue now, and what it has computed.
    pub fn status(&self) -> Vec<LaneStatus> {
        [Lane::Interactive, Lane::Bulk].map(|lane| self.shared.line(lane).lock().status(lane)).into()
    }

    pub fn model(&self) -> &M {
        &self.shared.model
    }

    /// Fails when a thread has ended or does not get on with its batch: nothing in this process mends that.
    pub fn check_alive(&self) -> Result<(), ModelError> {
        let Shared { limits, interactive, bulk, .. } = self.shared.as_ref();
        for (line, label, longest) in [(interactive, "", limits.stuck), (bulk, "bulk ", limits.stuck * 10)] {
            let queue = line.lock();
            if queue.abandoned {
                return Err(self.shared.failed(format!("its {label}thread has ended")));
            }
            let running = queue.running();
            if running > longest {
                let seconds = running.as_secs_f64();
                let reason = format!("its {label}thread has been busy with one batch for {seconds:.1} s");
                return Err(self.shared.failed(reason));
            }
        }
        Ok(())
    }

    /// Computes `items`, each with its cost; outputs in their order. Dropping the future cancels
    /// what has not begun, and so does the caller's [`Deadline`].
    ///
    /// Fails with [`ModelError::Overloaded`] at once where the lane is full, with
    /// [`ModelError::TimedOut`] at the deadline, and as the model does.
    pub async fn submit(
        &self,
        items: Vec<(M::Item, usize)>,
        lane: Lane,
    ) -> Result<Vec<M::Output>, ModelError> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        let deadline = Deadline::current();
        if let Some(deadline) = deadline.filter(Deadline::has_passed) {
            return Err(deadline.missed(self.shared.name.clone()));
        }
        let ticket = Ticket::new(items.len(), deadline, reply);
        self.shared.admit(items, ticket, lane)?;
        let name = &self.shared.name;
        let answered = match deadline {
            Some(deadline) => match deadline.wait(answer).await {
                // A call that is dropped at its deadline has no other answer.
                Some(Err(_)) if deadline.has_passed() => return Err(deadline.missed(name.clone())),
                Some(answered) => answered,
                None => return Err(deadline.missed(name.clone())),
            },
            None => answer.await,
        };
        answered.map_err(|_| self.shared.stopped())?
    }
}

impl<M: BatchModel> Drop for Scheduler<M> {
    fn drop(&mut self) {
        for line in [&self.shared.interactive, &self.shared.bulk] {
            line.lock().closed = true;
            line.arrived.notify_one();
        }
    }
}

impl<M: BatchModel> Shared<M> {
    fn admit(
        &self,
        items: Vec<(M::Item, usize)>,
        ticket: Arc<Ticket<M::Output>>,
        lane: Lane,
    ) -> Result<(), ModelError> {
        let line = self.line(lane);
        let mut queue = line.lock();
        if queue.abandoned {
            return Err(self.stopped());
        }
        let overloaded = |retry_after| ModelError::Overloaded { model: self.name.clone(), retry_after };
        queue.admit(items, ticket, self.limits.queue).map_err(overloaded)?;
        line.arrived.notify_one();
        Ok(())
    }

    /// Works in a lane until the scheduler is dropped.
    fn serve(&self, lane: Lane) {
        let line = self.line(lane);
        let _presence = Presence(line);
        let budget = match lane {
            Lane::Interactive => self.limits.interactive_batch,
            Lane::Bulk => self.limits.bulk_batch,
        };
        while let Some(batch) = line.next(budget) {
            let (items, cost) = (batch.len(), batch.iter().map(|taken| taken.cost).sum());
            // The pool's threads start when they are first needed.
            let pool = match lane {
                Lane::Interactive => None,
                Lane::Bulk => background::POOL.as_ref(),
            };
            match pool {
                Some(pool) => pool.install(|| self.compute(batch)),
                None => self.compute(batch),
            }
            let elapsed = line.lock().done(items, cost);
            if lane == Lane::Interactive {
                let bulk = self.bulk.lock().running();
                thread::sleep(rest(bulk, self.limits.ageing, elapsed));
            }
        }
    }

    /// Runs a batch and tells its callers. When it fails, each caller's items are run alone, so
    /// that only the one whose item it was gets the error.
    fn compute(&self, batch: Batch<M>) {
        let error = match self.run(&batch) {
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
            let result = if alone { Err(error.clone()) } else { self.run(&batch) };
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

    fn run(&self, batch: &[Taken<M::Item, M::Output>]) -> Result<Vec<M::Output>, ModelError> {
        let items: Vec<&M::Item> = batch.iter().map(|taken| &taken.item).collect();
        let outputs = catch_unwind(AssertUnwindSafe(|| self.model.run(&items)))
            .unwrap_or_else(|panic| Err(self.failed(format!("it panicked: {}", message(&*panic)))))?;
        if outputs.len() == items.len() {
            Ok(outputs)
        } else {
            Err(self.failed(format!("{} outputs for {} items", outputs.len(), items.len())))
        }
    }

    fn line(&self, lane: Lane) -> &Line<M> {
        match lane {
            Lane::Interactive => &self.interactive,
            Lane::Bulk => &self.bulk,
        }
    }

    fn failed(&self, reason: String) -> ModelError {
        ModelError::Failed { model: self.name.clone(), reason }
    }

    fn stopped(&self) -> ModelError {
        self.failed("its thread has stopped; restart ragway".into())
    }
}

/// Held by a lane's thread. However the thread ends, nobody goes on waiting for it.
struct Presence<'a, M: BatchModel>(&'a Line<M>);

impl<M: BatchModel> Drop for Presence<'_, M> {
    fn drop(&mut self) {
        self.0.lock().abandon();
    }
}

type Batch<M> = Vec<Taken<<M as BatchModel>::Item, <M as BatchModel>::Output>>;

impl<M: BatchModel> Line<M> {
    fn new() -> Self {
        Self { queue: Mutex::new(Queue::new()), arrived: Condvar::new() }
    }

    /// Waits for work; nothing once the scheduler is dropped.
    fn next(&self, budget: usize) -> Option<Batch<M>> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            let batch = queue.take(budget);
            if !batch.is_empty() {
                return Some(batch);
            }
            queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<M::Item, M::Output>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the interactive lane leaves the cores to a bulk batch that has been running for `bulk`,
/// after a batch of its own that took `elapsed`.
fn rest(bulk: Duration, ageing: Duration, elapsed: Duration) -> Duration {
    if bulk > ageing { elapsed / 9 } else { Duration::ZERO }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}
