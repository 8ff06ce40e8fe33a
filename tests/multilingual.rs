use std::{collections::HashMap, path::Path, sync::Arc};

use candle_core::{Device, Tensor};
use ragway::{
    config::{EmbedderEntry, PinnedFile, Prefixes},
    models::{Embedder, Lane, TextRole, candle::bert::BertEmbedder},
};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::harness::{assets, catalog, cosine, floats};

/// The entry of the weights that the package carries.
fn entry() -> EmbedderEntry {
    catalog().embedder("multilingual-E5-small-q4").unwrap().clone()
}

/// multilingual-E5-small of the package, loaded once for all tests.
pub async fn e5() -> Arc<BertEmbedder> {
    static EMBEDDER: OnceCell<Arc<BertEmbedder>> = OnceCell::const_new();
    let load = || async {
        let entry = entry();
        let folder = assets().obtain(&entry.name, &entry.files, &entry.sources).await.unwrap();
        let loaded = tokio::task::spawn_blocking(move || BertEmbedder::load(&entry, &folder)).await.unwrap();
        Arc::new(loaded.unwrap())
    };
    Arc::clone(EMBEDDER.get_or_init(load).await)
}

pub fn golden(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn text(case: &Value) -> String {
    case["text"].as_str().unwrap().to_owned()
}

fn ids(case: &Value) -> Vec<u32> {
    case["ids"].as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// The ids that `embedder` reads of a text, cut as it cuts.
fn read_ids(embedder: &dyn Embedder, text: &str) -> (Vec<u32>, usize) {
    let tokens = embedder.tokenize(text, true).unwrap();
    let mut ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
    let in_full = ids.len();
    if in_full > embedder.max_tokens() {
        let end = ids[in_full - 1];
        ids.truncate(embedder.max_tokens() - 1);
        ids.push(end);
    }
    (ids, in_full)
}

/// `tests/golden/make_e5.py` makes the ids with sentencepiece.
#[tokio::test]
async fn e5_reads_the_tokens_that_sentencepiece_reads() {
    let embedder = e5().await;
    let golden = golden("e5.json");
    for case in golden["cases"].as_array().unwrap() {
        let text = format!("{}: {}", case["role"].as_str().unwrap(), text(case));
        let (read, in_full) = read_ids(&*embedder, &text);
        assert_eq!(read, ids(case), "{}", case["name"]);
        assert_eq!(in_full as u64, case["tokens_in_full"].as_u64().unwrap(), "{}", case["name"]);
    }
}

/// `tests/golden/make_e5.py` makes the vectors with transformers.
#[tokio::test]
async fn e5_vectors_equal_those_of_transformers() {
    let embedder = e5().await;
    assert!(embedder.space().id.starts_with("multilingual-E5-small-q4@1571fc982750:mean:l2"));
    let golden = golden("e5.json");
    for (name, role) in [("query", TextRole::Query), ("passage", TextRole::Passage)] {
        let cases: Vec<&Value> =
            golden["cases"].as_array().unwrap().iter().filter(|case| case["role"] == name).collect();
        assert!(cases.len() > 10);
        let texts = cases.iter().map(|case| text(case)).collect();
        let embedded = embedder.embed(texts, role, Lane::Interactive).await.unwrap();
        for (index, (case, vector)) in cases.iter().zip(&embedded.vectors).enumerate() {
            let cosine = cosine(&floats(&case["vector"]), vector);
            assert!(cosine > 0.9999, "{cosine}: {}", case["name"]);
            let cut = case["tokens_in_full"].as_u64().unwrap() > 512;
            assert_eq!(embedded.truncated.contains(&index), cut, "{}", case["name"]);
        }
    }
}

#[tokio::test]
async fn e5_finds_a_meaning_in_other_languages() {
    let texts = [
        "When does the last ferry leave the island?",
        "Wann fährt die letzte Fähre von der Insel ab?",
        "最後のフェリーは何時に島を出ますか。",
        "Wie backe ich einen Kuchen mit Äpfeln?",
    ];
    let texts = texts.map(str::to_owned).to_vec();
    let vectors = e5().await.embed(texts, TextRole::Query, Lane::Interactive).await.unwrap().vectors;
    let other = cosine(&vectors[0], &vectors[3]);
    for same in &vectors[1..3] {
        assert!(cosine(&vectors[0], same) > other + 0.05);
    }
}

#[tokio::test]
async fn e5_tokens_say_where_they_stand() {
    let embedder = e5().await;
    let text = "Die Ｆähre ﬁel 水曜日";
    let tokens = embedder.tokenize(text, true).unwrap();
    let special: Vec<&str> =
        tokens.iter().filter(|token| token.special).map(|token| token.text.as_str()).collect();
    assert_eq!(special, ["<s>", "</s>"]);
    let characters: Vec<char> = text.chars().collect();
    let plain: Vec<_> = tokens.iter().filter(|token| !token.special).collect();
    assert_eq!(plain.len(), embedder.count_tokens(text));
    assert_eq!(plain[0].start, 0);
    assert_eq!(plain[plain.len() - 1].stop, characters.len());
    let of = |token: &&ragway::models::Token| characters[token.start..token.stop].iter().collect::<String>();
    let written: String = plain.iter().map(of).collect();
    assert!(written.contains("Ｆähre") && written.contains("水曜日"), "{written}");
}

/// The entries of the hub's two multilingual models, as far as loading goes, for a small checkpoint.
fn small_entry(name: &str, prefixes: Prefixes) -> EmbedderEntry {
    let file = |name: &str| PinnedFile { name: name.to_owned(), sha256: "0".repeat(64) };
    EmbedderEntry {
        name: name.to_owned(),
        prefixes,
        dimension: 64,
        max_tokens: 64,
        files: ["model.safetensors", "tokenizer.json", "config.json"].map(file).to_vec(),
        ..entry()
    }
}

/// `weight` of `tests/golden/make_multilingual.py`.
pub fn weight(name: &str, shape: &[usize]) -> Tensor {
    let seed =
        name.bytes().fold(2_166_136_261u32, |seed, byte| (seed ^ u32::from(byte)).wrapping_mul(16_777_619));
    let value = |index: u32| {
        let mut x = index.wrapping_mul(2_654_435_761).wrapping_add(seed);
        x ^= x >> 15;
        x = x.wrapping_mul(2_246_822_519);
        x ^= x >> 13;
        let value = (x >> 8) as f32 / (1 << 24) as f32 - 0.5;
        match name.rsplit_once('.') {
            Some((start, "weight")) if start.ends_with("LayerNorm") => value + 1.0,
            Some((_, "bias")) => value / 16.0,
            _ => value,
        }
    };
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u32).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A folder with the small checkpoint's files as the hub names them.
fn small_checkpoint(golden: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/multilingual");
    for file in ["tokenizer.json", "config.json"] {
        std::fs::copy(kept.join(file), folder.path().join(file)).unwrap();
    }
    let shapes: HashMap<String, Vec<usize>> = serde_json::from_value(golden["shapes"].clone()).unwrap();
    let mut tensors: HashMap<String, Tensor> =
        shapes.into_iter().map(|(name, shape)| (name.clone(), weight(&name, &shape))).collect();
    // Published files carry this too; it is no weight.
    let positions = Tensor::arange(0i64, 64, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    tensors.insert("embeddings.position_ids".into(), positions);
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
    folder
}

/// Two models as the hub publishes them: with prefixes (E5) and without (paraphrase MiniLM).
#[tokio::test]
async fn hub_files_with_an_xlm_r_tokenizer_equal_the_reference() {
    let golden = golden("multilingual/golden.json");
    let folder = small_checkpoint(&golden);
    for prefix in ["", "query: "] {
        let prefixes = Prefixes { query: prefix.to_owned(), passage: String::new() };
        let embedder = BertEmbedder::load(&small_entry("small", prefixes), folder.path()).unwrap();
        let cases: Vec<&Value> =
            golden["cases"].as_array().unwrap().iter().filter(|case| case["prefix"] == prefix).collect();
        assert!(cases.len() > 10);
        for case in &cases {
            let (read, in_full) = read_ids(&embedder, &format!("{prefix}{}", text(case)));
            assert_eq!(read, ids(case), "{}", case["text"]);
            assert_eq!(in_full as u64, case["tokens_in_full"].as_u64().unwrap(), "{}", case["text"]);
        }
        let texts = cases.iter().map(|case| text(case)).collect();
        let embedded = embedder.embed(texts, TextRole::Query, Lane::Interactive).await.unwrap();
        let expected: Vec<Vec<f32>> = cases.iter().map(|case| floats(&case["vector"])).collect();
        let farthest = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        for (index, vector) in embedded.vectors.iter().enumerate() {
            let off = farthest(vector, &expected[index]);
            assert!(off < 1e-5, "{off}: {}", cases[index]["text"]);
            // Random weights may map all texts near one vector; these do not.
            let others = (0..expected.len()).filter(|other| *other != index);
            assert!(others.into_iter().all(|other| farthest(vector, &expected[other]) > 0.02));
        }
        assert_eq!(embedded.truncated, [cases.len() - 1]);
    }
}
