//! candle's own BERT over padded texts: what a GPU computes with, and what the packed encoder is
//! compared to. That it works on a GPU is unproven.

use std::path::Path;

use candle_core::{D, DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};

use super::{super::text::AnyError, encoder::EncodeError};
use crate::config::Pooling;

/// candle's model on a device.
pub struct StockEncoder {
    model: BertModel,
    device: Device,
    hidden: usize,
    positions: usize,
}

impl StockEncoder {
    /// Reads `model.safetensors` and `config.json` from `folder`.
    pub fn load(folder: &Path, device: Device) -> Result<Self, AnyError> {
        let config: Config = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
        let file = std::fs::read(folder.join("model.safetensors"))?;
        let weights = VarBuilder::from_buffered_safetensors(file, DType::F32, &device)?;
        let model = BertModel::load(weights, &config)?;
        Ok(Self { model, device, hidden: config.hidden_size, positions: config.max_position_embeddings })
    }

    /// The first GPU; fails where this machine, or this build, has none.
    pub fn gpu() -> Result<Device, AnyError> {
        Device::new_cuda(0).map_err(|error| format!("no GPU can be used: {error}").into())
    }

    /// Numbers of a vector.
    pub fn dimension(&self) -> usize {
        self.hidden
    }

    /// Longest text, in tokens.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Token ids of `n` texts, none empty → `n` vectors, each of length 1 where `normalize`.
    ///
    /// Texts of like length share a pass, so that little of it is padding.
    pub fn encode(
        &self,
        texts: &[&[u32]],
        pooling: Pooling,
        normalize: bool,
    ) -> Result<Vec<Vec<f32>>, EncodeError> {
        // On a CPU the fastest of those tried; a GPU wants more at once.
        let pass = if self.device.is_cpu() { 8 } else { 64 };
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&index| texts[index].len());
        let mut vectors = vec![Vec::new(); texts.len()];
        for indices in order.chunks(pass) {
            let batch: Vec<&[u32]> = indices.iter().map(|&index| texts[index]).collect();
            for (&index, vector) in indices.iter().zip(self.pass(&batch, pooling, normalize)?) {
                vectors[index] = vector;
            }
        }
        if vectors.iter().flatten().all(|number: &f32| number.is_finite()) {
            Ok(vectors)
        } else {
            Err(EncodeError::NotFinite)
        }
    }

    /// As [`StockEncoder::encode`], in one pass: all texts are padded to the longest.
    pub fn pass(
        &self,
        texts: &[&[u32]],
        pooling: Pooling,
        normalize: bool,
    ) -> candle_core::Result<Vec<Vec<f32>>> {
        let longest = texts.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let shape = (texts.len(), longest);
        let (mut ids, mut mask) = (vec![0u32; shape.0 * shape.1], vec![0f32; shape.0 * shape.1]);
        for (row, text) in texts.iter().enumerate() {
            ids[row * longest..][..text.len()].copy_from_slice(text);
            mask[row * longest..][..text.len()].fill(1.0);
        }
        let ids = Tensor::from_vec(ids, shape, &self.device)?;
        let mask = Tensor::from_vec(mask, shape, &self.device)?;
        let states = self.model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
        let mut pooled = match pooling {
            Pooling::Cls => states.i((.., 0))?.contiguous()?,
            Pooling::Mean => {
                let sum = states.broadcast_mul(&mask.unsqueeze(D::Minus1)?)?.sum(1)?;
                sum.broadcast_div(&mask.sum_keepdim(1)?)?
            }
        };
        if normalize {
            pooled = pooled.broadcast_div(&pooled.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?;
        }
        pooled.to_vec2()
    }
}
