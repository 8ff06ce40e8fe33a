//! Small CLIP checkpoints, made by the formula of `make_clip.py`.

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor, safetensors};
use serde_json::Value;

/// What `make_clip.py` recorded.
pub fn golden() -> Value {
    serde_json::from_slice(&read("clip.json")).unwrap()
}

/// A file beside `make_clip.py`.
pub fn read(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)).unwrap()
}

/// Writes the files of a checkpoint and returns its entry of `models.toml`.
pub fn write(checkpoint: &Value, folder: &Path) -> String {
    let config = &checkpoint["config"];
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("tokenizer.json"), read("clip/tokenizer.json")).unwrap();
    let tensors = checkpoint["tensors"].as_object().unwrap().iter().map(|(name, shape)| {
        let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
        (name.clone(), Tensor::from_vec(weight(name, &shape), shape, &Device::Cpu).unwrap())
    });
    let tensors: HashMap<String, Tensor> = tensors.collect();
    safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
    let files: String = ["model.safetensors", "tokenizer.json", "config.json"]
        .map(|name| format!("[[files]]\nname = \"{name}\"\nsha256 = \"{}\"\n", "c".repeat(64)))
        .concat();
    format!(
        "name = \"clip-{}\"\nkind = \"clip\"\npooling = \"cls\"\ndimension = {}\nmax_tokens = {}\n\
         min_similarity = -1.0\nanswer_cut = 0.2\n{files}\
         [[sources]]\nkind = \"path\"\npath = \"/nowhere\"\n",
        checkpoint["name"].as_str().unwrap(),
        config["projection_dim"],
        config["text_config"]["max_position_embeddings"],
    )
}

fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let (offset, scale) = spread(name, shape);
    let seed = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    let value = |position: u64| {
        let mut z = seed.wrapping_add(position.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        offset + scale * ((z >> 40) as f32 / 8_388_608.0 - 1.0)
    };
    (1..=shape.iter().product::<usize>() as u64).map(value).collect()
}

fn spread(name: &str, shape: &[usize]) -> (f32, f32) {
    if name.contains("norm") || name.contains("layrnorm") {
        if name.ends_with("weight") { (1.0, 0.25) } else { (0.0, 0.125) }
    } else if name.contains("embedding") && !name.contains("patch") {
        (0.0, 0.5)
    } else if name.ends_with("bias") {
        (0.0, 0.0625)
    } else {
        let fan_in: usize = shape[1..].iter().product();
        (0.0, (2.0 / (fan_in as f64).sqrt()).log2().round_ties_even().exp2() as f32)
    }
}
