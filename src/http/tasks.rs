//! `/tasks`: what was queued, how far it is, what came out.

use actix_web::{HttpResponse, delete, get, http::header, web};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Elapsed, Gateway,
    documents::DocumentsStored,
    embed::EmbedResponse,
    error::{ApiError, Problem},
};
use crate::{
    rag::{
        Caller,
        jobs::{Task, TaskResult},
    },
    store::JobState,
};

/// A task that was queued.
#[derive(Debug, Serialize, ToSchema)]
pub struct TaskAccepted {
    task_id: Uuid,
    /// Always `processing`.
    #[schema(example = "processing")]
    status: &'static str,
}

/// A task as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct TaskBody {
    task_id: Uuid,
    /// `processing` (also while it waits), `succeeded`, `failed` or `cancelled`.
    #[schema(example = "succeeded")]
    status: &'static str,
    progress: Progress,
    /// Null until the task has ended, and where nothing came out.
    result: Option<TaskOutcome>,
    /// Why it failed; while it is processed, why the last attempt did.
    error: Option<String>,
}

/// How much is done.
#[derive(Debug, Serialize, ToSchema)]
pub struct Progress {
    /// Texts or documents.
    #[schema(example = 640)]
    done: i64,
    #[schema(example = 1000)]
    total: i64,
}

/// As the route answers that does the same at once.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TaskOutcome {
    Embedded(EmbedResponse),
    /// Also of a task that failed or was cancelled: what it did before.
    Stored(DocumentsStored),
}

/// Get a task
///
/// Its result can be read for a day after its end, that of a failed one for a week.
#[utoipa::path(tag = "tasks", params(("task_id", description = "The task")), responses(
    (status = 200, description = "The task", body = TaskBody),
    (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such task, or it has expired", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[get("/api/v1/tasks/{task_id}")]
pub async fn show(
    caller: Caller,
    gateway: web::Data<Gateway>,
    id: web::Path<Uuid>,
) -> Result<web::Json<TaskBody>, ApiError> {
    Ok(web::Json(gateway.rag.task(caller.tenant, *id).await?.into()))
}

/// Cancel a task
///
/// One that waits never begins; one that runs stops within seconds, and what it has stored stays. A task
/// that has ended stays as it is.
#[utoipa::path(tag = "tasks", params(("task_id", description = "The task")), responses(
    (status = 200, description = "The task as it stands now, without its result", body = TaskBody),
    (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such task, or it has expired", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[delete("/api/v1/tasks/{task_id}")]
pub async fn cancel(
    caller: Caller,
    gateway: web::Data<Gateway>,
    id: web::Path<Uuid>,
) -> Result<web::Json<TaskBody>, ApiError> {
    Ok(web::Json(gateway.rag.cancel_task(caller.tenant, *id).await?.into()))
}

/// 202 with where to ask.
pub fn accepted(task_id: Uuid) -> HttpResponse {
    HttpResponse::Accepted()
        .insert_header((header::LOCATION, format!("/api/v1/tasks/{task_id}")))
        .json(TaskAccepted { task_id, status: status_of(JobState::Queued) })
}

fn status_of(state: JobState) -> &'static str {
    match state {
        JobState::Queued | JobState::Running => "processing",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

impl From<Task> for TaskBody {
    fn from(task: Task) -> Self {
        let elapsed = Elapsed::Fixed(task.elapsed.unwrap_or_default());
        Self {
            task_id: task.id,
            status: status_of(task.state),
            progress: Progress { done: task.done, total: task.total },
            result: task.result.map(|result| match result {
                TaskResult::Embedded(embedded) => {
                    TaskOutcome::Embedded(EmbedResponse::new(embedded, elapsed))
                }
                TaskResult::Ingested(outcomes) => TaskOutcome::Stored(outcomes.into()),
            }),
            error: task.error,
        }
    }
}
