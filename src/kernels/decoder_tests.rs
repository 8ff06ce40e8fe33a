//! The kernels of decoders, on every instruction set of the machine, against plain code in 64 bits.

use crate::{
    tests::{assert_near, numbers},
    *,
};

fn bytes(count: usize, seed: u64) -> Vec<u8> {
    numbers(count, seed).iter().map(|number| (number * 128.0) as i8 as u8).collect()
}

/// Every set of instructions, alone and with workers.
fn crews() -> impl Iterator<Item = (String, Crew)> {
    let integers = IntegerIsa::available().map(|integers| (Isa::best(), integers));
    let floats = Isa::available().map(|isa| (isa, IntegerIsa::best()));
    integers.chain(floats).flat_map(|(isa, integers)| {
        [1, 3].map(|threads| {
            let crew = Crew::new(threads).unwrap().with_isa(isa, integers);
            (format!("{isa:?}, {integers:?}, {threads} threads"), crew)
        })
    })
}

/// Blocks with scales between 2⁻⁶ and 2⁻⁵.
fn blocks(format: BlockFormat, count: usize, seed: u64) -> Vec<u8> {
    let mut blocks = bytes(count * format.bytes(), seed);
    for block in blocks.chunks_exact_mut(format.bytes()) {
        block[1] = 0x24 | block[1] & 3;
        if format == BlockFormat::Q4_1 {
            block[3] = 0xac | block[3] & 3;
        }
    }
    blocks
}

/// A block as the format defines it.
fn plain_block(format: BlockFormat, block: &[u8]) -> Vec<f64> {
    let half = |at: usize| f64::from(half::to_f32(u16::from_le_bytes([block[at], block[at + 1]])));
    let four = |weights: &[u8]| -> Vec<f64> {
        let low = weights.iter().map(|byte| f64::from(byte & 15));
        low.chain(weights.iter().map(|byte| f64::from(byte >> 4))).collect()
    };
    match format {
        BlockFormat::Q4_0 => four(&block[2..]).iter().map(|q| half(0) * (q - 8.0)).collect(),
        BlockFormat::Q4_1 => four(&block[4..]).iter().map(|q| half(0) * q + half(2)).collect(),
        BlockFormat::Q8_0 => block[2..].iter().map(|&q| half(0) * f64::from(q as i8)).collect(),
    }
}

fn product(x: &[f64], weights: &[f64], inputs: usize) -> Vec<f64> {
    let row = |x: &[f64]| -> Vec<f64> {
        weights.chunks_exact(inputs).map(|w| x.iter().zip(w).map(|(x, w)| x * w).sum()).collect()
    };
    x.chunks_exact(inputs).flat_map(row).collect()
}

/// The activations as the product sees them.
fn rounded(x: &QuantizedRows) -> Vec<f64> {
    let blocks = x.numbers.chunks_exact(32).zip(&x.blocks);
    blocks
        .flat_map(|(numbers, block)| numbers.iter().map(|&q| f64::from(q) * f64::from(block.scale)))
        .collect()
}

#[test]
fn quantised_products_of_every_format_shape_and_ending() {
    for (what, mut crew) in crews() {
        for format in [BlockFormat::Q4_0, BlockFormat::Q4_1, BlockFormat::Q8_0] {
            for (rows, inputs, outputs) in [(1, 32, 16), (3, 96, 40), (12, 64, 7), (29, 160, 112)] {
                let packed = blocks(format, outputs * inputs / 32, 1);
                let weights: Vec<f64> = packed
                    .chunks_exact(format.bytes())
                    .flat_map(|block| plain_block(format, block))
                    .collect();
                let (bias, before) = (numbers(outputs, 3), numbers(rows * outputs, 4));
                let matrix = QuantizedMatrix::from_blocks(format, &packed, inputs).with_bias(&bias);

                let mut x = QuantizedRows::default();
                quantize(&mut crew, Source::Plain(&numbers(rows * inputs, 2)), inputs, &mut x);
                let expected = product(&rounded(&x), &weights, inputs);
                for ending in [Ending::Store, Ending::Add] {
                    let mut out = before.clone();
                    matrix.multiply(&mut crew, &x, ending, &mut out);
                    let added = |at: usize| match ending {
                        Ending::Store => f64::from(bias[at % outputs]),
                        Ending::Add => f64::from(bias[at % outputs]) + f64::from(before[at]),
                    };
                    let expected: Vec<f64> =
                        expected.iter().enumerate().map(|(at, product)| product + added(at)).collect();
                    assert_near(
                        &out,
                        &expected,
                        5e-4,
                        &format!("{what} {format:?} {rows}×{inputs}×{outputs}"),
                    );
                }
                let mut row = vec![0.0; inputs];
                matrix.read_row(outputs - 1, &mut row);
                assert_near(&row, &weights[(outputs - 1) * inputs..], 1e-6, "a row of weights");
            }
        }
    }
}

#[test]
fn a_rows_result_does_not_depend_on_the_others() {
    let (inputs, outputs) = (96, 48);
    let matrix = QuantizedMatrix::from_numbers(&numbers(inputs * outputs, 1), inputs);
    for (what, mut crew) in crews() {
        let mut x = QuantizedRows::default();
        let mut all = vec![0.0; 25 * outputs];
        let numbers = numbers(25 * inputs, 2);
        quantize(&mut crew, Source::Plain(&numbers), inputs, &mut x);
        matrix.multiply(&mut crew, &x, Ending::Store, &mut all);
        for (x_row, expected) in numbers.chunks_exact(inputs).zip(all.chunks_exact(outputs)) {
            let mut alone = vec![0.0; outputs];
            quantize(&mut crew, Source::Plain(x_row), inputs, &mut x);
            matrix.multiply(&mut crew, &x, Ending::Store, &mut alone);
            assert_eq!(alone, expected, "{what}");
        }
    }
}

#[test]
fn numbers_become_eight_bits_with_the_least_error() {
    let weights = numbers(3 * 64, 5);
    let matrix = QuantizedMatrix::from_numbers(&weights, 64);
    for (output, expected) in weights.chunks_exact(64).enumerate() {
        let mut row = vec![0.0; 64];
        matrix.read_row(output, &mut row);
        for (is, expected) in row.chunks(32).zip(expected.chunks(32)) {
            let largest = expected.iter().fold(0.0, |largest: f32, number| largest.max(number.abs()));
            let off = is.iter().zip(expected).map(|(is, expected)| (is - expected).abs());
            assert!(off.fold(0.0, f32::max) <= largest / 250.0);
        }
    }
}

#[test]
fn rows_are_normalised_gated_and_rounded() {
    let (rows, width) = (5, 96);
    let (gain, x, gates) = (numbers(width, 1), numbers(rows * width, 2), numbers(rows * width * 2, 3));
    let plain: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let mut normal = Vec::new();
    for row in plain.chunks_exact(width) {
        let square = row.iter().map(|x| x * x).sum::<f64>() / width as f64;
        normal.extend(row.iter().zip(&gain).map(|(x, &g)| x / (square + 1e-5).sqrt() * f64::from(g)));
    }
    let mut gated = Vec::new();
    for row in gates.chunks_exact(2 * width) {
        let (gates, ups) = row.split_at(width);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        gated.extend(gates.iter().zip(ups).map(|(&g, &u)| silu(f64::from(g)) * f64::from(u)));
    }
    let sources = [
        (Source::Plain(&x), plain),
        (Source::RmsNorm { x: &x, gain: &gain, epsilon: 1e-5 }, normal),
        (Source::SwiGlu(&gates), gated),
    ];
    for (what, mut crew) in crews() {
        for (source, expected) in &sources {
            let mut out = QuantizedRows::default();
            quantize(&mut crew, *source, width, &mut out);
            let largest = expected.iter().fold(0.0, |largest: f64, number| largest.max(number.abs()));
            let is: Vec<f32> = rounded(&out).iter().map(|&number| number as f32).collect();
            assert_near(&is, expected, largest / 250.0, &what);
            for (block, numbers) in out.blocks.iter().zip(out.numbers.chunks_exact(32)) {
                assert_eq!(block.sum, numbers.iter().map(|&number| i32::from(number)).sum::<i32>());
            }
        }
    }
    let mut zeros = QuantizedRows::default();
    quantize(&mut Crew::new(1).unwrap(), Source::Plain(&[0.0; 32]), 32, &mut zeros);
    assert!(rounded(&zeros).iter().all(|&number| number == 0.0));
}

const SHAPE: (usize, usize, usize) = (6, 2, 32);

/// Attention of one sequence in 64 bits, with keys and values as 16 bits hold them.
fn plain_attention(qkv: &[f32], base: f64) -> Vec<f64> {
    let (heads, key_heads, width) = SHAPE;
    let row = (heads + 2 * key_heads) * width;
    let tokens = qkv.len() / row;
    let turned = |token: usize, head: usize| -> Vec<f64> {
        let x = &qkv[token * row + head * width..][..width];
        let half = width / 2;
        (0..width)
            .map(|i| {
                let angle = token as f64 * base.powf(-((i % half) as f64) / half as f64);
                let (left, right) = (f64::from(x[i % half]), f64::from(x[i % half + half]));
                if i < half {
                    left * angle.cos() - right * angle.sin()
                } else {
                    left * angle.sin() + right * angle.cos()
                }
            })
            .collect()
    };
    let mut out = Vec::new();
    for token in 0..tokens {
        for head in 0..heads {
            let key_head = head / (heads / key_heads);
            let query = turned(token, head);
            let weights: Vec<f64> = (0..=token)
                .map(|other| {
                    let key = turned(other, heads + key_head);
                    let product: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    (product / (width as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..width).map(|i| {
                let value =
                    |other: usize| f64::from(qkv[other * row + (heads + key_heads + key_head) * width + i]);
                weights.iter().enumerate().map(|(other, w)| w * value(other)).sum::<f64>() / total
            }));
        }
    }
    out
}

#[test]
fn causal_attention_sees_what_came_before_however_it_came() {
    let (heads, key_heads, width) = SHAPE;
    let attention = CausalAttention::new(heads, key_heads, width, 128, 10_000.0);
    let (row, tokens) = (attention.row(), 99);
    let qkv: Vec<f32> = numbers(tokens * row, 7).iter().map(|number| 3.0 * number).collect();
    let expected = plain_attention(&qkv, 10_000.0);
    for (what, mut crew) in crews() {
        let mut whole = vec![0.0; tokens * heads * width];
        let mut memory = attention.memory(2, 100);
        attention.run(&mut crew, &qkv, &mut memory, 1, 0, &mut whole);
        assert_near(&whole, &expected, 5e-3, &what);

        // In pieces, in memory that has held something else.
        let other = numbers(70 * row, 8);
        attention.run(&mut crew, &other, &mut memory, 1, 0, &mut whole[..70 * heads * width]);
        let mut pieces = vec![0.0; tokens * heads * width];
        let mut first = 0;
        for piece in [40, 1, 1, 30, 27] {
            let rows = first..first + piece;
            attention.run(
                &mut crew,
                &qkv[rows.start * row..rows.end * row],
                &mut memory,
                1,
                first,
                &mut pieces[rows.start * heads * width..rows.end * heads * width],
            );
            first += piece;
        }
        attention.run(&mut crew, &qkv, &mut memory, 0, 0, &mut whole);
        assert_eq!(pieces, whole, "{what}: a token's result depends on how the prompt is cut");

        let mut copy = attention.memory(2, 100);
        copy.copy_from(&memory, 45);
        let (start, out) = (45 * row, 45 * heads * width);
        attention.run(&mut crew, &qkv[start..], &mut copy, 1, 45, &mut pieces[out..]);
        assert_eq!(pieces, whole, "{what}: a copied beginning");
    }
}

#[test]
fn halves_are_rounded_to_the_nearest() {
    for bits in 0..=u16::MAX {
        let exponent = bits >> 10 & 31;
        if exponent == 31 {
            continue;
        }
        let number = half::to_f32(bits);
        assert_eq!(half::from_f32(number), bits, "{number}");
        // Halfway to the next number the even one is taken.
        if bits & 0x7fff < 0x7bff {
            let next = half::to_f32(bits + 1);
            let middle = (number + next) / 2.0;
            assert_eq!(half::from_f32(middle), bits + (bits & 1), "{middle}");
            assert_eq!(half::from_f32(number + (next - number) * 0.51), bits + 1);
            assert_eq!(half::from_f32(number + (next - number) * 0.49), bits);
        }
    }
    assert_eq!(half::to_f32(0x3c00), 1.0);
    assert_eq!(half::to_f32(0x0001), 2f32.powi(-24));
    assert_eq!(half::from_f32(1e9), 0x7bff);
}

#[test]
fn a_crew_does_every_part_once_and_passes_panics_on() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let mut crew = Crew::new(4).unwrap();
    for round in 0..2000 {
        let count = round % 70;
        let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        crew.share(count, 1, &|range| {
            for index in range {
                done[index].fetch_add(1, Ordering::Relaxed);
            }
        });
        assert!(done.iter().all(|times| times.load(Ordering::Relaxed) == 1), "round {round}");
        if round % 500 == 0 {
            // Long enough that the workers sleep.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        crew.share(50, 1, &|range| assert!(!range.contains(&33), "part 33"));
    }));
    assert!(panicked.is_err());
    let sum = AtomicUsize::new(0);
    crew.share(50, 1, &|range| {
        sum.fetch_add(range.sum(), Ordering::Relaxed);
    });
    assert_eq!(sum.into_inner(), 49 * 50 / 2, "the crew goes on after a panic");
}

#[test]
fn logits_become_probabilities() {
    for count in [1, 5, 16, 37, 1000] {
        let logits: Vec<f32> = numbers(count, 9).iter().map(|number| 30.0 * number).collect();
        let plain: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) / 0.7).exp()).collect();
        let total: f64 = plain.iter().sum();
        let expected: Vec<f64> = plain.iter().map(|power| power / total).collect();
        let mut is = logits.clone();
        softmax(&mut is, 0.7);
        assert_near(&is, &expected, 1e-6, "probabilities");
        let best = (0..count).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        assert_eq!(largest(&logits), best);
    }
    assert_eq!(largest(&[1.0, 3.0, 3.0]), 1);
    assert_eq!(largest(&[f32::NAN; 20]), 0);
}
