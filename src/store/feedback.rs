//! Answers that were given, and what readers thought of them.
//!
//! Texts are removed with the documents that they quote: by a trigger where the
//! document is deleted after the answer was recorded, here where it was before.

use std::time::Duration;

use time::OffsetDateTime;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    Store, StoreError, TenantId,
    sealed::{ANSWER, ANSWER_COMMENT, ANSWER_QUESTION, SealError, Seals, Text},
};
use crate::config::KeyId;

/// An answer to be recorded.
#[derive(Debug, Clone)]
pub struct NewAnswer {
    pub id: Uuid,
    pub tenant: TenantId,
    pub key: Option<Uuid>,
    pub collection: Uuid,
    /// Question and answer; absent: only the numbers are kept.
    pub texts: Option<(String, String)>,
    /// `generated`, `extractive` or `abstained`.
    pub method: &'static str,
    pub backend: String,
    pub prompt_tokens: i64,
    pub completion_tokens: i64,
    pub cost_nano: i64,
    pub elapsed: Duration,
    pub citations: Vec<QuotedPassage>,
}

/// A place that an answer quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotedPassage {
    /// The number in the answer.
    pub n: i32,
    pub document: Uuid,
    pub passage: Uuid,
}

/// What a reader thought of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rating {
    Up,
    Down,
}

/// An answer that was rated.
#[derive(Debug, Clone, PartialEq)]
pub struct RatedAnswer {
    pub id: Uuid,
    pub collection: String,
    /// Absent where texts are not recorded, or what they quote is deleted.
    pub question: Option<String>,
    pub answer: Option<String>,
    pub method: String,
    pub backend: String,
    pub rating: Rating,
    pub comment: Option<String>,
    pub created_at: OffsetDateTime,
    pub rated_at: OffsetDateTime,
    /// Of documents that are still there.
    pub citations: Vec<QuotedPassage>,
}

impl Rating {
    /// Its name in the API and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Rating::Up => "up",
            Rating::Down => "down",
        }
    }
}

impl RatedAnswer {
    fn open(row: &Row, seals: Seals<'_>) -> Result<Self, StoreError> {
        let id = row.get("id");
        let numbers: Vec<i32> = row.get("numbers");
        let documents: Vec<Uuid> = row.get("documents");
        let passages: Vec<Uuid> = row.get("passages");
        let places = numbers.into_iter().zip(documents).zip(passages);
        Ok(Self {
            id,
            collection: row.get("collection"),
            question: seals.text(row, id, ANSWER_QUESTION)?,
            answer: seals.text(row, id, ANSWER)?,
            method: row.get("method"),
            backend: row.get("backend"),
            // The column's check leaves only these two.
            rating: if row.get::<_, &str>("rating") == "up" { Rating::Up } else { Rating::Down },
            comment: seals.text(row, id, ANSWER_COMMENT)?,
            created_at: row.get("created_at"),
            rated_at: row.get("rated_at"),
            citations: places
                .map(|((n, document), passage)| QuotedPassage { n, document, passage })
                .collect(),
        })
    }
}

impl Store {
    /// Records an answer, without its texts when one of the passages that it quotes is gone by now.
    ///
    /// Nothing is recorded when its collection is gone.
    pub async fn record_answer(&self, answer: &NewAnswer) -> Result<(), StoreError> {
        let documents: Vec<Uuid> = answer.citations.iter().map(|place| place.document).collect();
        let passages: Vec<Uuid> = answer.citations.iter().map(|place| place.passage).collect();
        let numbers: Vec<i32> = answer.citations.iter().map(|place| place.n).collect();
        let (question, text) = answer.texts.as_ref().map(|(question, text)| (question, text)).unzip();
        let texts = AnswerTexts::of(self.seals(answer.tenant), answer.id, question, text, None)?;
        let elapsed_ms = i64::try_from(answer.elapsed.as_millis()).unwrap_or(i64::MAX);
        self.tenant(answer.tenant)
            .await?
            .execute_typed(
                // The lock makes a deletion wait until its trigger sees the citations. Passages are
                // looked up by id, whichever space they are of: a replaced document has its id, not theirs.
                "WITH place AS (
                     SELECT place.* FROM unnest($13::uuid[], $14::uuid[], $15::int[]) AS place (document_id, passage_id, n)
                     JOIN documents d ON d.id = place.document_id AND d.tenant_id = $2
                     WHERE EXISTS (SELECT FROM passages p WHERE p.id = place.passage_id)
                     FOR KEY SHARE OF d
                 ), kept AS (
                     SELECT (SELECT count(*) FROM place) = cardinality($13::uuid[]) AS texts
                 ), answer AS (
                     INSERT INTO answers (id, tenant_id, key_id, collection_id, question, answer, method, backend,
                                          prompt_tokens, completion_tokens, cost_nano, elapsed_ms,
                                          sealed_question, sealed_answer, sealed_by)
                     SELECT $1, $2, $3, c.id, CASE WHEN kept.texts THEN $5 END, CASE WHEN kept.texts THEN $6 END,
                            $7, $8, $9, $10, $11, $12, CASE WHEN kept.texts THEN $16 END,
                            CASE WHEN kept.texts THEN $17 END, CASE WHEN kept.texts THEN $18 END
                     FROM kept, collections c WHERE c.id = $4 AND c.tenant_id = $2
                     RETURNING id
                 ) INSERT INTO answer_citations (answer_id, document_id, passage_id, n)
                   SELECT answer.id, place.document_id, place.passage_id, min(place.n) FROM answer, place
                   GROUP BY 1, 2, 3",
                &[
                    (&answer.id, Type::UUID),
                    (&answer.tenant.0, Type::UUID),
                    (&answer.key, Type::UUID),
                    (&answer.collection, Type::UUID),
                    (&texts.question.plain, Type::TEXT),
                    (&texts.answer.plain, Type::TEXT),
                    (&answer.method, Type::TEXT),
                    (&answer.backend, Type::TEXT),
                    (&answer.prompt_tokens, Type::INT8),
                    (&answer.completion_tokens, Type::INT8),
                    (&answer.cost_nano, Type::INT8),
                    (&elapsed_ms, Type::INT8),
                    (&documents, Type::UUID_ARRAY),
                    (&passages, Type::UUID_ARRAY),
                    (&numbers, Type::INT4_ARRAY),
                    (&texts.question.sealed, Type::BYTEA),
                    (&texts.answer.sealed, Type::BYTEA),
                    (&texts.sealed_by, Type::INT4),
                ],
            )
            .await?;
        Ok(())
    }

    /// Keeps what a reader thought, in the place of what was said before; says whether there is such an answer.
    pub async fn rate_answer(
        &self,
        tenant: TenantId,
        answer: Uuid,
        rating: Rating,
        comment: Option<&str>,
    ) -> Result<bool, StoreError> {
        let mut connection = self.tenant(tenant).await?;
        let transaction = connection.transaction().await?;
        let stored = transaction
            .query_typed_opt(
                "SELECT question, answer, sealed_by, sealed_question, sealed_answer FROM answers
                 WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE",
                &[(&tenant.0, Type::UUID), (&answer, Type::UUID)],
            )
            .await?;
        let Some(stored) = stored else { return Ok(false) };
        // A row has one key: what stands in it is written anew with the remark.
        let seals = self.seals(tenant);
        let question = seals.text(&stored, answer, ANSWER_QUESTION)?;
        let text = seals.text(&stored, answer, ANSWER)?;
        let texts = AnswerTexts::of(seals, answer, question.as_deref(), text.as_deref(), comment)?;
        transaction
            .execute_typed(
                "UPDATE answers SET rating = $2, rated_at = now(), question = $3, answer = $4, comment = $5,
                                    sealed_question = $6, sealed_answer = $7, sealed_comment = $8, sealed_by = $9
                 WHERE id = $1",
                &[
                    (&answer, Type::UUID),
                    (&rating.name(), Type::TEXT),
                    (&texts.question.plain, Type::TEXT),
                    (&texts.answer.plain, Type::TEXT),
                    (&texts.comment.plain, Type::TEXT),
                    (&texts.question.sealed, Type::BYTEA),
                    (&texts.answer.sealed, Type::BYTEA),
                    (&texts.comment.sealed, Type::BYTEA),
                    (&texts.sealed_by, Type::INT4),
                ],
            )
            .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Rated answers in the order they were given, `limit` of them after the one given.
    pub async fn rated_answers(
        &self,
        tenant: TenantId,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<RatedAnswer>, StoreError> {
        let rows = self
            .tenant(tenant)
            .await?
            .query_typed(
                "SELECT a.*, c.name AS collection, places.* FROM answers a JOIN collections c ON c.id = a.collection_id,
                 LATERAL (
                     SELECT coalesce(array_agg(q.n ORDER BY q.n, q.passage_id), '{}') AS numbers,
                            coalesce(array_agg(q.document_id ORDER BY q.n, q.passage_id), '{}') AS documents,
                            coalesce(array_agg(q.passage_id ORDER BY q.n, q.passage_id), '{}') AS passages
                     FROM answer_citations q WHERE q.answer_id = a.id
                 ) places
                 WHERE a.tenant_id = $1 AND a.rating IS NOT NULL AND ($2 IS NULL OR a.id > $2)
                 ORDER BY a.id LIMIT $3",
                &[(&tenant.0, Type::UUID), (&after, Type::UUID), (&limit, Type::INT8)],
            )
            .await?;
        rows.iter().map(|row| RatedAnswer::open(row, self.seals(tenant))).collect()
    }

    /// Removes answers of every tenant that are older, `limit` of them at most; says how many.
    pub async fn sweep_answers(&self, days: u32, limit: i64) -> Result<u64, StoreError> {
        let days = i32::try_from(days).unwrap_or(i32::MAX);
        let removed = self
            .connection()
            .await?
            .query_typed_one("SELECT sweep_answers($1, $2)", &[(&days, Type::INT4), (&limit, Type::INT8)])
            .await?;
        Ok(u64::try_from(removed.get::<_, i64>(0)).unwrap_or(0))
    }
}

/// Texts of an answer, as its row holds them.
struct AnswerTexts<'a> {
    question: Text<'a>,
    answer: Text<'a>,
    comment: Text<'a>,
    /// Null too where there is nothing to seal.
    sealed_by: Option<KeyId>,
}

impl<'a> AnswerTexts<'a> {
    fn of<T: AsRef<str> + ?Sized>(
        seals: Seals<'_>,
        id: Uuid,
        question: Option<&'a T>,
        answer: Option<&'a T>,
        comment: Option<&'a T>,
    ) -> Result<Self, SealError> {
        let written = |column, text: Option<&'a T>| match text {
            Some(text) => seals.seal_text(id, column, text.as_ref()),
            None => Ok(Text::default()),
        };
        let any = question.or(answer).or(comment).is_some();
        Ok(Self {
            question: written(ANSWER_QUESTION, question)?,
            answer: written(ANSWER, answer)?,
            comment: written(ANSWER_COMMENT, comment)?,
            sealed_by: seals.writing().filter(|_| any),
        })
    }
}
