//! Matrix products with weights that were packed once.

use std::{marker::PhantomData, ops::Range};

use crate::{
    activation::gelu_vector,
    buffer::Buffer,
    team::{Columns, Team},
    vector::{Kernel, Vector},
};

/// Columns that are packed together.
pub(crate) const PANEL: usize = 32;

/// Weights `[outputs, inputs]` and a bias, packed: panels of 32 outputs, in
/// each the 32 weights of an input side by side.
pub struct PackedMatrix {
    inputs: usize,
    outputs: usize,
    panels: Buffer,
    bias: Buffer,
}

/// What becomes of a product before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// `out = x·Wᵀ + b`
    Store,
    /// `out = gelu(x·Wᵀ + b)`
    Gelu,
    /// `out = out + x·Wᵀ + b`
    Add,
}

impl PackedMatrix {
    /// `weights` is `[outputs, inputs]` row-major, as PyTorch's `Linear` has it; `bias` is `[outputs]`.
    pub fn new(weights: &[f32], bias: &[f32], inputs: usize) -> Self {
        let outputs = bias.len();
        assert_eq!(weights.len(), inputs * outputs, "weights of [{outputs}, {inputs}]");
        let padded = outputs.next_multiple_of(PANEL);
        let (mut panels, mut padded_bias) = (Buffer::zeros(padded * inputs), Buffer::zeros(padded));
        padded_bias.as_mut_slice()[..outputs].copy_from_slice(bias);
        let packed = panels.as_mut_slice();
        for (output, row) in weights.chunks_exact(inputs.max(1)).enumerate() {
            let start = output / PANEL * PANEL * inputs + output % PANEL;
            for (input, &weight) in row.iter().enumerate() {
                packed[start + input * PANEL] = weight;
            }
        }
        Self { inputs, outputs, panels, bias: padded_bias }
    }

    pub fn inputs(&self) -> usize {
        self.inputs
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// How many panels the outputs fill.
    fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// `x` `[rows, inputs]` times the weights, into `out` `[rows, outputs]`.
    pub fn multiply(&self, team: Team, x: &[f32], epilogue: Epilogue, out: &mut [f32]) {
        let out = Columns::new(out, self.outputs);
        assert_eq!(x.len(), out.rows * self.inputs, "{} rows of {}", out.rows, self.inputs);
        let mut parts = [(); MOST_THREADS];
        let threads = team.threads.clamp(1, MOST_THREADS.min(self.panels()));
        Team::split(&mut parts[..threads], self.panels(), &|(), panels| {
            let task = Product { matrix: self, x, out, panels };
            match epilogue {
                Epilogue::Store => team.isa.dispatch(Finished::<Store>(task, PhantomData)),
                Epilogue::Gelu => team.isa.dispatch(Finished::<Gelu>(task, PhantomData)),
                Epilogue::Add => team.isa.dispatch(Finished::<Add>(task, PhantomData)),
            }
        });
    }
}

/// More threads than this do not share one product.
const MOST_THREADS: usize = 64;

struct Product<'a> {
    matrix: &'a PackedMatrix,
    x: &'a [f32],
    out: Columns<'a>,
    panels: Range<usize>,
}

/// A product and what is done at its end.
struct Finished<'a, F>(Product<'a>, PhantomData<F>);

impl<F: Finish> Kernel for Finished<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Product { matrix, x, out, panels } = self.0;
        let inputs = matrix.inputs;
        let weights = matrix.panels.as_slice();
        let mut row = Buffer::zeros(PANEL);
        for panel in panels {
            let column = panel * PANEL;
            let weights = &weights[column * inputs..(column + PANEL) * inputs];
            let bias = &matrix.bias.as_slice()[column..column + PANEL];
            let width = PANEL.min(matrix.outputs - column);
            let mut first = 0;
            while first < out.rows {
                let rows = (out.rows - first).min(tile_rows::<V>());
                let operands = Operands {
                    a: x[first * inputs..].as_ptr(),
                    a_stride: inputs,
                    b: weights.as_ptr(),
                    b_stride: PANEL,
                    depth: inputs,
                };
                if width == PANEL {
                    let finish = FinishAt::<F> {
                        bias: bias.as_ptr(),
                        // SAFETY: row and column are inside `out`.
                        out: unsafe { out.start.add(first * out.stride + column) },
                        stride: out.stride,
                        finish: PhantomData,
                    };
                    // SAFETY: the rows and the panel lie inside the checked slices, the tile
                    // inside `out`, whose columns are this thread's.
                    unsafe { tile::<V, _>(rows, &operands, &finish) };
                } else {
                    // SAFETY: as above; the part of a row that exists goes by way of a whole one.
                    unsafe { narrow::<V, F>(rows, &operands, bias, &out, (first, column, width), &mut row) };
                }
                first += rows;
            }
        }
    }
}

/// The last panel of outputs that are no multiple of 32: row by row through a buffer.
#[inline(always)]
unsafe fn narrow<V: Vector, F: Finish>(
    rows: usize,
    operands: &Operands,
    bias: &[f32],
    out: &Columns<'_>,
    (first, column, width): (usize, usize, usize),
    whole: &mut Buffer,
) {
    for row in 0..rows {
        unsafe {
            let target = out.start.add((first + row) * out.stride + column);
            let buffer = whole.as_mut_slice().as_mut_ptr();
            std::ptr::copy_nonoverlapping(target, buffer, width);
            let finish =
                FinishAt::<F> { bias: bias.as_ptr(), out: buffer, stride: PANEL, finish: PhantomData };
            let mut one = *operands;
            one.a = one.a.add(row * one.a_stride);
            tile::<V, _>(1, &one, &finish);
            std::ptr::copy_nonoverlapping(buffer, target, width);
        }
    }
}

/// How a product of a tile ends: `value` is a vector of it, `bias` and `old` what lies there.
trait Finish {
    fn finish<V: Vector>(value: V, old: impl FnOnce() -> V) -> V;
}

struct Store;
struct Gelu;
struct Add;

impl Finish for Store {
    #[inline(always)]
    fn finish<V: Vector>(value: V, _old: impl FnOnce() -> V) -> V {
        value
    }
}
impl Finish for Gelu {
    #[inline(always)]
    fn finish<V: Vector>(value: V, _old: impl FnOnce() -> V) -> V {
        gelu_vector(value)
    }
}
impl Finish for Add {
    #[inline(always)]
    fn finish<V: Vector>(value: V, old: impl FnOnce() -> V) -> V {
        value.add(old())
    }
}

struct FinishAt<F> {
    bias: *const f32,
    out: *mut f32,
    stride: usize,
    finish: PhantomData<F>,
}

impl<F: Finish> Sink for FinishAt<F> {
    #[inline(always)]
    unsafe fn take<V: Vector>(&self, row: usize, column: usize, sum: V) {
        unsafe {
            let to = self.out.add(row * self.stride + column);
            let value = sum.add(V::load(self.bias.add(column)));
            F::finish(value, || V::load(to)).store(to);
        }
    }
}

/// Where the vectors of a tile go.
pub(crate) trait Sink {
    /// # Safety
    /// The tile of this sink has `row` and the vector at `column`.
    unsafe fn take<V: Vector>(&self, row: usize, column: usize, sum: V);
}

/// Two matrices, `a` by rows and `b` by rows of a panel, of a common depth.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    pub a: *const f32,
    pub a_stride: usize,
    pub b: *const f32,
    pub b_stride: usize,
    pub depth: usize,
}

/// Rows of a tile at most: as many sums as registers hold beside the operands.
#[inline(always)]
pub(crate) fn tile_rows<V: Vector>() -> usize {
    if V::LANES == 16 { 12 } else { 6 }
}

/// `a[rows, depth] × b[depth, 32]` into `sink`.
///
/// # Safety
/// Both operands and the sink have that many rows and columns; `rows` ≤ [`tile_rows`].
#[inline(always)]
pub(crate) unsafe fn tile<V: Vector, S: Sink>(rows: usize, operands: &Operands, sink: &S) {
    macro_rules! match_rows {
        ($($rows:literal)*) => {
            match rows {
                // SAFETY: the caller's.
                $($rows => unsafe { block::<V, S, $rows>(operands, sink) },)*
                _ => unreachable!("a tile of {rows} rows"),
            }
        };
    }
    if V::LANES == 16 { match_rows!(1 2 3 4 5 6 7 8 9 10 11 12) } else { match_rows!(1 2 3 4 5 6) }
}

#[inline(always)]
unsafe fn block<V: Vector, S: Sink, const ROWS: usize>(operands: &Operands, sink: &S) {
    let mut column = 0;
    while column < PANEL {
        // SAFETY: the caller's.
        unsafe {
            let sums = sums::<V, ROWS>(operands, column);
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
unsafe fn sums<V: Vector, const ROWS: usize>(operands: &Operands, column: usize) -> [[V; 2]; ROWS] {
    let Operands { a, a_stride, b, b_stride, depth } = *operands;
    let mut sums = [[V::splat(0.0); 2]; ROWS];
    for index in 0..depth {
        // SAFETY: the caller's.
        unsafe {
            let b = b.add(index * b_stride + column);
            let (left, right) = (V::load(b), V::load(b.add(V::LANES)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(*a.add(row * a_stride + index));
                sums[0] = x.mul_add(left, sums[0]);
                sums[1] = x.mul_add(right, sums[1]);
            }
        }
    }
    sums
}
