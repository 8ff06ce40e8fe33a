//! Requests that an upstream server answers.

use actix_web::{
    HttpResponse,
    http::{StatusCode, header::ContentType},
    web::Bytes,
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::wire::{RagwayExtension, done, error_event};
use crate::{
    http::{Gateway, compat::OpenAiError, error::ApiError, shutdown::stopping, sse},
    models::{
        ModelError,
        forward::{Chunk, ForwardError, ForwardRequest, Forwarded, Refusal, Whole, with_member},
        router::{RouteError, RoutedForward},
    },
    rag::{Caller, RagError, chat::PassOnError},
};

/// Passes a request on as it is; the upstream's model is put into it on the way.
pub(super) async fn pass_on(
    gateway: &Gateway,
    caller: Caller,
    request: &ForwardRequest,
) -> Result<HttpResponse, OpenAiError> {
    let routed = gateway.rag.pass_on(caller, request).await.map_err(|error| match error {
        PassOnError::Refused(error) => error.into(),
        PassOnError::Unanswered(error) => refused(error),
    })?;
    let RoutedForward { backend: model, attempts, reply } = routed;
    let attempts = attempts.into_iter().map(Into::into).collect();
    let mut extension = RagwayExtension { model, attempts, ..RagwayExtension::default() };
    Ok(match reply {
        Forwarded::Whole(whole) => {
            if whole.usage().is_none() {
                extension.notes.push(UNCOUNTED.to_owned());
            }
            let Whole { body, mut value } = whole;
            let mended = mend_choices(&mut value);
            let body = written(body, value, mended, Some(json!(extension)));
            HttpResponse::Ok().content_type(ContentType::json()).body(body)
        }
        Forwarded::Stream(chunks) => {
            let (wants_usage, extension) = (request.wants_usage(), Some(json!(extension)));
            let mut relay = Relay { wants_usage, first: None, extension, ended: false };
            let last = ForwardError { error: stopping(), refusal: None };
            let chunks = gateway.shutdown.bound(chunks, Err(last));
            let end = stream::iter([None]);
            let lines = chunks.map(Some).chain(end).map(move |chunk| stream::iter(relay.write(chunk)));
            sse::response(lines.flatten())
        }
    })
}

const UNCOUNTED: &str = "the backend did not count the tokens; an estimate is charged";

/// The server's bytes with what ragway adds. Only where they are `altered`, or have
/// the member already, are they written anew.
fn written(bytes: Bytes, mut value: Value, altered: bool, extension: Option<Value>) -> Bytes {
    let added = match &extension {
        None if !altered => return bytes,
        Some(extension) if !altered && value.get(EXTENSION).is_none() => {
            with_member(&bytes, EXTENSION, extension)
        }
        _ => None,
    };
    let bytes = added.unwrap_or_else(|| {
        if let Some(extension) = extension {
            value[EXTENSION] = extension;
        }
        value.to_string().into_bytes()
    });
    bytes.into()
}

const EXTENSION: &str = "ragway";

/// Chunks of a stream on their way through.
struct Relay {
    /// Whether the client asked for the chunk of the usage; the server is always asked.
    wants_usage: bool,
    /// `id` and `created` of the first chunk, which the others get too.
    first: Option<(Value, Value)>,
    /// Goes with the first choice that ends.
    extension: Option<Value>,
    ended: bool,
}

impl Relay {
    /// The event for a chunk, if it gets one; none is the stream's end.
    fn write(&mut self, chunk: Option<Result<Chunk, ForwardError>>) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        match chunk {
            Some(Ok(chunk)) if chunk.is_usage_only() && !self.wants_usage => None,
            Some(Ok(chunk)) => Some(self.chunk(chunk)),
            Some(Err(error)) => {
                self.ended = true;
                Some(error_event(&told(error.error, error.refusal)))
            }
            None => Some(done()),
        }
    }

    fn chunk(&mut self, chunk: Chunk) -> Bytes {
        let Chunk { data, mut value } = chunk;
        let (id, created) = self.first.get_or_insert_with(|| (value["id"].clone(), value["created"].clone()));
        let same = value["id"] == *id && value["created"] == *created;
        if !same {
            value["id"] = id.clone();
            value["created"] = created.clone();
        }
        let mended = mend_choices(&mut value);
        let ends = value["choices"]
            .as_array()
            .is_some_and(|choices| choices.iter().any(|choice| !choice["finish_reason"].is_null()));
        let extension = if ends { self.extension.take() } else { None };
        // A line break would end the line of the event.
        let altered = mended || !same || data.contains('\n');
        let data = written(data.into(), value, altered, extension);
        Bytes::from([b"data: ", &*data, b"\n\n"].concat())
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

pub(super) fn refused(error: RouteError) -> OpenAiError {
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
