//! What readers thought of answers.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{EvaluationError, Progress};
use crate::{
    rag::{Caller, Rag},
    store::{RatedAnswer, Rating},
};

/// Answers of one page.
const PAGE: i64 = 500;

/// How many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeedbackReport {
    /// Good and bad ones of each backend.
    pub by_backend: BTreeMap<String, (usize, usize)>,
    pub comments: usize,
}

/// Counts the rated answers and writes them to `export`, one JSON object a line:
///
/// `{answer_id, created_at, rated_at, collection, question, answer, method, backend, rating, comment,
/// citations: [{n, document_id, passage_id}]}`. `question` and `answer` are null where texts are not
/// recorded or a document that was quoted is deleted.
pub async fn evaluate_feedback(
    rag: &Rag,
    export: Option<&Path>,
    progress: &Progress<'_>,
) -> Result<FeedbackReport, EvaluationError> {
    let failed = |path: &Path, error: std::io::Error| EvaluationError::data(path, error);
    let create = |path| File::create(path).map(BufWriter::new).map_err(|error| failed(path, error));
    let mut file = export.map(create).transpose()?;
    let (mut report, mut after, mut count) = (FeedbackReport::default(), None, 0);
    loop {
        let page = rag.rated_answers(Caller::DEFAULT, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        count += page.len();
        for answer in &page {
            report.add(answer);
            if let (Some(file), Some(path)) = (&mut file, export) {
                writeln!(file, "{}", line(answer)).map_err(|error| failed(path, error))?;
            }
        }
        progress("answers", count, count);
    }
    if let (Some(mut file), Some(path)) = (file, export) {
        file.flush().map_err(|error| failed(path, error))?;
    }
    Ok(report)
}

impl FeedbackReport {
    fn add(&mut self, answer: &RatedAnswer) {
        let (up, down) = self.by_backend.entry(answer.backend.clone()).or_default();
        match answer.rating {
            Rating::Up => *up += 1,
            Rating::Down => *down += 1,
        }
        self.comments += usize::from(answer.comment.is_some());
    }
}

fn line(answer: &RatedAnswer) -> serde_json::Value {
    let time = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
    let citations = answer
        .citations
        .iter()
        .map(|place| json!({ "n": place.n, "document_id": place.document, "passage_id": place.passage }));
    json!({
        "answer_id": answer.id,
        "created_at": time(answer.created_at),
        "rated_at": time(answer.rated_at),
        "collection": answer.collection,
        "question": answer.question,
        "answer": answer.answer,
        "method": answer.method,
        "backend": answer.backend,
        "rating": answer.rating.name(),
        "comment": answer.comment,
        "citations": citations.collect::<Vec<_>>(),
    })
}
