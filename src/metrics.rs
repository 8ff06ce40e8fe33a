//! Every metric, declared once. The doc comment of a field is its help text.

use prometheus::{
    CounterVec, Encoder, HistogramOpts, HistogramVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

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

    /// The Prometheus text format.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
