//! The arithmetic of a transformer encoder on a CPU, in 32-bit floating point; products also in bfloat16
//! and 8-bit integers ([`Precision`]).
//!
//! Sequences of any length lie one after the other, without padding: a matrix
//! of states is `[tokens, width]`, row-major. Weights are packed once
//! ([`PackedMatrix`]). Each kernel is written once over `Vector` and compiled
//! for AVX-512, AVX2 and portable code; which of them runs is found out at run
//! time ([`Isa::best`]).
//!
//! A crate of its own for two reasons: it is the one place with `unsafe` code,
//! and it is compiled with optimisation in every profile.

mod activation;
mod attention;
mod buffer;
mod matmul;
mod rows;
mod team;
#[cfg(test)]
mod tests;
mod vector;

pub use activation::gelu;
pub use attention::{Attention, AttentionScratch};
pub use buffer::Buffer;
pub use matmul::{Epilogue, Inputs, PackedMatrix, Precision};
pub use rows::{add_rows, l2_normalize, layer_norm, mean};
pub use team::Team;
pub use vector::Isa;
