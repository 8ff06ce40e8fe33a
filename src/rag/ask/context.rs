//! What a backend is given to read: which passages, in which order, and what became of the others.
//!
//! Passages come best first and stay so: small models read the beginning best,
//! and what no longer fits is what matters least. Neighbours of one document are
//! joined at the place of the better one, without the sentences that both hold.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
};

use unicode_segmentation::UnicodeSegmentation;

use super::{NumberedPassage, PassageUse, Use};

/// Share of runs of three words that two passages have in common when one of them is enough.
const SAME: f32 = 0.85;
/// Least length of an overlap of neighbours, in bytes; shorter ones are chance.
const MIN_OVERLAP: usize = 8;

/// A piece of the prompt: one passage, or several of one document that follow each other.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Block {
    /// The number of the best of its passages.
    pub n: usize,
    pub title: Option<String>,
    pub text: String,
}

/// For each passage the number of a better one that says the same.
pub(super) fn duplicates(sources: &[NumberedPassage]) -> Vec<Option<usize>> {
    let hashes = RandomState::new();
    let shapes: Vec<Shape> =
        sources.iter().map(|source| Shape::of(&source.passage.content, &hashes)).collect();
    let mut found: Vec<Option<usize>> = Vec::with_capacity(sources.len());
    for (index, shape) in shapes.iter().enumerate() {
        let earlier = (0..index)
            .find(|earlier| found[*earlier].is_none() && shape.says_nothing_beside(&shapes[*earlier]));
        found.push(earlier.map(|earlier| sources[earlier].n));
    }
    found
}

/// The passages that fit, best first: what became of each of `sources`.
///
/// `texts` are what is shown of them, `tokens` counts those of a text.
pub(super) fn fit(
    sources: &[NumberedPassage],
    texts: &[String],
    duplicates: &[Option<usize>],
    room: usize,
    tokens: impl Fn(&str) -> usize,
) -> Vec<PassageUse> {
    let mut left = room;
    let uses = sources.iter().zip(texts).zip(duplicates);
    uses.map(|((source, text), duplicate)| {
        let tokens =
            tokens(text) + tokens(source.passage.title.as_deref().unwrap_or_default()) + LABEL_TOKENS;
        let outcome = match duplicate {
            Some(n) => Use::Duplicate(*n),
            None if tokens > left => Use::OverBudget,
            None => {
                left -= tokens;
                Use::Used
            }
        };
        PassageUse { n: source.n, outcome, tokens: Some(tokens) }
    })
    .collect()
}

/// Joins the used neighbours: the blocks in the order of their best passage.
pub(super) fn blocks(sources: &[NumberedPassage], texts: &[String], uses: &mut [PassageUse]) -> Vec<Block> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in (0..sources.len()).filter(|index| uses[*index].outcome == Use::Used) {
        let neighbours: Vec<usize> = (0..groups.len())
            .filter(|group| groups[*group].iter().any(|other| adjoin(&sources[index], &sources[*other])))
            .collect();
        // One passage can close the gap between two groups.
        match neighbours.as_slice() {
            [] => groups.push(vec![index]),
            [group, rest @ ..] => {
                for other in rest.iter().rev() {
                    let moved = groups.remove(*other);
                    groups[*group].extend(moved);
                }
                groups[*group].push(index);
            }
        }
    }
    groups.into_iter().map(|group| joined(sources, texts, uses, group)).collect()
}

fn joined(
    sources: &[NumberedPassage],
    texts: &[String],
    uses: &mut [PassageUse],
    mut group: Vec<usize>,
) -> Block {
    let best = group.iter().copied().min().unwrap_or(0);
    for index in group.iter().filter(|index| **index != best) {
        uses[*index].outcome = Use::Merged(sources[best].n);
    }
    group.sort_by_key(|index| sources[*index].passage.ordinal);
    let mut text = String::new();
    for index in group {
        let next = texts[index].as_str();
        let shared = overlap(&text, next);
        if shared == 0 && !text.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(&next[shared..]);
    }
    Block { n: sources[best].n, title: sources[best].passage.title.clone(), text }
}

fn adjoin(a: &NumberedPassage, b: &NumberedPassage) -> bool {
    a.passage.document_id == b.passage.document_id && a.passage.ordinal.abs_diff(b.passage.ordinal) == 1
}

/// Bytes at the end of `first` that `second` begins with.
fn overlap(first: &str, second: &str) -> usize {
    let longest = first.len().min(second.len());
    (MIN_OVERLAP..=longest)
        .rev()
        .find(|length| second.is_char_boundary(*length) && first.ends_with(&second[..*length]))
        .unwrap_or(0)
}

/// Tokens of a number and the line ends around a passage, amply.
const LABEL_TOKENS: usize = 8;

/// What a passage says, coarsely: hashes of its words and of runs of three of them.
struct Shape {
    runs: HashSet<u64>,
    words: HashSet<u64>,
}

impl Shape {
    fn of(text: &str, hashes: &RandomState) -> Self {
        let words: Vec<u64> = text.unicode_words().map(|word| hashes.hash_one(word.to_lowercase())).collect();
        let width = words.len().clamp(1, 3);
        let runs = words.windows(width).map(|run| hashes.hash_one(run)).collect();
        Self { runs, words: words.into_iter().collect() }
    }

    /// Two versions of a text that differ in a number, a name or a "not" are two texts: no word may be new.
    fn says_nothing_beside(&self, other: &Shape) -> bool {
        let shared = self.runs.intersection(&other.runs).count();
        self.words.is_subset(&other.words) && shared as f32 >= SAME * self.runs.len() as f32
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{super::test_source, *};

    fn source(n: usize, document: u128, ordinal: i32, content: &str) -> NumberedPassage {
        let mut source = test_source(n, content);
        source.passage.document_id = Uuid::from_u128(document);
        source.passage.ordinal = ordinal;
        source
    }

    fn assemble(sources: &[NumberedPassage], room: usize) -> (Vec<Block>, Vec<Use>) {
        let texts: Vec<String> = sources.iter().map(|source| source.passage.content.clone()).collect();
        let words = |text: &str| text.split_whitespace().count();
        let mut uses = fit(sources, &texts, &duplicates(sources), room, words);
        let blocks = blocks(sources, &texts, &mut uses);
        (blocks, uses.into_iter().map(|passage| passage.outcome).collect())
    }

    #[test]
    fn neighbours_become_one_block_without_what_they_share() {
        let sources = [
            source(1, 7, 2, "Gates close at five. Dogs stay on deck."),
            source(2, 8, 0, "Soup is served until midnight."),
            source(3, 7, 3, "Dogs stay on deck. Cats travel free."),
            source(4, 7, 0, "The ferry leaves at nine."),
            source(5, 7, 1, "It arrives at ten. Gates close at five."),
        ];
        let (blocks, uses) = assemble(&sources, 1000);
        let text = "The ferry leaves at nine.\n\nIt arrives at ten. Gates close at five. Dogs stay on deck. Cats travel free.";
        assert_eq!(blocks.len(), 2);
        assert_eq!((blocks[0].n, blocks[0].text.as_str(), blocks[1].n), (1, text, 2));
        assert_eq!(uses, [Use::Used, Use::Used, Use::Merged(1), Use::Merged(1), Use::Merged(1)]);
    }

    #[test]
    fn what_is_said_already_is_dropped_unless_a_word_differs() {
        let text = "A bicycle costs 3 euros each way and must be booked two days before the ferry leaves.";
        let sources = [
            source(1, 1, 0, text),
            source(2, 2, 0, &text.replace("euros", "Euros")),
            source(3, 3, 0, &text.replace('3', "4")),
            source(4, 4, 0, "A bicycle costs 3 euros each way."),
            source(5, 5, 0, "渡轮九点出发。"),
        ];
        let (_, uses) = assemble(&sources, 1000);
        assert_eq!(uses, [Use::Used, Use::Duplicate(1), Use::Used, Use::Duplicate(1), Use::Used]);
    }

    #[test]
    fn what_does_not_fit_is_told_and_what_is_smaller_may_fit() {
        let sources = [
            source(1, 1, 0, "one two three"),
            source(2, 2, 0, "a much longer one that has no room at all here"),
            source(3, 3, 0, "four"),
        ];
        let (blocks, uses) = assemble(&sources, 2 * LABEL_TOKENS + 5);
        assert_eq!(uses, [Use::Used, Use::OverBudget, Use::Used]);
        assert_eq!(blocks.iter().map(|block| block.n).collect::<Vec<_>>(), [1, 3]);
    }
}
