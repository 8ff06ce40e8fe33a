//! What models, store and use cases count themselves.

use std::time::Duration;

use prometheus::proto::MetricFamily;

use super::families::Family;
use crate::{
    models::{
        cache::CacheCounts,
        embedders::ModelState,
        router::{BackendStatus, BreakerState, Ending, TIME_BOUNDS_MS, Times},
        scheduler::{BATCH_BOUNDS, LaneStatus},
    },
    rag::{
        Rag,
        jobs::{JobOutcome, KindCounts},
        usage::LedgerTotals,
    },
    store::PoolStatus,
};

/// All of them, as they are now.
pub fn all(rag: &Rag) -> Vec<MetricFamily> {
    let embedders = rag.embedders();
    let lanes: Vec<(&str, LaneStatus)> = embedders.lanes().chain(rag.rerankers().lanes()).collect();
    [
        database(rag.store().pool_status()),
        loaded(embedders.models()),
        queues(&lanes),
        cache(&rag.cache().counts()),
        repeated(rag.repeated_searches().counts()),
        backends(&rag.answers().status()),
        jobs(&rag.job_counts()),
        usage(&rag.ledger().totals()),
    ]
    .concat()
}

fn database(pool: PoolStatus) -> Vec<MetricFamily> {
    let mut active = Family::gauge("db_active_connections", "Database connections in use");
    let mut open = Family::gauge("db_pool_connections", "Database connections that are open");
    let mut most = Family::gauge("db_pool_connections_max", "Database connections that may be open");
    let mut waited =
        Family::counter("db_pool_waits_total", "Uses that waited for a database connection and got one");
    let mut timed_out =
        Family::counter("db_pool_timeouts_total", "Uses that waited for a database connection in vain");
    let mut wait =
        Family::counter("db_pool_wait_seconds_total", "Time spent waiting for database connections");
    active.add(&[], f64::from(pool.active));
    open.add(&[], f64::from(pool.open));
    most.add(&[], f64::from(pool.most));
    waited.add(&[], pool.waited as f64);
    timed_out.add(&[], pool.timed_out as f64);
    wait.add(&[], pool.wait.as_secs_f64());
    [active, open, most, waited, timed_out, wait].map(Family::done).into()
}

fn loaded<'a>(models: impl Iterator<Item = (&'a str, ModelState)>) -> Vec<MetricFamily> {
    let mut loaded =
        Family::gauge("model_loaded", "1 for a loaded embedder, 0 for one of the catalog that is not");
    for (model, state) in models {
        loaded.add(&[("model", model)], f64::from(u8::from(state == ModelState::Loaded)));
    }
    vec![loaded.done()]
}

/// The lanes of the models in this process.
fn queues(lanes: &[(&str, LaneStatus)]) -> Vec<MetricFamily> {
    let mut items = Family::gauge("model_queue_items", "Texts, pairs or images that wait for a model");
    let mut tokens = Family::gauge("model_queue_tokens", "Tokens of what waits for a model");
    let mut batches =
        Family::histogram("model_batch_items", "Texts, pairs or images that a model computed at once");
    let mut computed = Family::counter("model_tokens_total", "Tokens that a model computed");
    let mut busy = Family::counter("model_busy_seconds_total", "Time in which a model computed");
    for (model, status) in lanes {
        let LaneStatus { lane, items: waiting, cost, batches: counts } = status;
        let labels = [("lane", lane.name()), ("model", model)];
        items.add(&labels, *waiting as f64);
        tokens.add(&labels, *cost as f64);
        let bounds = BATCH_BOUNDS.iter().map(|bound| *bound as f64);
        batches.add_histogram(&labels, bounds, &counts.sizes, counts.items as f64);
        computed.add(&labels, counts.cost as f64);
        busy.add(&labels, counts.busy.as_secs_f64());
    }
    [items, tokens, batches, computed, busy].map(Family::done).into()
}

/// Look-ups of the embedding cache by tier, `memory` and `redis`.
fn cache(counts: &CacheCounts) -> Vec<MetricFamily> {
    let mut hits = Family::counter("embedding_cache_hits_total", "Vectors found, by tier");
    let mut misses =
        Family::counter("embedding_cache_misses_total", "Vectors looked for and not found, by tier");
    let mut errors = Family::counter(
        "embedding_cache_errors_total",
        "Calls that failed and values that were no vector, by tier",
    );
    for (tier, counts) in [("memory", counts.memory), ("redis", counts.redis)] {
        hits.add(&[("tier", tier)], counts.hits as f64);
        misses.add(&[("tier", tier)], counts.misses as f64);
        errors.add(&[("tier", tier)], counts.errors as f64);
    }
    [hits, misses, errors].map(Family::done).into()
}

fn repeated((hits, misses): (u64, u64)) -> Vec<MetricFamily> {
    let mut found =
        Family::counter("search_cache_hits_total", "Searches whose results were there from before");
    let mut made = Family::counter("search_cache_misses_total", "Searches that were not");
    found.add(&[], hits as f64);
    made.add(&[], misses as f64);
    [found, made].map(Family::done).into()
}

/// What the answer backends did and how they are.
fn backends(backends: &[BackendStatus]) -> Vec<MetricFamily> {
    let mut requests = Family::counter("answer_requests_total", "Requests to an answer backend by outcome");
    let mut broken =
        Family::counter("answer_broken_off_total", "Answers of a backend that began and broke off");
    let mut fallbacks =
        Family::counter("answer_fallbacks_total", "Requests that went on from a backend to the next");
    let mut tokens = Family::counter("answer_tokens_total", "Tokens that a backend counted");
    let mut breaker = Family::gauge("answer_breaker_state", "0: closed, 1: half open, 2: open");
    let mut load = Family::gauge("answer_requests_under_way", "Requests under way and waiting");
    let mut first_byte = Family::histogram(
        "answer_first_byte_seconds",
        "Time from a request to the first byte of a backend's answer",
    );
    let mut whole = Family::histogram(
        "answer_duration_seconds",
        "Time from a request to the end of a backend's answer that began",
    );
    for backend in backends {
        let (name, counts) = (("backend", backend.name.as_str()), &backend.counts);
        for (ending, outcome) in Ending::ALL {
            requests.add(&[name, ("outcome", outcome)], counts.endings[ending as usize] as f64);
        }
        broken.add(&[name], counts.broken_off as f64);
        fallbacks.add(&[name], counts.given_up as f64);
        tokens.add(&[name, ("direction", "prompt")], counts.prompt_tokens as f64);
        tokens.add(&[name, ("direction", "completion")], counts.completion_tokens as f64);
        let state = match backend.breaker {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open => 2.0,
        };
        breaker.add(&[name], state);
        load.add(&[name], backend.load as f64);
        add_times(&mut first_byte, name, &counts.first_byte);
        add_times(&mut whole, name, &counts.whole);
    }
    [requests, broken, fallbacks, tokens, breaker, load, first_byte, whole].map(Family::done).into()
}

fn add_times(family: &mut Family, label: (&str, &str), times: &Times) {
    let bounds = TIME_BOUNDS_MS.iter().map(|bound| Duration::from_millis(*bound).as_secs_f64());
    family.add_histogram(&[label], bounds, &times.buckets, times.sum_s);
}

/// Background jobs of this replica.
fn jobs(kinds: &[(&'static str, KindCounts)]) -> Vec<MetricFamily> {
    let mut queued = Family::counter("jobs_queued_total", "Background jobs that this replica has queued");
    let mut running = Family::gauge("jobs_running", "Background jobs that this replica works on");
    let mut attempts =
        Family::counter("job_attempts_total", "Attempts at background jobs that have ended, by outcome");
    let mut busy = Family::counter("job_busy_seconds_total", "Time spent on background jobs");
    for (kind, counts) in kinds {
        let kind = ("kind", *kind);
        queued.add(&[kind], counts.queued as f64);
        running.add(&[kind], counts.running as f64);
        busy.add(&[kind], counts.busy.as_secs_f64());
        for (outcome, name) in JobOutcome::ALL {
            attempts.add(&[kind, ("outcome", name)], counts.outcomes[outcome as usize] as f64);
        }
    }
    [queued, running, attempts, busy].map(Family::done).into()
}

/// What was used since the start by all tenants together; `/api/v1/usage` tells them apart.
fn usage(usage: &LedgerTotals) -> Vec<MetricFamily> {
    let mut requests =
        Family::counter("usage_requests_total", "Requests that were charged, by operation and backend");
    let mut tokens = Family::counter(
        "usage_tokens_total",
        "Tokens that were charged, by operation, backend and kind: embed, prompt or completion",
    );
    let mut estimated =
        Family::counter("usage_estimated_tokens_total", "Of the tokens, those that no backend counted");
    let mut cost = Family::counter("usage_cost_total", "Cost in the unit of the prices");
    let mut refused = Family::counter("quota_refusals_total", "Requests refused because a quota was used up");
    for ((operation, backend), counts) in &usage.counts {
        let labels = [("backend", backend.as_str()), ("operation", *operation)];
        requests.add(&labels, counts.requests as f64);
        estimated.add(&labels, counts.estimated_tokens as f64);
        cost.add(&labels, counts.cost());
        let kinds = [
            ("embed", counts.embed_tokens),
            ("prompt", counts.prompt_tokens),
            ("completion", counts.completion_tokens),
        ];
        for (kind, count) in kinds {
            tokens.add(&[labels[0], ("kind", kind), labels[1]], count as f64);
        }
    }
    refused.add(&[], usage.refused as f64);
    [requests, tokens, estimated, cost, refused].map(Family::done).into()
}
