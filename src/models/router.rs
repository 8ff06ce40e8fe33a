//! Chooses the backend that answers: the first that works, in the configured order.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};

use super::{GenerateRequest, GeneratedPart, GenerationStream, Generator, ModelError};

/// Time without requests after a backend's first failure; it doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Longest time without requests.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The answer backends in the order of their use.
///
/// A backend that failed is passed over for a while, 10 s at first and up to
/// 60 s, but still asked when no other one is left.
pub struct AnswerRouter {
    backends: Vec<Arc<Backend>>,
}

/// A generation that has begun.
pub struct Routed<P> {
    /// Name of the backend that answers.
    pub backend: String,
    /// What `plan` said for it beside the request.
    pub plan: P,
    /// The backends that were asked before and what they said.
    pub attempts: Vec<Attempt>,
    /// Begins with a part of text. A failure from here on is not caught: text has been shown.
    pub stream: GenerationStream,
}

/// A backend that could not answer.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub backend: String,
    pub error: ModelError,
}

/// Why no backend answers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RouteError {
    /// The client named a model that does not exist.
    #[error("unknown answer model `{wanted}`; there are: {}", known.join(", "))]
    UnknownModel { wanted: String, known: Vec<String> },
    /// The list is empty.
    #[error("no answer backend is configured: see routes.answer in models.toml")]
    NoBackend,
    /// Every backend was asked.
    #[error("no backend could answer: {}", list(attempts))]
    AllFailed { attempts: Vec<Attempt> },
}

impl AnswerRouter {
    /// A router over backends in the order of preference.
    pub fn new(backends: Vec<Arc<dyn Generator>>) -> Self {
        let backends = backends.into_iter().map(|generator| Arc::new(Backend::new(generator))).collect();
        Self { backends }
    }

    /// Name of each backend and whether it is asked in its turn, not only as a last resort.
    pub fn health(&self) -> Vec<(String, bool)> {
        let now = Instant::now();
        self.backends.iter().map(|backend| (backend.name().to_owned(), !backend.is_paused(now))).collect()
    }

    /// Starts a generation on the first backend that gives a part of text.
    ///
    /// `plan` makes the request for each backend that is asked: how much fits differs.
    /// With `wanted`, only the backend of this name is asked: who names a
    /// model does not want another one.
    pub async fn generate<P>(
        &self,
        plan: impl Fn(&dyn Generator) -> Result<(GenerateRequest, P), ModelError>,
        wanted: Option<&str>,
    ) -> Result<Routed<P>, RouteError> {
        let mut attempts = Vec::new();
        for backend in self.candidates(wanted)? {
            let started = match plan(backend.generator.as_ref()) {
                Ok((request, plan)) => backend.start(request).await.map(|stream| (stream, plan)),
                Err(error) => Err(error),
            };
            match started {
                Ok((stream, plan)) => {
                    let name = backend.name().to_owned();
                    return Ok(Routed { backend: name, plan, attempts, stream });
                }
                Err(error) => {
                    tracing::warn!(backend = backend.name(), %error, "an answer backend failed");
                    attempts.push(Attempt { backend: backend.name().to_owned(), error });
                }
            }
        }
        Err(RouteError::AllFailed { attempts })
    }

    fn candidates(&self, wanted: Option<&str>) -> Result<Vec<&Arc<Backend>>, RouteError> {
        if let Some(wanted) = wanted {
            let found = self.backends.iter().find(|backend| backend.name() == wanted);
            return found.map(|backend| vec![backend]).ok_or_else(|| RouteError::UnknownModel {
                wanted: wanted.to_owned(),
                known: self.backends.iter().map(|backend| backend.name().to_owned()).collect(),
            });
        }
        if self.backends.is_empty() {
            return Err(RouteError::NoBackend);
        }
        let now = Instant::now();
        let (paused, mut ready): (Vec<_>, Vec<_>) =
            self.backends.iter().partition(|backend| backend.is_paused(now));
        ready.extend(paused);
        Ok(ready)
    }
}

/// A generator and how it fared.
struct Backend {
    generator: Arc<dyn Generator>,
    health: Mutex<Health>,
}

impl Backend {
    fn new(generator: Arc<dyn Generator>) -> Self {
        Self { generator, health: Mutex::default() }
    }

    fn name(&self) -> &str {
        self.generator.name()
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.with_health(|health| health.is_paused(now))
    }

    async fn start(self: &Arc<Self>, request: GenerateRequest) -> Result<GenerationStream, ModelError> {
        let started = match self.generator.generate(request).await {
            Ok(stream) => first_text(self.name(), stream).await,
            Err(error) => Err(error),
        };
        let stream = started.inspect_err(|error| self.record_failure(error))?;
        self.with_health(Health::record_success);
        let backend = Arc::clone(self);
        let watch = move |part: &Result<GeneratedPart, ModelError>| {
            if let Err(error) = part {
                backend.record_failure(error);
            }
        };
        Ok(stream.inspect(watch).boxed())
    }

    fn record_failure(&self, error: &ModelError) {
        self.with_health(|health| health.record_failure(error, Instant::now()));
    }

    fn with_health<T>(&self, work: impl FnOnce(&mut Health) -> T) -> T {
        work(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner))
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

/// Failures in a row and the pause they earned.
#[derive(Debug, Default)]
struct Health {
    failures: u32,
    paused_until: Option<Instant>,
}

impl Health {
    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    fn record_success(&mut self) {
        *self = Self::default();
    }

    fn record_failure(&mut self, error: &ModelError, now: Instant) {
        let pause = match error {
            // The request's fault: the next one may fit.
            ModelError::Unfit { .. } | ModelError::BadImage { .. } => return,
            ModelError::Overloaded { retry_after, .. } => (*retry_after).min(LONGEST_PAUSE),
            ModelError::TimedOut { .. }
            | ModelError::Unavailable { .. }
            | ModelError::NotLoaded { .. }
            | ModelError::Failed { .. } => {
                let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(8));
                self.failures += 1;
                doubled.min(LONGEST_PAUSE)
            }
        };
        self.paused_until = Some(now + pause);
    }
}

fn list(attempts: &[Attempt]) -> String {
    attempts.iter().map(|attempt| attempt.error.to_string()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::{FutureExt, future::BoxFuture};

    use super::*;
    use crate::models::Usage;

    type Parts = Vec<Result<GeneratedPart, ModelError>>;

    /// Gives the same outcome to every request and counts them.
    struct Fixed {
        name: &'static str,
        outcome: Result<Parts, ModelError>,
        asked: AtomicUsize,
    }

    impl Fixed {
        fn new(name: &'static str, outcome: Result<Parts, ModelError>) -> Arc<Self> {
            Arc::new(Self { name, outcome, asked: AtomicUsize::new(0) })
        }

        fn answering(name: &'static str) -> Arc<Self> {
            Self::new(name, Ok(vec![text(""), text(name), Ok(GeneratedPart::Usage(Usage::default()))]))
        }

        fn failing(name: &'static str) -> Arc<Self> {
            Self::new(name, Err(down(name)))
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    impl Generator for Fixed {
        fn name(&self) -> &str {
            self.name
        }
        fn context_tokens(&self) -> usize {
            100
        }
        fn count_tokens(&self, text: &str) -> usize {
            text.len()
        }
        fn generate(&self, _: GenerateRequest) -> BoxFuture<'_, Result<GenerationStream, ModelError>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let outcome = self.outcome.clone().map(|parts| stream::iter(parts).boxed());
            std::future::ready(outcome).boxed()
        }
    }

    fn text(text: &str) -> Result<GeneratedPart, ModelError> {
        Ok(GeneratedPart::Text(text.to_owned()))
    }

    fn down(model: &str) -> ModelError {
        ModelError::Unavailable { model: model.to_owned(), reason: "connection refused".to_owned() }
    }

    fn request(_: &dyn Generator) -> Result<(GenerateRequest, ()), ModelError> {
        let request = GenerateRequest { max_tokens: 10, ..GenerateRequest::default() };
        Ok((request, ()))
    }

    fn router<const N: usize>(backends: [&Arc<Fixed>; N]) -> AnswerRouter {
        AnswerRouter::new(backends.map(|backend| Arc::clone(backend) as Arc<dyn Generator>).to_vec())
    }

    #[tokio::test]
    async fn the_first_backend_answers_whole() {
        let (first, second) = (Fixed::answering("first"), Fixed::answering("second"));
        let routed = router([&first, &second]).generate(request, None).await.unwrap();
        assert_eq!(routed.backend, "first");
        assert!(routed.attempts.is_empty());
        let parts: Vec<_> = routed.stream.map(Result::unwrap).collect().await;
        let wanted = [GeneratedPart::Text("first".into()), GeneratedPart::Usage(Usage::default())];
        assert_eq!(parts, wanted);
        assert_eq!(second.asked(), 0);
    }

    #[tokio::test]
    async fn failures_before_the_first_text_pass_to_the_next() {
        let refused = Fixed::failing("refused");
        let broken = Fixed::new("broken", Ok(vec![text(""), Err(down("broken"))]));
        let silent = Fixed::new("silent", Ok(vec![Ok(GeneratedPart::Usage(Usage::default()))]));
        let good = Fixed::answering("good");
        let router = router([&refused, &broken, &silent, &good]);

        let routed = router.generate(request, None).await.unwrap();
        assert_eq!(routed.backend, "good");
        let asked: Vec<_> = routed.attempts.iter().map(|attempt| attempt.backend.as_str()).collect();
        assert_eq!(asked, ["refused", "broken", "silent"]);
        let health = router.health().into_iter().map(|(_, healthy)| healthy);
        assert_eq!(health.collect::<Vec<_>>(), [false, false, true, true]);
    }

    #[tokio::test]
    async fn a_failed_backend_is_passed_over_but_is_the_last_resort() {
        let (bad, good) = (Fixed::failing("bad"), Fixed::answering("good"));
        let router = router([&bad, &good]);
        router.generate(request, None).await.unwrap();
        router.generate(request, None).await.unwrap();
        assert_eq!((bad.asked(), good.asked()), (1, 2));

        let router = self::router([&bad]);
        for _ in 0..2 {
            let error = router.generate(request, None).await.err().unwrap();
            assert!(error.to_string().contains("connection refused"), "{error}");
        }
        assert_eq!(bad.asked(), 3);
    }

    #[tokio::test]
    async fn a_failure_after_the_first_text_is_passed_on_and_counts() {
        let torn = Fixed::new("torn", Ok(vec![text("half"), Err(down("torn"))]));
        let router = router([&torn, &Fixed::answering("other")]);
        let routed = router.generate(request, None).await.unwrap();
        let parts: Vec<_> = routed.stream.collect().await;
        assert!(parts[0].is_ok() && parts[1].is_err());
        assert_eq!(router.health()[0], ("torn".to_owned(), false));
    }

    #[tokio::test]
    async fn a_named_model_is_the_only_one_asked() {
        let (first, second) = (Fixed::answering("first"), Fixed::failing("second"));
        let router = router([&first, &second]);
        let error = router.generate(request, Some("second")).await.err().unwrap();
        assert!(matches!(error, RouteError::AllFailed { attempts } if attempts.len() == 1));
        assert_eq!(first.asked(), 0);
        let error = router.generate(request, Some("third")).await.err().unwrap();
        assert_eq!(error.to_string(), "unknown answer model `third`; there are: first, second");
        let none = AnswerRouter::new(Vec::new()).generate(request, None).await;
        assert!(matches!(none, Err(RouteError::NoBackend)));
    }

    #[test]
    fn pauses_double_to_a_minute_and_end_with_a_success() {
        let now = Instant::now();
        let mut health = Health::default();
        for seconds in [10, 20, 40, 60, 60] {
            health.record_failure(&down("m"), now);
            assert_eq!(health.paused_until, Some(now + Duration::from_secs(seconds)));
        }
        assert!(health.is_paused(now + Duration::from_secs(59)));
        assert!(!health.is_paused(now + Duration::from_secs(60)));
        health.record_success();
        assert!(!health.is_paused(now));

        let busy = ModelError::Overloaded { model: "m".into(), retry_after: Duration::from_secs(3) };
        health.record_failure(&busy, now);
        assert_eq!(health.paused_until, Some(now + Duration::from_secs(3)));
        health = Health::default();
        health.record_failure(&ModelError::Unfit { model: "m".into(), reason: "long".into() }, now);
        assert!(!health.is_paused(now));
    }
}
