//! `/collections`: named sets of documents.

use actix_web::{HttpResponse, delete, get, post, web};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    Gateway,
    audit::Audit,
    error::{ApiError, Problem},
    reembed::ReembeddingBody,
};
use crate::{
    rag::{Caller, reembed::Reembedding},
    store::{Collection, Words},
};

/// A collection to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCollection {
    /// Letters, digits, `.`, `_` and `-`.
    #[schema(example = "handbook")]
    name: String,
    /// The model whose space it is bound to, or a model type; absent: that of the route `text-embedding`.
    #[schema(example = "all-MiniLM-L6-v2")]
    model: Option<String>,
    /// Whether searches find passages by their words, too. The lexical index keeps the words of documents
    /// readable in the database, also where their texts are encrypted. It cannot be changed later.
    #[serde(default = "indexed")]
    #[schema(default = true)]
    lexical: bool,
}

fn indexed() -> bool {
    true
}

/// A collection.
#[derive(Debug, Serialize, ToSchema)]
pub struct CollectionBody {
    #[schema(example = "handbook")]
    pub(super) name: String,
    #[schema(example = "all-MiniLM-L6-v2")]
    pub(super) model: String,
    /// The space that searches read.
    #[schema(example = "all-MiniLM-L6-v2@53aa51172d14:mean:l2:fp32")]
    space: String,
    #[schema(example = 384)]
    dimension: usize,
    #[schema(example = 12)]
    pub(super) documents: i64,
    #[schema(example = 80)]
    pub(super) passages: i64,
    /// Whether searches find passages by their words, too; without, `mode` is `dense`.
    #[schema(example = true)]
    lexical: bool,
    /// While it goes over to another model, and until that is finished.
    reembedding: Option<ReembeddingBody>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<Collection> for CollectionBody {
    fn from(collection: Collection) -> Self {
        Self {
            reembedding: Reembedding::of(&collection).map(ReembeddingBody::from),
            name: collection.name,
            model: collection.space.model,
            space: collection.space.id,
            dimension: collection.space.dimension,
            documents: collection.documents,
            passages: collection.passages,
            lexical: collection.lexical,
            created_at: collection.created_at,
        }
    }
}

/// All collections.
#[derive(Debug, Serialize, ToSchema)]
pub struct CollectionList {
    pub(super) collections: Vec<CollectionBody>,
}

/// Make a collection
///
/// It is bound to the embedding space of its model; vectors of another space never enter it.
#[utoipa::path(tag = "collections", responses(
    (status = 201, description = "Made", body = CollectionBody),
    (status = 400, description = "Malformed JSON, a bad name, or an unknown model", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The name is taken", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[post("/api/v1/collections")]
pub async fn create(
    caller: Caller,
    audit: Audit,
    gateway: web::Data<Gateway>,
    body: web::Json<NewCollection>,
) -> Result<HttpResponse, ApiError> {
    let NewCollection { name, model, lexical } = body.into_inner();
    let words = if lexical { Words::Indexed } else { Words::NotIndexed };
    let made = audit.of("collection.create", &name, async {
        Ok(gateway.rag.create_collection_with(caller.tenant, &name, model.as_deref(), words).await?)
    });
    let made = made.await?;
    Ok(HttpResponse::Created().json(CollectionBody::from(made)))
}

/// List collections
///
/// All of them by name, with their counts.
#[utoipa::path(tag = "collections", responses(
    (status = 200, description = "The collections", body = CollectionList),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[get("/api/v1/collections")]
pub async fn list(
    caller: Caller,
    gateway: web::Data<Gateway>,
) -> Result<web::Json<CollectionList>, ApiError> {
    Ok(web::Json(all(caller, &gateway).await?))
}

/// All of the caller's, whatever protocol it asked in.
pub(super) async fn all(caller: Caller, gateway: &Gateway) -> Result<CollectionList, ApiError> {
    let collections = gateway.rag.collections(caller.tenant).await?;
    Ok(CollectionList { collections: collections.into_iter().map(CollectionBody::from).collect() })
}

/// Get a collection
///
/// With the number of its documents and passages.
#[utoipa::path(tag = "collections", params(("name", example = "default")), responses(
    (status = 200, description = "The collection", body = CollectionBody),
    (status = 400, description = "A name with the character NUL", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such collection", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[get("/api/v1/collections/{name}")]
pub async fn show(
    caller: Caller,
    gateway: web::Data<Gateway>,
    name: web::Path<String>,
) -> Result<web::Json<CollectionBody>, ApiError> {
    Ok(web::Json(gateway.rag.collection(caller.tenant, &name).await?.into()))
}

/// Delete a collection
///
/// With every document and passage in it.
#[utoipa::path(tag = "collections", params(("name", example = "handbook")), responses(
    (status = 204, description = "Deleted"),
    (status = 400, description = "A name with the character NUL", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such collection", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is unavailable", body = Problem, content_type = "application/problem+json"),
))]
#[delete("/api/v1/collections/{name}")]
pub async fn remove(
    caller: Caller,
    audit: Audit,
    gateway: web::Data<Gateway>,
    name: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let removed = async { Ok(gateway.rag.delete_collection(caller.tenant, &name).await?) };
    audit.of("collection.delete", &name, removed).await?;
    Ok(HttpResponse::NoContent().finish())
}
