//! What a text says, as far as words tell.

use std::collections::HashSet;

use unicode_segmentation::UnicodeSegmentation;

/// Words on each side of a number or name that it is taken to belong to.
const NEAR: usize = 6;

/// What a text says, as sets.
#[derive(Debug, Default, Clone)]
pub(in crate::rag) struct Facts {
    pub(in crate::rag) words: HashSet<String>,
    pub(in crate::rag) numbers: HashSet<String>,
    pub(in crate::rag) names: HashSet<String>,
    pub(in crate::rag) negated: bool,
    /// Words of direction and order with the word that follows: "to nordby", "before noon".
    relations: HashSet<String>,
}

/// A number or name of a text, and the words around it.
#[derive(Debug)]
pub(super) struct Detail {
    pub text: String,
    pub kind: Kind,
    /// The nearest content words and numbers on both sides, and the relations that they stand in.
    near: HashSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Number,
    Name,
}

/// A word that says something, as it is compared.
struct Word {
    text: String,
    kind: Kind,
    /// Itself and what stands before it: "to nordby".
    relation: Option<String>,
}

impl Facts {
    pub(in crate::rag) fn of(text: &str) -> Self {
        let (words, negated) = content_words(text);
        let mut facts = Facts { negated, ..Facts::default() };
        for Word { text, kind, relation } in words {
            facts.relations.extend(relation);
            if kind == Kind::Number {
                facts.numbers.insert(text);
                continue;
            }
            if kind == Kind::Name {
                facts.names.insert(text.clone());
            }
            facts.words.insert(text);
        }
        facts
    }

    /// Everything that either says.
    pub(super) fn union(&self, other: &Facts) -> Facts {
        let union = |a: &HashSet<String>, b: &HashSet<String>| a.union(b).cloned().collect();
        Facts {
            words: union(&self.words, &other.words),
            numbers: union(&self.numbers, &other.numbers),
            names: union(&self.names, &other.names),
            negated: self.negated || other.negated,
            relations: union(&self.relations, &other.relations),
        }
    }

    /// Share of the content words and numbers that `other` holds; 0 without any.
    pub(super) fn coverage(&self, other: &Facts) -> f32 {
        let said = self.words.len() + self.numbers.len();
        if said == 0 {
            return 0.0;
        }
        let found =
            self.words.intersection(&other.words).count() + self.numbers.intersection(&other.numbers).count();
        found as f32 / said as f32
    }

    /// As [`Facts::coverage`], of the words that are not the question's; 1 where there are none.
    pub(super) fn news_coverage(&self, evidence: &Facts, question: &Facts) -> f32 {
        let news: Vec<_> = self.words.difference(&question.words).collect();
        if news.is_empty() {
            return 1.0;
        }
        news.iter().filter(|word| evidence.words.contains(**word)).count() as f32 / news.len() as f32
    }

    /// Every number and name occurs in the evidence or in the question.
    pub(super) fn details_within(&self, evidence: &Facts, question: &Facts) -> bool {
        let known = |number: &String| evidence.numbers.contains(number) || question.numbers.contains(number);
        self.numbers.iter().all(known)
            && self.names.iter().all(|name| evidence.words.contains(name) || question.words.contains(name))
    }

    pub(super) fn holds(&self, detail: &Detail) -> bool {
        let said = if detail.kind == Kind::Number { &self.numbers } else { &self.words };
        said.contains(&detail.text)
    }

    /// Whether there is a number or name that `other` does not speak of.
    pub(super) fn has_more(&self, kind: Kind, other: &Facts) -> bool {
        match kind {
            Kind::Number => !self.numbers.is_subset(&other.numbers),
            Kind::Name | Kind::Plain => !self.names.is_subset(&other.words),
        }
    }

    /// How much of what stands around a detail is said.
    pub(super) fn nearness(&self, detail: &Detail) -> usize {
        let all = [&self.words, &self.numbers, &self.relations];
        detail.near.iter().filter(|word| all.iter().any(|said| said.contains(*word))).count()
    }
}

/// The numbers and names of a text.
pub(super) fn details(text: &str) -> Vec<Detail> {
    let (words, _) = content_words(text);
    let near = |at: usize| {
        let around = at.saturating_sub(NEAR)..words.len().min(at + NEAR + 1);
        let around = around.filter(|other| *other != at).map(|other| &words[other]);
        around.flat_map(|word| [Some(word.text.clone()), word.relation.clone()]).flatten().collect()
    };
    let found = words.iter().enumerate().filter(|(_, word)| word.kind != Kind::Plain);
    found.map(|(at, word)| Detail { text: word.text.clone(), kind: word.kind, near: near(at) }).collect()
}

/// The words that say something, in order, and whether one of the others is a "not".
fn content_words(text: &str) -> (Vec<Word>, bool) {
    let (mut words, mut negated, mut before) = (Vec::new(), false, None);
    for (at, word) in text.unicode_words().enumerate() {
        let lower = word.to_lowercase();
        if NEGATIONS.contains(&lower.as_str()) || lower.ends_with("n't") || lower.ends_with("n’t") {
            negated = true;
            continue;
        }
        if RELATIONS.contains(&lower.as_str()) {
            before = Some(lower);
            continue;
        }
        if STOP_WORDS.contains(&lower.as_str()) {
            continue;
        }
        let (text, kind) = if word.contains(|c: char| c.is_numeric()) {
            (plain_number(&lower), Kind::Number)
        // The first word of a sentence is capitalised for another reason.
        } else if at > 0 && word.starts_with(char::is_uppercase) {
            (stem(&lower), Kind::Name)
        } else {
            (stem(&lower), Kind::Plain)
        };
        let relation = before.take().map(|before| format!("{before} {text}"));
        words.push(Word { text, kind, relation });
    }
    (words, negated)
}

/// Whether a sentence goes on about what the one before it named.
pub(super) fn refers_back(sentence: &str) -> bool {
    sentence.unicode_words().next().is_some_and(|word| PRONOUNS.contains(&word.to_lowercase().as_str()))
}

/// `1,200` and `1200` are one number.
pub(in crate::rag) fn plain_number(word: &str) -> String {
    word.replace([',', '\u{a0}', '’', '\''], "")
}

/// Enough to match "ferries" with "ferry" and "departs" with "depart"; a real
/// stemmer would bring a language with it.
pub(in crate::rag) fn stem(word: &str) -> String {
    let word = word.trim_end_matches("'s").trim_end_matches("’s");
    let stemmed = match word.strip_suffix("ies") {
        Some(root) if root.len() > 2 => return format!("{root}y"),
        _ => word.strip_suffix('s').filter(|root| root.len() > 2 && !root.ends_with('s')).unwrap_or(word),
    };
    let stemmed = ["ing", "ed"]
        .iter()
        .find_map(|ending| stemmed.strip_suffix(ending).filter(|root| root.len() > 3))
        .unwrap_or(stemmed);
    stemmed.strip_suffix('e').filter(|root| root.len() > 3).unwrap_or(stemmed).to_owned()
}

const NEGATIONS: &[&str] =
    &["not", "no", "never", "none", "neither", "nor", "without", "cannot", "nobody", "nothing"];

/// Words of place and order that turn a statement into another one.
const RELATIONS: &[&str] =
    &["to", "from", "before", "after", "until", "till", "since", "over", "under", "above", "below"];

const PRONOUNS: &[&str] =
    &["it", "its", "he", "his", "she", "her", "they", "their", "this", "these", "that", "those", "there"];

/// Numbers that are written as words.
pub(super) const NUMERALS: &[&str] = &[
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "twenty",
    "hundred", "thousand", "million", "billion", "half", "free", "double", "twice",
];

pub(super) const TIMES: &[&str] = &[
    "january",
    "february",
    "march",
    "april",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
    "morning",
    "noon",
    "evening",
    "night",
    "midnight",
    "daily",
    "weekly",
    "summer",
    "winter",
    "spring",
    "autumn",
    "century",
    "today",
    "tomorrow",
    "hourly",
    "opens",
    "closes",
    "during",
];

const STOP_WORDS: &[&str] = &[
    "a", "about", "after", "all", "also", "an", "and", "any", "are", "as", "at", "be", "because", "been",
    "before", "being", "but", "by", "can", "could", "did", "do", "does", "for", "from", "had", "has", "have",
    "he", "her", "his", "how", "i", "if", "in", "into", "is", "it", "its", "may", "more", "most", "must",
    "of", "on", "one", "only", "or", "other", "our", "she", "should", "so", "some", "such", "than", "that",
    "the", "their", "them", "then", "there", "these", "they", "this", "those", "to", "up", "was", "we",
    "were", "what", "when", "where", "which", "while", "who", "whom", "whose", "why", "will", "with",
    "would", "you", "your",
];
