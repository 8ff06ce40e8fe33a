//! `ETag` and `If-Match` (RFC 9110): a writer that says which version it has seen overwrites no other.

use actix_web::http::header::{self, HeaderMap};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::error::ApiError;
use crate::store::{DocumentVersion, ExpectedVersion};

/// What a client believes to be stored.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes the header in the OpenAPI document; `expected` reads it")]
pub struct IfMatch {
    /// `ETag` of the document that was read, or several; `*`: any. Another version is neither replaced nor deleted.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
}

/// The tag of a document's version.
pub fn etag(id: Uuid, version: i64) -> String {
    format!("\"{id}.{version}\"")
}

/// What `If-Match` allows. Tags that are none of ours match nothing, as weak ones do.
pub fn expected(headers: &HeaderMap) -> Result<ExpectedVersion, ApiError> {
    let mut versions = Vec::new();
    let mut given = false;
    for value in headers.get_all(header::IF_MATCH) {
        given = true;
        let value = value.to_str().map_err(|_| ApiError::invalid("If-Match: is not ASCII text"))?.trim();
        if value == "*" {
            return Ok(ExpectedVersion::Existing);
        }
        versions.extend(value.split(',').filter_map(|tag| parse(tag.trim())));
    }
    Ok(if given { ExpectedVersion::OneOf(versions) } else { ExpectedVersion::Anything })
}

fn parse(tag: &str) -> Option<DocumentVersion> {
    let (id, version) = tag.strip_prefix('"')?.strip_suffix('"')?.rsplit_once('.')?;
    Some(DocumentVersion { id: id.parse().ok()?, version: version.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn tags_are_read_as_they_are_written() {
        let id = Uuid::now_v7();
        let read = |value: String| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, HeaderValue::from_str(&value).unwrap());
            expected(&headers).unwrap()
        };
        let (first, second) = (etag(id, 1), etag(id, 20));
        let version = |version| DocumentVersion { id, version };
        assert_eq!(read(first.clone()), ExpectedVersion::OneOf(vec![version(1)]));
        assert_eq!(
            read(format!("{first},W/{first}, {second} ,\"x\"")),
            ExpectedVersion::OneOf(vec![version(1), version(20)])
        );
        assert_eq!(read("nonsense".into()), ExpectedVersion::OneOf(Vec::new()));
        assert_eq!(read(" * ".into()), ExpectedVersion::Existing);
        assert_eq!(expected(&HeaderMap::new()).unwrap(), ExpectedVersion::Anything);
    }
}
