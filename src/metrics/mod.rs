//! Every metric: those that are counted here, and those (`gathered`) that are read where they are counted.
//!
//! Labels take few values: names of endpoints, of models and of what the program itself knows. What a client
//! can choose, or what there is one of for each tenant, key, document or request, is no label; README lists
//! the metrics, and a test compares.

mod families;
mod gathered;

use prometheus::{
    CounterVec, Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use crate::rag::Rag;

/// The metrics of one running instance.
pub struct Metrics {
    registry: Registry,
    /// Requests by endpoint and status.
    pub requests: CounterVec,
    /// Time from a request's arrival to its response's first byte, by endpoint.
    pub request_seconds: HistogramVec,
    /// Requests whose response has not begun.
    pub requests_under_way: IntGauge,
    /// Calls of MCP tools by tool and outcome: `ok`, or the code of the problem.
    pub mcp_tool_calls: IntCounterVec,
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
            requests_under_way: IntGauge::new(
                "http_requests_under_way",
                "Requests whose response has not begun",
            )?,
            mcp_tool_calls: IntCounterVec::new(
                Opts::new("mcp_tool_calls_total", "Calls of MCP tools by tool and outcome"),
                &["tool", "outcome"],
            )?,
        };
        metrics.registry.register(Box::new(metrics.requests.clone()))?;
        metrics.registry.register(Box::new(metrics.request_seconds.clone()))?;
        metrics.registry.register(Box::new(metrics.requests_under_way.clone()))?;
        metrics.registry.register(Box::new(metrics.mcp_tool_calls.clone()))?;
        Ok(metrics)
    }

    /// All of them in the Prometheus text format. Asks neither the database nor another server.
    pub fn render(&self, rag: &Rag) -> prometheus::Result<Vec<u8>> {
        let mut families = self.registry.gather();
        families.extend(gathered::all(rag));
        // The encoder refuses those of which nothing has been counted yet.
        families.retain(|family| !family.get_metric().is_empty());
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }
}
