//! OpenAI's chat completions.
//!
//! | `model` | who answers | file |
//! |---|---|---|
//! | `ragway`, `ragway/<collection>` | the documents, through [`Rag::chat`](crate::rag::Rag::chat) | `answer` |
//! | a backend or an answer route | an upstream server, the request passed on as it is | `forward` |
//! | a model in this process | that model | `answer` |
//!
//! `body` reads what the first and the last know of a request, `wire` writes their answers.

mod answer;
mod body;
mod forward;
mod wire;

pub use body::ChatCompletionRequest;
pub use wire::{ChatCompletion, ChatCompletionChunk};

use actix_web::{HttpRequest, HttpResponse, post, web};
use serde_json::{Map, Value};

use super::{OpenAiError, errors::OpenAiErrorBody};
use crate::{
    http::{Gateway, error::ApiError},
    models::router::AnswerModel,
    rag::{Caller, RagError, chat::RAG_MODEL},
};

/// Who answers.
enum Target {
    /// The documents of a collection; absent: `default`.
    Documents(Option<String>),
    /// A server, which gets the request as it is.
    Server,
    /// A model in this process.
    Local,
}

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
    (status = 429, description = "Too much work is queued; `Retry-After` says when to try again", body = OpenAiErrorBody),
    (status = 503, description = "No backend or no database can be reached", body = OpenAiErrorBody),
    (status = 504, description = "No backend answered in time", body = OpenAiErrorBody),
))]
#[post("/v1/chat/completions")]
pub async fn completions(
    gateway: web::Data<Gateway>,
    caller: Caller,
    request: HttpRequest,
    body: Result<web::Json<Map<String, Value>>, actix_web::Error>,
) -> Result<HttpResponse, OpenAiError> {
    let body = body?.into_inner();
    let Some(model) = body.get("model").and_then(Value::as_str).map(str::to_owned) else {
        let problem = ApiError::invalid("model: name one of /v1/models");
        return Err(OpenAiError::about(problem, "model"));
    };
    match target(&gateway, &model)? {
        Target::Documents(collection) => {
            let base = {
                let from = request.connection_info();
                format!("{}://{}", from.scheme(), from.host())
            };
            answer::from_documents(&gateway, caller, body, collection, &base).await
        }
        Target::Server => forward::pass_on(&gateway, caller, body, &model).await,
        Target::Local => answer::from_local(&gateway, caller, body, &model).await,
    }
}

/// What the names of the models of conversations are, and of `model`, in the order of `/v1/models`.
pub async fn names(gateway: &Gateway, caller: Caller) -> Vec<String> {
    let mut names = vec![RAG_MODEL.to_owned()];
    match gateway.rag.collections(caller.tenant).await {
        Ok(collections) => {
            names.extend(collections.into_iter().map(|found| format!("{RAG_MODEL}/{}", found.name)));
        }
        Err(error) => tracing::warn!(%error, "collections are missing from the list of models"),
    }
    names.extend(gateway.rag.answers().models().into_iter().map(|(name, _)| name));
    names
}

fn target(gateway: &Gateway, model: &str) -> Result<Target, OpenAiError> {
    if model == RAG_MODEL {
        return Ok(Target::Documents(None));
    }
    if let Some(collection) = model.strip_prefix(RAG_MODEL).and_then(|rest| rest.strip_prefix('/')) {
        return Ok(Target::Documents(Some(collection.to_owned())));
    }
    match gateway.rag.answers().model(model) {
        Some(AnswerModel::Backend { forwards: false }) => Ok(Target::Local),
        Some(AnswerModel::Backend { forwards: true } | AnswerModel::Route) => Ok(Target::Server),
        None => {
            let known = gateway.rag.answers().models();
            let known: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
            Err(RagError::UnknownModel(format!(
                "Unknown chat model: {model}. Known: {RAG_MODEL}, {RAG_MODEL}/<collection>, {}",
                known.join(", ")
            ))
            .into())
        }
    }
}
