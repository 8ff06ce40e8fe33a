//! What browsers and the caches between may keep: pages, their assets, the description of the API. All
//! else is somebody's data, and is kept nowhere.

use actix_web::{
    Error,
    body::{self, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{CACHE_CONTROL, ETAG, EntityTag, Header, HeaderMap, HeaderValue, IfNoneMatch, VARY},
    },
    middleware::Next,
};
use sha2::{Digest, Sha256};

/// To be kept by anybody, and used after the server was asked whether it is still the same: pages and assets of
/// two versions do not go together.
const PUBLIC: HeaderValue = HeaderValue::from_static("public, no-cache");
const NOWHERE: HeaderValue = HeaderValue::from_static("no-store");

/// Middleware around what is the same for everybody: tags it by its content, and answers 304 to those who have it.
pub async fn public(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    // What cannot be read names nothing.
    let known = IfNoneMatch::parse(&request).unwrap_or(IfNoneMatch::Items(Vec::new()));
    let response = next.call(request).await?.map_into_boxed_body();
    if response.status() != StatusCode::OK {
        return Ok(response);
    }
    let (request, response) = response.into_parts();
    let (mut response, body) = response.into_parts();
    let bytes = match body.try_into_bytes() {
        Ok(bytes) => bytes,
        Err(body) => return Ok(ServiceResponse::new(request, response.set_body(body))),
    };
    let tag = EntityTag::new_strong(digest(&bytes));
    let is_known = match &known {
        IfNoneMatch::Any => true,
        IfNoneMatch::Items(tags) => tags.iter().any(|known| known.weak_eq(&tag)),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, PUBLIC);
    // Pages of other origins may be let in (`http.cors`), and the response says so to those that ask.
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    if let Ok(tag) = HeaderValue::from_str(&tag.to_string()) {
        headers.insert(ETAG, tag);
    }
    let body = if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        BoxBody::new(body::None::new())
    } else {
        BoxBody::new(bytes)
    };
    Ok(ServiceResponse::new(request, response.set_body(body)))
}

/// Lets nobody keep a response that does not say otherwise.
pub fn keep_private(headers: &mut HeaderMap) {
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, NOWHERE);
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
