//! A question in, a cited answer out.
//!
//! One flow serves streamed and whole answers: every sentence is checked
//! against the passages before it leaves, so that what was streamed never has
//! to be taken back.

mod account;
mod context;
mod draft;
mod plan;
mod reading;
mod run;

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::BoxStream};
use tokio::sync::mpsc;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    Caller, Rag, RagError,
    answer_cache::CacheKey,
    injection::is_visible,
    search::{Reranking, SearchRequest, check_query},
    usage::Charge,
};
use crate::{
    models::{Message, ModelError, router::Attempt},
    store::{Filter, FoundPassage, SearchEffort},
    telemetry::SPAN,
};
use run::{Replay, Run};

/// Most passages of one question.
pub const MAX_PASSAGES: usize = 50;
/// The name that asks for the extractive answer.
pub const EXTRACTIVE: &str = "extractive";

/// A question.
#[derive(Debug, Clone)]
pub struct AskRequest {
    pub caller: Caller,
    pub collection: Option<String>,
    pub question: String,
    /// Passages to read; absent: `ask.passages` of models.toml.
    pub k: Option<usize>,
    pub filter: Option<Filter>,
    /// A backend of `routes.answer`, or [`EXTRACTIVE`]; absent: the route's order.
    pub model: Option<String>,
    /// Whether the answer says how it was made.
    pub explain: bool,
    pub writing: Writing,
    pub rerank: AskRerank,
}

/// Whether a reranker chooses the passages that are read.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum AskRerank {
    /// `ask.rerank` of models.toml says.
    #[default]
    Configured,
    Off,
    On(Reranking),
}

/// How a backend is to write; what it writes is checked against the passages all the same.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Writing {
    /// Wishes about the wording. They come after the prompt's rules.
    pub style: Option<String>,
    /// At most `ask.max_answer_tokens`, which is also meant when absent.
    pub max_tokens: Option<usize>,
    /// Absent: 0, the likeliest words.
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub seed: Option<u64>,
    pub stop: Vec<String>,
}

/// How an answer was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Written by a model, every sentence supported by a passage.
    Generated,
    /// Quoted from the passages.
    Extractive,
    /// The documents do not hold the answer.
    Abstained,
}

/// A passage that was retrieved, with the number it is cited by.
#[derive(Debug, Clone)]
pub struct NumberedPassage {
    /// From 1.
    pub n: usize,
    pub passage: FoundPassage,
}

/// A place in the documents that supports one sentence of the answer.
///
/// Places are counted in Unicode code points, as Python slices strings.
#[derive(Debug, Clone, PartialEq)]
pub struct Citation {
    /// The number used in the answer.
    pub n: usize,
    /// Where the cited sentence stands in the answer's text, without its markers.
    pub sentence: Range<usize>,
    pub document_id: Uuid,
    pub passage_id: Uuid,
    pub title: Option<String>,
    pub source: Option<String>,
    /// The supporting words, as they stand in the passage.
    pub quote: String,
    /// Where the quote stands in the passage's content.
    pub place: Range<usize>,
    /// Cosine similarity of question and passage.
    pub similarity: f32,
    /// Whether ragway found this place because the model had not cited it.
    pub attached: bool,
}

/// What became of a retrieved passage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It was read.
    Used,
    /// It was read as one text with the passage of this number, whose neighbour it is.
    Merged(usize),
    /// The passage of this number says the same.
    Duplicate(usize),
    /// There was no room for it.
    OverBudget,
    /// Nothing was read: the passages do not resemble the question enough.
    Unread,
}

/// A retrieved passage and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassageUse {
    /// Its number among the sources.
    pub n: usize,
    pub outcome: Use,
    /// Tokens that it takes in the prompt, as the backend counts or estimates them; absent where there is no prompt.
    pub tokens: Option<usize>,
}

/// The earlier question whose answer this is.
#[derive(Debug, Clone, PartialEq)]
pub struct Cached {
    pub question: String,
    pub age: Duration,
    /// Cosine similarity of the two questions.
    pub similarity: f32,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Names it in feedback.
    pub id: Uuid,
    pub text: String,
    pub method: Method,
    pub citations: Vec<Citation>,
    /// The backend that answered.
    pub model: String,
    /// What the caller is charged for what backends read and wrote.
    pub usage: Charge,
    /// Backends that failed before.
    pub attempts: Vec<Attempt>,
    /// What a reader should know, such as sentences left out.
    pub notes: Vec<String>,
    /// Every retrieved passage, in the order of their numbers.
    pub context: Vec<PassageUse>,
    /// Present when the answer was not made now.
    pub cached: Option<Cached>,
    pub elapsed: Duration,
    pub explanation: Option<Explanation>,
}

/// How an answer came to be.
#[derive(Debug, Clone, Default)]
pub struct Explanation {
    pub collection: String,
    pub space: String,
    pub k: usize,
    /// Score below which the question is not answered.
    pub answer_cut: f32,
    pub best_similarity: Option<f32>,
    /// How far one place in the passages holds what the question names and asks for, see `Evidence::question_support`.
    pub question_coverage: f32,
    /// What `answer_cut` is compared with, made of the two; absent: nothing was found.
    pub score: Option<f32>,
    /// Passages given to the model; the others did not fit its context.
    pub passages_used: usize,
    pub prompt: Vec<Message>,
    /// Name and duration of each stage, in order.
    pub stages: Vec<(&'static str, Duration)>,
}

/// What happens while a question is answered; `Done` is last.
#[derive(Debug, Clone)]
pub enum AskEvent {
    /// What was retrieved, best first.
    Sources(Vec<NumberedPassage>),
    /// The next piece of the answer.
    Delta(String),
    /// A citation whose number was just used.
    Citation(Citation),
    Done(Box<Answer>),
}

/// Events of one question. Dropping the stream stops the work.
pub type AskStream = BoxStream<'static, Result<AskEvent, RagError>>;

impl Rag {
    /// Answers a question from the documents.
    ///
    /// What is wrong with the request, or with the database, is this function's
    /// error; afterwards the extractive answer stands in for a failed model.
    pub async fn ask(&self, request: AskRequest) -> Result<AskStream, RagError> {
        let k = self.check_ask(&request)?;
        self.ledger().admit(request.caller).await?;
        self.answer(request, k).await
    }

    /// The passages to read for a request that is in order.
    pub(super) fn check_ask(&self, request: &AskRequest) -> Result<usize, RagError> {
        check_query("question", &request.question)?;
        if !request.question.contains(is_visible) {
            return Err(RagError::Invalid("question: holds no visible character".into()));
        }
        let k = request.k.unwrap_or(self.catalog.ask.passages);
        if k == 0 || k > MAX_PASSAGES {
            return Err(RagError::Invalid(format!("k: must be between 1 and {MAX_PASSAGES}, is {k}")));
        }
        if let Some(model) = request.model.as_deref().filter(|model| *model != EXTRACTIVE) {
            self.check_backend(model)?;
        }
        Ok(k)
    }

    /// Answers a question that was found good, of a caller who was admitted.
    pub(super) async fn answer(&self, request: AskRequest, k: usize) -> Result<AskStream, RagError> {
        let started = Instant::now();
        let rerank = self.reranking(&request.rerank);
        let found = self
            .find(&SearchRequest {
                caller: request.caller,
                collection: request.collection.clone(),
                query: request.question.clone().into(),
                k,
                mode: None,
                threshold: None,
                filter: request.filter.clone(),
                effort: SearchEffort::Indexed,
                rerank: rerank.clone(),
            })
            .await?;
        let (events, receiver) = mpsc::channel(64);
        let reranked = found.rerank.as_ref().is_none_or(|outcome| outcome.result.is_ok());
        // Without its reranker a question has other passages than it should.
        let key = CacheKey::of(&request, k, rerank, &found.collection).filter(|_| reranked);
        let remembered =
            key.as_ref().and_then(|key| self.answer_cache.get(key, &request.question, &found.vector));
        if let Some((answer, sources)) = remembered {
            let replay = Replay { answer, sources, events, started };
            tokio::spawn(replay.send(self.clone(), request, found).instrument(ask_span()).in_current_span());
            return Ok(stream_of(receiver));
        }
        let run = Run::new(self.clone(), request, k, found, key, events, started);
        tokio::spawn(run.answer().instrument(ask_span()).in_current_span());
        Ok(stream_of(receiver))
    }

    /// Answers a question and waits for the whole answer.
    pub async fn ask_whole(&self, request: AskRequest) -> Result<Answer, RagError> {
        let mut events = self.ask(request).await?;
        while let Some(event) = events.next().await {
            if let AskEvent::Done(answer) = event? {
                return Ok(*answer);
            }
        }
        Err(ModelError::Failed { model: "answer".into(), reason: "the answer ended early".into() }.into())
    }

    /// What is asked for, or usual; half the time of an answer at most.
    fn reranking(&self, asked: &AskRerank) -> Option<Reranking> {
        let within = Some(Duration::from_millis(self.catalog.ask.deadline_ms) / 2);
        match asked {
            AskRerank::On(reranking) => Some(Reranking { within, ..reranking.clone() }),
            AskRerank::Configured if self.catalog.ask.rerank => {
                Some(Reranking { within, ..Reranking::default() })
            }
            AskRerank::Configured | AskRerank::Off => None,
        }
    }

    fn check_backend(&self, model: &str) -> Result<(), RagError> {
        let known = self.answers.models();
        if known.iter().any(|name| name == model) {
            return Ok(());
        }
        Err(RagError::UnknownModel(format!(
            "Unknown answer model: {model}. Known: {}",
            known.iter().map(String::as_str).chain([EXTRACTIVE]).collect::<Vec<_>>().join(", ")
        )))
    }
}

/// The answering as a part of a trace: it goes on after the response has begun.
fn ask_span() -> tracing::Span {
    tracing::info_span!(target: SPAN, "ask")
}

fn stream_of(receiver: mpsc::Receiver<Result<AskEvent, RagError>>) -> AskStream {
    futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|event| (event, receiver))
    })
    .boxed()
}

#[cfg(test)]
fn test_source(n: usize, content: &str) -> NumberedPassage {
    let passage = FoundPassage { content: content.to_owned(), ..FoundPassage::sample() };
    NumberedPassage { n, passage }
}
