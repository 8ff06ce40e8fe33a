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
    let request = GenerateRequest { messages: Vec::new(), max_tokens: 10, ..GenerateRequest::default() };
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

/// Answers after a while, or fails the first times; knows whether a request to it was dropped.
struct Slow {
    name: &'static str,
    after: Duration,
    failures: AtomicUsize,
    asked: AtomicUsize,
    dropped: Arc<AtomicUsize>,
}

impl Slow {
    fn new(name: &'static str, after_ms: u64, failures: usize) -> Arc<Self> {
        let after = Duration::from_millis(after_ms);
        let (failures, asked) = (AtomicUsize::new(failures), AtomicUsize::new(0));
        Arc::new(Self { name, after, failures, asked, dropped: Arc::default() })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Counts the requests that were dropped before they were answered.
struct DropCount {
    dropped: Arc<AtomicUsize>,
    answered: bool,
}

impl DropCount {
    fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for DropCount {
    fn drop(&mut self) {
        self.dropped.fetch_add(usize::from(!self.answered), Ordering::Relaxed);
    }
}

impl Generator for Slow {
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
        let guard = DropCount { dropped: Arc::clone(&self.dropped), answered: false };
        async move {
            tokio::time::sleep(self.after).await;
            guard.answered();
            let one_less = |left: usize| left.checked_sub(1);
            if self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
                return Err(down(self.name));
            }
            Ok(stream::iter([text(self.name), Ok(GeneratedPart::Usage(Usage::default()))]).boxed())
        }
        .boxed()
    }
}

/// A router by `models.toml` over these; limits are those of servers.
fn routed<const N: usize>(routes: &str, backends: [&Arc<Slow>; N]) -> AnswerRouter {
    with_limits(routes, config::Limits { max_concurrent: 2, queue: 1, retries: 2 }, backends)
}

fn with_limits<const N: usize>(
    routes: &str,
    limits: config::Limits,
    backends: [&Arc<Slow>; N],
) -> AnswerRouter {
    let routes: config::Routes = toml::from_str(&format!("[embed]\n{routes}")).unwrap();
    let spec = |backend: &Arc<Slow>| BackendSpec {
        limits,
        ..BackendSpec::local(Arc::clone(backend) as Arc<dyn Generator>)
    };
    AnswerRouter::with_routes(backends.map(spec).to_vec(), &routes)
}

async fn asks(router: &AnswerRouter, selector: &Selector<'_>) -> Routed<()> {
    router.generate(selector, request).await.unwrap()
}

#[tokio::test]
async fn a_failure_that_may_pass_is_tried_again_and_told() {
    let (shaky, second) = (Slow::new("shaky", 1, 2), Slow::new("second", 1, 0));
    let router = routed("[answer]\nbackends = [\"shaky\", \"second\"]", [&shaky, &second]);
    assert_eq!(asks(&router, &Selector::default()).await.backend, "shaky");
    assert_eq!((shaky.asked(), second.asked()), (3, 0));

    let dead = Slow::new("dead", 1, 100);
    let router = routed("[answer]\nbackends = [\"dead\", \"second\"]", [&dead, &second]);
    let routed = asks(&router, &Selector::default()).await;
    assert_eq!((routed.backend.as_str(), routed.attempts[0].tries), ("second", 3));
    let counts = &router.status()[0].counts;
    assert_eq!((counts.endings[Ending::Unavailable as usize], counts.given_up), (3, 1));
}

#[tokio::test]
async fn a_hedge_asks_a_second_backend_and_drops_the_slower_one() {
    let (slow, fast) = (Slow::new("slow", 60_000, 0), Slow::new("fast", 10, 0));
    let route = "[answer]\nbackends = [\"slow\", \"fast\"]\nhedge_after_ms = 100";
    let router = routed(route, [&slow, &fast]);
    let routed = asks(&router, &Selector::default()).await;
    assert_eq!(routed.backend, "fast");
    assert_eq!(routed.attempts[0].backend, "slow");
    assert!(matches!(routed.attempts[0].error, ModelError::TimedOut { .. }));
    assert_eq!(slow.dropped.load(Ordering::Relaxed), 1, "the loser goes on");
    let status = router.status();
    assert_eq!((status[0].load, status[0].counts.endings[Ending::Cancelled as usize]), (0, 1));
}

#[tokio::test]
async fn without_need_there_is_no_hedge() {
    let (first, second) = (Slow::new("first", 1, 0), Slow::new("second", 1, 0));
    let route = "[answer]\nbackends = [\"first\", \"second\"]\nhedge_after_ms = 60000";
    let router = routed(route, [&first, &second]);
    assert_eq!(asks(&router, &Selector::default()).await.backend, "first");
    assert_eq!(second.asked(), 0);
}

#[tokio::test]
async fn the_deadline_covers_every_attempt_and_the_stream() {
    let (slow, slower) = (Slow::new("slow", 1, 100), Slow::new("slower", 60_000, 0));
    let route = "[answer]\nbackends = [\"slow\", \"slower\"]\ndeadline_ms = 2000";
    let router =
        with_limits(route, config::Limits { retries: 0, ..config::Limits::default() }, [&slow, &slower]);
    let error = router.generate(&Selector::default(), request).await.err().unwrap();
    let RouteError::Deadline { after, attempts } = error else { panic!("{error}") };
    assert_eq!(after.as_millis(), 2000);
    let names: Vec<&str> = attempts.iter().map(|attempt| attempt.backend.as_str()).collect();
    assert_eq!(names, ["slow", "slower"]);
    assert_eq!(slower.dropped.load(Ordering::Relaxed), 1);

    let router = AnswerRouter::new(vec![Arc::new(Endless)]);
    let until = Some(tokio::time::Instant::now() + Duration::from_secs(2));
    let selector = Selector { until, ..Selector::default() };
    let parts: Vec<_> = asks(&router, &selector).await.stream.collect().await;
    let last = parts.last().unwrap().as_ref().unwrap_err();
    assert!(last.to_string().contains("deadline"), "{last}");
}

/// Writes a word every few milliseconds, for ever.
struct Endless;

impl Generator for Endless {
    fn name(&self) -> &str {
        "endless"
    }
    fn context_tokens(&self) -> usize {
        100
    }
    fn count_tokens(&self, text: &str) -> usize {
        text.len()
    }
    fn generate(&self, _: GenerateRequest) -> BoxFuture<'_, Result<GenerationStream, ModelError>> {
        let words = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((text("word "), ()))
        });
        std::future::ready(Ok(words.boxed())).boxed()
    }
}

#[tokio::test]
async fn more_requests_than_slots_wait_and_more_than_that_go_on() {
    let (first, second) = (Slow::new("first", 1, 0), Slow::new("second", 1, 0));
    let router = routed("[answer]\nbackends = [\"first\", \"second\"]", [&first, &second]);
    let selector = Selector::default();
    // An answer holds its slot until it has been read.
    let mut held = vec![asks(&router, &selector).await, asks(&router, &selector).await];
    let mut waits = std::pin::pin!(asks(&router, &selector));
    assert!(waits.as_mut().now_or_never().is_none());
    assert_eq!((first.asked(), router.status()[0].load), (2, 3));
    assert_eq!(asks(&router, &selector).await.backend, "second");
    held.pop();
    assert_eq!(waits.await.backend, "first");
}

#[tokio::test]
async fn a_slot_is_given_back_when_the_answer_has_been_read() {
    let only = Slow::new("only", 10, 0);
    let limits = config::Limits { max_concurrent: 1, queue: 1, retries: 0 };
    let router = with_limits("[answer]\nbackends = [\"only\"]", limits, [&only]);
    let selector = Selector::default();
    let read = || async { asks(&router, &selector).await.stream.count().await };
    assert_eq!(tokio::join!(read(), read()), (2, 2));
    assert_eq!(router.status()[0].load, 0);
}

#[tokio::test]
async fn the_least_busy_backend_is_asked() {
    let (first, second) = (Slow::new("first", 10, 0), Slow::new("second", 10, 0));
    let route = "[answer]\npolicy = \"least_busy\"\nbackends = [\"first\", \"second\"]";
    let router = routed(route, [&first, &second]);
    let selector = Selector::default();
    let held = asks(&router, &selector).await;
    assert_eq!(held.backend, "first");
    assert_eq!(asks(&router, &selector).await.backend, "second");
    drop(held);
    assert_eq!(asks(&router, &selector).await.backend, "first");
}

#[tokio::test]
async fn weights_are_kept_and_a_weight_of_nothing_is_for_emergencies() {
    let (often, seldom, spare) =
        (Slow::new("often", 0, 0), Slow::new("seldom", 0, 0), Slow::new("spare", 0, 0));
    let route = "[answer]\npolicy = \"weighted\"\nbackends = [\"spare\", \"seldom\", \"often\"]\n\
                 weights = { often = 3, seldom = 1, spare = 0 }";
    let router = routed(route, [&often, &seldom, &spare]);
    for _ in 0..400 {
        asks(&router, &Selector::default()).await;
    }
    // 300 are expected with a standard deviation of 8.7.
    assert!((250..=350).contains(&often.asked()), "{}", often.asked());
    assert_eq!((often.asked() + seldom.asked(), spare.asked()), (400, 0));
}

#[tokio::test]
async fn rules_choose_the_route_and_the_first_that_holds_counts() {
    let (usual, german, long) =
        (Slow::new("usual", 0, 0), Slow::new("german", 0, 0), Slow::new("long", 0, 0));
    let tenant = "00000000-0000-7000-8000-000000000009";
    let routes = format!(
        r#"
        answer = {{ backends = ["usual"] }}
        answer_by_name = {{ de = {{ backends = ["german"] }}, deep = {{ backends = ["long", "usual"] }} }}
        answer_rules = [
            {{ route = "deep", models = ["gpt-4o"] }},
            {{ route = "deep", min_chars = 200 }},
            {{ route = "de", languages = ["deu"], collections = ["law"] }},
            {{ route = "deep", tenants = ["{tenant}"] }},
        ]
        "#
    );
    let routes = routes.replace("        answer", "answer");
    let routes: config::Routes = toml::from_str(&format!("embed = {{}}\n{routes}")).unwrap();
    let specs =
        [&usual, &german, &long].map(|slow| BackendSpec::local(Arc::clone(slow) as Arc<dyn Generator>));
    let router = AnswerRouter::with_routes(specs.to_vec(), &routes);
    let answered_by = async |selector: Selector<'_>| asks(&router, &selector).await.backend;

    let german_text = "Wie lange darf ein Mieter nach der Kündigung noch in der Wohnung bleiben?";
    let english = "How long may a tenant stay in the flat after notice has been given?";
    let law = Selector { collection: Some("law"), question: german_text, ..Selector::default() };
    assert_eq!(answered_by(law).await, "german");
    assert_eq!(answered_by(Selector { question: english, ..law }).await, "usual");
    assert_eq!(answered_by(Selector { collection: Some("other"), ..law }).await, "usual");
    assert_eq!(answered_by(Selector { question: &german_text.repeat(3), ..law }).await, "long");
    assert_eq!(answered_by(Selector { model: Some("gpt-4o"), ..law }).await, "long");
    // Who names a backend or a route gets it, whatever the rules for others say.
    assert_eq!(answered_by(Selector { model: Some("usual"), ..law }).await, "usual");
    assert_eq!(answered_by(Selector { model: Some("de"), ..Selector::default() }).await, "german");
    let tenant = Some(tenant.parse().unwrap());
    assert_eq!(answered_by(Selector { tenant, ..Selector::default() }).await, "long");

    let mut names = router.models();
    names.sort();
    assert_eq!(names, ["de", "deep", "default", "german", "gpt-4o", "long", "usual"]);
    assert!(!router.forwards(&naming("gpt-4o")).unwrap());
}

#[tokio::test]
async fn a_local_model_is_not_sent_a_clients_request() {
    let router = router([&Fixed::answering("local")]);
    let request = ForwardRequest::read(b"{\"model\": \"local\"}".as_slice().into()).unwrap();
    let error = router.forward(&naming("local"), &request).await.err().unwrap();
    assert!(matches!(error.last().unwrap().error, ModelError::Unfit { .. }), "{error}");
}

#[test]
fn names_are_told_to_those_whom_they_lead_somewhere() {
    let tenant = Uuid::from_u128(9);
    let routes = format!(
        r#"
        embed = {{}}
        answer = {{ backends = ["away"] }}
        answer_by_name = {{ deep = {{ backends = ["here"] }}, empty = {{ backends = ["away"] }} }}
        answer_rules = [
            {{ route = "deep", models = ["theirs"], tenants = ["{tenant}"] }},
            {{ route = "deep", models = ["german"], languages = ["deu"] }},
            {{ route = "deep", models = ["lawyer"], collections = ["law"] }},
            {{ route = "empty", models = ["nothing"] }},
        ]
        "#
    );
    let routes: config::Routes = toml::from_str(&routes).unwrap();
    let here = BackendSpec::local(Fixed::answering("here") as Arc<dyn Generator>);
    let router = AnswerRouter::with_routes(vec![here], &routes);
    assert_eq!(router.models_for(Uuid::nil()), ["here", "deep", "german"]);
    assert_eq!(router.models_for(tenant), ["here", "deep", "german", "theirs"]);
    assert_eq!(
        router.models(),
        ["here", "deep", "default", "empty", "german", "lawyer", "nothing", "theirs"]
    );
}
