//! Collections: named sets of documents, each of one embedding space.

use std::time::Duration;

use moka::future::Cache;
use time::OffsetDateTime;
use tokio_postgres::{Row, error::SqlState, types::Type};
use uuid::Uuid;

use super::{FromRow, OtherSpace, OtherState, Store, StoreError, TenantId, VectorIndex};
use crate::config::EmbeddingSpace;

/// A collection as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    pub id: Uuid,
    pub name: String,
    /// The space that searches read.
    pub space: EmbeddingSpace,
    /// Another one while the collection goes over, and until that is finished.
    pub other: Option<OtherSpace>,
    pub documents: i64,
    pub passages: i64,
    pub created_at: OffsetDateTime,
    /// Raised with every change of its documents or of the space that searches read.
    pub version: i64,
    /// Whether words of what was stored before are still being indexed: a search may find more with each moment.
    pub filling_words: bool,
    /// What searches of the live space use.
    pub index: VectorIndex,
    /// Keys of the metadata whose order comparisons have an index.
    pub fields: Vec<String>,
    /// Whether it has a lexical index: searches for words read one, and its words are readable in the database.
    pub lexical: bool,
}

/// What becomes of the words of a collection's documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// They stand in a lexical index.
    Indexed,
    /// They are found by their vectors only.
    NotIndexed,
}

impl FromRow for Collection {
    fn from_row(row: &Row) -> Self {
        let space = space_of(row.get("space_id"), row.get("model"), row.get("dimension"));
        Self {
            id: row.get("id"),
            name: row.get("name"),
            index: VectorIndex::from_row(row, space.dimension),
            fields: row.get("fields"),
            lexical: row.get("lexical"),
            space,
            other: row.get::<_, Option<String>>("other_id").map(|id| OtherSpace {
                space: space_of(id, row.get("other_model"), row.get("other_dimension")),
                state: if row.get("other_filling") { OtherState::Filling } else { OtherState::Kept },
                age: Duration::try_from_secs_f64(row.get("other_age")).unwrap_or_default(),
                job: row.get("other_job"),
            }),
            documents: row.get("documents"),
            passages: row.get("passages"),
            created_at: row.get("created_at"),
            version: row.get("version"),
            filling_words: row.get("filling_words"),
        }
    }
}

fn space_of(id: String, model: String, dimension: i32) -> EmbeddingSpace {
    EmbeddingSpace { id, model, dimension: usize::try_from(dimension).unwrap_or(0) }
}

const COLUMNS: &str = "
    SELECT c.id, c.name, c.lexical, c.space_id, s.model, s.dimension, c.created_at,
           o.space_id AS other_id, os.model AS other_model, os.dimension AS other_dimension,
           o.state = 'filling' AS other_filling, o.job_id AS other_job,
           extract(epoch FROM now() - o.since)::float8 AS other_age, coalesce(v.version, 0) AS version,
           EXISTS (SELECT FROM lexical_indexes l WHERE l.collection_id = c.id AND l.tenant_id = c.tenant_id
               AND l.space_id = c.space_id AND l.fill_from IS NOT NULL) AS filling_words,
           i.kind AS index_kind, i.m AS index_m, i.ef_construction AS index_ef_construction,
           i.ef_search AS index_ef_search, i.index_name,
           'passages_hnsw_' || left(md5(c.space_id), 16) AS shared_index,
           ARRAY(SELECT f.key FROM collection_fields f WHERE f.collection_id = c.id ORDER BY f.key) AS fields";

const FROM: &str = "
    FROM collections c JOIN embedding_spaces s ON s.id = c.space_id
    LEFT JOIN collection_spaces o ON o.collection_id = c.id AND o.state IN ('filling', 'kept')
    LEFT JOIN embedding_spaces os ON os.id = o.space_id
    LEFT JOIN collection_versions v ON v.collection_id = c.id
    LEFT JOIN collection_indexes i
        ON (i.collection_id, i.tenant_id, i.space_id) = (c.id, c.tenant_id, c.space_id)
    WHERE c.tenant_id = $1";

/// What may change under a search; planning [`COLUMNS`] takes three times as long.
const GLANCE: &str = "
    SELECT c.id, c.space_id, coalesce(v.version, 0) AS version,
           (SELECT i.kind || ':' || coalesce(i.index_name, '') FROM collection_indexes i WHERE i.collection_id = c.id
               AND i.tenant_id = c.tenant_id AND i.space_id = c.space_id) AS own_index,
           EXISTS (SELECT FROM lexical_indexes l WHERE l.collection_id = c.id AND l.tenant_id = c.tenant_id
               AND l.space_id = c.space_id AND l.fill_from IS NOT NULL) AS filling_words
    FROM collections c LEFT JOIN collection_versions v ON v.collection_id = c.id
    WHERE c.tenant_id = $1 AND c.name = $2";

/// How long the rest is believed.
const BELIEVED: Duration = Duration::from_secs(1);

/// Collections as they were a moment ago.
#[derive(Clone)]
pub(super) struct KnownCollections(Cache<(TenantId, String), Collection>);

impl Default for KnownCollections {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(10_000).time_to_live(BELIEVED).build())
    }
}

const COUNTS: &str = ",
           (SELECT count(*) FROM documents d WHERE d.collection_id = c.id) AS documents,
           (SELECT count(*) FROM passages p WHERE p.collection_id = c.id AND p.space_id = c.space_id) AS passages";

// The counts are for people who list; the path of a question does not pay for them.
const NO_COUNTS: &str = ", 0::bigint AS documents, 0::bigint AS passages";

impl Collection {
    /// The spaces that it holds, the live one first: a document has passages in each.
    pub fn spaces(&self) -> impl Iterator<Item = &EmbeddingSpace> {
        std::iter::once(&self.space).chain(self.other.as_ref().map(|other| &other.space))
    }
}

impl Store {
    /// Makes a collection bound to `space`, with a lexical index.
    pub async fn create_collection(
        &self,
        tenant: TenantId,
        name: &str,
        space: &EmbeddingSpace,
    ) -> Result<Collection, StoreError> {
        self.create_collection_with(tenant, name, space, Words::Indexed).await
    }

    /// [`Store::create_collection`], also without a lexical index.
    pub async fn create_collection_with(
        &self,
        tenant: TenantId,
        name: &str,
        space: &EmbeddingSpace,
        words: Words,
    ) -> Result<Collection, StoreError> {
        self.register_space(space).await?;
        let inserted = self
            .tenant(tenant)
            .await?
            .execute_typed(
                "INSERT INTO collections (id, tenant_id, name, space_id, lexical) VALUES ($1, $2, $3, $4, $5)",
                &[
                    (&Uuid::now_v7(), Type::UUID),
                    (&tenant.0, Type::UUID),
                    (&name, Type::TEXT),
                    (&space.id, Type::TEXT),
                    (&(words == Words::Indexed), Type::BOOL),
                ],
            )
            .await;
        match inserted {
            Ok(_) => self.collection(tenant, name).await,
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                Err(StoreError::CollectionExists(name.to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// All collections by name, with their counts.
    pub async fn collections(&self, tenant: TenantId) -> Result<Vec<Collection>, StoreError> {
        let statement = format!("{COLUMNS}{COUNTS}{FROM} ORDER BY c.name");
        let rows = self.tenant(tenant).await?.query_typed(&statement, &[(&tenant.0, Type::UUID)]).await?;
        Ok(rows.iter().map(Collection::from_row).collect())
    }

    /// The collection of this name with its counts.
    pub async fn counted_collection(&self, tenant: TenantId, name: &str) -> Result<Collection, StoreError> {
        self.find(&format!("{COLUMNS}{COUNTS}{FROM} AND c.name = $2"), tenant, name).await
    }

    /// The collection of this name; its counts are left 0.
    pub async fn collection(&self, tenant: TenantId, name: &str) -> Result<Collection, StoreError> {
        self.find(&format!("{COLUMNS}{NO_COUNTS}{FROM} AND c.name = $2"), tenant, name).await
    }

    /// [`Store::collection`] for a search: what searches go by (space, index, version) is as it is now, of the
    /// rest what it was within the last second.
    pub async fn searched_collection(&self, tenant: TenantId, name: &str) -> Result<Collection, StoreError> {
        if let Some(known) = self.known.0.get(&(tenant, name.to_owned())).await
            && let Some(current) = self.glance(tenant, known).await?
        {
            return Ok(current);
        }
        self.look_up(tenant, name).await
    }

    /// [`Store::collection`] as it was within the last second, which takes no statement. A search goes by the
    /// passages as they are and fails with [`StoreError::SpacesChanged`] where the space is another one by now.
    ///
    /// With a read replica it is [`Store::searched_collection`], for the version says what a search must find.
    pub async fn recent_collection(&self, tenant: TenantId, name: &str) -> Result<Collection, StoreError> {
        if self.has_replica() {
            return self.searched_collection(tenant, name).await;
        }
        match self.known.0.get(&(tenant, name.to_owned())).await {
            Some(known) => Ok(known),
            None => self.look_up(tenant, name).await,
        }
    }

    /// Also keeps it for the next second.
    async fn look_up(&self, tenant: TenantId, name: &str) -> Result<Collection, StoreError> {
        let found = self.collection(tenant, name).await?;
        self.known.0.insert((tenant, name.to_owned()), found.clone()).await;
        Ok(found)
    }

    /// The collection as it is now; absent where more of it has changed than its documents.
    async fn glance(&self, tenant: TenantId, known: Collection) -> Result<Option<Collection>, StoreError> {
        let parameters = [(&tenant.0 as _, Type::UUID), (&known.name as _, Type::TEXT)];
        let row = self.tenant(tenant).await?.query_typed_opt(GLANCE, &parameters).await?;
        let index = &known.index;
        let own_index = index
            .own
            .then(|| format!("{}:{}", index.spec.kind.name(), index.name.as_deref().unwrap_or_default()));
        let same = |row: &Row| {
            row.get::<_, Uuid>("id") == known.id
                && row.get::<_, String>("space_id") == known.space.id
                && row.get::<_, Option<String>>("own_index") == own_index
        };
        Ok(row.filter(same).map(|row| Collection {
            version: row.get("version"),
            filling_words: row.get("filling_words"),
            ..known.clone()
        }))
    }

    async fn find(&self, statement: &str, tenant: TenantId, name: &str) -> Result<Collection, StoreError> {
        self.tenant(tenant)
            .await?
            .query_typed_opt(statement, &[(&tenant.0, Type::UUID), (&name, Type::TEXT)])
            .await?
            .map(|row| Collection::from_row(&row))
            .ok_or_else(|| StoreError::UnknownCollection(name.to_owned()))
    }

    /// Deletes a collection with its documents and passages.
    pub async fn delete_collection(&self, tenant: TenantId, name: &str) -> Result<(), StoreError> {
        let deleted = self
            .tenant(tenant)
            .await?
            .execute_typed(
                "DELETE FROM collections WHERE tenant_id = $1 AND name = $2",
                &[(&tenant.0, Type::UUID), (&name, Type::TEXT)],
            )
            .await?;
        if deleted == 0 { Err(StoreError::UnknownCollection(name.to_owned())) } else { Ok(()) }
    }

    /// Makes the space known, with the index of its vectors.
    pub(super) async fn register_space(&self, space: &EmbeddingSpace) -> Result<(), StoreError> {
        let dimension = i32::try_from(space.dimension).unwrap_or(i32::MAX);
        let row = self
            .connection()
            .await?
            .query_typed_one(
                "SELECT register_embedding_space($1, $2, $3) AS indexed",
                &[(&space.id, Type::TEXT), (&space.model, Type::TEXT), (&dimension, Type::INT4)],
            )
            .await?;
        if !row.get::<_, bool>("indexed") {
            tracing::warn!(
                space = space.id,
                "the space {} has no vector index yet, for building it here would lock writers out: searches in \
                 it compare every vector until `ragway index rebuild COLLECTION` has built one",
                space.id
            );
        }
        Ok(())
    }
}
