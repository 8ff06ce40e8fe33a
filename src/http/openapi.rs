//! The published description of the API.

use actix_web::{App, web};
use utoipa::{
    OpenApi as _,
    openapi::{
        HttpMethod, OpenApi,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_actix_web::{AppExt, service_config::ServiceConfig};

use super::{
    access, ask, collections,
    compat::{chat, infinity, openai, rerank, tei, vector_stores},
    documents, embed, feedback, health, images, limits, reembed, search, tasks, usage,
};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "ragway",
        description = "A RAG gateway with multi-model routing: embeddings, search and cited answers. \
                       Every error is a problem (RFC 9457) with a stable `code` and the `request_id` of the logs; \
                       the endpoints for clients of other servers (openai, tei, infinity) have those servers' own shape. \
                       Assistants search and ask at `/mcp`, by the Model Context Protocol.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "ask", description = "Questions in, cited answers out"),
        (name = "search", description = "Passages nearest to a query"),
        (name = "documents", description = "What answers come from"),
        (name = "collections", description = "Named sets of documents, each of one embedding space"),
        (name = "embed", description = "Texts or images in, vectors out"),
        (name = "tasks", description = "What was queued: how far it is, what came out"),
        (name = "usage", description = "Tokens, cost and quotas"),
        (name = "openai", description = "For OpenAI's clients"),
        (name = "tei", description = "For clients of text-embeddings-inference"),
        (name = "infinity", description = "For clients of Infinity"),
        (name = "rerank", description = "How well texts answer a query; for clients of Cohere, Jina, TEI and Infinity"),
        (name = "operation", description = "Probes, metrics, version"),
    ),
)]
struct Base;

/// Name of the scheme by which clients may say who they are.
const BEARER: &str = "bearerAuth";

/// The document, as served at `/openapi.json` and published in `openapi/`.
pub fn document() -> OpenApi {
    let (_, mut document) =
        App::new().into_utoipa_app().openapi(Base::openapi()).configure(api).split_for_parts();
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "A key (`ragway keys create`) or a JSON Web Token; also taken from `X-API-Key`. Roles of an operation are \
             permissions, of which one is needed. An installation that asks nobody who they are needs neither.",
        ))
        .build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(BEARER, SecurityScheme::Http(token));
    limits::describe(&mut document);
    access::describe(&mut document, BEARER);
    document
}

/// The document as JSON, the form that is published.
pub fn document_json() -> serde_json::Result<String> {
    document().to_pretty_json().map(|json| json + "\n")
}

/// Adds the API's endpoints to an application.
pub fn routes(config: &mut web::ServiceConfig) {
    api(&mut ServiceConfig::new(config));
}

fn api(config: &mut ServiceConfig<'_>) {
    config
        .service(ask::ask)
        .service(feedback::rate)
        .service(usage::show)
        .service(search::search)
        .service(documents::store)
        .service(documents::store_async)
        .service(documents::list)
        .service(documents::show)
        .service(documents::remove)
        .service(images::show)
        .service(collections::create)
        .service(collections::list)
        .service(collections::show)
        .service(collections::remove)
        .service(reembed::start)
        .service(reembed::show)
        .service(reembed::roll_back)
        .service(reembed::finish)
        .service(embed::embed)
        .service(embed::embed_async)
        // Before the model types, which they would be taken for.
        .service(embed::embed_batch)
        .service(embed::embed_cached)
        .service(embed::embed_typed)
        .service(embed::embed_short)
        .service(tasks::show)
        .service(tasks::cancel)
        .service(openai::embeddings)
        .service(openai::models)
        .service(openai::model)
        .service(chat::completions)
        .service(tei::embed)
        .service(tei::similarity)
        .service(tei::tokenize)
        .service(tei::info)
        .service(tei::root)
        .service(infinity::embeddings)
        .service(infinity::models)
        .service(rerank::cohere)
        .service(rerank::cohere_v1)
        .service(rerank::rerank)
        .service(vector_stores::search)
        .service(health::health)
        .service(health::live)
        .service(health::ready)
        .service(health::metrics)
        .service(health::version);
}

/// Methods that the document knows for a path; none: it knows no such path.
pub fn methods_of(document: &OpenApi, path: &str) -> Vec<&'static str> {
    document
        .paths
        .paths
        .iter()
        .filter(|(template, _)| matches(template, path))
        .flat_map(|(_, item)| {
            [
                (HttpMethod::Get, item.get.is_some()),
                (HttpMethod::Post, item.post.is_some()),
                (HttpMethod::Delete, item.delete.is_some()),
            ]
        })
        .filter(|(_, known)| *known)
        .map(|(method, _)| match method {
            HttpMethod::Get => "GET",
            HttpMethod::Post => "POST",
            _ => "DELETE",
        })
        .collect()
}

/// `/documents/{id}` matches `/documents/7`.
fn matches(template: &str, path: &str) -> bool {
    let (template, path) = (template.split('/'), path.split('/'));
    template.clone().count() == path.clone().count()
        && template
            .zip(path)
            .all(|(wanted, given)| wanted == given || wanted.starts_with('{') && !given.is_empty())
}
