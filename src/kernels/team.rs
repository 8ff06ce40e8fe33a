//! Threads that share the work of one kernel.

use std::{marker::PhantomData, ops::Range};

use crate::vector::Isa;

/// How a kernel runs: with which instructions and on how many threads of rayon's pool.
#[derive(Debug, Clone, Copy)]
pub struct Team {
    pub isa: Isa,
    pub threads: usize,
}

impl Team {
    /// The calling thread alone.
    pub fn alone(isa: Isa) -> Self {
        Self { isa, threads: 1 }
    }

    /// Splits `0..count` evenly among `parts`, one thread each; the calling thread does the first.
    pub(crate) fn split<P: Send>(
        parts: &mut [P],
        count: usize,
        work: &(impl Fn(&mut P, Range<usize>) + Sync),
    ) {
        fn halve<P: Send>(
            parts: &mut [P],
            range: Range<usize>,
            work: &(impl Fn(&mut P, Range<usize>) + Sync),
        ) {
            match parts {
                [] => {}
                [part] => work(part, range),
                parts => {
                    let left = parts.len() / 2;
                    let middle = range.start + range.len() * left / parts.len();
                    let (front, back) = parts.split_at_mut(left);
                    rayon::join(
                        || halve(front, range.start..middle, work),
                        || halve(back, middle..range.end, work),
                    );
                }
            }
        }
        halve(parts, 0..count, work);
    }
}

/// A matrix `[rows, stride]` of which each thread of a team writes other columns.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub start: *mut f32,
    pub rows: usize,
    pub stride: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: `Team::split` gives every thread a range of its own, and the kernels write only the
// columns of their range.
unsafe impl Send for Columns<'_> {}
// SAFETY: as above.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    /// Of a row-major matrix with rows of `stride`.
    pub fn new(matrix: &'a mut [f32], stride: usize) -> Self {
        assert!(
            stride > 0 && matrix.len().is_multiple_of(stride),
            "rows of {stride}, {} numbers",
            matrix.len()
        );
        Self { start: matrix.as_mut_ptr(), rows: matrix.len() / stride, stride, borrow: PhantomData }
    }
}
