//! Evaluations done again and held against what a baseline says.

use std::{fmt, path::PathBuf};

use super::{
    AnswerOptions, AnswerReport, EvaluationError, Half, Progress, RetrievalOptions, RetrievalReport,
    baseline::{Baseline, Evaluation, Measured},
    evaluate_answers, evaluate_retrieval,
};
use crate::{
    config::SearchMode,
    rag::{Rag, search::Reranking},
    store::SearchEffort,
};

/// Less is the same number, written out and read again.
const EQUAL: f64 = 1e-9;

/// A figure then and now.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// What it is of.
    pub subject: String,
    pub figure: String,
    pub before: f64,
    pub now: f64,
    /// By how much it may fall.
    pub tolerance: f64,
}

impl Comparison {
    /// Whether it fell by more than it may.
    pub fn fell(&self) -> bool {
        self.now < self.before - self.tolerance - EQUAL
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { figure, before, now, tolerance, .. } = self;
        write!(f, "{figure} {before:.4} → {now:.4} ({:+.4}, may fall by {tolerance:.4})", now - before)
    }
}

/// What was measured again.
#[derive(Debug, Clone, Default)]
pub struct GateReport {
    pub comparisons: Vec<Comparison>,
    /// Results of another space than the baseline's: `(subject, then, now)`.
    pub spaces: Vec<(String, String, String)>,
    pub retrieval: Vec<RetrievalReport>,
    pub answers: Vec<AnswerReport>,
}

impl GateReport {
    /// Whether a figure fell by more than it may.
    pub fn fell(&self) -> bool {
        self.comparisons.iter().any(Comparison::fell)
    }

    fn compare(&mut self, baseline: &Baseline, before: &Measured, now: &Measured) {
        for (figure, tolerance) in &baseline.tolerance {
            if let (Some(then), Some(is)) = (before.figures.get(figure), now.figures.get(figure)) {
                self.comparisons.push(Comparison {
                    subject: before.subject(),
                    figure: figure.clone(),
                    before: *then,
                    now: *is,
                    tolerance: *tolerance,
                });
            }
        }
        if before.space != now.space {
            self.spaces.push((before.subject(), before.space.clone(), now.space.clone()));
        }
    }
}

/// Does the evaluations of a baseline again; `data` says where test sets are that are not where they were.
///
/// Fails where one cannot be done, before any is; a figure that fell is in the report.
pub async fn run_gate(
    rag: &Rag,
    baseline: &Baseline,
    data: &[PathBuf],
    progress: &Progress<'_>,
) -> Result<GateReport, EvaluationError> {
    let mut found = Vec::with_capacity(baseline.evaluations.len());
    for measured in &baseline.evaluations {
        found.push((measured, measured.data.find(data)?, Plan::of(measured)?));
    }
    let mut report = GateReport::default();
    let mut done: Vec<(&Measured, Measured)> = Vec::new();
    for (measured, path, plan) in &found {
        if done.iter().any(|(before, _)| before == measured) {
            continue;
        }
        match plan {
            Plan::Answers(options) => {
                let answers = evaluate_answers(rag, path, options, progress).await?;
                done.push((measured, answers.measured(options, &measured.data)));
                report.answers.push(answers);
            }
            Plan::Retrieval(options) => {
                // One corpus for all modes.
                let alike: Vec<_> = found
                    .iter()
                    .filter_map(|(other, place, plan)| match plan {
                        Plan::Retrieval(plan) if place == path && plan.differs_in_mode_only(options) => {
                            Some((*other, plan.modes[0]))
                        }
                        _ => None,
                    })
                    .collect();
                let modes = alike.iter().map(|(_, mode)| *mode).collect();
                let options = RetrievalOptions { modes, ..options.clone() };
                let reports = evaluate_retrieval(rag, path, &options, progress).await?;
                for ((before, _), now) in alike.into_iter().zip(reports) {
                    done.push((before, now.measured(&options, &before.data)));
                    report.retrieval.push(now);
                }
            }
        }
    }
    for (before, now) in &done {
        report.compare(baseline, before, now);
    }
    Ok(report)
}

/// An evaluation that can be done again.
enum Plan {
    Retrieval(RetrievalOptions),
    Answers(AnswerOptions),
}

impl Plan {
    fn of(measured: &Measured) -> Result<Self, EvaluationError> {
        let unknown = |what: &str| {
            EvaluationError::data(&measured.data.path, format!("the baseline's evaluation has {what}"))
        };
        match &measured.evaluation {
            Evaluation::Retrieval { mode, exact, model, rerank } => {
                let modes = [SearchMode::Dense, SearchMode::Lexical, SearchMode::Hybrid];
                let known = modes.into_iter().find(|known| known.name() == mode);
                Ok(Plan::Retrieval(RetrievalOptions {
                    model: model.clone(),
                    modes: vec![known.ok_or_else(|| unknown(&format!("the unknown mode `{mode}`")))?],
                    effort: if *exact { SearchEffort::Exact } else { SearchEffort::Indexed },
                    rerank: rerank.clone().map(|name| Reranking {
                        model: Some(name).filter(|name| !name.is_empty()),
                        ..Reranking::default()
                    }),
                }))
            }
            Evaluation::Answers { backend, half, limit } => {
                let known = [Half::All, Half::Even, Half::Odd].into_iter().find(|known| known.name() == half);
                Ok(Plan::Answers(AnswerOptions {
                    backend: backend.clone(),
                    half: known.ok_or_else(|| unknown(&format!("the unknown half `{half}`")))?,
                    limit: *limit,
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_may_fall_by_its_tolerance_and_no_further() {
        let fell = |now: f64| {
            let (subject, figure) = (String::new(), "recall@10".to_owned());
            Comparison { subject, figure, before: 0.8, now, tolerance: 0.1 }.fell()
        };
        assert_eq!([0.9, 0.8, 0.7, 0.6999, 0.0].map(fell), [false, false, false, true, true]);
        let exact = Comparison {
            subject: String::new(),
            figure: "ndcg@10".into(),
            before: 0.733,
            now: 0.7,
            tolerance: 0.01,
        };
        assert_eq!(exact.to_string(), "ndcg@10 0.7330 → 0.7000 (-0.0330, may fall by 0.0100)");
    }
}
