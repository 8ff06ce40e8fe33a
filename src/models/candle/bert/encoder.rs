//! The forward pass over packed, unpadded texts.

use std::{
    iter,
    sync::{Mutex, PoisonError},
};

use ragway_kernels::{
    Attention, AttentionScratch, Buffer, Epilogue, Inputs, Isa, PackedMatrix, Team, add_rows, l2_normalize,
    layer_norm, mean,
};
use rayon::prelude::*;

use super::weights::{BertConfig, BertWeights, EmbeddingTable, LayerWeights, LinearWeights, NormWeights};
use crate::config::{Pooling, Precision};

/// Tokens that one thread takes through all layers at once: enough that the weights are read from
/// memory slower than they are used, few enough that the states stay in the second-level cache.
const GROUP_TOKENS: usize = 128;

/// A BERT encoder with its weights packed for the kernels.
pub struct Encoder {
    word: EmbeddingTable,
    /// `[types, positions, hidden]`: the sum of what a token's type and its position add.
    place: Vec<f32>,
    positions: usize,
    norm: NormWeights,
    layers: Vec<Layer>,
    attention: Attention,
    epsilon: f32,
    hidden: usize,
    intermediate: usize,
    isa: Isa,
    workspaces: Mutex<Vec<Workspace>>,
}

/// Token ids as the encoder reads them: of one text, or of a pair whose second text has token type 1.
#[derive(Debug, Clone, Copy)]
struct Sequence<'a> {
    ids: &'a [u32],
    /// Tokens of type 0.
    first: usize,
}

impl<'a> Sequence<'a> {
    fn of_text(ids: &'a [u32]) -> Self {
        Self { ids, first: ids.len() }
    }

    fn len(&self) -> usize {
        self.ids.len()
    }
}

/// Why texts could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("a text has {0} tokens, the model reads 1 to {1}")]
    Length(usize, usize),
    #[error("token {0} is not in the vocabulary of {1}")]
    Vocabulary(u32, usize),
    #[error("a pair of texts, but the model knows one type of token")]
    OneType,
    #[error("the vector of a text is not finite")]
    NotFinite,
    #[error(transparent)]
    Stock(#[from] candle_core::Error),
}

struct Layer {
    qkv: PackedMatrix,
    attention_output: PackedMatrix,
    attention_norm: NormWeights,
    intermediate: PackedMatrix,
    output: PackedMatrix,
    output_norm: NormWeights,
}

/// Memory of one group of texts on their way through the layers.
#[derive(Default)]
struct Workspace {
    /// `[tokens, hidden]`
    states: Buffer,
    /// `[tokens, 3 · hidden]`
    qkv: Buffer,
    /// `[tokens, hidden]`
    context: Buffer,
    /// `[tokens, intermediate]`
    inner: Buffer,
    attention: Vec<AttentionScratch>,
    inputs: Inputs,
}

impl Encoder {
    /// Packs the weights of the layers' products in `precision`; all else stays in 32 bits. Fails
    /// with what does not fit, in words.
    pub fn new(config: &BertConfig, weights: BertWeights, precision: Precision) -> Result<Self, String> {
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        if heads == 0 || hidden == 0 || !hidden.is_multiple_of(heads) || !(hidden / heads).is_multiple_of(32)
        {
            return Err(format!("{heads} heads of {hidden} numbers: each must have a multiple of 32"));
        }
        let attention = Attention { heads, head_width: hidden / heads };
        let precision = kernel_precision(precision);
        if !config.intermediate_size.is_multiple_of(precision.numbers_a_word()) {
            return Err(format!(
                "a feed-forward layer of {} numbers: in this precision a multiple of {}",
                config.intermediate_size,
                precision.numbers_a_word()
            ));
        }
        let BertWeights { word, position, token_type, norm, layers } = weights;
        let positions = position.len() / hidden;
        expect("token_type_embeddings", token_type.len() % hidden, 0)?;
        expect("position_embeddings", position.len(), positions * hidden)?;
        expect("word_embeddings", word.rows(hidden), config.vocab_size)?;
        let mut place = position.repeat(token_type.len() / hidden);
        for (rows, added) in place.chunks_exact_mut(positions * hidden).zip(token_type.chunks_exact(hidden)) {
            rows.chunks_exact_mut(hidden).for_each(|row| add_rows(row, added));
        }
        Ok(Self {
            word,
            place,
            positions,
            norm: checked(norm, hidden)?,
            layers: layers
                .into_iter()
                .map(|layer| Layer::new(layer, &attention, config.intermediate_size, precision))
                .collect::<Result<_, _>>()?,
            attention,
            epsilon: config.layer_norm_eps,
            hidden,
            intermediate: config.intermediate_size,
            isa: Isa::best(),
            workspaces: Mutex::default(),
        })
    }

    /// Numbers of a vector.
    pub fn dimension(&self) -> usize {
        self.hidden
    }

    /// Longest text, in tokens.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Token ids of `n` texts → `n` vectors, each of length 1 where `normalize`.
    ///
    /// Runs on rayon's pool. What memory it takes is bounded by the threads and the longest text,
    /// not by `n`. A vector does not depend on the texts beside it.
    pub fn encode(
        &self,
        texts: &[&[u32]],
        pooling: Pooling,
        normalize: bool,
    ) -> Result<Vec<Vec<f32>>, EncodeError> {
        let texts: Vec<Sequence<'_>> = texts.iter().map(|ids| Sequence::of_text(ids)).collect();
        let mut vectors = self.run(&texts, pooling)?;
        if normalize {
            vectors.iter_mut().for_each(|vector| l2_normalize(vector));
        }
        Ok(vectors)
    }

    /// As [`Encoder::encode`], of pairs: token ids, and how many of them are of the first text with
    /// the special ones around it → the state of each pair's first token.
    pub fn encode_pairs(&self, pairs: &[(&[u32], usize)]) -> Result<Vec<Vec<f32>>, EncodeError> {
        let pairs: Vec<_> = pairs.iter().map(|&(ids, first)| Sequence { ids, first }).collect();
        self.run(&pairs, Pooling::Cls)
    }

    fn run(&self, texts: &[Sequence<'_>], pooling: Pooling) -> Result<Vec<Vec<f32>>, EncodeError> {
        self.check(texts)?;
        let threads = rayon::current_num_threads();
        let tokens: usize = texts.iter().map(Sequence::len).sum();
        let vectors = if tokens <= threads * GROUP_TOKENS {
            // Too little for a group a thread: the threads share each product.
            let team = Team { isa: self.isa, threads };
            rayon::scope(|_| self.forward(texts, team, pooling))
        } else {
            // Long texts first: so all threads end at about the same time.
            let mut order: Vec<usize> = (0..texts.len()).collect();
            order.sort_by_key(|&index| std::cmp::Reverse(texts[index].len()));
            let sorted: Vec<Sequence<'_>> = order.iter().map(|&index| texts[index]).collect();
            let groups: Vec<&[Sequence<'_>]> = groups(&sorted).collect();
            let team = Team::alone(self.isa);
            let encode = |group: &[Sequence<'_>]| self.forward(group, team, pooling);
            let encoded: Vec<_> = groups.into_par_iter().with_max_len(1).map(encode).collect();
            let mut vectors = vec![Vec::new(); texts.len()];
            for (index, vector) in order.into_iter().zip(encoded.into_iter().flatten()) {
                vectors[index] = vector;
            }
            vectors
        };
        if vectors.iter().flatten().all(|number| number.is_finite()) {
            Ok(vectors)
        } else {
            Err(EncodeError::NotFinite)
        }
    }

    fn check(&self, texts: &[Sequence<'_>]) -> Result<(), EncodeError> {
        let (positions, vocabulary) = (self.positions(), self.word.rows(self.hidden));
        let one_type = self.place.len() == positions * self.hidden;
        for text in texts {
            if one_type && text.first < text.len() {
                return Err(EncodeError::OneType);
            }
            if text.ids.is_empty() || text.len() > positions {
                return Err(EncodeError::Length(text.len(), positions));
            }
            if let Some(&id) = text.ids.iter().find(|&&id| id as usize >= vocabulary) {
                return Err(EncodeError::Vocabulary(id, vocabulary));
            }
        }
        Ok(())
    }

    /// Takes a group of texts through all layers.
    fn forward(&self, texts: &[Sequence<'_>], team: Team, pooling: Pooling) -> Vec<Vec<f32>> {
        let lengths: Vec<usize> = texts.iter().map(Sequence::len).collect();
        let mut workspace =
            self.workspaces.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        workspace.resize(lengths.iter().sum(), self);
        let Workspace { states, qkv, context, inner, attention, inputs } = &mut workspace;
        let (states, qkv) = (states.as_mut_slice(), qkv.as_mut_slice());
        let (context, inner) = (context.as_mut_slice(), inner.as_mut_slice());
        self.look_up(texts, states);
        for layer in &self.layers {
            layer.qkv.multiply(team, states, Epilogue::Store, qkv, inputs);
            self.attention.run(team, qkv, &lengths, context, attention);
            layer.attention_output.multiply(team, context, Epilogue::Add, states, inputs);
            self.normalise(&layer.attention_norm, states);
            layer.intermediate.multiply(team, states, Epilogue::Gelu, inner, inputs);
            layer.output.multiply(team, inner, Epilogue::Add, states, inputs);
            self.normalise(&layer.output_norm, states);
        }
        let vectors = self.pool(states, &lengths, pooling);
        self.workspaces.lock().unwrap_or_else(PoisonError::into_inner).push(workspace);
        vectors
    }

    /// Sum of word, position and type of each token, normalised.
    fn look_up(&self, texts: &[Sequence<'_>], states: &mut [f32]) {
        let tokens = texts.iter().flat_map(|text| text.ids.iter().zip(self.places(text)));
        for (state, (&id, place)) in states.chunks_exact_mut(self.hidden).zip(tokens) {
            self.word.read(id as usize, state);
            add_rows(state, place);
        }
        self.normalise(&self.norm, states);
    }

    /// What type and position add to each token.
    fn places(&self, text: &Sequence<'_>) -> impl Iterator<Item = &[f32]> {
        let of_type_1 = self.positions + text.first..self.positions + text.len();
        let row = |index: usize| &self.place[index * self.hidden..][..self.hidden];
        (0..text.first).chain(of_type_1).map(row)
    }

    fn normalise(&self, norm: &NormWeights, states: &mut [f32]) {
        layer_norm(self.isa, states, &norm.gain, &norm.bias, self.epsilon);
    }

    fn pool(&self, states: &[f32], lengths: &[usize], pooling: Pooling) -> Vec<Vec<f32>> {
        let mut rest = states;
        let pool = |&length: &usize| {
            let (text, after) = rest.split_at(length * self.hidden);
            rest = after;
            match pooling {
                Pooling::Mean => mean(text, self.hidden),
                Pooling::Cls => text[..self.hidden].to_vec(),
            }
        };
        lengths.iter().map(pool).collect()
    }
}

/// Runs of texts with [`GROUP_TOKENS`] tokens at most, or of one longer text.
fn groups<'a, 'b>(texts: &'a [Sequence<'b>]) -> impl Iterator<Item = &'a [Sequence<'b>]> {
    let mut rest = texts;
    iter::from_fn(move || {
        let mut tokens = 0;
        let fits = |text: &&Sequence<'_>| {
            tokens += text.len();
            tokens <= GROUP_TOKENS
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (group, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(group)
    })
}

impl Layer {
    fn new(
        weights: LayerWeights,
        attention: &Attention,
        intermediate: usize,
        precision: ragway_kernels::Precision,
    ) -> Result<Self, String> {
        let hidden = attention.heads * attention.head_width;
        let square = |weights| checked_linear(weights, hidden, hidden);
        let mut query = square(weights.query)?;
        let scale = attention.query_scale();
        query.weight.iter_mut().chain(&mut query.bias).for_each(|number| *number *= scale);
        let (key, value) = (square(weights.key)?, square(weights.value)?);
        let qkv = LinearWeights {
            weight: [query.weight, key.weight, value.weight].concat(),
            bias: [query.bias, key.bias, value.bias].concat(),
        };
        let pack = |linear: &LinearWeights, inputs| {
            PackedMatrix::new(precision, &linear.weight, &linear.bias, inputs)
        };
        Ok(Self {
            qkv: pack(&qkv, hidden),
            attention_output: pack(&square(weights.attention_output)?, hidden),
            attention_norm: checked(weights.attention_norm, hidden)?,
            intermediate: pack(&checked_linear(weights.intermediate, intermediate, hidden)?, hidden),
            output: pack(&checked_linear(weights.output, hidden, intermediate)?, intermediate),
            output_norm: checked(weights.output_norm, hidden)?,
        })
    }
}

fn kernel_precision(precision: Precision) -> ragway_kernels::Precision {
    match precision {
        Precision::F32 => ragway_kernels::Precision::F32,
        Precision::Bf16 => ragway_kernels::Precision::Bf16,
        Precision::Int8 => ragway_kernels::Precision::Int8,
    }
}

fn checked_linear(weights: LinearWeights, outputs: usize, inputs: usize) -> Result<LinearWeights, String> {
    expect("a linear layer's weights", weights.weight.len(), outputs * inputs)?;
    expect("a linear layer's bias", weights.bias.len(), outputs)?;
    Ok(weights)
}

fn checked(norm: NormWeights, hidden: usize) -> Result<NormWeights, String> {
    expect("a layer norm's gain", norm.gain.len(), hidden)?;
    expect("a layer norm's bias", norm.bias.len(), hidden)?;
    Ok(norm)
}

fn expect(what: &str, is: usize, should_be: usize) -> Result<(), String> {
    if is == should_be { Ok(()) } else { Err(format!("{what}: {is} numbers, not {should_be}")) }
}

impl Workspace {
    fn resize(&mut self, tokens: usize, encoder: &Encoder) {
        self.states.resize(tokens * encoder.hidden);
        self.qkv.resize(tokens * 3 * encoder.hidden);
        self.context.resize(tokens * encoder.hidden);
        self.inner.resize(tokens * encoder.intermediate);
    }
}
