//! A file becomes a document with embedded passages.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tracing::Instrument;

use super::{
    Caller, Rag, RagError,
    chunk::{Chunk, ChunkLimits, Earlier, chunk_again},
    extract::Format,
    filters::refuse_nul,
    pictures::{is_picture, picture},
    reembed::LOOK_UPS,
    usage::{Operation, Tokens},
};
use crate::{
    config::EmbeddingSpace,
    models::{Embedder, Lane, TextRole},
    store::{
        Collection, DocumentStep, EarlierPassage, ExpectedVersion, NewDocument, NewPassage, PassageSet,
        Saved, StoreError,
    },
    telemetry::SPAN,
};

/// Passages embedded in one call; between two calls other requests get their turn.
const EMBED_BATCH: usize = 64;
/// Tokens that what a passage stands under may take beside it.
const CONTEXT_TOKENS: usize = 40;
/// `[CLS]` and `[SEP]`.
const SPECIAL_TOKENS: usize = 2;
/// Longest title, source, external id, in bytes.
const MAX_LABEL_BYTES: usize = 2048;

/// Something to be stored: bytes with what is known about them.
#[derive(Debug, Clone, Default)]
pub struct SourceFile {
    /// File name; its ending helps to tell the format.
    pub name: Option<String>,
    /// MIME type, the last resort for telling the format.
    pub content_type: Option<String>,
    pub bytes: Vec<u8>,
    /// Absent: the title found in the content.
    pub title: Option<String>,
    /// Where it comes from, such as a URL; shown with citations. Absent: the file name.
    pub source: Option<String>,
    /// The caller's own name of the document.
    pub external_id: Option<String>,
    /// A JSON object; searches filter on it.
    pub metadata: Value,
    /// What must be there already for it to be stored.
    pub expected: ExpectedVersion,
}

/// A stored document.
#[derive(Debug, Clone)]
pub struct Ingested {
    pub saved: Saved,
    pub title: Option<String>,
}

/// What a model embeds of a document.
pub(super) enum Content<'a> {
    Text { title: Option<&'a str>, format: Format, text: &'a str },
    Picture { caption: &'a str, image: &'a Bytes },
}

impl<'a> Content<'a> {
    fn of(document: &'a NewDocument) -> Self {
        match &document.image {
            Some(image) => Content::Picture { caption: &document.content, image },
            None => Content::Text {
                title: document.title.as_deref(),
                // `read` below made the name from a format.
                format: Format::from_media_type(document.format).unwrap_or(Format::Text),
                text: &document.content,
            },
        }
    }
}

/// A document that was read, cut and embedded; what is left is to store it.
pub(super) struct Prepared {
    /// As it was when it was embedded.
    collection: Collection,
    document: NewDocument,
    /// None where this content is stored already.
    embedded: EmbeddedSets,
}

/// Passages of a document, a set for each space.
#[derive(Default)]
struct EmbeddedSets {
    sets: Vec<PassageSet>,
    /// What embedding each of them took.
    tokens: Vec<Tokens>,
}

/// Vectors that are there already, by the hash of the text that they are of.
type KnownVectors = HashMap<[u8; 32], Vec<f32>>;

impl Rag {
    /// Extracts, cuts, embeds and stores one file. All of it or nothing.
    ///
    /// A document that is stored already is replaced: the one of the same external id, or else
    /// the one read from the same file. Only passages that it did not have are embedded.
    pub async fn ingest(
        &self,
        caller: Caller,
        collection: Option<&str>,
        file: SourceFile,
    ) -> Result<Ingested, RagError> {
        self.ledger().admit(caller).await?;
        let prepared = self.prepare(caller, collection, file).await?;
        self.store_prepared(caller, collection, prepared, None).await
    }

    /// Everything but storing: several documents can be prepared at once.
    pub(super) async fn prepare(
        &self,
        caller: Caller,
        collection: Option<&str>,
        file: SourceFile,
    ) -> Result<Prepared, RagError> {
        let span = tracing::info_span!(target: SPAN, "ingest", bytes = file.bytes.len());
        self.prepare_file(caller, collection, file).instrument(span).await
    }

    async fn prepare_file(
        &self,
        caller: Caller,
        collection: Option<&str>,
        file: SourceFile,
    ) -> Result<Prepared, RagError> {
        let collection = self.collection_to_fill(caller.tenant, collection).await?;
        self.embedder_of(&collection).await?;
        check_labels(&file)?;
        let span = tracing::info_span!(target: SPAN, "extract");
        let document = self.read(file).instrument(span).await?;
        let mut embedded = EmbeddedSets::default();
        if !self.store.holds_content(caller.tenant, &collection, &document).await? {
            self.embed_for(caller, &collection, &document, &mut embedded).await?;
        }
        Ok(Prepared { collection, document, embedded })
    }

    /// Stores what was prepared; a step of a job is recorded when it is stored, and only then.
    pub(super) async fn store_prepared(
        &self,
        caller: Caller,
        named: Option<&str>,
        prepared: Prepared,
        step: Option<&DocumentStep<'_>>,
    ) -> Result<Ingested, RagError> {
        let Prepared { mut collection, document, mut embedded } = prepared;
        for _ in 0..LOOK_UPS {
            let sets = &embedded.sets;
            match self.store.save_document(caller.tenant, &collection, &document, sets, step).await {
                // Or it was deleted since it was found to be stored.
                Err(StoreError::SpacesChanged(_)) => {
                    collection = self.collection_to_fill(caller.tenant, named).await?;
                    self.embed_for(caller, &collection, &document, &mut embedded).await?;
                }
                saved => {
                    let saved = saved?;
                    self.charge(caller, &collection, &embedded);
                    return Ok(Ingested { saved, title: document.title });
                }
            }
        }
        Err(StoreError::SpacesChanged(collection.name).into())
    }

    fn charge(&self, caller: Caller, collection: &Collection, embedded: &EmbeddedSets) {
        for (PassageSet { space, .. }, tokens) in embedded.sets.iter().zip(&embedded.tokens) {
            let ledger = self.ledger();
            if *space == collection.space {
                ledger.record(caller, Operation::Ingest, &space.model, *tokens);
            } else {
                ledger.record_beside(caller, Operation::Ingest, &space.model, *tokens);
            }
        }
    }

    /// The file itself, when it can be stored as far as it alone says.
    pub(super) async fn checked(&self, file: SourceFile) -> Result<SourceFile, RagError> {
        check_labels(&file)?;
        self.read(file.clone()).await?;
        Ok(file)
    }

    /// A file as the document that is stored.
    async fn read(&self, mut file: SourceFile) -> Result<NewDocument, RagError> {
        if is_picture(&file) {
            return tokio::task::spawn_blocking(move || picture(file)).await?;
        }
        let bytes = Bytes::from(std::mem::take(&mut file.bytes));
        let file_hash = Some(Sha256::digest(&bytes).to_vec());
        let extracted = self.readers.extract(file.name.clone(), file.content_type.take(), bytes).await?;
        Ok(NewDocument {
            external_id: file.external_id,
            content_hash: Sha256::digest(extracted.text.as_bytes()).to_vec(),
            file_hash,
            title: file.title.or(extracted.title).or_else(|| file.name.clone()),
            source: file.source.or(file.name),
            format: extracted.format.media_type(),
            content: extracted.text,
            image: None,
            metadata: or_empty(file.metadata),
            expected: file.expected,
        })
    }

    /// Adds the sets that are missing: one for each space of the collection.
    ///
    /// A failure of the other space's model is no failure of the caller's: the document is
    /// embedded into that space before searches read it.
    async fn embed_for(
        &self,
        caller: Caller,
        collection: &Collection,
        document: &NewDocument,
        embedded: &mut EmbeddedSets,
    ) -> Result<(), RagError> {
        for space in collection.spaces() {
            if embedded.sets.iter().any(|set| set.space == *space) {
                continue;
            }
            let earlier = self.store.earlier_passages(caller.tenant, collection, document, space).await?;
            match self.embedded_passages(collection, space, &Content::of(document), earlier).await {
                Ok((set, tokens)) => {
                    embedded.sets.push(set);
                    embedded.tokens.push(tokens);
                }
                Err(error) if *space != collection.space => {
                    tracing::warn!(%error, space = space.id, "a document is left to the re-embedding: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Embeds what a document holds with the space's model, but for passages that it had before; also
    /// what that took.
    pub(super) async fn embedded_passages(
        &self,
        collection: &Collection,
        space: &EmbeddingSpace,
        content: &Content<'_>,
        earlier: Vec<EarlierPassage>,
    ) -> Result<(PassageSet, Tokens), RagError> {
        let embedder = self.embedder_of_space(collection, space).await?;
        let (set, tokens) = match content {
            Content::Picture { caption, image } => {
                let passage = self.embedded_picture(embedder.as_ref(), caption, image).await?;
                let set = PassageSet { space: space.clone(), passages: vec![passage], embedded: 1 };
                (set, Tokens::embedded(0))
            }
            Content::Text { title, format, text } => {
                self.embedded_text(&embedder, *title, *format, text, earlier).await?
            }
        };
        match set.passages.iter().find(|passage| passage.vector.len() != space.dimension) {
            Some(passage) => Err(RagError::SpaceMismatch {
                collection: collection.name.clone(),
                stored: space.id.clone(),
                known: format!("a vector of {} dimensions", passage.vector.len()),
            }),
            None => Ok((set, tokens)),
        }
    }

    /// Cuts a text by what the model reads, and embeds the passages whose vectors are not there.
    async fn embedded_text(
        &self,
        embedder: &Arc<dyn Embedder>,
        title: Option<&str>,
        format: Format,
        text: &str,
        earlier: Vec<EarlierPassage>,
    ) -> Result<(PassageSet, Tokens), RagError> {
        let settings = &self.catalog.ingest;
        let limits = ChunkLimits {
            max_tokens: settings
                .passage_tokens
                .min(embedder.max_tokens().saturating_sub(CONTEXT_TOKENS + SPECIAL_TOKENS)),
            overlap_tokens: settings.overlap_tokens,
        };
        let (counter, text, title) = (Arc::clone(embedder), text.to_owned(), title.map(str::to_owned));
        let mut passages = tokio::task::spawn_blocking(move || {
            let cuts = Earlier::new(earlier.iter().map(|passage| passage.content.as_str()));
            let chunks = chunk_again(&text, format, limits, &cuts, &|text| counter.count_tokens(text));
            let known = known_vectors(counter.as_ref(), earlier);
            let passage = |chunk| CutPassage::new(counter.as_ref(), title.as_deref(), chunk, &known);
            chunks.into_iter().map(passage).collect::<Vec<_>>()
        })
        .await?;
        let (mut embedded, mut tokens) = (0, 0);
        let mut missing: Vec<_> = passages.iter_mut().filter(|passage| passage.unread.is_some()).collect();
        // While one batch is computed, the next one waits before the model.
        let batches = missing.chunks_mut(EMBED_BATCH).map(|batch| {
            let texts = batch.iter_mut().filter_map(|passage| passage.unread.take()).collect();
            let embeddings = embedder.embed(texts, TextRole::Passage, Lane::Bulk);
            async move { Ok::<_, RagError>((batch, embeddings.await?)) }.boxed()
        });
        let mut batches = stream::iter(batches.collect::<Vec<_>>()).buffered(2);
        while let Some((batch, embeddings)) = batches.try_next().await? {
            tokens += embeddings.tokens.iter().sum::<usize>();
            for (passage, vector) in batch.iter_mut().zip(embeddings.vectors) {
                passage.passage.vector = vector;
                embedded += 1;
            }
        }
        drop(batches);
        let passages = passages.into_iter().map(|cut| cut.passage).collect();
        let set = PassageSet { space: embedder.space().clone(), passages, embedded };
        Ok((set, Tokens::embedded(tokens)))
    }
}

/// A passage as it was cut.
struct CutPassage {
    /// Without a vector as long as `unread` is there.
    passage: NewPassage,
    /// The text that is still to be embedded.
    unread: Option<String>,
}

impl CutPassage {
    fn new(embedder: &dyn Embedder, title: Option<&str>, chunk: Chunk, known: &KnownVectors) -> Self {
        let text = with_context(embedder, chunk.heading.as_deref().or(title), &chunk.text);
        let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        let vector = known.get(&hash).cloned();
        let unread = vector.is_none().then_some(text);
        let vector = vector.unwrap_or_default();
        let passage =
            NewPassage { heading: chunk.place, content: chunk.text, vector, embedded_hash: Some(hash) };
        Self { passage, unread }
    }
}

/// What was stored before hashes were kept was embedded from what this computes, or is embedded anew.
fn known_vectors(embedder: &dyn Embedder, earlier: Vec<EarlierPassage>) -> KnownVectors {
    let known = earlier.into_iter().map(|passage| {
        let hash = passage.embedded_hash.and_then(|hash| hash.try_into().ok()).unwrap_or_else(|| {
            let context = passage.heading.as_deref().or(passage.title.as_deref());
            Sha256::digest(with_context(embedder, context, &passage.content).as_bytes()).into()
        });
        (hash, passage.vector)
    });
    known.collect()
}

/// A passage is embedded together with what it stands under: "It costs 3 €" alone is about nothing.
///
/// Where that is long it is left out: the model would not read the passage's end.
fn with_context(embedder: &dyn Embedder, context: Option<&str>, text: &str) -> String {
    match context {
        Some(context) if embedder.count_tokens(context) <= CONTEXT_TOKENS => format!("{context}\n{text}"),
        _ => text.to_owned(),
    }
}

/// The object that metadata is where none was given.
pub(super) fn or_empty(metadata: Value) -> Value {
    if metadata.is_null() { Value::Object(serde_json::Map::new()) } else { metadata }
}

fn check_labels(file: &SourceFile) -> Result<(), RagError> {
    let labels = [
        ("title", &file.title),
        ("source", &file.source),
        ("external_id", &file.external_id),
        ("name", &file.name),
    ];
    for (field, label) in labels {
        let Some(label) = label else { continue };
        if label.trim().is_empty() || label.len() > MAX_LABEL_BYTES || label.contains('\0') {
            return Err(RagError::Invalid(format!(
                "{field}: must not be empty, longer than {MAX_LABEL_BYTES} bytes, or hold the character NUL"
            )));
        }
    }
    match &file.metadata {
        Value::Null | Value::Object(_) => refuse_nul(&file.metadata),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(RagError::Invalid("metadata: must be a JSON object".into()))
        }
    }
}
