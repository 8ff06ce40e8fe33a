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
    let request = GenerateRequest { messages: Vec::new(), max_tokens: 10, temperature: 0.0, seed: None };
    Ok((request, ()))
}

fn naming(model: &str) -> Selector<'_> {
    Selector { model: Some(model), ..Selector::default() }
}

fn router<const N: usize>(backends: [&Arc<Fixed>; N]) -> AnswerRouter {
    AnswerRouter::new(backends.map(|backend| Arc::clone(backend) as Arc<dyn Generator>).to_vec())
}

#[tokio::test]
async fn the_first_backend_answers_whole() {
    let (first, second) = (Fixed::answering("first"), Fixed::answering("second"));
    let routed = router([&first, &second]).generate(&Selector::default(), request).await.unwrap();
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

    let routed = router.generate(&Selector::default(), request).await.unwrap();
    assert_eq!(routed.backend, "good");
    let asked: Vec<_> = routed.attempts.iter().map(|attempt| attempt.backend.as_str()).collect();
    assert_eq!(asked, ["refused", "broken", "silent"]);
    let health = router.status().into_iter().map(|status| status.healthy);
    assert_eq!(health.collect::<Vec<_>>(), [false, false, true, true]);
}

#[tokio::test]
async fn a_backend_with_an_open_breaker_is_passed_over_but_is_the_last_resort() {
    let (bad, good) = (Fixed::failing("bad"), Fixed::answering("good"));
    let router = router([&bad, &good]);
    for _ in 0..5 {
        router.generate(&Selector::default(), request).await.unwrap();
    }
    assert_eq!((bad.asked(), good.asked()), (3, 5));
    assert_eq!(router.status()[0].breaker, BreakerState::Open);

    for _ in 0..2 {
        let error = router.generate(&naming("bad"), request).await.err().unwrap();
        assert!(error.to_string().contains("connection refused"), "{error}");
    }
    assert_eq!(bad.asked(), 5);
}

#[tokio::test]
async fn a_failure_after_the_first_text_is_passed_on_and_counts() {
    let torn = Fixed::new("torn", Ok(vec![text("half"), Err(down("torn"))]));
    let router = router([&torn, &Fixed::answering("other")]);
    let routed = router.generate(&Selector::default(), request).await.unwrap();
    let parts: Vec<_> = routed.stream.collect().await;
    assert!(parts[0].is_ok() && parts[1].is_err());
    let status = router.status().swap_remove(0);
    assert_eq!((status.name.as_str(), status.healthy, status.counts.broken_off), ("torn", false, 1));
}

#[tokio::test]
async fn a_named_model_is_the_only_one_asked() {
    let (first, second) = (Fixed::answering("first"), Fixed::failing("second"));
    let router = router([&first, &second]);
    let error = router.generate(&naming("second"), request).await.err().unwrap();
    assert!(matches!(error, RouteError::AllFailed { attempts } if attempts.len() == 1));
    assert_eq!(first.asked(), 0);
    let error = router.generate(&naming("third"), request).await.err().unwrap();
    assert_eq!(error.to_string(), "unknown answer model `third`; there are: first, second, default");
    let none = AnswerRouter::new(Vec::new()).generate(&Selector::default(), request).await;
    assert!(matches!(none, Err(RouteError::NoBackend)));
}
