//! BERT sentence encoders.
//!
//! [`weights`] reads the parameters, [`encoder`] is the forward pass over packed
//! texts. Arithmetic and pooling follow sentence-transformers (`Transformer`,
//! `Pooling`, `Normalize`); the golden vectors in `tests/golden` were recorded
//! from it.

use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokenizers::Tokenizer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

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
    models::{Embedder, Embeddings, Lane, ModelError, TextRole, Token},
};

/// Tokens a forward pass takes, unless one text has more.
const BATCH_TOKENS: usize = 4096;
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
    /// Loads `model.safetensors`, `tokenizer.json` and `config.json` from `folder`. Blocks.
    pub fn load(entry: &EmbedderEntry, folder: &Path) -> Result<Self, ModelError> {
        let failed = |reason: String| ModelError::Failed { model: entry.name.clone(), reason };
        let encoder = BertModel::load(entry, folder).map_err(|error| failed(error.to_string()))?;
        if encoder.encoder.dimension() != entry.dimension {
            return Err(failed(format!(
                "models.toml says dimension {}, the weights have {}",
                entry.dimension,
                encoder.encoder.dimension()
            )));
        }
        let weights = entry.files.iter().find(|file| file.name == "model.safetensors");
        let space = EmbeddingSpace::new(
            &entry.name,
            weights.map_or("", |file| &file.sha256),
            entry.pooling,
            entry.normalize,
            &entry.prefixes,
            entry.dimension,
        );
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
struct BertModel {
    name: String,
    encoder: Encoder,
    tokenizer: Arc<Tokenizer>,
    pooling: Pooling,
    normalize: bool,
    max_tokens: usize,
}

/// Token ids of one text, cut to what the model reads.
struct Tokens {
    ids: Vec<u32>,
    truncated: bool,
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

impl BertModel {
    fn load(entry: &EmbedderEntry, folder: &Path) -> Result<Self, AnyError> {
        let config: BertConfig = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
        if entry.max_tokens > config.max_position_embeddings {
            let most = config.max_position_embeddings;
            return Err(
                format!("models.toml says max_tokens {}, the model reads {most}", entry.max_tokens).into()
            );
        }
        let mut tokenizer = Tokenizer::from_file(folder.join("tokenizer.json"))?;
        // The file of a published model often carries the limits of its training.
        tokenizer.with_truncation(None)?;
        tokenizer.with_padding(None);
        let weights = std::fs::read(folder.join("model.safetensors"))?;
        let weights = BertWeights::from_safetensors(weights, &config)?;
        Ok(Self {
            name: entry.name.clone(),
            encoder: Encoder::new(&config, weights)?,
            tokenizer: Arc::new(tokenizer),
            pooling: entry.pooling,
            normalize: entry.normalize,
            max_tokens: entry.max_tokens,
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
        let mut vectors = Vec::with_capacity(tokens.len());
        let mut rest = tokens.as_slice();
        while !rest.is_empty() {
            if abandoned() {
                return Err("the caller left".into());
            }
            let mut total = 0;
            let fits = |text: &&Tokens| {
                total += text.ids.len();
                total <= BATCH_TOKENS
            };
            let (batch, after) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            let ids: Vec<&[u32]> = batch.iter().map(|text| text.ids.as_slice()).collect();
            vectors.extend(self.encoder.encode(&ids, self.pooling, self.normalize)?);
            rest = after;
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
}
