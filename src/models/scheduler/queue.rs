//! Calls that wait in a lane, and what the next batch is made of.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{BatchCounts, LaneStatus};
use crate::models::{Lane, ModelError, deadline::Deadline};

/// The calls of one lane.
pub struct Queue<I, O> {
    pub closed: bool,
    /// Nobody takes anything from it any more.
    pub abandoned: bool,
    calls: VecDeque<Call<I, O>>,
    cost: usize,
    /// Cost computed in a second, smoothed; 0 until something was.
    rate: f64,
    /// When the batch began that is computed at the moment.
    begun: Option<Instant>,
    counts: BatchCounts,
}

/// Items of one call that no batch has taken yet.
struct Call<I, O> {
    /// Index, item, cost.
    items: VecDeque<(usize, I, usize)>,
    ticket: Arc<Ticket<O>>,
}

/// An item of a batch, with where its output goes.
pub struct Taken<I, O> {
    pub item: I,
    pub cost: usize,
    pub index: usize,
    pub ticket: Arc<Ticket<O>>,
}

/// Collects the outputs of a call.
pub struct Ticket<O> {
    /// After it nothing of the call is begun.
    deadline: Option<Deadline>,
    answer: Mutex<Answer<O>>,
}

struct Answer<O> {
    outputs: Vec<Option<O>>,
    missing: usize,
    /// Gone once answered.
    reply: Option<Reply<O>>,
}

type Reply<O> = oneshot::Sender<Result<Vec<O>, ModelError>>;

impl<I, O> Queue<I, O> {
    pub fn new() -> Self {
        Self {
            closed: false,
            abandoned: false,
            calls: VecDeque::new(),
            cost: 0,
            rate: 0.0,
            begun: None,
            counts: BatchCounts::default(),
        }
    }

    /// Puts a call behind the others, or says when there may be room for it. An empty queue has
    /// room for a call of any size.
    pub fn admit(
        &mut self,
        items: Vec<(I, usize)>,
        ticket: Arc<Ticket<O>>,
        limit: usize,
    ) -> Result<(), Duration> {
        let cost: usize = items.iter().map(|(_, cost)| cost).sum();
        let is_full = |queue: &Self| !queue.calls.is_empty() && queue.cost + cost > limit;
        if is_full(self) {
            self.forget_over();
        }
        if is_full(self) {
            let seconds = if self.rate > 0.0 { self.cost as f64 / self.rate } else { 1.0 };
            return Err(Duration::from_secs_f64(seconds.clamp(1.0, 60.0)));
        }
        self.cost += cost;
        let items = items.into_iter().enumerate().map(|(index, (item, cost))| (index, item, cost));
        self.calls.push_back(Call { items: items.collect(), ticket });
        Ok(())
    }

    /// Takes items up to `budget`, at least one where there is one, from each call in turn. Calls
    /// whose caller left or whose deadline has passed are passed over.
    pub fn take(&mut self, budget: usize) -> Vec<Taken<I, O>> {
        let (mut batch, mut cost) = (Vec::new(), 0);
        while let Some(mut call) = self.calls.pop_front() {
            if call.ticket.is_over() {
                self.cost -= call.cost();
                continue;
            }
            match call.items.front() {
                None => continue,
                Some((_, _, next)) if !batch.is_empty() && cost + next > budget => {
                    self.calls.push_front(call);
                    break;
                }
                Some(_) => {}
            }
            if let Some((index, item, next)) = call.items.pop_front() {
                cost += next;
                self.cost -= next;
                batch.push(Taken { item, cost: next, index, ticket: Arc::clone(&call.ticket) });
            }
            if !call.items.is_empty() {
                self.calls.push_back(call);
            }
        }
        self.begun = (!batch.is_empty()).then(Instant::now);
        batch
    }

    /// Notes that the batch of so many items which was taken is computed; how long that took.
    pub fn done(&mut self, items: usize, cost: usize) -> Duration {
        let elapsed = self.running();
        self.counts.add(items, cost, elapsed);
        let rate = cost as f64 / elapsed.as_secs_f64().max(1e-6);
        self.rate = if self.rate == 0.0 { rate } else { self.rate * 0.8 + rate * 0.2 };
        self.begun = None;
        elapsed
    }

    /// For how long the batch has been computed that was taken last; zero between two.
    pub fn running(&self) -> Duration {
        self.begun.map_or(Duration::ZERO, |begun| begun.elapsed())
    }

    /// Drops the calls that wait, whose callers are told by that.
    pub fn abandon(&mut self) {
        self.abandoned = true;
        self.calls.clear();
        self.cost = 0;
        self.begun = None;
    }

    /// What waits, and what has been computed.
    pub fn status(&self, lane: Lane) -> LaneStatus {
        LaneStatus {
            lane,
            items: self.calls.iter().map(|call| call.items.len()).sum(),
            cost: self.cost,
            batches: self.counts,
        }
    }

    fn forget_over(&mut self) {
        self.calls.retain(|call| !call.ticket.is_over());
        self.cost = self.calls.iter().map(Call::cost).sum();
    }
}

impl<I, O> Call<I, O> {
    fn cost(&self) -> usize {
        self.items.iter().map(|(_, _, cost)| cost).sum()
    }
}

impl<O> Ticket<O> {
    /// For a call of `items` items.
    pub fn new(items: usize, deadline: Option<Deadline>, reply: Reply<O>) -> Arc<Self> {
        let outputs = (0..items).map(|_| None).collect();
        let answer = Mutex::new(Answer { outputs, missing: items, reply: Some(reply) });
        Arc::new(Self { deadline, answer })
    }

    /// Keeps the output of item `index`; the last one answers the call.
    pub fn deliver(&self, index: usize, output: O) {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        answer.outputs[index] = Some(output);
        answer.missing -= 1;
        if answer.missing == 0
            && let Some(reply) = answer.reply.take()
        {
            let outputs = std::mem::take(&mut answer.outputs).into_iter().flatten().collect();
            // An error here means that the caller left meanwhile.
            let _ = reply.send(Ok(outputs));
        }
    }

    /// Answers the whole call with an error; what still comes for it is dropped.
    pub fn fail(&self, error: ModelError) {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reply) = answer.reply.take() {
            let _ = reply.send(Err(error));
        }
    }

    /// Whether nobody waits for more outputs, or no longer may.
    fn is_over(&self) -> bool {
        if self.deadline.is_some_and(|deadline| deadline.has_passed()) {
            return true;
        }
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        answer.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// Groups a batch by its callers, in the order in which they came.
pub fn by_caller<I, O>(batch: Vec<Taken<I, O>>) -> Vec<Vec<Taken<I, O>>> {
    let mut callers: Vec<Vec<Taken<I, O>>> = Vec::new();
    for taken in batch {
        match callers.iter_mut().find(|items| Arc::ptr_eq(&items[0].ticket, &taken.ticket)) {
            Some(items) => items.push(taken),
            None => callers.push(vec![taken]),
        }
    }
    callers
}
