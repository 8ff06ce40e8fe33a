//! Answers on a file in SQuAD 2.0's format.

use std::{collections::HashMap, path::Path};

use uuid::Uuid;

use super::{
    EvaluationError, Progress,
    baseline::{DataSet, Evaluation, Measured, named},
    scores,
    squad::{Paragraph, Question, Squad},
};
use crate::{
    rag::{
        Caller, Rag,
        ask::{Answer, AskRequest, AskRerank, Method, Writing},
        ingest::SourceFile,
    },
    store::TenantId,
};

/// What is counted, over the questions that were asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AnswerReport {
    pub answerable: usize,
    pub unanswerable: usize,
    /// Answerable questions that got an answer.
    pub answered: usize,
    /// Of the answerable: equal to a gold answer (whole sentences seldom are).
    pub exact_match: f64,
    /// Of the answerable: SQuAD's F1 of the whole answer.
    pub f1: f64,
    /// Of the answerable: the answer holds a gold answer.
    pub contains_gold: f64,
    /// Of the citations: the passage is of the paragraph that the question was written for.
    pub citation_precision: f64,
    /// Of the citations on answerable questions: the quote holds a gold answer.
    pub quotes_gold: f64,
    /// Of the unanswerable: no answer was given.
    pub abstention: f64,
    /// What other cuts of the score would do, by the share of the answerable questions that they keep.
    pub trade_off: Vec<Cut>,
    pub generated: usize,
    pub extractive: usize,
    /// Mean seconds an answer.
    pub seconds: f64,
    /// Name of the test set.
    pub data: String,
    /// Id of the passages' space, and its embedder.
    pub space: String,
    pub model: String,
    /// Passages that each question got.
    pub k: usize,
    /// The score from which on questions were answered.
    pub answer_cut: f32,
    /// Scores of the answerable and of the unanswerable questions; those without any passage are left out.
    pub scores: [Vec<f32>; 2],
}

/// Which questions are asked, and whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerOptions {
    pub half: Half,
    /// Questions at most, spread over the file.
    pub limit: usize,
    /// A backend, or `extractive`; absent: the route's choice.
    pub backend: Option<String>,
}

impl AnswerReport {
    /// Of the answerable questions: how many got an answer.
    pub fn answered_share(&self) -> f64 {
        self.answered as f64 / self.answerable.max(1) as f64
    }

    /// As a baseline keeps it.
    pub fn measured(&self, options: &AnswerOptions, data: &DataSet) -> Measured {
        let AnswerOptions { half, limit, backend } = options.clone();
        let figures = [
            ("answered", self.answered_share()),
            ("exact_match", self.exact_match),
            ("f1", self.f1),
            ("contains_gold", self.contains_gold),
            ("citation_precision", self.citation_precision),
            ("quotes_gold", self.quotes_gold),
            ("abstention", self.abstention),
        ];
        Measured {
            evaluation: Evaluation::Answers { backend, half: half.name().to_owned(), limit },
            data: data.clone(),
            space: self.space.clone(),
            model: self.model.clone(),
            k: self.k,
            counts: named([("answerable", self.answerable), ("unanswerable", self.unanswerable)]),
            figures: named(figures),
        }
    }
}

/// A value of `answer_cut` and what it does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    pub score: f32,
    /// Share of the answerable questions that reach it.
    pub kept: f64,
    /// Share of the unanswerable questions that do not.
    pub refused: f64,
}

/// Shares of the answerable questions that the trade-off is shown for.
const KEPT: [f64; 8] = [1.0, 0.98, 0.95, 0.93, 0.9, 0.85, 0.8, 0.7];

/// Which questions are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    All,
    /// Of every second article, from the first on: to tune on.
    Even,
    /// Of the others: to report.
    Odd,
}

impl Half {
    /// As the command line and baselines write it.
    pub fn name(self) -> &'static str {
        match self {
            Half::All => "all",
            Half::Even => "even",
            Half::Odd => "odd",
        }
    }
}

/// Asks up to `limit` questions, spread over the file, with every paragraph stored.
///
/// Works in a collection of its own, which is deleted at the end.
pub async fn evaluate_answers(
    rag: &Rag,
    file: &Path,
    options: &AnswerOptions,
    progress: &Progress<'_>,
) -> Result<AnswerReport, EvaluationError> {
    let squad = Squad::read(file)?;
    let name = format!("evaluation-{}", Uuid::now_v7());
    let collection = rag.create_collection(TenantId::DEFAULT, &name, None).await?;
    let result = run(rag, &name, &squad, options, progress).await;
    rag.delete_collection(TenantId::DEFAULT, &name).await?;
    let entry = rag.catalog().embedder(&collection.space.model);
    Ok(AnswerReport {
        data: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        k: rag.catalog().ask.passages,
        answer_cut: entry.map_or(-1.0, |entry| entry.answer_cut),
        space: collection.space.id,
        model: collection.space.model,
        ..result?
    })
}

async fn run(
    rag: &Rag,
    collection: &str,
    squad: &Squad,
    options: &AnswerOptions,
    progress: &Progress<'_>,
) -> Result<AnswerReport, EvaluationError> {
    let articles = squad.data.iter().enumerate();
    let paragraphs: Vec<(usize, &str, &Paragraph)> = articles
        .flat_map(|(number, article)| {
            article.paragraphs.iter().map(move |paragraph| (number, article.title.as_str(), paragraph))
        })
        .collect();
    let asked = |number: usize| match options.half {
        Half::All => true,
        Half::Even => number.is_multiple_of(2),
        Half::Odd => number % 2 == 1,
    };
    let mut ids = HashMap::new();
    for (index, (_, title, paragraph)) in paragraphs.iter().enumerate() {
        let file = SourceFile {
            title: Some(title.replace('_', " ")),
            bytes: paragraph.context.clone().into_bytes(),
            content_type: Some("text/plain".into()),
            ..SourceFile::default()
        };
        let ingested = rag.ingest(Caller::DEFAULT, Some(collection), file).await?;
        ids.insert(ingested.saved.id, index);
        progress("paragraphs", index + 1, paragraphs.len());
    }
    let questions: Vec<(usize, &Question)> = paragraphs
        .iter()
        .enumerate()
        .filter(|(_, (number, _, _))| asked(*number))
        .flat_map(|(index, (_, _, paragraph))| paragraph.qas.iter().map(move |question| (index, question)))
        .collect();
    // Every n-th, so that a small sample is of all articles.
    let step = questions.len().div_ceil(options.limit.max(1)).max(1);
    let sample: Vec<_> = questions.into_iter().step_by(step).collect();
    let mut tally = Tally::default();
    for (done, (paragraph, question)) in sample.iter().enumerate() {
        let request = AskRequest {
            caller: Caller::DEFAULT,
            collection: Some(collection.to_owned()),
            question: question.question.clone(),
            k: None,
            filter: None,
            model: options.backend.clone(),
            explain: true,
            writing: Writing::default(),
            rerank: AskRerank::Configured,
        };
        let answer = rag.ask_whole(request).await?;
        tally.add(question, &answer, |document| ids.get(document) == Some(paragraph));
        progress("questions", done + 1, sample.len());
    }
    Ok(tally.report())
}

#[derive(Default)]
struct Tally {
    report: AnswerReport,
    citations: usize,
    good_citations: usize,
    quotes_gold: usize,
    /// Scores of the answerable and the unanswerable questions.
    scores: [Vec<f32>; 2],
}

impl Tally {
    fn add(&mut self, question: &Question, answer: &Answer, right: impl Fn(&Uuid) -> bool) {
        let report = &mut self.report;
        report.seconds += answer.elapsed.as_secs_f64();
        match answer.method {
            Method::Generated => report.generated += 1,
            Method::Extractive => report.extractive += 1,
            Method::Abstained => {}
        }
        let abstained = answer.method == Method::Abstained;
        let score = answer.explanation.as_ref().and_then(|explanation| explanation.score);
        self.scores[usize::from(question.is_impossible)].push(score.unwrap_or(f32::NEG_INFINITY));
        if question.is_impossible {
            report.unanswerable += 1;
            report.abstention += f64::from(u8::from(abstained));
            return;
        }
        report.answerable += 1;
        report.answered += usize::from(!abstained);
        let plain = without_citations(&answer.text);
        let best = |score: &dyn Fn(&str) -> f64| {
            question.answers.iter().map(|gold| score(&gold.text)).fold(0.0, f64::max)
        };
        report.exact_match += best(&|gold| f64::from(u8::from(scores::exact_match(&plain, gold))));
        report.f1 += best(&|gold| scores::f1(&plain, gold));
        report.contains_gold += best(&|gold| f64::from(u8::from(scores::contains(&plain, gold))));
        let holds_gold =
            |quote: &str| question.answers.iter().any(|gold| scores::contains(quote, &gold.text));
        self.quotes_gold += answer.citations.iter().filter(|citation| holds_gold(&citation.quote)).count();
        self.citations += answer.citations.len();
        self.good_citations +=
            answer.citations.iter().filter(|citation| right(&citation.document_id)).count();
    }

    fn report(mut self) -> AnswerReport {
        let report = &mut self.report;
        let share = |sum: f64, of: usize| sum / of.max(1) as f64;
        report.exact_match = share(report.exact_match, report.answerable);
        report.f1 = share(report.f1, report.answerable);
        report.contains_gold = share(report.contains_gold, report.answerable);
        report.abstention = share(report.abstention, report.unanswerable);
        report.seconds = share(report.seconds, report.answerable + report.unanswerable);
        report.citation_precision = share(self.good_citations as f64, self.citations);
        report.quotes_gold = share(self.quotes_gold as f64, self.citations);
        report.scores =
            self.scores.clone().map(|scores| scores.into_iter().filter(|score| score.is_finite()).collect());
        report.trade_off = trade_off(self.scores);
        self.report
    }
}

fn trade_off([mut answerable, unanswerable]: [Vec<f32>; 2]) -> Vec<Cut> {
    answerable.sort_by(f32::total_cmp);
    let share = |found: usize, of: usize| found as f64 / of.max(1) as f64;
    let cut = |kept: f64| {
        let below = ((1.0 - kept) * answerable.len() as f64).round() as usize;
        let score = *answerable.get(below)?;
        let kept = share(answerable.iter().filter(|other| **other >= score).count(), answerable.len());
        let refused = share(unanswerable.iter().filter(|other| **other < score).count(), unanswerable.len());
        Some(Cut { score, kept, refused })
    };
    KEPT.iter().filter_map(|kept| cut(*kept)).collect()
}

/// The answer's words without `[n]`.
fn without_citations(answer: &str) -> String {
    let mut plain = String::with_capacity(answer.len());
    for (index, part) in answer.split('[').enumerate() {
        match part.split_once(']') {
            Some((inside, rest)) if index > 0 && inside.chars().all(|c| c.is_ascii_digit()) => {
                plain.push_str(rest)
            }
            _ => plain.push_str(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trade_off_tells_what_each_cut_keeps_and_refuses() {
        let answerable: Vec<f32> = (0..100).map(|n| n as f32).collect();
        let cuts = trade_off([answerable, vec![-1.0, 0.0, 4.5, 50.0]]);
        assert_eq!(cuts[0], Cut { score: 0.0, kept: 1.0, refused: 0.25 });
        assert_eq!(cuts[2], Cut { score: 5.0, kept: 0.95, refused: 0.75 });
        assert!(trade_off([Vec::new(), vec![1.0]]).is_empty());
    }
}
