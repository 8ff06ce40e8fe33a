//! OpenAI's search of a vector store: a collection under its name.

use actix_web::{post, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{OpenAiError, errors::OpenAiErrorBody};
use crate::{
    config::SearchMode,
    http::{Gateway, error::ApiError, filters::FilterSchema},
    rag::{
        Caller,
        filters::parse_filter,
        search::{Query, SearchRequest},
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
    /// Least similarity of a result.
    #[schema(example = 0.3)]
    score_threshold: Option<f32>,
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
}

/// A passage.
#[derive(Debug, Serialize, ToSchema)]
pub struct VectorStoreResult {
    /// The document.
    file_id: Uuid,
    /// Its source, else its title.
    #[schema(example = "timetable.md")]
    filename: String,
    /// Similarity to the query.
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
    (status = 400, description = "Malformed JSON, an empty query, a bad filter or number of results", body = OpenAiErrorBody),
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
    let search = SearchRequest {
        caller,
        collection: Some(collection.into_inner()),
        query: Query::Text(queries.join("\n")),
        k,
        // Results are ordered by their `score`, the similarity, and `score_threshold` holds for all.
        mode: Some(SearchMode::Dense),
        threshold: request.ranking_options.unwrap_or_default().score_threshold,
        filter,
        effort: SearchEffort::Indexed,
    };
    let found = gateway.within_time(gateway.rag.search(&search)).await?;
    Ok(web::Json(VectorStoreSearchPage {
        object: "vector_store.search_results.page",
        search_query: queries,
        data: found.passages.into_iter().map(VectorStoreResult::from).collect(),
        has_more: false,
        next_page: None,
    }))
}

impl From<FoundPassage> for VectorStoreResult {
    fn from(passage: FoundPassage) -> Self {
        Self {
            file_id: passage.document_id,
            filename: passage.source.or(passage.title).unwrap_or_default(),
            score: passage.similarity,
            attributes: passage.metadata,
            content: vec![TextContent { kind: "text", text: passage.content }],
        }
    }
}
