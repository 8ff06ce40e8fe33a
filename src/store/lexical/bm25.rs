//! BM25: how much a passage is about the words of a query.
//!
//! Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and
//! Beyond" (2009), with the inverse document frequency that cannot be negative.

use std::collections::BTreeMap;

/// How soon more of the same word adds nothing.
pub(super) const K1: f64 = 1.2;
/// How much a long passage's words count less.
pub(super) const B: f64 = 0.75;
/// Passages that are scored at most, where the query has rarer words than those that more hold.
const MAX_CANDIDATES: i64 = 5_000;
/// Terms of a query that are used, the rarest.
pub(super) const MAX_TERMS: usize = 64;

/// How many passages there are, and of what length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Statistics {
    pub passages: i64,
    pub words: i64,
}

/// What one language makes of a word of the query.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Variant {
    /// Number of the word.
    pub word: i64,
    /// Absent: the language leaves the word out, as one that stands everywhere.
    pub term: Option<String>,
    /// Passages with the term; without one, all passages of the language.
    pub passages: i64,
}

/// A term of the query as it counts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WeighedTerm {
    pub term: String,
    /// Inverse document frequency × (k1 + 1), which is the most that the term adds to a score.
    pub weight: f64,
    /// Whether passages are looked up by it. By the others they are only scored.
    pub selects: bool,
}

/// A weighed query.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Weights {
    /// The rarest first.
    pub terms: Vec<WeighedTerm>,
    /// What a passage would score that was all about every word, also those that stand nowhere.
    pub bound: f64,
}

/// Weighs the words of a query by how few passages hold them.
///
/// A word has a term in each language of the collection and is as common as these together: else
/// "the" would be a rare word where one passage was taken for Dutch.
pub(super) fn weigh(statistics: Statistics, variants: &[Variant]) -> Weights {
    let mut words: BTreeMap<i64, Vec<&Variant>> = BTreeMap::new();
    for variant in variants {
        words.entry(variant.word).or_default().push(variant);
    }
    let mut common: BTreeMap<&str, i64> = BTreeMap::new();
    let mut bound = 0.0;
    for variants in words.values() {
        let mut terms: BTreeMap<&str, i64> = BTreeMap::new();
        for variant in variants {
            terms.extend(variant.term.as_deref().map(|term| (term, variant.passages)));
        }
        let left_out = variants.iter().filter(|variant| variant.term.is_none());
        let passages = left_out.map(|variant| variant.passages).sum::<i64>() + terms.values().sum::<i64>();
        if !terms.is_empty() {
            bound += weight(statistics, passages);
        }
        for (term, there) in terms.into_iter().filter(|(_, there)| *there > 0) {
            let counted = common.entry(term).or_insert(passages.max(there));
            *counted = (*counted).max(passages);
        }
    }
    let mut common: Vec<_> = common.into_iter().collect();
    common.sort_by_key(|(_, passages)| *passages);
    common.truncate(MAX_TERMS);
    let mut candidates = 0;
    let terms = common.into_iter().enumerate().map(|(index, (term, passages))| {
        candidates += passages;
        let selects = index == 0 || candidates <= MAX_CANDIDATES;
        WeighedTerm { term: term.to_owned(), weight: weight(statistics, passages), selects }
    });
    Weights { terms: terms.collect(), bound }
}

fn weight(statistics: Statistics, passages: i64) -> f64 {
    let all = statistics.passages.max(passages) as f64;
    let with = passages as f64;
    (1.0 + (all - with + 0.5) / (with + 0.5)).ln() * (K1 + 1.0)
}

/// Least values of `ts_rank` by which PostgreSQL tells how often a term stands in a passage.
///
/// Of one term, where all weights are 1, it is 6/π² × (1/1² + 1/2² + … + 1/n²): the nth place of
/// the result lies between the values of n − 1 and n. More than 64 times counts as 64: by then
/// BM25 is within 2 % of its limit.
pub(super) fn rank_steps() -> Vec<f64> {
    let share = 6.0 / std::f64::consts::PI.powi(2);
    let mut sum = 0.0;
    let steps = (1..=64).map(|n| {
        let next = share / f64::from(n * n);
        sum += next;
        sum - next / 2.0
    });
    steps.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variant(word: i64, term: Option<&str>, passages: i64) -> Variant {
        Variant { word, term: term.map(str::to_owned), passages }
    }

    #[test]
    fn rare_words_weigh_more() {
        let statistics = Statistics { passages: 10, words: 1000 };
        let weights = weigh(
            statistics,
            &[variant(1, Some("ferri"), 4), variant(2, Some("nordbi"), 1), variant(3, Some("none"), 0)],
        );
        // ln(1 + (10 − 1 + 0.5) / (1 + 0.5)) × 2.2 and ln(1 + (10 − 4 + 0.5) / (4 + 0.5)) × 2.2.
        let expected = [("nordbi", 4.3833), ("ferri", 1.9664)];
        assert_eq!(weights.terms.len(), 2);
        for (term, (name, weight)) in weights.terms.iter().zip(expected) {
            assert_eq!(term.term, name);
            assert!((term.weight - weight).abs() < 1e-4, "{term:?}");
            assert!(term.selects);
        }
        // The third stands nowhere: ln(1 + 10.5 / 0.5) × 2.2 = 6.8003.
        assert!((weights.bound - (4.3833 + 1.9664 + 6.8003)).abs() < 1e-3, "{}", weights.bound);
    }

    #[test]
    fn a_word_is_as_common_as_its_terms_in_all_languages() {
        let statistics = Statistics { passages: 1000, words: 100_000 };
        // "the" is left out of 990 English passages and stands in 3 that were taken for Dutch.
        let weights = weigh(statistics, &[variant(1, None, 990), variant(1, Some("the"), 3)]);
        assert!(weights.terms[0].weight < 0.02, "{weights:?}");
        // "running" is `run` in English; its Dutch term is not rarer than that.
        let two = weigh(statistics, &[variant(1, Some("run"), 400), variant(1, Some("running"), 3)]);
        assert_eq!(two.terms[0].weight, two.terms[1].weight);
        assert!(weigh(statistics, &[variant(1, None, 1000)]).terms.is_empty());
    }

    #[test]
    fn passages_are_looked_up_by_the_rarer_words() {
        let statistics = Statistics { passages: 1_000_000, words: 100_000_000 };
        let weights = weigh(statistics, &[variant(1, Some("common"), 400_000), variant(2, Some("rare"), 12)]);
        let selects: Vec<_> = weights.terms.iter().map(|term| (term.term.as_str(), term.selects)).collect();
        assert_eq!(selects, [("rare", true), ("common", false)]);
        // Where there is no rarer one, the common one has to do.
        assert!(weigh(statistics, &[variant(1, Some("common"), 400_000)]).terms[0].selects);
        let many: Vec<_> = (0..100).map(|n| variant(n, Some("x"), 1)).collect();
        assert_eq!(weigh(statistics, &many).terms.len(), 1);
    }

    #[test]
    fn ranks_tell_how_often_a_term_stands() {
        let steps = rank_steps();
        let rank = |n: i32| (1..=n).map(|j| 1.0 / f64::from(j * j)).sum::<f64>() / 1.644_934_066_85;
        for n in 1..=64 {
            assert_eq!(steps.iter().filter(|step| **step <= rank(n)).count(), n as usize);
        }
        assert_eq!(steps.iter().filter(|step| **step <= 0.0).count(), 0);
    }
}
