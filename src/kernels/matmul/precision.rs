//! The numbers that products are computed with.

use super::tile::{Floats, Step};
use crate::vector::{Extension, Vector};

/// How a matrix keeps its weights, and in what its inputs are turned before they meet them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floating point.
    F32,
    /// bfloat16; sums are of 32 bits.
    Bf16,
    /// 8-bit integers, weights scaled by output and inputs by row; sums are 32-bit integers.
    Int8,
}

impl Precision {
    /// Numbers in a word of 32 bits; a matrix has a multiple of it as inputs.
    pub fn numbers_a_word(self) -> usize {
        match self {
            Precision::F32 => 1,
            Precision::Bf16 => 2,
            Precision::Int8 => 4,
        }
    }
}

/// How words of a precision are multiplied, and what their sums are as numbers.
pub(super) trait Arithmetic: Step {
    const EXTENSION: Option<Extension>;

    /// # Safety
    /// `scales` are of a tile that has this row and the vector at `column`.
    #[inline(always)]
    unsafe fn number<V: Vector>(sum: V, _scales: &Scales, _row: usize, _column: usize) -> V {
        sum
    }
}

impl Arithmetic for Floats {
    const EXTENSION: Option<Extension> = None;
}

/// A word is two bfloat16.
pub(super) struct Bf16;

impl Step for Bf16 {
    const NARROW_ROWS: usize = 4;

    #[inline(always)]
    fn step<V: Vector>(sum: V, x: V, weights: V) -> V {
        x.dot_bf16(weights, sum)
    }
}

impl Arithmetic for Bf16 {
    const EXTENSION: Option<Extension> = Some(Extension::Bf16);
}

/// A word is four bytes.
pub(super) struct Int8;

impl Step for Int8 {
    #[inline(always)]
    fn step<V: Vector>(sum: V, x: V, weights: V) -> V {
        x.dot_bytes(weights, sum)
    }
}

impl Arithmetic for Int8 {
    const EXTENSION: Option<Extension> = Some(Extension::Vnni);

    /// A byte of `x` is `least + step · byte`, so a product is `step · Σ byte·w + least · Σ w`.
    #[inline(always)]
    unsafe fn number<V: Vector>(sum: V, scales: &Scales, row: usize, column: usize) -> V {
        // SAFETY: the caller's.
        unsafe {
            let steps = &*scales.rows.add(row);
            let products = sum.from_integers().mul(V::load(scales.weights.add(column)));
            let least = V::splat(steps.least).mul(V::load(scales.sums.add(column)));
            products.mul_add(V::splat(steps.step), least)
        }
    }
}

/// What the bytes of a tile's rows and columns stand for; dangling in other precisions.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    pub rows: *const Steps,
    /// What a weight of 1 stands for, by output.
    pub weights: *const f32,
    /// Sums of the weights of an output, as numbers.
    pub sums: *const f32,
}

/// What the bytes of a row stand for: `least + step · byte`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    pub least: f32,
    pub step: f32,
}

/// The nearest bfloat16, of two as near the even one.
#[inline(always)]
pub(super) fn bf16(number: f32) -> u16 {
    let bits = number.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    // What is no number must not be rounded to one.
    if number.is_nan() { 0x7fc0 } else { rounded }
}
