//! Reads the events of a streamed chat completion.

use async_openai::types::stream::StreamResponse;
use futures_util::{StreamExt, stream};
use reqwest::{StatusCode, header::HeaderMap};
use serde_json::Value;
use tokio::time::timeout;

use super::explain;
use crate::models::server::{Server, message_of};
use crate::models::{GeneratedPart, GenerationStream, ModelError, Usage};

/// The parts of an answer, from its events. They are read as plain JSON, so
/// that an unexpected or missing field elsewhere in an event does no harm.
pub fn parts(server: Server, events: StreamResponse<Value>) -> GenerationStream {
    let reader = Reader { server, events, usage: None, ended: false };
    stream::unfold(reader, Reader::next).boxed()
}

struct Reader {
    server: Server,
    events: StreamResponse<Value>,
    usage: Option<Usage>,
    ended: bool,
}

impl Reader {
    async fn next(mut self) -> Option<(Result<GeneratedPart, ModelError>, Self)> {
        while !self.ended {
            let Ok(event) = timeout(self.server.timeout, self.events.next()).await else {
                self.ended = true;
                return Some((Err(self.server.timed_out()), self));
            };
            let text = match event {
                Some(Ok(event)) => self.read(&event),
                Some(Err(error)) => Err(explain(&self.server, error)),
                None => {
                    self.ended = true;
                    return self.usage.map(|usage| (Ok(GeneratedPart::Usage(usage)), self));
                }
            };
            match text {
                Ok(None) => {}
                Ok(Some(text)) => return Some((Ok(GeneratedPart::Text(text)), self)),
                Err(error) => {
                    self.ended = true;
                    return Some((Err(error), self));
                }
            }
        }
        None
    }

    /// The text of an event, if it has any.
    fn read(&mut self, event: &Value) -> Result<Option<String>, ModelError> {
        let choices = event.get("choices");
        if choices.is_none() && message_of(event).is_some() {
            let code = [event.pointer("/error/code"), event.get("code")].into_iter().flatten();
            let code = code.filter_map(Value::as_u64).find_map(|code| u16::try_from(code).ok());
            let status = code.and_then(|code| StatusCode::from_u16(code).ok());
            let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Err(self.server.refusal(status, &HeaderMap::new(), &event.to_string()));
        }
        if let Some(usage) = event.get("usage").filter(|usage| usage.is_object()) {
            let count = |key: &str| usage[key].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            let (prompt_tokens, completion_tokens) = (count("prompt_tokens"), count("completion_tokens"));
            self.usage = Some(Usage { prompt_tokens, completion_tokens });
        }
        let choice = choices.and_then(|choices| choices.get(0));
        let text = choice.and_then(|choice| {
            choice.pointer("/delta/content").or_else(|| choice.pointer("/message/content"))
        });
        Ok(text.and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned))
    }
}
