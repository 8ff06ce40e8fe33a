//! The whole of ragway against a real PostgreSQL and real weights; only remote
//! LLMs are replaced, by a mock server.
//!
//! The first run fetches what is missing into `target/test-cache` (or
//! `RAGWAY_TEST_CACHE`).
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

#[path = "golden/checkpoint.rs"]
mod checkpoint;
mod harness;
mod llm;
mod standby;

mod access;
mod answer_cache;
mod architecture;
mod ask;
mod bad_input;
mod cache;
mod cancel;
mod chat;
mod cli;
mod collections;
mod compat;
mod database;
mod documents;
mod embed;
mod encryption;
mod errors;
mod evaluate;
mod evaluation_gate;
mod feedback;
mod formats;
mod freshness;
mod http;
mod hybrid;
mod images;
mod indexes;
mod injection;
mod jobs;
mod limits;
mod local_model;
mod mcp;
mod memory;
mod metering;
mod multilingual;
mod openapi;
mod reembed;
mod reembed_gate;
mod replica;
mod rerank;
mod reranking;
mod routes;
mod search;
mod shards;
mod shutdown;
mod survive;
mod tasks;
mod telemetry;
mod tenants;
mod tls;
mod usage;
