//! A document cut into passages by what a model reads, for each space of its collection.

use std::{collections::HashMap, sync::Arc};

use sha2::{Digest, Sha256};
use tracing::Instrument;

use super::{Content, SourceFile, check_labels};
use crate::{
    config::EmbeddingSpace,
    models::Embedder,
    rag::{
        Caller, Rag, RagError,
        chunk::{Chunk, ChunkLimits, Earlier, chunk_again},
        extract::Format,
        usage::Tokens,
    },
    store::{Collection, EarlierPassage, NewDocument, NewPassage, PassageSet, Standing},
    telemetry::SPAN,
};

/// Tokens that what a passage stands under may take beside it.
const CONTEXT_TOKENS: usize = 40;
/// `[CLS]` and `[SEP]`.
const SPECIAL_TOKENS: usize = 2;

/// A document that was read and cut.
pub(in crate::rag) struct CutDocument {
    /// As it was when it was cut.
    pub(super) collection: Collection,
    pub(super) document: NewDocument,
    /// None where this content is stored already.
    pub(super) sets: Vec<CutSet>,
}

/// A document's passages for one space.
pub(super) struct CutSet {
    pub space: EmbeddingSpace,
    pub embedder: Arc<dyn Embedder>,
    pub passages: Vec<CutPassage>,
}

pub(super) struct CutPassage {
    pub passage: NewPassage,
    pub reading: Reading,
}

/// Where the vector of a passage comes from.
pub(super) enum Reading {
    /// The document had it before.
    Known,
    /// It is still to be computed, of the passage under this.
    Missing { context: Option<Arc<str>> },
    /// The model read so many tokens for it.
    Done { tokens: usize },
}

/// Vectors that are there already, by the hash of the text that they are of.
type KnownVectors = HashMap<[u8; 32], Vec<f32>>;

impl CutDocument {
    /// Passages that are still to be embedded, of the space that has most of them.
    pub fn missing(&self) -> usize {
        self.sets.iter().map(CutSet::missing).max().unwrap_or(0)
    }
}

impl CutSet {
    /// Passages that are still to be embedded.
    pub fn missing(&self) -> usize {
        self.passages.iter().filter(|passage| passage.is_missing()).count()
    }

    /// What is stored of it, with what the model read for it.
    pub fn finished(self) -> (PassageSet, Tokens) {
        let read = self.passages.iter().filter_map(|passage| match passage.reading {
            Reading::Done { tokens } => Some(tokens),
            Reading::Known | Reading::Missing { .. } => None,
        });
        let (embedded, tokens) = read.fold((0, 0), |(count, sum), tokens| (count + 1, sum + tokens));
        let passages = self.passages.into_iter().map(|cut| cut.passage).collect();
        (PassageSet { space: self.space, passages, embedded }, Tokens::embedded(tokens))
    }
}

impl Rag {
    /// Reads a file and cuts its text; nothing is left to do where its content is stored already.
    pub(in crate::rag) async fn cut(
        &self,
        caller: Caller,
        collection: &Collection,
        file: SourceFile,
    ) -> Result<CutDocument, RagError> {
        let span = tracing::info_span!(target: SPAN, "ingest", bytes = file.bytes.len());
        self.cut_file(caller, collection, file).instrument(span).await
    }

    async fn cut_file(
        &self,
        caller: Caller,
        collection: &Collection,
        file: SourceFile,
    ) -> Result<CutDocument, RagError> {
        self.embedder_of(collection).await?;
        check_labels(&file)?;
        let span = tracing::info_span!(target: SPAN, "extract");
        let document = self.read(file).instrument(span).await?;
        let standing = self.store.standing(caller.tenant, collection, &document).await?;
        let sets = match standing {
            Standing::Stored => Vec::new(),
            Standing::Unknown | Standing::Earlier => {
                self.cut_for(caller, collection, &document, standing, collection.spaces()).await?
            }
        };
        Ok(CutDocument { collection: collection.clone(), document, sets })
    }

    /// Cuts a document for spaces of its collection.
    ///
    /// A failure of the other space's model is no failure of the caller's: the document is
    /// embedded into that space before searches read it.
    pub(super) async fn cut_for(
        &self,
        caller: Caller,
        collection: &Collection,
        document: &NewDocument,
        standing: Standing,
        spaces: impl Iterator<Item = &EmbeddingSpace>,
    ) -> Result<Vec<CutSet>, RagError> {
        let mut sets = Vec::new();
        for space in spaces {
            let earlier = match standing {
                Standing::Unknown => Vec::new(),
                Standing::Earlier | Standing::Stored => {
                    self.store.earlier_passages(caller.tenant, collection, document, space).await?
                }
            };
            match self.cut_content(collection, space, &Content::of(document), earlier).await {
                Ok(set) => sets.push(set),
                Err(error) if *space != collection.space => left_to_reembedding(&error, space),
                Err(error) => return Err(error),
            }
        }
        Ok(sets)
    }

    pub(super) async fn cut_content(
        &self,
        collection: &Collection,
        space: &EmbeddingSpace,
        content: &Content<'_>,
        earlier: Vec<EarlierPassage>,
    ) -> Result<CutSet, RagError> {
        let embedder = self.embedder_of_space(collection, space).await?;
        let passages = match content {
            Content::Picture { caption, image } => {
                let passage = self.embedded_picture(embedder.as_ref(), caption, image).await?;
                vec![CutPassage { passage, reading: Reading::Done { tokens: 0 } }]
            }
            Content::Text { title, format, text } => {
                self.cut_text(&embedder, *title, *format, text, earlier).await?
            }
        };
        Ok(CutSet { space: space.clone(), embedder, passages })
    }

    async fn cut_text(
        &self,
        embedder: &Arc<dyn Embedder>,
        title: Option<&str>,
        format: Format,
        text: &str,
        earlier: Vec<EarlierPassage>,
    ) -> Result<Vec<CutPassage>, RagError> {
        let settings = &self.catalog.ingest;
        let limits = ChunkLimits {
            max_tokens: settings
                .passage_tokens
                .min(embedder.max_tokens().saturating_sub(CONTEXT_TOKENS + SPECIAL_TOKENS)),
            overlap_tokens: settings.overlap_tokens,
        };
        let (counter, text, title) = (Arc::clone(embedder), text.to_owned(), title.map(str::to_owned));
        let passages = tokio::task::spawn_blocking(move || {
            let cuts = Earlier::new(earlier.iter().map(|passage| passage.content.as_str()));
            let chunks = chunk_again(&text, format, limits, &cuts, &|text| counter.count_tokens(text));
            let known = known_vectors(counter.as_ref(), earlier);
            let title = title.and_then(|title| fitting(counter.as_ref(), &title));
            let passage = |chunk| CutPassage::new(counter.as_ref(), title.as_ref(), chunk, &known);
            chunks.into_iter().map(passage).collect()
        });
        Ok(passages.await?)
    }
}

/// Tells of a space that searches do not read yet and that a document could not be brought into.
pub(super) fn left_to_reembedding(error: &RagError, space: &EmbeddingSpace) {
    tracing::warn!(%error, space = space.id, "documents are left to the re-embedding: {error}");
}

impl CutPassage {
    /// `title` is that of the document, where it is embedded with its passages.
    fn new(embedder: &dyn Embedder, title: Option<&Arc<str>>, chunk: Chunk, known: &KnownVectors) -> Self {
        let context = match &chunk.heading {
            Some(heading) => fitting(embedder, heading),
            None => title.cloned(),
        };
        let hash = hash_of(&with_context(context.as_deref(), &chunk.text));
        let (vector, reading) = match known.get(&hash) {
            Some(vector) => (vector.clone(), Reading::Known),
            None => (Vec::new(), Reading::Missing { context }),
        };
        let passage =
            NewPassage { heading: chunk.place, content: chunk.text, vector, embedded_hash: Some(hash) };
        Self { passage, reading }
    }

    /// The text that its vector is to be of, as long as it has none.
    pub fn missing(&self) -> Option<String> {
        match &self.reading {
            Reading::Missing { context } => Some(with_context(context.as_deref(), &self.passage.content)),
            Reading::Known | Reading::Done { .. } => None,
        }
    }

    pub fn is_missing(&self) -> bool {
        matches!(self.reading, Reading::Missing { .. })
    }
}

/// What was stored before hashes were kept was embedded from what this computes, or is embedded anew.
fn known_vectors(embedder: &dyn Embedder, earlier: Vec<EarlierPassage>) -> KnownVectors {
    let known = earlier.into_iter().map(|passage| {
        let hash = passage.embedded_hash.and_then(|hash| hash.try_into().ok()).unwrap_or_else(|| {
            let context = passage.heading.as_deref().or(passage.title.as_deref());
            let context = context.and_then(|context| fitting(embedder, context));
            hash_of(&with_context(context.as_deref(), &passage.content))
        });
        (hash, passage.vector)
    });
    known.collect()
}

/// A passage is embedded together with what it stands under: "It costs 3 €" alone is about nothing.
fn with_context(context: Option<&str>, text: &str) -> String {
    context.map_or_else(|| text.to_owned(), |context| format!("{context}\n{text}"))
}

/// What a passage stands under, unless it is so long that the model would not read the passage's end.
fn fitting(embedder: &dyn Embedder, context: &str) -> Option<Arc<str>> {
    (embedder.count_tokens(context) <= CONTEXT_TOKENS).then(|| context.into())
}

fn hash_of(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}
