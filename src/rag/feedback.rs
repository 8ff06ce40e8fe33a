//! Answers are recorded, and readers say what they think of them.

use uuid::Uuid;

use super::{
    Caller, Rag, RagError,
    ask::{Answer, Method},
    usage::whole,
};
use crate::store::{Collection, NewAnswer, QuotedPassage, RatedAnswer, Rating};

/// Longest remark, in characters.
pub const MAX_COMMENT: usize = 4000;

impl Rag {
    /// Keeps what a caller thinks of an answer that it got; the last word counts.
    pub async fn rate(
        &self,
        caller: Caller,
        answer: Uuid,
        rating: Rating,
        comment: Option<&str>,
    ) -> Result<(), RagError> {
        let comment = comment.map(str::trim).filter(|comment| !comment.is_empty());
        if comment.is_some_and(|comment| comment.chars().count() > MAX_COMMENT || comment.contains('\0')) {
            return Err(RagError::Invalid(format!(
                "comment: must not be longer than {MAX_COMMENT} characters, or hold the character NUL"
            )));
        }
        match self.store.rate_answer(caller.tenant, answer, rating, comment).await? {
            true => Ok(()),
            false => Err(RagError::UnknownAnswer(answer)),
        }
    }

    /// Rated answers in the order they were given, a page at a time.
    pub async fn rated_answers(
        &self,
        caller: Caller,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<RatedAnswer>, RagError> {
        Ok(self.store.rated_answers(caller.tenant, after, limit).await?)
    }

    /// Records an answer; that it could not be does not keep it from the caller.
    pub(super) async fn record_answer(
        &self,
        caller: Caller,
        collection: &Collection,
        question: &str,
        answer: &Answer,
    ) {
        let recorded = NewAnswer {
            id: answer.id,
            tenant: caller.tenant,
            key: caller.key,
            collection: collection.id,
            texts: self.catalog.ask.record.then(|| (question.to_owned(), answer.text.clone())),
            method: answer.method.name(),
            backend: answer.model.clone(),
            prompt_tokens: whole(answer.usage.prompt_tokens),
            completion_tokens: whole(answer.usage.completion_tokens),
            cost_nano: answer.usage.cost_nano,
            elapsed: answer.elapsed,
            citations: answer
                .citations
                .iter()
                .map(|citation| QuotedPassage {
                    n: i32::try_from(citation.n).unwrap_or(i32::MAX),
                    document: citation.document_id,
                    passage: citation.passage_id,
                })
                .collect(),
        };
        if let Err(error) = self.store.record_answer(&recorded).await {
            tracing::warn!(%error, answer = %answer.id, "an answer was not recorded, it cannot be rated: {error}");
        }
    }
}

impl Method {
    /// Its name in the API and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Method::Generated => "generated",
            Method::Extractive => "extractive",
            Method::Abstained => "abstained",
        }
    }
}
