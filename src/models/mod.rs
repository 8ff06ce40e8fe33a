//! Models: embedders, rerankers and answer backends.
//!
//! Absent here: SQL, HTTP routes, prompts. Nothing in this module knows what a
//! document is. Only `candle` and `openai` below know a vendor.

pub mod cache;
pub mod candle;
pub mod deadline;
pub mod embedders;
pub mod forward;
pub mod images;
pub mod openai;
pub mod remote;
pub mod rerankers;
pub mod router;
pub mod scheduler;
mod server;
pub mod vectors;

pub use embedders::Embedders;
pub use rerankers::Rerankers;

use std::time::Duration;

use futures_util::{future::BoxFuture, stream::BoxStream};

use tracing::Span;

use self::scheduler::LaneStatus;
use crate::{
    config::{EmbeddingSpace, Prefixes},
    telemetry::SPAN,
};

/// Whether a text is a question or a passage: some models want a prefix by role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextRole {
    Query,
    Passage,
}

impl TextRole {
    /// What a model wants before a text of this role.
    pub fn prefix(self, prefixes: &Prefixes) -> &str {
        match self {
            TextRole::Query => &prefixes.query,
            TextRole::Passage => &prefixes.passage,
        }
    }

    /// Texts of this role as the model reads them.
    pub fn prefixed(self, prefixes: &Prefixes, texts: Vec<String>) -> Vec<String> {
        let prefix = self.prefix(prefixes);
        if prefix.is_empty() {
            return texts;
        }
        texts.into_iter().map(|text| format!("{prefix}{text}")).collect()
    }
}

/// Whose work a model does first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Someone waits for it: a question, a request.
    Interactive,
    /// A bulk job; it yields to interactive work and still moves on.
    Bulk,
}

impl Lane {
    /// As it is called in metrics and traces.
    pub fn name(self) -> &'static str {
        match self {
            Lane::Interactive => "interactive",
            Lane::Bulk => "bulk",
        }
    }
}

/// A PNG, JPEG, WebP or GIF file.
pub type EncodedImage = bytes::Bytes;

/// A token of a text as its model's vocabulary has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub id: u32,
    pub text: String,
    /// Added by the tokenizer, such as `[CLS]`.
    pub special: bool,
    /// Where it stands in the text, in characters; a special token stands nowhere: 0 to 0.
    pub start: usize,
    pub stop: usize,
}

/// Vectors of a batch, in the order of its texts or images.
#[derive(Debug, Clone)]
pub struct Embeddings {
    /// One vector a text or image, each of the space's dimension.
    pub vectors: Vec<Vec<f32>>,
    /// Indices of texts that were longer than the model reads; only their beginning counted.
    pub truncated: Vec<usize>,
    /// Tokens read of each text, special tokens included; 0 where a server does not tell.
    pub tokens: Vec<usize>,
}

/// A part of a trace: a model embeds so many texts or images.
fn embed_span(model: &str, items: usize, lane: Lane) -> Span {
    tracing::info_span!(target: SPAN, "embed", model, items, lane = lane.name())
}

/// Turns texts, and with some models images, into vectors of one space.
pub trait Embedder: Send + Sync {
    /// The space of every vector this embedder returns.
    fn space(&self) -> &EmbeddingSpace;

    /// Longest text, in tokens with the special ones, that is read whole.
    fn max_tokens(&self) -> usize;

    /// Tokens of `text` in this model's vocabulary, special tokens excluded.
    fn count_tokens(&self, text: &str) -> usize;

    /// The tokens of `text`; fails where the model runs elsewhere and does not say.
    fn tokenize(&self, text: &str, special: bool) -> Result<Vec<Token>, ModelError>;

    /// Fails when the thread that computes here has ended or does not get on; see [`scheduler`].
    fn check_alive(&self) -> Result<(), ModelError> {
        Ok(())
    }

    /// What its own queues hold and have held; nothing of a model that runs elsewhere.
    fn lanes(&self) -> Vec<LaneStatus> {
        Vec::new()
    }

    /// Whether [`Embedder::embed_images`] works.
    fn reads_images(&self) -> bool {
        false
    }

    /// Embeds a batch of texts. An empty batch gives no vectors. Dropping the future cancels the
    /// work that has not begun.
    ///
    /// Fails with [`ModelError::Overloaded`] when the queue is full, with [`ModelError::TimedOut`] when
    /// the caller's [`deadline`] passes, and with [`ModelError::Failed`] when the forward pass fails or gives a number that is not finite.
    fn embed(
        &self,
        texts: Vec<String>,
        role: TextRole,
        lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>>;

    /// Embeds a batch of images into the same space.
    ///
    /// Fails as [`Embedder::embed`] does, and with [`ModelError::BadImage`] when one cannot be read.
    fn embed_images(
        &self,
        images: Vec<EncodedImage>,
        lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        let (_, _) = (images, lane);
        let model = self.space().model.clone();
        Box::pin(async { Err(ModelError::Unfit { model, reason: "it reads no images".into() }) })
    }
}

/// Tokens of `text` for a vocabulary that is not at hand, on the high side: a token for every
/// three ASCII letters, every other visible ASCII character, every line break and every two
/// bytes of other scripts. English comes out about a third too long.
pub fn estimate_tokens(text: &str) -> usize {
    let (mut letters, mut others, mut foreign_bytes) = (0, 0, 0);
    for character in text.chars() {
        match character {
            'a'..='z' | 'A'..='Z' => letters += 1,
            ' ' => {}
            _ if character.is_ascii() => others += 1,
            _ => foreign_bytes += character.len_utf8(),
        }
    }
    usize::div_ceil(letters, 3) + others + foreign_bytes.div_ceil(2)
}

/// How well texts answer a query, in the order of the texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Relevance {
    /// 0 to 1.
    pub scores: Vec<f32>,
    /// As the model gives them: logits, or `scores` where another server tells only those.
    pub raw: Vec<f32>,
    /// Indices of texts that were not read whole; always empty of a server, which does not tell.
    pub truncated: Vec<usize>,
    /// Tokens read, those of the query with each text; 0 where a server does not tell.
    pub tokens: usize,
}

/// Tells how well each of some texts answers a query, reading the two together.
pub trait Reranker: Send + Sync {
    /// Name of the catalog entry.
    fn name(&self) -> &str;

    /// Fails when the thread that computes here has ended or does not get on; see [`scheduler`].
    fn check_alive(&self) -> Result<(), ModelError> {
        Ok(())
    }

    /// As [`Embedder::lanes`].
    fn lanes(&self) -> Vec<LaneStatus> {
        Vec::new()
    }

    /// Scores a list of texts; an empty one gives no scores. Fails and is cancelled as
    /// [`Embedder::embed`] is.
    fn rerank(
        &self,
        query: String,
        texts: Vec<String>,
        lane: Lane,
    ) -> BoxFuture<'_, Result<Relevance, ModelError>>;
}

/// From a logit to 0…1.
pub fn logistic(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// Who says a message of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    System,
    User,
    Assistant,
}

impl Speaker {
    /// The name that chat templates and protocols use.
    pub fn role(self) -> &'static str {
        match self {
            Speaker::System => "system",
            Speaker::User => "user",
            Speaker::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone)]
pub struct Message {
    pub speaker: Speaker,
    pub text: String,
}

/// What a generator is asked for.
#[derive(Debug, Clone, Default)]
pub struct GenerateRequest {
    pub messages: Vec<Message>,
    /// Upper bound of generated tokens.
    pub max_tokens: usize,
    /// 0 means greedy.
    pub temperature: f32,
    /// Sample only from the likeliest tokens that together have this probability, over 0 and at
    /// most 1; none means all tokens.
    pub top_p: Option<f32>,
    /// Makes sampling repeatable where the backend supports it.
    pub seed: Option<u64>,
    /// The answer ends before the first of these strings.
    pub stop: Vec<String>,
}

/// A part of a generated answer.
#[derive(Debug, Clone, PartialEq)]
pub enum GeneratedPart {
    /// Text as it is produced; may be any number of characters.
    Text(String),
    /// Sent at most once, last; a server that counts nothing sends none.
    Usage(Usage),
}

/// Tokens of a generation as its backend counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
}

/// Parts of one generation. Dropping the stream stops the generation.
pub type GenerationStream = BoxStream<'static, Result<GeneratedPart, ModelError>>;

/// Writes text from messages.
pub trait Generator: Send + Sync {
    /// Name of the catalog entry.
    fn name(&self) -> &str;

    /// Fails when the thread that writes here has ended.
    fn check_alive(&self) -> Result<(), ModelError> {
        Ok(())
    }

    /// Tokens that prompt and answer may take together.
    fn context_tokens(&self) -> usize;

    /// An estimate of the tokens of `text`, never under the true count by more than a few per cent.
    fn count_tokens(&self, text: &str) -> usize;

    /// Starts a generation. A failure before the first text comes as the future's error or as the
    /// stream's first item, one after it as the last item.
    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<GenerationStream, ModelError>>;

    /// How a client's own request can be passed on; none where only [`Generator::generate`] works.
    fn forwarder(&self) -> Option<&dyn forward::Forwarder> {
        None
    }
}

/// Why a model did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ModelError {
    /// The queue is full; try again after the given time.
    #[error("model `{model}` has too much queued work")]
    Overloaded { model: String, retry_after: Duration },
    /// The model does not fit the request (a prompt longer than its context).
    #[error("model `{model}` cannot take this request: {reason}")]
    Unfit { model: String, reason: String },
    /// An image that is no image, or one that the model refuses to decode.
    #[error("images[{index}]: {reason}")]
    BadImage { index: usize, reason: String },
    /// The model's weights are not on this machine and could not be fetched.
    #[error("model `{model}` is not loaded: {reason}")]
    NotLoaded { model: String, reason: String },
    /// No answer within the time allowed.
    #[error("model `{model}` did not answer within {} ms", after.as_millis())]
    TimedOut { model: String, after: Duration },
    /// The backend could not be reached or answered with an error.
    #[error("model `{model}` is unavailable: {reason}")]
    Unavailable { model: String, reason: String },
    /// The model itself failed.
    #[error("model `{model}` failed: {reason}")]
    Failed { model: String, reason: String },
}

impl ModelError {
    /// Whether the same request may succeed a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            ModelError::Overloaded { .. } | ModelError::TimedOut { .. } | ModelError::Unavailable { .. } => {
                true
            }
            ModelError::Unfit { .. }
            | ModelError::BadImage { .. }
            | ModelError::NotLoaded { .. }
            | ModelError::Failed { .. } => false,
        }
    }
}
