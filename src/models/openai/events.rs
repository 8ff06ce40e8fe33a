//! Reads the events of a streamed chat completion.

use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use serde_json::Value;

use super::{
    reply::{Patience, broken_off, error_in},
    sse::{EventReader, TooLong},
};
use crate::models::{
    GeneratedPart, GenerationStream, ModelError, Usage,
    forward::{Chunk, ForwardError, usage_of},
};

/// Events until the answer is complete; an error is the last item.
pub type EventStream = BoxStream<'static, Result<Event, ForwardError>>;

/// A chunk of a completion: as it was written, and what it says.
#[derive(Debug)]
pub struct Event {
    data: String,
    value: Value,
}

impl Event {
    /// An event that says this.
    pub fn of(value: Value) -> Self {
        Self { data: value.to_string(), value }
    }

    /// The event as it is passed on.
    pub fn into_chunk(self) -> Chunk {
        Chunk { data: self.data, value: self.value }
    }

    /// The text of the first choice, if there is any.
    fn text(&self) -> Option<&str> {
        self.value.pointer("/choices/0/delta/content")?.as_str().filter(|text| !text.is_empty())
    }

    /// Whether a choice ends here. Some servers send an empty reason with every event.
    fn ends_choice(&self) -> bool {
        let choices = self.value.get("choices").and_then(Value::as_array);
        choices.into_iter().flatten().any(|choice| {
            choice.get("finish_reason").and_then(Value::as_str).is_some_and(|reason| !reason.is_empty())
        })
    }
}

/// The text of an answer and, last, its usage.
pub fn parts(events: EventStream) -> GenerationStream {
    stream::unfold(Some((events, None)), next_part).boxed()
}

type Rest = Option<(EventStream, Option<Usage>)>;

async fn next_part(rest: Rest) -> Option<(Result<GeneratedPart, ModelError>, Rest)> {
    let (mut events, mut usage) = rest?;
    loop {
        match events.next().await {
            Some(Ok(event)) => {
                usage = usage_of(&event.value).or(usage);
                if let Some(text) = event.text() {
                    return Some((Ok(GeneratedPart::Text(text.to_owned())), Some((events, usage))));
                }
            }
            Some(Err(error)) => return Some((Err(error.error), None)),
            None => return usage.map(|usage| (Ok(GeneratedPart::Usage(usage)), None)),
        }
    }
}

/// The events of a body, as they arrive.
pub fn read_events(patience: Patience, body: BoxStream<'static, reqwest::Result<Bytes>>) -> EventStream {
    let reader = Reader {
        patience,
        body,
        events: EventReader::default(),
        begun: false,
        complete: false,
        ended: false,
    };
    stream::unfold(reader, Reader::next).boxed()
}

struct Reader {
    patience: Patience,
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    events: EventReader,
    /// An event has been read.
    begun: bool,
    /// A choice has ended: the body may end too, for some servers never send `[DONE]`.
    complete: bool,
    /// There is nothing more to read.
    ended: bool,
}

impl Reader {
    async fn next(mut self) -> Option<(Result<Event, ForwardError>, Self)> {
        loop {
            match self.events.pop() {
                Some(data) if data.trim() == "[DONE]" => return None,
                Some(data) => {
                    let event = self.read(data);
                    return Some((self.last_if_error(event), self));
                }
                None if self.ended && self.complete => return None,
                None if self.ended => {
                    let reason = if self.begun {
                        "the answer broke off before its end"
                    } else {
                        "it answered with no events"
                    };
                    let error = self.patience.server.unavailable(reason.to_owned());
                    return Some((self.last_if_error(Err(error.into())), self));
                }
                None => {
                    if let Err(error) = self.fill().await {
                        return Some((self.last_if_error(Err(error.into())), self));
                    }
                }
            }
        }
    }

    /// Takes the next bytes of the body.
    async fn fill(&mut self) -> Result<(), ModelError> {
        let server = &self.patience.server;
        match self.patience.wait(self.body.next()).await? {
            Some(Ok(bytes)) => self
                .events
                .push(&bytes)
                .map_err(|TooLong| server.unavailable("it sent an event without end".to_owned())),
            Some(Err(error)) => Err(broken_off(server, error)),
            None => {
                self.ended = true;
                self.events.finish();
                Ok(())
            }
        }
    }

    fn read(&mut self, data: String) -> Result<Event, ForwardError> {
        let server = &self.patience.server;
        let value: Value = serde_json::from_str(&data)
            .map_err(|error| server.unavailable(format!("it sent an event that is no JSON: {error}")))?;
        if !value.is_object() {
            return Err(server.unavailable("it sent an event that is no JSON object".to_owned()).into());
        }
        if let Some(error) = error_in(server, &value) {
            return Err(error);
        }
        let event = Event { data, value };
        self.begun = true;
        self.complete |= event.ends_choice();
        Ok(event)
    }

    fn last_if_error(&mut self, event: Result<Event, ForwardError>) -> Result<Event, ForwardError> {
        if event.is_err() {
            (self.ended, self.complete) = (true, true);
            self.events = EventReader::default();
        }
        event
    }
}
