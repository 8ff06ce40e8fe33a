//! How well true sentences are told from false ones, on claims made from SQuAD's paragraphs.
//!
//! Each answerable question gives claims: the sentence that holds its answer, the same in fewer words,
//! and the same made false by something else of the paragraph, which is what models get wrong.

use std::{collections::BTreeMap, ops::Range, path::Path};

use unicode_segmentation::UnicodeSegmentation;

use super::{
    EvaluationError,
    squad::{Paragraph, Question, Squad},
};
use crate::rag::{grounding::Evidence, sentences::sentences};

/// Verbs that "not" follows.
const AUXILIARIES: &[&str] = &["is", "are", "was", "were", "has", "had", "can", "could", "will", "would"];
/// Words left out of a sentence that is said in fewer words: every so manieth.
const SHORTENED: usize = 4;

/// How a claim was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// The sentence itself.
    Copied,
    /// Every fourth word that is no number or name left out.
    Shortened,
    /// The sentence and the one after it, made one.
    Joined,
    /// "It", "He", "They" at its beginning replaced by what the sentence before begins with.
    Resolved,
    /// A number is replaced by one from elsewhere in the paragraph.
    WrongNumber,
    /// A name is replaced by one from elsewhere in the paragraph.
    WrongName,
    /// "not" is added.
    Denied,
}

impl Claim {
    /// Whether the paragraph says so.
    pub fn is_true(self) -> bool {
        matches!(self, Claim::Copied | Claim::Shortened | Claim::Joined | Claim::Resolved)
    }

    pub fn name(self) -> &'static str {
        match self {
            Claim::Copied => "copied",
            Claim::Shortened => "shortened",
            Claim::Joined => "joined",
            Claim::Resolved => "resolved",
            Claim::WrongNumber => "wrong number",
            Claim::WrongName => "wrong name",
            Claim::Denied => "denied",
        }
    }
}

/// Claims of each kind, and how many of them were found to be supported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroundingReport {
    pub claims: BTreeMap<Claim, (usize, usize)>,
}

/// Makes claims from a file in SQuAD's format and has them checked.
pub fn evaluate_grounding(file: &Path) -> Result<GroundingReport, EvaluationError> {
    let squad = Squad::read(file)?;
    let mut report = GroundingReport::default();
    for paragraph in squad.data.iter().flat_map(|article| &article.paragraphs) {
        for question in &paragraph.qas {
            let evidence = Evidence::new(&question.question, [paragraph.context.as_str()]);
            for (kind, claim) in claims(paragraph, question) {
                let (made, supported) = report.claims.entry(kind).or_default();
                *made += 1;
                *supported += usize::from(evidence.support(&claim).is_some());
            }
        }
    }
    Ok(report)
}

fn claims(paragraph: &Paragraph, question: &Question) -> Vec<(Claim, String)> {
    let text = paragraph.context.as_str();
    let ranges = sentences(text);
    let Some(at) = sentence_of_answer(text, &ranges, question) else { return Vec::new() };
    let sentence = &text[ranges[at].clone()];
    // The first word of a sentence is capitalised for another reason than that it is a name.
    let others = ranges.iter().filter(|other| **other != ranges[at]);
    let elsewhere: Vec<&str> = others.flat_map(|other| text[other.clone()].unicode_words().skip(1)).collect();
    let replaced = |matches: fn(&str) -> bool| replaced(sentence, &elsewhere, matches);
    let after = ranges.get(at + 1).map(|range| &text[range.clone()]);
    let before = at.checked_sub(1).map(|at| &text[ranges[at].clone()]);
    let made = [
        (Claim::Copied, Some(sentence.to_owned())),
        (Claim::Shortened, Some(shortened(sentence))),
        (Claim::Joined, after.map(|after| format!("{} and {after}", sentence.trim_end_matches('.')))),
        (Claim::Resolved, before.and_then(|before| resolved(sentence, before))),
        (Claim::WrongNumber, replaced(is_number)),
        (Claim::WrongName, replaced(is_name)),
        (Claim::Denied, denied(sentence)),
    ];
    made.into_iter().filter_map(|(kind, claim)| Some((kind, claim?))).collect()
}

/// Index of the sentence that holds the first gold answer.
fn sentence_of_answer(text: &str, sentences: &[Range<usize>], question: &Question) -> Option<usize> {
    let start = question.answers.first()?.answer_start;
    let at = text.char_indices().nth(start)?.0;
    sentences.iter().position(|range| range.contains(&at))
}

/// The sentence with the pronoun that it begins with replaced by the capitalised words that the one before
/// begins with.
fn resolved(sentence: &str, before: &str) -> Option<String> {
    let (pronoun, rest) = sentence.split_once(' ')?;
    let names: Vec<&str> =
        before.split(' ').take_while(|word| word.starts_with(char::is_uppercase)).collect();
    (matches!(pronoun, "It" | "He" | "She" | "They") && names.len() > 1)
        .then(|| format!("{} {rest}", names.join(" ")))
}

fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
}

fn is_name(word: &str) -> bool {
    word.starts_with(char::is_uppercase) && word.chars().count() > 3
}

fn shortened(sentence: &str) -> String {
    let mut plain = 0;
    let kept = sentence.split_whitespace().filter(|word| {
        let counts = word.chars().all(char::is_lowercase) && word.len() > 3;
        plain += usize::from(counts);
        !(counts && plain.is_multiple_of(SHORTENED))
    });
    kept.collect::<Vec<_>>().join(" ")
}

/// The sentence with its last such word (never its first word) replaced by the first other one.
fn replaced(sentence: &str, elsewhere: &[&str], matches: fn(&str) -> bool) -> Option<String> {
    let (at, word) = sentence.unicode_word_indices().skip(1).filter(|(_, word)| matches(word)).last()?;
    let other = elsewhere.iter().find(|other| matches(other) && !sentence.contains(*other))?;
    Some(format!("{}{other}{}", &sentence[..at], &sentence[at + word.len()..]))
}

fn denied(sentence: &str) -> Option<String> {
    if sentence
        .unicode_words()
        .any(|word| matches!(word, "not" | "no" | "never" | "nor") || word.ends_with("n't"))
    {
        return None;
    }
    let (at, word) = sentence.unicode_word_indices().find(|(_, word)| AUXILIARIES.contains(word))?;
    let end = at + word.len();
    Some(format!("{} not{}", &sentence[..end], &sentence[end..]))
}
