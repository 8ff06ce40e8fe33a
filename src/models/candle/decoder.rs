//! The transformer of a GGUF file, behind one type for every architecture.

use std::ops::Range;

use candle_core::{Device, Result, Tensor, bail, quantized::gguf_file::Content};
use candle_transformers::models::{quantized_llama as llama, quantized_qwen2 as qwen2};

use super::repack::TensorSource;

/// Most prompt tokens of one forward pass.
const CHUNK: usize = 256;
/// Below this a rest is not cut further.
const SMALLEST_CHUNK: usize = 16;

/// A decoder-only model with its key–value cache.
pub struct Decoder {
    weights: Weights,
    max_tokens: usize,
}

enum Weights {
    Llama(Box<llama::ModelWeights>),
    Qwen2(Box<qwen2::ModelWeights>),
}

impl Decoder {
    /// Loads the tensors of `content` from `source`.
    pub fn from_gguf(content: Content, source: &mut dyn TensorSource) -> Result<Self> {
        let mut source = source;
        let architecture = match content.metadata.get("general.architecture") {
            Some(value) => value.to_string()?.clone(),
            None => bail!("the file names no general.architecture"),
        };
        let trained = match content.metadata.get(&format!("{architecture}.context_length")) {
            Some(value) => value.to_u32()? as usize,
            None => bail!("the file names no {architecture}.context_length"),
        };
        let device = Device::Cpu;
        let (weights, max_tokens) = match architecture.as_str() {
            "llama" => {
                let weights = llama::ModelWeights::from_gguf(content, &mut source, &device)?;
                (Weights::Llama(Box::new(weights)), trained.min(llama::MAX_SEQ_LEN))
            }
            "qwen2" => {
                let weights = qwen2::ModelWeights::from_gguf(content, &mut source, &device)?;
                (Weights::Qwen2(Box::new(weights)), trained)
            }
            other => bail!("architecture `{other}` is not supported; known are llama and qwen2"),
        };
        Ok(Self { weights, max_tokens })
    }

    /// Longest sequence that positions exist for.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Reads `tokens` as the ones at `position` and after; position 0 begins a new sequence.
    ///
    /// Returns the logits of the token that follows, of shape `(vocabulary,)`.
    pub fn forward(&mut self, tokens: &[u32], position: usize) -> Result<Tensor> {
        let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match &mut self.weights {
            Weights::Llama(weights) => weights.forward(&input, position)?,
            Weights::Qwen2(weights) => weights.forward(&input, position)?,
        };
        logits.squeeze(0)
    }

    /// Forgets the last sequence, so that its keys and values do not stay in memory.
    pub fn clear(&mut self) {
        match &mut self.weights {
            Weights::Llama(weights) => weights.clear_kv_cache(),
            Weights::Qwen2(weights) => weights.clear_kv_cache(),
        }
    }
}

/// Cuts a prompt of `length` tokens into the ranges of its forward passes.
///
/// The models keep every attention mask they ever made, one for each pair of
/// pass length and position: whole prompts of arbitrary length would add
/// megabytes with every new length, for ever. Passes of 256 tokens, then of
/// smaller powers of two, then a rest under 16 keep all masks of a context of
/// 2048 tokens under 50 MB. Between two passes a generation can be stopped.
pub fn prompt_chunks(length: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let left = length - start;
        if left == 0 {
            return None;
        }
        let size = match left {
            CHUNK.. => CHUNK,
            SMALLEST_CHUNK.. => 1 << left.ilog2(),
            _ => left,
        };
        start += size;
        Some(start - size..start)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn chunks_cover_a_prompt_in_order() {
        for length in 0..1200 {
            let tokens: Vec<usize> = prompt_chunks(length).flatten().collect();
            assert_eq!(tokens, (0..length).collect::<Vec<_>>());
        }
        let sizes: Vec<usize> = prompt_chunks(700).map(|chunk| chunk.len()).collect();
        assert_eq!(sizes, [256, 256, 128, 32, 16, 12]);
    }

    #[test]
    fn masks_of_all_prompt_lengths_stay_small() {
        let masks: HashSet<_> = (0..=2048).flat_map(prompt_chunks).map(|c| (c.len(), c.end)).collect();
        let bytes: usize = masks.iter().map(|(rows, columns)| rows * columns).sum();
        assert!(bytes < 50_000_000, "{bytes}");
    }
}
