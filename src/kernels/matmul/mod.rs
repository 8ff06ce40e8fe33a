//! Matrix products with weights that were packed once.

mod finish;
mod inputs;
mod precision;
mod tile;

use std::{marker::PhantomData, ops::Range};

pub(crate) use self::tile::{Floats, Operands, PANEL, Sink, tile, tile_rows};
use self::{
    finish::{Add, Finish, FinishAt, Gelu, Store},
    inputs::Words,
    precision::{Arithmetic, Bf16, Int8, Scales, bf16},
};
pub use self::{inputs::Inputs, precision::Precision};
use crate::{
    buffer::Buffer,
    team::{Columns, Team},
    vector::{Extension, Kernel, Vector},
};

/// Weights `[outputs, inputs]` and a bias, packed: panels of 32 outputs, in each the 32 words of
/// the same inputs side by side. A word holds the weights of one input or, where they are shorter,
/// of the next two or four.
pub struct PackedMatrix {
    precision: Precision,
    inputs: usize,
    outputs: usize,
    panels: Buffer,
    bias: Buffer,
    /// Of bytes: what 1 stands for, by output.
    scales: Buffer,
    /// Of bytes: the sum of an output's weights, as numbers.
    sums: Buffer,
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
    /// `inputs` must be a multiple of [`Precision::numbers_a_word`].
    pub fn new(precision: Precision, weights: &[f32], bias: &[f32], inputs: usize) -> Self {
        let outputs = bias.len();
        assert_eq!(weights.len(), inputs * outputs, "weights of [{outputs}, {inputs}]");
        let a_word = precision.numbers_a_word();
        assert!(inputs.is_multiple_of(a_word), "{inputs} inputs in {precision:?}");
        let (depth, padded) = (inputs / a_word, outputs.next_multiple_of(PANEL));
        let mut matrix = Self {
            precision,
            inputs,
            outputs,
            panels: Buffer::zeros(padded * depth),
            bias: Buffer::zeros(padded),
            scales: Buffer::zeros(padded),
            sums: Buffer::zeros(padded),
        };
        matrix.bias.as_mut_slice()[..outputs].copy_from_slice(bias);
        for (output, row) in weights.chunks_exact(inputs.max(1)).enumerate() {
            let start = output / PANEL * PANEL * depth + output % PANEL;
            let mut words = matrix.panels.as_mut_slice()[start..].iter_mut().step_by(PANEL);
            match precision {
                Precision::F32 => row.iter().zip(words).for_each(|(&weight, word)| *word = weight),
                Precision::Bf16 => {
                    for (pair, word) in row.chunks_exact(a_word).zip(words) {
                        let (low, high) = (u32::from(bf16(pair[0])), u32::from(bf16(pair[1])));
                        *word = f32::from_bits(low | high << 16);
                    }
                }
                Precision::Int8 => {
                    let largest = row.iter().fold(0.0, |largest: f32, weight| largest.max(weight.abs()));
                    let scale = largest / 127.0;
                    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                    let mut sum = 0;
                    for (four, word) in row.chunks_exact(a_word).zip(words.by_ref()) {
                        let bytes = [0, 1, 2, 3].map(|at| (four[at] * inverse).round() as i8);
                        sum += bytes.iter().map(|&byte| i32::from(byte)).sum::<i32>();
                        *word = f32::from_bits(u32::from_ne_bytes(bytes.map(i8::cast_unsigned)));
                    }
                    matrix.scales.as_mut_slice()[output] = scale;
                    matrix.sums.as_mut_slice()[output] = scale * sum as f32;
                }
            }
        }
        matrix
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

    /// Words of an output's weights, and of a row of inputs.
    fn depth(&self) -> usize {
        self.inputs / self.precision.numbers_a_word()
    }

    /// `x` `[rows, inputs]` times the weights, into `out` `[rows, outputs]`. `x` is turned into the
    /// precision of the weights in the memory of `inputs`, row by row: what becomes of a row does
    /// not depend on the others.
    pub fn multiply(&self, team: Team, x: &[f32], epilogue: Epilogue, out: &mut [f32], inputs: &mut Inputs) {
        let out = Columns::new(out, self.outputs);
        assert_eq!(x.len(), out.rows * self.inputs, "{} rows of {}", out.rows, self.inputs);
        let x = inputs.turn(team.isa, self.precision, x, self.inputs);
        let mut parts = [(); MOST_THREADS];
        let threads = team.threads.clamp(1, MOST_THREADS.min(self.panels()));
        Team::split(&mut parts[..threads], self.panels(), &|(), panels| {
            let task = Product { matrix: self, x, out, panels };
            match self.precision {
                Precision::F32 => task.run::<Floats>(team, epilogue),
                Precision::Bf16 => task.run::<Bf16>(team, epilogue),
                Precision::Int8 => task.run::<Int8>(team, epilogue),
            }
        });
    }
}

/// More threads than this do not share one product.
const MOST_THREADS: usize = 64;

struct Product<'a> {
    matrix: &'a PackedMatrix,
    x: Words<'a>,
    out: Columns<'a>,
    panels: Range<usize>,
}

impl Product<'_> {
    fn run<A: Arithmetic>(self, team: Team, epilogue: Epilogue) {
        match epilogue {
            Epilogue::Store => team.isa.dispatch(Finished::<A, Store>(self, PhantomData)),
            Epilogue::Gelu => team.isa.dispatch(Finished::<A, Gelu>(self, PhantomData)),
            Epilogue::Add => team.isa.dispatch(Finished::<A, Add>(self, PhantomData)),
        }
    }

    /// What belongs to the rows from `first` and the columns from `column`.
    #[inline(always)]
    fn scales(&self, first: usize, column: usize) -> Scales {
        Scales {
            rows: self.x.steps.as_ptr().wrapping_add(first),
            weights: self.matrix.scales.as_slice().as_ptr().wrapping_add(column),
            sums: self.matrix.sums.as_slice().as_ptr().wrapping_add(column),
        }
    }
}

/// A product and what is done at its end.
struct Finished<'a, A, F>(Product<'a>, PhantomData<(A, F)>);

impl<A: Arithmetic, F: Finish> Kernel for Finished<'_, A, F> {
    type Output = ();
    const EXTENSION: Option<Extension> = A::EXTENSION;

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Product { matrix, x, out, ref panels } = self.0;
        let depth = matrix.depth();
        let weights = matrix.panels.as_slice();
        let mut row = Buffer::zeros(PANEL);
        for panel in panels.clone() {
            let column = panel * PANEL;
            let weights = &weights[column * depth..(column + PANEL) * depth];
            let bias = matrix.bias.as_slice()[column..column + PANEL].as_ptr();
            let width = PANEL.min(matrix.outputs - column);
            let mut first = 0;
            while first < out.rows {
                let rows = (out.rows - first).min(tile_rows::<V, A>());
                let operands = Operands {
                    a: x.words[first * depth..].as_ptr(),
                    a_stride: depth,
                    b: weights.as_ptr(),
                    b_stride: PANEL,
                    depth,
                };
                let at = FinishAt::<A, F> {
                    bias,
                    scales: self.0.scales(first, column),
                    // SAFETY: row and column are inside `out`.
                    out: unsafe { out.start.add(first * out.stride + column) },
                    stride: out.stride,
                    finish: PhantomData,
                };
                // SAFETY: the rows and the panel lie inside the checked slices, the tile
                // inside `out`, whose columns are this thread's; of a last panel that is not
                // full the part of a row that exists goes by way of a whole one.
                unsafe {
                    if width == PANEL {
                        tile::<V, A, _>(rows, &operands, &at);
                    } else {
                        narrow::<V, A, F>(rows, operands, at, width, &mut row);
                    }
                }
                first += rows;
            }
        }
    }
}

/// The last panel of outputs that are no multiple of 32: row by row through a buffer.
#[inline(always)]
unsafe fn narrow<V: Vector, A: Arithmetic, F: Finish>(
    rows: usize,
    mut operands: Operands,
    mut at: FinishAt<A, F>,
    width: usize,
    whole: &mut Buffer,
) {
    let (mut target, stride) = (at.out, at.stride);
    at.out = whole.as_mut_slice().as_mut_ptr();
    for _ in 0..rows {
        // SAFETY: the caller's.
        unsafe {
            std::ptr::copy_nonoverlapping(target, at.out, width);
            tile::<V, A, _>(1, &operands, &at);
            std::ptr::copy_nonoverlapping(at.out, target, width);
        }
        target = target.wrapping_add(stride);
        operands.a = operands.a.wrapping_add(operands.a_stride);
        at.scales.rows = at.scales.rows.wrapping_add(1);
    }
}
