//! Quality on published test sets, through the same code that serves.

mod answers;
mod baseline;
mod bitext;
mod cross_lingual;
mod feedback;
mod gate;
mod grounding;
mod image_text;
mod retrieval;
pub(super) mod scores;
mod squad;
mod sts;
mod vectors;

pub use answers::{AnswerOptions, AnswerReport, Cut, Half, evaluate_answers};
pub use baseline::{Baseline, DataSet, Measured};
pub use bitext::{PairScore, evaluate_bitext, mean as bitext_mean};
pub use cross_lingual::{
    CrossLingualReport, SearchedPair, evaluate_cross_lingual, evaluate_cross_lingual_search,
};
pub use feedback::{FeedbackReport, evaluate_feedback};
pub use gate::{Comparison, GateReport, run_gate};
pub use grounding::{Claim, GroundingReport, evaluate_grounding};
pub use image_text::{ImageTextReport, evaluate_image_text};
pub use retrieval::{Cutoff, RetrievalOptions, RetrievalReport, evaluate_retrieval};
pub use sts::{StsReport, evaluate_sts};

/// Is told the stage, how much of it is done, and how much there is.
pub type Progress<'a> = dyn Fn(&'static str, usize, usize) + Sync + 'a;

/// A test set that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    #[error("{path}: {reason}")]
    Data { path: String, reason: String },
    #[error("model `{0}` reads no images; name one of kind `clip` with --model")]
    ReadsNoImages(String),
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
