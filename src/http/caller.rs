//! Who asks, as the request says.

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, http::header::HeaderMap};

use super::{error::ApiError, observe::note_caller};
use crate::{
    access::{Identity, Refusal},
    rag::Caller,
};

/// Where a key or a token may stand beside `Authorization`; the second is Azure's.
const KEY_HEADERS: [&str; 2] = ["x-api-key", "api-key"];

/// The key or token that a request shows. `Authorization: Bearer` goes before the others; another scheme there is
/// for a proxy in front.
pub fn credential(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut given = headers.get_all("authorization");
    if let (Some(value), another) = (given.next(), given.next()) {
        if another.is_some() {
            return Err(Refusal::Invalid("the request has two Authorization headers".into()));
        }
        let value = value.to_str().map_err(|_| unreadable("Authorization"))?;
        let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            return Ok(Some(rest.trim()).filter(|token| !token.is_empty()));
        }
    }
    for name in KEY_HEADERS {
        if let Some(value) = headers.get(name) {
            return Ok(Some(value.to_str().map_err(|_| unreadable(name))?.trim()));
        }
    }
    Ok(None)
}

fn unreadable(header: &str) -> Refusal {
    Refusal::Invalid(format!("the header {header} holds characters that no key and no token has"))
}

/// What `access::guard` found out; a request that did not pass it is nobody's.
impl FromRequest for Identity {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let identity = request.extensions().get::<Identity>().cloned();
        ready(identity.ok_or_else(|| Refusal::Missing.into()))
    }
}

/// The one place where a request becomes a caller.
impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let identity = Identity::from_request(request, payload).into_inner();
        let caller = identity.map(|identity| Caller::from(&identity));
        ready(caller.inspect(|caller| note_caller(*caller)))
    }
}

impl From<&Identity> for Caller {
    fn from(identity: &Identity) -> Self {
        Caller { tenant: identity.tenant, key: identity.actor.key() }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn shown(headers: &[(&str, &str)]) -> Result<Option<String>, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        }
        credential(&map).map(|found| found.map(str::to_owned)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_credential_is_found_where_clients_put_it() {
        let found = |headers: &[(&str, &str)]| shown(headers).unwrap();
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("authorization", "Bearer a.b.c")]).as_deref(), Some("a.b.c"));
        assert_eq!(found(&[("authorization", "bearer  k ")]).as_deref(), Some("k"));
        assert_eq!(found(&[("x-api-key", "k")]).as_deref(), Some("k"));
        assert_eq!(found(&[("api-key", "k")]).as_deref(), Some("k"));
        assert_eq!(found(&[("authorization", "Bearer a"), ("x-api-key", "k")]).as_deref(), Some("a"));
        assert_eq!(found(&[("authorization", "Basic eDp5"), ("x-api-key", "k")]).as_deref(), Some("k"));
        for nothing in ["Basic eDp5", "Bearer", "Bearer ", ""] {
            assert_eq!(found(&[("authorization", nothing)]), None, "{nothing}");
        }
        assert!(shown(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]).is_err());
        assert!(shown(&[("authorization", "Bearer \u{e9}")]).is_err());
    }
}
