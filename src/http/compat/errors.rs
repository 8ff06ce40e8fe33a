//! Errors in the shapes of other protocols, made from the one table in `http::error`.

use std::borrow::Cow;

use actix_web::{
    HttpResponse, ResponseError,
    http::{
        StatusCode,
        header::{HeaderName, HeaderValue},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::{
    error::{ApiError, BAD_CREDENTIALS, NO_CREDENTIALS, NOT_LOADED, QUOTA_EXCEEDED, UNKNOWN_MODEL},
    observe::request_id,
};

/// Overrides when OpenAI's SDKs try again by themselves.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Their type and code for a quota that is used up.
const INSUFFICIENT_QUOTA: &str = "insufficient_quota";

/// An error as OpenAI's clients read it.
#[derive(Debug)]
pub struct OpenAiError {
    error: ApiError,
    param: Option<Cow<'static, str>>,
    /// As the server behind ragway names it; boxed, so that every `Result` stays small.
    upstream: Option<Box<Named>>,
}

/// A problem's type and code, where they are said.
#[derive(Debug)]
struct Named {
    kind: Option<String>,
    code: Option<String>,
}

impl OpenAiError {
    /// What a server behind ragway said.
    pub fn in_words(
        error: ApiError,
        kind: Option<String>,
        param: Option<String>,
        code: Option<String>,
    ) -> Self {
        Self { error, param: param.map(Cow::Owned), upstream: Some(Box::new(Named { kind, code })) }
    }

    /// Names the field that is at fault, where the request is at all.
    pub fn about(error: ApiError, param: &'static str) -> Self {
        let at_fault = [StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY].contains(&error.status());
        Self { error, param: at_fault.then_some(Cow::Borrowed(param)), upstream: None }
    }

    pub(super) fn body(&self) -> OpenAiErrorBody {
        let status = self.status_code();
        let unknown_model = self.error.code() == UNKNOWN_MODEL;
        let no_quota = self.error.code() == QUOTA_EXCEEDED;
        let code = match self.error.code() {
            _ if unknown_model => "model_not_found",
            _ if no_quota => INSUFFICIENT_QUOTA,
            NO_CREDENTIALS | BAD_CREDENTIALS => "invalid_api_key",
            code => code,
        };
        let kind = match status {
            _ if no_quota => INSUFFICIENT_QUOTA,
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        };
        let upstream = self.upstream.as_deref();
        let kind_there = upstream.and_then(|named| named.kind.clone());
        let code_there = upstream.and_then(|named| named.code.clone());
        OpenAiErrorBody {
            error: OpenAiProblem {
                message: self.error.detail().to_owned(),
                kind: kind_there.map_or(Cow::Borrowed(kind), Cow::Owned),
                param: if unknown_model { Some("model".into()) } else { self.param.clone() },
                code: Some(code_there.map_or(Cow::Borrowed(code), Cow::Owned)),
            },
        }
    }
}

impl<E: Into<ApiError>> From<E> for OpenAiError {
    fn from(error: E) -> Self {
        Self { error: error.into(), param: None, upstream: None }
    }
}

impl std::fmt::Display for OpenAiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl ResponseError for OpenAiError {
    fn status_code(&self) -> StatusCode {
        // 400 in ragway's own API; OpenAI's clients know an unknown model by 404.
        if self.error.code() == UNKNOWN_MODEL { StatusCode::NOT_FOUND } else { self.error.status() }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = self.error.response(self.status_code(), "application/json", &self.body());
        if [NOT_LOADED, QUOTA_EXCEEDED].contains(&self.error.code()) {
            // The SDKs would wait up to a minute and try again, twice.
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiErrorBody {
    error: OpenAiProblem,
}

/// All four are always there.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiProblem {
    /// What was wrong and what to do.
    #[schema(example = "Unknown embedding model: gpt. Known: text-embedding (all-MiniLM-L6-v2)")]
    message: String,
    /// `invalid_request_error`, `rate_limit_error`, `insufficient_quota` or `server_error`.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    #[schema(value_type = String)]
    kind: Cow<'static, str>,
    /// The field at fault.
    #[schema(value_type = Option<String>, example = "model")]
    param: Option<Cow<'static, str>>,
    /// Stable name of the problem.
    #[schema(value_type = Option<String>, example = "model_not_found")]
    code: Option<Cow<'static, str>>,
}

/// An error as clients of text-embeddings-inference read it.
#[derive(Debug)]
pub struct TeiError {
    error: ApiError,
    kind: TeiErrorKind,
}

/// Their names of what can go wrong.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub enum TeiErrorKind {
    Unhealthy,
    Backend,
    Overloaded,
    Validation,
    Empty,
}

impl TeiErrorKind {
    /// The kind of an error of ragway's own table.
    fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::TOO_MANY_REQUESTS => TeiErrorKind::Overloaded,
            StatusCode::SERVICE_UNAVAILABLE => TeiErrorKind::Unhealthy,
            status if status.is_server_error() => TeiErrorKind::Backend,
            _ => TeiErrorKind::Validation,
        }
    }

    /// The status that their clients expect with it.
    fn status(self) -> StatusCode {
        match self {
            TeiErrorKind::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
            TeiErrorKind::Backend => StatusCode::FAILED_DEPENDENCY,
            TeiErrorKind::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            TeiErrorKind::Validation => StatusCode::UNPROCESSABLE_ENTITY,
            TeiErrorKind::Empty => StatusCode::BAD_REQUEST,
        }
    }
}

impl TeiError {
    /// Their server leaves bodies to HTTP, and so to its statuses; permissions it does not know.
    fn status(&self) -> StatusCode {
        match self.error.status() {
            status @ (StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE) => status,
            _ => self.kind.status(),
        }
    }

    /// A list that must not be empty.
    pub fn empty(field: &str) -> Self {
        let error = ApiError::invalid(format!("`{field}` is empty; give at least one text"));
        Self { error, kind: TeiErrorKind::Empty }
    }
}

impl<E: Into<ApiError>> From<E> for TeiError {
    fn from(error: E) -> Self {
        let error = error.into();
        Self { kind: TeiErrorKind::of(error.status()), error }
    }
}

impl std::fmt::Display for TeiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.error)
    }
}

impl ResponseError for TeiError {
    fn status_code(&self) -> StatusCode {
        self.status()
    }

    fn error_response(&self) -> HttpResponse {
        let body = TeiErrorBody { error: self.error.detail().to_owned(), error_type: self.kind };
        self.error.response(self.status(), "application/json", &body)
    }
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct TeiErrorBody {
    /// What was wrong and what to do.
    #[schema(example = "inputs[0]: is longer than the 256 tokens that all-MiniLM-L6-v2 reads")]
    error: String,
    #[schema(example = "Validation")]
    error_type: TeiErrorKind,
}

/// An error as Cohere's clients read it.
#[derive(Debug)]
pub struct CohereError(ApiError);

impl<E: Into<ApiError>> From<E> for CohereError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl std::fmt::Display for CohereError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for CohereError {
    fn status_code(&self) -> StatusCode {
        if self.0.code() == UNKNOWN_MODEL { StatusCode::NOT_FOUND } else { self.0.status() }
    }

    fn error_response(&self) -> HttpResponse {
        let body = CohereErrorBody { message: self.0.detail().to_owned(), id: request_id() };
        self.0.response(self.status_code(), "application/json", &body)
    }
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct CohereErrorBody {
    /// What was wrong and what to do.
    #[schema(example = "documents: give at least one text")]
    message: String,
    /// The request's id, which the logs have too.
    #[schema(example = "0193f0a1-6a2e-7a8b-9d5e-3f1d2c4b5a69")]
    id: String,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix_web::http::header;

    use super::*;
    use crate::models::ModelError;

    /// Status and type of an error.
    type Shown = (u16, &'static str);

    /// Every failure of a model, as OpenAI's and as TEI's clients see it.
    fn failures() -> Vec<(ModelError, Shown, Shown)> {
        let (model, reason) = ("m".to_owned(), "r".to_owned());
        let overloaded = ModelError::Overloaded { model: model.clone(), retry_after: Duration::from_secs(3) };
        let (unfit, bad) = (
            ModelError::Unfit { model: model.clone(), reason: reason.clone() },
            ModelError::BadImage { index: 0, reason: reason.clone() },
        );
        let not_loaded = ModelError::NotLoaded { model: model.clone(), reason: reason.clone() };
        let timed_out = ModelError::TimedOut { model: model.clone(), after: Duration::from_secs(1) };
        let unavailable = ModelError::Unavailable { model: model.clone(), reason: reason.clone() };
        let failed = ModelError::Failed { model, reason };
        vec![
            (overloaded, (429, "rate_limit_error"), (429, "Overloaded")),
            (unfit, (422, "invalid_request_error"), (422, "Validation")),
            (bad, (422, "invalid_request_error"), (422, "Validation")),
            (not_loaded, (503, "server_error"), (503, "Unhealthy")),
            (timed_out, (504, "server_error"), (424, "Backend")),
            (unavailable, (503, "server_error"), (503, "Unhealthy")),
            (failed, (500, "server_error"), (424, "Backend")),
        ]
    }

    #[test]
    fn failures_of_a_model_keep_status_type_and_retry_after() {
        for (failure, openai, tei) in failures() {
            let error = OpenAiError::from(failure.clone());
            assert_eq!((error.status_code().as_u16(), error.body().error.kind.as_ref()), openai);
            let wait = error.error_response().headers().get(header::RETRY_AFTER).cloned();
            let advised = error.error_response().headers().get(SHOULD_RETRY).cloned();
            assert_eq!(advised.is_some(), matches!(failure, ModelError::NotLoaded { .. }));
            let retryable = [429, 503].contains(&openai.0);
            assert_eq!(wait.is_some(), retryable);
            let error = TeiError::from(failure);
            assert_eq!((error.status_code().as_u16(), format!("{:?}", error.kind).as_str()), tei);
            assert_eq!(error.error_response().headers().get(header::RETRY_AFTER).cloned(), wait);
        }
    }
}
