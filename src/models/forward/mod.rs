//! Chat completion requests that go to a server as the client wrote them.

mod request;

pub use request::ForwardRequest;

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};
use serde_json::Value;

use super::{ModelError, Usage, estimate_tokens};

/// A backend that speaks the protocol of chat completions itself, and so can be
/// handed a client's request with everything in it: tools, images, unknown fields.
pub trait Forwarder: Send + Sync {
    /// Sends a chat completion request with the backend's own model name in it.
    ///
    /// One that is streamed gives [`Forwarded::Stream`], any other one [`Forwarded::Whole`],
    /// whatever the server answers with. Fails before the first byte of the answer; what fails
    /// later is the stream's last item. Dropping future or stream closes the connection.
    fn forward<'a>(&'a self, request: &'a ForwardRequest) -> BoxFuture<'a, Result<Forwarded, ForwardError>>;
}

/// What the server answered.
pub enum Forwarded {
    Whole(Whole),
    Stream(ForwardStream),
}

/// Events of a streamed completion.
pub type ForwardStream = BoxStream<'static, Result<Chunk, ForwardError>>;

/// A completion in one piece.
#[derive(Debug, Clone)]
pub struct Whole {
    /// The JSON as the server wrote it.
    pub body: Bytes,
    /// What it says: an object with an array `choices`.
    pub value: Value,
}

/// The data of one event.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The JSON as the server wrote it; never `[DONE]`, which is the stream's end.
    pub data: String,
    /// What it says: an object.
    pub value: Value,
}

impl Whole {
    /// What it says of the tokens, if it does.
    pub fn usage(&self) -> Option<Usage> {
        usage_of(&self.value)
    }

    /// About how many tokens were written.
    pub fn estimated_tokens(&self) -> usize {
        choices(&self.value).map(|choice| text_tokens(&choice["message"])).sum()
    }
}

impl Chunk {
    /// What it says of the tokens, if it does.
    pub fn usage(&self) -> Option<Usage> {
        usage_of(&self.value)
    }

    /// Whether it says nothing else.
    pub fn is_usage_only(&self) -> bool {
        choices(&self.value).next().is_none() && self.value["usage"].is_object()
    }

    /// About how many tokens were written.
    pub fn estimated_tokens(&self) -> usize {
        choices(&self.value).map(|choice| text_tokens(&choice["delta"])).sum()
    }
}

/// The tokens that a completion or chunk counts, if it does. No prompt has no tokens: zeros are no count.
pub fn usage_of(value: &Value) -> Option<Usage> {
    let usage = value.get("usage")?;
    let count = |key: &str| usage[key].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let usage =
        Usage { prompt_tokens: count("prompt_tokens"), completion_tokens: count("completion_tokens") };
    (usage != Usage::default()).then_some(usage)
}

fn choices(value: &Value) -> impl Iterator<Item = &Value> {
    value.get("choices").and_then(Value::as_array).into_iter().flatten()
}

/// Members of messages that are no text, or none that a model reads word by word.
const NO_TEXT: [&str; 7] = ["role", "type", "id", "tool_call_id", "image_url", "input_audio", "file"];

/// An estimate of the tokens of all that a message or a part of one says.
fn text_tokens(said: &Value) -> usize {
    match said {
        Value::String(text) => estimate_tokens(text),
        Value::Array(parts) => parts.iter().map(text_tokens).sum(),
        Value::Object(members) => {
            let texts = members.iter().filter(|(name, _)| !NO_TEXT.contains(&name.as_str()));
            texts.map(|(_, value)| text_tokens(value)).sum()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// The bytes of a JSON object with one more member at its end; the others stay as they are written.
///
/// The object must not be empty, nor hold a member of this name.
pub fn with_member(object: &[u8], name: &str, value: &Value) -> Option<Vec<u8>> {
    let open = object.trim_ascii_end().strip_suffix(b"}")?;
    let member = format!(",{}:{value}}}", Value::from(name));
    Some([open, member.as_bytes()].concat())
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
