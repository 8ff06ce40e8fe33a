//! Multipart forms, read within the limit of a body.

use actix_multipart::{Field, Multipart, MultipartError};
use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header};
use futures_util::TryStreamExt;

use super::{error::ApiError, extractors::is_too_slow};
use crate::{models::EncodedImage, rag::ingest::SourceFile};

/// A request's form. One that says that it is too long is refused before any of it is read.
pub async fn form(request: &HttpRequest, payload: &mut Payload, limit: usize) -> Result<Multipart, ApiError> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    match length.and_then(|length| length.parse::<usize>().ok()) {
        Some(length) if length > limit => Err(ApiError::too_large(limit)),
        _ => Multipart::from_request(request, payload).await.map_err(unreadable),
    }
}

/// Reads the files of a form; its text fields describe every file.
pub async fn read(mut form: Multipart, limit: usize) -> Result<Vec<SourceFile>, ApiError> {
    let mut files = Vec::new();
    let mut common = SourceFile::default();
    let mut left = limit;
    while let Some(field) = form.try_next().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" || name == "files" {
            files.push(read_file(field, &mut left, limit).await?);
            continue;
        }
        let text = String::from_utf8(read_bytes(field, &mut left, limit).await?)
            .map_err(|_| ApiError::invalid(format!("form field `{name}`: is not UTF-8 text")))?;
        match name.as_str() {
            "title" => common.title = Some(text),
            "source" => common.source = Some(text),
            "external_id" => common.external_id = Some(text),
            "metadata" => {
                common.metadata = serde_json::from_str(&text).map_err(|error| {
                    ApiError::invalid(format!("form field `metadata`: not JSON: {error}"))
                })?;
            }
            _ => {
                return Err(ApiError::invalid(format!(
                    "unknown form field `{name}`; known are file, title, source, external_id, metadata"
                )));
            }
        }
    }
    if files.len() > 1 && (common.external_id.is_some() || common.title.is_some()) {
        return Err(ApiError::invalid(
            "title and external_id name one document; this form has several files",
        ));
    }
    for file in &mut files {
        file.title.clone_from(&common.title);
        file.source.clone_from(&common.source);
        file.external_id.clone_from(&common.external_id);
        file.metadata.clone_from(&common.metadata);
    }
    Ok(files)
}

/// Reads the pictures of a form, its parts `image`.
pub async fn read_images(mut form: Multipart, limit: usize) -> Result<Vec<EncodedImage>, ApiError> {
    let mut images = Vec::new();
    let mut left = limit;
    while let Some(field) = form.try_next().await.map_err(broken)? {
        let name = field.name().unwrap_or_default();
        if name != "image" {
            return Err(ApiError::invalid(format!("unknown form field `{name}`; known is image")));
        }
        images.push(read_bytes(field, &mut left, limit).await?.into());
    }
    Ok(images)
}

async fn read_file(field: Field, left: &mut usize, limit: usize) -> Result<SourceFile, ApiError> {
    let name = field
        .content_disposition()
        .and_then(|disposition| disposition.get_filename())
        .filter(|name| !name.is_empty())
        .map(str::to_owned);
    let content_type = field.content_type().map(ToString::to_string);
    let bytes = read_bytes(field, left, limit).await?;
    Ok(SourceFile { name, content_type, bytes, ..SourceFile::default() })
}

async fn read_bytes(mut field: Field, left: &mut usize, limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.try_next().await.map_err(broken)? {
        *left = left.checked_sub(chunk.len()).ok_or_else(|| ApiError::too_large(limit))?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn broken(error: MultipartError) -> ApiError {
    match error {
        MultipartError::Payload(error) if is_too_slow(&error) => ApiError::body_too_slow(),
        error => unreadable(error),
    }
}

/// 400 for a form that is none.
fn unreadable(error: impl std::fmt::Display) -> ApiError {
    ApiError::invalid(format!("multipart form: {error}"))
}
