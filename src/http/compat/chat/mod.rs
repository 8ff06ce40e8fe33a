//! OpenAI's chat completions.
//!
//! | `model` | who answers | file |
//! |---|---|---|
//! | `ragway`, `ragway/<collection>` | the documents, through [`Rag::chat`](crate::rag::Rag::chat) | `answer` |
//! | a backend or an answer route | an upstream server, the request passed on as it is | `forward` |
//! | a model in this process, or a route that has no other | that model | `answer` |
//!
//! `body` reads what the first and the last know of a request, `wire` writes their answers.

mod answer;
mod body;
mod forward;
mod wire;

pub use body::ChatCompletionRequest;
pub use wire::{ChatCompletion, ChatCompletionChunk};

use actix_web::{HttpRequest, HttpResponse, post, web};

use super::{OpenAiError, errors::OpenAiErrorBody};
use crate::{
    http::{
        Gateway,
        error::ApiError,
        extractors::{json_bytes, malformed},
    },
    models::{forward::ForwardRequest, router::RouteError},
    rag::{Caller, RagError, chat::RAG_MODEL},
};

/// Chat completions (OpenAI)
///
/// For OpenAI's clients. The model `ragway` answers the last question of the conversation from the documents
/// of the collection `default`, `ragway/<collection>` from those of another one, with the sources as
/// `url_citation` annotations, counted in Unicode code points. Any other answer model of `/v1/models` gets
/// the request as it is. What ragway adds is in `ragway`, streamed with the last choice.
#[utoipa::path(tag = "openai", operation_id = "openai_chat_completions", request_body = ChatCompletionRequest, responses(
    (status = 200, description = "The answer; with `stream`, events of chunks that end with `[DONE]`", content((ChatCompletion = "application/json"), (ChatCompletionChunk = "text/event-stream"))),
    (status = 400, description = "Malformed JSON, no question at the end, or something that the model does not know", body = OpenAiErrorBody),
    (status = 404, description = "No such model or collection", body = OpenAiErrorBody),
    (status = 413, description = "The body is too large", body = OpenAiErrorBody),
    (status = 429, description = "Too much work is queued, or a quota is used up; `Retry-After` says when to try again", body = OpenAiErrorBody),
    (status = 503, description = "No backend or no database can be reached", body = OpenAiErrorBody),
    (status = 504, description = "No backend answered in time", body = OpenAiErrorBody),
))]
#[post("/v1/chat/completions")]
pub async fn completions(
    gateway: web::Data<Gateway>,
    caller: Caller,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, OpenAiError> {
    let limit = gateway.rag.catalog().http.max_body_bytes;
    let body = json_bytes(&request, &mut payload.into_inner(), limit).await?;
    let asked = ForwardRequest::read(body).map_err(|error| malformed(&error))?;
    let Some(model) = asked.model() else {
        let problem = ApiError::invalid("model: name one of /v1/models");
        return Err(OpenAiError::about(problem, "model"));
    };
    if let Some(collection) = of_documents(model) {
        let base = {
            let from = request.connection_info();
            format!("{}://{}", from.scheme(), from.host())
        };
        let collection = collection.map(str::to_owned);
        return answer::from_documents(&gateway, caller, asked.body(), collection, &base).await;
    }
    match gateway.rag.passes_on(caller, &asked) {
        Ok(true) => forward::pass_on(&gateway, caller, &asked).await,
        Ok(false) => answer::from_local(&gateway, caller, asked.body(), model).await,
        Err(RouteError::UnknownModel { wanted, .. }) => Err(RagError::UnknownModel(format!(
            "Unknown chat model: {wanted}. Known: {RAG_MODEL}, {RAG_MODEL}/<collection>, {}",
            gateway.rag.answers().models_for(caller.tenant.0).join(", ")
        ))
        .into()),
        Err(error) => Err(forward::refused(error)),
    }
}

/// The collection that a model's name means, `None` within for `default`; absent: it means another model.
fn of_documents(model: &str) -> Option<Option<&str>> {
    match model.strip_prefix(RAG_MODEL)? {
        "" => Some(None),
        rest => rest.strip_prefix('/').map(Some),
    }
}

/// What a caller may name as `model` of a conversation, in the order of `/v1/models`.
pub async fn names(gateway: &Gateway, caller: Caller) -> Vec<String> {
    let mut names = vec![RAG_MODEL.to_owned()];
    match gateway.rag.collections(caller.tenant).await {
        Ok(collections) => {
            names.extend(collections.into_iter().map(|found| format!("{RAG_MODEL}/{}", found.name)));
        }
        Err(error) => tracing::warn!(%error, "collections are missing from the list of models"),
    }
    names.extend(gateway.rag.answers().models_for(caller.tenant.0));
    names
}
