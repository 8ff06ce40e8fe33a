//! The published measures.

use std::collections::{HashMap, HashSet};

/// Normalised discounted cumulative gain of the first `k`, gains as given (trec_eval's `ndcg_cut`).
pub fn ndcg(ranked: &[&str], relevant: &HashMap<String, f64>, k: usize) -> f64 {
    let discount = |(rank, gain): (usize, f64)| gain / ((rank + 2) as f64).log2();
    let gained: f64 = ranked
        .iter()
        .take(k)
        .map(|id| relevant.get(*id).copied().unwrap_or(0.0))
        .enumerate()
        .map(discount)
        .sum();
    let mut best: Vec<f64> = relevant.values().copied().collect();
    best.sort_by(|a, b| b.total_cmp(a));
    let ideal: f64 = best.into_iter().take(k).enumerate().map(discount).sum();
    if ideal == 0.0 { 0.0 } else { gained / ideal }
}

/// Share of the relevant ones among the first `k`.
pub fn recall(ranked: &[&str], relevant: &HashMap<String, f64>, k: usize) -> f64 {
    let wanted = relevant.values().filter(|gain| **gain > 0.0).count();
    let found = ranked.iter().take(k).filter(|id| relevant.get(**id).is_some_and(|gain| *gain > 0.0)).count();
    if wanted == 0 { 0.0 } else { found as f64 / wanted as f64 }
}

/// One over the rank of the first relevant one, 0 beyond `k`.
pub fn reciprocal_rank(ranked: &[&str], relevant: &HashMap<String, f64>, k: usize) -> f64 {
    let first = ranked.iter().take(k).position(|id| relevant.get(*id).is_some_and(|gain| *gain > 0.0));
    first.map_or(0.0, |rank| 1.0 / (rank + 1) as f64)
}

/// Spearman's rank correlation; equal values share the mean of their ranks. 0 where one side is constant.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let covariance =
        |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    let spread = (covariance(&a, &a) * covariance(&b, &b)).sqrt();
    if spread == 0.0 { 0.0 } else { covariance(&a, &b) / spread }
}

/// Ranks from 1, in the order of `values`.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut below = 0;
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = below as f64 + (equal.len() as f64 + 1.0) / 2.0;
        equal.iter().for_each(|index| ranks[*index] = rank);
        below += equal.len();
    }
    ranks
}

/// Whether two answers are equal as SQuAD counts: case, punctuation and articles aside.
pub fn exact_match(answer: &str, gold: &str) -> bool {
    words(answer) == words(gold)
}

/// Harmonic mean of word precision and word recall, as SQuAD counts.
pub fn f1(answer: &str, gold: &str) -> f64 {
    let (answer, gold) = (words(answer), words(gold));
    if answer.is_empty() || gold.is_empty() {
        return f64::from(u8::from(answer == gold));
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &gold {
        *left.entry(word).or_default() += 1;
    }
    let mut common = 0;
    for word in &answer {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let (precision, recall) = (common as f64 / answer.len() as f64, common as f64 / gold.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

/// Whether the answer holds the gold answer as a run of words.
pub fn contains(answer: &str, gold: &str) -> bool {
    let (answer, gold) = (words(answer), words(gold));
    !gold.is_empty() && answer.windows(gold.len()).any(|window| window == gold)
}

fn words(text: &str) -> Vec<String> {
    let articles = HashSet::from(["a", "an", "the"]);
    let kept: String =
        text.to_lowercase().chars().filter(|c| c.is_alphanumeric() || c.is_whitespace()).collect();
    kept.split_whitespace().filter(|word| !articles.contains(word)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relevant(pairs: &[(&str, f64)]) -> HashMap<String, f64> {
        pairs.iter().map(|(id, gain)| ((*id).to_owned(), *gain)).collect()
    }

    #[test]
    fn ndcg_is_that_of_the_definition() {
        let gains = relevant(&[("a", 1.0), ("b", 1.0)]);
        // Found at ranks 2 and 3: (1/log2 3 + 1/log2 4) / (1 + 1/log2 3).
        let expected = (1.0 / 3f64.log2() + 0.5) / (1.0 + 1.0 / 3f64.log2());
        assert!((ndcg(&["x", "a", "b"], &gains, 10) - expected).abs() < 1e-12);
        assert_eq!(ndcg(&["a", "b"], &gains, 10), 1.0);
        assert_eq!(ndcg(&["x", "a"], &gains, 1), 0.0);
    }

    #[test]
    fn recall_and_reciprocal_rank_respect_the_cut() {
        let gains = relevant(&[("a", 1.0), ("b", 2.0), ("c", 0.0)]);
        assert_eq!(recall(&["c", "a"], &gains, 10), 0.5);
        assert_eq!(reciprocal_rank(&["c", "a"], &gains, 10), 0.5);
        assert_eq!(reciprocal_rank(&["c", "a"], &gains, 1), 0.0);
    }

    #[test]
    fn spearman_is_the_correlation_of_ranks() {
        // 1 - 6 Σd² / n(n² - 1), ranks 1 2 3 4 against 2 1 4 3: Σd² = 4.
        assert!((spearman(&[1.0, 2.0, 30.0, 400.0], &[0.2, 0.1, 0.9, 0.8]) - 0.6).abs() < 1e-12);
        assert!((spearman(&[1.0, 2.0, 3.0], &[9.0, 8.0, -7.0]) + 1.0).abs() < 1e-12);
        // Ranks 1 2.5 2.5 4 against 1 2 3 4: covariance 4.5, spreads 4.5 and 5.
        let tied = spearman(&[0.0, 5.0, 5.0, 6.0], &[1.0, 2.0, 3.0, 4.0]);
        assert!((tied - 4.5 / 22.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), 0.0);
    }

    #[test]
    fn squad_measures_ignore_case_articles_and_punctuation() {
        assert!(exact_match("The Normans.", "normans"));
        assert!((f1("the Normans came", "Normans") - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(f1("Vikings", "Normans"), 0.0);
        assert!(contains("They came in 1066, it says.", "in 1066"));
        assert!(!contains("They came in 10667.", "1066"));
    }
}
