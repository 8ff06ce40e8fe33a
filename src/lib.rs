#![doc = include_str!("ARCHITECTURE.md")]

pub mod access;
pub mod app;
pub mod assets;
pub mod config;
pub mod demo;
pub mod http;
pub mod metrics;
pub mod models;
pub mod rag;
mod redis_link;
pub mod store;
pub mod telemetry;
mod tls;
