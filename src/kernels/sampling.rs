//! What is computed of the logits of a token.

use crate::{
    activation::exp2_vector,
    vector::{Isa, Kernel, Vector},
};

/// Index of the first of the largest numbers; 0 where none is a number.
pub fn largest(numbers: &[f32]) -> usize {
    let peak = Isa::best().dispatch(Peak(numbers));
    numbers.iter().position(|&number| number == peak).unwrap_or(0)
}

/// Turns logits into probabilities: `exp(logit / temperature)`, over the sum of all.
pub fn softmax(logits: &mut [f32], temperature: f32) {
    let peak = Isa::best().dispatch(Peak(logits));
    Isa::best().dispatch(Softmax { logits, peak, scale: std::f32::consts::LOG2_E / temperature });
}

struct Peak<'a>(&'a [f32]);

impl Kernel for Peak<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Vector>(self) -> f32 {
        let whole = self.0.chunks_exact(V::LANES);
        let rest = whole.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let lanes = whole.fold(V::splat(f32::NEG_INFINITY), |peak, numbers| {
            // SAFETY: a chunk is a vector.
            peak.max(unsafe { V::load(numbers.as_ptr()) })
        });
        lanes.peak().max(rest)
    }
}

struct Softmax<'a> {
    logits: &'a mut [f32],
    peak: f32,
    scale: f32,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { logits, peak, scale } = self;
        let power = |logit: V| exp2_vector(logit.sub(V::splat(peak)).mul(V::splat(scale)));
        let mut sum = V::splat(0.0);
        let mut whole = logits.chunks_exact_mut(V::LANES);
        for numbers in &mut whole {
            // SAFETY: a chunk is a vector.
            unsafe {
                let power = power(V::load(numbers.as_ptr()));
                power.store(numbers.as_mut_ptr());
                sum = sum.add(power);
            }
        }
        let mut sum = sum.sum();
        for number in whole.into_remainder() {
            *number = ((*number - peak) * scale).exp2();
            sum += *number;
        }
        for number in logits {
            *number /= sum;
        }
    }
}
