#![doc = include_str!("ARCHITECTURE.md")]

pub mod config;
pub mod demo;
pub mod models;
pub mod rag;
pub mod store;
