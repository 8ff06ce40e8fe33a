//! What a decoder does to each row between its products.

use crate::{
    activation::exp2_vector,
    crew::{Crew, Split},
    quantized::{BLOCK, QuantizedRows, RowBlock},
    vector::{Kernel, Vector},
};

/// Rows that a product takes, and what is done to them before.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// `[rows, width]` as they are.
    Plain(&'a [f32]),
    /// `[rows, width]`, each divided by the root of its mean square and multiplied with `gain` `[width]`.
    RmsNorm { x: &'a [f32], gain: &'a [f32], epsilon: f32 },
    /// `[rows, 2 · width]`: `silu(gate) · up`, the gates before the others.
    SwiGlu(&'a [f32]),
}

/// Rounds rows of `width` to eight bits, into `out`; `width` is a multiple of 32.
pub fn quantize(crew: &mut Crew, source: Source<'_>, width: usize, out: &mut QuantizedRows) {
    assert!(width > 0 && width.is_multiple_of(BLOCK), "rows of {width}");
    let numbers = match source {
        Source::Plain(x) => x.len(),
        Source::RmsNorm { x, gain, .. } => {
            assert_eq!(gain.len(), width, "a gain for each number");
            x.len()
        }
        Source::SwiGlu(gates) => gates.len() / 2,
    };
    assert!(numbers.is_multiple_of(width), "{numbers} numbers in rows of {width}");
    (out.rows, out.width) = (numbers / width, width);
    out.numbers.resize(numbers, 0);
    out.blocks.resize(numbers / BLOCK, RowBlock::default());
    let (rows, isa) = (out.rows, crew.isa());
    let (numbers, blocks) = (Split::new(&mut out.numbers), Split::new(&mut out.blocks));
    crew.share(rows, 4, &|rows| {
        for row in rows {
            let in_row = width / BLOCK;
            // SAFETY: each row is in one part of the work.
            let (numbers, blocks) = unsafe {
                (
                    numbers.slice(row * width..(row + 1) * width),
                    blocks.slice(row * in_row..(row + 1) * in_row),
                )
            };
            isa.dispatch(QuantizeRow { source, row, numbers, blocks });
        }
    });
}

struct QuantizeRow<'a> {
    source: Source<'a>,
    row: usize,
    numbers: &'a mut [i8],
    blocks: &'a mut [RowBlock],
}

impl Kernel for QuantizeRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let width = self.numbers.len();
        let row = |x: &'_ [f32], width| x[self.row * width..(self.row + 1) * width].as_ptr();
        // SAFETY, for each `load`: `fill` asks for vectors inside the width, which the row has.
        match self.source {
            Source::Plain(x) => {
                let x = row(x, width);
                fill::<V>(self.numbers, self.blocks, |at| unsafe { V::load(x.add(at)) });
            }
            Source::RmsNorm { x, gain, epsilon } => {
                let (x, gain) = (row(x, width), gain.as_ptr());
                let square = |sum: V, at| {
                    let x = unsafe { V::load(x.add(at)) };
                    x.mul_add(x, sum)
                };
                let sum = (0..width).step_by(V::LANES).fold(V::splat(0.0), square).sum();
                let scale = V::splat(1.0 / (sum / width as f32 + epsilon).sqrt());
                fill::<V>(self.numbers, self.blocks, |at| unsafe {
                    V::load(x.add(at)).mul(scale).mul(V::load(gain.add(at)))
                });
            }
            Source::SwiGlu(gates) => {
                let gates = row(gates, 2 * width);
                fill::<V>(self.numbers, self.blocks, |at| unsafe {
                    silu(V::load(gates.add(at))).mul(V::load(gates.add(width + at)))
                });
            }
        }
    }
}

/// `x · σ(x)`
#[inline(always)]
fn silu<V: Vector>(x: V) -> V {
    let power = x.mul(V::splat(-std::f32::consts::LOG2_E));
    x.div(exp2_vector(power).add(V::splat(1.0)))
}

/// Rounds the row whose vectors are `values` at 0, `V::LANES`, … block by block.
#[inline(always)]
fn fill<V: Vector>(numbers: &mut [i8], blocks: &mut [RowBlock], values: impl Fn(usize) -> V) {
    /// Adding it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0; // 1.5 × 2²³
    for (index, (numbers, block)) in numbers.chunks_exact_mut(BLOCK).zip(blocks).enumerate() {
        let mut row = [0.0f32; BLOCK];
        let mut largest = V::splat(0.0);
        for at in (0..BLOCK).step_by(V::LANES) {
            let value = values(index * BLOCK + at);
            largest = largest.max(value).max(V::splat(0.0).sub(value));
            // SAFETY: a block is whole vectors.
            unsafe { value.store(row.as_mut_ptr().add(at)) };
        }
        let scale = largest.peak() / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        for (number, value) in numbers.iter_mut().zip(row) {
            *number = ((value * inverse) + ROUND).to_bits() as i8;
        }
        *block = RowBlock { scale, sum: numbers.iter().map(|&number| i32::from(number)).sum() };
    }
}
