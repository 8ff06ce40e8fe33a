//! Answers to questions that were asked before in other words.
//!
//! Off unless `[ask.cache]` says so. An answer is found only within the same
//! tenant, collection, state of that collection, filter, `k` and model, for a
//! question whose vector is near enough and that asks for the same
//! ([`super::same_question`]). The state is a number that the database raises in the same
//! transaction as any change of the collection's documents, so that an answer
//! never outlives what it was made from, whichever replica changed it. Each
//! replica remembers its own answers.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    ask::{Answer, AskRequest, Cached, NumberedPassage, Writing},
    same_question::ask_the_same,
    search::Reranking,
    usage::Charge,
};
use crate::{
    config::AnswerCacheSettings,
    models::vectors::cosine,
    store::{Collection, Filter, TenantId},
};

/// What must be equal for an answer to be another question's too.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheKey {
    tenant: TenantId,
    collection: Uuid,
    /// State of the documents.
    version: i64,
    space: String,
    model: Option<String>,
    k: usize,
    filter: Option<Filter>,
    writing: Writing,
    rerank: Option<Reranking>,
}

/// The answers of this replica, oldest first.
pub struct AnswerCache {
    settings: AnswerCacheSettings,
    entries: Mutex<VecDeque<Entry>>,
}

struct Entry {
    key: CacheKey,
    question: String,
    vector: Vec<f32>,
    answer: Answer,
    sources: Vec<NumberedPassage>,
    made: Instant,
}

impl CacheKey {
    /// None for a request whose answer tells how it was made.
    ///
    /// `collection` must have been looked up before its passages were read.
    /// `rerank` is what the request comes to.
    pub fn of(
        request: &AskRequest,
        k: usize,
        rerank: Option<Reranking>,
        collection: &Collection,
    ) -> Option<Self> {
        // Every field is named: a new one must be thought of here.
        let AskRequest {
            caller,
            collection: _,
            question: _,
            k: _,
            filter,
            model,
            explain,
            writing,
            rerank: _,
        } = request;
        (!explain).then(|| Self {
            tenant: caller.tenant,
            collection: collection.id,
            version: collection.version,
            space: collection.space.id.clone(),
            model: model.clone(),
            k,
            filter: filter.clone(),
            writing: writing.clone(),
            rerank,
        })
    }
}

impl AnswerCache {
    pub fn new(settings: AnswerCacheSettings) -> Self {
        Self { settings, entries: Mutex::default() }
    }

    /// The answer to the most similar of the questions that ask for the same, marked as cached.
    pub fn get(
        &self,
        key: &CacheKey,
        question: &str,
        vector: &[f32],
    ) -> Option<(Answer, Vec<NumberedPassage>)> {
        if !self.settings.enabled {
            return None;
        }
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = entries.iter().filter(|entry| entry.key == *key && entry.made.elapsed() < self.ttl());
        let (similarity, entry) = fitting
            .map(|entry| (cosine(vector, &entry.vector), entry))
            .filter(|(similarity, _)| *similarity >= self.settings.min_similarity)
            .filter(|(_, entry)| ask_the_same(question, &entry.question))
            .max_by(|(a, _), (b, _)| a.total_cmp(b))?;
        let cached = Cached { question: entry.question.clone(), age: entry.made.elapsed(), similarity };
        // Nothing was spent on it this time.
        let answer = Answer { cached: Some(cached), usage: Charge::default(), ..entry.answer.clone() };
        Some((answer, entry.sources.clone()))
    }

    /// Remembers an answer; the oldest ones make room, and those of earlier states of the collection.
    pub fn put(
        &self,
        key: CacheKey,
        question: &str,
        vector: &[f32],
        answer: &Answer,
        sources: &[NumberedPassage],
    ) {
        if !self.settings.enabled {
            return;
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let ttl = self.ttl();
        entries.retain(|entry| {
            let outdated = entry.key.collection == key.collection && entry.key.version < key.version;
            !outdated && entry.made.elapsed() < ttl && !(entry.key == key && entry.question == question)
        });
        while entries.len() >= self.settings.max_entries {
            entries.pop_front();
        }
        entries.push_back(Entry {
            key,
            question: question.to_owned(),
            vector: vector.to_vec(),
            answer: answer.clone(),
            sources: sources.to_vec(),
            made: Instant::now(),
        });
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(self.settings.ttl_s)
    }
}
