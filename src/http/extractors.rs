//! Framework errors in the API's own shape.

use std::io::ErrorKind;

use actix_web::{
    Error, FromRequest, HttpMessage, HttpRequest,
    dev::Payload,
    error::{JsonPayloadError, PathError, PayloadError, QueryPayloadError},
    http::StatusCode,
    web,
};
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// JSON bodies up to `limit` bytes.
pub fn json_config(limit: usize) -> web::JsonConfig {
    web::JsonConfig::default()
        .limit(limit)
        .error_handler(move |error, request| json_error(&error, request, limit))
}

/// Query strings.
pub fn query_config() -> web::QueryConfig {
    web::QueryConfig::default().error_handler(|error: QueryPayloadError, _| {
        ApiError::invalid(format!("query string: {error}")).into()
    })
}

/// Path segments.
pub fn path_config() -> web::PathConfig {
    web::PathConfig::default()
        .error_handler(|error: PathError, _| ApiError::invalid(format!("path: {error}")).into())
}

/// The whole body, up to `limit` bytes.
pub async fn body_bytes(
    request: &HttpRequest,
    payload: &mut Payload,
    limit: usize,
) -> Result<web::Bytes, ApiError> {
    web::Bytes::from_request(request, payload).await.map_err(|error| {
        if error.as_error().is_some_and(is_too_slow) {
            return ApiError::body_too_slow();
        }
        let too_large = error.as_response_error().status_code() == StatusCode::PAYLOAD_TOO_LARGE;
        if too_large { ApiError::too_large(limit) } else { ApiError::invalid(format!("body: {error}")) }
    })
}

/// The whole body of a request that says it is JSON.
pub async fn json_bytes(
    request: &HttpRequest,
    payload: &mut Payload,
    limit: usize,
) -> Result<web::Bytes, ApiError> {
    let is_json = request.mime_type().ok().flatten().is_some_and(|kind| {
        kind.subtype().as_str() == "json" || kind.suffix().is_some_and(|suffix| suffix.as_str() == "json")
    });
    if is_json { body_bytes(request, payload, limit).await } else { Err(not_json(request)) }
}

/// What `limits` makes of a body that does not come in time.
pub fn is_too_slow(error: &PayloadError) -> bool {
    matches!(error, PayloadError::Io(error) if error.kind() == ErrorKind::TimedOut)
}

/// Parses a JSON body that was read whole.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| malformed(&error))
}

/// A JSON body that could not be read.
pub fn malformed(error: &serde_json::Error) -> ApiError {
    ApiError::invalid(describe(error))
}

fn json_error(error: &JsonPayloadError, request: &HttpRequest, limit: usize) -> Error {
    match error {
        JsonPayloadError::OverflowKnownLength { .. } | JsonPayloadError::Overflow { .. } => {
            ApiError::too_large(limit)
        }
        JsonPayloadError::Payload(error) if is_too_slow(error) => ApiError::body_too_slow(),
        JsonPayloadError::ContentType => not_json(request),
        JsonPayloadError::Deserialize(error) => malformed(error),
        other => ApiError::invalid(other.to_string()),
    }
    .into()
}

fn not_json(request: &HttpRequest) -> ApiError {
    let sent = request.headers().get("content-type").and_then(|value| value.to_str().ok());
    ApiError::unsupported_content_type(format!(
        "send JSON with `content-type: application/json`, not `{}`",
        sent.unwrap_or("none")
    ))
}

/// What serde_json says of it; it has no kind of its own.
const TOO_DEEP: &str = "recursion limit exceeded";

fn describe(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => format!("JSON body: {error}"),
        _ if error.to_string().starts_with(TOO_DEEP) => {
            format!("the JSON body is nested deeper than the 127 levels that are read: {error}")
        }
        serde_json::error::Category::Eof => format!("JSON body ends too early: {error}"),
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => {
            format!("the body is not valid JSON: {error}")
        }
    }
}
