//! BERT sentence encoders.
//!
//! [`weights`] reads the parameters, [`encoder`] is the forward pass over packed
//! texts. Arithmetic and pooling follow sentence-transformers (`Transformer`,
//! `Pooling`, `Normalize`); the golden vectors in `tests/golden` were recorded
//! from it.

use std::{path::Path, sync::Arc, thread, time::Duration};

use futures_util::{
    FutureExt,
    future::{BoxFuture, try_join_all},
};
use tokenizers::Tokenizer;
use tokio::task::spawn_blocking;

pub mod encoder;
#[cfg(test)]
mod tests;
pub mod weights;

use self::{
    encoder::Encoder,
    weights::{BertConfig, BertWeights},
};
use crate::{
    config::{EmbedderEntry, EmbeddingSpace, Pooling, Prefixes},
    models::{
        Embedder, Embeddings, Lane, ModelError, TextRole, Token,
        scheduler::{BatchModel, Limits, Pause, Scheduler},
    },
};

/// In tokens. Interactive items pass a bulk batch between any two of its products, so that a bulk
/// batch may be as long as it is efficient.
const LIMITS: Limits =
    Limits { interactive_batch: 2048, bulk_batch: 4096, queue: 1 << 19, ageing: Duration::from_millis(300) };
/// Texts that one thread tokenises at least: a few take less time than waking another.
const TEXTS_A_THREAD: usize = 32;
/// Bytes of text that are tokenised where they are: it takes under 0.1 ms, and a wait for another
/// thread takes milliseconds where a bulk batch keeps every core busy.
const BYTES_INLINE: usize = 512;

/// A BERT encoder behind a scheduler.
pub struct BertEmbedder {
    space: EmbeddingSpace,
    prefixes: Prefixes,
    tokenizer: Arc<TextTokenizer>,
    scheduler: Scheduler<SentenceEncoder>,
}

impl BertEmbedder {
    /// Loads `model.safetensors`, `tokenizer.json` and `config.json` from `folder`. Blocks.
    pub fn load(entry: &EmbedderEntry, folder: &Path) -> Result<Self, ModelError> {
        let failed = |reason: String| ModelError::Failed { model: entry.name.clone(), reason };
        let encoder = load_encoder(folder).map_err(|error| failed(error.to_string()))?;
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
        let tokenizer = TextTokenizer::load(entry, folder).map_err(|error| failed(error.to_string()))?;
        let weights = entry.files.iter().find(|file| file.name == "model.safetensors");
        let space = EmbeddingSpace::new(
            &entry.name,
            weights.map_or("", |file| &file.sha256),
            entry.pooling,
            entry.normalize,
            &entry.prefixes,
            entry.dimension,
        );
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
        let texts = self.prefixed(texts, role);
        let tokenized = self.tokenizer.tokenize_all(texts).await.map_err(|error| self.failed(error))?;
        let truncated = (0..tokenized.len()).filter(|&index| tokenized[index].truncated).collect();
        let costs: Vec<usize> = tokenized.iter().map(|text| text.ids.len()).collect();
        let tokens = costs.iter().sum();
        let items = tokenized.into_iter().map(|text| text.ids).zip(costs).collect();
        let vectors = self.scheduler.submit(items, lane).await?;
        Ok(Embeddings { vectors, truncated, tokens })
    }

    fn failed(&self, error: AnyError) -> ModelError {
        ModelError::Failed { model: self.space.model.clone(), reason: error.to_string() }
    }

    fn prefixed(&self, texts: Vec<String>, role: TextRole) -> Vec<String> {
        let prefix = match role {
            TextRole::Query => &self.prefixes.query,
            TextRole::Passage => &self.prefixes.passage,
        };
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
        self.tokenizer.max_tokens
    }

    fn count_tokens(&self, text: &str) -> usize {
        // The tokenizer fails on no text: WordPiece has an unknown token.
        self.tokenizer.inner.encode_fast(text, false).map_or(0, |encoding| encoding.len())
    }

    fn tokenize(&self, text: &str, special: bool) -> Result<Vec<Token>, ModelError> {
        let encoding =
            self.tokenizer.inner.encode_char_offsets(text, special).map_err(|error| self.failed(error))?;
        let (ids, texts, special) =
            (encoding.get_ids(), encoding.get_tokens(), encoding.get_special_tokens_mask());
        let token = |(index, &(start, stop)): (usize, &(usize, usize))| Token {
            id: ids[index],
            text: texts[index].clone(),
            special: special[index] == 1,
            start,
            stop,
        };
        Ok(encoding.get_offsets().iter().enumerate().map(token).collect())
    }

    fn embed(
        &self,
        texts: Vec<String>,
        role: TextRole,
        lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        self.run(texts, role, lane).boxed()
    }
}

/// Token ids → vectors, as the scheduler wants it.
struct SentenceEncoder {
    name: String,
    encoder: Encoder,
    pooling: Pooling,
    normalize: bool,
}

impl BatchModel for SentenceEncoder {
    type Item = Vec<u32>;
    type Output = Vec<f32>;

    fn run(&self, items: &[&Vec<u32>], pause: Pause<'_>) -> Result<Vec<Vec<f32>>, ModelError> {
        let texts: Vec<&[u32]> = items.iter().map(|ids| ids.as_slice()).collect();
        self.encoder
            .encode(&texts, self.pooling, self.normalize, pause)
            .map_err(|error| ModelError::Failed { model: self.name.clone(), reason: error.to_string() })
    }
}

/// Cuts texts to what the model reads.
struct TextTokenizer {
    inner: Tokenizer,
    max_tokens: usize,
}

/// Token ids of one text.
struct Tokenized {
    ids: Vec<u32>,
    truncated: bool,
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

impl TextTokenizer {
    fn load(entry: &EmbedderEntry, folder: &Path) -> Result<Self, AnyError> {
        let mut inner = Tokenizer::from_file(folder.join("tokenizer.json"))?;
        // The file of a published model often carries the limits of its training.
        inner.with_truncation(None)?;
        inner.with_padding(None);
        Ok(Self { inner, max_tokens: entry.max_tokens })
    }

    /// More than a little runs on tokio's blocking threads, and not on rayon's pool, where a forward pass would have to
    /// wait for it.
    async fn tokenize_all(self: &Arc<Self>, mut texts: Vec<String>) -> Result<Vec<Tokenized>, AnyError> {
        if texts.iter().map(String::len).sum::<usize>() <= BYTES_INLINE {
            return texts.iter().map(|text| self.tokenize(text)).collect();
        }
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let share = texts.len().div_ceil(threads).max(TEXTS_A_THREAD);
        let mut parts = Vec::new();
        while !texts.is_empty() {
            let rest = texts.split_off(share.min(texts.len()));
            let part = std::mem::replace(&mut texts, rest);
            let tokenizer = Arc::clone(self);
            let work =
                move || part.iter().map(|text| tokenizer.tokenize(text)).collect::<Result<Vec<_>, _>>();
            parts.push(async { spawn_blocking(work).await? });
        }
        Ok(try_join_all(parts).await?.into_iter().flatten().collect())
    }

    /// `[CLS] … [SEP]`, the middle cut where it is too long, as the reference does.
    fn tokenize(&self, text: &str) -> Result<Tokenized, AnyError> {
        let mut ids = self.inner.encode_fast(text, true)?.get_ids().to_vec();
        let truncated = ids.len() > self.max_tokens;
        if truncated && let Some(&end) = ids.last() {
            ids.truncate(self.max_tokens - 1);
            ids.push(end);
        }
        Ok(Tokenized { ids, truncated })
    }
}

fn load_encoder(folder: &Path) -> Result<Encoder, AnyError> {
    let config: BertConfig = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let weights = BertWeights::from_safetensors(std::fs::read(folder.join("model.safetensors"))?, &config)?;
    Ok(Encoder::new(&config, weights)?)
}
