//! Threads that go through the kernels of one model together.

use std::{
    any::Any,
    cell::UnsafeCell,
    hint::spin_loop,
    io,
    marker::PhantomData,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::{integer::IntegerIsa, vector::Isa};

/// A thread and its workers, for kernels that take some microseconds each.
///
/// A decoder that writes one token goes through 150 kernels in 4 ms: waking a sleeping thread for
/// each would take as long as the work. So a worker looks for the next kernel for some 50 µs
/// before it sleeps. Nobody waits for a worker that has not begun: parts of a kernel are taken
/// one by one, and a worker without a core leaves them to the others.
pub struct Crew {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    isa: Isa,
    integers: IntegerIsa,
}

impl Crew {
    /// The calling thread and `threads - 1` workers. Fails where the system gives no thread.
    pub fn new(threads: usize) -> io::Result<Self> {
        let sleepers = threads.saturating_sub(1);
        let shared = Arc::new(Shared::new(sleepers));
        // Dropped before all run, it ends those that do.
        let mut crew = Self { shared, workers: Vec::new(), isa: Isa::best(), integers: IntegerIsa::best() };
        for index in 0..sleepers {
            let shared = Arc::clone(&crew.shared);
            let worker = thread::Builder::new().name(format!("crew {index}"));
            crew.workers.push(worker.spawn(move || shared.work(index))?);
        }
        Ok(crew)
    }

    /// The same crew with other instructions.
    pub fn with_isa(mut self, isa: Isa, integers: IntegerIsa) -> Self {
        (self.isa, self.integers) = (isa, integers);
        self
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    pub(crate) fn integers(&self) -> IntegerIsa {
        self.integers
    }

    /// Splits `0..count` into parts and works on them; returns when all are done.
    ///
    /// A part has at least `least` units, except the last.
    pub(crate) fn share(&mut self, count: usize, least: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
        /// Parts for each thread, so that a slow thread does fewer.
        const PARTS: usize = 3;
        let size = count.div_ceil(self.threads() * PARTS).max(least).max(1);
        let parts = count.div_ceil(size);
        if self.workers.is_empty() || parts <= 1 {
            return work(0..count);
        }
        let part = |index: usize| work(index * size..count.min((index + 1) * size));
        self.shared.publish(&part, parts, &self.workers);
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // What a worker panicked with was passed on when it happened.
            let _ = worker.join();
        }
    }
}

/// A part of the work by its index, on the stack of the thread that waits for it.
type Part<'a> = &'a (dyn Fn(usize) + Sync + 'a);

struct Shared {
    /// Generation, parts and parts taken: see [`Turn`].
    turn: AtomicU64,
    part: UnsafeCell<Option<Part<'static>>>,
    done: AtomicUsize,
    asleep: Vec<AtomicBool>,
    ended: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `part` is written only by the owner of the crew while no part is taken, and read only
// after a part of the generation it belongs to was taken.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// What can be taken now, in one word: 40 bits of generation, 12 of parts, 12 of parts taken.
#[derive(Clone, Copy)]
struct Turn(u64);

impl Turn {
    const MOST: usize = (1 << 12) - 1;

    fn next_generation(self, parts: usize) -> Self {
        Self((((self.0 >> 24) + 1) << 24) | (parts as u64) << 12)
    }

    fn parts(self) -> usize {
        (self.0 >> 12) as usize & Self::MOST
    }

    fn taken(self) -> usize {
        self.0 as usize & Self::MOST
    }
}

impl Shared {
    fn new(workers: usize) -> Self {
        Self {
            turn: AtomicU64::new(0),
            part: UnsafeCell::new(None),
            done: AtomicUsize::new(0),
            asleep: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            ended: AtomicBool::new(false),
            panic: Mutex::new(None),
        }
    }

    /// Runs `part` for each of `0..parts` on whichever threads come. Called by the owner alone.
    fn publish(&self, part: Part<'_>, parts: usize, workers: &[JoinHandle<()>]) {
        assert!(parts <= Turn::MOST, "{parts} parts");
        // SAFETY: the lifetime is prolonged only inside this function, which does not return
        // before all parts are done; nobody looks at `part` without having taken one. No part is
        // taken now, so that nobody reads while it is written.
        unsafe { *self.part.get() = Some(std::mem::transmute::<Part<'_>, Part<'static>>(part)) };
        self.done.store(0, Ordering::Relaxed);
        let turn = Turn(self.turn.load(Ordering::Relaxed)).next_generation(parts);
        self.turn.store(turn.0, Ordering::SeqCst);
        for (worker, asleep) in workers.iter().zip(&self.asleep) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        while self.take() {}
        let mut patience = Patience::default();
        while self.done.load(Ordering::Acquire) < parts {
            patience.wait();
        }
        if let Some(panic) = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            resume_unwind(panic);
        }
    }

    /// Takes a part and does it; `false` when there is none.
    fn take(&self) -> bool {
        let mut turn = Turn(self.turn.load(Ordering::Acquire));
        while turn.taken() < turn.parts() {
            let next = turn.0 + 1;
            match self.turn.compare_exchange_weak(turn.0, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.run(turn.taken());
                    return true;
                }
                Err(now) => turn = Turn(now),
            }
        }
        false
    }

    fn run(&self, index: usize) {
        // SAFETY: a part of this generation was taken and is not done: `publish` waits for it.
        let part = unsafe { *self.part.get() };
        if let Some(part) = part
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| part(index)))
        {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        self.done.fetch_add(1, Ordering::Release);
    }

    fn work(&self, index: usize) {
        let mut patience = Patience::default();
        while !self.ended.load(Ordering::SeqCst) {
            if self.take() {
                patience = Patience::default();
            } else if !patience.is_exhausted() {
                patience.wait();
            } else {
                self.sleep(index);
                patience = Patience::default();
            }
        }
    }

    /// Sleeps until the next generation.
    fn sleep(&self, index: usize) {
        self.asleep[index].store(true, Ordering::SeqCst);
        let turn = Turn(self.turn.load(Ordering::SeqCst));
        // What is published from here on finds `asleep`, and its unpark is not lost.
        if turn.taken() >= turn.parts() && !self.ended.load(Ordering::SeqCst) {
            thread::park();
        }
        self.asleep[index].store(false, Ordering::SeqCst);
    }
}

/// How long a thread has waited: at first it only looks again, then it lets others run.
#[derive(Default)]
struct Patience(u32);

impl Patience {
    fn wait(&mut self) {
        self.0 = self.0.saturating_add(1);
        if self.0.is_multiple_of(64) && self.0 > 512 { thread::yield_now() } else { spin_loop() }
    }

    fn is_exhausted(&self) -> bool {
        self.0 > 2048
    }
}

/// A matrix of which each part of the work writes other rows or columns.
pub(crate) struct Split<'a, T> {
    start: *mut T,
    length: usize,
    borrow: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Split<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Split<'_, T> {}

// SAFETY: whoever takes a slice vouches for its being its own.
unsafe impl<T: Send> Send for Split<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Split<'_, T> {}

impl<'a, T> Split<'a, T> {
    pub fn new(numbers: &'a mut [T]) -> Self {
        Self { start: numbers.as_mut_ptr(), length: numbers.len(), borrow: PhantomData }
    }

    /// # Safety
    /// No other slice with one of these numbers is in use.
    pub unsafe fn slice(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "{range:?} of {}", self.length);
        // SAFETY: inside the borrowed numbers, and the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
