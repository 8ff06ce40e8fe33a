//! Texts in, vectors out, for those who want many or the same ones again.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::{
    Caller, Rag, RagError,
    embed::{Embedded, EmbedderChoice, check_texts},
};
use crate::models::{Lane, TextRole, vectors::scale_to_one};

/// Texts that the model gets at once when nobody else waits for it.
pub const MOST_AT_ONCE: usize = 64;
/// However busy it is: below, each text costs more.
const LEAST_AT_ONCE: usize = 8;

/// Vectors of a bulk request.
#[derive(Debug, Clone)]
pub struct EmbeddedBatch {
    /// Every vector of length 1, whatever the model does.
    pub embedded: Embedded,
    /// Most texts that the model got at once.
    pub batch_size: usize,
}

/// Vectors of which some were there before.
#[derive(Debug, Clone)]
pub struct EmbeddedCached {
    pub embedded: Embedded,
    /// Indices of texts whose vectors were there.
    pub hits: Vec<usize>,
}

impl Rag {
    /// [`Rag::embed`] in the lane of bulk work, a batch at a time; see [`batch_size`].
    pub async fn embed_batch(
        &self,
        caller: Caller,
        choice: &EmbedderChoice,
        texts: Vec<String>,
        role: TextRole,
    ) -> Result<EmbeddedBatch, RagError> {
        check_texts(&texts, self.catalog.http.max_texts)?;
        self.ledger().admit(caller).await?;
        let embedder = self.embedder(choice).await?;
        let mut embedded = Embedded {
            vectors: Vec::with_capacity(texts.len()),
            space: embedder.space().clone(),
            truncated: Vec::new(),
            tokens: 0,
        };
        let mut largest = 0;
        let mut texts = texts.into_iter();
        while texts.len() > 0 {
            let size = batch_size(texts.len(), self.load.waiting());
            largest = largest.max(size);
            let done = embedded.vectors.len();
            let mut batch = embedder.embed(texts.by_ref().take(size).collect(), role, Lane::Bulk).await?;
            batch.vectors.iter_mut().for_each(|vector| scale_to_one(vector));
            embedded.vectors.append(&mut batch.vectors);
            embedded.truncated.extend(batch.truncated.into_iter().map(|index| done + index));
            embedded.tokens += batch.tokens.iter().sum::<usize>();
        }
        Ok(EmbeddedBatch { embedded: self.counted(caller, embedded), batch_size: largest })
    }

    /// [`Rag::embed`] that computes only what the cache does not hold.
    pub async fn embed_cached(
        &self,
        caller: Caller,
        choice: &EmbedderChoice,
        texts: Vec<String>,
        role: TextRole,
    ) -> Result<EmbeddedCached, RagError> {
        check_texts(&texts, self.catalog.http.max_texts)?;
        self.ledger().admit(caller).await?;
        let embedder = self.embedder(choice).await?;
        let _waiting = self.load.enter();
        let cached = self.cache.embed(caller.tenant.0, &embedder, texts, role, Lane::Interactive).await?;
        Ok(EmbeddedCached {
            embedded: self.counted(caller, Embedded::new(cached.embeddings, embedder.as_ref())),
            hits: cached.hits,
        })
    }
}

/// How many of `left` texts the model gets next, when so many requests wait for vectors.
///
/// 64 shared among those who wait and the bulk request itself, at least 8: what
/// waits then stands behind less work.
pub fn batch_size(left: usize, waiting: usize) -> usize {
    (MOST_AT_ONCE / (waiting + 1)).max(LEAST_AT_ONCE).min(left)
}

/// Interactive requests that wait for vectors.
#[derive(Clone, Default)]
pub struct Load {
    waiting: Arc<AtomicUsize>,
}

/// One request; it counts until it is dropped.
pub struct Waiting {
    waiting: Arc<AtomicUsize>,
}

impl Load {
    /// Counts one more.
    pub fn enter(&self) -> Waiting {
        self.waiting.fetch_add(1, Relaxed);
        Waiting { waiting: Arc::clone(&self.waiting) }
    }

    /// How many there are.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_model_gets_less_at_once() {
        assert_eq!([0, 1, 2, 3, 7, 500].map(|waiting| batch_size(1000, waiting)), [64, 32, 21, 16, 8, 8]);
        assert_eq!([5, 64, 65].map(|left| batch_size(left, 0)), [5, 64, 64]);
        assert_eq!(batch_size(3, 100), 3);
    }

    #[test]
    fn a_request_counts_until_it_is_dropped() {
        let load = Load::default();
        let (first, second) = (load.enter(), load.clone().enter());
        assert_eq!(load.waiting(), 2);
        drop((first, second));
        assert_eq!(load.waiting(), 0);
    }
}
