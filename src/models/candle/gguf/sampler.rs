//! Chooses the next token.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::models::GenerateRequest;

/// Chooses tokens for one answer; the same seed makes the same choices.
pub struct Sampler {
    temperature: f32,
    top_p: f32,
    random: StdRng,
}

impl Sampler {
    pub fn new(request: &GenerateRequest) -> Self {
        let seed = request.seed.unwrap_or_else(rand::random);
        let top_p = request.top_p.unwrap_or(1.0);
        Self { temperature: request.temperature, top_p, random: StdRng::seed_from_u64(seed) }
    }

    /// A token by its logits, which are overwritten.
    pub fn sample(&mut self, logits: &mut [f32]) -> u32 {
        if self.temperature <= 0.0 {
            return ragway_kernels::largest(logits) as u32;
        }
        ragway_kernels::softmax(logits, self.temperature);
        let at = self.random.random::<f32>();
        if self.top_p < 1.0 {
            draw(&nucleus(logits, self.top_p), at)
        } else {
            draw(&(0u32..).zip(logits.iter().copied()).collect::<Vec<_>>(), at)
        }
    }
}

/// The likeliest tokens that together have at least the probability `top_p`, the likeliest first.
fn nucleus(probabilities: &[f32], top_p: f32) -> Vec<(u32, f32)> {
    // All tokens under this together cannot have 1 − top_p, so that the nucleus is above.
    let least = (1.0 - top_p) / probabilities.len() as f32;
    let likely = (0u32..).zip(probabilities.iter().copied()).filter(|(_, p)| *p >= least);
    let mut likely: Vec<_> = likely.collect();
    likely.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let mut sum = 0.0;
    let enough = likely.iter().position(|(_, p)| {
        sum += p;
        sum >= top_p
    });
    likely.truncate(enough.map_or(likely.len(), |last| last + 1));
    likely
}

/// The token at the share `at` of the sum of all probabilities.
fn draw(tokens: &[(u32, f32)], at: f32) -> u32 {
    let mut left = at * tokens.iter().map(|(_, p)| p).sum::<f32>();
    let drawn = tokens.iter().find(|(_, p)| {
        left -= p;
        left < 0.0
    });
    // Rounding may leave a little at the end.
    drawn.or_else(|| tokens.iter().rfind(|(_, p)| *p > 0.0)).map_or(0, |(token, _)| *token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 3.0, 1.0, 2.5, -1.0];

    fn sampler(temperature: f32, top_p: Option<f32>, seed: u64) -> Sampler {
        let seed = Some(seed);
        Sampler::new(&GenerateRequest { temperature, top_p, seed, ..GenerateRequest::default() })
    }

    fn samples(sampler: &mut Sampler, count: usize) -> Vec<u32> {
        (0..count).map(|_| sampler.sample(&mut LOGITS.clone())).collect()
    }

    #[test]
    fn without_a_temperature_the_likeliest_is_taken() {
        assert_eq!(samples(&mut sampler(0.0, None, 1), 3), [1, 1, 1]);
    }

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let choices = |seed, top_p| samples(&mut sampler(1.0, top_p, seed), 50);
        assert_eq!(choices(1, None), choices(1, None));
        assert_ne!(choices(1, None), choices(2, None));
        assert_eq!(choices(1, Some(0.9)), choices(1, Some(0.9)));
    }

    #[test]
    fn tokens_come_as_often_as_their_probability_says() {
        for (temperature, top_p, allowed) in [(1.0, None, 5), (0.7, Some(0.8), 2), (2.0, Some(0.9), 4)] {
            let weights: Vec<f64> = LOGITS.iter().map(|x| f64::from(x / temperature).exp()).collect();
            let mut order = [0, 1, 2, 3, 4];
            order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
            let total: f64 = order[..allowed].iter().map(|&token| weights[token]).sum();
            let drawn = samples(&mut sampler(temperature, top_p, 3), 20_000);
            for (place, &token) in order.iter().enumerate() {
                let share = drawn.iter().filter(|&&drawn| drawn as usize == token).count() as f64 / 20_000.0;
                let expected = if place < allowed { weights[token] / total } else { 0.0 };
                assert!((share - expected).abs() < 0.015, "{temperature} {top_p:?} {token}: {share}");
            }
        }
    }

    #[test]
    fn a_nucleus_of_one_is_the_likeliest() {
        assert_eq!(samples(&mut sampler(1.0, Some(1e-6), 4), 5), [1; 5]);
    }
}
