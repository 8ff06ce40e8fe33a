//! Against transformers, on small checkpoints; see `tests/golden/make_clip.py`.

use candle_core::Tensor;
use image::{RgbImage, imageops};
use serde_json::Value;

use super::{ClipEmbedder, Towers, config::ClipConfig};
use crate::models::{
    Embedder, EncodedImage, Lane, ModelError, TextRole,
    images::{Preprocessor, decode},
};

#[path = "../../../../tests/golden/checkpoint.rs"]
mod checkpoint;

/// A golden checkpoint, written and loaded.
struct Loaded {
    golden: Value,
    towers: Towers,
    embedder: ClipEmbedder,
    _folder: tempfile::TempDir,
}

fn load(index: usize) -> Loaded {
    let golden = checkpoint::golden()["checkpoints"][index].clone();
    let folder = tempfile::tempdir().unwrap();
    let entry = toml::from_str(&checkpoint::write(&golden, folder.path())).unwrap();
    let config: ClipConfig = serde_json::from_value(golden["config"].clone()).unwrap();
    Loaded {
        towers: Towers::load(&folder.path().join("model.safetensors"), &config).unwrap(),
        embedder: ClipEmbedder::load(&entry, folder.path()).unwrap(),
        golden,
        _folder: folder,
    }
}

impl Loaded {
    fn cases(&self, kind: &str) -> &[Value] {
        self.golden[kind].as_array().unwrap()
    }

    fn pixels(&self, change: impl Fn(&Preprocessor, RgbImage) -> Vec<f32>) -> Vec<Vec<f32>> {
        let preprocessor = &self.embedder.preprocessor;
        self.cases("images").iter().map(|case| change(preprocessor, picture(case))).collect()
    }
}

fn file(case: &Value) -> Vec<u8> {
    checkpoint::read(&format!("clip/{}", case["file"].as_str().unwrap()))
}

fn picture(case: &Value) -> RgbImage {
    decode(&file(case)).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Least cosine between what two sets say of each picture beyond what they say of all: random
/// weights map every picture to nearly one vector.
fn least_cosine(ours: &[Vec<f32>], cases: &[Value]) -> f64 {
    let theirs: Vec<Vec<f32>> = cases.iter().map(|case| floats(&case["vector"])).collect();
    let (ours, theirs) = (centred(ours, &theirs), centred(&theirs, &theirs));
    ours.iter().zip(&theirs).map(|(a, b)| cosine(a, b)).fold(1.0, f64::min)
}

/// The vectors less the mean of the reference set.
fn centred(vectors: &[Vec<f32>], reference: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mean = |at: usize| reference.iter().map(|vector| vector[at]).sum::<f32>() / reference.len() as f32;
    let mean: Vec<f32> = (0..reference[0].len()).map(mean).collect();
    vectors.iter().map(|vector| vector.iter().zip(&mean).map(|(x, mean)| x - mean).collect()).collect()
}

fn image_vectors(loaded: &Loaded, pixels: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let pixels: Vec<&[f32]> = pixels.iter().map(Vec::as_slice).collect();
    loaded.towers.image.forward(&pixels).unwrap().to_vec2().unwrap()
}

#[tokio::test]
async fn texts_become_the_tokens_and_vectors_of_the_reference() {
    for index in 0..2 {
        let loaded = load(index);
        let cases = loaded.cases("texts");
        let texts: Vec<String> = cases.iter().map(|case| case["text"].as_str().unwrap().into()).collect();
        let tokens = loaded.embedder.tokenizer.tokenize_all(texts.clone()).await.unwrap();
        for (case, tokens) in cases.iter().zip(&tokens) {
            assert_eq!(serde_json::json!(tokens.ids), case["ids"], "{}", case["name"]);
        }
        let embedded = loaded.embedder.embed(texts, TextRole::Passage, Lane::Interactive).await.unwrap();
        assert_eq!(embedded.truncated, [cases.len() - 1]);
        for (case, vector) in cases.iter().zip(&embedded.vectors) {
            let cosine = cosine(&floats(&case["vector"]), vector);
            assert!(cosine > 0.99999, "{}: {cosine}", case["name"]);
            assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
        }
        // The set's own differences, so that a constant output could not pass.
        assert!(least_cosine(&embedded.vectors, cases) > 0.9999);
    }
}

#[test]
fn each_layer_of_the_text_tower_equals_the_reference() {
    for index in 0..2 {
        let loaded = load(index);
        let tower = &loaded.towers.text;
        for case in loaded.cases("texts").iter().filter(|case| !case["layers"].is_null()) {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            // A neighbour that is longer, so that padding is in play.
            let longer = [ids.as_slice(), &[7; 40]].concat();
            let (mut states, mask) = tower.embed(&[&ids, &longer[..77.min(longer.len())]]).unwrap();
            let end = ids.len() - 1;
            let layers = case["layers"].as_array().unwrap();
            assert_eq!(layers.len(), tower.encoder.layers.len() + 1);
            assert_state(&states, end, &layers[0]);
            for (layer, expected) in tower.encoder.layers.iter().zip(&layers[1..]) {
                states = layer.forward(&states, Some(&mask)).unwrap();
                assert_state(&states, end, expected);
            }
        }
    }
}

#[test]
fn each_layer_of_the_image_tower_equals_the_reference() {
    for index in 0..2 {
        let loaded = load(index);
        let tower = &loaded.towers.image;
        // A JPEG is decoded within the freedom of its standard; the other picture exactly.
        let cases = loaded.cases("images").iter().filter(|case| case["file"] == "palette.png");
        for case in cases {
            let pixels = loaded.embedder.preprocessor.pixels(&picture(case));
            let mut states = tower.embed(&[&pixels]).unwrap();
            let layers = case["layers"].as_array().unwrap();
            assert_eq!(layers.len(), tower.encoder.layers.len() + 1);
            assert_state(&states, 0, &layers[0]);
            for (layer, expected) in tower.encoder.layers.iter().zip(&layers[1..]) {
                states = layer.forward(&states, None).unwrap();
                assert_state(&states, 0, expected);
            }
        }
    }
}

fn assert_state(states: &Tensor, token: usize, expected: &Value) {
    let state: Vec<f32> = states.get(0).unwrap().get(token).unwrap().to_vec1().unwrap();
    let distance = distance(&state, &floats(expected));
    assert!(distance < 2e-5, "{distance}");
}

#[test]
fn pictures_become_the_vectors_of_the_reference() {
    for index in 0..2 {
        let loaded = load(index);
        let ours =
            image_vectors(&loaded, &loaded.pixels(|preprocessor, picture| preprocessor.pixels(&picture)));
        let least = least_cosine(&ours, loaded.cases("images"));
        assert!(least > 0.9999, "{least}");
    }
}

/// What the comparison above must notice.
#[test]
fn wrong_preprocessing_is_far_from_the_reference() {
    let loaded = load(0);
    let bgr = loaded.pixels(|preprocessor, mut picture| {
        picture.pixels_mut().for_each(|pixel| pixel.0.reverse());
        preprocessor.pixels(&picture)
    });
    let aliased = loaded.pixels(|preprocessor, picture| {
        let (width, height) = picture.dimensions();
        if width == 1 {
            return preprocessor.pixels(&picture); // Whole, it would have 150 million pixels.
        }
        let edge = preprocessor.edge() as f64;
        let scale = |side: u32| (f64::from(side) * edge / f64::from(width.min(height))) as u32;
        let (width, height) = (scale(width), scale(height));
        preprocessor.pixels(&imageops::resize(&picture, width, height, imageops::FilterType::Nearest))
    });
    let corner = loaded.pixels(|preprocessor, picture| {
        let edge = picture.width().min(picture.height());
        preprocessor.pixels(&imageops::crop_imm(&picture, 0, 0, edge, edge).to_image())
    });
    for (name, pixels) in [("BGR", bgr), ("no antialiasing", aliased), ("wrong crop", corner)] {
        let least = least_cosine(&image_vectors(&loaded, &pixels), loaded.cases("images"));
        assert!(least < 0.99, "{name}: {least}");
    }
}

#[tokio::test]
async fn a_bad_picture_is_named_by_its_place_in_the_request() {
    let loaded = load(1);
    let good: EncodedImage = checkpoint::read("clip/small.png").into();
    let mut images = vec![good; 20];
    let embedded = loaded.embedder.embed_images(images.clone(), Lane::Interactive).await.unwrap();
    assert_eq!(embedded.vectors.len(), 20);
    assert!(embedded.vectors.iter().all(|vector| distance(vector, &embedded.vectors[0]) < 1e-5));
    images[17] = EncodedImage::from_static(b"not a picture");
    let refused = loaded.embedder.embed_images(images, Lane::Interactive).await.unwrap_err();
    let ModelError::BadImage { index, reason } = refused else { unreachable!("{refused}") };
    assert_eq!(index, 17);
    assert!(reason.starts_with("is text"), "{reason}");
    assert!(loaded.embedder.embed_images(Vec::new(), Lane::Bulk).await.unwrap().vectors.is_empty());
}

#[test]
fn files_that_do_not_fit_the_entry_are_told() {
    let golden = checkpoint::golden()["checkpoints"][0].clone();
    let folder = tempfile::tempdir().unwrap();
    let entry = checkpoint::write(&golden, folder.path());
    let load = |entry: &str| {
        let entry = toml::from_str(entry).unwrap();
        ClipEmbedder::load(&entry, folder.path()).err().unwrap().to_string()
    };
    assert!(
        load(&entry.replace("dimension = 24", "dimension = 25"))
            .contains("dimension 25, the weights have 24")
    );
    assert!(
        load(&entry.replace("max_tokens = 77", "max_tokens = 99"))
            .contains("max_tokens 99, the model reads 77")
    );
    std::fs::write(folder.path().join("preprocessor_config.json"), r#"{"crop_size": 100}"#).unwrap();
    assert!(load(&entry).contains("squares of 224 pixels, not of 100"));
    std::fs::write(folder.path().join("preprocessor_config.json"), r#"{"resample": 2}"#).unwrap();
    assert!(load(&entry).contains("bicubic"));
    std::fs::write(folder.path().join("config.json"), r#"{"text_config": {"hidden_act": "relu"}}"#).unwrap();
    assert!(load(&entry).contains("relu"));
}
