//! `/feedback`: what readers think of answers.

use actix_web::{post, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Gateway,
    error::{ApiError, Problem},
};
use crate::{rag::Caller, store::Rating};

/// What a reader thinks of an answer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackBody {
    /// `answer_id` of an answer.
    #[schema(example = "01a20df1-c90a-778c-bc07-8675a1fe67f4")]
    answer_id: Uuid,
    #[schema(example = "down")]
    rating: RatingName,
    /// At most 4,000 characters.
    #[schema(example = "The fare is from last year.")]
    comment: Option<String>,
}

/// Good or bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RatingName {
    Up,
    Down,
}

/// What is kept.
#[derive(Debug, Serialize, ToSchema)]
pub struct FeedbackKept {
    answer_id: Uuid,
    rating: RatingName,
}

impl From<RatingName> for Rating {
    fn from(name: RatingName) -> Self {
        match name {
            RatingName::Up => Rating::Up,
            RatingName::Down => Rating::Down,
        }
    }
}

/// Rate an answer
///
/// One rating an answer: a second one takes the place of the first, with its comment. `ragway eval feedback`
/// exports them.
#[utoipa::path(tag = "ask", request_body = FeedbackBody, responses(
    (status = 200, description = "Kept", body = FeedbackKept),
    (status = 400, description = "Malformed JSON, another rating, a comment that is too long", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such answer: it is another tenant's, or older than `ask.record_days`", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/feedback")]
pub async fn rate(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: web::Json<FeedbackBody>,
) -> Result<web::Json<FeedbackKept>, ApiError> {
    let FeedbackBody { answer_id, rating, comment } = body.into_inner();
    gateway.rag.rate(caller, answer_id, rating.into(), comment.as_deref()).await?;
    Ok(web::Json(FeedbackKept { answer_id, rating }))
}
