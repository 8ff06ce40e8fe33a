//! `/collections/{name}/reembed`: a collection goes over to another model.

use actix_web::{HttpResponse, delete, get, post, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Gateway,
    audit::Audit,
    collections::CollectionBody,
    error::{ApiError, Problem},
};
use crate::{
    rag::{
        Caller,
        gate::parse_gate,
        reembed::{Reembedding, ReembeddingStage, ReembeddingStatus},
    },
    store::JobState,
};

/// What a collection is to be re-embedded with.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReembedding {
    #[schema(example = "all-MiniLM-L6-v2")]
    model: String,
    /// What the new vectors have to find before searches read them. Where they find less than the old ones, the
    /// task fails, `error` says by how much, and searches stay with the old ones. Absent: nothing is measured.
    #[schema(value_type = Option<GateBody>)]
    gate: Option<Value>,
}

/// Queries, and which of the collection's documents answer them; [`crate::rag::gate`] parses it.
#[derive(ToSchema)]
#[schema(as = Gate)]
#[expect(dead_code, reason = "for the API document only")]
pub struct GateBody {
    /// Documents that are looked at for each query, 1 to 100; absent: 10.
    #[schema(example = 10)]
    k: Option<usize>,
    /// By how much recall and nDCG may fall, 0 to 1; absent: 0.01.
    #[schema(example = 0.01)]
    tolerance: Option<f64>,
    /// 1 to 1000.
    queries: Vec<JudgedQueryBody>,
}

/// A query with the documents that answer it.
#[derive(ToSchema)]
#[schema(as = JudgedQuery)]
#[expect(dead_code, reason = "for the API document only")]
pub struct JudgedQueryBody {
    #[schema(example = "When does the first ferry leave?")]
    query: String,
    /// Their `external_id`s, 1 to 100.
    #[schema(example = json!(["timetable"]))]
    relevant: Vec<String>,
}

/// The two spaces of a collection that is re-embedded.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReembeddingBody {
    /// `backfilling`: searches read `from`. `cut_over`: they read `to`, and `from` is kept to go back to.
    #[schema(example = "backfilling")]
    stage: &'static str,
    /// The space before.
    #[schema(example = "all-MiniLM-L6-v2@53aa51172d14:mean:l2:fp32")]
    from: String,
    /// The space that it goes over to.
    #[schema(example = "multilingual-e5-small@1571fc982750:mean:l2:fp32")]
    to: String,
    /// The task that works on it: see `/tasks/{id}`.
    task_id: Option<Uuid>,
}

/// A re-embedding with how far it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReembeddingReport {
    #[serde(flatten)]
    reembedding: ReembeddingBody,
    /// Documents with vectors in `to`.
    #[schema(example = 640)]
    done: i64,
    #[schema(example = 1000)]
    total: i64,
    /// Whether a task works on it or waits for its turn; where it does not and the stage is
    /// `backfilling`, starting the same again goes on.
    running: bool,
    /// Why it failed, or why the last attempt did.
    error: Option<String>,
}

impl From<Reembedding> for ReembeddingBody {
    fn from(reembedding: Reembedding) -> Self {
        let stage = match reembedding.stage {
            ReembeddingStage::Backfilling => "backfilling",
            ReembeddingStage::CutOver => "cut_over",
        };
        Self { stage, from: reembedding.from.id, to: reembedding.to.id, task_id: reembedding.job }
    }
}

impl From<ReembeddingStatus> for ReembeddingReport {
    fn from(status: ReembeddingStatus) -> Self {
        Self {
            reembedding: status.reembedding.into(),
            done: status.progress.done,
            total: status.progress.documents,
            running: status.job.as_ref().is_some_and(|job| match job.state {
                JobState::Queued | JobState::Running => true,
                JobState::Succeeded | JobState::Failed | JobState::Cancelled => false,
            }),
            error: status.job.and_then(|job| job.error),
        }
    }
}

/// Re-embed a collection
///
/// Goes over to the space of another model without a pause: searches read the vectors that are
/// there until every document has its new ones; documents stored meanwhile get both. Documents are
/// cut anew, so that ids of passages change with the cutover. The vectors before are kept and
/// written to until it is finished, rolled back, or another is started.
#[utoipa::path(tag = "collections", params(("name", example = "handbook")), responses(
    (status = 202, description = "Begun, or found running", body = ReembeddingReport),
    (status = 400, description = "Malformed JSON, an unknown model, or a gate that cannot be measured", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such collection", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It is of this model already, or goes over to another one", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "A quota is used up; `Retry-After` says when it begins anew", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "A model or the database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/collections/{name}/reembed")]
pub async fn start(
    caller: Caller,
    audit: Audit,
    gateway: web::Data<Gateway>,
    name: web::Path<String>,
    body: web::Json<NewReembedding>,
) -> Result<HttpResponse, ApiError> {
    let gate = body.gate.as_ref().map(parse_gate).transpose()?;
    let begun = Box::pin(gateway.rag.start_reembedding(caller, &name, &body.model, gate));
    let status = audit.of("reembedding.start", &name, gateway.within_time(begun)).await?;
    Ok(HttpResponse::Accepted().json(ReembeddingReport::from(status)))
}

/// Get a re-embedding
///
/// How far it is, and whether searches read the new vectors.
#[utoipa::path(tag = "collections", params(("name", example = "handbook")), responses(
    (status = 200, description = "Where it stands", body = ReembeddingReport),
    (status = 400, description = "A name with the character NUL", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such collection, or nothing of it is re-embedded", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[get("/api/v1/collections/{name}/reembed")]
pub async fn show(
    caller: Caller,
    gateway: web::Data<Gateway>,
    name: web::Path<String>,
) -> Result<web::Json<ReembeddingReport>, ApiError> {
    Ok(web::Json(gateway.rag.reembedding(caller.tenant, &name).await?.into()))
}

/// Cancel or roll back a re-embedding
///
/// Before the cutover it is cancelled. After it, searches read the vectors before again; documents
/// stored since then are there too. The new vectors are deleted.
#[utoipa::path(tag = "collections", params(("name", example = "handbook")), responses(
    (status = 200, description = "The collection as it is now", body = CollectionBody),
    (status = 400, description = "A name with the character NUL", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such collection, or nothing of it is re-embedded", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "No model of the catalog makes the vectors before", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "A model or the database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[delete("/api/v1/collections/{name}/reembed")]
pub async fn roll_back(
    caller: Caller,
    audit: Audit,
    gateway: web::Data<Gateway>,
    name: web::Path<String>,
) -> Result<web::Json<CollectionBody>, ApiError> {
    let turned = Box::pin(gateway.rag.roll_back_reembedding(caller, &name));
    let turned = audit.of("reembedding.roll_back", &name, gateway.within_time(turned)).await?;
    Ok(web::Json(turned.into()))
}

/// Finish a re-embedding
///
/// Deletes the vectors before a cutover; there is no going back after it.
#[utoipa::path(tag = "collections", params(("name", example = "handbook")), responses(
    (status = 200, description = "The collection as it is now", body = CollectionBody),
    (status = 400, description = "A name with the character NUL", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such collection, or nothing of it is re-embedded", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It has not cut over yet", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "A model or the database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/collections/{name}/reembed/finish")]
pub async fn finish(
    caller: Caller,
    audit: Audit,
    gateway: web::Data<Gateway>,
    name: web::Path<String>,
) -> Result<web::Json<CollectionBody>, ApiError> {
    let finished = Box::pin(gateway.rag.finish_reembedding(caller, &name));
    let finished = audit.of("reembedding.finish", &name, gateway.within_time(finished)).await?;
    Ok(web::Json(finished.into()))
}
