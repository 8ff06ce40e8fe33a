//! What limits answer, in the published document.

use utoipa::openapi::{
    Header, HeaderBuilder, ObjectBuilder, OpenApi, RefOr, Response, path::Operation, schema::Type,
};

use super::is_exempt;
use crate::http::{access::shape_of, shape::Shape};

/// Says of every operation that is limited what it answers when it is refused.
pub fn describe(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let operations = [("GET", &mut item.get), ("POST", &mut item.post), ("DELETE", &mut item.delete)];
        for (method, operation) in operations {
            if let Some(operation) = operation
                && !is_exempt(method, path)
            {
                add(operation, shape_of(method, path));
            }
        }
    }
}

fn add(operation: &mut Operation, shape: Shape) {
    let has_body = operation.request_body.is_some();
    let answers = [
        ("408", "The body takes too long to come (`http.body_timeout_ms`)", has_body),
        ("413", "The body is larger than `http.max_body_bytes`", has_body),
        ("415", "The body is of another type, or compressed", has_body),
        ("429", "Too many requests; `Retry-After` says when to try again", true),
        ("503", "Too many requests are being served; `Retry-After` says when to try again", true),
    ];
    let responses = &mut operation.responses.responses;
    for (status, description, _) in answers.into_iter().filter(|(_, _, applies)| *applies) {
        responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(shape.described(description)));
    }
    if let Some(RefOr::T(response)) = responses.get_mut("429") {
        add_headers(response);
    }
}

fn add_headers(response: &mut Response) {
    let headers = [
        ("Retry-After", "Seconds until a request is allowed, at least 1"),
        ("RateLimit-Limit", "Requests a minute; where the requests of the caller are limited"),
        ("RateLimit-Remaining", "Requests that may follow at once"),
        ("RateLimit-Reset", "Seconds until all may"),
    ]
    .map(|(name, description)| (name.to_owned(), RefOr::T(whole_number(description))));
    response.headers.extend(headers);
}

fn whole_number(description: &str) -> Header {
    let schema = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).build();
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
}
