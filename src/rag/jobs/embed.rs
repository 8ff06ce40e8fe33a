//! The job that embeds texts.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Work, caller_of, from_stored, to_stored};
use crate::{
    config::EmbeddingSpace,
    models::{Embeddings, Lane, ModelError, TextRole},
    rag::{
        Caller, Rag, RagError,
        embed::{Embedded, EmbedderChoice, check_texts},
        usage::{Operation, Tokens},
    },
    store::{ClaimedJob, JobStep},
};

/// Texts of one step: what is done again, at most, after an interruption.
const STEP_TEXTS: usize = 64;

/// Texts to be embedded as passages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EmbedWork {
    pub texts: Vec<String>,
    /// The space at the time of the request: a result holds vectors of one space only,
    /// whatever the replica that goes on has loaded.
    pub space: String,
}

/// Vectors of one step as they are stored: half the size of numbers written out.
#[derive(Serialize, Deserialize)]
struct StoredVectors {
    /// Little-endian f32, one vector after the other, in base64.
    vectors: String,
    /// Indices among all texts of the job.
    truncated: Vec<usize>,
    tokens: usize,
}

/// What all vectors of a job have in common.
#[derive(Serialize, Deserialize)]
struct StoredSpace {
    id: String,
    model: String,
    dimension: usize,
}

impl EmbedWork {
    pub(super) const KIND: &'static str = "embed";
}

impl Rag {
    /// Queues what [`Rag::embed`] does at once; refuses what it refuses.
    pub async fn embed_later(
        &self,
        caller: Caller,
        choice: &EmbedderChoice,
        texts: Vec<String>,
    ) -> Result<Uuid, RagError> {
        let space = self.space(choice).await?.id;
        self.ledger().admit(caller).await?;
        check_texts(&texts, self.catalog.http.max_texts)?;
        self.enqueue(caller, Work::Embed(EmbedWork { texts, space })).await
    }

    pub(super) async fn perform_embed(&self, job: &ClaimedJob, work: EmbedWork) -> Result<Vec<u8>, RagError> {
        let embedder =
            self.embedders.of_space(&work.space).await.ok_or_else(|| ModelError::NotLoaded {
                model: work.space.clone(),
                reason: "no model in models.toml makes vectors of that space any more".into(),
            })??;
        let mut first = usize::try_from(job.done).unwrap_or(0);
        while let Some(texts) = work.texts.get(first..).filter(|left| !left.is_empty()) {
            let texts = &texts[..texts.len().min(STEP_TEXTS)];
            let embeddings = embedder.embed(texts.to_vec(), TextRole::Passage, Lane::Bulk).await?;
            let tokens = Tokens::embedded(embeddings.tokens.iter().sum());
            let (caller, model) = (caller_of(job), &embedder.space().model);
            // All steps are one request.
            match first {
                0 => self.ledger().record(caller, Operation::Embed, model, tokens),
                _ => self.ledger().record_beside(caller, Operation::Embed, model, tokens),
            }
            let next = first + texts.len();
            let outcome = to_stored(&StoredVectors::new(&embeddings, first))?;
            let (position, done) = (first as i64, next as i64);
            self.store
                .record_step(&job.lease, JobStep { position, done, total: job.total, outcome: &outcome })
                .await?;
            first = next;
        }
        let EmbeddingSpace { id, model, dimension } = embedder.space().clone();
        to_stored(&StoredSpace { id, model, dimension })
    }
}

/// The vectors of all steps, in the order of the texts.
pub(super) fn result(space: &[u8], steps: &[Vec<u8>]) -> Result<Embedded, RagError> {
    let StoredSpace { id, model, dimension } = from_stored(space)?;
    let space = EmbeddingSpace { id, model, dimension };
    let mut embedded = Embedded { vectors: Vec::new(), space, truncated: Vec::new(), tokens: 0 };
    for step in steps {
        let stored: StoredVectors = from_stored(step)?;
        let bytes = BASE64.decode(&stored.vectors).map_err(|error| RagError::Job(error.to_string()))?;
        let numbers: Vec<f32> = bytes.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect();
        embedded.vectors.extend(numbers.chunks(dimension.max(1)).map(<[f32]>::to_vec));
        embedded.truncated.extend(stored.truncated);
        embedded.tokens += stored.tokens;
    }
    Ok(embedded)
}

impl StoredVectors {
    /// `first` is the number of the first text among all of the job.
    fn new(embeddings: &Embeddings, first: usize) -> Self {
        let bytes: Vec<u8> =
            embeddings.vectors.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
        Self {
            vectors: BASE64.encode(bytes),
            truncated: embeddings.truncated.iter().map(|index| first + index).collect(),
            tokens: embeddings.tokens.iter().sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_vectors_come_back_exactly_and_in_order() {
        let vectors = vec![vec![0.1f32, -3.4e38, 1e-40], vec![1.0, 2.0, 3.0]];
        let step = |first, truncated: Vec<usize>| {
            let embeddings = Embeddings { vectors: vectors.clone(), truncated, tokens: vec![2, 3] };
            to_stored(&StoredVectors::new(&embeddings, first)).unwrap()
        };
        let space = to_stored(&StoredSpace { id: "s".into(), model: "m".into(), dimension: 3 }).unwrap();
        let embedded = result(&space, &[step(0, vec![1]), step(2, vec![0])]).unwrap();
        assert_eq!(embedded.vectors, [vectors.clone(), vectors].concat());
        assert_eq!((embedded.truncated, embedded.tokens), (vec![1, 2], 10));
    }
}
