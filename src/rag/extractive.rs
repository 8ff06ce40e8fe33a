//! The answer of last resort: sentences of the documents, quoted.

use std::ops::Range;

use super::{RagError, sentences::sentences};
use crate::models::{Embedder, TextRole};

/// Sentences quoted at most.
const MAX_QUOTES: usize = 2;
/// A second sentence is quoted when it is nearly as near to the question as the first.
const SECOND_SHARE: f32 = 0.9;
/// Sentences compared with a question: those of the first few passages.
const MAX_SENTENCES: usize = 48;

/// A sentence of a passage.
#[derive(Debug, Clone, PartialEq)]
pub struct Quote {
    /// Index of the passage.
    pub passage: usize,
    pub range: Range<usize>,
    /// Cosine similarity with the question.
    pub similarity: f32,
}

/// The sentences nearest to the question, in reading order.
pub async fn quotes(
    embedder: &dyn Embedder,
    question: &[f32],
    passages: &[&str],
) -> Result<Vec<Quote>, RagError> {
    let candidates: Vec<(usize, Range<usize>)> = passages
        .iter()
        .enumerate()
        .flat_map(|(index, text)| sentences(text).into_iter().map(move |range| (index, range)))
        .filter(|(index, range)| says_something(&passages[*index][range.clone()]))
        .take(MAX_SENTENCES)
        .collect();
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let texts = candidates.iter().map(|(index, range)| passages[*index][range.clone()].to_owned()).collect();
    let vectors = embedder.embed(texts, TextRole::Passage).await?.vectors;
    let mut ranked: Vec<Quote> = candidates
        .into_iter()
        .zip(&vectors)
        .map(|((passage, range), vector)| Quote { passage, range, similarity: cosine(question, vector) })
        .collect();
    ranked.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
    let least = ranked.first().map_or(0.0, |best| best.similarity * SECOND_SHARE);
    ranked.retain(|quote| quote.similarity >= least);
    ranked.truncate(MAX_QUOTES);
    ranked.sort_by_key(|quote| (quote.passage, quote.range.start));
    Ok(ranked)
}

/// Headings and list markers are no answers.
fn says_something(sentence: &str) -> bool {
    !sentence.starts_with('#') && sentence.split_whitespace().count() >= 3
        || sentence.chars().filter(|c| c.is_alphabetic()).count() >= 12 && !sentence.starts_with('#')
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f32::MIN_POSITIVE)
}
