//! CLIP: texts and pictures in one space.
//!
//! Arithmetic, tokens and pixels follow transformers (`CLIPModel`,
//! `CLIPTokenizerFast`, `CLIPImageProcessor`); `tests/golden/make_clip.py`
//! records what it computes. Every checkpoint that transformers loads as a
//! `CLIPModel` loads here: OpenAI's, LAION's, TinyCLIP.

mod config;
mod encoder;
mod thread;
mod towers;

#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc};

use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};
use tokenizers::Tokenizer;
use tokio::sync::oneshot;

use self::{
    config::ClipConfig,
    thread::{ModelThread, Work},
    towers::Towers,
};
use crate::{
    config::{EmbedderEntry, EmbeddingSpace, Prefixes},
    models::{
        Embedder, Embeddings, EncodedImage, Lane, ModelError, TextRole, Token,
        images::{Preprocessor, decode},
    },
};

/// Texts a forward pass takes, sorted by length.
const BATCH_TEXTS: usize = 8;
/// Pictures a forward pass takes: half a second for ViT-B/32 on two cores.
const BATCH_IMAGES: usize = 8;

/// Both towers of a CLIP checkpoint.
pub struct ClipEmbedder {
    space: EmbeddingSpace,
    prefixes: Prefixes,
    max_tokens: usize,
    tokenizer: Arc<Tokenizer>,
    preprocessor: Arc<Preprocessor>,
    /// Decodes pictures; candle's own pool stays free for the model.
    decoders: ThreadPool,
    thread: ModelThread,
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

impl ClipEmbedder {
    /// Loads `model.safetensors`, `tokenizer.json`, `config.json` and, where it is, `preprocessor_config.json`
    /// from `folder`. Vectors have length 1 whatever the entry says. Blocks.
    pub fn load(entry: &EmbedderEntry, folder: &Path) -> Result<Self, ModelError> {
        let failed =
            |error: AnyError| ModelError::Failed { model: entry.name.clone(), reason: error.to_string() };
        Self::read(entry, folder).map_err(failed)
    }

    fn read(entry: &EmbedderEntry, folder: &Path) -> Result<Self, AnyError> {
        let config: ClipConfig = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)
            .map_err(|error| format!("config.json: {error}"))?;
        check(entry, &config)?;
        let edge = config.vision_config.image_size;
        let preprocessor = match std::fs::read(folder.join("preprocessor_config.json")) {
            Ok(json) => Preprocessor::parse(&json, edge)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Preprocessor::clip(edge),
            Err(error) => return Err(error.into()),
        };
        let mut tokenizer = Tokenizer::from_file(folder.join("tokenizer.json"))?;
        tokenizer.with_truncation(None)?;
        tokenizer.with_padding(None);
        let towers = Towers::load(&folder.join("model.safetensors"), &config)?;
        Ok(Self {
            space: EmbeddingSpace::of(entry),
            prefixes: entry.prefixes.clone(),
            max_tokens: entry.max_tokens,
            tokenizer: Arc::new(tokenizer),
            preprocessor: Arc::new(preprocessor),
            decoders: ThreadPoolBuilder::new()
                .num_threads(std::thread::available_parallelism().map_or(1, usize::from))
                .thread_name(|index| format!("decode-{index}"))
                // Without it a panic would end the process; the caller is told that its reply was dropped.
                .panic_handler(|_| tracing::error!("a decoding thread panicked"))
                .build()?,
            thread: ModelThread::start(&entry.name, towers)?,
        })
    }

    async fn embed_texts(&self, texts: Vec<String>, role: TextRole) -> Result<Embeddings, ModelError> {
        let _place = self.thread.queue(texts.len())?;
        let tokens = self.ids(texts, role).await?;
        let truncated = (0..tokens.len()).filter(|&index| tokens[index].truncated).collect();
        let read = tokens.iter().map(|tokens| tokens.ids.len()).sum();
        let mut vectors = vec![Vec::new(); tokens.len()];
        // Texts of like length share a batch, so that little of it is padding.
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|&index| tokens[index].ids.len());
        for batch in order.chunks(BATCH_TEXTS) {
            let ids = batch.iter().map(|&index| tokens[index].ids.clone()).collect();
            let embedded = self.thread.run(Work::Texts(ids)).await?;
            for (&index, vector) in batch.iter().zip(embedded) {
                vectors[index] = vector;
            }
        }
        Ok(Embeddings { vectors, truncated, tokens: read })
    }

    /// Token ids of each text, cut to what the model reads, as the reference cuts: the end stays.
    async fn ids(&self, texts: Vec<String>, role: TextRole) -> Result<Vec<Tokens>, ModelError> {
        let prefix = match role {
            TextRole::Query => self.prefixes.query.clone(),
            TextRole::Passage => self.prefixes.passage.clone(),
        };
        let (tokenizer, limit) = (Arc::clone(&self.tokenizer), self.max_tokens);
        let tokens = self.on_decoders(move || {
            let read = |text: &String| Tokens::read(&tokenizer, &format!("{prefix}{text}"), limit);
            texts.iter().map(read).collect::<Result<Vec<_>, _>>()
        });
        tokens.await?.map_err(|error| self.failed(&error.to_string()))
    }

    async fn embed_pictures(&self, images: Vec<EncodedImage>) -> Result<Embeddings, ModelError> {
        let _place = self.thread.queue(images.len())?;
        let batches = images.chunks(BATCH_IMAGES).enumerate().map(|(number, batch)| {
            let (first, batch) = (number * BATCH_IMAGES, batch.to_vec());
            async move { self.thread.run(Work::Images(self.pixels(first, batch).await?)).await }
        });
        // Two at a time: the next batch is decoded while the model works on this one.
        let batches: Vec<_> = batches.collect();
        let vectors: Vec<Vec<Vec<f32>>> = stream::iter(batches).buffered(2).try_collect().await?;
        Ok(Embeddings { vectors: vectors.concat(), truncated: Vec::new(), tokens: 0 })
    }

    /// The pixels of pictures, of which the first is the request's `first`.
    async fn pixels(&self, first: usize, batch: Vec<EncodedImage>) -> Result<Vec<Vec<f32>>, ModelError> {
        let preprocessor = Arc::clone(&self.preprocessor);
        let read = move |(index, file): (usize, &EncodedImage)| match decode(file) {
            Ok(picture) => Ok(preprocessor.pixels(&picture)),
            Err(reason) => Err(ModelError::BadImage { index: first + index, reason: reason.to_string() }),
        };
        self.on_decoders(move || batch.par_iter().enumerate().map(read).collect()).await?
    }

    async fn on_decoders<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ModelError> {
        let (reply, answer) = oneshot::channel();
        let span = tracing::Span::current();
        self.decoders.spawn(move || {
            if !reply.is_closed() {
                let _ = reply.send(span.in_scope(work));
            }
        });
        answer.await.map_err(|_| self.failed("a decoding thread stopped"))
    }

    fn failed(&self, reason: &str) -> ModelError {
        ModelError::Failed { model: self.space.model.clone(), reason: reason.to_owned() }
    }
}

impl Embedder for ClipEmbedder {
    fn space(&self) -> &EmbeddingSpace {
        &self.space
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn count_tokens(&self, text: &str) -> usize {
        // The tokenizer fails on no text: its vocabulary has every byte.
        self.tokenizer.encode_fast(text, false).map_or(0, |encoding| encoding.len())
    }

    fn tokenize(&self, text: &str, special: bool) -> Result<Vec<Token>, ModelError> {
        let encoding = self
            .tokenizer
            .encode_char_offsets(text, special)
            .map_err(|error| self.failed(&error.to_string()))?;
        let token = |index: usize| Token {
            id: encoding.get_ids()[index],
            text: encoding.get_tokens()[index].clone(),
            special: encoding.get_special_tokens_mask()[index] == 1,
            start: encoding.get_offsets()[index].0,
            stop: encoding.get_offsets()[index].1,
        };
        Ok((0..encoding.len()).map(token).collect())
    }

    fn reads_images(&self) -> bool {
        true
    }

    fn embed(
        &self,
        texts: Vec<String>,
        role: TextRole,
        _lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        self.embed_texts(texts, role).boxed()
    }

    fn embed_images(
        &self,
        images: Vec<EncodedImage>,
        _lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        self.embed_pictures(images).boxed()
    }
}

/// Token ids of one text, cut to what the model reads.
struct Tokens {
    ids: Vec<u32>,
    truncated: bool,
}

impl Tokens {
    fn read(tokenizer: &Tokenizer, text: &str, limit: usize) -> Result<Self, AnyError> {
        let mut ids = tokenizer.encode_fast(text, true)?.get_ids().to_vec();
        let truncated = ids.len() > limit;
        if truncated && let Some(&end) = ids.last() {
            ids.truncate(limit - 1);
            ids.push(end);
        }
        Ok(Self { ids, truncated })
    }
}

fn check(entry: &EmbedderEntry, config: &ClipConfig) -> Result<(), String> {
    let (text, vision) = (&config.text_config, &config.vision_config);
    if entry.dimension != config.projection_dim {
        return Err(format!(
            "models.toml says dimension {}, the weights have {}",
            entry.dimension, config.projection_dim
        ));
    }
    if entry.max_tokens > text.max_position_embeddings {
        return Err(format!(
            "models.toml says max_tokens {}, the model reads {}",
            entry.max_tokens, text.max_position_embeddings
        ));
    }
    if vision.patch_size == 0 || vision.image_size % vision.patch_size != 0 {
        return Err(format!(
            "config.json: image_size {} is no multiple of patch_size {}",
            vision.image_size, vision.patch_size
        ));
    }
    for (tower, width, heads) in [
        ("text_config", text.hidden_size, text.num_attention_heads),
        ("vision_config", vision.hidden_size, vision.num_attention_heads),
    ] {
        if heads == 0 || width % heads != 0 {
            return Err(format!("config.json: {tower}: {heads} heads do not divide {width}"));
        }
    }
    Ok(())
}
