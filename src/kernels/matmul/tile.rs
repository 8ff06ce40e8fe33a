//! The innermost product: a few rows against a panel of weights, its sums in registers.

use crate::vector::Vector;

/// Where the vectors of a tile go.
pub(crate) trait Sink {
    /// # Safety
    /// The tile of this sink has `row` and the vector at `column`.
    unsafe fn take<V: Vector>(&self, row: usize, column: usize, sum: V);
}

/// Two matrices of 32-bit words, `a` by rows and `b` by rows of a panel, of a common depth.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    pub a: *const f32,
    pub a_stride: usize,
    pub b: *const f32,
    pub b_stride: usize,
    pub depth: usize,
}

/// What a word of both operands adds to a sum.
pub(crate) trait Step {
    /// Rows of a tile where registers are 16 of 8 numbers: the sums of two vectors a row, beside
    /// what a step takes.
    const NARROW_ROWS: usize = 6;

    fn step<V: Vector>(sum: V, x: V, weights: V) -> V;
}

/// A word is a number.
pub(crate) struct Floats;

impl Step for Floats {
    #[inline(always)]
    fn step<V: Vector>(sum: V, x: V, weights: V) -> V {
        x.mul_add(weights, sum)
    }
}

/// Rows of a tile at most: as many sums as registers hold beside the operands.
#[inline(always)]
pub(crate) fn tile_rows<V: Vector, A: Step>() -> usize {
    if V::LANES == 16 { 12 } else { A::NARROW_ROWS }
}

/// Columns that are packed together.
pub(crate) const PANEL: usize = 32;

/// `a[rows, depth] × b[depth, 32]` into `sink`.
///
/// # Safety
/// Both operands and the sink have that many rows and columns; `rows` ≤ [`tile_rows`].
#[inline(always)]
pub(crate) unsafe fn tile<V: Vector, A: Step, S: Sink>(rows: usize, operands: &Operands, sink: &S) {
    macro_rules! match_rows {
        ($($rows:literal)*) => {
            match rows {
                // SAFETY: the caller's.
                $($rows => unsafe { block::<V, A, S, $rows>(operands, sink) },)*
                _ => unreachable!("a tile of {rows} rows"),
            }
        };
    }
    if V::LANES == 16 { match_rows!(1 2 3 4 5 6 7 8 9 10 11 12) } else { match_rows!(1 2 3 4 5 6) }
}

#[inline(always)]
unsafe fn block<V: Vector, A: Step, S: Sink, const ROWS: usize>(operands: &Operands, sink: &S) {
    let mut column = 0;
    while column < PANEL {
        // SAFETY: the caller's.
        unsafe {
            let sums = sums::<V, A, ROWS>(operands, column);
            for (row, sums) in sums.into_iter().enumerate() {
                sink.take(row, column, sums[0]);
                sink.take(row, column + V::LANES, sums[1]);
            }
        }
        column += 2 * V::LANES;
    }
}

/// The sums of `ROWS` rows and two vectors of columns, all in registers.
#[inline(always)]
unsafe fn sums<V: Vector, A: Step, const ROWS: usize>(operands: &Operands, column: usize) -> [[V; 2]; ROWS] {
    let Operands { a, a_stride, b, b_stride, depth } = *operands;
    let mut sums = [[V::splat(0.0); 2]; ROWS];
    for index in 0..depth {
        // SAFETY: the caller's.
        unsafe {
            let b = b.add(index * b_stride + column);
            let (left, right) = (V::load(b), V::load(b.add(V::LANES)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(*a.add(row * a_stride + index));
                sums[0] = A::step(sums[0], x, left);
                sums[1] = A::step(sums[1], x, right);
            }
        }
    }
    sums
}
