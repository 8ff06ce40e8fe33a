//! `/documents`: handed in, listed, read, deleted.

use actix_web::{
    HttpRequest, HttpResponse, delete, get,
    http::{StatusCode, header},
    post, web,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    Gateway,
    error::{ApiError, Problem},
    extractors::{body_bytes, parse_json},
    images,
    tasks::{TaskAccepted, accepted},
    upload,
    versions::{self, IfMatch},
};
use crate::{
    models::ModelError,
    rag::{
        Caller, RagError,
        ingest::{Ingested, SourceFile},
        jobs::DocumentOutcome,
    },
    store::{Document, DocumentSummary, ExpectedVersion, SaveOutcome},
};

/// Documents of one request at most.
const MAX_DOCUMENTS: usize = 1000;
/// Documents of one page at most.
const MAX_PAGE: i64 = 500;

/// A document to be stored.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDocument {
    /// Plain text, Markdown, HTML, CSV, JSON or an e-mail; or else `image`.
    #[schema(example = "# Fares\n\nA bicycle costs 3 euros each way.")]
    content: Option<String>,
    /// A PNG, JPEG, WebP or GIF file as base64 or data URI, for a collection whose model reads images.
    #[schema(example = json!(null))]
    image: Option<String>,
    /// Absent: the title found in the content. An image's caption.
    #[schema(example = "Fares")]
    title: Option<String>,
    /// Where it comes from, such as a URL; shown with citations.
    #[schema(example = "https://ferry.example/fares")]
    source: Option<String>,
    /// Your own name of the document: another content under it replaces the document.
    #[schema(example = "fares-2026")]
    external_id: Option<String>,
    /// Searches filter on it.
    #[serde(default)]
    #[schema(value_type = Option<Object>, example = json!({"language": "en"}))]
    metadata: Value,
    /// Absent: Markdown, or HTML when the content begins like it.
    #[schema(example = "text/markdown")]
    content_type: Option<String>,
}

/// One document, or several under `documents`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the body in the OpenAPI document; `parse` below reads it")]
pub enum NewDocuments {
    One(NewDocument),
    Many { documents: Vec<NewDocument> },
}

/// Documents to be stored in the background.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentsLater {
    /// Absent: `default`.
    #[schema(example = "default")]
    collection: Option<String>,
    /// 1 to 1000.
    documents: Vec<NewDocument>,
}

/// Files with what is known about them.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the form in the OpenAPI document; `upload` reads it")]
pub struct UploadForm {
    /// One or more files: plain text, Markdown, HTML, PDF with a text layer, Word (docx), PowerPoint (pptx), Excel
    /// (xlsx, xlsb, xls), OpenDocument (odt, ods, odp), EPUB, RTF, e-mail (eml), CSV and TSV, JSON and JSON Lines;
    /// PNG, JPEG, WebP or GIF for a collection whose model reads images.
    #[schema(value_type = Vec<String>, format = Binary, content_media_type = "application/octet-stream")]
    file: Vec<Vec<u8>>,
    title: Option<String>,
    source: Option<String>,
    external_id: Option<String>,
    /// A JSON object, as text.
    metadata: Option<String>,
}

/// What was done with each document.
#[derive(Debug, Serialize, ToSchema)]
pub struct DocumentsStored {
    documents: Vec<StoredDocument>,
    /// Those that could not be stored; the others were.
    failed: Vec<FailedDocument>,
}

/// A stored document.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoredDocument {
    id: Uuid,
    #[schema(example = "Fares")]
    title: Option<String>,
    /// `created`, `updated`, or `unchanged` when this content was stored already.
    #[schema(example = "created")]
    status: &'static str,
    /// Passages it was cut into.
    #[schema(example = 3)]
    passages: i64,
    /// Those of them that were embedded now; the others were in the version before.
    #[schema(example = 3)]
    embedded: i64,
    /// 1, and one more with each change.
    #[schema(example = 1)]
    version: i64,
}

/// A document that was not stored.
#[derive(Debug, Serialize, ToSchema)]
pub struct FailedDocument {
    /// Position in the request.
    index: usize,
    name: Option<String>,
    #[schema(example = "unreadable_document")]
    code: &'static str,
    detail: String,
}

/// A document without its content.
#[derive(Debug, Serialize, ToSchema)]
pub struct DocumentBody {
    id: Uuid,
    external_id: Option<String>,
    title: Option<String>,
    source: Option<String>,
    /// The media type of what it was read from, such as `text/markdown` or `application/pdf`, or of an image.
    #[schema(example = "text/markdown")]
    format: String,
    #[schema(value_type = Object)]
    metadata: Value,
    /// Length of the extracted text, or of the image.
    bytes: i64,
    passages: i64,
    /// 1, and one more with each change.
    #[schema(example = 1)]
    version: i64,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

/// A document with its content.
#[derive(Debug, Serialize, ToSchema)]
pub struct WholeDocument {
    #[serde(flatten)]
    document: DocumentBody,
    collection: String,
    /// The extracted text, or the image's caption.
    content: String,
}

/// A page of documents.
#[derive(Debug, Serialize, ToSchema)]
pub struct DocumentList {
    documents: Vec<DocumentBody>,
    /// Documents of the whole collection.
    total: i64,
    /// Give it as `after` to get the next page; null on the last.
    next: Option<Uuid>,
}

impl From<DocumentSummary> for DocumentBody {
    fn from(summary: DocumentSummary) -> Self {
        Self {
            id: summary.id,
            external_id: summary.external_id,
            title: summary.title,
            source: summary.source,
            format: summary.format,
            metadata: summary.metadata,
            bytes: summary.bytes,
            passages: summary.passages,
            version: summary.version,
            created_at: summary.created_at,
            updated_at: summary.updated_at,
        }
    }
}

impl From<Document> for WholeDocument {
    fn from(document: Document) -> Self {
        Self { document: document.summary.into(), collection: document.collection, content: document.content }
    }
}

impl From<Ingested> for StoredDocument {
    fn from(ingested: Ingested) -> Self {
        Self {
            id: ingested.saved.id,
            title: ingested.title,
            status: match ingested.saved.outcome {
                SaveOutcome::Created => "created",
                SaveOutcome::Updated => "updated",
                SaveOutcome::Unchanged => "unchanged",
            },
            passages: ingested.saved.passages,
            embedded: ingested.saved.embedded,
            version: ingested.saved.version,
        }
    }
}

impl From<Vec<DocumentOutcome>> for DocumentsStored {
    fn from(outcomes: Vec<DocumentOutcome>) -> Self {
        let mut stored = DocumentsStored { documents: Vec::new(), failed: Vec::new() };
        for (index, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                DocumentOutcome::Stored(ingested) => stored.documents.push(ingested.into()),
                DocumentOutcome::Refused { name, fault, detail } => {
                    stored.failed.push(FailedDocument { index, name, code: fault.code(), detail });
                }
            }
        }
        stored
    }
}

impl TryFrom<NewDocument> for SourceFile {
    type Error = ApiError;

    fn try_from(document: NewDocument) -> Result<Self, ApiError> {
        let (content_type, bytes) = match (document.content, document.image) {
            // Plain text is Markdown too; HTML is told from its beginning.
            (Some(content), None) => {
                (document.content_type.unwrap_or_else(|| "text/markdown".into()), content.into_bytes())
            }
            // Which kind it is, its bytes say.
            (None, Some(image)) => ("image/*".into(), images::parse("image", &image)?.into()),
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid("content, image: give one of them, not both"));
            }
            (None, None) => return Err(ApiError::invalid("a document needs `content` or `image`")),
        };
        Ok(Self {
            name: None,
            content_type: Some(content_type),
            bytes,
            title: document.title,
            source: document.source,
            external_id: document.external_id,
            metadata: document.metadata,
            expected: ExpectedVersion::Anything,
        })
    }
}

/// Where documents go.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Target {
    /// Absent: `default`.
    collection: Option<String>,
}

/// Which page of a listing.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// Absent: `default`.
    collection: Option<String>,
    /// Documents of the page, 1 to 500.
    #[serde(default = "fifty")]
    #[param(example = 50)]
    limit: i64,
    /// `next` of the page before.
    after: Option<Uuid>,
}

fn fifty() -> i64 {
    50
}

/// Store documents
///
/// One or several as JSON, or files as a multipart form. Content that is stored already is recognised by its
/// hash and not embedded again. A document of the same `external_id`, or without one of the same file, is replaced;
/// only passages that it did not have are embedded. Each document is stored whole or not at all: whoever searches
/// meanwhile finds the old version or the new one.
#[utoipa::path(tag = "documents", params(Target, IfMatch),
    request_body(content((NewDocuments = "application/json"), (UploadForm = "multipart/form-data"))),
    responses(
    (status = 201, description = "All stored, at least one of them new", body = DocumentsStored),
    (status = 200, description = "All were stored already, or replaced what was", body = DocumentsStored),
    (status = 207, description = "Some stored, some failed: see `failed`", body = DocumentsStored),
    (status = 400, description = "Malformed JSON or form, NUL characters, bad metadata", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such collection", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The collection is of a space that no loaded model makes", body = Problem, content_type = "application/problem+json"),
    (status = 412, description = "The document is not the version that `If-Match` names", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
    (status = 415, description = "Not a format that ragway reads", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The content cannot be read (empty, binary, a PDF without text, a password, a broken image), or the collection's model reads no images", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too much work is queued", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/documents")]
pub async fn store(
    caller: Caller,
    gateway: web::Data<Gateway>,
    target: web::Query<Target>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let expected = versions::expected(request.headers())?;
    let mut files = read_files(&gateway, &request, payload).await?;
    let many = files.len() > 1;
    if expected != ExpectedVersion::Anything {
        let [SourceFile { external_id: Some(_), expected: of_file, .. }] = files.as_mut_slice() else {
            return Err(ApiError::invalid("If-Match: needs one document, with an external_id"));
        };
        *of_file = expected;
    }
    let mut stored = DocumentsStored { documents: Vec::new(), failed: Vec::new() };
    for (index, file) in files.into_iter().enumerate() {
        let name = file.name.clone().or_else(|| file.title.clone());
        match gateway.rag.ingest(caller, target.collection.as_deref(), file).await {
            Ok(ingested) => stored.documents.push(ingested.into()),
            Err(error) if many && concerns_one_document(&error) => {
                let error = ApiError::from(error);
                let detail = error.problem().detail;
                stored.failed.push(FailedDocument { index, name, code: error.code(), detail });
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut response = HttpResponse::build(status_of(&stored));
    if let ([StoredDocument { id, version, .. }], false) = (stored.documents.as_slice(), many) {
        response.insert_header((header::ETAG, versions::etag(*id, *version)));
    }
    Ok(response.json(stored))
}

/// List documents
///
/// In the order they came, a page at a time.
#[utoipa::path(tag = "documents", params(Page), responses(
    (status = 200, description = "The page", body = DocumentList),
    (status = 400, description = "A bad limit or id", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such collection", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[get("/api/v1/documents")]
pub async fn list(
    caller: Caller,
    gateway: web::Data<Gateway>,
    page: web::Query<Page>,
) -> Result<web::Json<DocumentList>, ApiError> {
    if !(1..=MAX_PAGE).contains(&page.limit) {
        return Err(ApiError::invalid(format!("limit: must be between 1 and {MAX_PAGE}, is {}", page.limit)));
    }
    let found =
        gateway.rag.documents(caller.tenant, page.collection.as_deref(), page.after, page.limit).await?;
    Ok(web::Json(DocumentList {
        documents: found.documents.into_iter().map(DocumentBody::from).collect(),
        total: found.total,
        next: found.next,
    }))
}

/// Store documents later
///
/// Answers at once with a task, whose result lists what became of each document as `POST /api/v1/documents`
/// does. A task that is interrupted goes on where it stopped.
#[utoipa::path(tag = "documents", responses(
    (status = 202, description = "Queued; `Location` is where to ask", body = TaskAccepted),
    (status = 400, description = "Malformed JSON, no or too many documents; a lone document with bad fields", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such collection", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The collection is of a space that no loaded model makes", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
    (status = 415, description = "Not JSON; a lone document of a format that ragway does not read", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "A lone document whose content cannot be read", body = Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too many tasks are queued; `Retry-After` says when to try again", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/documents/async")]
pub async fn store_async(
    caller: Caller,
    gateway: web::Data<Gateway>,
    body: web::Json<DocumentsLater>,
) -> Result<HttpResponse, ApiError> {
    let DocumentsLater { collection, documents } = body.into_inner();
    check_count(documents.len())?;
    let files = documents.into_iter().map(SourceFile::try_from).collect::<Result<_, _>>()?;
    Ok(accepted(gateway.rag.ingest_later(caller, collection.as_deref(), files).await?))
}

/// Get a document
///
/// With its extracted text.
#[utoipa::path(tag = "documents", params(("id", description = "The document")), responses(
    (status = 200, description = "The document; `ETag` is its version", body = WholeDocument),
    (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such document", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[get("/api/v1/documents/{id}")]
pub async fn show(
    caller: Caller,
    gateway: web::Data<Gateway>,
    id: web::Path<Uuid>,
) -> Result<HttpResponse, ApiError> {
    let document = gateway.rag.document(caller.tenant, *id).await?;
    let etag = versions::etag(*id, document.summary.version);
    Ok(HttpResponse::Ok().insert_header((header::ETAG, etag)).json(WholeDocument::from(document)))
}

/// Delete a document
///
/// With its passages: it answers no question from then on.
#[utoipa::path(tag = "documents", params(("id", description = "The document"), IfMatch), responses(
    (status = 204, description = "Deleted"),
    (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such document", body = Problem, content_type = "application/problem+json"),
    (status = 412, description = "The document is not the version that `If-Match` names", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[delete("/api/v1/documents/{id}")]
pub async fn remove(
    caller: Caller,
    gateway: web::Data<Gateway>,
    id: web::Path<Uuid>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let expected = versions::expected(request.headers())?;
    gateway.rag.delete_document(caller.tenant, *id, &expected).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn read_files(
    gateway: &Gateway,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<Vec<SourceFile>, ApiError> {
    let limit = gateway.rag.catalog().http.max_body_bytes;
    let mut payload = payload.into_inner();
    let content_type = header_text(request, header::CONTENT_TYPE).to_ascii_lowercase();
    let files = if content_type.starts_with("multipart/form-data") {
        let form = upload::form(request, &mut payload, limit).await?;
        upload::read(form, limit).await?
    } else if content_type.starts_with("application/json") {
        let body = body_bytes(request, &mut payload, limit).await?;
        parse(&body)?.into_iter().map(SourceFile::try_from).collect::<Result<_, _>>()?
    } else {
        return Err(ApiError::unsupported_content_type(
            "send JSON (`application/json`) or files (`multipart/form-data`, field `file`)",
        ));
    };
    check_count(files.len())?;
    Ok(files)
}

fn check_count(documents: usize) -> Result<(), ApiError> {
    match documents {
        0 => {
            Err(ApiError::invalid("no document: give `content`, `documents`, or a form with a field `file`"))
        }
        count if count > MAX_DOCUMENTS => Err(ApiError::invalid(format!(
            "{count} documents in one request, at most {MAX_DOCUMENTS} are taken"
        ))),
        _ => Ok(()),
    }
}

/// By hand, because the error of an untagged enum does not say what was wrong.
fn parse(body: &[u8]) -> Result<Vec<NewDocument>, ApiError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Many {
        documents: Vec<NewDocument>,
    }
    let value: Value = parse_json(body)?;
    if value.get("documents").is_some() {
        return Ok(parse_json::<Many>(body)?.documents);
    }
    Ok(vec![parse_json(body)?])
}

fn header_text(request: &HttpRequest, name: header::HeaderName) -> &str {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// Whether the other documents of the request may still be stored.
fn concerns_one_document(error: &RagError) -> bool {
    matches!(
        error,
        RagError::Invalid(_)
            | RagError::Extract(_)
            | RagError::BadImage(_)
            | RagError::Model(ModelError::Unfit { .. })
    )
}

fn status_of(stored: &DocumentsStored) -> StatusCode {
    if !stored.failed.is_empty() {
        StatusCode::MULTI_STATUS
    } else if stored.documents.iter().any(|document| document.status == "created") {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    }
}
