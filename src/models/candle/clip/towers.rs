//! The two towers: texts and pictures into one space.
//!
//! Names of weights and arithmetic are those of `CLIPModel` in transformers.

use std::path::Path;

use candle_core::{D, DType, Device, IndexOp, Module, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, VarBuilder, embedding, layer_norm, linear_no_bias};

use super::{
    config::{ClipConfig, TextConfig, VisionConfig},
    encoder::Encoder,
};

pub(super) struct Towers {
    pub text: TextTower,
    pub image: ImageTower,
}

impl Towers {
    /// Loads a file of safetensors; half-precision weights are widened.
    pub fn load(file: &Path, config: &ClipConfig) -> Result<Self> {
        let weights = VarBuilder::from_buffered_safetensors(std::fs::read(file)?, DType::F32, &Device::Cpu)?;
        Ok(Self { text: TextTower::load(&weights, config)?, image: ImageTower::load(&weights, config)? })
    }
}

pub(super) struct TextTower {
    config: TextConfig,
    tokens: Embedding,
    positions: Tensor,
    pub encoder: Encoder,
    final_norm: LayerNorm,
    projection: Linear,
}

impl TextTower {
    fn load(weights: &VarBuilder<'_>, config: &ClipConfig) -> Result<Self> {
        let text = &config.text_config;
        let (width, tower) = (text.hidden_size, weights.pp("text_model"));
        let embeddings = tower.pp("embeddings");
        Ok(Self {
            tokens: embedding(text.vocab_size, width, embeddings.pp("token_embedding"))?,
            positions: embeddings.get((text.max_position_embeddings, width), "position_embedding.weight")?,
            encoder: Encoder::load(&tower.pp("encoder"), text.encoder())?,
            final_norm: layer_norm(width, text.layer_norm_eps, tower.pp("final_layer_norm"))?,
            projection: linear_no_bias(width, config.projection_dim, weights.pp("text_projection"))?,
            config: text.clone(),
        })
    }

    /// Ids of `n` texts → `n` × dimension, of length 1.
    pub fn forward(&self, texts: &[&[u32]]) -> Result<Tensor> {
        let (states, mask) = self.embed(texts)?;
        let (n, longest, width) = states.dims3()?;
        let states = self.encoder.forward(states, Some(&mask))?;
        let at = |(row, ids): (usize, &&[u32])| (row * longest + self.config.end_of_text(ids)) as u32;
        let ends: Vec<u32> = texts.iter().enumerate().map(at).collect();
        let ends = Tensor::from_vec(ends, n, &Device::Cpu)?;
        let states = states.reshape((n * longest, width))?.index_select(&ends, 0)?;
        normalized(&self.projection.forward(&self.final_norm.forward(&states)?)?)
    }

    /// The first states and the causal mask. It hides the padding as well: that stands last.
    pub fn embed(&self, texts: &[&[u32]]) -> Result<(Tensor, Tensor)> {
        let longest = texts.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let mut ids = vec![0u32; texts.len() * longest];
        for (row, text) in ids.chunks_mut(longest.max(1)).zip(texts) {
            row[..text.len()].copy_from_slice(text);
        }
        let ids = Tensor::from_vec(ids, (texts.len(), longest), &Device::Cpu)?;
        let states = self.tokens.forward(&ids)?.broadcast_add(&self.positions.narrow(0, 0, longest)?)?;
        let hidden = |row, column| if column > row { f32::NEG_INFINITY } else { 0.0 };
        let mask: Vec<f32> =
            (0..longest).flat_map(|row| (0..longest).map(move |column| hidden(row, column))).collect();
        Ok((states, Tensor::from_vec(mask, (longest, longest), &Device::Cpu)?))
    }
}

pub(super) struct ImageTower {
    config: VisionConfig,
    patches: Linear,
    class: Tensor,
    positions: Tensor,
    pre_norm: LayerNorm,
    pub encoder: Encoder,
    post_norm: LayerNorm,
    projection: Linear,
}

impl ImageTower {
    fn load(weights: &VarBuilder<'_>, config: &ClipConfig) -> Result<Self> {
        let vision = &config.vision_config;
        let (width, patch) = (vision.hidden_size, vision.patch_size);
        let (tower, eps) = (weights.pp("vision_model"), vision.layer_norm_eps);
        let embeddings = tower.pp("embeddings");
        // A convolution whose stride is its width is a product with each patch.
        let patches = embeddings.get((width, 3, patch, patch), "patch_embedding.weight")?;
        let positions = vision.grid().pow(2) + 1;
        Ok(Self {
            patches: Linear::new(patches.flatten_from(1)?, None),
            class: embeddings.get(width, "class_embedding")?,
            positions: embeddings.get((positions, width), "position_embedding.weight")?,
            // The name is misspelt in every checkpoint.
            pre_norm: layer_norm(width, eps, tower.pp("pre_layrnorm"))?,
            encoder: Encoder::load(&tower.pp("encoder"), vision.encoder())?,
            post_norm: layer_norm(width, eps, tower.pp("post_layernorm"))?,
            projection: linear_no_bias(width, config.projection_dim, weights.pp("visual_projection"))?,
            config: vision.clone(),
        })
    }

    /// Pixels of `n` pictures, each 3 × side × side → `n` × dimension, of length 1.
    pub fn forward(&self, pictures: &[&[f32]]) -> Result<Tensor> {
        let states = self.encoder.forward(self.embed(pictures)?, None)?;
        let class = states.i((.., 0))?.contiguous()?;
        normalized(&self.projection.forward(&self.post_norm.forward(&class)?)?)
    }

    /// The first states: the class token and a token a patch.
    pub fn embed(&self, pictures: &[&[f32]]) -> Result<Tensor> {
        let (n, grid, patch) = (pictures.len(), self.config.grid(), self.config.patch_size);
        let pixels = Tensor::from_vec(pictures.concat(), (n, 3, grid, patch, grid, patch), &Device::Cpu)?;
        let pixels = pixels.permute((0, 2, 4, 1, 3, 5))?.reshape((n, grid * grid, 3 * patch * patch))?;
        let class = self.class.expand((n, 1, self.config.hidden_size))?;
        let states = Tensor::cat(&[&class, &self.patches.forward(&pixels)?], 1)?;
        self.pre_norm.forward(&states.broadcast_add(&self.positions)?)
    }
}

fn normalized(vectors: &Tensor) -> Result<Tensor> {
    vectors.broadcast_div(&vectors.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}
