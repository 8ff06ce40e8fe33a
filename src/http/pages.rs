//! The question page and the Swagger UI.

use actix_web::{
    HttpRequest, HttpResponse, get,
    http::header,
    middleware::{DefaultHeaders, from_fn},
    web,
};
use serde_json::json;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{Gateway, caching::public, error::ApiError};

/// Nothing from elsewhere, nothing inline: what a document says cannot run.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// The same for the Swagger UI, whose icons are data URIs, which shows pictures that it gets from blobs, and
/// whose logo holds the one inline style of this hash.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; \
                           style-src 'self' 'sha256-RL3ie0nH+Lzz2YNqQN83mnU0J1ot4QL7b99vMdIX99w='; \
                           img-src 'self' data: blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; \
                           frame-ancestors 'none'";

/// What every page says beside its policy.
const GUARDS: &[(header::HeaderName, &str)] =
    &[(header::X_CONTENT_TYPE_OPTIONS, "nosniff"), (header::REFERRER_POLICY, "no-referrer")];

/// Where the published description of the API is.
const DOCUMENT: &str = "/openapi.json";

/// Name, media type and content of what the page loads.
const ASSETS: &[(&str, &str, &str)] = &[
    ("style.css", STYLE, include_str!("ui/style.css")),
    ("parts.css", STYLE, include_str!("ui/parts.css")),
    ("theme.js", JAVASCRIPT, include_str!("ui/theme.js")),
    ("app.js", JAVASCRIPT, include_str!("ui/app.js")),
    ("answer.js", JAVASCRIPT, include_str!("ui/answer.js")),
    ("collections.js", JAVASCRIPT, include_str!("ui/collections.js")),
    ("feedback.js", JAVASCRIPT, include_str!("ui/feedback.js")),
    ("passage.js", JAVASCRIPT, include_str!("ui/passage.js")),
    ("render.js", JAVASCRIPT, include_str!("ui/render.js")),
    ("server.js", JAVASCRIPT, include_str!("ui/server.js")),
    ("settings.js", JAVASCRIPT, include_str!("ui/settings.js")),
    ("upload.js", JAVASCRIPT, include_str!("ui/upload.js")),
    ("words.js", JAVASCRIPT, include_str!("ui/words.js")),
    ("icon.svg", "image/svg+xml", include_str!("ui/icon.svg")),
];
const STYLE: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Adds the pages; they are not part of the published API.
pub fn configure(config: &mut web::ServiceConfig, document: web::Data<OpenApi>) {
    config.service(index).service(samples).service(assets);
    config.app_data(document);
    let document = web::resource(DOCUMENT).wrap(from_fn(public)).route(web::get().to(show_document));
    config.service(document);
    config.route("/docs", web::get().to(to_docs));
    let settings = Config::from(DOCUMENT).try_it_out_enabled(true).display_request_duration(true);
    let guarded = GUARDS.iter().fold(DefaultHeaders::new(), |headers, guard| headers.add(guard.clone()));
    let guarded = guarded.add((header::CONTENT_SECURITY_POLICY, DOCS_POLICY));
    let docs = SwaggerUi::new("/{_:.*}").config(settings);
    config.service(web::scope("/docs").wrap(from_fn(public)).wrap(guarded).service(docs));
}

#[get("/", wrap = "from_fn(public)")]
async fn index() -> HttpResponse {
    asset("text/html; charset=utf-8", include_str!("ui/index.html"))
}

#[get("/ui/{name}", wrap = "from_fn(public)")]
async fn assets(request: HttpRequest, name: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let found = ASSETS.iter().find(|(known, _, _)| *known == name.as_str());
    found
        .map(|(_, media_type, body)| asset(media_type, body))
        .ok_or_else(|| ApiError::not_found(request.path()))
}

/// Questions that the page offers.
#[get("/ui/samples.json", wrap = "from_fn(public)")]
async fn samples(gateway: web::Data<Gateway>) -> HttpResponse {
    HttpResponse::Ok().json(json!({ "questions": gateway.samples }))
}

async fn show_document(document: web::Data<OpenApi>) -> HttpResponse {
    HttpResponse::Ok().json(document.as_ref())
}

async fn to_docs() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "/docs/")).finish()
}

fn asset(content_type: &str, body: &'static str) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    for guard in GUARDS {
        response.insert_header(guard.clone());
    }
    response.content_type(content_type).insert_header((header::CONTENT_SECURITY_POLICY, POLICY)).body(body)
}
