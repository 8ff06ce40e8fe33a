//! `/search`: the passages that a query asks for.

use actix_web::{post, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Elapsed, Gateway,
    error::{ApiError, Problem},
    filters::FilterSchema,
    images,
    reranking::{RerankBody, RerankChoice},
};
use crate::{
    config::SearchMode,
    rag::{
        Caller,
        filters::parse_filter,
        search::{Query, SearchRequest},
    },
    store::{Candidates, FoundPassage, PlanKind, SearchEffort, SearchPlan, SearchScores},
};

/// What is looked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchBody {
    /// A text, or else `image`.
    #[schema(example = "first ferry in the morning")]
    pub(super) query: Option<String>,
    /// A PNG, JPEG, WebP or GIF file as base64 or data URI, where the collection's model reads images.
    #[schema(example = json!(null))]
    pub(super) image: Option<String>,
    /// Results at most, 1 to 1000.
    #[serde(default = "ten")]
    #[schema(example = 5)]
    pub(super) k: i64,
    /// Absent: `search.mode` of models.toml, which is hybrid unless changed.
    #[schema(example = "hybrid")]
    pub(super) mode: Option<ModeName>,
    /// Least similarity, −1 to 1, of what is found by its vector; absent: `min_similarity` of the collection's
    /// model. What is found by its words is not held to it.
    #[schema(example = 0.3)]
    pub(super) threshold: Option<f32>,
    #[schema(value_type = Option<FilterSchema>)]
    pub(super) filters: Option<Value>,
    /// Absent: `default`.
    #[schema(example = "default")]
    pub(super) collection: Option<String>,
    /// Compare every vector instead of using the index.
    #[serde(default)]
    #[schema(example = false)]
    pub(super) exact: bool,
    /// Whether to say how the passages were found (`plan`).
    #[serde(default)]
    #[schema(example = false)]
    pub(super) explain: bool,
    /// Whether to compare every vector too, and say in `plan` how much of what that finds was found. Costs an
    /// exact search.
    #[serde(default)]
    #[schema(example = false)]
    pub(super) recall: bool,
    /// Absent: no. `threshold` counts before: it is about similarity, which stays what it is.
    pub(super) rerank: Option<RerankChoice>,
}

pub(super) fn ten() -> i64 {
    10
}

/// What decides which passages are found: `dense`, how near their vectors are; `lexical`, which words they
/// hold; `hybrid`, both.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModeName {
    Dense,
    Lexical,
    Hybrid,
}

impl From<ModeName> for SearchMode {
    fn from(mode: ModeName) -> Self {
        match mode {
            ModeName::Dense => SearchMode::Dense,
            ModeName::Lexical => SearchMode::Lexical,
            ModeName::Hybrid => SearchMode::Hybrid,
        }
    }
}

impl From<SearchMode> for ModeName {
    fn from(mode: SearchMode) -> Self {
        match mode {
            SearchMode::Dense => ModeName::Dense,
            SearchMode::Lexical => ModeName::Lexical,
            SearchMode::Hybrid => ModeName::Hybrid,
        }
    }
}

/// Passages, best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct SearchResponse {
    pub(super) results: Vec<SearchResult>,
    /// How many.
    #[schema(example = 1)]
    count: usize,
    /// How they were looked for. `dense` where `hybrid` was meant: the query is an image, or the collection's
    /// words are still being indexed.
    #[schema(example = "hybrid")]
    mode: ModeName,
    /// Seconds.
    #[schema(value_type = f64, example = 0.016)]
    elapsed_time: Elapsed,
    /// How they were found, where the request asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<PlanBody>,
    /// What became of the reranking, where the request asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rerank: Option<RerankBody>,
}

/// How passages were found. Never fewer than there are: where an index gives less than `k`, all are compared.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlanBody {
    /// `exact`: all that pass the filter were compared. `index`: those that the index gave. `index_then_exact`: the
    /// index gave too few.
    #[schema(example = "exact")]
    kind: &'static str,
    /// Passages that pass the filter; null where nobody had to know.
    #[schema(example = 1500)]
    candidates: Option<u64>,
    /// Whether `candidates` was counted, not estimated.
    #[schema(example = true)]
    counted: bool,
    /// The kind of index that was scanned: `hnsw`, `halfvec` or `binary`.
    #[schema(example = json!(null))]
    index: Option<&'static str>,
    /// The part of what an exact search finds that was found, 0 to 1; where the request asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 1.0)]
    recall: Option<f64>,
}

impl PlanBody {
    fn of(plan: SearchPlan, recall: Option<f64>) -> Self {
        let (kind, scanned) = match plan.kind {
            PlanKind::Exact => ("exact", false),
            PlanKind::Index => ("index", true),
            PlanKind::IndexThenExact => ("index_then_exact", true),
        };
        let (candidates, counted) = match plan.candidates {
            Candidates::Counted(count) => (Some(count.unsigned_abs()), true),
            Candidates::Estimated(count) => (Some(count as u64), false),
            Candidates::Unknown => (None, false),
        };
        Self { kind, candidates, counted, index: scanned.then(|| plan.index.name()), recall }
    }
}

/// A passage.
#[derive(Debug, Serialize, ToSchema)]
pub struct SearchResult {
    /// The passage.
    id: Uuid,
    /// Its document.
    pub(super) document_id: Uuid,
    /// The caller's own name of the document.
    external_id: Option<String>,
    #[schema(example = "Timetable")]
    pub(super) title: Option<String>,
    pub(super) source: Option<String>,
    /// What the passage stands under.
    pub(super) heading: Option<String>,
    /// Media type of the document; one that begins with `image/` is shown by `/api/v1/documents/{document_id}/image`.
    #[schema(example = "text/markdown")]
    format: String,
    /// Position in the document, from 0.
    ordinal: i32,
    pub(super) content: String,
    #[schema(value_type = Object)]
    metadata: Value,
    /// 1 − cosine distance.
    #[schema(example = 0.71)]
    pub(super) similarity: f32,
    scores: ScoresBody,
}

/// What each way of searching says of a passage; null where it did not find it, or was not asked.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ScoresBody {
    /// The similarity.
    #[schema(example = 0.71)]
    dense: Option<f32>,
    /// BM25 of the query's words.
    #[schema(example = 4.18)]
    lexical: Option<f32>,
    /// What a hybrid search ranks by, made of both.
    #[schema(example = 0.92)]
    fused: Option<f32>,
    /// How well the passage answers the query, 0 to 1, of the reranker; what it did not read comes after.
    #[schema(example = json!(null))]
    rerank: Option<f32>,
}

impl From<SearchScores> for ScoresBody {
    fn from(scores: SearchScores) -> Self {
        let SearchScores { dense, lexical, fused, rerank } = scores;
        Self { dense, lexical, fused, rerank }
    }
}

impl From<FoundPassage> for SearchResult {
    fn from(passage: FoundPassage) -> Self {
        Self {
            id: passage.id,
            document_id: passage.document_id,
            external_id: passage.external_id,
            title: passage.title,
            source: passage.source,
            heading: passage.heading,
            format: passage.format,
            ordinal: passage.ordinal,
            content: passage.content,
            metadata: passage.metadata,
            similarity: passage.similarity,
            scores: passage.scores.into(),
        }
    }
}

/// Search passages
///
/// The passages of a collection that a text or an image asks for, with filters on their metadata. In a collection
/// whose model reads images either finds both.
#[utoipa::path(tag = "search", responses(
    (status = 200, description = "The passages, best first", body = SearchResponse),
    (status = 400, description = "Malformed JSON, an empty query, a bad k, threshold or filter, or a reranker that is not set up", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such collection", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The collection is of a space that no loaded model makes, or was made without a lexical index and `mode` is `lexical`", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The collection's model reads no images, or the image cannot be read", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too much work is queued", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable, or the mode is `lexical` and the collection's words are still being indexed; `Retry-After` says when to try again", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/search")]
pub async fn search(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: web::Json<SearchBody>,
) -> Result<web::Json<SearchResponse>, ApiError> {
    Ok(web::Json(find(caller, &gateway, body.into_inner()).await?))
}

/// Searches, whatever protocol it was asked in.
pub(super) async fn find(
    caller: Caller,
    gateway: &Gateway,
    body: SearchBody,
) -> Result<SearchResponse, ApiError> {
    let elapsed = Elapsed::start();
    let request = SearchRequest {
        caller,
        collection: body.collection,
        query: query(gateway, body.query, body.image.as_deref()).await?,
        k: count("k", body.k)?,
        mode: body.mode.map(SearchMode::from),
        threshold: body.threshold,
        filter: body.filters.as_ref().map(parse_filter).transpose()?.flatten(),
        effort: if body.exact { SearchEffort::Exact } else { SearchEffort::Indexed },
        rerank: body.rerank.map(RerankChoice::reranking).transpose()?.flatten(),
    };
    let found = gateway.within_time(gateway.rag.search(&request)).await?;
    let recall = match body.recall {
        true => Some(gateway.within_time(gateway.rag.measured_recall(&request, &found)).await?),
        false => None,
    };
    let plan = found.plan.filter(|_| body.explain || body.recall).map(|plan| PlanBody::of(plan, recall));
    let (mode, rerank) = (found.mode.into(), found.rerank.map(RerankBody::from));
    let results: Vec<SearchResult> = found.passages.into_iter().map(SearchResult::from).collect();
    Ok(SearchResponse { count: results.len(), results, mode, elapsed_time: elapsed, plan, rerank })
}

async fn query(gateway: &Gateway, text: Option<String>, image: Option<&str>) -> Result<Query, ApiError> {
    match (text, image) {
        (Some(text), None) => Ok(Query::Text(text)),
        (None, Some(image)) => Ok(Query::Image(images::obtain(gateway, "image", image).await?)),
        (Some(_), Some(_)) => Err(ApiError::invalid("query, image: give one of them, not both")),
        (None, None) => Err(ApiError::invalid("give `query`, a text, or `image`")),
    }
}

/// A signed number is taken, so that −1 gets a sentence about k instead of one about integer types.
pub(super) fn count(field: &str, value: i64) -> Result<usize, ApiError> {
    usize::try_from(value)
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| ApiError::invalid(format!("{field}: must be at least 1, is {value}")))
}
