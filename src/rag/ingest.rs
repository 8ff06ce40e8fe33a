//! A file becomes a document with embedded passages.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tracing::Instrument;

use super::{
    Caller, Rag, RagError,
    chunk::{Chunk, ChunkLimits, chunk},
    extract::Format,
    filters::refuse_nul,
    pictures::{is_picture, picture},
    reembed::LOOK_UPS,
    usage::{Operation, Tokens},
};
use crate::{
    config::EmbeddingSpace,
    models::{Embedder, Lane, TextRole},
    store::{Collection, DocumentStep, NewDocument, NewPassage, PassageSet, Saved, StoreError},
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

impl Rag {
    /// Extracts, cuts, embeds and stores one file. All of it or nothing.
    pub async fn ingest(
        &self,
        caller: Caller,
        collection: Option<&str>,
        file: SourceFile,
    ) -> Result<Ingested, RagError> {
        self.ledger().admit(caller).await?;
        self.ingest_recorded(caller, collection, file, None).await
    }

    /// [`Rag::ingest`] as a step of a job: recorded when the document is stored, and only then.
    pub(super) async fn ingest_recorded(
        &self,
        caller: Caller,
        named: Option<&str>,
        file: SourceFile,
        step: Option<&DocumentStep<'_>>,
    ) -> Result<Ingested, RagError> {
        let span = tracing::info_span!(target: SPAN, "ingest", bytes = file.bytes.len());
        self.ingest_file(caller, named, file, step).instrument(span).await
    }

    async fn ingest_file(
        &self,
        caller: Caller,
        named: Option<&str>,
        file: SourceFile,
        step: Option<&DocumentStep<'_>>,
    ) -> Result<Ingested, RagError> {
        let tenant = caller.tenant;
        let mut collection = self.collection_to_fill(tenant, named).await?;
        self.embedder_of(&collection).await?;
        check_labels(&file)?;
        let span = tracing::info_span!(target: SPAN, "extract");
        let document = self.read(file).instrument(span).await?;
        let title = document.title.clone();
        if let Some(saved) = self.store.refresh_document(tenant, &collection, &document, step).await? {
            return Ok(Ingested { saved, title });
        }
        let mut sets = Vec::new();
        for _ in 1..LOOK_UPS {
            self.embed_for(caller, &collection, &document, &mut sets).await?;
            match self.store.save_document(tenant, &collection, &document, &sets, step).await {
                Err(StoreError::SpacesChanged(_)) => {
                    collection = self.collection_to_fill(tenant, named).await?;
                }
                saved => return Ok(Ingested { saved: saved?, title }),
            }
        }
        Err(StoreError::SpacesChanged(collection.name).into())
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
        let extracted = self.readers.extract(file.name.clone(), file.content_type.take(), bytes).await?;
        Ok(NewDocument {
            external_id: file.external_id,
            content_hash: Sha256::digest(extracted.text.as_bytes()).to_vec(),
            title: file.title.or(extracted.title).or_else(|| file.name.clone()),
            source: file.source.or(file.name),
            format: extracted.format.media_type(),
            content: extracted.text,
            image: None,
            metadata: or_empty(file.metadata),
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
        sets: &mut Vec<PassageSet>,
    ) -> Result<(), RagError> {
        for space in collection.spaces() {
            if sets.iter().any(|set| set.space == *space) {
                continue;
            }
            match self.embedded_passages(collection, space, &Content::of(document)).await {
                Ok((passages, tokens)) => {
                    let ledger = self.ledger();
                    if *space == collection.space {
                        ledger.record(caller, Operation::Ingest, &space.model, tokens);
                    } else {
                        ledger.record_beside(caller, Operation::Ingest, &space.model, tokens);
                    }
                    sets.push(PassageSet { space: space.clone(), passages });
                }
                Err(error) if *space != collection.space => {
                    tracing::warn!(%error, space = space.id, "a document is left to the re-embedding: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Embeds what a document holds with the space's model; also what that took.
    pub(super) async fn embedded_passages(
        &self,
        collection: &Collection,
        space: &EmbeddingSpace,
        content: &Content<'_>,
    ) -> Result<(Vec<NewPassage>, Tokens), RagError> {
        let embedder = self.embedder_of_space(collection, space).await?;
        let (passages, embedded) = match content {
            Content::Picture { caption, image } => {
                (vec![self.embedded_picture(embedder.as_ref(), caption, image).await?], 0)
            }
            Content::Text { title, format, text } => {
                self.embedded_text(&embedder, *title, *format, text).await?
            }
        };
        match passages.iter().find(|passage| passage.vector.len() != space.dimension) {
            Some(passage) => Err(RagError::SpaceMismatch {
                collection: collection.name.clone(),
                stored: space.id.clone(),
                known: format!("a vector of {} dimensions", passage.vector.len()),
            }),
            None => Ok((passages, Tokens::embedded(embedded))),
        }
    }

    /// Cuts a text by what the model reads, and embeds the passages; also the tokens read.
    async fn embedded_text(
        &self,
        embedder: &Arc<dyn Embedder>,
        title: Option<&str>,
        format: Format,
        text: &str,
    ) -> Result<(Vec<NewPassage>, usize), RagError> {
        let settings = &self.catalog.ingest;
        let limits = ChunkLimits {
            max_tokens: settings
                .passage_tokens
                .min(embedder.max_tokens().saturating_sub(CONTEXT_TOKENS + SPECIAL_TOKENS)),
            overlap_tokens: settings.overlap_tokens,
        };
        let (counter, text) = (Arc::clone(embedder), text.to_owned());
        let chunks = tokio::task::spawn_blocking(move || {
            chunk(&text, format, limits, &|text| counter.count_tokens(text))
        })
        .await?;
        let (mut passages, mut tokens) = (Vec::with_capacity(chunks.len()), 0);
        for batch in chunks.chunks(EMBED_BATCH) {
            let texts = batch.iter().map(|chunk| with_context(embedder.as_ref(), title, chunk)).collect();
            let embeddings = embedder.embed(texts, TextRole::Passage, Lane::Bulk).await?;
            tokens += embeddings.tokens.iter().sum::<usize>();
            passages.extend(batch.iter().zip(embeddings.vectors).map(|(chunk, vector)| NewPassage {
                heading: chunk.place.clone(),
                content: chunk.text.clone(),
                vector,
            }));
        }
        Ok((passages, tokens))
    }
}

/// A passage is embedded together with what it stands under: "It costs 3 €" alone is about nothing.
///
/// Where that is long it is left out: the model would not read the passage's end.
fn with_context(embedder: &dyn Embedder, title: Option<&str>, chunk: &Chunk) -> String {
    match chunk.heading.as_deref().or(title) {
        Some(context) if embedder.count_tokens(context) <= CONTEXT_TOKENS => {
            format!("{context}\n{}", chunk.text)
        }
        _ => chunk.text.clone(),
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
