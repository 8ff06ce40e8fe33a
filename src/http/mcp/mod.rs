//! `/mcp`: searching and asking as tools of the Model Context Protocol.
//!
//! The SDK speaks the protocol; here is what lies between it and actix. There are no
//! sessions: every request stands alone, so that any replica can serve it.
//!
//! | file | |
//! |---|---|
//! | `server` | what the SDK asks of a server |
//! | `tools` | the tools, what they take and do |
//! | `text` | results as a model reads them |
//! | `schema` | JSON Schemas of what the API describes |

mod schema;
mod server;
mod text;
mod tools;

use std::{convert::Infallible, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};
use serde::de::IgnoredAny;
use serde_json::json;
use url::Url;

use super::{Gateway, error::ApiError, extractors::body_bytes, observe::RequestScope};
use crate::{access::Identity, config::HttpSettings};
use server::McpServer;

/// The endpoint's path.
const PATH: &str = "/mcp";

/// The endpoint, shared by all workers.
pub struct Mcp {
    service: StreamableHttpService<McpServer, NeverSessionManager>,
    max_body_bytes: usize,
}

/// Who called, for the tools: the SDK runs them in tasks of their own.
#[derive(Clone)]
struct Visit {
    identity: Identity,
    scope: RequestScope,
}

impl Mcp {
    pub fn new(gateway: Arc<Gateway>) -> Self {
        let settings = &gateway.rag.catalog().http;
        let (config, max_body_bytes) = (sdk_config(settings), settings.max_body_bytes);
        let server = McpServer::new(gateway);
        let service = StreamableHttpService::new(move || Ok(server.clone()), Arc::default(), config);
        Self { service, max_body_bytes }
    }
}

/// Adds the endpoint; it is no part of the published API, whose shape it does not have.
pub fn configure(config: &mut web::ServiceConfig, mcp: web::Data<Mcp>) {
    config.app_data(mcp).service(web::resource(PATH).to(handle));
}

fn sdk_config(settings: &HttpSettings) -> StreamableHttpServerConfig {
    let any = |list: &[String]| list.iter().any(|entry| entry == "*");
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_max_request_body_bytes(settings.max_body_bytes);
    let config = match any(&settings.mcp.hosts) {
        true => config.disable_allowed_hosts(),
        false => config.with_allowed_hosts(&settings.mcp.hosts),
    };
    match any(&settings.cors.origins) {
        true => config.disable_allowed_origins(),
        false => config
            .with_allowed_origins(settings.cors.origins.iter().map(|origin| with_port(origin)))
            .enforce_origin_validation(),
    }
}

/// The SDK takes an origin without a port for one of any port, browsers mean the scheme's.
fn with_port(origin: &str) -> String {
    let Ok(url) = Url::parse(origin) else { return origin.to_owned() };
    match (url.host_str(), url.port_or_known_default()) {
        (Some(host), Some(port)) => format!("{}://{host}:{port}", url.scheme()),
        _ => origin.to_owned(),
    }
}

async fn handle(
    identity: Identity,
    mcp: web::Data<Mcp>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let body = body_bytes(&request, &mut payload.into_inner(), mcp.max_body_bytes).await?;
    let visit = Visit { identity, scope: RequestScope::current() };
    let response = mcp.service.handle(for_sdk(&request, body.clone(), visit)?).await;
    from_sdk(&request, &body, response).await
}

/// actix has another version of these types.
fn for_sdk(
    request: &HttpRequest,
    body: web::Bytes,
    visit: Visit,
) -> Result<http::Request<Full<web::Bytes>>, ApiError> {
    let mut made = http::Request::builder().method(request.method().as_str()).uri(request.uri().to_string());
    for (name, value) in request.headers() {
        made = made.header(name.as_str(), value.as_bytes());
    }
    made.extension(visit).body(Full::new(body)).map_err(|error| ApiError::invalid(error.to_string()))
}

async fn from_sdk(
    request: &HttpRequest,
    sent: &[u8],
    response: http::Response<BoxBody<web::Bytes, Infallible>>,
) -> Result<HttpResponse, ApiError> {
    let (parts, body) = response.into_parts();
    let status = StatusCode::from_u16(parts.status.as_u16()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status.is_client_error() && !parts.headers.contains_key("content-type") {
        let Ok(words) = body.collect().await;
        return refused(request, sent, status, &String::from_utf8_lossy(&words.to_bytes()));
    }
    let mut made = HttpResponse::build(status);
    for (name, value) in &parts.headers {
        made.append_header((name.as_str(), value.as_bytes()));
    }
    Ok(made.streaming(body.into_data_stream()))
}

/// What the SDK refuses before it comes to a message, in the API's own shape; what is no message, in that of
/// JSON-RPC.
fn refused(
    request: &HttpRequest,
    sent: &[u8],
    status: StatusCode,
    words: &str,
) -> Result<HttpResponse, ApiError> {
    let says_json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.trim_start().to_ascii_lowercase().starts_with("application/json"));
    Err(match status {
        StatusCode::UNSUPPORTED_MEDIA_TYPE if says_json => return Ok(no_message(sent)),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ApiError::unsupported_content_type(words),
        StatusCode::METHOD_NOT_ALLOWED => {
            ApiError::wrong_method(request.method().as_str(), PATH, "POST".into())
        }
        StatusCode::FORBIDDEN => ApiError::new(
            status,
            "foreign_request",
            format!(
                "{words}; models.toml says by which names clients may call this server (`hosts` of \
                 [http.mcp]), and pages of which origins (`origins` of [http.cors])"
            ),
        ),
        _ => ApiError::new(status, "invalid_request", words),
    })
}

fn no_message(sent: &[u8]) -> HttpResponse {
    let (code, message) = match serde_json::from_slice::<IgnoredAny>(sent) {
        Err(error) => (-32700, format!("the body is not valid JSON: {error}")),
        Ok(_) => {
            (-32600, "the body is not one JSON-RPC 2.0 message of the Model Context Protocol".to_owned())
        }
    };
    let error = json!({"jsonrpc": "2.0", "id": null, "error": {"code": code, "message": message}});
    HttpResponse::BadRequest().json(error)
}
