//! Models: embedders and answer backends.
//!
//! Absent here: SQL, HTTP routes, prompts. Nothing in this module knows what a
//! document is. Only `candle` and `openai` below know a vendor.

pub mod candle;
mod embedders;
pub mod openai;
pub mod router;

pub use embedders::Embedders;

use std::time::Duration;

use futures_util::{future::BoxFuture, stream::BoxStream};

use crate::config::EmbeddingSpace;

/// Whether a text is a question or a passage: some models want a prefix by role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextRole {
    Query,
    Passage,
}

/// Vectors of a batch, in the order of its texts.
#[derive(Debug, Clone)]
pub struct Embeddings {
    /// One vector a text, each of the space's dimension.
    pub vectors: Vec<Vec<f32>>,
    /// Indices of texts that were longer than the model reads; only their beginning counted.
    pub truncated: Vec<usize>,
    /// Tokens read, special tokens included.
    pub tokens: usize,
}

/// Turns texts into vectors of one space.
pub trait Embedder: Send + Sync {
    /// The space of every vector this embedder returns.
    fn space(&self) -> &EmbeddingSpace;

    /// Longest text, in tokens with the special ones, that is read whole.
    fn max_tokens(&self) -> usize;

    /// Tokens of `text` in this model's vocabulary, special tokens excluded.
    fn count_tokens(&self, text: &str) -> usize;

    /// Embeds a batch. An empty batch gives no vectors.
    ///
    /// Fails with [`ModelError::Overloaded`] when the queue is full and with
    /// [`ModelError::Failed`] when the forward pass fails.
    fn embed(&self, texts: Vec<String>, role: TextRole) -> BoxFuture<'_, Result<Embeddings, ModelError>>;
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
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    pub messages: Vec<Message>,
    /// Upper bound of generated tokens.
    pub max_tokens: usize,
    /// 0 means greedy.
    pub temperature: f32,
    /// Makes sampling repeatable where the backend supports it.
    pub seed: Option<u64>,
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

    /// Tokens that prompt and answer may take together.
    fn context_tokens(&self) -> usize;

    /// An estimate of the tokens of `text`, never under the true count by more than a few per cent.
    fn count_tokens(&self, text: &str) -> usize;

    /// Starts a generation. A failure before the first text comes as the future's error or as the
    /// stream's first item, one after it as the last item.
    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<GenerationStream, ModelError>>;
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
            ModelError::Unfit { .. } | ModelError::Failed { .. } => false,
        }
    }
}
