//! What is computed row by row.

use crate::{
    buffer::Buffer,
    vector::{Isa, Kernel, Vector},
};

/// Normalises each row of `x` `[rows, width]` to mean 0 and variance 1, then `· gain + bias`.
///
/// `width` is the length of `gain`, a multiple of 16.
pub fn layer_norm(isa: Isa, x: &mut [f32], gain: &[f32], bias: &[f32], epsilon: f32) {
    let width = gain.len();
    assert!(
        width > 0 && width.is_multiple_of(16) && bias.len() == width && x.len().is_multiple_of(width),
        "rows of {width}"
    );
    isa.dispatch(LayerNorm { x, gain, bias, epsilon });
}

struct LayerNorm<'a> {
    x: &'a mut [f32],
    gain: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { x, gain, bias, epsilon } = self;
        let width = gain.len();
        for row in x.chunks_exact_mut(width) {
            let mean = fold::<V>(row, |sum, x| sum.add(x)).sum() / width as f32;
            let center = V::splat(mean);
            let square = |sum: V, x: V| {
                let off = x.sub(center);
                off.mul_add(off, sum)
            };
            let variance = fold::<V>(row, square).sum() / width as f32;
            let scale = V::splat(1.0 / (variance + epsilon).sqrt());
            for at in (0..width).step_by(V::LANES) {
                // SAFETY: `width` is a multiple of the lanes, the length of all three.
                unsafe {
                    let x = V::load(row.as_ptr().add(at)).sub(center).mul(scale);
                    let x = x.mul_add(V::load(gain.as_ptr().add(at)), V::load(bias.as_ptr().add(at)));
                    x.store(row.as_mut_ptr().add(at));
                }
            }
        }
    }
}

/// Folds the vectors of a row whose length is a multiple of 16, in two chains.
#[inline(always)]
fn fold<V: Vector>(row: &[f32], step: impl Fn(V, V) -> V) -> V {
    let (mut even, mut odd) = (V::splat(0.0), V::splat(0.0));
    let mut at = 0;
    while at + 2 * V::LANES <= row.len() {
        // SAFETY: both vectors lie inside the row.
        unsafe {
            even = step(even, V::load(row.as_ptr().add(at)));
            odd = step(odd, V::load(row.as_ptr().add(at + V::LANES)));
        }
        at += 2 * V::LANES;
    }
    if at < row.len() {
        // SAFETY: one vector is left, the length is a multiple of it.
        even = step(even, unsafe { V::load(row.as_ptr().add(at)) });
    }
    even.add(odd)
}

/// `x += other`, element by element.
pub fn add_rows(x: &mut [f32], other: &[f32]) {
    for (x, other) in x.iter_mut().zip(other) {
        *x += other;
    }
}

/// Mean of the rows of `x` `[rows, width]`; zeros where there is none.
pub fn mean(x: &[f32], width: usize) -> Vec<f32> {
    let mut sum = Buffer::zeros(width);
    for row in x.chunks_exact(width) {
        add_rows(sum.as_mut_slice(), row);
    }
    let rows = (x.len() / width).max(1) as f32;
    sum.as_slice().iter().map(|sum| sum / rows).collect()
}

/// Brings `x` to length 1.
pub fn l2_normalize(x: &mut [f32]) {
    let length = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    for x in x {
        *x = (f64::from(*x) / length) as f32;
    }
}
