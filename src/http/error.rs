//! The only status-code table.

use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{fetch::FetchError, observe::request_id};
use crate::{
    access::Refusal,
    models::ModelError,
    rag::{RagError, extract::ExtractError, jobs::DocumentFault},
    store::StoreError,
};

/// A problem as the API shows it (RFC 9457).
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: `code` tells problems apart.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    pub kind: &'static str,
    /// The status in words.
    #[schema(example = "Bad Request")]
    pub title: String,
    /// The HTTP status.
    #[schema(example = 400)]
    pub status: u16,
    /// What was wrong and what to do.
    #[schema(example = "k: must be between 1 and 1000, is 0")]
    pub detail: String,
    /// Stable name of the problem, for programs.
    #[schema(example = "invalid_request")]
    pub code: &'static str,
    /// Also in the header `x-request-id` and in the logs.
    pub request_id: String,
}

/// Code of the problem that no model has the name or type given.
pub const UNKNOWN_MODEL: &str = "unknown_model";

/// Code of the problem that a model's weights are not here.
pub const NOT_LOADED: &str = "model_not_loaded";

/// Code of the problem that a caller has used what it may.
pub const QUOTA_EXCEEDED: &str = "quota_exceeded";

/// Code of the problem that nothing says who asks.
pub const NO_CREDENTIALS: &str = "no_credentials";

/// Code of the problem that a key or token is not believed.
pub const BAD_CREDENTIALS: &str = "invalid_credentials";

/// Code of the problem that a caller may not do what it asks for.
pub const NO_PERMISSION: &str = "missing_permission";

/// What went wrong with a request.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    detail: String,
    retry_after_s: Option<u64>,
    allow: Option<String>,
}

impl ApiError {
    /// A problem of this status, code and explanation.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), retry_after_s: None, allow: None }
    }

    /// 400 with what is wrong.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    /// 404 for a path that is none of ours.
    pub fn not_found(path: &str) -> Self {
        let detail = format!("there is nothing at {path}; the API is described at /docs");
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// 500 for a defect. The cause is logged, not shown: it may hold what is not the caller's.
    pub fn internal(cause: &str) -> Self {
        tracing::error!(error = cause, "a request failed inside");
        let detail = "something failed inside ragway; its log has the cause under this request_id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", detail)
    }

    /// 413 with the limit.
    pub fn too_large(limit: usize) -> Self {
        let detail =
            format!("the body is larger than {limit} bytes (http.max_body_bytes); send less at once");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    }

    /// 408 for a body that does not come.
    pub fn body_too_slow() -> Self {
        let detail = "the body took too long to come (http.body_timeout_ms); send it faster, or less at once";
        Self::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", detail)
    }

    /// 415 with what to send.
    pub fn unsupported_content_type(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_content_type", detail)
    }

    /// 405 with the methods that the path knows.
    pub fn wrong_method(method: &str, path: &str, allowed: String) -> Self {
        let detail = format!("{method} is not possible on {path}; possible: {allowed}");
        let error = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail);
        Self { allow: Some(allowed), ..error }
    }

    /// The same with the time after which it may succeed, at least a second.
    pub fn retry_after(self, seconds: u64) -> Self {
        // A client that reads 0 would retry at once.
        Self { retry_after_s: Some(seconds.max(1)), ..self }
    }

    /// The same with another status and other words.
    pub fn with_status(self, status: StatusCode, detail: String) -> Self {
        Self { status, detail, code: "upstream_refused", ..self }
    }

    /// Stable name of the problem.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What was wrong and what to do.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Seconds after which the same may succeed, where that is known.
    pub fn retry_after_s(&self) -> Option<u64> {
        self.retry_after_s
    }

    /// The same error where the protocol has another name for the field that it begins with.
    pub fn renamed(mut self, ours: &str, theirs: &str) -> Self {
        if let Some(rest) = self.detail.strip_prefix(ours) {
            self.detail = format!("{theirs}{rest}");
        }
        self
    }

    /// A response with this error's headers.
    pub fn response(&self, status: StatusCode, content_type: &str, body: &impl Serialize) -> HttpResponse {
        let mut response = HttpResponse::build(status);
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if let Some(allowed) = &self.allow {
            response.insert_header((header::ALLOW, allowed.as_str()));
        }
        if let Some(challenge) = self.challenge() {
            response.insert_header((header::WWW_AUTHENTICATE, challenge));
        }
        response.content_type(content_type);
        response.body(serde_json::to_vec(body).unwrap_or_default())
    }

    /// What `WWW-Authenticate` says (RFC 6750, 3.1).
    fn challenge(&self) -> Option<&'static str> {
        match self.code {
            NO_CREDENTIALS => Some("Bearer realm=\"ragway\""),
            BAD_CREDENTIALS => Some("Bearer realm=\"ragway\", error=\"invalid_token\""),
            NO_PERMISSION => Some("Bearer realm=\"ragway\", error=\"insufficient_scope\""),
            _ => None,
        }
    }

    /// What the response's body says.
    pub fn problem(&self) -> Problem {
        Problem {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            code: self.code,
            request_id: request_id(),
        }
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.status.as_u16(), self.code, self.detail)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        self.response(self.status, "application/problem+json", &self.problem())
    }
}

impl From<actix_web::Error> for ApiError {
    /// What `extractors` said of a body that could not be read.
    fn from(error: actix_web::Error) -> Self {
        error.as_error::<ApiError>().cloned().unwrap_or_else(|| Self::invalid(error.to_string()))
    }
}

impl From<RagError> for ApiError {
    fn from(error: RagError) -> Self {
        let detail = error.to_string();
        match error {
            RagError::Invalid(_) => Self::invalid(detail),
            RagError::UnknownModel(_) => Self::new(StatusCode::BAD_REQUEST, UNKNOWN_MODEL, detail),
            RagError::UnknownDocument(_) => Self::new(StatusCode::NOT_FOUND, "unknown_document", detail),
            RagError::UnknownTask(_) => Self::new(StatusCode::NOT_FOUND, "unknown_task", detail),
            RagError::UnknownAnswer(_) => Self::new(StatusCode::NOT_FOUND, "unknown_answer", detail),
            RagError::QuotaExceeded(error) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, QUOTA_EXCEEDED, detail)
                    .retry_after(error.retry_after_s)
            }
            RagError::NoImage(_) => Self::new(StatusCode::NOT_FOUND, "unknown_document", detail),
            RagError::BadImage(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unreadable_image", detail),
            RagError::SpaceMismatch { .. } => Self::new(StatusCode::CONFLICT, "space_mismatch", detail),
            RagError::Reembedding(_) => Self::new(StatusCode::CONFLICT, "reembedding_conflict", detail),
            RagError::NoReembedding(_) => Self::new(StatusCode::NOT_FOUND, "no_reembedding", detail),
            RagError::NoLexicalIndex { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_lexical_index", detail).retry_after(10)
            }
            RagError::LexicalOff(_) => Self::new(StatusCode::CONFLICT, "lexical_index_off", detail),
            RagError::Extract(error) => error.into(),
            RagError::Model(error) => error.into(),
            RagError::Store(error) => error.into(),
            RagError::Readers(_) | RagError::Prompt(_) | RagError::Job(_) | RagError::Task(_) => {
                Self::internal(&detail)
            }
        }
    }
}

impl From<ExtractError> for ApiError {
    fn from(error: ExtractError) -> Self {
        let detail = error.to_string();
        match error {
            ExtractError::Unsupported { .. } | ExtractError::Picture { .. } => {
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_format", detail)
            }
            _ => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unreadable_document", detail),
        }
    }
}

impl DocumentFault {
    /// The code that the error itself would have.
    pub fn code(self) -> &'static str {
        match self {
            DocumentFault::Invalid => "invalid_request",
            DocumentFault::UnsupportedFormat => "unsupported_format",
            DocumentFault::Unreadable => "unreadable_document",
            DocumentFault::Unfit => "unfit_for_model",
        }
    }
}

impl ApiError {
    /// An image that was given as a URL, in this field of the request.
    pub fn about_url(field: &str, error: &FetchError) -> Self {
        let detail = format!("{field}: {error}");
        match error {
            FetchError::NotAllowed | FetchError::Malformed(_) | FetchError::NotPublic(_) => {
                Self::new(StatusCode::BAD_REQUEST, "image_url_refused", detail)
            }
            FetchError::Failed { .. } | FetchError::TooLarge { .. } | FetchError::TimedOut { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "image_url_failed", detail)
            }
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(error: Refusal) -> Self {
        let detail = error.to_string();
        match error {
            Refusal::Missing => Self::new(StatusCode::UNAUTHORIZED, NO_CREDENTIALS, detail),
            Refusal::Invalid(_) => Self::new(StatusCode::UNAUTHORIZED, BAD_CREDENTIALS, detail),
            Refusal::UnknownTenant(_) => Self::new(StatusCode::FORBIDDEN, "unknown_tenant", detail),
            Refusal::Unavailable(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable", detail).retry_after(5)
            }
            Refusal::Store(error) => (&*error).into(),
        }
    }
}

impl From<ModelError> for ApiError {
    fn from(error: ModelError) -> Self {
        let detail = error.to_string();
        match error {
            ModelError::Overloaded { retry_after, .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", detail)
                    .retry_after(retry_after.as_secs())
            }
            ModelError::Unfit { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unfit_for_model", detail)
            }
            ModelError::BadImage { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unreadable_image", detail)
            }
            ModelError::NotLoaded { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, NOT_LOADED, detail).retry_after(60)
            }
            ModelError::TimedOut { .. } => Self::new(StatusCode::GATEWAY_TIMEOUT, "timed_out", detail),
            ModelError::Unavailable { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_unavailable", detail).retry_after(5)
            }
            ModelError::Failed { .. } => Self::internal(&detail),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        (&error).into()
    }
}

impl From<&StoreError> for ApiError {
    fn from(error: &StoreError) -> Self {
        let detail = error.to_string();
        match error {
            StoreError::UnknownCollection(_) => {
                Self::new(StatusCode::NOT_FOUND, "unknown_collection", detail)
            }
            StoreError::CollectionExists(_) => Self::new(StatusCode::CONFLICT, "collection_exists", detail),
            StoreError::Nul => Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail),
            StoreError::VersionChanged(_) => {
                Self::new(StatusCode::PRECONDITION_FAILED, "version_changed", detail)
            }
            StoreError::Unavailable(_) | StoreError::PoolExhausted => {
                tracing::error!(error = detail, "the database is unavailable");
                let detail = "the database cannot be reached at the moment; try again shortly";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", detail).retry_after(2)
            }
            StoreError::DiskFull(_) => {
                tracing::error!(
                    error = detail,
                    "the database's disk is full: free space on it, or make it larger"
                );
                let detail = "the database's disk is full and nothing was stored; whoever runs this server has to make room";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "database_full", detail).retry_after(30)
            }
            StoreError::StatementTimedOut => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "database_timeout", detail).retry_after(5)
            }
            StoreError::SpacesChanged(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "spaces_changed", detail).retry_after(1)
            }
            StoreError::TooManyJobs(_) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_tasks", detail).retry_after(10)
            }
            StoreError::NoPgvector
            | StoreError::NotAReplica
            | StoreError::LeaseLost
            | StoreError::Sealed(_)
            | StoreError::Migration(_)
            | StoreError::Statement(_) => Self::internal(&detail),
        }
    }
}
