//! In which shape an endpoint's errors are, for what is refused before a handler is reached.

use actix_web::{HttpResponse, ResponseError};
use serde_json::json;
use utoipa::openapi::{ContentBuilder, Ref, Response, ResponseBuilder};

use super::{
    compat::{CohereError, OpenAiError, TeiError},
    error::ApiError,
    observe::request_id,
};

/// How errors look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Native,
    OpenAi,
    Tei,
    Cohere,
    JsonRpc,
}

impl Shape {
    /// The response that says what went wrong.
    pub fn response(self, error: ApiError) -> HttpResponse {
        match self {
            Shape::Native => error.error_response(),
            Shape::OpenAi => OpenAiError::from(error).error_response(),
            Shape::Tei => TeiError::from(error).error_response(),
            Shape::Cohere => CohereError::from(error).error_response(),
            Shape::JsonRpc => {
                let data = json!({"code": error.code(), "request_id": request_id()});
                // The first of the codes that JSON-RPC leaves to servers.
                let told = json!({"code": -32000, "message": error.detail(), "data": data});
                let body = json!({"jsonrpc": "2.0", "id": null, "error": told});
                error.response(error.status(), "application/json", &body)
            }
        }
    }

    /// The same as the document describes it.
    pub fn described(self, description: impl Into<String>) -> Response {
        let (schema, media_type) = match self {
            Shape::Native | Shape::JsonRpc => ("Problem", "application/problem+json"),
            Shape::OpenAi => ("OpenAiErrorBody", "application/json"),
            Shape::Tei => ("TeiErrorBody", "application/json"),
            Shape::Cohere => ("CohereErrorBody", "application/json"),
        };
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
        ResponseBuilder::new().description(description).content(media_type, content).build()
    }
}
