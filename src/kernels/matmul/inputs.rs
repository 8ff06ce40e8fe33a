//! Inputs of a product in the precision of its weights.

use super::precision::{Precision, Steps, bf16};
use crate::{
    buffer::Buffer,
    vector::{Isa, Kernel, Vector},
};

/// Memory in which products turn their inputs into another precision.
#[derive(Default)]
pub struct Inputs {
    words: Buffer,
    steps: Vec<Steps>,
}

/// `[rows, inputs / numbers a word]`, and for bytes what they stand for, by row.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    pub words: &'a [f32],
    pub steps: &'a [Steps],
}

impl Inputs {
    /// `x` is `[rows, width]`.
    pub(super) fn turn<'a>(
        &'a mut self,
        isa: Isa,
        precision: Precision,
        x: &'a [f32],
        width: usize,
    ) -> Words<'a> {
        self.steps.clear();
        if precision == Precision::F32 {
            return Words { words: x, steps: &self.steps };
        }
        self.words.resize(x.len() / precision.numbers_a_word());
        if precision == Precision::Bf16 {
            isa.dispatch(ToBf16 { x, to: self.words.as_mut_halves() });
        } else {
            isa.dispatch(ToBytes { x, width, to: self.words.as_mut_bytes(), steps: &mut self.steps });
        }
        Words { words: self.words.as_slice(), steps: &self.steps }
    }
}

struct ToBf16<'a> {
    x: &'a [f32],
    to: &'a mut [u16],
}

impl Kernel for ToBf16<'_> {
    type Output = ();

    /// A plain loop: compilers make vectors of it.
    #[inline(always)]
    fn run<V: Vector>(self) {
        for (to, &x) in self.to.iter_mut().zip(self.x) {
            *to = bf16(x);
        }
    }
}

struct ToBytes<'a> {
    x: &'a [f32],
    width: usize,
    to: &'a mut [u8],
    steps: &'a mut Vec<Steps>,
}

impl Kernel for ToBytes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        /// Adding it leaves the nearest integer in the low bits.
        const ROUND: f32 = 12_582_912.0; // 1.5 × 2²³
        let rows = self.x.chunks_exact(self.width).zip(self.to.chunks_exact_mut(self.width));
        for (row, to) in rows {
            let (least, most) = range::<V>(row);
            let step = (most - least) / 255.0;
            let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
            for (to, &x) in to.iter_mut().zip(row) {
                *to = ((x - least) * inverse + ROUND).to_bits() as u8;
            }
            self.steps.push(Steps { least, step });
        }
    }
}

/// The least and the largest of `row`, both not finite where one of its numbers is not.
#[inline(always)]
fn range<V: Vector>(row: &[f32]) -> (f32, f32) {
    let chunks = row.chunks_exact(V::LANES);
    let rest = chunks.remainder();
    let (mut least, mut most) = (V::splat(f32::MAX), V::splat(f32::MIN));
    let mut zero = V::splat(0.0);
    for chunk in chunks {
        // SAFETY: a chunk has as many numbers as a vector.
        let x = unsafe { V::load(chunk.as_ptr()) };
        (least, most, zero) = (least.min(x), most.max(x), zero.add(x.sub(x)));
    }
    let (least, most) = (-V::splat(0.0).sub(least).peak(), most.peak());
    let range = |(least, most): (f32, f32), &x: &f32| (least.min(x), most.max(x));
    let (least, most) = rest.iter().fold((least, most), range);
    #[expect(clippy::eq_op, reason = "not 0 where x is not finite")]
    let zero = rest.iter().fold(zero.sum(), |zero, x| zero + (x - x));
    (least + zero, most + zero)
}
