//! A picture becomes a document with one passage: its caption, embedded as what is seen.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    Rag, RagError,
    ingest::{SourceFile, or_empty},
};
use crate::{
    config::EmbedderKind,
    models::{Embedder, Lane, ModelError, images::media_type},
    store::{DocumentImage, NewDocument, NewPassage, TenantId},
};

impl Rag {
    /// The one passage of a picture: its caption, with the vector of what is seen.
    pub(super) async fn embedded_picture(
        &self,
        embedder: &dyn Embedder,
        caption: &str,
        image: &Bytes,
    ) -> Result<NewPassage, RagError> {
        if !embedder.reads_images() {
            return Err(self.reads_no_images(embedder));
        }
        let vector = image_vector(embedder, image.clone(), Lane::Bulk).await?;
        Ok(NewPassage { heading: None, content: caption.to_owned(), vector, embedded_hash: None })
    }

    /// The picture that a document is.
    pub async fn document_image(&self, tenant: TenantId, id: Uuid) -> Result<DocumentImage, RagError> {
        self.store.document_image(tenant, id).await?.ok_or(RagError::NoImage(id))
    }

    fn reads_no_images(&self, embedder: &dyn Embedder) -> RagError {
        let readers = self.catalog.embedders.iter().filter(|entry| entry.kind == EmbedderKind::Clip);
        let readers: Vec<&str> = readers.map(|entry| entry.name.as_str()).collect();
        let advice = if readers.is_empty() {
            "no model of models.toml does: add one of kind `clip`".to_owned()
        } else {
            format!("make a collection with a model that does ({}) and store it there", readers.join(", "))
        };
        let model = embedder.space().model.clone();
        ModelError::Unfit { model, reason: format!("it reads no images; {advice}") }.into()
    }
}

/// Whether a file is meant as a picture: it says so, or it looks like one and does not say that it is text.
pub(super) fn is_picture(file: &SourceFile) -> bool {
    let declared = file.content_type.as_deref().unwrap_or_default();
    declared.starts_with("image/") || !declared.starts_with("text/") && media_type(&file.bytes).is_ok()
}

/// The vector of one picture.
pub(super) async fn image_vector(
    embedder: &dyn Embedder,
    image: Bytes,
    lane: Lane,
) -> Result<Vec<f32>, RagError> {
    match embedder.embed_images(vec![image], lane).await {
        Ok(mut embeddings) => Ok(embeddings.vectors.pop().unwrap_or_default()),
        Err(ModelError::BadImage { reason, .. }) => Err(RagError::BadImage(reason)),
        Err(error) => Err(error.into()),
    }
}

/// A picture as a document; its caption is the content.
pub(super) fn picture(file: SourceFile) -> Result<NewDocument, RagError> {
    let format = media_type(&file.bytes).map_err(|error| RagError::BadImage(error.to_string()))?;
    let title = file.title.or_else(|| file.name.clone());
    let caption = title.clone().or_else(|| file.external_id.clone()).unwrap_or_else(|| "image".into());
    let hash = Sha256::digest(&file.bytes).to_vec();
    Ok(NewDocument {
        external_id: file.external_id,
        content_hash: hash.clone(),
        file_hash: Some(hash),
        title,
        source: file.source.or(file.name),
        format,
        content: caption,
        image: Some(file.bytes.into()),
        metadata: or_empty(file.metadata),
        expected: file.expected,
    })
}
