//! OpenAI's search of a vector store: a collection under its name.

use actix_web::{post, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{OpenAiError, errors::OpenAiErrorBody};
use crate::{
    config::SearchMode,
    http::{
        Gateway,
        error::{ApiError, UNKNOWN_MODEL},
        filters::FilterSchema,
        reranking::RerankBody,
    },
    rag::{
        Caller, RagError,
        filters::parse_filter,
        search::{Query, Reranking, SearchRequest},
    },
    store::{FoundPassage, SearchEffort},
};

/// Results of one page; OpenAI takes no more either.
const MOST_RESULTS: usize = 50;

/// What is looked for.
#[derive(Debug, Deserialize, ToSchema)]
pub struct VectorStoreSearchRequest {
    /// A text, or texts that are joined to one.
    #[schema(value_type = String, example = "first ferry in the morning")]
    query: SearchTexts,
    /// `{type, key, value}` and `{type: "and" | "or", filters}` over the documents' metadata.
    #[schema(value_type = Option<FilterSchema>)]
    filters: Option<Value>,
    /// 1 to 50.
    #[schema(example = 10)]
    max_num_results: Option<usize>,
    ranking_options: Option<RankingOptions>,
}

/// A text or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`query` must be a text or an array of texts")]
pub enum SearchTexts {
    One(String),
    Many(Vec<String>),
}

/// How results are ranked.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct RankingOptions {
    /// Absent or `none`: by similarity. `auto` (and OpenAI's own `default-2024-11-15`): by the reranker of
    /// `[routes.rerank]`, where models.toml names one. Else the name of a `[[reranker]]`.
    #[schema(example = "auto")]
    ranker: Option<String>,
    /// Least `score` of a result: similarity, or what the reranker says, 0 to 1.
    #[schema(example = 0.3)]
    score_threshold: Option<f32>,
}

/// The name under which OpenAI's clients know its own ranker.
const OPENAI_RANKER: &str = "default-2024-11-15";

impl RankingOptions {
    /// The reranking that is meant; `there` tells whether models.toml names a route.
    fn reranking(&self, there: bool) -> Option<Reranking> {
        match self.ranker.as_deref() {
            None | Some("none") => None,
            Some("auto" | OPENAI_RANKER) => there.then(Reranking::default),
            Some(model) => Some(Reranking { model: Some(model.to_owned()), ..Reranking::default() }),
        }
    }
}

/// A page of results, the only one.
#[derive(Debug, Serialize, ToSchema)]
pub struct VectorStoreSearchPage {
    #[schema(example = "vector_store.search_results.page")]
    object: &'static str,
    /// What was looked for.
    search_query: Vec<String>,
    data: Vec<VectorStoreResult>,
    #[schema(example = false)]
    has_more: bool,
    #[schema(example = json!(null))]
    next_page: Option<String>,
    /// Ragway's own: what became of the reranking, where `ranker` asks for one. Where it failed, `score` is the
    /// similarity.
    #[serde(skip_serializing_if = "Option::is_none")]
    rerank: Option<RerankBody>,
}

/// A passage.
#[derive(Debug, Serialize, ToSchema)]
pub struct VectorStoreResult {
    /// The document.
    file_id: Uuid,
    /// Its source, else its title.
    #[schema(example = "timetable.md")]
    filename: String,
    /// Similarity to the query, or what the reranker says.
    #[schema(example = 0.71)]
    score: f32,
    /// The document's metadata.
    #[schema(value_type = Object)]
    attributes: Value,
    content: Vec<TextContent>,
}

/// A part of a result's text.
#[derive(Debug, Serialize, ToSchema)]
pub struct TextContent {
    #[serde(rename = "type")]
    #[schema(example = "text")]
    kind: &'static str,
    text: String,
}

/// Search a vector store (OpenAI)
///
/// The vector store's id is the name of a collection.
#[utoipa::path(tag = "openai", operation_id = "openai_vector_store_search", request_body = VectorStoreSearchRequest,
params(("vector_store_id" = String, Path, description = "Name of a collection", example = "default")), responses(
    (status = 200, description = "The passages, best first", body = VectorStoreSearchPage),
    (status = 400, description = "Malformed JSON, an empty query, a bad filter or number of results, an unknown ranker", body = OpenAiErrorBody),
    (status = 404, description = "No such collection", body = OpenAiErrorBody),
    (status = 429, description = "Too much work is queued; `Retry-After` says when to try again", body = OpenAiErrorBody),
    (status = 503, description = "The model or the database is not available", body = OpenAiErrorBody),
))]
#[post("/v1/vector_stores/{vector_store_id}/search")]
pub async fn search(
    caller: Caller,
    gateway: web::Data<Gateway>,
    collection: web::Path<String>,
    body: Result<web::Json<VectorStoreSearchRequest>, actix_web::Error>,
) -> Result<web::Json<VectorStoreSearchPage>, OpenAiError> {
    let request = body?.into_inner();
    let queries = match request.query {
        SearchTexts::One(query) => vec![query],
        SearchTexts::Many(queries) => queries,
    };
    let k = request.max_num_results.unwrap_or(10);
    if !(1..=MOST_RESULTS).contains(&k) {
        let detail = format!("max_num_results: must be between 1 and {MOST_RESULTS}, is {k}");
        return Err(OpenAiError::about(ApiError::invalid(detail), "max_num_results"));
    }
    let filter = request.filters.as_ref().map(parse_filter).transpose();
    let filter = filter.map_err(|error| OpenAiError::about(error.into(), "filters"))?.flatten();
    let ranking = request.ranking_options.unwrap_or_default();
    let rerank = ranking.reranking(gateway.rag.reranks());
    // Of a reranker's scores the search knows nothing.
    let (threshold, least) = match rerank.is_some() {
        true => (None, ranking.score_threshold),
        false => (ranking.score_threshold, None),
    };
    let search = SearchRequest {
        caller,
        collection: Some(collection.into_inner()),
        query: Query::Text(queries.join("\n")),
        k,
        // Results are ordered by their `score`, the similarity, and `score_threshold` holds for all.
        mode: Some(SearchMode::Dense),
        threshold,
        filter,
        effort: SearchEffort::Indexed,
        rerank,
    };
    let mut found = gateway.within_time(gateway.rag.search(&search)).await.map_err(about_ranker)?;
    if let Some(least) = least {
        // Similarities are of another scale: held against them the threshold would mean something else.
        if let Some(Err(error)) = found.rerank.as_ref().map(|outcome| outcome.result.clone()) {
            return Err(ApiError::from(RagError::from(error)).into());
        }
        found.passages.retain(|passage| passage.scores.rerank.is_some_and(|score| score >= least));
        let left = found.passages.len();
        if let Some(Ok(by)) = found.rerank.as_mut().map(|outcome| outcome.result.as_mut()) {
            by.truncated.retain(|place| *place < left);
        }
    }
    Ok(web::Json(VectorStoreSearchPage {
        object: "vector_store.search_results.page",
        search_query: queries,
        data: found.passages.into_iter().map(VectorStoreResult::from).collect(),
        has_more: false,
        next_page: None,
        rerank: found.rerank.map(RerankBody::from),
    }))
}

/// The ranker is the only model that a search names; 404 would be said of the vector store.
fn about_ranker(error: ApiError) -> OpenAiError {
    let named = "ranking_options.ranker";
    match error.code() {
        UNKNOWN_MODEL => OpenAiError::about(ApiError::invalid(format!("{named}: {}", error.detail())), named),
        _ => error.into(),
    }
}

impl From<FoundPassage> for VectorStoreResult {
    fn from(passage: FoundPassage) -> Self {
        Self {
            file_id: passage.document_id,
            filename: passage.source.or(passage.title).unwrap_or_default(),
            score: passage.scores.rerank.unwrap_or(passage.similarity),
            attributes: passage.metadata,
            content: vec![TextContent { kind: "text", text: passage.content }],
        }
    }
}
