//! The weights of a GGUF file, packed for the kernels.

use std::io::{Read, Seek};

use candle_core::{
    Device, Result, bail,
    quantized::{GgmlDType, QTensor, gguf_file::Content},
};
use ragway_kernels::{BlockFormat, QuantizedMatrix};

/// The numbers that describe a decoder.
#[derive(Debug, Clone)]
pub struct Shape {
    architecture: Architecture,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub key_heads: usize,
    pub head_width: usize,
    pub epsilon: f32,
    pub rotation_base: f64,
    /// Longest sequence that it was trained for.
    pub positions: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Architecture {
    Llama,
    Qwen2,
}

impl Shape {
    /// Reads and checks the metadata; errors say what is missing or not supported.
    pub fn from_gguf(content: &Content) -> Result<Self> {
        let Some(name) = content.metadata.get("general.architecture") else {
            bail!("the file names no general.architecture")
        };
        let name = name.to_string()?.as_str();
        let architecture = match name {
            "llama" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            other => bail!("architecture `{other}` is not supported; known are llama and qwen2"),
        };
        let value = |key: &str| content.metadata.get(&format!("{name}.{key}"));
        let number = |key: &str| match value(key) {
            Some(value) => Ok(value.to_u32()? as usize),
            None => bail!("the file names no {name}.{key}"),
        };
        let float = |key: &str| value(key).map(|value| value.to_f32()).transpose();
        let (width, heads) = (number("embedding_length")?, number("attention.head_count")?);
        let shape = Self {
            architecture,
            layers: number("block_count")?,
            width,
            heads,
            key_heads: number("attention.head_count_kv")?,
            head_width: number("attention.key_length").unwrap_or(width / heads.max(1)),
            epsilon: float("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
            rotation_base: f64::from(float("rope.freq_base")?.unwrap_or(10_000.0)),
            positions: number("context_length")?,
        };
        let rotated = number("rope.dimension_count").unwrap_or(shape.head_width);
        if rotated != shape.head_width || content.tensor_infos.contains_key("rope_freqs.weight") {
            bail!("its rotary positions are of a kind that is not supported");
        }
        let grouped = shape.key_heads > 0 && shape.heads.is_multiple_of(shape.key_heads);
        if !shape.head_width.is_multiple_of(32) || !grouped {
            bail!("{} heads of {} numbers are not supported", shape.heads, shape.head_width);
        }
        Ok(shape)
    }
}

/// A layer's weights.
pub struct Layer {
    pub attention_norm: Vec<f32>,
    /// Queries, keys and values of all heads, one after the other.
    pub qkv: QuantizedMatrix,
    pub output: QuantizedMatrix,
    pub feed_forward_norm: Vec<f32>,
    /// Gates, then what they are multiplied with.
    pub gate_up: QuantizedMatrix,
    pub down: QuantizedMatrix,
}

/// All weights.
pub struct Weights {
    /// `[vocabulary, width]`
    pub embeddings: QuantizedMatrix,
    pub layers: Vec<Layer>,
    pub norm: Vec<f32>,
    /// Absent where the embeddings take its place.
    pub logits: Option<QuantizedMatrix>,
}

impl Weights {
    /// Reads the tensors of `content` from `source`.
    ///
    /// `Q4_0`, `Q4_1` and `Q8_0` are taken as they are. All other types are rounded to `Q8_0`:
    /// eight bits hold what fewer did up to 1/254 of a block's largest weight.
    pub fn from_gguf(content: &Content, source: &mut (impl Read + Seek), shape: &Shape) -> Result<Self> {
        let mut tensors = Tensors { content, source, shape };
        let layers = (0..shape.layers).map(|index| tensors.layer(index)).collect::<Result<_>>()?;
        let logits = match content.tensor_infos.contains_key("output.weight") {
            true => Some(tensors.matrix(&["output.weight"])?),
            false => None,
        };
        Ok(Self {
            embeddings: tensors.matrix(&["token_embd.weight"])?,
            layers,
            norm: tensors.numbers("output_norm.weight")?,
            logits,
        })
    }
}

struct Tensors<'a, R> {
    content: &'a Content,
    source: &'a mut R,
    shape: &'a Shape,
}

impl<R: Read + Seek> Tensors<'_, R> {
    fn layer(&mut self, index: usize) -> Result<Layer> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let weights = ["attn_q.weight", "attn_k.weight", "attn_v.weight"].map(name);
        let biases = ["attn_q.bias", "attn_k.bias", "attn_v.bias"].map(name);
        let mut qkv = self.matrix(&weights.each_ref().map(String::as_str))?;
        if self.shape.architecture == Architecture::Qwen2 {
            let biases = biases.iter().map(|name| self.numbers(name)).collect::<Result<Vec<_>>>()?;
            qkv = qkv.with_bias(&biases.concat());
        }
        Ok(Layer {
            attention_norm: self.numbers(&name("attn_norm.weight"))?,
            qkv,
            output: self.matrix(&[&name("attn_output.weight")])?,
            feed_forward_norm: self.numbers(&name("ffn_norm.weight"))?,
            gate_up: self.matrix(&[&name("ffn_gate.weight"), &name("ffn_up.weight")])?,
            down: self.matrix(&[&name("ffn_down.weight")])?,
        })
    }

    fn tensor(&mut self, name: &str) -> Result<QTensor> {
        self.content.tensor(self.source, name, &Device::Cpu)
    }

    fn numbers(&mut self, name: &str) -> Result<Vec<f32>> {
        self.tensor(name)?.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()
    }

    /// Matrices of the same inputs, one after the other.
    fn matrix(&mut self, names: &[&str]) -> Result<QuantizedMatrix> {
        let tensors = names.iter().map(|name| self.tensor(name)).collect::<Result<Vec<_>>>()?;
        let Some(first) = tensors.first() else { bail!("no matrix") };
        let (_, inputs) = first.shape().dims2()?;
        for (name, tensor) in names.iter().zip(&tensors) {
            if tensor.shape().dims2()?.1 != inputs || !inputs.is_multiple_of(32) {
                bail!("{name} of shape {:?} is not supported", tensor.shape());
            }
        }
        let same = tensors.iter().all(|tensor| tensor.dtype() == first.dtype());
        let format = block_format(first.dtype()).filter(|_| same);
        let mut packed = Vec::new();
        let mut rounded = Vec::new();
        for (name, tensor) in names.iter().zip(tensors) {
            let row = tensor.shape().dims2()?.1;
            match format {
                Some(format) => {
                    let bytes = tensor.data()?;
                    packed.extend(self.in_order(name, &bytes, row / 32 * format.bytes()).flatten());
                }
                None => {
                    let numbers: Vec<f32> = tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?;
                    rounded.extend(self.in_order(name, &numbers, row).flatten());
                }
            }
        }
        match format {
            Some(format) => Ok(QuantizedMatrix::from_blocks(format, &packed, inputs)),
            None => Ok(QuantizedMatrix::from_numbers(&rounded, inputs)),
        }
    }

    /// The rows of a matrix as the kernels want them.
    ///
    /// Files of `llama` keep the two numbers that are rotated together side by side; the kernels
    /// want them half a head apart. A product of queries and keys does not depend on the order.
    fn in_order<'d, T>(&self, name: &str, data: &'d [T], row: usize) -> impl Iterator<Item = &'d [T]> {
        let width = self.shape.head_width;
        let paired = self.shape.architecture == Architecture::Llama
            && (name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight"));
        (0..data.len() / row).map(move |index| {
            let (head, at) = (index / width * width, index % width);
            let from = if paired { head + at % (width / 2) * 2 + at / (width / 2) } else { index };
            &data[from * row..(from + 1) * row]
        })
    }
}

fn block_format(dtype: GgmlDType) -> Option<BlockFormat> {
    match dtype {
        GgmlDType::Q4_0 => Some(BlockFormat::Q4_0),
        GgmlDType::Q4_1 => Some(BlockFormat::Q4_1),
        GgmlDType::Q8_0 => Some(BlockFormat::Q8_0),
        _ => None,
    }
}
