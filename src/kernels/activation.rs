//! Functions of one number.

use crate::vector::{Portable, Vector};

/// `x · Φ(x)`, exact to 4e-7 of the largest of 1 and `|x|`.
///
/// `erf(x / √2)` is taken as `x · P(x²) / Q(x²)` on |x| ≤ 5.6, where it has reached 1 − 2e-8. The
/// coefficients are a weighted least-squares fit (its error: 2e-8).
#[inline(always)]
pub(crate) fn gelu_vector<V: Vector>(x: V) -> V {
    const LIMIT: f32 = 5.6;
    const P: [f32; 6] =
        [0.797_884_46, 0.068_750_7, 0.009_414_392_5, 3.476_802e-4, 1.271_239_9e-5, 4.428_882e-8];
    const Q: [f32; 6] = [1.0, 0.252_831_94, 0.028_939_61, 0.001_912_921_8, 7.509_706_5e-5, 1.180_160_2e-6];
    let clamped = x.min(V::splat(LIMIT)).max(V::splat(-LIMIT));
    let square = clamped.mul(clamped);
    let erf = clamped.mul(polynomial(square, &P)).div(polynomial(square, &Q));
    let half = x.mul(V::splat(0.5));
    half.mul_add(erf, half)
}

/// `2ˣ` to 1e-7 of its value; what is under 2⁻¹²⁶ or over 2¹²⁶ is taken as that.
#[inline(always)]
pub(crate) fn exp2_vector<V: Vector>(x: V) -> V {
    /// Adding it leaves the integer part of a number in the low bits.
    const ROUND: f32 = 12_582_912.0; // 1.5 × 2²³
    /// Of `2ᶠ` on |f| ≤ ½: a weighted least-squares fit, error 2e-9.
    const P: [f32; 7] = [
        1.0,
        std::f32::consts::LN_2,
        0.240_226_47,
        0.055_503_29,
        0.009_618_489,
        0.001_339_993_1,
        0.000_153_458_05,
    ];
    let x = x.max(V::splat(-126.0)).min(V::splat(126.0));
    let rounded = x.add(V::splat(ROUND));
    let fraction = x.sub(rounded.sub(V::splat(ROUND)));
    polynomial(fraction, &P).scale(rounded)
}

#[inline(always)]
fn polynomial<V: Vector, const N: usize>(x: V, coefficients: &[f32; N]) -> V {
    let mut value = V::splat(coefficients[N - 1]);
    for index in (0..N - 1).rev() {
        value = value.mul_add(x, V::splat(coefficients[index]));
    }
    value
}

/// The activation of BERT for one number.
pub fn gelu(x: f32) -> f32 {
    first_lane(gelu_vector(Portable::splat(x)))
}

fn first_lane(vector: Portable) -> f32 {
    let mut lanes = [0.0; Portable::LANES];
    // SAFETY: there is room for all lanes.
    unsafe { vector.store(lanes.as_mut_ptr()) };
    lanes[0]
}
