//! Models that run in this process, on candle.
//!
//! Absent here: vendors, network, prompts. Every model has an OS thread of its
//! own; async code only sends to it and awaits.
//!
//! candle computes on process-wide pools sized by *physical* cores, which
//! ignores CPU quotas: the application sizes them with `RAYON_NUM_THREADS` and
//! `CANDLE_NUM_THREADS` before the first model is loaded.

pub mod bert;
mod chat;
mod decoder;
pub mod gguf;
mod repack;
