//! Answers on a file in SQuAD 2.0's format.

use std::{collections::HashMap, fs, path::Path};

use serde::Deserialize;
use uuid::Uuid;

use super::{EvaluationError, Progress, scores};
use crate::{
    rag::{
        Caller, Rag,
        ask::{Answer, AskRequest, Method, Writing},
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
    /// Of the unanswerable: no answer was given.
    pub abstention: f64,
    pub generated: usize,
    pub extractive: usize,
    /// Mean seconds an answer.
    pub seconds: f64,
}

#[derive(Deserialize)]
struct Squad {
    data: Vec<Article>,
}

#[derive(Deserialize)]
struct Article {
    title: String,
    paragraphs: Vec<Paragraph>,
}

#[derive(Deserialize)]
struct Paragraph {
    context: String,
    qas: Vec<Question>,
}

#[derive(Deserialize)]
struct Question {
    question: String,
    answers: Vec<Gold>,
    #[serde(default)]
    is_impossible: bool,
}

#[derive(Deserialize)]
struct Gold {
    text: String,
}

/// Asks up to `limit` questions, spread over the file, with every paragraph stored.
///
/// Works in a collection of its own, which is deleted at the end.
pub async fn evaluate_answers(
    rag: &Rag,
    file: &Path,
    limit: usize,
    model: Option<&str>,
    progress: &Progress<'_>,
) -> Result<AnswerReport, EvaluationError> {
    let text = fs::read_to_string(file).map_err(|error| EvaluationError::data(file, error))?;
    let squad: Squad = serde_json::from_str(&text).map_err(|error| EvaluationError::data(file, error))?;
    let name = format!("evaluation-{}", Uuid::now_v7());
    rag.create_collection(TenantId::DEFAULT, &name, None).await?;
    let result = run(rag, &name, &squad, limit, model, progress).await;
    rag.delete_collection(TenantId::DEFAULT, &name).await?;
    result
}

async fn run(
    rag: &Rag,
    collection: &str,
    squad: &Squad,
    limit: usize,
    model: Option<&str>,
    progress: &Progress<'_>,
) -> Result<AnswerReport, EvaluationError> {
    let paragraphs: Vec<(&str, &Paragraph)> = squad
        .data
        .iter()
        .flat_map(|article| article.paragraphs.iter().map(|paragraph| (article.title.as_str(), paragraph)))
        .collect();
    let mut ids = HashMap::new();
    for (index, (title, paragraph)) in paragraphs.iter().enumerate() {
        let file = SourceFile {
            title: Some(title.replace('_', " ")),
            bytes: paragraph.context.clone().into_bytes(),
            content_type: Some("text/plain".into()),
            ..SourceFile::default()
        };
        let ingested = rag.ingest(TenantId::DEFAULT, Some(collection), file).await?;
        ids.insert(ingested.saved.id, index);
        progress("paragraphs", index + 1, paragraphs.len());
    }
    let questions: Vec<(usize, &Question)> = paragraphs
        .iter()
        .enumerate()
        .flat_map(|(index, (_, paragraph))| paragraph.qas.iter().map(move |question| (index, question)))
        .collect();
    // Every n-th, so that a small sample is of all articles.
    let step = questions.len().div_ceil(limit.max(1)).max(1);
    let sample: Vec<_> = questions.into_iter().step_by(step).collect();
    let mut tally = Tally::default();
    for (done, (paragraph, question)) in sample.iter().enumerate() {
        let request = AskRequest {
            caller: Caller::DEFAULT,
            collection: Some(collection.to_owned()),
            question: question.question.clone(),
            k: None,
            filter: None,
            model: model.map(str::to_owned),
            explain: false,
            writing: Writing::default(),
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
        self.report
    }
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
