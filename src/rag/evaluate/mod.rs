//! Quality on published test sets, through the same code that serves.

mod answers;
mod retrieval;
mod scores;

pub use answers::{AnswerReport, evaluate_answers};
pub use retrieval::{RetrievalReport, evaluate_retrieval};

/// A test set that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    #[error("{path}: {reason}")]
    Data { path: String, reason: String },
    #[error(transparent)]
    Rag(#[from] super::RagError),
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

impl EvaluationError {
    fn data(path: &std::path::Path, reason: impl ToString) -> Self {
        Self::Data { path: path.display().to_string(), reason: reason.to_string() }
    }
}
