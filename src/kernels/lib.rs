//! The arithmetic of a transformer on a CPU. An encoder's is in 32-bit floating point, its products also in
//! bfloat16 and 8-bit integers ([`Precision`]); a decoder's products are of quantised weights.
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
mod causal;
mod crew;
mod decoder;
#[cfg(test)]
mod decoder_tests;
mod half;
mod integer;
mod matmul;
mod quantized;
mod rows;
mod sampling;
mod team;
#[cfg(test)]
mod tests;
mod vector;

pub use activation::gelu;
pub use attention::{Attention, AttentionScratch};
pub use buffer::Buffer;
pub use causal::{CausalAttention, KeyValues};
pub use crew::Crew;
pub use decoder::{Source, quantize};
pub use integer::IntegerIsa;
pub use matmul::{Epilogue, Inputs, PackedMatrix, Precision};
pub use quantized::{BlockFormat, Ending, QuantizedMatrix, QuantizedRows};
pub use rows::{add_rows, l2_normalize, layer_norm, mean};
pub use sampling::{largest, softmax};
pub use team::Team;
pub use vector::Isa;
