//! Every metric, declared once. The doc comment of a field is its help text.

use prometheus::{
    CounterVec, Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector, proto::MetricFamily,
};

use crate::{models::cache::CacheCounts, rag::usage::LedgerTotals};

/// The metrics of one running instance.
pub struct Metrics {
    registry: Registry,
    /// Requests by endpoint and status.
    pub requests: CounterVec,
    /// Time from a request's arrival to its response's first byte, by endpoint.
    pub request_seconds: HistogramVec,
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
            db_connections: IntGauge::new("db_active_connections", "Database connections in use")?,
            model_loaded: IntGaugeVec::new(
                Opts::new("model_loaded", "1 for a loaded model, 0 for one of the catalog that is not"),
                &["model"],
            )?,
        };
        metrics.registry.register(Box::new(metrics.requests.clone()))?;
        metrics.registry.register(Box::new(metrics.request_seconds.clone()))?;
        metrics.registry.register(Box::new(metrics.db_connections.clone()))?;
        metrics.registry.register(Box::new(metrics.model_loaded.clone()))?;
        Ok(metrics)
    }

    /// The Prometheus text format; `cache` and `usage` are counted elsewhere.
    pub fn render(&self, cache: &CacheCounts, usage: &LedgerTotals) -> prometheus::Result<Vec<u8>> {
        let mut families = self.registry.gather();
        families.extend(cache_families(cache)?);
        families.extend(usage_families(usage)?);
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

/// What was used since the start, by tenant and backend.
fn usage_families(usage: &LedgerTotals) -> prometheus::Result<Vec<MetricFamily>> {
    let counter = |name: &str, help: &str, labels: &[&str]| CounterVec::new(Opts::new(name, help), labels);
    let requests =
        counter("usage_requests_total", "Requests served, by tenant and backend", &["tenant", "backend"])?;
    let tokens = counter(
        "usage_tokens_total",
        "Tokens by tenant, backend and kind: embed, prompt or completion",
        &["tenant", "backend", "kind"],
    )?;
    let cost = counter(
        "usage_cost_total",
        "Cost in the unit of the prices, by tenant and backend",
        &["tenant", "backend"],
    )?;
    for ((tenant, backend), counts) in &usage.by_backend {
        let tenant = tenant.0.to_string();
        let labels = [tenant.as_str(), backend.as_str()];
        requests.with_label_values(&labels).inc_by(counts.requests as f64);
        cost.with_label_values(&labels).inc_by(counts.cost());
        let kinds = [
            ("embed", counts.embed_tokens),
            ("prompt", counts.prompt_tokens),
            ("completion", counts.completion_tokens),
        ];
        for (kind, count) in kinds {
            tokens.with_label_values(&[tenant.as_str(), backend.as_str(), kind]).inc_by(count as f64);
        }
    }
    let refused = counter("quota_refusals_total", "Requests refused because a quota was used up", &[])?;
    refused.with_label_values::<&str>(&[]).inc_by(usage.refused as f64);
    Ok([requests, tokens, cost, refused].iter().flat_map(Collector::collect).collect())
}
