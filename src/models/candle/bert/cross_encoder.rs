//! BERT cross-encoders: query and text are read together, and one number comes out.
//!
//! As sentence-transformers' `CrossEncoder` with one label: the pair is cut where it is too long,
//! from the longer side first, and the logit is turned into 0 to 1 by the logistic function.

use std::{path::Path, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tokenizers::{Tokenizer, TruncationParams};
use tokio::task::spawn_blocking;

use super::{
    super::text::AnyError,
    encoder::{EncodeError, Encoder},
    weights::{BertConfig, CrossEncoderWeights, LinearWeights},
};
use crate::{
    config::RerankerEntry,
    models::{
        Lane, ModelError, Relevance, Reranker, logistic,
        scheduler::{BatchModel, LaneStatus, Limits, Scheduler},
    },
};

/// In tokens; the interactive budget is that of four pairs of the usual longest length, so that
/// a question behind a long list does not wait for all of it.
const LIMITS: Limits = Limits {
    interactive_batch: 2048,
    bulk_batch: 4096,
    queue: 1 << 19,
    ageing: Duration::from_secs(2),
    stuck: Duration::from_secs(60),
};

/// A cross-encoder behind a scheduler.
pub struct CrossEncoder {
    name: String,
    tokenizer: Arc<Tokenizer>,
    scheduler: Scheduler<PairModel>,
}

impl CrossEncoder {
    /// Loads `model.safetensors`, `tokenizer.json` and `config.json` from `folder`. Blocks.
    pub fn load(entry: &RerankerEntry, folder: &Path) -> Result<Self, ModelError> {
        let failed =
            |error: AnyError| ModelError::Failed { model: entry.name.clone(), reason: error.to_string() };
        let (tokenizer, model) = load_parts(entry, folder).map_err(failed)?;
        Ok(Self {
            name: entry.name.clone(),
            tokenizer: Arc::new(tokenizer),
            scheduler: Scheduler::start(&entry.name, LIMITS, model)?,
        })
    }

    async fn run(&self, query: String, texts: Vec<String>, lane: Lane) -> Result<Relevance, ModelError> {
        let tokenizer = Arc::clone(&self.tokenizer);
        let pairs = spawn_blocking(move || {
            let pair = |text: String| Pair::new(&tokenizer, &query, text);
            texts.into_iter().map(pair).collect::<Result<Vec<_>, _>>()
        });
        let failed = |reason: String| ModelError::Failed { model: self.name.clone(), reason };
        let pairs = pairs.await.map_err(|error| failed(error.to_string()))?;
        let pairs = pairs.map_err(|error| failed(error.to_string()))?;
        let truncated = (0..pairs.len()).filter(|&index| pairs[index].truncated).collect();
        let tokens = pairs.iter().map(|pair| pair.ids.len()).sum();
        let costed = |pair: Pair| {
            let cost = pair.ids.len();
            (pair, cost)
        };
        let raw = self.scheduler.submit(pairs.into_iter().map(costed).collect(), lane).await?;
        Ok(Relevance { scores: raw.iter().copied().map(logistic).collect(), raw, truncated, tokens })
    }
}

impl Reranker for CrossEncoder {
    fn name(&self) -> &str {
        &self.name
    }

    fn check_alive(&self) -> Result<(), ModelError> {
        self.scheduler.check_alive()
    }

    fn lanes(&self) -> Vec<LaneStatus> {
        self.scheduler.status()
    }

    fn rerank(
        &self,
        query: String,
        texts: Vec<String>,
        lane: Lane,
    ) -> BoxFuture<'_, Result<Relevance, ModelError>> {
        self.run(query, texts, lane).boxed()
    }
}

/// Query and text as the encoder reads them.
struct Pair {
    ids: Vec<u32>,
    /// Tokens of type 0.
    first: usize,
    truncated: bool,
}

impl Pair {
    fn new(tokenizer: &Tokenizer, query: &str, text: String) -> Result<Self, AnyError> {
        let encoding = tokenizer.encode_fast((query, text), true)?;
        Ok(Self {
            ids: encoding.get_ids().to_vec(),
            first: encoding.get_type_ids().iter().take_while(|&&kind| kind == 0).count(),
            truncated: !encoding.get_overflowing().is_empty(),
        })
    }
}

/// Pairs → logits, as the scheduler wants it.
struct PairModel {
    name: String,
    encoder: Encoder,
    dense: LinearWeights,
    output: LinearWeights,
}

impl PairModel {
    fn logits(&self, pairs: &[&Pair]) -> Result<Vec<f32>, EncodeError> {
        let pairs: Vec<(&[u32], usize)> =
            pairs.iter().map(|pair| (pair.ids.as_slice(), pair.first)).collect();
        let states = self.encoder.encode_pairs(&pairs)?;
        let logit = |state: &Vec<f32>| {
            let pooled: Vec<f32> = linear(&self.dense, state).map(f32::tanh).collect();
            linear(&self.output, &pooled).next().filter(|logit| logit.is_finite())
        };
        states.iter().map(|state| logit(state).ok_or(EncodeError::NotFinite)).collect()
    }
}

impl BatchModel for PairModel {
    type Item = Pair;
    type Output = f32;

    fn run(&self, items: &[&Pair]) -> Result<Vec<f32>, ModelError> {
        self.logits(items)
            .map_err(|error| ModelError::Failed { model: self.name.clone(), reason: error.to_string() })
    }
}

/// `x·Wᵀ + b` of one row: too little to be worth packing.
fn linear<'a>(weights: &'a LinearWeights, x: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
    let rows = weights.weight.chunks_exact(x.len()).zip(&weights.bias);
    rows.map(move |(row, bias)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>() + bias)
}

fn load_parts(entry: &RerankerEntry, folder: &Path) -> Result<(Tokenizer, PairModel), AnyError> {
    let mut tokenizer = Tokenizer::from_file(folder.join("tokenizer.json"))?;
    tokenizer.with_padding(None);
    let limit = TruncationParams { max_length: entry.max_tokens, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(limit))?;
    let config: BertConfig = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let file = std::fs::read(folder.join("model.safetensors"))?;
    let CrossEncoderWeights { encoder, dense, output } =
        CrossEncoderWeights::from_safetensors(file, &config)?;
    let encoder = Encoder::new(&config, encoder, entry.precision)?;
    if entry.max_tokens > encoder.positions() {
        let positions = encoder.positions();
        return Err(
            format!("models.toml says max_tokens {}, the model reads {positions}", entry.max_tokens).into()
        );
    }
    Ok((tokenizer, PairModel { name: entry.name.clone(), encoder, dense, output }))
}
