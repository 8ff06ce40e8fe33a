use std::{
    sync::{Mutex, mpsc},
    time::Duration,
};

use futures_util::FutureExt;

use super::*;

/// Answers each number with its double. Records batches; every batch waits for a step of its lane
/// from the test.
struct Doubling {
    batches: Mutex<mpsc::Sender<Vec<u32>>>,
    interactive: Mutex<mpsc::Receiver<()>>,
    bulk: Mutex<mpsc::Receiver<()>>,
}

const REFUSED: u32 = 666;
const PANICKED: u32 = 777;

impl BatchModel for Doubling {
    type Item = u32;
    type Output = u32;

    fn run(&self, items: &[&u32]) -> Result<Vec<u32>, ModelError> {
        let items: Vec<u32> = items.iter().map(|&&item| item).collect();
        self.batches.lock().unwrap().send(items.clone()).unwrap();
        // Of the two lanes only the bulk one computes on threads of a pool.
        let steps = if rayon::current_thread_index().is_some() { &self.bulk } else { &self.interactive };
        let _ = steps.lock().unwrap().recv();
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
    interactive: mpsc::Sender<()>,
    bulk: mpsc::Sender<()>,
}

impl Bench {
    fn new() -> Self {
        let limits = Limits {
            interactive_batch: 4,
            bulk_batch: 4,
            queue: 20,
            ageing: Duration::ZERO,
            stuck: Duration::from_millis(50),
        };
        let (begun, batches) = mpsc::channel();
        let ((interactive, interactive_steps), (bulk, bulk_steps)) = (mpsc::channel(), mpsc::channel());
        let model = Doubling {
            batches: Mutex::new(begun),
            interactive: Mutex::new(interactive_steps),
            bulk: Mutex::new(bulk_steps),
        };
        let scheduler = Scheduler::start("doubling", limits, model).unwrap();
        Self { scheduler, batches, interactive, bulk }
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

    /// Submits when it is polled, under the deadline of then.
    async fn submit_later(&self, items: &[u32]) -> Result<Vec<u32>, ModelError> {
        self.scheduler.submit(items.iter().map(|&item| (item, 1)).collect(), Lane::Interactive).await
    }

    /// The next batch that begins.
    fn begun(&self) -> Vec<u32> {
        self.batches.recv_timeout(Duration::from_secs(20)).expect("a batch begins")
    }

    /// Lets a batch of a lane end.
    fn step(&self, lane: Lane) {
        let steps = match lane {
            Lane::Interactive => &self.interactive,
            Lane::Bulk => &self.bulk,
        };
        steps.send(()).unwrap();
    }

    /// Lets every batch from now on run to its end.
    fn open(&self) {
        for _ in 0..100 {
            self.step(Lane::Interactive);
            self.step(Lane::Bulk);
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
    bench.step(Lane::Interactive);
    assert_eq!(bench.begun(), [10, 20, 11, 21]);
    bench.step(Lane::Interactive);
    assert_eq!(bench.begun(), [12, 13, 14]);
    bench.step(Lane::Interactive);
    assert_eq!(first.await.unwrap(), [2]);
    assert_eq!(second.await.unwrap(), [20, 22, 24, 26, 28]);
    assert_eq!(third.await.unwrap(), [40, 42]);
    bench.open();
}

#[tokio::test]
async fn an_item_over_the_budget_runs_alone() {
    let bench = Bench::new();
    for _ in 0..3 {
        bench.step(Lane::Bulk);
    }
    let answer = bench.scheduler.submit(vec![(1, 1), (2, 9), (3, 1)], Lane::Bulk).await.unwrap();
    assert_eq!(answer, [2, 4, 6]);
    assert_eq!([bench.begun(), bench.begun(), bench.begun()], [[1], [2], [3]]);
    assert!(bench.scheduler.submit(Vec::new(), Lane::Bulk).await.unwrap().is_empty());
}

#[tokio::test]
async fn interactive_passes_a_running_bulk_batch() {
    let bench = Bench::new();
    let bulk = bench.submit(&[50, 51], Lane::Bulk);
    assert_eq!(bench.begun(), [50, 51]);
    for number in [2, 3] {
        let urgent = bench.submit(&[number], Lane::Interactive);
        assert_eq!(bench.begun(), [number]);
        bench.step(Lane::Interactive);
        assert_eq!(urgent.await.unwrap(), [2 * number]);
    }
    bench.step(Lane::Bulk);
    assert_eq!(bulk.await.unwrap(), [100, 102]);
}

#[test]
fn interactive_work_rests_beside_an_old_bulk_batch() {
    let [long, short] = [Duration::from_millis(90), Duration::from_millis(10)];
    assert_eq!(rest(long, short, long), short);
    assert_eq!(rest(short, long, long), Duration::ZERO);
}

/// Field 19 of `stat` is the niceness; the name before it may hold spaces.
#[cfg(target_os = "linux")]
#[test]
fn bulk_threads_let_others_go_first() {
    let niceness = || {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields = stat.rsplit_once(')').unwrap().1;
        fields.split_whitespace().nth(16).unwrap().parse::<i32>().unwrap()
    };
    assert_eq!(background::POOL.as_ref().unwrap().install(niceness), 19);
    assert!(niceness() < 19, "run the tests with a higher priority than the lowest");
}

#[tokio::test]
async fn nothing_is_begun_after_its_deadline() {
    let bench = Bench::new();
    let running = bench.submit(&[1], Lane::Interactive);
    assert_eq!(bench.begun(), [1]);
    let soon = Deadline::after(Duration::from_millis(20));
    let late = soon.hold(bench.submit_later(&[2])).await;
    let error = late.expect("the scheduler itself answers").unwrap_err();
    assert_eq!(error.to_string(), "model `doubling` did not answer within 20 ms");
    let refused = soon.hold(bench.submit_later(&[3])).await.unwrap();
    assert!(matches!(refused, Err(ModelError::TimedOut { .. })));
    let next = bench.submit(&[4], Lane::Interactive);
    bench.step(Lane::Interactive);
    assert_eq!(bench.begun(), [4]);
    bench.open();
    assert_eq!((running.await.unwrap(), next.await.unwrap()), (vec![2], vec![8]));
}

/// The thread may come to a call after its deadline and before its caller has noticed.
#[test]
fn a_call_past_its_deadline_is_passed_over_though_its_caller_is_there() {
    let mut queue = Queue::<u32, u32>::new();
    let mut admit = |item, deadline| {
        let (reply, answer) = oneshot::channel();
        queue.admit(vec![(item, 1)], Ticket::new(1, deadline, reply), 10).unwrap();
        answer
    };
    let _answers = [
        admit(1, Some(Deadline::after(Duration::ZERO))),
        admit(2, Some(Deadline::after(Duration::from_secs(600)))),
        admit(3, None),
    ];
    let taken: Vec<u32> = queue.take(10).iter().map(|taken| taken.item).collect();
    assert_eq!(taken, [2, 3]);
}

#[tokio::test]
async fn items_of_a_caller_that_left_are_passed_over() {
    let bench = Bench::new();
    let running = bench.submit(&[1], Lane::Interactive);
    assert_eq!(bench.begun(), [1]);
    let gone = bench.submit(&[10, 11], Lane::Interactive);
    let stays = bench.submit(&[20, 21], Lane::Interactive);
    drop(gone);
    bench.step(Lane::Interactive);
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

#[tokio::test]
async fn a_thread_that_is_stuck_is_noticed_until_it_goes_on() {
    let bench = Bench::new();
    bench.scheduler.check_alive().unwrap();
    let call = bench.submit(&[1], Lane::Interactive);
    bench.batches.recv().unwrap();
    thread::sleep(Duration::from_millis(60));
    let told = bench.scheduler.check_alive().unwrap_err().to_string();
    assert!(told.contains("`doubling` failed: its thread has been busy with one batch"), "{told}");
    bench.interactive.send(()).unwrap();
    assert_eq!(call.await.unwrap(), [2]);
    // The thread notes the end of its batch after it has told the callers.
    while bench.scheduler.check_alive().is_err() {
        tokio::task::yield_now().await;
    }
}

/// Makes outputs that nobody may drop.
struct Mined {
    begun: Mutex<mpsc::Sender<()>>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

struct Mine;

impl Drop for Mine {
    fn drop(&mut self) {
        panic!("it goes off");
    }
}

impl BatchModel for Mined {
    type Item = ();
    type Output = Mine;

    fn run(&self, items: &[&()]) -> Result<Vec<Mine>, ModelError> {
        self.begun.lock().unwrap().send(()).unwrap();
        self.go_on.lock().unwrap().recv().unwrap();
        Ok(items.iter().map(|()| Mine).collect())
    }
}

#[tokio::test]
async fn a_thread_that_has_ended_is_noticed_and_nobody_waits_for_it() {
    let ((begun, has_begun), (go_on, goes_on)) = (mpsc::channel(), mpsc::channel());
    let limits = Limits {
        interactive_batch: 1,
        bulk_batch: 1,
        queue: 10,
        ageing: Duration::ZERO,
        stuck: Duration::from_secs(600),
    };
    let model = Mined { begun: Mutex::new(begun), go_on: Mutex::new(goes_on) };
    let scheduler = Scheduler::start("mined", limits, model).unwrap();
    let mut left = Box::pin(scheduler.submit(vec![((), 1)], Lane::Interactive));
    assert!(left.as_mut().now_or_never().is_none());
    has_begun.recv().unwrap();
    let mut waits = Box::pin(scheduler.submit(vec![((), 1)], Lane::Interactive));
    assert!(waits.as_mut().now_or_never().is_none());
    // Its output is dropped where it was made, which ends the thread.
    drop(left);
    go_on.send(()).unwrap();
    let told = waits.await.err().unwrap().to_string();
    assert!(told.contains("its thread has stopped"), "{told}");
    let told = scheduler.check_alive().unwrap_err().to_string();
    assert!(told.contains("its thread has ended"), "{told}");
    let told = scheduler.submit(vec![((), 1)], Lane::Interactive).await.err().unwrap().to_string();
    assert!(told.contains("its thread has stopped"), "{told}");
}
