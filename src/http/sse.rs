//! Server-sent events, as every endpoint that streams writes them.

use std::convert::Infallible;

use actix_web::{HttpResponse, http::header, web::Bytes};
use futures_util::{Stream, StreamExt};
use serde::Serialize;

/// A response of these events.
pub fn response(events: impl Stream<Item = Bytes> + 'static) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        // nginx would otherwise hold the events back.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(events.map(Ok::<_, Infallible>))
}

/// An event of this name with JSON as its data.
pub fn named(name: &str, data: &impl Serialize) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {}\n\n", json(data)))
}

/// An event without a name, as OpenAI's are, with JSON as its data.
pub fn data(data: &impl Serialize) -> Bytes {
    text(&json(data))
}

/// An event without a name whose data is this one line.
pub fn text(line: &str) -> Bytes {
    Bytes::from(format!("data: {line}\n\n"))
}

fn json(data: &impl Serialize) -> String {
    serde_json::to_string(data).unwrap_or_default()
}
