//! Chat completions as they are written, whole and in chunks.

use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::{HttpResponse, web::Bytes};
use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    http::{
        ask::{AttemptBody, CitationBody},
        compat::OpenAiError,
        sse,
    },
    models::{ModelError, Usage},
    rag::{RagError, usage::Charge},
};

/// A part of an answer.
pub(super) enum Piece {
    Text(String),
    Annotation(Annotation),
    /// Once, last.
    End(Box<End>),
}

/// How an answer ended.
pub(super) struct End {
    pub usage: ChatUsage,
    pub finish_reason: &'static str,
    pub ragway: RagwayExtension,
}

/// An answer that is being written.
pub(super) type Pieces = BoxStream<'static, Result<Piece, RagError>>;

/// A whole answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletion {
    #[schema(example = "chatcmpl-0199f2a3c1d27b0c8f3e5a6b7c8d9e0f")]
    id: String,
    #[schema(example = "chat.completion")]
    object: &'static str,
    /// Unix time.
    #[schema(example = 1767225600)]
    created: u64,
    /// As the request named it.
    #[schema(example = "ragway")]
    model: String,
    choices: Vec<ChatChoice>,
    usage: ChatUsage,
    ragway: RagwayExtension,
}

/// An answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    #[schema(example = 0)]
    index: usize,
    message: AnswerMessage,
    /// `stop`, or `length` where the answer was as long as it may be.
    #[schema(example = "stop")]
    finish_reason: &'static str,
    /// Always null.
    #[schema(value_type = Option<Object>)]
    logprobs: Option<Value>,
}

/// What was answered.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnswerMessage {
    #[schema(example = "assistant")]
    role: &'static str,
    #[schema(example = "A bicycle costs 3 euros each way. [1]")]
    content: String,
    /// Always null.
    refusal: Option<String>,
    annotations: Vec<Annotation>,
}

/// Where a sentence of the answer comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Annotation {
    #[serde(rename = "type")]
    #[schema(example = "url_citation")]
    kind: &'static str,
    url_citation: UrlCitation,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct UrlCitation {
    /// Where the document was taken from, else where ragway shows it.
    #[schema(example = "https://ferry.example/fares")]
    pub url: String,
    #[schema(example = "Fares")]
    pub title: String,
    /// Where the sentence begins in `content`, in Unicode code points.
    #[schema(example = 0)]
    pub start_index: usize,
    /// Where it ends, its `[n]` excluded.
    #[schema(example = 33)]
    pub end_index: usize,
}

/// Tokens as the backends count them; 0 where none was asked.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct ChatUsage {
    /// Those of rewriting the question included.
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    /// True where a backend did not count them: they are ragway's estimate, on the high side.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    estimated: bool,
}

/// What ragway tells beside OpenAI's fields; clients ignore it.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct RagwayExtension {
    /// The backend that answered, or `extractive`.
    #[schema(example = "openai")]
    pub model: String,
    /// Backends that failed before.
    pub attempts: Vec<AttemptBody>,
    /// What a reader should know, such as sentences left out.
    pub notes: Vec<String>,
    /// Where documents were searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalBody>,
}

/// How an answer came from documents.
#[derive(Debug, Serialize, ToSchema)]
pub struct RetrievalBody {
    /// What the documents were searched with.
    #[schema(example = "How much is a day rover for children?")]
    pub question: String,
    /// `model` or `rule` where the question was made from several turns; else null.
    #[schema(example = "model")]
    pub rewritten_by: Option<&'static str>,
    /// False: the documents do not hold the answer.
    pub answered: bool,
    /// `generated`, `extractive` (quoted from the documents) or `abstained`.
    #[schema(example = "generated")]
    pub method: &'static str,
    /// With the words that support each sentence.
    pub citations: Vec<CitationBody>,
    pub sources: Vec<SourceReference>,
}

/// A retrieved passage.
#[derive(Debug, Serialize, ToSchema)]
pub struct SourceReference {
    /// The number that it is cited by.
    pub n: usize,
    pub document_id: Uuid,
    pub passage_id: Uuid,
    pub title: Option<String>,
    pub url: String,
    pub similarity: f32,
}

/// A part of a streamed answer, as the data of an event.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletionChunk {
    /// The same in every chunk.
    id: String,
    #[schema(example = "chat.completion.chunk")]
    object: &'static str,
    created: u64,
    #[schema(example = "ragway")]
    model: String,
    /// None in the last chunk, which has the usage.
    choices: Vec<ChunkChoice>,
    /// Null but in the last chunk, where `include_usage` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ChatUsage>)]
    usage: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ragway: Option<RagwayExtension>,
}

/// The next part of the answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChunkChoice {
    index: usize,
    /// `role`, `content` or `annotations`; empty at the end.
    #[schema(value_type = Object)]
    delta: Value,
    /// Null until the end.
    finish_reason: Option<&'static str>,
    #[schema(value_type = Option<Object>)]
    logprobs: Option<Value>,
}

/// What the parts of one answer have in common.
pub(super) struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    pub fn new(model: &str) -> Self {
        let id = format!("chatcmpl-{}", Uuid::now_v7().simple());
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Self { id, created, model: model.to_owned() }
    }

    /// Waits for the end.
    pub async fn whole(self, mut pieces: Pieces) -> Result<ChatCompletion, OpenAiError> {
        let (mut content, mut annotations) = (String::new(), Vec::new());
        while let Some(piece) = pieces.next().await {
            match piece? {
                Piece::Text(text) => content.push_str(&text),
                Piece::Annotation(annotation) => annotations.push(annotation),
                Piece::End(end) => {
                    let message = AnswerMessage { role: "assistant", content, refusal: None, annotations };
                    let finish_reason = end.finish_reason;
                    return Ok(ChatCompletion {
                        id: self.id,
                        object: "chat.completion",
                        created: self.created,
                        model: self.model,
                        choices: vec![ChatChoice { index: 0, message, finish_reason, logprobs: None }],
                        usage: end.usage,
                        ragway: end.ragway,
                    });
                }
            }
        }
        Err(ended_early().into())
    }

    /// Writes each part as it comes.
    pub fn stream(
        self,
        pieces: impl Stream<Item = Result<Piece, RagError>> + 'static,
        include_usage: bool,
    ) -> HttpResponse {
        let first = self.chunk(Some((json!({"role": "assistant", "content": ""}), None)), include_usage);
        let first = stream::iter([sse::data(&first)]);
        let mut ended = false;
        let end = stream::iter([Err(ended_early())]);
        let rest = pieces.chain(end).map(move |piece| {
            if ended {
                return Vec::new();
            }
            match piece {
                Ok(Piece::Text(text)) => {
                    vec![sse::data(&self.chunk(Some((json!({"content": text}), None)), include_usage))]
                }
                Ok(Piece::Annotation(annotation)) => {
                    let delta = json!({"annotations": [annotation]});
                    vec![sse::data(&self.chunk(Some((delta, None)), include_usage))]
                }
                Ok(Piece::End(end)) => {
                    ended = true;
                    self.last(*end, include_usage)
                }
                Err(error) => {
                    ended = true;
                    vec![error_event(&error.into())]
                }
            }
        });
        sse::response(first.chain(rest.flat_map(stream::iter)))
    }

    fn last(&self, end: End, include_usage: bool) -> Vec<Bytes> {
        let mut last = self.chunk(Some((json!({}), Some(end.finish_reason))), include_usage);
        last.ragway = Some(end.ragway);
        let mut events = vec![sse::data(&last)];
        if include_usage {
            let mut usage = self.chunk(None, true);
            usage.usage = Some(json!(end.usage));
            events.push(sse::data(&usage));
        }
        events.push(done());
        events
    }

    fn chunk(
        &self,
        choice: Option<(Value, Option<&'static str>)>,
        include_usage: bool,
    ) -> ChatCompletionChunk {
        let choice = choice.map(|(delta, finish_reason)| ChunkChoice {
            index: 0,
            delta,
            finish_reason,
            logprobs: None,
        });
        ChatCompletionChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model.clone(),
            choices: choice.into_iter().collect(),
            usage: include_usage.then_some(Value::Null),
            ragway: None,
        }
    }
}

impl Annotation {
    pub fn of(url_citation: UrlCitation) -> Self {
        Self { kind: "url_citation", url_citation }
    }
}

impl From<Usage> for ChatUsage {
    fn from(usage: Usage) -> Self {
        let Usage { prompt_tokens, completion_tokens } = usage;
        Charge { prompt_tokens, completion_tokens, ..Charge::default() }.into()
    }
}

impl From<Charge> for ChatUsage {
    fn from(charge: Charge) -> Self {
        let Charge { prompt_tokens, completion_tokens, estimated, .. } = charge;
        let total_tokens = prompt_tokens + completion_tokens;
        Self { prompt_tokens, completion_tokens, total_tokens, estimated }
    }
}

/// The end of a stream that went well.
pub(super) fn done() -> Bytes {
    sse::text("[DONE]")
}

pub(super) fn error_event(error: &OpenAiError) -> Bytes {
    sse::data(&error.body())
}

fn ended_early() -> RagError {
    ModelError::Failed { model: "answer".into(), reason: "the answer ended early".into() }.into()
}
