//! Calls that wait, and what the next batch is made of.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Lane, ModelError};

/// The two lanes of a model.
pub struct Queue<I, O> {
    pub closed: bool,
    interactive: Waiting<I, O>,
    bulk: Waiting<I, O>,
    /// Cost computed in a second, smoothed; 0 until something was.
    rate: f64,
}

struct Waiting<I, O> {
    calls: VecDeque<Call<I, O>>,
    cost: usize,
    /// Since when the lane has had work and no turn.
    since: Instant,
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
        Self { closed: false, interactive: Waiting::new(), bulk: Waiting::new(), rate: 0.0 }
    }

    /// Puts a call into its lane, or says when there may be room for it.
    pub fn admit(
        &mut self,
        items: Vec<(I, usize)>,
        ticket: Arc<Ticket<O>>,
        lane: Lane,
        limit: usize,
    ) -> Result<(), Duration> {
        let cost: usize = items.iter().map(|(_, cost)| cost).sum();
        if self.lane(lane).is_full(cost, limit) {
            self.lane(lane).forget_abandoned();
        }
        if self.lane(lane).is_full(cost, limit) {
            let ahead = match lane {
                Lane::Interactive => self.interactive.cost,
                Lane::Bulk => self.interactive.cost + self.bulk.cost,
            };
            let seconds = if self.rate > 0.0 { ahead as f64 / self.rate } else { 1.0 };
            return Err(Duration::from_secs_f64(seconds.clamp(1.0, 60.0)));
        }
        let lane = self.lane(lane);
        if lane.calls.is_empty() {
            lane.since = Instant::now();
        }
        lane.cost += cost;
        let items = items.into_iter().enumerate().map(|(index, (item, cost))| (index, item, cost));
        lane.calls.push_back(Call { items: items.collect(), ticket });
        Ok(())
    }

    /// Whose turn it is; nobody's where nothing waits.
    pub fn turn(&self, ageing: Duration) -> Option<Lane> {
        match (self.interactive.calls.is_empty(), self.bulk.calls.is_empty()) {
            (true, true) => None,
            (true, false) => Some(Lane::Bulk),
            (false, true) => Some(Lane::Interactive),
            (false, false) if self.bulk.since.elapsed() > ageing => Some(Lane::Bulk),
            (false, false) => Some(Lane::Interactive),
        }
    }

    /// Takes items up to `budget`, at least one, from each call in turn. Calls whose caller left
    /// are passed over.
    pub fn take(&mut self, lane: Lane, budget: usize) -> Vec<Taken<I, O>> {
        let lane = self.lane(lane);
        lane.since = Instant::now();
        let (mut batch, mut cost) = (Vec::new(), 0);
        while let Some(mut call) = lane.calls.pop_front() {
            if call.ticket.is_abandoned() {
                lane.cost -= call.cost();
                continue;
            }
            match call.items.front() {
                None => continue,
                Some((_, _, next)) if !batch.is_empty() && cost + next > budget => {
                    lane.calls.push_front(call);
                    break;
                }
                Some(_) => {}
            }
            if let Some((index, item, next)) = call.items.pop_front() {
                cost += next;
                lane.cost -= next;
                batch.push(Taken { item, cost: next, index, ticket: Arc::clone(&call.ticket) });
            }
            if !call.items.is_empty() {
                lane.calls.push_back(call);
            }
        }
        batch
    }

    /// Notes that a batch took `elapsed`.
    pub fn done(&mut self, lane: Lane, cost: usize, elapsed: Duration) {
        let rate = cost as f64 / elapsed.as_secs_f64().max(1e-6);
        self.rate = if self.rate == 0.0 { rate } else { self.rate * 0.8 + rate * 0.2 };
        self.lane(lane).since = Instant::now();
    }

    /// Calls that wait in a lane.
    pub fn calls(&self, lane: Lane) -> usize {
        match lane {
            Lane::Interactive => self.interactive.calls.len(),
            Lane::Bulk => self.bulk.calls.len(),
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut Waiting<I, O> {
        match lane {
            Lane::Interactive => &mut self.interactive,
            Lane::Bulk => &mut self.bulk,
        }
    }
}

impl<I, O> Waiting<I, O> {
    fn new() -> Self {
        Self { calls: VecDeque::new(), cost: 0, since: Instant::now() }
    }

    /// An empty lane has room for a call of any size.
    fn is_full(&self, cost: usize, limit: usize) -> bool {
        !self.calls.is_empty() && self.cost + cost > limit
    }

    fn forget_abandoned(&mut self) {
        self.calls.retain(|call| !call.ticket.is_abandoned());
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
    pub fn new(items: usize, reply: Reply<O>) -> Arc<Self> {
        let outputs = (0..items).map(|_| None).collect();
        Arc::new(Self { answer: Mutex::new(Answer { outputs, missing: items, reply: Some(reply) }) })
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

    /// Whether nobody waits for more outputs.
    fn is_abandoned(&self) -> bool {
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
