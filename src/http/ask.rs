//! `/ask`: a question in, a cited answer out, whole or streamed.

use actix_web::{HttpResponse, post, web};
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Elapsed, Gateway,
    error::{ApiError, Problem},
    filters::FilterSchema,
    reranking::RerankChoice,
    search::{ScoresBody, count},
    shutdown::stopping,
    sse,
};
use crate::{
    models::router::Attempt,
    rag::{
        Caller, RagError,
        ask::{
            Answer, AskEvent, AskRequest, AskRerank, AskStream, Citation, Explanation, Method,
            NumberedPassage, PassageUse, Use, Writing,
        },
        filters::parse_filter,
    },
};

/// A question.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AskBody {
    #[schema(example = "How much is a day rover?")]
    pub(super) question: String,
    /// Passages to read, 1 to 50; absent: `ask.passages` of models.toml.
    #[schema(example = 5)]
    pub(super) k: Option<i64>,
    #[schema(value_type = Option<FilterSchema>)]
    pub(super) filters: Option<Value>,
    /// A backend of `routes.answer`, or `extractive`; absent: the route's order.
    #[schema(example = json!(null))]
    pub(super) model: Option<String>,
    /// Absent: `default`.
    #[schema(example = "default")]
    pub(super) collection: Option<String>,
    /// Whether to stream the answer as server-sent events.
    #[serde(default)]
    #[schema(example = false)]
    pub(super) stream: bool,
    /// Whether to say how the answer was made.
    #[serde(default)]
    #[schema(example = false)]
    pub(super) explain: bool,
    /// Whether a reranker chooses the passages; absent: `ask.rerank` of models.toml. Where it fails, the passages
    /// are those of the search, and `notes` says so.
    pub(super) rerank: Option<RerankChoice>,
}

/// An answer with its sources.
#[derive(Debug, Serialize, ToSchema)]
pub struct AskResponse {
    /// Names the answer in feedback.
    answer_id: Uuid,
    /// `[n]` after a sentence refers to the citation of that number. Plain text: links and pictures that a model
    /// wrote are taken out, and addresses that no passage holds.
    #[schema(example = "A bicycle costs 3 euros each way. [1]")]
    pub(super) answer: String,
    /// False: the documents do not hold the answer.
    answered: bool,
    /// `generated`, `extractive` (quoted from the documents) or `abstained`.
    #[schema(example = "generated")]
    method: &'static str,
    pub(super) citations: Vec<CitationBody>,
    /// The backend that answered.
    #[schema(example = "smollm2-135m-instruct")]
    model: String,
    usage: UsageBody,
    /// Backends that failed before.
    attempts: Vec<AttemptBody>,
    /// What a reader should know, such as sentences left out.
    pub(super) notes: Vec<String>,
    /// What became of each retrieved passage, in the order of their numbers.
    context: Vec<ContextBody>,
    /// Present when the answer to an earlier question was given again.
    cached: Option<CachedBody>,
    /// Seconds.
    #[schema(value_type = f64, example = 1.204)]
    elapsed_time: Elapsed,
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<ExplainBody>,
}

/// A place in the documents that supports one sentence of the answer.
///
/// Places are counted in Unicode code points, the end not included, as Python slices strings.
#[derive(Debug, Serialize, ToSchema)]
pub struct CitationBody {
    /// The number of the marker in the answer.
    #[schema(example = 1)]
    pub(super) n: usize,
    /// Where the cited sentence stands in `answer`: `answer[answer_start:answer_end]`, without its markers.
    #[schema(example = 0)]
    answer_start: usize,
    #[schema(example = 33)]
    answer_end: usize,
    pub(super) document_id: Uuid,
    passage_id: Uuid,
    #[schema(example = "Fares")]
    pub(super) title: Option<String>,
    pub(super) source: Option<String>,
    /// The supporting words, as they stand in the passage.
    #[schema(example = "A bicycle costs 3 euros each way.")]
    pub(super) quote: String,
    /// Where the quote stands in the passage's text: `text[start:end]` is `quote`.
    #[schema(example = 9)]
    start: usize,
    #[schema(example = 42)]
    end: usize,
    /// Cosine similarity of question and passage.
    #[schema(example = 0.68)]
    similarity: f32,
    /// Whether ragway found this place because the model had not cited it.
    attached: bool,
}

/// A retrieved passage and what became of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ContextBody {
    /// Its number among the sources.
    #[schema(example = 3)]
    n: usize,
    passage_id: Uuid,
    document_id: Uuid,
    /// `used`: it was read. `merged`: read as one text with its neighbour `into`. `duplicate`: `into` says the
    /// same. `over_budget`: there was no room for it. `unread`: no passage resembles the question enough.
    #[schema(example = "merged")]
    r#use: &'static str,
    #[schema(example = 1)]
    into: Option<usize>,
    /// Tokens that it takes in the prompt, counted or estimated; null where no model was asked.
    #[schema(example = 180)]
    tokens: Option<usize>,
}

/// The earlier question whose answer this is.
#[derive(Debug, Serialize, ToSchema)]
pub struct CachedBody {
    #[schema(example = "What does it cost to take a bicycle?")]
    question: String,
    /// Seconds since it was answered.
    #[schema(example = 12.5)]
    age: f64,
    /// Cosine similarity of the two questions.
    #[schema(example = 0.97)]
    similarity: f32,
}

/// Tokens as the backend counts them.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageBody {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    /// True where a backend did not count them: they are ragway's estimate, on the high side.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    estimated: bool,
}

/// A backend that failed.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttemptBody {
    model: String,
    /// Requests that it got.
    #[schema(example = 3)]
    tries: u32,
    /// What the last one ended with.
    error: String,
}

/// How an answer came to be.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExplainBody {
    collection: String,
    space: String,
    k: usize,
    /// Questions whose score is below are not answered.
    answer_cut: f32,
    best_similarity: Option<f32>,
    /// How far one place in a passage holds what the question names and asks for; 1 is all of it, and what is
    /// missing or denied may bring it below 0.
    question_coverage: f32,
    /// The best of similarity + coverage_weight × question_coverage over the passages
    score: Option<f32>,
    /// Passages given to the model.
    passages_used: usize,
    passages: Vec<SourceBody>,
    prompt: Vec<MessageBody>,
    stages: Vec<StageBody>,
}

/// A retrieved passage.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SourceBody {
    n: usize,
    document_id: Uuid,
    passage_id: Uuid,
    title: Option<String>,
    source: Option<String>,
    heading: Option<String>,
    text: String,
    similarity: f32,
    scores: ScoresBody,
}

/// A message of the prompt.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageBody {
    role: &'static str,
    text: String,
}

/// A step and its duration.
#[derive(Debug, Serialize, ToSchema)]
pub struct StageBody {
    stage: &'static str,
    ms: f64,
}

/// Ask a question
///
/// Answers from the documents of a collection, each sentence with its source. With `stream: true` the
/// answer comes as server-sent events: `sources`, `delta`, `citation`, then `done` with the whole answer, or
/// `error` with a problem.
#[utoipa::path(tag = "ask", request_body = AskBody, responses(
    (status = 200, description = "The answer", content((AskResponse = "application/json"), (String = "text/event-stream"))),
    (status = 400, description = "Malformed JSON, an empty question, a bad k or filter, an unknown model, or a reranker that is not set up", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such collection", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The collection is of a space that no loaded model makes", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too much work is queued", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/ask")]
pub async fn ask(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: web::Json<AskBody>,
) -> Result<HttpResponse, ApiError> {
    let body = body.into_inner();
    if body.stream {
        let events = events(caller, &gateway, body).await?;
        Ok(stream(gateway.shutdown.bound(events, Err(stopping().into()))))
    } else {
        Ok(HttpResponse::Ok().json(answer(caller, &gateway, body).await?))
    }
}

/// Answers whole, whatever protocol it was asked in.
pub(super) async fn answer(
    caller: Caller,
    gateway: &Gateway,
    body: AskBody,
) -> Result<AskResponse, ApiError> {
    whole(events(caller, gateway, body).await?).await
}

async fn events(caller: Caller, gateway: &Gateway, body: AskBody) -> Result<AskStream, ApiError> {
    let request = AskRequest {
        caller,
        collection: body.collection,
        question: body.question,
        k: body.k.map(|k| count("k", k)).transpose()?,
        filter: body.filters.as_ref().map(parse_filter).transpose()?.flatten(),
        model: body.model,
        explain: body.explain,
        writing: Writing::default(),
        rerank: match body.rerank.map(RerankChoice::reranking).transpose()? {
            None => AskRerank::Configured,
            Some(None) => AskRerank::Off,
            Some(Some(reranking)) => AskRerank::On(reranking),
        },
    };
    Ok(gateway.rag.ask(request).await?)
}

async fn whole(mut events: AskStream) -> Result<AskResponse, ApiError> {
    let mut sources = Vec::new();
    while let Some(event) = events.next().await {
        match event? {
            AskEvent::Sources(found) => sources = found,
            AskEvent::Done(answer) => return Ok(response(*answer, &sources)),
            AskEvent::Delta(_) | AskEvent::Citation(_) => {}
        }
    }
    Err(interrupted().into())
}

fn stream(events: impl Stream<Item = Result<AskEvent, RagError>> + 'static) -> HttpResponse {
    let mut sources = Vec::new();
    // The id is known here, inside the request; the body is polled outside of it.
    let problem_of = |error: ApiError| error.problem();
    let interrupted = problem_of(interrupted().into());
    let lines = events.map(move |event| match event {
        Ok(AskEvent::Sources(found)) => {
            sources = found;
            let bodies: Vec<_> = sources.iter().map(SourceBody::from).collect();
            sse::named("sources", &serde_json::json!({ "sources": bodies }))
        }
        Ok(AskEvent::Delta(text)) => sse::named("delta", &serde_json::json!({ "text": text })),
        Ok(AskEvent::Citation(citation)) => sse::named("citation", &CitationBody::from(citation)),
        Ok(AskEvent::Done(answer)) => sse::named("done", &response(*answer, &sources)),
        Err(error) => {
            let request_id = interrupted.request_id.clone();
            sse::named("error", &Problem { request_id, ..ApiError::from(error).problem() })
        }
    });
    sse::response(lines)
}

fn interrupted() -> RagError {
    crate::models::ModelError::Failed { model: "answer".into(), reason: "the answer ended early".into() }
        .into()
}

impl From<Attempt> for AttemptBody {
    fn from(attempt: Attempt) -> Self {
        Self { model: attempt.backend, tries: attempt.tries, error: attempt.error.to_string() }
    }
}

fn response(answer: Answer, sources: &[NumberedPassage]) -> AskResponse {
    AskResponse {
        answer_id: answer.id,
        answered: answer.method != Method::Abstained,
        method: answer.method.name(),
        answer: answer.text,
        citations: answer.citations.into_iter().map(CitationBody::from).collect(),
        model: answer.model,
        usage: UsageBody {
            prompt_tokens: answer.usage.prompt_tokens,
            completion_tokens: answer.usage.completion_tokens,
            total_tokens: answer.usage.prompt_tokens + answer.usage.completion_tokens,
            estimated: answer.usage.estimated,
        },
        attempts: answer.attempts.into_iter().map(AttemptBody::from).collect(),
        notes: answer.notes,
        context: answer.context.iter().filter_map(|passage| context(passage, sources)).collect(),
        cached: answer.cached.map(|cached| CachedBody {
            question: cached.question,
            age: (cached.age.as_secs_f64() * 1e3).round() / 1e3,
            similarity: cached.similarity,
        }),
        elapsed_time: Elapsed::Fixed(answer.elapsed),
        explain: answer.explanation.map(|explanation| explain(explanation, sources)),
    }
}

fn context(passage: &PassageUse, sources: &[NumberedPassage]) -> Option<ContextBody> {
    let source = &sources.get(passage.n.checked_sub(1)?)?.passage;
    let (r#use, into) = match passage.outcome {
        Use::Used => ("used", None),
        Use::Merged(into) => ("merged", Some(into)),
        Use::Duplicate(into) => ("duplicate", Some(into)),
        Use::OverBudget => ("over_budget", None),
        Use::Unread => ("unread", None),
    };
    let (passage_id, document_id) = (source.id, source.document_id);
    Some(ContextBody { n: passage.n, passage_id, document_id, r#use, into, tokens: passage.tokens })
}

fn explain(explanation: Explanation, sources: &[NumberedPassage]) -> ExplainBody {
    ExplainBody {
        collection: explanation.collection,
        space: explanation.space,
        k: explanation.k,
        answer_cut: explanation.answer_cut,
        best_similarity: explanation.best_similarity,
        question_coverage: explanation.question_coverage,
        score: explanation.score,
        passages_used: explanation.passages_used,
        passages: sources.iter().map(SourceBody::from).collect(),
        prompt: explanation
            .prompt
            .into_iter()
            .map(|message| MessageBody { role: message.speaker.role(), text: message.text })
            .collect(),
        stages: explanation
            .stages
            .into_iter()
            .map(|(stage, time)| StageBody { stage, ms: (time.as_secs_f64() * 1e4).round() / 10.0 })
            .collect(),
    }
}

impl From<&NumberedPassage> for SourceBody {
    fn from(numbered: &NumberedPassage) -> Self {
        let passage = &numbered.passage;
        Self {
            n: numbered.n,
            document_id: passage.document_id,
            passage_id: passage.id,
            title: passage.title.clone(),
            source: passage.source.clone(),
            heading: passage.heading.clone(),
            text: passage.content.clone(),
            similarity: passage.similarity,
            scores: passage.scores.into(),
        }
    }
}

impl From<Citation> for CitationBody {
    fn from(citation: Citation) -> Self {
        Self {
            n: citation.n,
            answer_start: citation.sentence.start,
            answer_end: citation.sentence.end,
            document_id: citation.document_id,
            passage_id: citation.passage_id,
            title: citation.title,
            source: citation.source,
            quote: citation.quote,
            start: citation.place.start,
            end: citation.place.end,
            similarity: citation.similarity,
            attached: citation.attached,
        }
    }
}
