#![doc = include_str!("ARCHITECTURE.md")]

pub mod config;
pub mod telemetry;
pub mod metrics;
pub mod assets;
pub mod models;
pub mod store;
pub mod rag;
pub mod http;
pub mod app;
pub mod demo;
