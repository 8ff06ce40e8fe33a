//! The passages of one question, as they are read: by models, and to check what models write.

use super::{
    NumberedPassage, PassageUse, Use,
    context::{duplicates, fit},
};
use crate::{
    models::Embedder,
    rag::{
        RagError,
        citations::CitedSentence,
        extractive::{Quote, rank},
        grounding::{Evidence, Support, overlap},
        injection::without,
        plain::plain,
    },
};

/// Least score of what supports an answer's first sentence, as a share of the best sentence's.
const MIN_RELEVANCE: f32 = 0.6;

/// What was retrieved for a question.
pub(super) struct Reading {
    pub sources: Vec<NumberedPassage>,
    pub evidence: Evidence,
    /// For each passage the number of a better one that says the same.
    duplicates: Vec<Option<usize>>,
    pub question_vector: Vec<f32>,
    /// The passages' sentences by nearness to the question, once they are ranked.
    pub ranking: Option<Vec<Quote>>,
}

impl Reading {
    pub(super) fn new(question: &str, question_vector: Vec<f32>, sources: Vec<NumberedPassage>) -> Self {
        let evidence = Evidence::new(question, sources.iter().map(|source| source.passage.content.as_str()));
        Self { duplicates: duplicates(&sources), sources, evidence, question_vector, ranking: None }
    }

    pub(super) fn source(&self, n: usize) -> Option<&NumberedPassage> {
        self.sources.get(n.checked_sub(1)?)
    }

    /// How likely the passages hold the answer: the best of similarity + `weight` × support, and that support.
    ///
    /// The weights were tuned on every second article of SQuAD 2.0's development set with MiniLM. With a weight
    /// of 0.4 and a cut of 0.53, of 2,026 questions 92 % of those that a stored paragraph answers are kept, 94 %
    /// of those whose article is not stored are turned away, and 21 % of those written to resemble a paragraph
    /// that lacks the answer. `ragway eval answers` prints what other cuts do.
    pub(super) fn best_support(&self, weight: f32) -> Option<(f32, f32)> {
        let scored = self.sources.iter().enumerate().map(|(index, source)| {
            let support = self.evidence.question_support(index);
            (source.passage.similarity + weight * support, support)
        });
        scored.max_by(|(a, _), (b, _)| a.total_cmp(b))
    }

    /// The texts as a model may see them: without what speaks to it.
    pub(super) fn shown(&self) -> Vec<String> {
        let texts = self.sources.iter().enumerate();
        texts
            .map(|(index, source)| without(&source.passage.content, self.evidence.instructions(index)))
            .collect()
    }

    /// What becomes of each passage where all that is not said twice is read.
    pub(super) fn all_read(&self) -> Vec<PassageUse> {
        let outcome = |duplicate: Option<usize>| duplicate.map_or(Use::Used, Use::Duplicate);
        let uses = self.sources.iter().zip(&self.duplicates);
        uses.map(|(source, duplicate)| PassageUse { n: source.n, outcome: outcome(*duplicate), tokens: None })
            .collect()
    }

    /// What becomes of each passage where `room` tokens are left for them.
    pub(super) fn fit(
        &self,
        texts: &[String],
        room: usize,
        tokens: impl Fn(&str) -> usize,
    ) -> Vec<PassageUse> {
        fit(&self.sources, texts, &self.duplicates, room, tokens)
    }

    /// The text without links and pictures, and without addresses that no passage holds.
    pub(super) fn plain(&self, text: &str) -> String {
        plain(text, &|address| self.sources.iter().any(|source| source.passage.content.contains(address)))
    }

    /// Support in the passages that the sentence cites, else the best in any, marked as attached.
    pub(super) fn supports(&self, sentence: &CitedSentence) -> Vec<(Support, bool)> {
        let mut cited = sentence.cited.clone();
        cited.sort_unstable();
        cited.dedup();
        let own: Vec<_> = cited
            .into_iter()
            .filter_map(|n| self.evidence.support_in(n.checked_sub(1)?, &sentence.text))
            .map(|support| (support, false))
            .collect();
        if own.is_empty() {
            return self
                .evidence
                .support(&sentence.text)
                .map(|support| (support, true))
                .into_iter()
                .collect();
        }
        own
    }

    /// Ranks the passages' sentences; returns the tokens that the embedder read.
    pub(super) async fn rank(&mut self, embedder: &dyn Embedder) -> Result<usize, RagError> {
        let duplicates = self.duplicates.iter().enumerate();
        let passages: Vec<usize> =
            duplicates.filter(|(_, of)| of.is_none()).map(|(index, _)| index).collect();
        let (ranking, tokens) = rank(embedder, &self.question_vector, &passages, &self.evidence).await?;
        self.ranking = Some(ranking);
        Ok(tokens)
    }

    /// Whether the words that support a sentence have to do with the question, by the ranking.
    ///
    /// A small model copies true sentences that answer something else.
    pub(super) fn is_relevant(&self, support: &Support) -> bool {
        let ranking = self.ranking.as_deref().unwrap_or_default();
        let best = ranking.first().map_or(0.0, |quote| quote.score);
        let score = ranking
            .iter()
            .filter(|quote| quote.passage == support.passage)
            .filter(|quote| overlap(&quote.range, &support.quote))
            .map(|quote| quote.score)
            .reduce(f32::max);
        score.is_none_or(|score| score >= best * MIN_RELEVANCE)
    }
}
