//! The parameters of a BERT encoder, wherever they come from.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use half::f16;
use serde::Deserialize;

/// What `config.json` of a published model says; keys that change nothing here are passed over.
#[derive(Debug, Clone, Deserialize)]
pub struct BertConfig {
    /// Numbers of a token's state.
    pub hidden_size: usize,
    pub num_attention_heads: usize,
    pub num_hidden_layers: usize,
    /// Numbers of the feed-forward layer.
    pub intermediate_size: usize,
    /// Longest text, in tokens.
    pub max_position_embeddings: usize,
    pub vocab_size: usize,
    #[serde(default = "epsilon")]
    pub layer_norm_eps: f32,
    #[serde(default)]
    pub hidden_act: HiddenAct,
}

/// The activation of the feed-forward layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenAct {
    /// `x · Φ(x)`, by the error function.
    #[default]
    Gelu,
}

fn epsilon() -> f32 {
    1e-12
}

/// All parameters, unpacked. Matrices are row-major.
pub struct BertWeights {
    /// `[vocab_size, hidden]`
    pub word: EmbeddingTable,
    /// `[max_position_embeddings, hidden]`; the first token stands at row 0.
    pub position: Vec<f32>,
    /// `[types, hidden]`: of the first text of a pair, then of the second. Sentence encoders read
    /// one text, so type 0 is all they need.
    pub token_type: Vec<f32>,
    /// Of the sum of the three.
    pub norm: NormWeights,
    pub layers: Vec<LayerWeights>,
}

/// One row a token of the vocabulary.
pub enum EmbeddingTable {
    /// `[vocab_size, hidden]`
    F32(Vec<f32>),
    /// `[vocab_size, hidden / 32]` blocks of ggml's type `Q4_0`.
    Q4_0(Vec<BlockQ4_0>),
}

/// 32 numbers in four bits each: number `i` is `scale · (nibble − 8)`, where the low nibbles hold
/// numbers 0–15 and the high ones 16–31.
#[derive(Debug, Clone, Copy)]
pub struct BlockQ4_0 {
    pub scale: f16,
    pub nibbles: [u8; BlockQ4_0::NUMBERS / 2],
}

/// Of one layer of the encoder.
pub struct LayerWeights {
    pub query: LinearWeights,
    pub key: LinearWeights,
    pub value: LinearWeights,
    pub attention_output: LinearWeights,
    pub attention_norm: NormWeights,
    /// `[intermediate, hidden]`
    pub intermediate: LinearWeights,
    /// `[hidden, intermediate]`
    pub output: LinearWeights,
    pub output_norm: NormWeights,
}

/// `y = x·Wᵀ + b`
pub struct LinearWeights {
    /// `[outputs, inputs]`
    pub weight: Vec<f32>,
    /// `[outputs]`
    pub bias: Vec<f32>,
}

/// Of a layer normalisation.
pub struct NormWeights {
    /// `[hidden]`
    pub gain: Vec<f32>,
    /// `[hidden]`
    pub bias: Vec<f32>,
}

impl BertWeights {
    /// Reads `model.safetensors` under the names that Hugging Face gives, with or without the
    /// leading `bert.`.
    pub fn from_safetensors(file: Vec<u8>, config: &BertConfig) -> candle_core::Result<Self> {
        let root = VarBuilder::from_buffered_safetensors(file, DType::F32, &Device::Cpu)?;
        let named = root.contains_tensor("bert.embeddings.word_embeddings.weight");
        let root = if named { root.pp("bert") } else { root };
        Self::read(&root, config, 0)
    }

    /// `skipped` rows of the positions come before that of the first token.
    fn read(root: &VarBuilder<'_>, config: &BertConfig, skipped: usize) -> candle_core::Result<Self> {
        let hidden = config.hidden_size;
        let embeddings = root.pp("embeddings");
        let table = |rows, name| numbers(embeddings.get((rows, hidden), name)?);
        let mut position = table(config.max_position_embeddings, "position_embeddings.weight")?;
        position.drain(..position.len().min(skipped * hidden));
        let layer = |index| LayerWeights::from_safetensors(&root.pp("encoder.layer").pp(index), config);
        Ok(Self {
            word: EmbeddingTable::F32(table(config.vocab_size, "word_embeddings.weight")?),
            position,
            token_type: numbers(embeddings.get_unchecked("token_type_embeddings.weight")?)?,
            norm: norm(&embeddings.pp("LayerNorm"), hidden)?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<candle_core::Result<_>>()?,
        })
    }
}

/// An encoder of pairs with what makes one number of its first token's state.
pub struct CrossEncoderWeights {
    pub encoder: BertWeights,
    /// `[hidden, hidden]`, before a hyperbolic tangent.
    pub dense: LinearWeights,
    /// `[1, hidden]`
    pub output: LinearWeights,
}

impl CrossEncoderWeights {
    /// Reads `model.safetensors` of transformers' `BertForSequenceClassification` or
    /// `XLMRobertaForSequenceClassification` with one label.
    pub fn from_safetensors(file: Vec<u8>, config: &BertConfig) -> candle_core::Result<Self> {
        let root = VarBuilder::from_buffered_safetensors(file, DType::F32, &Device::Cpu)?;
        let hidden = config.hidden_size;
        if root.contains_tensor("roberta.embeddings.word_embeddings.weight") {
            // Their positions begin after that of the padding, whose id is 1.
            return Ok(Self {
                encoder: BertWeights::read(&root.pp("roberta"), config, 2)?,
                dense: linear(&root.pp("classifier.dense"), hidden, hidden)?,
                output: linear(&root.pp("classifier.out_proj"), 1, hidden)?,
            });
        }
        Ok(Self {
            encoder: BertWeights::read(&root.pp("bert"), config, 0)?,
            dense: linear(&root.pp("bert.pooler.dense"), hidden, hidden)?,
            output: linear(&root.pp("classifier"), 1, hidden)?,
        })
    }
}

impl LayerWeights {
    fn from_safetensors(layer: &VarBuilder<'_>, config: &BertConfig) -> candle_core::Result<Self> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let attention = layer.pp("attention");
        Ok(Self {
            query: linear(&attention.pp("self.query"), hidden, hidden)?,
            key: linear(&attention.pp("self.key"), hidden, hidden)?,
            value: linear(&attention.pp("self.value"), hidden, hidden)?,
            attention_output: linear(&attention.pp("output.dense"), hidden, hidden)?,
            attention_norm: norm(&attention.pp("output.LayerNorm"), hidden)?,
            intermediate: linear(&layer.pp("intermediate.dense"), intermediate, hidden)?,
            output: linear(&layer.pp("output.dense"), hidden, intermediate)?,
            output_norm: norm(&layer.pp("output.LayerNorm"), hidden)?,
        })
    }
}

fn linear(from: &VarBuilder<'_>, outputs: usize, inputs: usize) -> candle_core::Result<LinearWeights> {
    Ok(LinearWeights {
        weight: numbers(from.get((outputs, inputs), "weight")?)?,
        bias: numbers(from.get(outputs, "bias")?)?,
    })
}

/// Old files say `gamma` and `beta`.
fn norm(from: &VarBuilder<'_>, hidden: usize) -> candle_core::Result<NormWeights> {
    let (gain, bias) = if from.contains_tensor("weight") { ("weight", "bias") } else { ("gamma", "beta") };
    Ok(NormWeights { gain: numbers(from.get(hidden, gain)?)?, bias: numbers(from.get(hidden, bias)?)? })
}

fn numbers(tensor: Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

impl EmbeddingTable {
    /// How many rows of `width` there are.
    pub fn rows(&self, width: usize) -> usize {
        match self {
            EmbeddingTable::F32(numbers) => numbers.len() / width,
            EmbeddingTable::Q4_0(blocks) => blocks.len() * BlockQ4_0::NUMBERS / width,
        }
    }

    /// Writes row `index`, whose width is that of `to`.
    pub fn read(&self, index: usize, to: &mut [f32]) {
        let width = to.len();
        match self {
            EmbeddingTable::F32(numbers) => to.copy_from_slice(&numbers[index * width..][..width]),
            EmbeddingTable::Q4_0(blocks) => {
                let blocks = &blocks[index * width / BlockQ4_0::NUMBERS..];
                for (block, to) in blocks.iter().zip(to.chunks_exact_mut(BlockQ4_0::NUMBERS)) {
                    block.read(to);
                }
            }
        }
    }
}

impl BlockQ4_0 {
    /// Numbers of a block.
    pub const NUMBERS: usize = 32;

    /// Writes the 32 numbers.
    pub fn read(&self, to: &mut [f32]) {
        let scale = self.scale.to_f32();
        let (low, high) = to.split_at_mut(Self::NUMBERS / 2);
        for ((nibbles, low), high) in self.nibbles.iter().zip(low).zip(high) {
            *low = scale * (f32::from(nibbles & 0xf) - 8.0);
            *high = scale * (f32::from(nibbles >> 4) - 8.0);
        }
    }
}
