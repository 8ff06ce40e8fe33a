//! The inverse cosine transform: Loeffler, Ligtenberg and Moschytz 1989 in 13-bit fixed point.
//!
//! Where and how it rounds is libjpeg's "slow integer" method, its default.

use std::num::Wrapping;

use super::scan::ZIGZAG;

/// Fraction bits of a factor.
const BITS: usize = 13;
/// Fraction bits kept between the passes.
const BETWEEN: usize = 2;

type Value = Wrapping<i32>;

/// Coefficients of a block, in natural order → its samples, rows of 8. `quantization` is in zigzag order.
pub(super) fn samples(coefficients: &[i16; 64], quantization: &[u16; 64]) -> [u8; 64] {
    if coefficients[1..].iter().all(|value| *value == 0) {
        let level =
            (i32::from(coefficients[0]).wrapping_mul(i32::from(quantization[0])).wrapping_add(4)) >> 3;
        return [(level + 128).clamp(0, 255) as u8; 64];
    }
    let mut values = [Wrapping(0); 64];
    for (at, factor) in ZIGZAG.iter().zip(quantization) {
        let at = usize::from(*at);
        values[at] = Wrapping(i32::from(coefficients[at])) * Wrapping(i32::from(*factor));
    }
    // A broken file may hold larger values than a transform gives: they wrap, and the samples are wrong.
    for column in 0..8 {
        let line = inverse(std::array::from_fn(|row| values[row * 8 + column]));
        for (row, value) in line.into_iter().enumerate() {
            values[row * 8 + column] = descale(value, BITS - BETWEEN);
        }
    }
    let mut samples = [0; 64];
    for (row, out) in samples.chunks_exact_mut(8).enumerate() {
        let line = inverse(std::array::from_fn(|column| values[row * 8 + column]));
        for (sample, value) in out.iter_mut().zip(line) {
            // 3 bits are the transform's own factor of 8.
            *sample = (descale(value, BITS + BETWEEN + 3).0.saturating_add(128)).clamp(0, 255) as u8;
        }
    }
    samples
}

fn descale(value: Value, bits: usize) -> Value {
    (value + Wrapping(1 << (bits - 1))) >> bits
}

/// One dimension, scaled by √8 and 2^13.
fn inverse(line: [Value; 8]) -> [Value; 8] {
    // The even part: a rotation by 3π/8 and a butterfly.
    let turn = (line[2] + line[6]) * fixed(0.541_196_1);
    let low = turn - line[6] * fixed(1.847_759_065);
    let high = turn + line[2] * fixed(0.765_366_865);
    let (sum, difference) = ((line[0] + line[4]) << BITS, (line[0] - line[4]) << BITS);
    let even = [sum + high, difference + low, difference - low, sum - high];
    // The odd part.
    let [a, b, c, d] = [line[7], line[5], line[3], line[1]];
    let both = (a + c + b + d) * fixed(1.175_875_602);
    let ad = (a + d) * -fixed(0.899_976_223);
    let bc = (b + c) * -fixed(2.562_915_447);
    let ac = (a + c) * -fixed(1.961_570_56) + both;
    let bd = (b + d) * -fixed(0.390_180_644) + both;
    let odd = [
        d * fixed(1.501_321_11) + ad + bd,
        c * fixed(3.072_711_026) + bc + ac,
        b * fixed(2.053_119_869) + bc + bd,
        a * fixed(0.298_631_336) + ad + ac,
    ];
    std::array::from_fn(|at| if at < 4 { even[at] + odd[at] } else { even[7 - at] - odd[7 - at] })
}

const fn fixed(factor: f64) -> Value {
    Wrapping((factor * (1 << BITS) as f64 + 0.5) as i32)
}
