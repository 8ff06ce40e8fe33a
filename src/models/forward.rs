//! Chat completion requests that go to a server as the client wrote them.

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};
use serde_json::{Map, Value};

use super::{ModelError, Usage};

/// A backend that speaks the protocol of chat completions itself, and so can be
/// handed a client's request with everything in it: tools, images, unknown fields.
pub trait Forwarder: Send + Sync {
    /// Sends the body of a chat completion request with the backend's own model name in it.
    ///
    /// A body with `stream: true` gives [`Forwarded::Stream`], any other one [`Forwarded::Whole`],
    /// whatever the server answers with. Fails before the first byte of the answer; what fails
    /// later is the stream's last item. Dropping future or stream closes the connection.
    fn forward(&self, body: Map<String, Value>) -> BoxFuture<'_, Result<Forwarded, ForwardError>>;
}

/// What the server answered.
pub enum Forwarded {
    Whole(Whole),
    Stream(ForwardStream),
}

/// Events of a streamed completion.
pub type ForwardStream = BoxStream<'static, Result<Chunk, ForwardError>>;

/// A completion in one piece, a JSON object with `choices`.
#[derive(Debug, Clone)]
pub struct Whole {
    /// The JSON as the server wrote it.
    pub body: Bytes,
    pub usage: Option<Usage>,
}

/// The data of one event.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The JSON as the server wrote it; never `[DONE]`, which is the stream's end.
    pub data: String,
    /// What the event says of the tokens, if it does.
    pub usage: Option<Usage>,
}

/// What a server said instead of answering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status, or the code that an error in the middle of a stream bears.
    pub status: u16,
    /// The body, mostly JSON with `error`; at most 64 KiB.
    pub body: String,
}

/// Why a request could not be forwarded.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{error}")]
pub struct ForwardError {
    pub error: ModelError,
    /// In the server's own words, where it had some; absent when they may hold the key.
    pub refusal: Option<Refusal>,
}

impl ForwardError {
    /// Whether any backend would refuse this request: it is malformed, or asks for what there is not.
    pub fn is_callers_fault(&self) -> bool {
        let status = self.refusal.as_ref().map(|refusal| refusal.status);
        matches!(status, Some(400 | 413 | 415 | 422)) && !matches!(self.error, ModelError::Unfit { .. })
    }
}

impl From<ModelError> for ForwardError {
    fn from(error: ModelError) -> Self {
        Self { error, refusal: None }
    }
}
