//! Against candle's own BERT, on random weights: no download is needed.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use half::f16;

use super::{
    encoder::{EncodeError, Encoder},
    stock::StockEncoder,
    weights::{BertConfig, BertWeights, BlockQ4_0, EmbeddingTable},
};
use crate::config::{Pooling, Precision};

const CONFIG: &str = r#"{"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3,
    "intermediate_size": 160, "max_position_embeddings": 96, "vocab_size": 50, "hidden_act": "gelu",
    "layer_norm_eps": 1e-12, "type_vocab_size": 2, "hidden_dropout_prob": 0.1, "initializer_range": 0.02,
    "pad_token_id": 0, "model_type": "bert"}"#;

/// Tensors under their published names, the same each time; the spread is large enough that attention is far
/// from even.
fn random_file() -> Vec<u8> {
    let mut tensors = HashMap::new();
    let mut state = 1_u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut add = |name: String, shape: &[usize], around: f32, spread: f32| {
        // The sum of twelve is nearly normal, with a variance of 1.
        let mut normal = || around + spread * ((0..12).map(|_| uniform()).sum::<f32>() - 6.0);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| normal()).collect();
        tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    add("embeddings.word_embeddings.weight".into(), &[50, 64], 0.0, 1.0);
    add("embeddings.position_embeddings.weight".into(), &[96, 64], 0.0, 0.5);
    add("embeddings.token_type_embeddings.weight".into(), &[2, 64], 0.0, 0.5);
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in (0..3).map(|index| format!("encoder.layer.{index}")) {
        let linears = [
            ("attention.self.query", 64, 64),
            ("attention.self.key", 64, 64),
            ("attention.self.value", 64, 64),
            ("attention.output.dense", 64, 64),
            ("intermediate.dense", 160, 64),
            ("output.dense", 64, 160),
        ];
        for (name, outputs, inputs) in linears {
            add(format!("{layer}.{name}.weight"), &[outputs, inputs], 0.0, 0.2);
            add(format!("{layer}.{name}.bias"), &[outputs], 0.0, 0.2);
        }
        norms.extend(["attention.output", "output"].map(|name| format!("{layer}.{name}.LayerNorm")));
    }
    for norm in norms {
        add(format!("{norm}.weight"), &[64], 1.0, 0.2);
        add(format!("{norm}.bias"), &[64], 0.0, 0.2);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    candle_core::safetensors::save(&tensors, file.path()).unwrap();
    std::fs::read(file.path()).unwrap()
}

fn config() -> BertConfig {
    serde_json::from_str(CONFIG).unwrap()
}

fn encoder(file: &[u8], precision: Precision) -> Encoder {
    let weights = BertWeights::from_safetensors(file.to_vec(), &config()).unwrap();
    Encoder::new(&config(), weights, precision).unwrap()
}

fn texts() -> Vec<Vec<u32>> {
    let lengths = [1, 2, 7, 96, 31, 33, 12, 64, 5, 90, 13, 96, 45];
    lengths.iter().map(|&length| (0..length).map(|token| (token * 7 + length) % 50).collect()).collect()
}

fn slices(texts: &[Vec<u32>]) -> Vec<&[u32]> {
    texts.iter().map(Vec::as_slice).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn agrees_with_candles_own_model() {
    let (file, folder) = (random_file(), tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("config.json"), CONFIG).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), &file).unwrap();
    let stock = StockEncoder::load(folder.path(), Device::Cpu).unwrap();
    let encoder = encoder(&file, Precision::F32);
    assert_eq!((stock.dimension(), stock.positions()), (encoder.dimension(), encoder.positions()));
    let texts = texts();
    for (pooling, normalize) in [(Pooling::Mean, false), (Pooling::Cls, false), (Pooling::Mean, true)] {
        let packed = encoder.encode(&slices(&texts), pooling, normalize).unwrap();
        let padded = stock.encode(&slices(&texts), pooling, normalize).unwrap();
        for ((text, packed), padded) in texts.iter().zip(&packed).zip(&padded) {
            let alone = &stock.encode(&[text], pooling, normalize).unwrap()[0];
            let length: f32 = padded.iter().map(|number| number * number).sum();
            assert!(!normalize || (length - 1.0).abs() < 1e-5, "{length}");
            for of_stock in [padded, alone] {
                let close = cosine(packed, of_stock);
                assert!(close > 0.999_999, "{pooling:?}, {} tokens: {close}", text.len());
            }
        }
    }
}

#[test]
fn a_vector_does_not_depend_on_its_neighbours() {
    let file = random_file();
    let texts: Vec<Vec<u32>> = texts().into_iter().cycle().take(60).collect();
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let encoder = encoder(&file, precision);
        let together = encoder.encode(&slices(&texts), Pooling::Mean, true).unwrap();
        for (text, together) in texts.iter().zip(&together) {
            let alone = &encoder.encode(&[text], Pooling::Mean, true).unwrap()[0];
            let off = alone.iter().zip(together).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-5, "{precision:?}, {} tokens: {off}", text.len());
            let length: f32 = together.iter().map(|number| number * number).sum();
            assert!((length - 1.0).abs() < 1e-5);
        }
    }
}

#[test]
fn refuses_what_it_cannot_read() {
    let encoder = encoder(&random_file(), Precision::F32);
    let encode = |text: &[u32]| encoder.encode(&[&[1], text], Pooling::Mean, true);
    assert!(matches!(encode(&[]), Err(EncodeError::Length(0, 96))));
    assert!(matches!(encode(&[1; 97]), Err(EncodeError::Length(97, 96))));
    assert!(matches!(encode(&[50]), Err(EncodeError::Vocabulary(50, 50))));
    assert!(encoder.encode(&[], Pooling::Mean, true).unwrap().is_empty());
}

/// Wherever in the layers it comes up.
#[test]
fn never_returns_what_is_not_finite() {
    let file = random_file();
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        for layer in 0..3 {
            let mut weights = BertWeights::from_safetensors(file.clone(), &config()).unwrap();
            weights.layers[layer].output.bias[5] = f32::INFINITY;
            let encoder = Encoder::new(&config(), weights, precision).unwrap();
            let result = encoder.encode(&[&[1, 2, 3]], Pooling::Mean, true);
            assert!(matches!(result, Err(EncodeError::NotFinite)), "{precision:?} {layer}: {result:?}");
        }
    }
}

#[test]
fn shorter_precisions_differ_little_and_not_nothing() {
    let file = random_file();
    let encode =
        |precision| encoder(&file, precision).encode(&slices(&texts()), Pooling::Mean, true).unwrap();
    let exact = encode(Precision::F32);
    for (precision, least) in [(Precision::Bf16, 0.9995), (Precision::Int8, 0.995)] {
        for (is, exact) in encode(precision).iter().zip(&exact) {
            assert!(cosine(is, exact) > least, "{precision:?}: {}", cosine(is, exact));
            assert_ne!(is, exact, "{precision:?}");
        }
    }
}

#[test]
fn says_which_weights_do_not_fit() {
    let mut weights = BertWeights::from_safetensors(random_file(), &config()).unwrap();
    weights.layers[1].key.bias.pop();
    let error = Encoder::new(&config(), weights, Precision::F32).err().unwrap();
    assert_eq!(error, "a linear layer's bias: 63 numbers, not 64");

    let odd = BertConfig { intermediate_size: 158, ..config() };
    let weights = BertWeights::from_safetensors(random_file(), &config()).unwrap();
    let error = Encoder::new(&odd, weights, Precision::Int8).err().unwrap();
    assert!(error.starts_with("a feed-forward layer of 158 numbers"), "{error}");
}

#[test]
fn four_bit_rows_are_read_as_ggml_writes_them() {
    let mut block = BlockQ4_0 { scale: f16::from_f32(0.5), nibbles: [0x88; 16] };
    block.nibbles[0] = 0xf0; // number 0 is 0 − 8, number 16 is 15 − 8
    let zero = BlockQ4_0 { scale: f16::ONE, nibbles: [0x88; 16] };
    let table = EmbeddingTable::Q4_0(vec![zero, zero, zero, block]);
    assert_eq!(table.rows(64), 2);
    let mut row = [1.0; 64];
    table.read(1, &mut row);
    assert_eq!((row[32], row[48]), (-4.0, 3.5));
    assert_eq!(row.iter().filter(|&&number| number == 0.0).count(), 62);
}
