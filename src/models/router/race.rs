//! Asks one backend after the other until one answers.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{sleep, sleep_until};
use tracing::{Instrument, Span, field::Empty};

use super::{
    Attempt,
    backend::{Backend, Refused, Slot},
    breaker::Entry,
    select::{Candidate, Chosen},
};
use crate::{
    models::{ModelError, forward::ForwardError},
    telemetry::SPAN,
};

/// Pause before the first repetition; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause before a repetition. A server that wants a longer one is not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The backend whose answer has begun.
pub struct Won<T> {
    pub backend: Arc<Backend>,
    pub reply: T,
    pub slot: Slot,
    /// The request to the backend as a part of a trace; it lasts until the answer's end.
    pub span: Span,
    pub asked_at: Instant,
}

/// Why nobody answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    AllFailed,
    Deadline,
}

/// Asks the candidates in their turn until one answers, or until the time is up.
///
/// `start` sends a request to a backend and waits for the first byte of its answer. Only the
/// requests that are dropped here are cancelled: the slower one of a hedge, or all at `until`.
pub async fn race<'a, T: Send + 'a>(
    chosen: Chosen,
    until: tokio::time::Instant,
    start: &'a (dyn Fn(Arc<Backend>) -> BoxFuture<'a, Result<T, ForwardError>> + Send + Sync),
) -> (Result<Won<T>, Lost>, Vec<Attempt>) {
    let mut waiting = VecDeque::from(chosen.candidates);
    let mut hedge_after = chosen.hedge_after;
    let mut running = FuturesUnordered::new();
    let mut under_way: Vec<(Arc<Backend>, Instant)> = Vec::new();
    let mut attempts = Vec::new();
    loop {
        if running.is_empty() {
            let Some(next) = waiting.pop_front() else { return (Err(Lost::AllFailed), attempts) };
            under_way.push((Arc::clone(&next.backend), Instant::now()));
            running.push(ask(next, !waiting.is_empty(), start));
        }
        let hedge = hedge_after.filter(|_| !waiting.is_empty());
        tokio::select! {
            Some((backend, ended)) = running.next() => {
                under_way.retain(|(other, _)| !Arc::ptr_eq(other, &backend));
                match ended {
                    Ended::Answered { reply, slot, span, asked_at } => {
                        attempts.extend(under_way.iter().map(Attempt::unanswered));
                        return (Ok(Won { backend, reply, slot, span, asked_at }), attempts);
                    }
                    Ended::Shut => waiting.push_back(Candidate { backend, last_resort: true }),
                    Ended::Failed { tries, error } => {
                        let stop = error.is_callers_fault();
                        if !stop && !waiting.is_empty() {
                            backend.counts.gave_up();
                        }
                        attempts.push(Attempt::new(&backend, tries, error));
                        if stop {
                            return (Err(Lost::AllFailed), attempts);
                        }
                    }
                }
            }
            () = sleep(hedge.unwrap_or_default()), if hedge.is_some() => {
                hedge_after = None;
                if let Some(next) = waiting.pop_front() {
                    tracing::debug!(backend = next.backend.name(), "asked too, because no answer began yet");
                    under_way.push((Arc::clone(&next.backend), Instant::now()));
                    running.push(ask(next, !waiting.is_empty(), start));
                }
            }
            () = sleep_until(until) => {
                attempts.extend(under_way.iter().map(Attempt::unanswered));
                return (Err(Lost::Deadline), attempts);
            }
        }
    }
}

enum Ended<T> {
    Answered {
        reply: T,
        slot: Slot,
        span: Span,
        asked_at: Instant,
    },
    /// Another request is its breaker's probe.
    Shut,
    Failed {
        tries: u32,
        error: ForwardError,
    },
}

/// Asks one backend, again where that may help; `others`: somebody else could be asked instead.
async fn ask<'a, T>(
    candidate: Candidate,
    others: bool,
    start: &'a (dyn Fn(Arc<Backend>) -> BoxFuture<'a, Result<T, ForwardError>> + Send + Sync),
) -> (Arc<Backend>, Ended<T>) {
    let backend = candidate.backend;
    let mut tries = 0;
    let mut failure: Option<ForwardError> = None;
    let ended = loop {
        let slot = match backend.slot().await {
            Ok(slot) => slot,
            Err(error) => break Ended::Failed { tries, error: error.into() },
        };
        let trial = match (backend.enter(candidate.last_resort), failure.take()) {
            (Ok(trial), _) => trial,
            (Err(_), Some(error)) => break Ended::Failed { tries, error },
            (Err(Refused::Shut), None) => break Ended::Shut,
            (Err(Refused::Paused(error)), None) => break Ended::Failed { tries, error: error.into() },
        };
        tries += 1;
        let started = Instant::now();
        let span = request_span(backend.name(), tries);
        match start(Arc::clone(&backend)).instrument(span.clone()).await {
            Ok(reply) => {
                trial.succeeded();
                backend.counts.answered(started.elapsed());
                break Ended::Answered { reply, slot, span, asked_at: started };
            }
            Err(error) => {
                span.record("otel.status_code", "ERROR");
                let entry = trial.entry();
                trial.failed(&error);
                backend.counts.failed(&error);
                tracing::warn!(backend = backend.name(), tries, %error, "an answer backend failed: {error}");
                drop(slot);
                match pause(&error.error, tries, others) {
                    Some(pause) if entry == Entry::Free && tries <= backend.retries() => {
                        failure = Some(error);
                        sleep(pause).await;
                    }
                    _ => break Ended::Failed { tries, error },
                }
            }
        }
    };
    (backend, ended)
}

fn request_span(backend: &str, tries: u32) -> Span {
    tracing::info_span!(
        target: SPAN,
        "llm",
        otel.kind = "client",
        otel.status_code = Empty,
        backend,
        tries,
        gen_ai.usage.input_tokens = Empty,
        gen_ai.usage.output_tokens = Empty,
    )
}

/// How long to wait before the same backend is asked again; none where that is no use.
///
/// A backend that was silent for the whole of its time is not given it again, and a busy one
/// is not waited for when there are others.
fn pause(error: &ModelError, tries: u32, others: bool) -> Option<Duration> {
    let backoff = FIRST_PAUSE.saturating_mul(1 << (tries - 1).min(8)).min(LONGEST_PAUSE);
    let jittered = backoff.mul_f64(rand::random_range(0.5..=1.0));
    match error {
        ModelError::Unavailable { .. } => Some(jittered),
        ModelError::Overloaded { retry_after, .. } if !others && *retry_after <= LONGEST_PAUSE => {
            // Later than that moment, and not all at the same one.
            Some(*retry_after + jittered / 4)
        }
        ModelError::Overloaded { .. }
        | ModelError::TimedOut { .. }
        | ModelError::Unfit { .. }
        | ModelError::BadImage { .. }
        | ModelError::NotLoaded { .. }
        | ModelError::Failed { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down() -> ModelError {
        ModelError::Unavailable { model: "m".into(), reason: "refused".into() }
    }

    fn busy(seconds: u64) -> ModelError {
        ModelError::Overloaded { model: "m".into(), retry_after: Duration::from_secs(seconds) }
    }

    #[test]
    fn pauses_double_with_jitter_up_to_two_seconds() {
        for (tries, most) in [(1, 200), (2, 400), (3, 800), (4, 1600), (5, 2000), (40, 2000)] {
            let pauses: Vec<u128> =
                (0..50).map(|_| pause(&down(), tries, true).unwrap().as_millis()).collect();
            assert!(pauses.iter().all(|pause| (most / 2..=most).contains(pause)), "{pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "no jitter");
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let model = || "m".to_owned();
        let timed_out = ModelError::TimedOut { model: model(), after: Duration::from_secs(20) };
        let unfit = ModelError::Unfit { model: model(), reason: "long".into() };
        let failed = ModelError::Failed { model: model(), reason: "401".into() };
        for error in [timed_out, unfit, failed] {
            assert_eq!(pause(&error, 1, false), None, "{error}");
        }
    }

    #[test]
    fn a_server_that_names_a_time_is_not_asked_before_it() {
        assert!(pause(&busy(1), 1, false).unwrap() >= Duration::from_secs(1));
        assert_eq!(pause(&busy(1), 1, true), None, "another one can answer now");
        assert_eq!(pause(&busy(3), 1, false), None, "too long to hold a client");
    }
}
