//! The answer of last resort: sentences of the documents, quoted.

use std::ops::Range;

use super::{RagError, grounding::Evidence, sentences::sentences};
use crate::models::{Embedder, Lane, TextRole, vectors::cosine};

/// Sentences quoted at most.
const MAX_QUOTES: usize = 2;
/// A second sentence is quoted when it is nearly as near to the question as the first.
const SECOND_SHARE: f32 = 0.9;
/// Sentences compared with a question: those of the first few passages.
const MAX_SENTENCES: usize = 48;
/// Weight of the question's words beside the cosine, as in `ask`'s score of a question.
const WORD_WEIGHT: f32 = 0.3;

/// A sentence of a passage.
#[derive(Debug, Clone, PartialEq)]
pub struct Quote {
    /// Index of the passage.
    pub passage: usize,
    pub range: Range<usize>,
    /// Cosine similarity with the question, and 0.3 times the share of its words.
    pub score: f32,
}

/// The sentences of the passages, nearest to the question first; also the tokens that the embedder read.
///
/// Passages come with their index. Headings and what speaks to the model are left out.
pub async fn rank(
    embedder: &dyn Embedder,
    question: &[f32],
    passages: &[(usize, &str)],
    evidence: &Evidence,
) -> Result<(Vec<Quote>, usize), RagError> {
    let candidates: Vec<(usize, Range<usize>, String)> = passages
        .iter()
        .flat_map(|(index, text)| {
            let usable = |range: &Range<usize>| {
                evidence.is_usable(*index, range) && says_something(&text[range.clone()])
            };
            let ranges = sentences(text).into_iter().filter(usable);
            ranges.map(|range| (*index, range.clone(), text[range].to_owned())).collect::<Vec<_>>()
        })
        .take(MAX_SENTENCES)
        .collect();
    let texts: Vec<String> = candidates.iter().map(|(_, _, text)| text.clone()).collect();
    let shares: Vec<f32> = texts.iter().map(|text| evidence.question_share(text)).collect();
    let embeddings = embedder.embed(texts, TextRole::Passage, Lane::Interactive).await?;
    let mut ranked: Vec<Quote> = candidates
        .into_iter()
        .zip(embeddings.vectors.iter().zip(shares))
        .map(|((passage, range, _), (vector, share))| Quote {
            passage,
            range,
            score: cosine(question, vector) + WORD_WEIGHT * share,
        })
        .collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    Ok((ranked, embeddings.tokens.iter().sum()))
}

/// The first of a ranking that are worth quoting, in reading order.
pub fn quotes(ranking: &[Quote]) -> Vec<Quote> {
    let least = ranking.first().map_or(0.0, |best| best.score * SECOND_SHARE);
    let mut quotes: Vec<Quote> =
        ranking.iter().take_while(|quote| quote.score >= least).take(MAX_QUOTES).cloned().collect();
    quotes.sort_by_key(|quote| (quote.passage, quote.range.start));
    quotes
}

/// Headings and list markers are no answers.
fn says_something(sentence: &str) -> bool {
    let words = sentence.split_whitespace().count();
    let letters = sentence.chars().filter(|c| c.is_alphabetic()).count();
    !is_heading(sentence) && (words >= 3 || letters >= 12)
}

/// A heading names what follows and says nothing of it.
pub fn is_heading(sentence: &str) -> bool {
    sentence.starts_with('#')
}
