#![doc = include_str!("ARCHITECTURE.md")]

pub mod assets;
pub mod config;
pub mod models;
pub mod rag;
pub mod store;
