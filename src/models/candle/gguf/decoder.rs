//! A decoder-only transformer on the kernels of this product.

use std::io::{self, Read, Seek};

use candle_core::quantized::gguf_file::Content;
use ragway_kernels::{
    CausalAttention, Crew, Ending, KeyValues, QuantizedMatrix, QuantizedRows, Source, quantize,
};

use super::{
    sequences::Sequence,
    weights::{Layer, Shape, Weights},
};

/// Most tokens of one pass: they bound its memory, and its weights are read once for all of them.
const CHUNK: usize = 256;

/// A language model of the architectures `llama` and `qwen2`.
pub struct Decoder {
    shape: Shape,
    weights: Weights,
    attention: CausalAttention,
    crew: Crew,
    scratch: Scratch,
    computed: usize,
}

/// What a pass works in.
#[derive(Default)]
struct Scratch {
    states: Vec<f32>,
    rounded: QuantizedRows,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    gates: Vec<f32>,
    logits: Vec<f32>,
}

/// The caller did not want it any more.
#[derive(Debug, PartialEq, Eq)]
pub struct Abandoned;

impl Decoder {
    /// Loads the tensors of `content` from `source`, for sequences of up to `context` tokens.
    ///
    /// Fails with a sentence about what the file lacks or what is not supported.
    pub fn from_gguf(
        content: &Content,
        source: &mut (impl Read + Seek),
        context: usize,
        threads: usize,
    ) -> Result<Self, String> {
        let shape = Shape::from_gguf(content).map_err(|error| error.to_string())?;
        if context > shape.positions {
            let positions = shape.positions;
            return Err(format!("context_tokens = {context} is more than its {positions} positions"));
        }
        let weights = Weights::from_gguf(content, source, &shape).map_err(|error| error.to_string())?;
        let Shape { heads, key_heads, head_width, rotation_base, .. } = shape;
        let attention = CausalAttention::new(heads, key_heads, head_width, context, rotation_base);
        let crew = Crew::new(threads).map_err(|error: io::Error| format!("no thread: {error}"))?;
        Ok(Self { shape, weights, attention, crew, scratch: Scratch::default(), computed: 0 })
    }

    /// Keys and values of one sequence of up to `context` tokens.
    pub fn memory(&self, context: usize) -> KeyValues {
        self.attention.memory(self.shape.layers, context)
    }

    /// Tokens that were computed since it was loaded.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// Reads `tokens`, at least one, as the next ones of `sequence` and gives the logits
    /// `[vocabulary]` of the token that follows.
    ///
    /// The result does not depend on how a text is divided among calls. `goes_on` is asked between
    /// layers; the tokens of an abandoned pass are not part of the sequence.
    pub fn read(
        &mut self,
        tokens: &[u32],
        sequence: &mut Sequence,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<&mut [f32], Abandoned> {
        for chunk in tokens.chunks(CHUNK) {
            self.pass(chunk, sequence, goes_on)?;
            sequence.tokens.extend_from_slice(chunk);
            self.computed += chunk.len();
        }
        let Scratch { states, rounded, logits, .. } = &mut self.scratch;
        let width = self.shape.width;
        let last = &states[states.len() - width..];
        let (gain, epsilon) = (&self.weights.norm, self.shape.epsilon);
        quantize(&mut self.crew, Source::RmsNorm { x: last, gain, epsilon }, width, rounded);
        let matrix = self.weights.logits.as_ref().unwrap_or(&self.weights.embeddings);
        multiply(&mut self.crew, matrix, rounded, logits);
        Ok(logits)
    }

    /// Brings tokens through all layers; their states are left in the scratch memory.
    fn pass(
        &mut self,
        tokens: &[u32],
        sequence: &mut Sequence,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<(), Abandoned> {
        let width = self.shape.width;
        self.scratch.states.resize(tokens.len() * width, 0.0);
        for (token, state) in tokens.iter().zip(self.scratch.states.chunks_exact_mut(width)) {
            self.weights.embeddings.read_row(*token as usize, state);
        }
        let position = sequence.tokens.len();
        for (index, layer) in self.weights.layers.iter().enumerate() {
            if !goes_on() {
                return Err(Abandoned);
            }
            let scratch = &mut self.scratch;
            let place = (index, position);
            attend(&mut self.crew, layer, &self.shape, &self.attention, &mut sequence.memory, place, scratch);
            feed_forward(&mut self.crew, layer, self.shape.epsilon, width, scratch);
        }
        Ok(())
    }
}

/// Adds to each state what it takes from the tokens before it.
fn attend(
    crew: &mut Crew,
    layer: &Layer,
    shape: &Shape,
    attention: &CausalAttention,
    memory: &mut KeyValues,
    (index, position): (usize, usize),
    scratch: &mut Scratch,
) {
    let Scratch { states, rounded, qkv, attended, .. } = scratch;
    let source = Source::RmsNorm { x: states, gain: &layer.attention_norm, epsilon: shape.epsilon };
    quantize(crew, source, shape.width, rounded);
    multiply(crew, &layer.qkv, rounded, qkv);
    let wide = shape.heads * shape.head_width;
    attended.resize(states.len() / shape.width * wide, 0.0);
    attention.run(crew, qkv, memory, index, position, attended);
    quantize(crew, Source::Plain(attended), wide, rounded);
    layer.output.multiply(crew, rounded, Ending::Add, states);
}

/// Adds to each state what it becomes on its own.
fn feed_forward(crew: &mut Crew, layer: &Layer, epsilon: f32, width: usize, scratch: &mut Scratch) {
    let Scratch { states, rounded, gates, .. } = scratch;
    let source = Source::RmsNorm { x: states, gain: &layer.feed_forward_norm, epsilon };
    quantize(crew, source, width, rounded);
    multiply(crew, &layer.gate_up, rounded, gates);
    quantize(crew, Source::SwiGlu(gates), layer.down.inputs(), rounded);
    layer.down.multiply(crew, rounded, Ending::Add, states);
}

/// `x·Wᵀ + b`, into `out`, which becomes as long.
fn multiply(crew: &mut Crew, matrix: &QuantizedMatrix, x: &QuantizedRows, out: &mut Vec<f32>) {
    out.resize(x.rows() * matrix.outputs(), 0.0);
    matrix.multiply(crew, x, Ending::Store, out);
}
