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
const CHUNK: usize = 128;

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

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use candle_core::{
        Device, Tensor,
        quantized::{
            GgmlDType, QTensor,
            gguf_file::{self, Value},
        },
    };
    use candle_transformers::models::{quantized_llama, quantized_qwen2};

    use super::*;
    use crate::models::candle::gguf::sequences::Sequences;

    const WIDTH: usize = 256;
    const VOCABULARY: usize = 96;

    /// A small model of random weights in several types.
    fn file(architecture: &str) -> Vec<u8> {
        let mut state = 7u64;
        let mut tensor = |outputs: usize, inputs: usize, scale: f32, dtype| {
            let mut random = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
            };
            let numbers: Vec<f32> = (0..outputs * inputs).map(|_| random()).collect();
            let shape: Vec<usize> = if outputs == 1 { vec![inputs] } else { vec![outputs, inputs] };
            QTensor::quantize(&Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap(), dtype).unwrap()
        };
        use GgmlDType::{F32, Q4_0, Q4_1, Q6K, Q8_0};
        let mut tensors = vec![
            ("token_embd.weight".to_owned(), tensor(VOCABULARY, WIDTH, 1.0, Q8_0)),
            ("output_norm.weight".to_owned(), tensor(1, WIDTH, 2.0, F32)),
        ];
        if architecture == "llama" {
            tensors.push(("output.weight".to_owned(), tensor(VOCABULARY, WIDTH, 0.2, Q4_0)));
        }
        for layer in 0..2 {
            for (name, outputs, inputs, scale, dtype) in [
                ("attn_norm.weight", 1, WIDTH, 1.0, F32),
                ("attn_q.weight", WIDTH, WIDTH, 0.3, Q4_1),
                ("attn_q.bias", 1, WIDTH, 1.0, F32),
                ("attn_k.weight", WIDTH / 2, WIDTH, 0.3, Q4_1),
                ("attn_k.bias", 1, WIDTH / 2, 1.0, F32),
                ("attn_v.weight", WIDTH / 2, WIDTH, 0.3, if layer == 0 { Q4_1 } else { Q6K }),
                ("attn_v.bias", 1, WIDTH / 2, 1.0, F32),
                ("attn_output.weight", WIDTH, WIDTH, 0.2, Q8_0),
                ("ffn_norm.weight", 1, WIDTH, 1.0, F32),
                ("ffn_gate.weight", 2 * WIDTH, WIDTH, 0.3, Q4_0),
                ("ffn_up.weight", 2 * WIDTH, WIDTH, 0.3, Q4_0),
                ("ffn_down.weight", WIDTH, 2 * WIDTH, 0.1, Q6K),
            ] {
                tensors.push((format!("blk.{layer}.{name}"), tensor(outputs, inputs, scale, dtype)));
            }
        }
        let numbers = [
            ("block_count", 2),
            ("embedding_length", WIDTH as u32),
            ("feed_forward_length", 2 * WIDTH as u32),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("rope.dimension_count", 64),
            ("context_length", 200),
        ];
        let key = |key: &str| format!("{architecture}.{key}");
        let mut metadata = vec![("general.architecture".to_owned(), Value::String(architecture.to_owned()))];
        metadata.extend(numbers.map(|(name, number)| (key(name), Value::U32(number))));
        metadata.push((key("attention.layer_norm_rms_epsilon"), Value::F32(1e-5)));
        metadata.push((key("rope.freq_base"), Value::F32(1000.0)));
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut file = Cursor::new(Vec::new());
        gguf_file::write(&mut file, &metadata, &tensors).unwrap();
        file.into_inner()
    }

    fn load(architecture: &str, threads: usize) -> Decoder {
        let mut source = Cursor::new(file(architecture));
        let content = Content::read(&mut source).unwrap();
        Decoder::from_gguf(&content, &mut source, 200, threads).unwrap()
    }

    fn stock_logits(architecture: &str, tokens: &[u32]) -> Vec<f32> {
        let mut source = Cursor::new(file(architecture));
        let content = Content::read(&mut source).unwrap();
        let input = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let logits = match architecture {
            "llama" => {
                let weights = quantized_llama::ModelWeights::from_gguf(content, &mut source, &Device::Cpu);
                weights.unwrap().forward(&input, 0)
            }
            _ => {
                let weights = quantized_qwen2::ModelWeights::from_gguf(content, &mut source, &Device::Cpu);
                weights.unwrap().forward(&input, 0)
            }
        };
        logits.unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Logits after `tokens`, read in pieces of these lengths.
    fn logits(decoder: &mut Decoder, tokens: &[u32], pieces: &[usize]) -> Vec<f32> {
        let mut sequences = Sequences::new(vec![decoder.memory(200)]);
        let sequence = sequences.begin(&[0]).unwrap();
        let (mut logits, mut start) = (Vec::new(), 0);
        for piece in pieces {
            let read = decoder.read(&tokens[start..start + piece], sequence, &|| true);
            logits = read.unwrap().to_vec();
            start += piece;
        }
        assert_eq!((start, sequence.tokens.as_slice()), (tokens.len(), tokens));
        logits
    }

    #[test]
    fn logits_are_those_of_candles_models() {
        let tokens: Vec<u32> = (0..150).map(|i| i * i % VOCABULARY as u32).collect();
        for architecture in ["llama", "qwen2"] {
            for length in [1, 2, 40, 150] {
                let tokens = &tokens[..length];
                let is = logits(&mut load(architecture, 2), tokens, &[length]);
                let expected = stock_logits(architecture, tokens);
                let length = |numbers: &[f32]| numbers.iter().map(|x| x * x).sum::<f32>().sqrt();
                let product: f32 = is.iter().zip(&expected).map(|(is, expected)| is * expected).sum();
                let cosine = product / length(&is) / length(&expected);
                // Both round activations to eight bits, but not at the same places.
                assert!(cosine > 0.998, "{architecture}, {} tokens: cosine {cosine}", tokens.len());
            }
        }
    }

    #[test]
    fn logits_do_not_depend_on_how_a_text_comes() {
        let tokens: Vec<u32> = (0..150).map(|i| i * 7 % VOCABULARY as u32).collect();
        for architecture in ["llama", "qwen2"] {
            let whole = logits(&mut load(architecture, 1), &tokens, &[150]);
            let mut decoder = load(architecture, 3);
            assert_eq!(logits(&mut decoder, &tokens, &[1, 30, 1, 1, 117]), whole);
            assert_eq!(logits(&mut decoder, &tokens, &[149, 1]), whole);
            assert_eq!(decoder.computed(), 300);
        }
    }

    #[test]
    fn an_abandoned_pass_leaves_the_sequence_as_it_was() {
        let mut decoder = load("llama", 2);
        let mut sequences = Sequences::new(vec![decoder.memory(200)]);
        let sequence = sequences.begin(&[0]).unwrap();
        decoder.read(&[5, 6, 7], sequence, &|| true).unwrap();
        let asked = std::cell::Cell::new(0);
        let leave = || asked.replace(asked.get() + 1) < 1;
        assert_eq!(decoder.read(&[8, 9], sequence, &leave).err(), Some(Abandoned));
        assert_eq!((asked.get(), decoder.computed()), (2, 3), "it stops at the next layer");
        assert_eq!(sequence.tokens, [5, 6, 7]);
        let logits_after = decoder.read(&[1], sequence, &|| true).unwrap().to_vec();
        assert_eq!(logits_after, logits(&mut decoder, &[5, 6, 7, 1], &[4]));
    }

    #[test]
    fn what_is_not_supported_is_said() {
        let refused = |change: &dyn Fn(&mut Content)| {
            let mut source = Cursor::new(file("llama"));
            let mut content = Content::read(&mut source).unwrap();
            change(&mut content);
            Decoder::from_gguf(&content, &mut source, 200, 1).err().unwrap()
        };
        let set = |key: &'static str, value: Value| {
            move |content: &mut Content| drop(content.metadata.insert(key.to_owned(), value.clone()))
        };
        let error = refused(&set("general.architecture", Value::String("gemma".into())));
        assert!(error.contains("architecture `gemma`"), "{error}");
        let error = refused(&set("llama.context_length", Value::U32(100)));
        assert!(error.contains("context_tokens = 200 is more than its 100 positions"), "{error}");
        let error = refused(&set("llama.rope.dimension_count", Value::U32(32)));
        assert!(error.contains("rotary positions"), "{error}");
        let error = refused(&set("llama.attention.head_count", Value::U32(7)));
        assert!(error.contains("not supported"), "{error}");
        let error = refused(&|content| drop(content.tensor_infos.remove("blk.1.ffn_up.weight")));
        assert!(error.contains("blk.1.ffn_up.weight"), "{error}");
    }
}
