//! Requests that an upstream server answers.

use actix_web::{HttpResponse, http::StatusCode, web::Bytes};
use futures_util::{StreamExt, stream};
use serde_json::{Map, Value, json};

use super::wire::{RagwayExtension, done, error_event};
use crate::{
    http::{Gateway, compat::OpenAiError, error::ApiError, sse},
    models::{
        ModelError,
        forward::{Chunk, ForwardError, Forwarded, Refusal},
        router::{RouteError, RoutedForward, Selector},
    },
    rag::{Caller, RagError},
};

/// Passes a request on as it is; the router puts the upstream's model into it.
pub(super) async fn pass_on(
    gateway: &Gateway,
    caller: Caller,
    body: Map<String, Value>,
    model: &str,
) -> Result<HttpResponse, OpenAiError> {
    let question = last_text(&body).to_owned();
    let selector = Selector {
        model: Some(model),
        tenant: Some(caller.tenant.0),
        question: &question,
        ..Selector::default()
    };
    let routed = gateway.rag.answers().forward(&selector, body).await.map_err(refused)?;
    let RoutedForward { backend, attempts, reply } = routed;
    let attempts = attempts.into_iter().map(Into::into).collect();
    let extension = json!(RagwayExtension { model: backend, attempts, ..RagwayExtension::default() });
    Ok(match reply {
        Forwarded::Whole(whole) => {
            let mut completion = serde_json::from_slice(&whole.body).unwrap_or(Value::Null);
            mend_choices(&mut completion);
            completion["ragway"] = extension;
            HttpResponse::Ok().json(completion)
        }
        Forwarded::Stream(chunks) => {
            let mut relay = Relay { first: None, extension: Some(extension), ended: false };
            let end = stream::iter([None]);
            let lines = chunks.map(Some).chain(end).map(move |chunk| stream::iter(relay.write(chunk)));
            sse::response(lines.flatten())
        }
    })
}

/// What the user said last, for the rules of routing.
fn last_text(body: &Map<String, Value>) -> &str {
    let messages = body.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let last =
        messages.iter().rev().find(|message| message["role"] == "user").map(|message| &message["content"]);
    let text = match last {
        Some(Value::Array(parts)) => parts.iter().find_map(|part| part["text"].as_str()),
        Some(content) => content.as_str(),
        None => None,
    };
    text.unwrap_or_default()
}

/// Chunks of a stream on their way through.
struct Relay {
    /// `id` and `created` of the first chunk, which the others get too.
    first: Option<(Value, Value)>,
    /// Goes with the first choice that ends.
    extension: Option<Value>,
    ended: bool,
}

impl Relay {
    /// The events for a chunk; none is the stream's end.
    fn write(&mut self, chunk: Option<Result<Chunk, ForwardError>>) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        match chunk {
            Some(Ok(chunk)) => Some(self.chunk(&chunk.data)),
            Some(Err(error)) => {
                self.ended = true;
                Some(error_event(&told(error.error, error.refusal)))
            }
            None => Some(done()),
        }
    }

    fn chunk(&mut self, data: &str) -> Bytes {
        let Ok(mut chunk) = serde_json::from_str::<Value>(data) else {
            return sse::text(data);
        };
        let (id, created) = self.first.get_or_insert_with(|| (chunk["id"].clone(), chunk["created"].clone()));
        let same = chunk["id"] == *id && chunk["created"] == *created;
        if !same {
            chunk["id"] = id.clone();
            chunk["created"] = created.clone();
        }
        let mended = mend_choices(&mut chunk);
        let ends = chunk["choices"]
            .as_array()
            .is_some_and(|choices| choices.iter().any(|choice| !choice["finish_reason"].is_null()));
        if ends && let Some(extension) = self.extension.take() {
            chunk["ragway"] = extension;
        } else if same && !mended {
            return sse::text(data);
        }
        sse::data(&chunk)
    }
}

/// Some servers write "" for what has not ended, which strict clients cannot read; says whether it was there.
fn mend_choices(completion: &mut Value) -> bool {
    let mut mended = false;
    if let Some(choices) = completion.get_mut("choices").and_then(Value::as_array_mut) {
        for reason in choices.iter_mut().filter_map(|choice| choice.get_mut("finish_reason")) {
            if reason == "" {
                *reason = Value::Null;
                mended = true;
            }
        }
    }
    mended
}

fn refused(error: RouteError) -> OpenAiError {
    if let Some(last) = error.last() {
        return told(last.error.clone(), last.refusal.clone());
    }
    match error {
        RouteError::UnknownModel { .. } => RagError::UnknownModel(error.to_string()).into(),
        RouteError::Deadline { after, .. } => ModelError::TimedOut { model: "answer".into(), after }.into(),
        RouteError::NoBackend | RouteError::AllFailed { .. } => {
            ModelError::Unavailable { model: "answer".into(), reason: error.to_string() }.into()
        }
    }
}

/// An upstream's error: in its own words where the request is at fault.
fn told(error: ModelError, refusal: Option<Refusal>) -> OpenAiError {
    let about_request = |status: &StatusCode| status.is_client_error();
    let status = refusal.as_ref().and_then(|refusal| StatusCode::from_u16(refusal.status).ok());
    match (refusal, status.filter(about_request)) {
        (Some(refusal), Some(status)) => {
            let words = Words::of(&refusal.body);
            let message = words.message.unwrap_or_else(|| error.to_string());
            let own = ApiError::from(error).with_status(status, message);
            OpenAiError::in_words(own, words.kind, words.param, words.code)
        }
        _ => error.into(),
    }
}

/// What servers say in one of several shapes.
#[derive(Default)]
struct Words {
    message: Option<String>,
    kind: Option<String>,
    param: Option<String>,
    code: Option<String>,
}

impl Words {
    fn of(body: &str) -> Self {
        let Ok(body) = serde_json::from_str::<Value>(body) else { return Self::default() };
        let error = if body["error"].is_object() { &body["error"] } else { &body };
        let text = |name: &str| match &error[name] {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let message = text("message").or_else(|| body["error"].as_str().map(str::to_owned));
        Self { message, kind: text("type"), param: text("param"), code: text("code") }
    }
}
