//! A file becomes a document with embedded passages.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    Rag, RagError,
    chunk::{Chunk, ChunkLimits, chunk},
    extract::{Extracted, extract},
    filters::refuse_nul,
};
use crate::{
    models::{Embedder, Lane, TextRole},
    store::{Collection, NewDocument, NewPassage, Saved, TenantId},
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

impl Rag {
    /// Extracts, cuts, embeds and stores one file. All of it or nothing.
    pub async fn ingest(
        &self,
        tenant: TenantId,
        collection: Option<&str>,
        file: SourceFile,
    ) -> Result<Ingested, RagError> {
        let collection = self.collection_to_fill(tenant, collection).await?;
        let embedder = self.embedder_of(&collection).await?;
        check_labels(&file)?;
        let (document, extracted) = tokio::task::spawn_blocking(move || read(file)).await??;
        let title = document.title.clone();
        let known = self.store.refresh_document(tenant, &collection, &document).await?;
        let saved = match known {
            Some(saved) => saved,
            None => {
                let passages = self.embedded_passages(&embedder, title.clone(), extracted).await?;
                self.save(tenant, &collection, &document, &passages).await?
            }
        };
        Ok(Ingested { saved, title })
    }

    async fn save(
        &self,
        tenant: TenantId,
        collection: &Collection,
        document: &NewDocument,
        passages: &[NewPassage],
    ) -> Result<Saved, RagError> {
        if let Some(passage) =
            passages.iter().find(|passage| passage.vector.len() != collection.space.dimension)
        {
            return Err(RagError::SpaceMismatch {
                collection: collection.name.clone(),
                stored: collection.space.id.clone(),
                known: format!("a vector of {} dimensions", passage.vector.len()),
            });
        }
        Ok(self.store.save_document(tenant, collection, document, passages).await?)
    }

    async fn embedded_passages(
        &self,
        embedder: &std::sync::Arc<dyn Embedder>,
        title: Option<String>,
        extracted: Extracted,
    ) -> Result<Vec<NewPassage>, RagError> {
        let settings = &self.catalog.ingest;
        let limits = ChunkLimits {
            max_tokens: settings
                .passage_tokens
                .min(embedder.max_tokens().saturating_sub(CONTEXT_TOKENS + SPECIAL_TOKENS)),
            overlap_tokens: settings.overlap_tokens,
        };
        let counter = std::sync::Arc::clone(embedder);
        let chunks = tokio::task::spawn_blocking(move || {
            chunk(&extracted.text, extracted.format, limits, &|text| counter.count_tokens(text))
        })
        .await?;
        let mut passages = Vec::with_capacity(chunks.len());
        for batch in chunks.chunks(EMBED_BATCH) {
            let texts =
                batch.iter().map(|chunk| with_context(embedder.as_ref(), title.as_deref(), chunk)).collect();
            let embeddings = embedder.embed(texts, TextRole::Passage, Lane::Bulk).await?;
            passages.extend(batch.iter().zip(embeddings.vectors).map(|(chunk, vector)| NewPassage {
                heading: chunk.heading.clone(),
                content: chunk.text.clone(),
                vector,
            }));
        }
        Ok(passages)
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

fn read(file: SourceFile) -> Result<(NewDocument, Extracted), RagError> {
    let extracted = extract(file.name.as_deref(), file.content_type.as_deref(), &file.bytes)?;
    let metadata =
        if file.metadata.is_null() { Value::Object(serde_json::Map::new()) } else { file.metadata };
    let document = NewDocument {
        external_id: file.external_id,
        content_hash: Sha256::digest(extracted.text.as_bytes()).to_vec(),
        title: file.title.or_else(|| extracted.title.clone()).or_else(|| file.name.clone()),
        source: file.source.or(file.name),
        format: extracted.format.media_type(),
        content: extracted.text.clone(),
        metadata,
    };
    Ok((document, extracted))
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
