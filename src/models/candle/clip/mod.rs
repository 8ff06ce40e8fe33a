//! CLIP: texts and pictures in one space.
//!
//! Arithmetic, tokens and pixels follow transformers (`CLIPModel`,
//! `CLIPTokenizerFast`, `CLIPImageProcessor`); `tests/golden/make_clip.py`
//! records what it computes. Every checkpoint that transformers loads as a
//! `CLIPModel` loads here: OpenAI's, LAION's, TinyCLIP.

mod config;
mod encoder;
mod towers;

#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

use candle_core::{Device, Tensor};
use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};
use tokenizers::Tokenizer;
use tokio::sync::oneshot;
use tracing::Instrument;

use self::{config::ClipConfig, towers::Towers};
use super::text::{AnyError, TextTokenizer};
use crate::{
    config::{EmbedderEntry, EmbeddingSpace, Prefixes},
    models::{
        Embedder, Embeddings, EncodedImage, Lane, ModelError, TextRole, Token, embed_span,
        images::{Preprocessor, decode},
        scheduler::{BatchModel, LaneStatus, Limits, Scheduler},
    },
};

/// Texts or pictures of one forward pass: pictures take half a second for ViT-B/32 on two cores.
const BATCH: usize = 8;
/// In tokens; a picture of ViT-B/32 has 50.
const LIMITS: Limits = Limits {
    interactive_batch: 400,
    bulk_batch: 800,
    queue: 1 << 17,
    ageing: Duration::from_secs(2),
    stuck: Duration::from_secs(60),
};

/// Both towers of a CLIP checkpoint.
pub struct ClipEmbedder {
    space: EmbeddingSpace,
    prefixes: Prefixes,
    tokenizer: Arc<TextTokenizer>,
    preprocessor: Arc<Preprocessor>,
    /// Decodes pictures; candle's own pool stays free for the model.
    decoders: ThreadPool,
    /// Tokens of an image: its patches and the class token.
    image_cost: usize,
    scheduler: Scheduler<ClipModel>,
}

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
        let tokenizer = Tokenizer::from_file(folder.join("tokenizer.json"))?;
        let vision = &config.vision_config;
        let image_cost = (edge / vision.patch_size).pow(2) + 1;
        let towers = Towers::load(&folder.join("model.safetensors"), &config)?;
        Ok(Self {
            space: EmbeddingSpace::of(entry),
            prefixes: entry.prefixes.clone(),
            tokenizer: Arc::new(TextTokenizer::new(tokenizer, entry.max_tokens)?),
            preprocessor: Arc::new(preprocessor),
            decoders: ThreadPoolBuilder::new()
                .num_threads(std::thread::available_parallelism().map_or(1, usize::from))
                .thread_name(|index| format!("decode-{index}"))
                // Without it a panic would end the process; the caller is told that its reply was dropped.
                .panic_handler(|_| tracing::error!("a decoding thread panicked"))
                .build()?,
            image_cost,
            scheduler: Scheduler::start(&entry.name, LIMITS, ClipModel { name: entry.name.clone(), towers })?,
        })
    }

    async fn embed_texts(
        &self,
        texts: Vec<String>,
        role: TextRole,
        lane: Lane,
    ) -> Result<Embeddings, ModelError> {
        let texts = role.prefixed(&self.prefixes, texts);
        let texts =
            self.tokenizer.tokenize_all(texts).await.map_err(|error| self.failed(&error.to_string()))?;
        let truncated = (0..texts.len()).filter(|&index| texts[index].truncated).collect();
        let tokens = texts.iter().map(|text| text.ids.len()).collect();
        let items = texts.into_iter().map(|text| {
            let cost = text.ids.len();
            (ClipItem::Text(text.ids), cost)
        });
        let vectors = self.scheduler.submit(items.collect(), lane).await?;
        Ok(Embeddings { vectors, truncated, tokens })
    }

    async fn embed_pictures(&self, images: Vec<EncodedImage>, lane: Lane) -> Result<Embeddings, ModelError> {
        let batches = images.chunks(BATCH).enumerate().map(|(number, batch)| {
            let (first, batch) = (number * BATCH, batch.to_vec());
            async move {
                let pixels = self.pixels(first, batch).await?;
                let items = pixels.into_iter().map(|pixels| (ClipItem::Image(pixels), self.image_cost));
                self.scheduler.submit(items.collect(), lane).await
            }
        });
        // Two at a time: the next batch is decoded while the model works on this one.
        let batches: Vec<_> = batches.collect();
        let vectors: Vec<Vec<Vec<f32>>> = stream::iter(batches).buffered(2).try_collect().await?;
        Ok(Embeddings { vectors: vectors.concat(), truncated: Vec::new(), tokens: vec![0; images.len()] })
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
        self.tokenizer.tokens(text, special).map_err(|error| self.failed(&error.to_string()))
    }

    fn reads_images(&self) -> bool {
        true
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
        self.embed_texts(texts, role, lane).instrument(span).boxed()
    }

    fn embed_images(
        &self,
        images: Vec<EncodedImage>,
        lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        let span = embed_span(&self.space.model, images.len(), lane);
        self.embed_pictures(images, lane).instrument(span).boxed()
    }
}

/// What the scheduler joins into batches.
enum ClipItem {
    /// Token ids.
    Text(Vec<u32>),
    /// Pixels of 3 × side × side.
    Image(Vec<f32>),
}

/// Both towers, as the scheduler wants them.
struct ClipModel {
    name: String,
    towers: Towers,
}

impl BatchModel for ClipModel {
    type Item = ClipItem;
    type Output = Vec<f32>;

    fn run(&self, items: &[&ClipItem]) -> Result<Vec<Vec<f32>>, ModelError> {
        let failed = |reason: String| ModelError::Failed { model: self.name.clone(), reason };
        let vectors = Device::Cpu.with_context(|| self.forward(items));
        let vectors = vectors.map_err(|error| failed(error.to_string()))?;
        if vectors.iter().flatten().all(|value| value.is_finite()) {
            Ok(vectors)
        } else {
            Err(failed("a vector holds a number that is not finite".into()))
        }
    }
}

impl ClipModel {
    fn forward(&self, items: &[&ClipItem]) -> candle_core::Result<Vec<Vec<f32>>> {
        let (mut texts, mut images) = (Vec::new(), Vec::new());
        for (index, item) in items.iter().enumerate() {
            match item {
                ClipItem::Text(ids) => texts.push((index, ids.as_slice())),
                ClipItem::Image(pixels) => images.push((index, pixels.as_slice())),
            }
        }
        // Texts of like length share a pass, so that little of it is padding.
        texts.sort_by_key(|(_, ids)| ids.len());
        let mut vectors = vec![Vec::new(); items.len()];
        let mut put = |indices: &mut dyn Iterator<Item = usize>, embedded: Tensor| {
            for (index, vector) in indices.zip(embedded.to_vec2::<f32>()?) {
                vectors[index] = vector;
            }
            candle_core::Result::Ok(())
        };
        for batch in texts.chunks(BATCH) {
            let ids: Vec<&[u32]> = batch.iter().map(|(_, ids)| *ids).collect();
            put(&mut batch.iter().map(|(index, _)| *index), self.towers.text.forward(&ids)?)?;
        }
        for batch in images.chunks(BATCH) {
            let pixels: Vec<&[f32]> = batch.iter().map(|(_, pixels)| *pixels).collect();
            put(&mut batch.iter().map(|(index, _)| *index), self.towers.image.forward(&pixels)?)?;
        }
        Ok(vectors)
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
