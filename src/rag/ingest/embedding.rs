//! Passages of documents get their vectors, those of several documents in one call.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};

use super::{
    Content,
    cut::{CutDocument, CutPassage, CutSet, Reading, left_to_reembedding},
};
use crate::{
    config::EmbeddingSpace,
    models::{Embedder, Lane, ModelError, TextRole},
    rag::{Rag, RagError, usage::Tokens},
    store::{Collection, NewDocument, PassageSet},
};

/// Passages embedded in one call; between two calls other requests get their turn.
pub(in crate::rag) const EMBED_BATCH: usize = 64;

/// A document that was read, cut and embedded; what is left is to store it.
pub(in crate::rag) struct Prepared {
    /// As it was when it was cut.
    pub(super) collection: Collection,
    pub(super) document: NewDocument,
    /// None where this content is stored already.
    pub(super) sets: Vec<PassageSet>,
    /// What embedding each of them took.
    pub(super) tokens: Vec<Tokens>,
}

/// What documents lack of one space.
struct Missing<'a> {
    embedder: Arc<dyn Embedder>,
    space: EmbeddingSpace,
    /// Whether searches read it.
    live: bool,
    passages: Vec<&'a mut CutPassage>,
}

impl Rag {
    /// Embeds documents, several in one call: what is to be stored of each, in their order.
    ///
    /// Where the model refuses it each is embedded alone, so that only the one fails whose text it was. They
    /// end with the first failure that is not a document's.
    pub(in crate::rag) async fn embed_together(
        &self,
        mut documents: Vec<CutDocument>,
    ) -> Vec<Result<Prepared, RagError>> {
        match embed_missing(&mut documents).await {
            Ok(()) => documents.into_iter().map(|document| Ok(document.into())).collect(),
            Err(error) if documents.len() < 2 || error.is_retryable() => vec![Err(error)],
            Err(_) => {
                let mut prepared = Vec::with_capacity(documents.len());
                for document in documents {
                    let embedded = self.embed_alone(document).await;
                    let goes_on = matches!(embedded, Ok(_) | Err(RagError::Model(ModelError::Unfit { .. })));
                    prepared.push(embedded);
                    if !goes_on {
                        break;
                    }
                }
                prepared
            }
        }
    }

    pub(super) async fn embed_alone(&self, mut document: CutDocument) -> Result<Prepared, RagError> {
        embed_missing(std::slice::from_mut(&mut document)).await?;
        Ok(document.into())
    }

    /// Embeds what a document holds with a space's model; also what that took.
    pub(in crate::rag) async fn embedded_passages(
        &self,
        collection: &Collection,
        space: &EmbeddingSpace,
        content: &Content<'_>,
    ) -> Result<(PassageSet, Tokens), RagError> {
        let mut set = self.cut_content(collection, space, content, Vec::new()).await?;
        embed_all(&set.embedder, set.passages.iter_mut().collect()).await?;
        Ok(set.finished())
    }
}

/// Computes the vectors that documents lack.
///
/// A failure of a model whose space searches do not read yet is none of the caller's.
async fn embed_missing(documents: &mut [CutDocument]) -> Result<(), RagError> {
    let mut spaces: BTreeMap<String, Missing<'_>> = BTreeMap::new();
    for document in documents {
        let live = &document.collection.space;
        for CutSet { space, embedder, passages } in &mut document.sets {
            let missing = spaces.entry(space.id.clone()).or_insert_with(|| Missing {
                embedder: Arc::clone(embedder),
                space: space.clone(),
                live: false,
                passages: Vec::new(),
            });
            missing.live |= *space == *live;
            missing.passages.extend(passages.iter_mut().filter(|passage| passage.is_missing()));
        }
    }
    for Missing { embedder, space, live, passages } in spaces.into_values() {
        match embed_all(&embedder, passages).await {
            Err(error) if !live => left_to_reembedding(&error, &space),
            embedded => embedded?,
        }
    }
    Ok(())
}

async fn embed_all(embedder: &Arc<dyn Embedder>, mut passages: Vec<&mut CutPassage>) -> Result<(), RagError> {
    // While one batch is computed, the next one waits before the model.
    let batches = passages.chunks_mut(EMBED_BATCH).map(|batch| embed_batch(embedder.as_ref(), batch).boxed());
    stream::iter(batches.collect::<Vec<_>>()).buffered(2).try_collect().await
}

async fn embed_batch(embedder: &dyn Embedder, batch: &mut [&mut CutPassage]) -> Result<(), RagError> {
    let texts: Vec<String> = batch.iter().filter_map(|passage| passage.missing()).collect();
    let embeddings = embedder.embed(texts, TextRole::Passage, Lane::Bulk).await?;
    let dimension = embedder.space().dimension;
    if let Some(vector) = embeddings.vectors.iter().find(|vector| vector.len() != dimension) {
        let reason = format!("its space has {dimension} dimensions, a vector of it {}", vector.len());
        return Err(ModelError::Failed { model: embedder.space().model.clone(), reason }.into());
    }
    for ((passage, vector), tokens) in batch.iter_mut().zip(embeddings.vectors).zip(embeddings.tokens) {
        passage.passage.vector = vector;
        passage.reading = Reading::Done { tokens };
    }
    Ok(())
}

impl From<CutDocument> for Prepared {
    fn from(CutDocument { collection, document, sets }: CutDocument) -> Self {
        let whole = sets.into_iter().filter(|set| set.missing() == 0);
        let (sets, tokens) = whole.map(CutSet::finished).unzip();
        Self { collection, document, sets, tokens }
    }
}
