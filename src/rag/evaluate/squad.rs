//! The format of SQuAD 2.0: articles of paragraphs, and questions on each.

use std::{fs, path::Path};

use serde::Deserialize;

use super::EvaluationError;

#[derive(Deserialize)]
pub(super) struct Squad {
    pub data: Vec<Article>,
}

#[derive(Deserialize)]
pub(super) struct Article {
    pub title: String,
    pub paragraphs: Vec<Paragraph>,
}

#[derive(Deserialize)]
pub(super) struct Paragraph {
    pub context: String,
    pub qas: Vec<Question>,
}

#[derive(Deserialize)]
pub(super) struct Question {
    pub question: String,
    pub answers: Vec<Gold>,
    #[serde(default)]
    pub is_impossible: bool,
}

/// An answer as it stands in the paragraph.
#[derive(Deserialize)]
pub(super) struct Gold {
    pub text: String,
    /// Unicode code points before it.
    pub answer_start: usize,
}

impl Squad {
    pub(super) fn read(file: &Path) -> Result<Self, EvaluationError> {
        let text = fs::read_to_string(file).map_err(|error| EvaluationError::data(file, error))?;
        serde_json::from_str(&text).map_err(|error| EvaluationError::data(file, error))
    }
}
