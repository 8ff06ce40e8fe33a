//! Reranking for clients of Cohere, Jina and what speaks as they do, of
//! text-embeddings-inference and of Infinity. The latter two share a path: `texts` tells TEI's
//! requests, `documents` Infinity's.

use actix_web::{post, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    CohereError, OpenAiError, TeiError,
    errors::{CohereErrorBody, OpenAiErrorBody, TeiErrorBody},
    infinity::ANY_MODEL,
    openai::{OpenAiUsage, first_told},
};
use crate::{
    http::{Gateway, error::ApiError, observe::request_id},
    rag::{Caller, rerank::Reranked},
};

/// A query and documents (Cohere's v1).
#[derive(Debug, Deserialize, ToSchema)]
pub struct CohereV1Request {
    #[serde(flatten)]
    request: CohereRequest,
    /// Put the documents into the answer.
    #[serde(default)]
    #[schema(example = false)]
    return_documents: bool,
}

/// A query and documents.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CohereRequest {
    /// A `[[reranker]]` of models.toml; absent: that of `[routes.rerank]`.
    #[schema(example = json!(null))]
    model: Option<String>,
    #[schema(example = "When does the first ferry leave?")]
    query: String,
    /// Texts, or objects with a `text`.
    #[schema(value_type = Vec<String>, example = json!(["A bicycle costs 3 euros.", "The first ferry leaves at 06:15."]))]
    documents: Vec<CohereDocument>,
    /// Results at most; absent: all.
    #[schema(example = 2)]
    top_n: Option<usize>,
}

/// A document.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "each of `documents` must be a text or an object with `text`")]
pub enum CohereDocument {
    Text(String),
    Object { text: String },
}

/// The documents' relevance, best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct CohereResponse {
    /// The request's id, which the logs have too.
    #[schema(example = "0193f0a1-6a2e-7a8b-9d5e-3f1d2c4b5a69")]
    id: String,
    results: Vec<CohereResult>,
    meta: CohereMeta,
    /// The catalog's name of the model that scored.
    #[schema(example = "ms-marco-MiniLM-L6-v2")]
    model: String,
}

/// A document's relevance.
#[derive(Debug, Serialize, ToSchema)]
pub struct CohereResult {
    /// Position in `documents`.
    #[schema(example = 1)]
    index: usize,
    /// 0 to 1.
    #[schema(example = 0.98)]
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<CohereText>,
}

/// A document in an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct CohereText {
    text: String,
}

/// What else there is to say.
#[derive(Debug, Serialize, ToSchema)]
pub struct CohereMeta {
    /// Documents that were not read whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Texts to score (TEI), or documents (Infinity).
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "give `query` and `texts` (TEI), or `query` and `documents` (Infinity)")]
pub enum AnyRerankRequest {
    Tei(TeiRerankRequest),
    Infinity(InfinityRerankRequest),
}

/// A query and texts.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TeiRerankRequest {
    #[schema(example = "When does the first ferry leave?")]
    query: String,
    #[schema(example = json!(["A bicycle costs 3 euros.", "The first ferry leaves at 06:15."]))]
    texts: Vec<String>,
    /// Cut texts longer than the model reads; otherwise they are refused.
    #[schema(example = false, default = false)]
    truncate: Option<bool>,
    /// Scores as the model gives them, not brought to 0 to 1.
    #[serde(default)]
    #[schema(example = false)]
    raw_scores: bool,
    /// Put the texts into the answer.
    #[serde(default)]
    #[schema(example = false)]
    return_text: bool,
}

/// A text's score.
#[derive(Debug, Serialize, ToSchema)]
pub struct TeiRank {
    /// Position in `texts`.
    #[schema(example = 1)]
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[schema(example = 0.98)]
    score: f32,
}

/// A query and documents.
#[derive(Debug, Deserialize, ToSchema)]
pub struct InfinityRerankRequest {
    #[schema(example = "When does the first ferry leave?")]
    query: String,
    documents: Vec<String>,
    /// A `[[reranker]]` of models.toml; absent: that of `[routes.rerank]`.
    model: Option<String>,
    /// Results at most; absent: all.
    top_n: Option<usize>,
    #[serde(default)]
    return_documents: bool,
    #[serde(default)]
    raw_scores: bool,
}

/// The documents' relevance, best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct InfinityRerankResponse {
    #[schema(example = "rerank")]
    object: &'static str,
    results: Vec<InfinityRank>,
    /// The catalog's name of the model that scored.
    #[schema(example = "ms-marco-MiniLM-L6-v2")]
    model: String,
    usage: OpenAiUsage,
    id: String,
    /// Unix time at which this ragway first told of its models.
    created: u64,
}

/// A document's relevance.
#[derive(Debug, Serialize, ToSchema)]
pub struct InfinityRank {
    relevance_score: f32,
    /// Position in `documents`.
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<String>,
}

/// TEI's answer or Infinity's.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum AnyRerankResponse {
    Tei(Vec<TeiRank>),
    Infinity(InfinityRerankResponse),
}

/// Rerank (Cohere, v2)
///
/// How well each document answers the query, best first.
#[utoipa::path(tag = "rerank", operation_id = "cohere_rerank", request_body = CohereRequest, responses(
    (status = 200, description = "The documents' relevance", body = CohereResponse),
    (status = 400, description = "Malformed JSON, an empty query or document, too many documents", body = CohereErrorBody),
    (status = 404, description = "No such model", body = CohereErrorBody),
    (status = 429, description = "Too much work is queued; `Retry-After` says when to try again", body = CohereErrorBody),
    (status = 503, description = "models.toml names no reranker, or it is not loaded", body = CohereErrorBody),
))]
#[post("/v2/rerank")]
pub async fn cohere(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: Result<web::Json<CohereRequest>, actix_web::Error>,
) -> Result<web::Json<CohereResponse>, CohereError> {
    Ok(web::Json(answer_cohere(caller, &gateway, body?.into_inner(), false).await?))
}

/// Rerank (Cohere, v1; Jina)
///
/// As v2, with documents that may be objects and may come back.
#[utoipa::path(tag = "rerank", operation_id = "cohere_rerank_v1", request_body = CohereV1Request, responses(
    (status = 200, description = "The documents' relevance", body = CohereResponse),
    (status = 400, description = "Malformed JSON, an empty query or document, too many documents", body = CohereErrorBody),
    (status = 404, description = "No such model", body = CohereErrorBody),
    (status = 429, description = "Too much work is queued; `Retry-After` says when to try again", body = CohereErrorBody),
    (status = 503, description = "models.toml names no reranker, or it is not loaded", body = CohereErrorBody),
))]
#[post("/v1/rerank")]
pub async fn cohere_v1(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: Result<web::Json<CohereV1Request>, actix_web::Error>,
) -> Result<web::Json<CohereResponse>, CohereError> {
    let CohereV1Request { request, return_documents } = body?.into_inner();
    Ok(web::Json(answer_cohere(caller, &gateway, request, return_documents).await?))
}

/// Rerank (TEI; Infinity)
///
/// With `texts` as text-embeddings-inference, with `documents` as Infinity.
#[utoipa::path(tag = "rerank", operation_id = "rerank", request_body = AnyRerankRequest, responses(
    (status = 200, description = "The texts' scores, best first", body = AnyRerankResponse),
    (status = 400, description = "`texts` is empty; or any bad request of Infinity's, in OpenAI's shape", body = TeiErrorBody),
    (status = 404, description = "No such model (Infinity)", body = OpenAiErrorBody),
    (status = 422, description = "Malformed JSON, an empty or too long text, too many texts", body = TeiErrorBody),
    (status = 429, description = "Too much work is queued; `Retry-After` says when to try again", body = TeiErrorBody),
    (status = 503, description = "models.toml names no reranker, or it is not loaded", body = TeiErrorBody),
))]
#[post("/rerank")]
pub async fn rerank(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: Result<web::Json<AnyRerankRequest>, actix_web::Error>,
) -> actix_web::Result<web::Json<AnyRerankResponse>> {
    Ok(web::Json(match body.map_err(TeiError::from)?.into_inner() {
        AnyRerankRequest::Tei(request) => {
            AnyRerankResponse::Tei(answer_tei(caller, &gateway, request).await?)
        }
        AnyRerankRequest::Infinity(request) => {
            AnyRerankResponse::Infinity(answer_infinity(caller, &gateway, request).await?)
        }
    }))
}

async fn answer_cohere(
    caller: Caller,
    gateway: &Gateway,
    request: CohereRequest,
    return_documents: bool,
) -> Result<CohereResponse, CohereError> {
    let texts: Vec<String> = request.documents.into_iter().map(CohereDocument::into_text).collect();
    let reranked =
        scored(caller, gateway, request.model.as_deref(), &request.query, &texts, "documents").await?;
    let result = |index: usize| CohereResult {
        index,
        relevance_score: reranked.relevance.scores[index],
        document: return_documents.then(|| CohereText { text: texts[index].clone() }),
    };
    let results =
        reranked.order().into_iter().take(request.top_n.unwrap_or(usize::MAX)).map(result).collect();
    let warnings = reranked.relevance.truncated.iter();
    let warnings = warnings.map(|index| format!("documents[{index}]: only its beginning was read")).collect();
    Ok(CohereResponse { id: request_id(), results, meta: CohereMeta { warnings }, model: reranked.model })
}

async fn answer_tei(
    caller: Caller,
    gateway: &Gateway,
    request: TeiRerankRequest,
) -> Result<Vec<TeiRank>, TeiError> {
    if request.texts.is_empty() {
        return Err(TeiError::empty("texts"));
    }
    let reranked = scored(caller, gateway, None, &request.query, &request.texts, "texts").await?;
    if let Some(index) = reranked.relevance.truncated.first()
        && !request.truncate.unwrap_or(false)
    {
        return Err(ApiError::invalid(format!(
            "texts[{index}]: is with the query longer than {} reads; send less, or `truncate: true` to have it cut",
            reranked.model
        ))
        .into());
    }
    let scores = if request.raw_scores { &reranked.relevance.raw } else { &reranked.relevance.scores };
    let rank = |index: usize| TeiRank {
        index,
        text: request.return_text.then(|| request.texts[index].clone()),
        score: scores[index],
    };
    Ok(reranked.order().into_iter().map(rank).collect())
}

async fn answer_infinity(
    caller: Caller,
    gateway: &Gateway,
    request: InfinityRerankRequest,
) -> Result<InfinityRerankResponse, OpenAiError> {
    let model = request.model.as_deref().filter(|model| *model != ANY_MODEL);
    let reranked = scored(caller, gateway, model, &request.query, &request.documents, "documents").await?;
    let scores = if request.raw_scores { &reranked.relevance.raw } else { &reranked.relevance.scores };
    let rank = |index: usize| InfinityRank {
        relevance_score: scores[index],
        index,
        document: request.return_documents.then(|| request.documents[index].clone()),
    };
    let best = reranked.order().into_iter().take(request.top_n.unwrap_or(usize::MAX));
    Ok(InfinityRerankResponse {
        object: "rerank",
        results: best.map(rank).collect(),
        usage: OpenAiUsage::of(reranked.relevance.tokens),
        model: reranked.model,
        id: request_id(),
        created: first_told(),
    })
}

/// `field` is the protocol's name of the texts.
async fn scored(
    caller: Caller,
    gateway: &Gateway,
    model: Option<&str>,
    query: &str,
    texts: &[String],
    field: &str,
) -> Result<Reranked, ApiError> {
    let work = gateway.rag.rerank(caller, model, query, texts);
    gateway.within_time(work).await.map_err(|error| error.renamed("texts", field))
}

impl CohereDocument {
    fn into_text(self) -> String {
        match self {
            CohereDocument::Text(text) | CohereDocument::Object { text } => text,
        }
    }
}
