//! Who may call which endpoint, and what those are told who may not.

use std::{collections::HashMap, sync::LazyLock};

use actix_web::{
    Error, HttpMessage,
    body::{EitherBody, MessageBody},
    dev::{ResourceDef, ServiceRequest, ServiceResponse},
    http::StatusCode,
    middleware::Next,
    web,
};
use utoipa::openapi::{OpenApi, RefOr, path::Operation, security::SecurityRequirement};

use super::{Gateway, caller::credential, error::ApiError, shape::Shape};
use crate::access::{
    Identity,
    Permission::{self, Admin, Ask, Embedding, Ingest, Search},
};

/// What a caller needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// A key or a token, whatever it permits.
    Identity,
    /// A key or a token with at least one of these.
    OneOf(&'static [Permission]),
}

type Group = (Shape, Needs, &'static [(&'static str, &'static str)]);

/// Every endpoint. What is not here needs [`Needs::Identity`], and answers 404 or 405.
///
/// `/metrics` is open as the probes are: whoever scrapes has no key, and whoever stands in front keeps it from the
/// world.
const ENDPOINTS: &[Group] = &[
    (
        Shape::Native,
        Needs::Nothing,
        &[
            ("GET", "/health"),
            ("GET", "/health/live"),
            ("GET", "/health/ready"),
            ("GET", "/metrics"),
            ("GET", "/version"),
            ("GET", "/openapi.json"),
            ("GET", "/docs"),
            ("GET", "/docs/{_:.*}"),
            ("GET", "/"),
            ("GET", "/ui/{name}"),
        ],
    ),
    (
        Shape::Native,
        Needs::OneOf(&[Embedding]),
        &[
            ("POST", "/api/v1/embed"),
            ("POST", "/api/v1/embed/batch"),
            ("POST", "/api/v1/embed/cached"),
            ("POST", "/api/v1/embed/async"),
            ("POST", "/api/v1/embed/{model_type}"),
            ("POST", "/embed/{model_type}"),
        ],
    ),
    (Shape::OpenAi, Needs::OneOf(&[Embedding]), &[("POST", "/v1/embeddings"), ("POST", "/embeddings")]),
    (
        Shape::Tei,
        Needs::OneOf(&[Embedding]),
        &[("POST", "/embed"), ("POST", "/similarity"), ("POST", "/tokenize"), ("POST", "/")],
    ),
    (
        Shape::Native,
        Needs::OneOf(&[Search]),
        &[
            ("POST", "/api/v1/search"),
            ("GET", "/api/v1/documents"),
            ("GET", "/api/v1/documents/{id}"),
            ("GET", "/api/v1/documents/{id}/image"),
            ("GET", "/api/v1/collections"),
            ("GET", "/api/v1/collections/{name}"),
        ],
    ),
    (Shape::OpenAi, Needs::OneOf(&[Search]), &[("POST", "/v1/vector_stores/{vector_store_id}/search")]),
    (Shape::Tei, Needs::OneOf(&[Search]), &[("POST", "/rerank")]),
    (Shape::Cohere, Needs::OneOf(&[Search]), &[("POST", "/v1/rerank"), ("POST", "/v2/rerank")]),
    (Shape::Native, Needs::OneOf(&[Ask]), &[("POST", "/api/v1/ask"), ("POST", "/api/v1/feedback")]),
    (Shape::OpenAi, Needs::OneOf(&[Ask]), &[("POST", "/v1/chat/completions")]),
    // Each tool needs its own: `mcp::server`.
    (Shape::JsonRpc, Needs::OneOf(&[Ask, Search]), &[("POST", "/mcp"), ("GET", "/mcp"), ("DELETE", "/mcp")]),
    (
        Shape::Native,
        Needs::OneOf(&[Ingest]),
        &[
            ("POST", "/api/v1/documents"),
            ("POST", "/api/v1/documents/async"),
            ("DELETE", "/api/v1/documents/{id}"),
        ],
    ),
    // Tasks are of whoever may begin one.
    (
        Shape::Native,
        Needs::OneOf(&[Embedding, Ingest, Admin]),
        &[("GET", "/api/v1/tasks/{task_id}"), ("DELETE", "/api/v1/tasks/{task_id}")],
    ),
    (
        Shape::Native,
        Needs::OneOf(&[Admin]),
        &[
            ("POST", "/api/v1/collections"),
            ("DELETE", "/api/v1/collections/{name}"),
            ("POST", "/api/v1/collections/{name}/reembed"),
            ("GET", "/api/v1/collections/{name}/reembed"),
            ("DELETE", "/api/v1/collections/{name}/reembed"),
            ("POST", "/api/v1/collections/{name}/reembed/finish"),
            ("GET", "/api/v1/usage"),
        ],
    ),
    (
        Shape::OpenAi,
        Needs::Identity,
        &[("GET", "/v1/models"), ("GET", "/v1/models/{id}"), ("GET", "/models")],
    ),
    (Shape::Tei, Needs::Identity, &[("GET", "/info")]),
];

/// Finds an endpoint as actix does: a fixed path before a pattern.
struct Table {
    fixed: HashMap<(&'static str, &'static str), (Shape, Needs)>,
    patterns: Vec<(&'static str, ResourceDef, (Shape, Needs))>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table { fixed: HashMap::new(), patterns: Vec::new() };
    for (shape, needs, endpoints) in ENDPOINTS {
        for (method, path) in *endpoints {
            match path.contains('{') {
                true => table.patterns.push((method, ResourceDef::new(*path), (*shape, *needs))),
                false => drop(table.fixed.insert((method, path), (*shape, *needs))),
            }
        }
    }
    table
});

impl Table {
    /// `path` is what actix matches too: percent-encodings of what may stand in a path are undone.
    fn find(&self, method: &str, path: &str) -> (Shape, Needs) {
        let pattern = || {
            let mut known = self.patterns.iter().filter(|(known, _, _)| *known == method);
            known.find(|(_, pattern, _)| pattern.is_match(path)).map(|(_, _, rules)| *rules)
        };
        self.fixed.get(&(method, path)).copied().or_else(pattern).unwrap_or((
            if path.starts_with("/v1/") { Shape::OpenAi } else { Shape::Native },
            Needs::Identity,
        ))
    }
}

/// How errors of an endpoint look; `path` is its pattern, or what actix matches with it.
pub fn shape_of(method: &str, path: &str) -> Shape {
    TABLE.find(method, path).0
}

/// Middleware: lets in who may come, with the [`Identity`] that handlers then find, before a body is read.
pub async fn guard(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<EitherBody<impl MessageBody>>, Error> {
    let (shape, needs) = TABLE.find(request.method().as_str(), request.match_info().unprocessed());
    match admit(&request, needs).await {
        Ok(identity) => {
            if let Some(identity) = identity {
                request.extensions_mut().insert(identity);
            }
            Ok(next.call(request).await?.map_into_left_body())
        }
        Err(error) => {
            tracing::info!(code = error.code(), "not let in: {}", error.detail());
            Ok(request.into_response(shape.response(error)).map_into_right_body())
        }
    }
}

async fn admit(request: &ServiceRequest, needs: Needs) -> Result<Option<Identity>, ApiError> {
    let Some(gateway) = request.app_data::<web::Data<Gateway>>() else {
        return Err(ApiError::internal("the application has no gateway"));
    };
    if needs == Needs::Nothing {
        return Ok(None);
    }
    let shown = if gateway.access.is_open() { None } else { credential(request.headers())? };
    let identity = gateway.access.identify(shown).await?;
    match needs {
        Needs::OneOf(permissions) => require(&identity, permissions)?,
        Needs::Nothing | Needs::Identity => {}
    }
    Ok(Some(identity))
}

/// 403 unless the caller has one of these.
pub fn require(identity: &Identity, one_of: &[Permission]) -> Result<(), ApiError> {
    if one_of.iter().any(|permission| identity.permissions.contains(*permission)) {
        return Ok(());
    }
    let has = match identity.permissions.to_string() {
        none if none.is_empty() => "has none".to_owned(),
        some => format!("has: {some}"),
    };
    let detail = format!("this needs the permission {}; the key or token {has}", listed(one_of));
    Err(ApiError::new(StatusCode::FORBIDDEN, super::error::NO_PERMISSION, detail))
}

fn listed(permissions: &[Permission]) -> String {
    let names: Vec<String> =
        permissions.iter().map(|permission| format!("`{}`", permission.name())).collect();
    names.join(" or ")
}

/// Says of every operation what it needs, and what it answers without.
///
/// Nothing is an alternative everywhere: an installation on one's own machine asks nobody.
pub fn describe(document: &mut OpenApi, scheme: &str) {
    for (path, item) in &mut document.paths.paths {
        let operations = [("GET", &mut item.get), ("POST", &mut item.post), ("DELETE", &mut item.delete)];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            match rules_of(method, path) {
                None | Some((_, Needs::Nothing)) => operation.security = Some(Vec::new()),
                Some((shape, Needs::Identity)) => protect(operation, scheme, shape, &[]),
                Some((shape, Needs::OneOf(permissions))) => protect(operation, scheme, shape, permissions),
            }
        }
    }
}

fn rules_of(method: &str, path: &str) -> Option<(Shape, Needs)> {
    let group = ENDPOINTS.iter().find(|(_, _, endpoints)| endpoints.contains(&(method, path)));
    group.map(|(shape, needs, _)| (*shape, *needs))
}

fn protect(operation: &mut Operation, scheme: &str, shape: Shape, permissions: &[Permission]) {
    // One requirement a permission: each is enough. Roles in them are of OpenAPI 3.1.
    let roles = permissions.iter().map(|permission| SecurityRequirement::new(scheme, [permission.name()]));
    let any = permissions.is_empty().then(|| SecurityRequirement::new(scheme, [""; 0]));
    operation.security = Some([SecurityRequirement::default()].into_iter().chain(any).chain(roles).collect());
    let mut answers = vec![("401", "No key or token, or one that is not believed".to_owned())];
    if !permissions.is_empty() {
        answers.push(("403", format!("A key or token without the permission {}", listed(permissions))));
    }
    answers.push(("503", "The database is unavailable".to_owned()));
    for (status, description) in answers {
        let response = || RefOr::T(shape.described(description));
        operation.responses.responses.entry(status.to_owned()).or_insert_with(response);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::openapi;

    #[test]
    fn every_operation_of_the_document_is_in_the_table() {
        let document = openapi::document();
        let mut known = 0;
        for (path, item) in &document.paths.paths {
            for (method, operation) in [("GET", &item.get), ("POST", &item.post), ("DELETE", &item.delete)] {
                if operation.is_some() {
                    assert!(rules_of(method, path).is_some(), "{method} {path} is in no group of ENDPOINTS");
                    known += 1;
                }
            }
            // Methods that nobody thinks of here.
            let others = [&item.put, &item.patch, &item.head, &item.options, &item.trace];
            assert!(others.iter().all(|operation| operation.is_none()), "{path}");
        }
        assert!(known > 40, "{known}");
    }

    #[test]
    fn the_table_names_each_endpoint_once_and_only_what_there_is() {
        let document = openapi::document();
        let pages = ["/openapi.json", "/docs", "/docs/{_:.*}", "/ui/{name}", "/mcp"];
        let mut seen = Vec::new();
        for (method, path) in ENDPOINTS.iter().flat_map(|(_, _, endpoints)| *endpoints) {
            assert!(!seen.contains(&(method, path)), "{method} {path} is there twice");
            seen.push((method, path));
            let item = document.paths.paths.get(*path);
            let found = item.is_some_and(|item| match *method {
                "GET" => item.get.is_some(),
                "POST" => item.post.is_some(),
                _ => item.delete.is_some(),
            });
            assert!(found || pages.contains(path) || (*method, *path) == ("GET", "/"), "{method} {path}");
        }
    }

    #[test]
    fn a_fixed_path_goes_before_a_pattern_and_the_unknown_needs_a_key() {
        let needs = |method: &str, path: &str| TABLE.find(method, path).1;
        assert_eq!(needs("GET", "/health"), Needs::Nothing);
        assert_eq!(needs("GET", "/docs/swagger-ui.css"), Needs::Nothing);
        assert_eq!(needs("POST", "/api/v1/documents/async"), Needs::OneOf(&[Ingest]));
        assert_eq!(needs("DELETE", "/api/v1/documents/async"), Needs::OneOf(&[Ingest]));
        assert_eq!(needs("GET", "/api/v1/documents/7"), Needs::OneOf(&[Search]));
        for (method, path) in [
            ("GET", "/health/"),
            ("GET", "//health"),
            ("POST", "/health"),
            ("GET", "/ui/a/b"),
            ("GET", "/api/v1/documents/7/"),
            ("PUT", "/api/v1/search"),
            ("GET", ""),
        ] {
            assert_eq!(needs(method, path), Needs::Identity, "{method} {path}");
        }
        assert_eq!(TABLE.find("GET", "/v1/none").0, Shape::OpenAi);
    }
}
