use std::{
    sync::{Mutex, mpsc},
    time::Duration,
};

use futures_util::FutureExt;

use super::*;

/// Answers each number with its double. Records batches; every batch waits for a step from the test.
struct Doubling {
    batches: Mutex<mpsc::Sender<Vec<u32>>>,
    steps: Mutex<mpsc::Receiver<Step>>,
}

enum Step {
    Finish,
    Pause,
}

const REFUSED: u32 = 666;
const PANICKED: u32 = 777;

impl BatchModel for Doubling {
    type Item = u32;
    type Output = u32;

    fn run(&self, items: &[&u32], pause: Pause<'_>) -> Result<Vec<u32>, ModelError> {
        let items: Vec<u32> = items.iter().map(|&&item| item).collect();
        self.batches.lock().unwrap().send(items.clone()).unwrap();
        while matches!(self.steps.lock().unwrap().recv(), Ok(Step::Pause)) {
            pause();
        }
        if items.contains(&REFUSED) {
            return Err(ModelError::Failed { model: "doubling".into(), reason: "it refuses 666".into() });
        }
        assert!(!items.contains(&PANICKED), "777 is too much");
        Ok(items.iter().map(|item| item * 2).collect())
    }
}

struct Bench {
    scheduler: Scheduler<Doubling>,
    batches: mpsc::Receiver<Vec<u32>>,
    steps: mpsc::Sender<Step>,
}

impl Bench {
    fn new() -> Self {
        Self::ageing(Duration::MAX)
    }

    fn ageing(ageing: Duration) -> Self {
        let limits = Limits { interactive_batch: 4, bulk_batch: 4, queue: 20, ageing };
        let (begun, batches) = mpsc::channel();
        let (steps, gates) = mpsc::channel();
        let model = Doubling { batches: Mutex::new(begun), steps: Mutex::new(gates) };
        Self { scheduler: Scheduler::start("doubling", limits, model).unwrap(), batches, steps }
    }

    /// Submits now: the future's first poll puts the items into the queue.
    fn submit(
        &self,
        items: &[u32],
        lane: Lane,
    ) -> impl Future<Output = Result<Vec<u32>, ModelError>> + Unpin + '_ {
        let mut call = Box::pin(self.scheduler.submit(items.iter().map(|&item| (item, 1)).collect(), lane));
        match call.as_mut().now_or_never() {
            Some(done) => futures_util::future::ready(done).left_future(),
            None => call.right_future(),
        }
    }

    /// The next batch that begins.
    fn begun(&self) -> Vec<u32> {
        self.batches.recv_timeout(Duration::from_secs(20)).expect("a batch begins")
    }

    fn step(&self, step: Step) {
        self.steps.send(step).unwrap();
    }

    /// Lets every batch from now on run to its end.
    fn open(&self) {
        for _ in 0..100 {
            self.step(Step::Finish);
        }
    }
}

#[tokio::test]
async fn what_waits_is_joined_into_batches_and_callers_take_turns() {
    let bench = Bench::new();
    let first = bench.submit(&[1], Lane::Interactive);
    assert_eq!(bench.begun(), [1]);
    let second = bench.submit(&[10, 11, 12, 13, 14], Lane::Interactive);
    let third = bench.submit(&[20, 21], Lane::Interactive);
    bench.step(Step::Finish);
    assert_eq!(bench.begun(), [10, 20, 11, 21]);
    bench.step(Step::Finish);
    assert_eq!(bench.begun(), [12, 13, 14]);
    bench.step(Step::Finish);
    assert_eq!(first.await.unwrap(), [2]);
    assert_eq!(second.await.unwrap(), [20, 22, 24, 26, 28]);
    assert_eq!(third.await.unwrap(), [40, 42]);
    bench.open();
}

#[tokio::test]
async fn an_item_over_the_budget_runs_alone() {
    let bench = Bench::new();
    for _ in 0..3 {
        bench.step(Step::Finish);
    }
    let answer = bench.scheduler.submit(vec![(1, 1), (2, 9), (3, 1)], Lane::Bulk).await.unwrap();
    assert_eq!(answer, [2, 4, 6]);
    assert_eq!([bench.begun(), bench.begun(), bench.begun()], [[1], [2], [3]]);
    assert!(bench.scheduler.submit(Vec::new(), Lane::Bulk).await.unwrap().is_empty());
}

#[tokio::test]
async fn interactive_goes_before_bulk() {
    let bench = Bench::new();
    let running = bench.submit(&[1], Lane::Interactive);
    assert_eq!(bench.begun(), [1]);
    let bulk = bench.submit(&[50, 51], Lane::Bulk);
    let urgent = bench.submit(&[2], Lane::Interactive);
    bench.step(Step::Finish);
    assert_eq!(bench.begun(), [2]);
    bench.step(Step::Finish);
    assert_eq!(bench.begun(), [50, 51]);
    bench.open();
    running.await.unwrap();
    urgent.await.unwrap();
    assert_eq!(bulk.await.unwrap(), [100, 102]);
}

#[tokio::test]
async fn interactive_passes_a_bulk_batch_where_the_model_pauses() {
    let bench = Bench::new();
    let bulk = bench.submit(&[50, 51], Lane::Bulk);
    assert_eq!(bench.begun(), [50, 51]);
    let urgent = bench.submit(&[2], Lane::Interactive);
    // The first step belongs to the bulk batch, the second to the one that passes it.
    bench.step(Step::Pause);
    assert_eq!(bench.begun(), [2]);
    bench.step(Step::Finish);
    assert_eq!(urgent.await.unwrap(), [4]);
    assert!(bench.batches.try_recv().is_err(), "the bulk batch has not ended yet");
    bench.open();
    assert_eq!(bulk.await.unwrap(), [100, 102]);
}

#[tokio::test]
async fn bulk_that_waited_long_gets_its_turn() {
    let bench = Bench::ageing(Duration::ZERO);
    let running = bench.submit(&[1], Lane::Interactive);
    assert_eq!(bench.begun(), [1]);
    let bulk = bench.submit(&[50, 51], Lane::Bulk);
    let urgent = bench.submit(&[2, 3], Lane::Interactive);
    bench.step(Step::Finish);
    assert_eq!(bench.begun(), [50, 51]);
    bench.step(Step::Finish);
    assert_eq!(bench.begun(), [2, 3]);
    bench.open();
    running.await.unwrap();
    assert_eq!(bulk.await.unwrap().len() + urgent.await.unwrap().len(), 4);
}

#[tokio::test]
async fn items_of_a_caller_that_left_are_passed_over() {
    let bench = Bench::new();
    let running = bench.submit(&[1], Lane::Interactive);
    assert_eq!(bench.begun(), [1]);
    let gone = bench.submit(&[10, 11], Lane::Interactive);
    let stays = bench.submit(&[20, 21], Lane::Interactive);
    drop(gone);
    bench.step(Step::Finish);
    assert_eq!(bench.begun(), [20, 21]);
    bench.open();
    running.await.unwrap();
    assert_eq!(stays.await.unwrap(), [40, 42]);
}

#[tokio::test]
async fn a_full_lane_refuses_at_once_and_the_other_does_not() {
    let bench = Bench::new();
    let running = bench.submit(&[1], Lane::Bulk);
    assert_eq!(bench.begun(), [1]);
    let large = bench.submit(&[2; 30], Lane::Bulk); // more than the limit, but the lane is empty
    let error = bench.submit(&[3], Lane::Bulk).await.unwrap_err();
    assert!(
        matches!(error, ModelError::Overloaded { retry_after, .. } if retry_after >= Duration::from_secs(1)),
        "{error}"
    );
    let other = bench.submit(&[4], Lane::Interactive);
    // Room is made by callers that leave.
    drop(large);
    let fits = bench.submit(&[5], Lane::Bulk);
    bench.open();
    assert_eq!(other.await.unwrap(), [8]);
    assert_eq!(fits.await.unwrap(), [10]);
    running.await.unwrap();
}

#[tokio::test]
async fn an_error_or_a_panic_reaches_only_the_caller_whose_item_it_was() {
    for (bad, reason) in [(REFUSED, "it refuses 666"), (PANICKED, "it panicked: 777 is too much")] {
        let bench = Bench::new();
        let running = bench.submit(&[1], Lane::Interactive);
        assert_eq!(bench.begun(), [1]);
        let culprit = bench.submit(&[2, bad], Lane::Interactive);
        let neighbour = bench.submit(&[3, 4], Lane::Interactive);
        bench.open();
        running.await.unwrap();
        let error = culprit.await.unwrap_err();
        assert!(error.to_string().ends_with(reason), "{error}");
        assert_eq!(neighbour.await.unwrap(), [6, 8]);
        // The thread is still there.
        assert_eq!(bench.submit(&[5], Lane::Bulk).await.unwrap(), [10]);
    }
}

#[tokio::test]
async fn the_thread_ends_with_the_scheduler() {
    let Bench { scheduler, batches, .. } = Bench::new();
    drop(scheduler);
    // The model, and with it the sender, goes when the thread has ended.
    assert!(matches!(
        batches.recv_timeout(Duration::from_secs(20)),
        Err(mpsc::RecvTimeoutError::Disconnected)
    ));
}
