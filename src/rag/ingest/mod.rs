//! A file becomes a document with embedded passages: read, cut, embedded, stored.

mod cut;
mod embedding;

pub(super) use cut::CutDocument;
pub(super) use embedding::{EMBED_BATCH, Prepared};

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    Caller, Rag, RagError,
    extract::Format,
    filters::refuse_nul,
    pictures::{is_picture, picture},
    reembed::LOOK_UPS,
    usage::Operation,
};
use crate::{
    config::EmbeddingSpace,
    store::{Collection, DocumentStep, ExpectedVersion, NewDocument, Saved, Standing, StoreError},
};

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
        let named = collection;
        let collection = self.collection_to_fill(caller.tenant, named).await?;
        let prepared = self.embed_alone(self.cut(caller, &collection, file).await?).await?;
        self.store_prepared(caller, named, prepared, None).await
    }

    /// Stores what was prepared; a step of a job is recorded when it is stored, and only then.
    pub(super) async fn store_prepared(
        &self,
        caller: Caller,
        named: Option<&str>,
        prepared: Prepared,
        step: Option<&DocumentStep<'_>>,
    ) -> Result<Ingested, RagError> {
        let mut prepared = prepared;
        for _ in 0..LOOK_UPS {
            let Prepared { collection, document, sets, .. } = &prepared;
            match self.store.save_document(caller.tenant, collection, document, sets, step).await {
                // Or it was deleted since it was found to be stored.
                Err(StoreError::SpacesChanged(_)) => {
                    let collection = self.collection_to_fill(caller.tenant, named).await?;
                    prepared = self.prepare_again(caller, collection, prepared).await?;
                }
                saved => {
                    let saved = saved?;
                    self.charge(caller, &prepared);
                    return Ok(Ingested { saved, title: prepared.document.title });
                }
            }
        }
        Err(StoreError::SpacesChanged(prepared.collection.name).into())
    }

    /// Stores documents that are new in one transaction, with the steps of a job that they are, from `first` on;
    /// says whether it did: where any of them needs more care, none is stored.
    pub(super) async fn store_new(
        &self,
        caller: Caller,
        prepared: &[&Prepared],
        first: &DocumentStep<'_>,
    ) -> Result<bool, RagError> {
        let Some(collection) = prepared.first().map(|prepared| &prepared.collection) else {
            return Ok(false);
        };
        let documents: Vec<_> = prepared.iter().map(|one| (&one.document, one.sets.as_slice())).collect();
        let stored = self.store.save_new_documents(caller.tenant, collection, &documents, first).await?;
        if stored {
            prepared.iter().for_each(|prepared| self.charge(caller, prepared));
        }
        Ok(stored)
    }

    /// Adds the sets that are missing of a collection as it is now.
    async fn prepare_again(
        &self,
        caller: Caller,
        collection: Collection,
        prepared: Prepared,
    ) -> Result<Prepared, RagError> {
        let Prepared { document, sets, tokens, .. } = prepared;
        let is_missing = |space: &&EmbeddingSpace| sets.iter().all(|set| set.space != **space);
        let spaces = collection.spaces().filter(is_missing);
        let missing = self.cut_for(caller, &collection, &document, Standing::Earlier, spaces).await?;
        let mut added = self.embed_alone(CutDocument { collection, document, sets: missing }).await?;
        added.sets.extend(sets);
        added.tokens.extend(tokens);
        Ok(added)
    }

    fn charge(&self, caller: Caller, prepared: &Prepared) {
        let ledger = self.ledger();
        for (set, tokens) in prepared.sets.iter().zip(&prepared.tokens) {
            let model = &set.space.model;
            if set.space == prepared.collection.space {
                ledger.record(caller, Operation::Ingest, model, *tokens);
            } else {
                ledger.record_beside(caller, Operation::Ingest, model, *tokens);
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
