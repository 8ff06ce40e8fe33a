//! The answer of last resort: sentences of the documents, quoted.

use std::ops::Range;

use super::{RagError, grounding::Evidence};
use crate::models::{Embedder, Lane, TextRole, vectors::cosine};

/// Sentences quoted at most.
const MAX_QUOTES: usize = 2;
/// A second sentence is quoted when it is nearly as near to the question as the first.
const SECOND_SHARE: f32 = 0.9;
/// Sentences compared with a question: those of the first few passages.
const MAX_SENTENCES: usize = 48;
/// Weight of the question's words beside the cosine, as in `ask`'s score of a question.
const WORD_WEIGHT: f32 = 0.3;

/// A sentence or table row of a passage.
#[derive(Debug, Clone, PartialEq)]
pub struct Quote {
    /// Index of the passage.
    pub passage: usize,
    pub range: Range<usize>,
    /// Its words; of a table's row with the names of the columns.
    pub text: String,
    /// Cosine similarity with the question, and 0.3 times the share of its words.
    pub score: f32,
}

/// The sentences and rows of some of the passages, nearest to the question first; also the tokens that the
/// embedder read.
pub async fn rank(
    embedder: &dyn Embedder,
    question: &[f32],
    passages: &[usize],
    evidence: &Evidence,
) -> Result<(Vec<Quote>, usize), RagError> {
    let said = passages.iter().flat_map(|index| evidence.sayings(*index).iter().map(|said| (*index, said)));
    let candidates: Vec<_> =
        said.filter(|(_, said)| says_something(&said.text)).take(MAX_SENTENCES).collect();
    let texts: Vec<String> = candidates.iter().map(|(_, said)| said.text.clone()).collect();
    let shares: Vec<f32> = texts.iter().map(|text| evidence.question_share(text)).collect();
    let embeddings = embedder.embed(texts, TextRole::Passage, Lane::Interactive).await?;
    let mut ranked: Vec<Quote> = candidates
        .into_iter()
        .zip(embeddings.vectors.iter().zip(shares))
        .map(|((passage, said), (vector, share))| Quote {
            passage,
            range: said.range.clone(),
            text: said.text.clone(),
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

/// List markers are no answers.
fn says_something(sentence: &str) -> bool {
    let words = sentence.split_whitespace().count();
    let letters = sentence.chars().filter(|c| c.is_alphabetic()).count();
    words >= 3 || letters >= 12
}
