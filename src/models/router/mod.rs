//! Chooses the backend that answers, and asks the next one when it fails.
//!
//! `select` says who may be asked and in which order, `race` asks them, each
//! `backend` limits what it gets at once and has a `breaker`. A request goes
//! to another backend only before the first byte of an answer: afterwards
//! something has been shown.

mod backend;
mod breaker;
mod counts;
mod race;
mod select;
#[cfg(test)]
mod tests;

pub use backend::BackendSpec;
pub use breaker::BreakerState;
pub use counts::{BackendCounts, Ending, TIME_BOUNDS_MS, Times};
pub use select::Selector;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::time::timeout_at;
use tracing::Span;
use uuid::Uuid;

use super::{
    GenerateRequest, GeneratedPart, GenerationStream, Generator, ModelError, Usage,
    forward::{Chunk, ForwardError, ForwardRequest, Forwarded, Refusal},
};
use crate::config;
use backend::{Backend, Slot};
use race::{Lost, Won, race};
use select::{Candidate, Chosen, RouteTable};

/// The answer backends and the routes to them.
pub struct AnswerRouter {
    backends: Vec<Arc<Backend>>,
    routes: RouteTable,
}

/// A generation that has begun.
pub struct Routed<P> {
    /// Name of the backend that answers.
    pub backend: String,
    /// What `plan` said for it beside the request.
    pub plan: P,
    /// The other backends that were asked, and what they said.
    pub attempts: Vec<Attempt>,
    /// Begins with a part of text. A failure from here on is not caught: text has been shown.
    pub stream: GenerationStream,
}

/// A client's own request that a backend answers.
pub struct RoutedForward {
    /// Name of the backend that answers.
    pub backend: String,
    /// The other backends that were asked, and what they said.
    pub attempts: Vec<Attempt>,
    pub reply: Forwarded,
}

/// A backend that did not answer.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub backend: String,
    /// Requests that it got; 0 when there was no place for one.
    pub tries: u32,
    /// The last failure.
    pub error: ModelError,
    /// In the server's own words, for a request that was forwarded.
    pub refusal: Option<Refusal>,
}

impl Attempt {
    fn new(backend: &Backend, tries: u32, failure: ForwardError) -> Self {
        let ForwardError { error, refusal } = failure;
        Self { backend: backend.name().to_owned(), tries, error, refusal }
    }

    fn unanswered((backend, since): &(Arc<Backend>, Instant)) -> Self {
        let model = backend.name().to_owned();
        Self::new(backend, 1, ModelError::TimedOut { model, after: since.elapsed() }.into())
    }
}

/// How one backend is.
#[derive(Debug, Clone)]
pub struct BackendStatus {
    pub name: String,
    /// Whether the last request that says something about it succeeded.
    pub healthy: bool,
    pub breaker: BreakerState,
    /// Requests under way and waiting.
    pub load: usize,
    pub counts: BackendCounts,
}

/// Why no backend answers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RouteError {
    /// The client named a model that does not exist.
    #[error("unknown answer model `{wanted}`; there are: {}", known.join(", "))]
    UnknownModel { wanted: String, known: Vec<String> },
    /// None of the route's backends is in use.
    #[error("no answer backend is configured: see routes.answer in models.toml")]
    NoBackend,
    /// Every backend was asked, or one said that the request is at fault.
    #[error("no backend could answer: {}", list(attempts))]
    AllFailed { attempts: Vec<Attempt> },
    /// The route's or the caller's time was up before an answer began.
    #[error("no backend began to answer within {} ms: {}", after.as_millis(), list(attempts))]
    Deadline { after: Duration, attempts: Vec<Attempt> },
}

impl RouteError {
    /// The backends that were asked.
    pub fn attempts(&self) -> &[Attempt] {
        match self {
            RouteError::AllFailed { attempts } | RouteError::Deadline { attempts, .. } => attempts,
            RouteError::UnknownModel { .. } | RouteError::NoBackend => &[],
        }
    }

    /// The last backend's failure: what a client that asked for one model wants to know.
    pub fn last(&self) -> Option<&Attempt> {
        self.attempts().last()
    }
}

impl AnswerRouter {
    /// A router with one route over these backends, with default limits.
    pub fn new(backends: Vec<Arc<dyn Generator>>) -> Self {
        let backends = made(backends.into_iter().map(BackendSpec::local).collect());
        Self { routes: RouteTable::of_all(&backends), backends }
    }

    /// A router with the routes of `models.toml`; backends that are not among these are left out.
    pub fn with_routes(backends: Vec<BackendSpec>, routes: &config::Routes) -> Self {
        let backends = made(backends);
        Self { routes: RouteTable::new(&backends, routes), backends }
    }

    /// Every name that [`Selector::model`] may have: backends, routes, and names that rules send to one.
    pub fn models(&self) -> Vec<String> {
        self.routes.models()
    }

    /// Those of them that can lead a tenant to a backend, where no collection is asked.
    pub fn models_for(&self, tenant: Uuid) -> Vec<String> {
        self.routes.models_for(tenant)
    }

    /// Whether [`AnswerRouter::forward`] has somebody to ask; else only [`AnswerRouter::generate`] has.
    pub fn forwards(&self, selector: &Selector<'_>) -> Result<bool, RouteError> {
        Ok(self.routes.choose(selector)?.candidates.iter().any(Candidate::forwards))
    }

    /// Fails when the thread of a model in this process has ended.
    pub fn check_alive(&self) -> Result<(), ModelError> {
        self.backends.iter().try_for_each(|backend| backend.generator().check_alive())
    }

    /// How each backend is.
    pub fn status(&self) -> Vec<BackendStatus> {
        let status = |backend: &Arc<Backend>| BackendStatus {
            name: backend.name().to_owned(),
            healthy: backend.last_succeeded(),
            breaker: backend.state(),
            load: backend.load(),
            counts: backend.counts.read(),
        };
        self.backends.iter().map(status).collect()
    }

    /// Starts a generation on the first backend that gives a part of text.
    ///
    /// `plan` makes the request for each backend that is asked: how much fits differs.
    pub async fn generate<P: Send>(
        &self,
        selector: &Selector<'_>,
        plan: impl Fn(&dyn Generator) -> Result<(GenerateRequest, P), ModelError> + Send + Sync,
    ) -> Result<Routed<P>, RouteError> {
        let start = |backend: Arc<Backend>| -> BoxFuture<'_, Result<(GenerationStream, P), ForwardError>> {
            let planned = plan(backend.generator());
            async move {
                let (request, plan) = planned?;
                let stream = backend.generator().generate(request).await?;
                Ok((first_text(backend.name(), stream).await?, plan))
            }
            .boxed()
        };
        let chosen = self.routes.choose(selector)?;
        let (won, attempts, until) = run(chosen, selector, &start).await?;
        let usage = |part: &GeneratedPart| match part {
            GeneratedPart::Usage(usage) => Some(*usage),
            GeneratedPart::Text(_) => None,
        };
        let backend = won.backend.name().to_owned();
        let (watched, (stream, plan)) = Watched::new(won, until);
        let stream = watched.watch(stream, usage);
        Ok(Routed { backend, plan, attempts, stream })
    }

    /// Passes a client's request on to the first backend that answers it.
    ///
    /// The attempts of an error hold what the servers said. A local model, which speaks no
    /// protocol, is no candidate.
    pub async fn forward(
        &self,
        selector: &Selector<'_>,
        request: &ForwardRequest,
    ) -> Result<RoutedForward, RouteError> {
        let start = |backend: Arc<Backend>| -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
            async move {
                let Some(forwarder) = backend.generator().forwarder() else {
                    let model = backend.name().to_owned();
                    let reason = "it runs in this process and takes questions only".to_owned();
                    return Err(ModelError::Unfit { model, reason }.into());
                };
                match forwarder.forward(request).await? {
                    Forwarded::Stream(stream) => {
                        Ok(Forwarded::Stream(first_item(backend.name(), stream).await?))
                    }
                    Forwarded::Whole(whole) => Ok(Forwarded::Whole(whole)),
                }
            }
            .boxed()
        };
        let mut chosen = self.routes.choose(selector)?;
        if chosen.candidates.iter().any(Candidate::forwards) {
            chosen.candidates.retain(Candidate::forwards);
        }
        let (won, attempts, until) = run(chosen, selector, &start).await?;
        let backend = won.backend.name().to_owned();
        let (mut watched, reply) = Watched::new(won, until);
        let reply = match reply {
            Forwarded::Whole(whole) => {
                watched.usage = whole.usage().unwrap_or_default();
                Forwarded::Whole(whole)
            }
            Forwarded::Stream(stream) => Forwarded::Stream(watched.watch(stream, Chunk::usage)),
        };
        Ok(RoutedForward { backend, attempts, reply })
    }
}

async fn run<'a, T: Send + 'a>(
    chosen: Chosen,
    selector: &Selector<'_>,
    start: &'a (dyn Fn(Arc<Backend>) -> BoxFuture<'a, Result<T, ForwardError>> + Send + Sync),
) -> Result<(Won<T>, Vec<Attempt>, tokio::time::Instant), RouteError> {
    let now = tokio::time::Instant::now();
    let until = selector.until.map_or(now + chosen.deadline, |until| until.min(now + chosen.deadline));
    let after = until - now;
    match race(chosen, until, start).await {
        (Ok(won), attempts) => Ok((won, attempts, until)),
        (Err(Lost::AllFailed), attempts) => Err(RouteError::AllFailed { attempts }),
        (Err(Lost::Deadline), attempts) => Err(RouteError::Deadline { after, attempts }),
    }
}

fn made(specs: Vec<BackendSpec>) -> Vec<Arc<Backend>> {
    specs.into_iter().map(|spec| Arc::new(Backend::new(spec))).collect()
}

/// An answer that has begun: it keeps its slot and its deadline, and what comes of it is counted.
struct Watched {
    backend: Arc<Backend>,
    until: tokio::time::Instant,
    /// What it said last of its tokens: some servers say how many there are so far with every event.
    usage: Usage,
    asked_at: Instant,
    span: Span,
    _slot: Slot,
}

impl Watched {
    fn new<T>(won: Won<T>, until: tokio::time::Instant) -> (Self, T) {
        let Won { backend, reply, slot, span, asked_at } = won;
        (Self { backend, until, usage: Usage::default(), asked_at, span, _slot: slot }, reply)
    }

    fn watch<T: Send + 'static, E>(
        self,
        stream: BoxStream<'static, Result<T, E>>,
        usage: impl Fn(&T) -> Option<Usage> + Send + 'static,
    ) -> BoxStream<'static, Result<T, E>>
    where
        E: From<ModelError> + Into<ForwardError> + Clone + Send + 'static,
    {
        let state = Some((self, stream, usage));
        stream::unfold(state, |state| async move {
            let (mut watched, mut stream, usage) = state?;
            let item = match timeout_at(watched.until, stream.next()).await {
                Ok(item) => item?,
                Err(_) => Err(watched.too_late().into()),
            };
            match &item {
                Ok(part) => {
                    watched.usage = usage(part).unwrap_or(watched.usage);
                    Some((item, Some((watched, stream, usage))))
                }
                Err(error) => {
                    watched.span.record("otel.status_code", "ERROR");
                    watched.backend.record_later_failure(&error.clone().into());
                    Some((item, None))
                }
            }
        })
        .boxed()
    }

    fn too_late(&self) -> ModelError {
        let reason = "its answer was not complete at the deadline".to_owned();
        ModelError::Unavailable { model: self.backend.name().to_owned(), reason }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.backend.counts.used(self.usage);
        self.backend.counts.ended(self.asked_at.elapsed());
        self.span
            .record("gen_ai.usage.input_tokens", self.usage.prompt_tokens)
            .record("gen_ai.usage.output_tokens", self.usage.completion_tokens);
    }
}

/// Waits for the first text, so that a failure before it can still be caught.
async fn first_text(name: &str, mut stream: GenerationStream) -> Result<GenerationStream, ModelError> {
    while let Some(part) = stream.next().await {
        match part? {
            GeneratedPart::Text(text) if text.is_empty() => {}
            GeneratedPart::Text(text) => {
                let first = stream::iter([Ok(GeneratedPart::Text(text))]);
                return Ok(first.chain(stream).boxed());
            }
            GeneratedPart::Usage(_) => break,
        }
    }
    Err(ModelError::Unfit { model: name.to_owned(), reason: "it answered nothing".to_owned() })
}

/// Waits for the first event of a stream, as [`first_text`] does.
async fn first_item<S, T>(name: &str, mut stream: S) -> Result<BoxStream<'static, S::Item>, ForwardError>
where
    S: Stream<Item = Result<T, ForwardError>> + Unpin + Send + 'static,
    T: Send + 'static,
{
    match stream.next().await {
        Some(first) => Ok(stream::iter([Ok(first?)]).chain(stream).boxed()),
        None => {
            Err(ModelError::Unfit { model: name.to_owned(), reason: "it answered nothing".to_owned() }.into())
        }
    }
}

fn list(attempts: &[Attempt]) -> String {
    attempts.iter().map(|attempt| attempt.error.to_string()).collect::<Vec<_>>().join("; ")
}
