//! Every kernel, on every instruction set of the machine, against plain code in 64 bits.

use crate::*;

pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

pub(crate) fn assert_near(is: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(is.len(), expected.len(), "{what}");
    for (index, (is, expected)) in is.iter().zip(expected).enumerate() {
        assert!((f64::from(*is) - expected).abs() < tolerance, "{what}, at {index}: {is}, not {expected}");
    }
}

/// By its series, and by the continued fraction of its complement where that converges faster.
fn erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let fraction = (1..60).rev().fold(x.abs(), |value, n| x.abs() + f64::from(n) / 2.0 / value);
    x.signum() * (1.0 - (-x * x).exp() / fraction / std::f64::consts::PI.sqrt())
}

fn exact_gelu(x: f64) -> f64 {
    x / 2.0 * (1.0 + erf(x / 2f64.sqrt()))
}

fn teams() -> impl Iterator<Item = Team> {
    Isa::available().flat_map(|isa| [1, 2, 5].map(|threads| Team { isa, threads }))
}

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

/// The nearest number with 8 bits of mantissa, of two as near the even one.
fn as_bf16(x: f32) -> f64 {
    let unit = 2f64.powi(f64::from(x).abs().log2().floor() as i32 - 7);
    if x == 0.0 { 0.0 } else { (f64::from(x) / unit).round_ties_even() * unit }
}

/// Numbers of a row of inputs as the product sees them.
fn seen(precision: Precision, row: &[f32]) -> Vec<f64> {
    let (least, most) = row.iter().fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    let (least, step) = (f64::from(least), f64::from(most - least) / 255.0);
    let in_steps = |x: f64| if step == 0.0 { x } else { least + ((x - least) / step).round() * step };
    let number = |&x: &f32| match precision {
        Precision::F32 => f64::from(x),
        Precision::Bf16 => as_bf16(x),
        Precision::Int8 => in_steps(f64::from(x)),
    };
    row.iter().map(number).collect()
}

/// Weights of an output as the matrix keeps them.
fn kept(precision: Precision, row: &[f32]) -> Vec<f64> {
    let largest = row.iter().fold(0f32, |largest, weight| largest.max(weight.abs()));
    let step = f64::from(largest) / 127.0;
    let number = |&weight: &f32| match precision {
        Precision::F32 => f64::from(weight),
        Precision::Bf16 => as_bf16(weight),
        Precision::Int8 => (f64::from(weight) / step).round() * step,
    };
    row.iter().map(number).collect()
}

/// `x·Wᵀ + b` of what the precision leaves of both.
fn plain_product(precision: Precision, x: &[f32], weights: &[f32], bias: &[f32], inputs: usize) -> Vec<f64> {
    let weights: Vec<Vec<f64>> = weights.chunks_exact(inputs).map(|row| kept(precision, row)).collect();
    let product = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
    let row = |x| {
        let x = seen(precision, x);
        weights.iter().zip(bias).map(move |(w, bias)| product(&x, w) + f64::from(*bias)).collect::<Vec<_>>()
    };
    x.chunks_exact(inputs).flat_map(row).collect()
}

#[test]
fn products_of_every_precision_shape_and_ending() {
    let shapes = [(1, 32, 32), (5, 7, 96), (12, 64, 32), (13, 40, 45), (23, 36, 160), (30, 1, 1)];
    for (precision, (rows, inputs, outputs)) in
        PRECISIONS.iter().flat_map(|precision| shapes.map(|shape| (*precision, shape)))
    {
        if inputs % precision.numbers_a_word() != 0 {
            continue;
        }
        let (x, weights) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2));
        let (bias, before) = (numbers(outputs, 3), numbers(rows * outputs, 4));
        let matrix = PackedMatrix::new(precision, &weights, &bias, inputs);
        let sums = plain_product(precision, &x, &weights, &bias, inputs);
        for epilogue in [Epilogue::Store, Epilogue::Gelu, Epilogue::Add] {
            let ended = sums.iter().zip(&before).map(|(&sum, &before)| match epilogue {
                Epilogue::Store => sum,
                Epilogue::Gelu => exact_gelu(sum),
                Epilogue::Add => sum + f64::from(before),
            });
            let expected: Vec<f64> = ended.collect();
            for team in teams() {
                let (mut out, mut memory) = (before.clone(), Inputs::default());
                matrix.multiply(team, &x, epilogue, &mut out, &mut memory);
                let what = format!("{precision:?} {team:?} {rows}×{inputs}×{outputs} {epilogue:?}");
                assert_near(&out, &expected, 1e-5, &what);
            }
        }
    }
}

/// Two products of the largest bytes are more than 16 bits hold.
#[test]
fn sums_of_the_largest_bytes_do_not_saturate() {
    let inputs = 1536;
    let mut x = vec![1.0; inputs];
    x[7] = 0.0;
    let weights: Vec<f32> =
        (0..32 * inputs).map(|at| if at / inputs % 2 == 0 { 1.0 } else { -1.0 }).collect();
    let matrix = PackedMatrix::new(Precision::Int8, &weights, &[0.0; 32], inputs);
    for isa in Isa::available() {
        let mut out = vec![0.0; 32];
        matrix.multiply(Team::alone(isa), &x, Epilogue::Store, &mut out, &mut Inputs::default());
        let expected: Vec<f64> =
            (0..32).map(|output| if output % 2 == 0 { 1535.0 } else { -1535.0 }).collect();
        assert_near(&out, &expected, 1e-2, &format!("{isa:?}"));
    }
}

/// However large its numbers, a row changes nothing in the rows beside it, and what is not finite
/// does not become so.
#[test]
fn rows_of_a_product_are_apart() {
    for (precision, isa) in PRECISIONS.iter().flat_map(|p| Isa::available().map(move |isa| (*p, isa))) {
        let (weights, x) = (numbers(64 * 64, 1), numbers(64, 2));
        let matrix = PackedMatrix::new(precision, &weights, &[0.0; 64], 64);
        let multiply = |x: &[f32]| {
            let mut out = vec![0.0; x.len()];
            matrix.multiply(Team::alone(isa), x, Epilogue::Store, &mut out, &mut Inputs::default());
            out
        };
        let alone = multiply(&x);
        for strange in [1e30, 0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut beside = vec![strange; 64];
            beside[..63].copy_from_slice(&x[..63]);
            let out = multiply(&[beside, x.clone(), vec![strange; 64]].concat());
            assert_eq!(alone, out[64..128], "{precision:?} {isa:?} beside {strange}");
            for row in [&out[..64], &out[128..]] {
                let finite = row.iter().all(|number| number.is_finite());
                assert_eq!(finite, strange.is_finite(), "{precision:?} {isa:?} {strange}: {row:?}");
                assert!(finite || !row.iter().any(|number| number.is_finite()), "{precision:?} {isa:?}");
            }
        }
    }
}

#[test]
fn gelu_follows_the_error_function() {
    for step in -1000..=1000 {
        let x = step as f32 * 0.012;
        let off = (f64::from(gelu(x)) - exact_gelu(f64::from(x))).abs();
        assert!(off < 4e-7 * f64::from(x.abs().max(1.0)), "{x}: off by {off}");
    }
    assert!((gelu(100.0) - 100.0).abs() < 2e-5 && gelu(-100.0).abs() < 2e-5);
    assert_eq!(gelu(f32::INFINITY), f32::INFINITY);
    assert!(gelu(f32::NAN).is_nan(), "what is no number must not become one");
}

#[test]
fn attention_sees_the_whole_sequence_and_no_other() {
    let lengths = [1, 3, 16, 31, 32, 33, 70];
    let tokens: usize = lengths.iter().sum();
    for (heads, head_width) in [(3, 32), (2, 64)] {
        let attention = Attention { heads, head_width };
        let width = heads * head_width;
        let mut qkv = numbers(tokens * 3 * width, 5);
        // Large enough that a few keys take most of the weight.
        qkv.iter_mut().for_each(|number| *number *= 3.0);
        let expected = plain_attention(&qkv, &lengths, heads, head_width);
        for row in qkv.chunks_exact_mut(3 * width) {
            row[..width].iter_mut().for_each(|query| *query *= attention.query_scale());
        }
        for team in teams() {
            let (mut out, mut scratch) = (vec![0.0; tokens * width], Vec::new());
            attention.run(team, &qkv, &lengths, &mut out, &mut scratch);
            assert_near(&out, &expected, 2e-5, &format!("{team:?}"));
            // Again in memory that a longer sequence has used.
            attention.run(team, &qkv[..3 * width], &[1], &mut out[..width], &mut scratch);
            assert_near(&out[..width], &expected[..width], 2e-5, "one token");
        }
    }
}

fn plain_attention(qkv: &[f32], lengths: &[usize], heads: usize, head_width: usize) -> Vec<f64> {
    let width = heads * head_width;
    let number = |token: usize, part: usize, head: usize, index: usize| {
        f64::from(qkv[token * 3 * width + part * width + head * head_width + index])
    };
    let mut out = Vec::new();
    let mut first = 0;
    for length in lengths {
        let sequence = first..first + length;
        for query in sequence.clone() {
            for head in 0..heads {
                let score = |key: usize| -> f64 {
                    let product =
                        (0..head_width).map(|i| number(query, 0, head, i) * number(key, 1, head, i));
                    product.sum::<f64>() / (head_width as f64).sqrt()
                };
                let weights: Vec<f64> = sequence.clone().map(|key| score(key).exp()).collect();
                let total: f64 = weights.iter().sum();
                out.extend((0..head_width).map(|i| {
                    let values = sequence.clone().zip(&weights);
                    values.map(|(key, weight)| weight * number(key, 2, head, i)).sum::<f64>() / total
                }));
            }
        }
        first += length;
    }
    out
}

#[test]
fn scores_of_any_size_give_finite_weights() {
    let attention = Attention { heads: 1, head_width: 32 };
    for isa in Isa::available() {
        for scale in [1e-30, 1.0, 1e4, 1e15] {
            let mut qkv = numbers(20 * 96, 6);
            for row in qkv.chunks_exact_mut(96) {
                row[..64].iter_mut().for_each(|number| *number *= scale);
            }
            let mut out = vec![0.0; 20 * 32];
            attention.run(Team::alone(isa), &qkv, &[20], &mut out, &mut Vec::new());
            assert!(out.iter().all(|number| number.abs() <= 1.001), "{isa:?}, {scale}");
        }
    }
}

#[test]
fn layer_norm_centres_and_scales_rows() {
    for isa in Isa::available() {
        for width in [16, 48, 384] {
            let (gain, bias) = (numbers(width, 7), numbers(width, 8));
            let x: Vec<f32> = numbers(3 * width, 9).iter().map(|x| x + 5.0).collect();
            let mut out = x.clone();
            layer_norm(isa, &mut out, &gain, &bias, 1e-5);
            let mut expected = Vec::new();
            for row in x.chunks_exact(width) {
                let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64;
                let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / width as f64;
                expected.extend(row.iter().zip(gain.iter().zip(&bias)).map(|(&x, (&gain, &bias))| {
                    (f64::from(x) - mean) / (variance + 1e-5).sqrt() * f64::from(gain) + f64::from(bias)
                }));
            }
            assert_near(&out, &expected, 1e-5, &format!("{isa:?}, rows of {width}"));
        }
    }
}

#[test]
fn pooling_and_length() {
    let mut pooled = mean(&[3.0, 0.0, 3.0, 8.0], 2);
    assert_eq!(pooled, [3.0, 4.0]);
    l2_normalize(&mut pooled);
    assert_eq!(pooled, [0.6, 0.8]);
}
