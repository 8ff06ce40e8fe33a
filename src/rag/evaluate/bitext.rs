//! Sentences and their translations: the set of Artetxe and Schwenk (2018) and others like it.

use std::{collections::BTreeMap, fs, path::Path};

use super::{EvaluationError, Progress, vectors::Vectors};
use crate::models::{Embedder, TextRole};

/// One pair of languages.
#[derive(Debug, Clone, PartialEq)]
pub struct PairScore {
    pub language: String,
    pub other: String,
    pub sentences: usize,
    /// Share of the first language's sentences whose nearest of the other is their translation.
    pub there: f64,
    /// The same from the other to the first.
    pub back: f64,
}

/// A file name's parts: `<set>.<language>-<other>.<side>`.
type Pairs = BTreeMap<(String, String), (Vec<String>, Vec<String>)>;

/// recall@1 of every pair of languages in `folder`, in both directions, over the first `limit` sentences.
pub async fn evaluate_bitext(
    embedder: &dyn Embedder,
    folder: &Path,
    limit: usize,
    progress: &Progress<'_>,
) -> Result<Vec<PairScore>, EvaluationError> {
    let pairs = read_pairs(folder, limit)?;
    let mut scores = Vec::with_capacity(pairs.len());
    for ((language, other), (here, there)) in pairs {
        // E5 wants `query: ` where both sides play one part.
        let embed =
            async |texts| Vectors::of_texts(embedder, texts, TextRole::Query, "sentences", progress).await;
        let (a, b) = (embed(&here).await?, embed(&there).await?);
        let own: Vec<Vec<usize>> = (0..here.len()).map(|index| vec![index]).collect();
        scores.push(PairScore {
            language,
            other,
            sentences: here.len(),
            there: a.recall(&b, own.clone(), 1).await?,
            back: b.recall(&a, own, 1).await?,
        });
        progress("languages", scores.len(), scores.capacity());
    }
    Ok(scores)
}

/// Mean over pairs and directions.
pub fn mean(scores: &[PairScore]) -> f64 {
    scores.iter().map(|pair| (pair.there + pair.back) / 2.0).sum::<f64>() / scores.len().max(1) as f64
}

fn read_pairs(folder: &Path, limit: usize) -> Result<Pairs, EvaluationError> {
    let mut pairs = Pairs::new();
    for entry in fs::read_dir(folder).map_err(|error| EvaluationError::data(folder, error))? {
        let path = entry.map_err(|error| EvaluationError::data(folder, error))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((language, other, side)) = parts(name) else { continue };
        let text = fs::read_to_string(&path).map_err(|error| EvaluationError::data(&path, error))?;
        let lines: Vec<String> = text.lines().take(limit).map(str::to_owned).collect();
        let pair = pairs.entry((language.to_owned(), other.to_owned())).or_default();
        *(if side == language { &mut pair.0 } else { &mut pair.1 }) = lines;
    }
    if pairs.is_empty() {
        return Err(EvaluationError::data(folder, "no files named like `tatoeba.deu-eng.deu`"));
    }
    for ((language, other), (here, there)) in &pairs {
        if here.is_empty() || here.len() != there.len() {
            let reason = format!("{language}-{other}: {} lines and {}", here.len(), there.len());
            return Err(EvaluationError::data(folder, reason));
        }
    }
    Ok(pairs)
}

fn parts(name: &str) -> Option<(&str, &str, &str)> {
    let (start, side) = name.rsplit_once('.')?;
    let (_, languages) = start.rsplit_once('.')?;
    let (language, other) = languages.split_once('-')?;
    (side == language || side == other).then_some((language, other, side))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_two_files_are_a_pair() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("README.md", "not a pair");
        write("set.deu-eng.deu", "Hund\nKatze\nMaus\n");
        write("set.deu-eng.eng", "dog\ncat\nmouse\n");
        let pairs = read_pairs(folder.path(), 2).unwrap();
        let (german, english) = &pairs[&("deu".to_owned(), "eng".to_owned())];
        assert_eq!(
            (german.as_slice(), english[1].as_str()),
            (["Hund".to_owned(), "Katze".to_owned()].as_slice(), "cat")
        );

        write("set.fra-eng.fra", "chien\n");
        let told = read_pairs(folder.path(), 9).unwrap_err().to_string();
        assert!(told.ends_with("fra-eng: 1 lines and 0"), "{told}");
    }

    #[test]
    fn the_mean_is_over_pairs_and_directions() {
        let pair =
            |there, back| PairScore { language: "a".into(), other: "b".into(), sentences: 4, there, back };
        assert!((mean(&[pair(1.0, 0.5), pair(0.25, 0.25)]) - 0.5).abs() < 1e-12);
        assert_eq!(mean(&[]), 0.0);
    }
}
