//! What ragway itself reads of a chat completion request.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    http::{compat::OpenAiError, error::ApiError, extractors::parse_json},
    models::{Message, Speaker},
    rag::ask::Writing,
};
use actix_web::http::StatusCode;

/// Most strings of `stop`, as OpenAI has it.
const MAX_STOPS: usize = 4;

/// A conversation to go on with. A server behind ragway gets every field as it is; `ragway` and models in this
/// process know those below and ignore others.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChatCompletionRequest)]
#[schema(example = json!({"model": "ragway", "messages": [{"role": "user", "content": "What does a bicycle cost?"}]}))]
pub struct ChatCompletionRequest {
    /// `ragway`, `ragway/<collection>`, or another answer model of `/v1/models`.
    #[schema(example = "ragway")]
    #[expect(dead_code, reason = "it was read before; here it is described")]
    model: String,
    /// The last one is the user's question. For `ragway` system messages are wishes about the wording.
    messages: Vec<ChatMessage>,
    /// Whether to stream the answer as server-sent events.
    #[schema(example = false)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// 0 to 2; absent: 0.
    temperature: Option<f32>,
    /// Over 0 and at most 1.
    top_p: Option<f32>,
    /// More than 1 is refused.
    n: Option<i64>,
    /// A text or up to four: the answer ends before the first of them.
    #[schema(value_type = Option<Object>)]
    stop: Option<Stop>,
    seed: Option<i64>,
    /// `ask.max_answer_tokens` of models.toml at most; more is taken for that, and noted.
    max_tokens: Option<i64>,
    /// The newer name of the same.
    max_completion_tokens: Option<i64>,
    /// Refused, but for servers behind ragway.
    #[schema(value_type = Option<Object>)]
    tools: Option<Value>,
    #[schema(value_type = Option<Object>)]
    tool_choice: Option<Value>,
    #[schema(value_type = Option<Object>)]
    functions: Option<Value>,
    /// `{"type": "text"}`; others are refused, but for servers behind ragway.
    #[schema(value_type = Option<Object>)]
    response_format: Option<Value>,
    /// Refused when true, but for servers behind ragway.
    logprobs: Option<bool>,
}

/// A message.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ChatMessage {
    /// `system`, `developer`, `user` or `assistant`.
    #[schema(example = "user")]
    role: String,
    #[schema(value_type = Option<Object>, example = "How much is a day rover?")]
    content: Option<Content>,
}

/// What a message says.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "the content of a message must be a text or an array of parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// How to stream.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// Whether the tokens come as a last chunk without choices.
    #[serde(default)]
    #[schema(example = true)]
    include_usage: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "stop must be a text or an array of texts")]
enum Stop {
    One(String),
    Many(Vec<String>),
}

/// A request that was found good.
#[derive(Debug)]
pub(super) struct Wanted {
    pub messages: Vec<Message>,
    pub writing: Writing,
    pub stream: bool,
    pub include_usage: bool,
    /// What was understood otherwise than asked.
    pub notes: Vec<String>,
}

impl Wanted {
    /// Reads a request; `most_tokens` is what an answer may have.
    pub fn of(body: &[u8], most_tokens: usize) -> Result<Self, OpenAiError> {
        let request: ChatCompletionRequest = parse_json(body)?;
        request.check_unsupported()?;
        let mut notes = Vec::new();
        let asked = request.max_completion_tokens.or(request.max_tokens);
        let max_tokens = asked.map(|asked| limit(asked, most_tokens, &mut notes)).transpose()?;
        within("temperature", request.temperature, 0.0..=2.0)?;
        within("top_p", request.top_p, f32::MIN_POSITIVE..=1.0)?;
        let messages = request.messages.into_iter().enumerate().map(|(index, said)| said.read(index));
        let stop = match request.stop {
            None => Vec::new(),
            Some(Stop::One(text)) => vec![text],
            Some(Stop::Many(texts)) => texts,
        };
        if stop.len() > MAX_STOPS || stop.iter().any(String::is_empty) {
            return Err(wrong("stop", format!("give up to {MAX_STOPS} texts, none of them empty")));
        }
        let writing = Writing {
            style: None,
            max_tokens,
            temperature: request.temperature,
            top_p: request.top_p,
            seed: request.seed.map(i64::cast_unsigned),
            stop,
        };
        Ok(Self {
            messages: messages.collect::<Result<_, _>>()?,
            writing,
            stream: request.stream.unwrap_or_default(),
            include_usage: request.stream_options.unwrap_or_default().include_usage,
            notes,
        })
    }
}

impl ChatCompletionRequest {
    /// Refuses what would change the answer's meaning and cannot be done.
    fn check_unsupported(&self) -> Result<(), OpenAiError> {
        let given = |value: &Option<Value>| {
            value
                .as_ref()
                .is_some_and(|value| !value.is_null() && value.as_array().is_none_or(|all| !all.is_empty()))
        };
        let no_choice = |value: &Value| value == "none" || value == "auto";
        let plain = |value: &Value| value.get("type").is_some_and(|kind| kind == "text");
        let unsupported = [
            ("n", self.n.is_some_and(|n| n != 1), "one answer is given; leave it out or send 1"),
            ("tools", given(&self.tools), "this model calls no tools; send them to another model"),
            (
                "functions",
                given(&self.functions),
                "this model calls no functions; send them to another model",
            ),
            (
                "tool_choice",
                given(&self.tool_choice) && !self.tool_choice.as_ref().is_some_and(no_choice),
                "this model calls no tools; leave it out",
            ),
            (
                "response_format",
                given(&self.response_format) && !self.response_format.as_ref().is_some_and(plain),
                "this model answers with text; leave it out or send {\"type\": \"text\"}",
            ),
            ("logprobs", self.logprobs == Some(true), "this model tells no probabilities; leave it out"),
        ];
        match unsupported.into_iter().find(|(_, given, _)| *given) {
            None => Ok(()),
            Some((param, _, advice)) => {
                let detail = format!("{param}: {advice}");
                let error = ApiError::new(StatusCode::BAD_REQUEST, "unsupported_parameter", detail);
                Err(OpenAiError::about(error, param))
            }
        }
    }
}

impl ChatMessage {
    fn read(self, index: usize) -> Result<Message, OpenAiError> {
        let speaker = match self.role.as_str() {
            "system" | "developer" => Speaker::System,
            "user" => Speaker::User,
            "assistant" => Speaker::Assistant,
            role => {
                let known = "system, developer, user, assistant";
                return Err(wrong(
                    "messages",
                    format!("messages[{index}].role: `{role}` is not one of {known}"),
                ));
            }
        };
        let text = match self.content {
            // What an assistant said by calling a tool has no text.
            None if speaker == Speaker::Assistant => String::new(),
            None => return Err(wrong("messages", format!("messages[{index}].content: is missing"))),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                let texts = parts.into_iter().enumerate().map(|(at, part)| part.text(index, at));
                texts.collect::<Result<Vec<_>, _>>()?.join("\n")
            }
        };
        Ok(Message { speaker, text })
    }
}

impl Part {
    fn text(self, index: usize, at: usize) -> Result<String, OpenAiError> {
        let place = format!("messages[{index}].content[{at}]");
        match (self.kind.as_str(), self.text) {
            ("text", Some(text)) => Ok(text),
            ("text", None) => Err(wrong("messages", format!("{place}.text: is missing"))),
            (kind, _) => Err(wrong(
                "messages",
                format!("{place}: this model reads parts of the type text only, not {kind}"),
            )),
        }
    }
}

fn limit(asked: i64, most: usize, notes: &mut Vec<String>) -> Result<usize, OpenAiError> {
    match usize::try_from(asked) {
        Ok(asked) if asked > most => {
            notes
                .push(format!("max_tokens: {asked} is more than this model answers with; {most} were taken"));
            Ok(most)
        }
        Ok(asked) if asked > 0 => Ok(asked),
        Ok(_) | Err(_) => Err(wrong("max_tokens", format!("must be at least 1, is {asked}"))),
    }
}

fn within(
    param: &'static str,
    value: Option<f32>,
    range: std::ops::RangeInclusive<f32>,
) -> Result<(), OpenAiError> {
    match value {
        Some(value) if !range.contains(&value) => {
            let (least, most) = (if param == "top_p" { "over 0" } else { "at least 0" }, range.end());
            Err(wrong(param, format!("must be {least} and at most {most}, is {value}")))
        }
        _ => Ok(()),
    }
}

fn wrong(param: &'static str, problem: String) -> OpenAiError {
    let detail = if problem.starts_with(param) { problem } else { format!("{param}: {problem}") };
    OpenAiError::about(ApiError::invalid(detail), param)
}
