//! Pictures found by their captions: `captions.jsonl` and `images/`.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use super::{EvaluationError, Progress, vectors::Vectors};
use crate::models::{Embedder, EncodedImage, TextRole};

/// Pictures among which the right one is looked for.
const DEPTH: usize = 5;

/// What is counted for one language.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageTextReport {
    pub images: usize,
    /// Different captions; some stand under several pictures.
    pub captions: usize,
    /// Share of the captions with one of their pictures among the first five.
    pub recall_5: f64,
}

#[derive(Deserialize)]
struct Captioned {
    image: String,
    /// By language.
    captions: BTreeMap<String, String>,
}

/// Embeds every picture that has a caption in `language` and looks for it by that caption.
pub async fn evaluate_image_text(
    embedder: &dyn Embedder,
    folder: &Path,
    language: &str,
    progress: &Progress<'_>,
) -> Result<ImageTextReport, EvaluationError> {
    if !embedder.reads_images() {
        return Err(EvaluationError::ReadsNoImages(embedder.space().model.clone()));
    }
    let file = folder.join("captions.jsonl");
    let text = fs::read_to_string(&file).map_err(|error| EvaluationError::data(&file, error))?;
    let (pictures, captions) =
        by_caption(&text, language).map_err(|reason| EvaluationError::data(&file, reason))?;
    let read = |name: &String| {
        let path = folder.join("images").join(name);
        fs::read(&path).map(EncodedImage::from).map_err(|error| EvaluationError::data(&path, error))
    };
    let images = pictures.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let images = Vectors::of_images(embedder, &images, progress).await?;
    let (texts, right): (Vec<String>, Vec<Vec<usize>>) = captions.into_iter().unzip();
    let queries = Vectors::of_texts(embedder, &texts, TextRole::Query, "captions", progress).await?;
    Ok(ImageTextReport {
        images: pictures.len(),
        captions: texts.len(),
        recall_5: queries.recall(&images, right, DEPTH).await?,
    })
}

type Pictures = Vec<String>;
type Captions = BTreeMap<String, Vec<usize>>;

/// The pictures that have a caption in `language`, and each caption with the places of its pictures.
fn by_caption(text: &str, language: &str) -> Result<(Pictures, Captions), String> {
    let (mut pictures, mut captions) = (Pictures::new(), Captions::new());
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let mut entry: Captioned =
            serde_json::from_str(line).map_err(|error| format!("line {}: {error}", number + 1))?;
        if let Some(caption) = entry.captions.remove(language) {
            captions.entry(caption).or_default().push(pictures.len());
            pictures.push(entry.image);
        }
    }
    if pictures.is_empty() {
        return Err(format!("no captions in the language `{language}`"));
    }
    Ok((pictures, captions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_with_one_caption_share_it() {
        let text = r#"{"image": "frog-1.png", "captions": {"en": "A frog.", "de": "Ein Frosch."}}
{"image": "toad.png", "captions": {"de": "Eine Kröte."}}
{"image": "frog-2.png", "captions": {"en": "A frog."}}"#;
        let (pictures, captions) = by_caption(text, "en").unwrap();
        assert_eq!(pictures, ["frog-1.png", "frog-2.png"]);
        assert_eq!(captions, [("A frog.".to_owned(), vec![0, 1])].into());
        assert_eq!(by_caption(text, "de").unwrap().1.len(), 2);
        assert!(by_caption(text, "fi").unwrap_err().contains("`fi`"));
        assert!(by_caption("{", "en").unwrap_err().starts_with("line 1"));
    }
}
