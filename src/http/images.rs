//! Pictures in requests and responses: base64, data URIs, form parts; the stored ones.

use actix_web::{HttpRequest, HttpResponse, get, http::header, web};
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Gateway,
    error::{ApiError, Problem},
    extractors::{body_bytes, parse_json},
    upload,
};
use crate::{models::EncodedImage, rag::Caller};

/// Images of one request that are fetched at the same time.
const FETCHED_AT_ONCE: usize = 4;

/// Texts or pictures, one of the two.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TypedEmbedRequest {
    /// One vector is made for each.
    #[schema(example = json!(["When does the first ferry leave?"]))]
    texts: Option<Vec<String>>,
    /// PNG, JPEG, WebP or GIF files, as base64, data URIs or (where `http.image_urls` allows it) URLs,
    /// for a model that reads images.
    #[schema(example = json!(null))]
    images: Option<Vec<String>>,
    /// False: a text longer than the model reads is refused. True: its beginning counts.
    #[serde(default = "yes")]
    #[schema(default = true)]
    truncate: bool,
}

/// The default of `truncate`.
pub(super) fn yes() -> bool {
    true
}

/// Pictures as files.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the form in the OpenAPI document; `read` reads it")]
pub struct ImageForm {
    /// One or more PNG, JPEG, WebP or GIF files.
    #[schema(value_type = Vec<String>, format = Binary, content_media_type = "application/octet-stream")]
    image: Vec<Vec<u8>>,
}

/// What is to be embedded.
pub enum EmbedInput {
    Texts { texts: Vec<String>, truncate: bool },
    Images(Vec<EncodedImage>),
}

/// Reads the body of an embed request: JSON, or a form with parts `image`.
pub async fn read(
    gateway: &Gateway,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<EmbedInput, ApiError> {
    let limit = gateway.rag.catalog().http.max_body_bytes;
    let mut payload = payload.into_inner();
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or("none").to_ascii_lowercase();
    if content_type.starts_with("multipart/form-data") {
        let form = upload::form(request, &mut payload, limit).await?;
        return Ok(EmbedInput::Images(upload::read_images(form, limit).await?));
    }
    if !content_type.starts_with("application/json") {
        return Err(ApiError::unsupported_content_type(format!(
            "send JSON (`application/json`) or images (`multipart/form-data`, parts `image`), not `{content_type}`"
        )));
    }
    let body: TypedEmbedRequest = parse_json(&body_bytes(request, &mut payload, limit).await?)?;
    match (body.texts, body.images) {
        (Some(texts), None) => Ok(EmbedInput::Texts { texts, truncate: body.truncate }),
        (None, Some(images)) => {
            let texts = images.into_iter().enumerate();
            let images = texts.map(|(index, text)| async move {
                obtain(gateway, &format!("images[{index}]"), &text).await
            });
            Ok(EmbedInput::Images(stream::iter(images).buffered(FETCHED_AT_ONCE).try_collect().await?))
        }
        (Some(_), Some(_)) => Err(ApiError::invalid("texts, images: give one of them, not both")),
        (None, None) => Err(ApiError::invalid("give `texts` or `images`")),
    }
}

/// A picture as base64, a data URI, or, where the operator allows it, the URL of a public server.
pub async fn obtain(gateway: &Gateway, field: &str, text: &str) -> Result<EncodedImage, ApiError> {
    let is_url = ["http://", "https://"].iter().any(|scheme| text.trim_start().starts_with(scheme));
    if !is_url {
        return parse(field, text);
    }
    gateway.images.fetch(text.trim()).await.map_err(|error| ApiError::about_url(field, &error))
}

/// A picture written as base64 or as a data URI; `field` is named in messages.
pub fn parse(field: &str, text: &str) -> Result<EncodedImage, ApiError> {
    let told = |what: &str| ApiError::invalid(format!("{field}: {what}"));
    let text = text.trim();
    let encoded = match text.split_once(':') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("data") => match rest.split_once(',') {
            Some((kind, data)) if kind.to_ascii_lowercase().ends_with(";base64") => data,
            _ => return Err(told("is a data URI without `;base64,`")),
        },
        Some(_) => {
            return Err(told(
                "is a URL, which is not fetched here; send the image's bytes, as base64 or a data URI",
            ));
        }
        None => text,
    };
    // Mail and shell tools break lines.
    let encoded: Vec<u8> = encoded.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if encoded.is_empty() {
        return Err(told("is empty"));
    }
    match BASE64.decode(encoded) {
        Ok(bytes) => Ok(bytes.into()),
        Err(error) => Err(told(&format!("is not base64: {error}"))),
    }
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Get a document's image
///
/// The file as it was stored.
#[utoipa::path(tag = "documents", params(("id", description = "The document")), responses(
    (status = 200, description = "The image", content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/webp"), (Vec<u8> = "image/gif"))),
    (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such document, or one that is no image", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[get("/api/v1/documents/{id}/image")]
pub async fn show(
    caller: Caller,
    gateway: web::Data<Gateway>,
    id: web::Path<Uuid>,
) -> Result<HttpResponse, ApiError> {
    let image = gateway.rag.document_image(caller.tenant, *id).await?;
    Ok(HttpResponse::Ok()
        .content_type(image.format)
        // What was uploaded is shown as a picture and never as anything else.
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::CONTENT_DISPOSITION, "inline"))
        .body(image.bytes))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn base64_and_data_uris_are_read() {
        for text in ["AQID", "AQI=", "AQI", " AQ\nID\n", "data:image/png;base64,AQID", "DATA:;BASE64,AQID"] {
            let bytes = parse("image", text).map_err(|error| error.to_string());
            assert!(bytes.as_ref().is_ok_and(|bytes| bytes.starts_with(&[1, 2])), "{text}: {bytes:?}");
        }
    }

    #[test]
    fn what_is_neither_is_told() {
        for (text, told) in [
            ("https://host.example/a.png", "is a URL"),
            ("file:///etc/passwd", "is a URL"),
            ("data:image/png,AQID", "without `;base64,`"),
            ("data:image/png;base64,", "is empty"),
            ("not base64!", "is not base64"),
            ("", "is empty"),
        ] {
            let error = parse("images[3]", text).map_err(|error| error.to_string());
            assert!(
                error.as_ref().is_err_and(|error| error.contains("images[3]: ") && error.contains(told)),
                "{error:?}"
            );
        }
    }
}
