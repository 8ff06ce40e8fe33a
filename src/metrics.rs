//! Every metric, declared once. The doc comment of a field is its help text.

use std::time::Duration;

use prometheus::{
    CounterVec, Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
    core::Collector,
    proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::{
    models::{
        cache::CacheCounts,
        router::{BackendStatus, BreakerState, Ending, FIRST_BYTE_BOUNDS_MS, FirstByteTimes},
    },
    rag::usage::LedgerTotals,
};

/// The metrics of one running instance.
pub struct Metrics {
    registry: Registry,
    /// Requests by endpoint and status.
    pub requests: CounterVec,
    /// Time from a request's arrival to its response's first byte, by endpoint.
    pub request_seconds: HistogramVec,
    /// Calls of MCP tools by tool and outcome: `ok`, or the code of the problem.
    pub mcp_tool_calls: IntCounterVec,
    /// Database connections in use.
    pub db_connections: IntGauge,
    /// 1 for a loaded model, 0 for one of the catalog that is not.
    pub model_loaded: IntGaugeVec,
}

/// From a cached vector (1 ms) to the slowest answer (the deadline of 30 s).
const BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

impl Metrics {
    /// Registers all of them; fails only when two share a name.
    pub fn new() -> prometheus::Result<Self> {
        let metrics = Self {
            registry: Registry::new(),
            requests: CounterVec::new(
                Opts::new("embedding_requests_total", "Requests by endpoint and status"),
                &["endpoint", "status"],
            )?,
            request_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "embedding_request_duration_seconds",
                    "Time from a request's arrival to its response's first byte, by endpoint",
                )
                .buckets(BUCKETS.to_vec()),
                &["endpoint"],
            )?,
            mcp_tool_calls: IntCounterVec::new(
                Opts::new("mcp_tool_calls_total", "Calls of MCP tools by tool and outcome"),
                &["tool", "outcome"],
            )?,
            db_connections: IntGauge::new("db_active_connections", "Database connections in use")?,
            model_loaded: IntGaugeVec::new(
                Opts::new("model_loaded", "1 for a loaded model, 0 for one of the catalog that is not"),
                &["model"],
            )?,
        };
        metrics.registry.register(Box::new(metrics.requests.clone()))?;
        metrics.registry.register(Box::new(metrics.request_seconds.clone()))?;
        metrics.registry.register(Box::new(metrics.mcp_tool_calls.clone()))?;
        metrics.registry.register(Box::new(metrics.db_connections.clone()))?;
        metrics.registry.register(Box::new(metrics.model_loaded.clone()))?;
        Ok(metrics)
    }

    /// The Prometheus text format; what the parameters hold is counted elsewhere.
    pub fn render(
        &self,
        cache: &CacheCounts,
        backends: &[BackendStatus],
        usage: &LedgerTotals,
    ) -> prometheus::Result<Vec<u8>> {
        let mut families = self.registry.gather();
        families.extend(cache_families(cache)?);
        families.extend(backend_families(backends)?);
        families.extend(usage_families(usage)?);
        // The encoder refuses those of which nothing has been counted yet.
        families.retain(|family| !family.get_metric().is_empty());
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }
}

/// Look-ups of the embedding cache by tier, `memory` and `redis`.
fn cache_families(cache: &CacheCounts) -> prometheus::Result<Vec<MetricFamily>> {
    let (memory, redis) = (cache.memory, cache.redis);
    let counters = [
        ("embedding_cache_hits_total", "Vectors found, by tier", memory.hits, redis.hits),
        (
            "embedding_cache_misses_total",
            "Vectors looked for and not found, by tier",
            memory.misses,
            redis.misses,
        ),
        (
            "embedding_cache_errors_total",
            "Calls that failed and values that were no vector, by tier",
            memory.errors,
            redis.errors,
        ),
    ];
    let mut families = Vec::new();
    for (name, help, memory, redis) in counters {
        let counter = IntCounterVec::new(Opts::new(name, help), &["tier"])?;
        counter.with_label_values(&["memory"]).inc_by(memory);
        counter.with_label_values(&["redis"]).inc_by(redis);
        families.extend(counter.collect());
    }
    Ok(families)
}

/// What the answer backends did and how they are.
fn backend_families(backends: &[BackendStatus]) -> prometheus::Result<Vec<MetricFamily>> {
    let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
    let requests = counter(
        "answer_requests_total",
        "Requests to an answer backend by outcome",
        &["backend", "outcome"],
    )?;
    let broken =
        counter("answer_broken_off_total", "Answers of a backend that began and broke off", &["backend"])?;
    let fallbacks =
        counter("answer_fallbacks_total", "Requests that went on from a backend to the next", &["backend"])?;
    let tokens = counter("answer_tokens_total", "Tokens that a backend counted", &["backend", "direction"])?;
    let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["backend"]);
    let breaker = gauge("answer_breaker_state", "0: closed, 1: half open, 2: open")?;
    let load = gauge("answer_requests_under_way", "Requests under way and waiting")?;
    let mut families = Vec::new();
    for backend in backends {
        let (name, counts) = (backend.name.as_str(), &backend.counts);
        for (ending, outcome) in Ending::ALL {
            requests.with_label_values(&[name, outcome]).inc_by(counts.endings[ending as usize]);
        }
        broken.with_label_values(&[name]).inc_by(counts.broken_off);
        fallbacks.with_label_values(&[name]).inc_by(counts.given_up);
        tokens.with_label_values(&[name, "prompt"]).inc_by(counts.prompt_tokens);
        tokens.with_label_values(&[name, "completion"]).inc_by(counts.completion_tokens);
        breaker.with_label_values(&[name]).set(match backend.breaker {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        });
        load.with_label_values(&[name]).set(i64::try_from(backend.load).unwrap_or(i64::MAX));
    }
    for vector in [requests, broken, fallbacks, tokens] {
        families.extend(vector.collect());
    }
    families.extend(breaker.collect());
    families.extend(load.collect());
    families.push(first_byte_family(backends));
    Ok(families)
}

/// A histogram from the times that each backend has counted.
fn first_byte_family(backends: &[BackendStatus]) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name("answer_first_byte_seconds".to_owned());
    family.set_help("Time from a request to the first byte of a backend's answer".to_owned());
    family.set_field_type(MetricType::HISTOGRAM);
    for backend in backends {
        let mut label = LabelPair::default();
        label.set_name("backend".to_owned());
        label.set_value(backend.name.clone());
        let mut metric = Metric::default();
        metric.set_label(vec![label]);
        metric.set_histogram(histogram(&backend.counts.first_byte));
        family.mut_metric().push(metric);
    }
    family
}

fn histogram(times: &FirstByteTimes) -> Histogram {
    let mut histogram = Histogram::default();
    let mut count = 0;
    let mut buckets = Vec::new();
    for (bound_ms, within) in FIRST_BYTE_BOUNDS_MS.iter().zip(times.buckets) {
        count += within;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(Duration::from_millis(*bound_ms).as_secs_f64());
        bucket.set_cumulative_count(count);
        buckets.push(bucket);
    }
    histogram.set_bucket(buckets);
    histogram.set_sample_count(times.buckets.iter().sum());
    histogram.set_sample_sum(times.sum_s);
    histogram
}

/// What was used since the start, by tenant, operation and backend.
fn usage_families(usage: &LedgerTotals) -> prometheus::Result<Vec<MetricFamily>> {
    let counter = |name: &str, help: &str, labels: &[&str]| CounterVec::new(Opts::new(name, help), labels);
    let by_use = ["tenant", "operation", "backend"];
    let requests =
        counter("usage_requests_total", "Requests served, by tenant, operation and backend", &by_use)?;
    let tokens = counter(
        "usage_tokens_total",
        "Tokens by tenant, operation, backend and kind: embed, prompt or completion",
        &["tenant", "operation", "backend", "kind"],
    )?;
    let estimated =
        counter("usage_estimated_tokens_total", "Of the tokens, those that no backend counted", &by_use)?;
    let cost = counter(
        "usage_cost_total",
        "Cost in the unit of the prices, by tenant, operation and backend",
        &by_use,
    )?;
    for ((tenant, operation, backend), counts) in &usage.counts {
        let tenant = tenant.0.to_string();
        let labels = [tenant.as_str(), operation, backend.as_str()];
        requests.with_label_values(&labels).inc_by(counts.requests as f64);
        estimated.with_label_values(&labels).inc_by(counts.estimated_tokens as f64);
        cost.with_label_values(&labels).inc_by(counts.cost());
        let kinds = [
            ("embed", counts.embed_tokens),
            ("prompt", counts.prompt_tokens),
            ("completion", counts.completion_tokens),
        ];
        for (kind, count) in kinds {
            let labels = [tenant.as_str(), operation, backend.as_str(), kind];
            tokens.with_label_values(&labels).inc_by(count as f64);
        }
    }
    let refused = counter("quota_refusals_total", "Requests refused because a quota was used up", &[])?;
    refused.with_label_values::<&str>(&[]).inc_by(usage.refused as f64);
    Ok([requests, tokens, estimated, cost, refused].iter().flat_map(Collector::collect).collect())
}
