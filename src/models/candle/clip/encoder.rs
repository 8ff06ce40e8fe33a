//! The transformer that both towers have: pre-norm layers of attention and a two-layer perceptron.
//!
//! candle-transformers has one too, with the quick activation and one epsilon
//! only; later checkpoints differ in both.

use candle_core::{D, Module, Result, Tensor};
use candle_nn::{LayerNorm, Linear, VarBuilder, layer_norm, linear, ops};

use super::config::{Activation, EncoderConfig};

pub(super) struct Encoder {
    pub layers: Vec<Layer>,
}

impl Encoder {
    pub fn load(weights: &VarBuilder<'_>, config: EncoderConfig) -> Result<Self> {
        let layer = |index| Layer::load(&weights.pp("layers").pp(index), config);
        Ok(Self { layers: (0..config.layers).map(layer).collect::<Result<_>>()? })
    }

    /// States of `n` × `tokens` × `width` → the same shape. The mask is added to the scores.
    pub fn forward(&self, states: Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        self.layers.iter().try_fold(states, |states, layer| layer.forward(&states, mask))
    }
}

pub(super) struct Layer {
    norm1: LayerNorm,
    attention: Attention,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl Layer {
    fn load(weights: &VarBuilder<'_>, config: EncoderConfig) -> Result<Self> {
        Ok(Self {
            norm1: layer_norm(config.width, config.eps, weights.pp("layer_norm1"))?,
            attention: Attention::load(&weights.pp("self_attn"), config)?,
            norm2: layer_norm(config.width, config.eps, weights.pp("layer_norm2"))?,
            fc1: linear(config.width, config.inner, weights.pp("mlp.fc1"))?,
            fc2: linear(config.inner, config.width, weights.pp("mlp.fc2"))?,
            activation: config.activation,
        })
    }

    pub fn forward(&self, states: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let states = (self.attention.forward(&self.norm1.forward(states)?, mask)? + states)?;
        let inner = self.fc1.forward(&self.norm2.forward(&states)?)?;
        let inner = match self.activation {
            Activation::QuickGelu => (&inner * ops::sigmoid(&(&inner * 1.702)?)?)?,
            Activation::Gelu => inner.gelu_erf()?,
        };
        self.fc2.forward(&inner)? + states
    }
}

struct Attention {
    /// Query, key and value in one product.
    qkv: Linear,
    out: Linear,
    heads: usize,
}

impl Attention {
    fn load(weights: &VarBuilder<'_>, config: EncoderConfig) -> Result<Self> {
        let width = config.width;
        let part = |name: &str| linear(width, width, weights.pp(name));
        let parts = [part("q_proj")?, part("k_proj")?, part("v_proj")?];
        let matrix = Tensor::cat(&parts.each_ref().map(|part| part.weight()), 0)?;
        let biases: Vec<&Tensor> = parts.iter().filter_map(Linear::bias).collect();
        let bias = Tensor::cat(&biases, 0)?;
        Ok(Self { qkv: Linear::new(matrix, Some(bias)), out: part("out_proj")?, heads: config.heads })
    }

    fn forward(&self, states: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let (n, tokens, width) = states.dims3()?;
        let head = width / self.heads;
        let qkv = self.qkv.forward(states)?.reshape((n, tokens, 3, self.heads, head))?;
        let qkv = qkv.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let (query, key, value) = (qkv.get(0)?, qkv.get(1)?, qkv.get(2)?);
        let scores = (query * (head as f64).powf(-0.5))?.matmul(&key.t()?)?;
        let scores = match mask {
            Some(mask) => scores.broadcast_add(mask)?,
            None => scores,
        };
        let mixed = ops::softmax(&scores, D::Minus1)?.matmul(&value)?;
        self.out.forward(&mixed.transpose(1, 2)?.reshape((n, tokens, width))?)
    }
}
