//! Passages: what search finds.

use futures_util::future::{try_join, try_join4};
use pgvector::Vector;
use serde_json::Value;
use tokio_postgres::{Client, Row, types::Type};
use uuid::Uuid;

use super::{
    Candidates, Collection, Filter, PlanKind, SearchPlan, Store, StoreError, TenantId, alone,
    filter::Parameters,
    indexes::exact_order,
    plans::{MAX_SCAN_TUPLES, place, trusted},
    sealed::{PASSAGE_CONTENT, PASSAGE_HEADING, Seals},
    shards::{given_by_shards, nearest_of_each},
};

/// How thoroughly vectors are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchEffort {
    /// Through the collection's index where many passages pass the filter, one by one where few do.
    /// As many are found as there are, up to `k`.
    Indexed,
    /// Every vector that passes the filter.
    Exact,
}

/// A nearest-passages query within one collection, and so within one space.
#[derive(Debug, Clone)]
pub struct PassageQuery<'a> {
    pub tenant: TenantId,
    pub collection: &'a Collection,
    /// A vector of the collection's space.
    pub vector: Vec<f32>,
    pub k: usize,
    /// Passages of a lower cosine similarity are left out.
    pub min_similarity: f32,
    pub filter: Option<&'a Filter>,
    pub effort: SearchEffort,
}

/// A passage with how near it is.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundPassage {
    pub id: Uuid,
    pub document_id: Uuid,
    /// Of the document: passages of two versions do not belong together.
    pub document_version: i64,
    pub external_id: Option<String>,
    pub ordinal: i32,
    pub title: Option<String>,
    pub source: Option<String>,
    /// Media type of the document.
    pub format: String,
    pub heading: Option<String>,
    pub content: String,
    pub metadata: Value,
    /// 1 − cosine distance.
    pub similarity: f32,
    /// What ranked it.
    pub scores: SearchScores,
}

/// What each way of searching says of a passage; absent: it did not find it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SearchScores {
    /// The similarity.
    pub dense: Option<f32>,
    /// BM25.
    pub lexical: Option<f32>,
    /// Of both together, by which a hybrid search ranks.
    pub fused: Option<f32>,
    /// How well the passage answers the query, 0 to 1, of a reranker that read it.
    pub rerank: Option<f32>,
}

impl FoundPassage {
    /// Of a row with the passage, its document, and what is sealed of it.
    pub(super) fn open(row: &Row, seals: Seals<'_>) -> Result<Self, StoreError> {
        let id = row.get("id");
        Ok(Self {
            id,
            document_id: row.get("document_id"),
            document_version: row.get("document_version"),
            external_id: row.get("external_id"),
            ordinal: row.get("ordinal"),
            title: row.get("title"),
            source: row.get("source"),
            format: row.get("format"),
            heading: seals.text(row, id, PASSAGE_HEADING)?,
            content: seals.needed_text(row, id, PASSAGE_CONTENT)?,
            metadata: row.get("metadata"),
            similarity: row.get("similarity"),
            scores: SearchScores::default(),
        })
    }
}

#[cfg(test)]
impl FoundPassage {
    /// A passage of plain text that nothing is known of.
    pub fn sample() -> Self {
        Self {
            id: Uuid::now_v7(),
            document_id: Uuid::now_v7(),
            document_version: 1,
            external_id: None,
            ordinal: 0,
            title: None,
            source: None,
            format: "text/plain".into(),
            heading: None,
            content: String::new(),
            metadata: Value::Null,
            similarity: 0.5,
            scores: SearchScores::default(),
        }
    }
}

/// The nearest passages, best first, and how they were found.
#[derive(Debug, Clone, PartialEq)]
pub struct NearestPassages {
    pub passages: Vec<FoundPassage>,
    pub plan: SearchPlan,
}

/// Sends the planner to the index: only its scan gives rows in order without sorting them, and it
/// goes on until enough pass the filter. Compiling a statement takes longer than such a scan.
const THROUGH_INDEX: &str = "SELECT set_config('enable_sort', 'off', true), set_config('jit', 'off', true),
    set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', $1, true),
    set_config('hnsw.max_scan_tuples', $2, true),
    coalesce(pg_stat_get_xact_tuples_returned(to_regclass($3)), 0) AS given";
/// Vectors that scans of an index have given this connection. Transactions before may be counted too: only the
/// difference within one means something.
const GIVEN: &str = "SELECT coalesce(pg_stat_get_xact_tuples_returned(to_regclass($1)), 0)";

/// Where the passages to compare come from.
#[derive(Debug, PartialEq)]
enum Through {
    Index,
    /// Those of other servers: these tables.
    Shards(Vec<String>),
    Nothing,
}

/// Most that `hnsw.ef_search` takes.
const MAX_EF_SEARCH: usize = 1000;

impl Store {
    /// The `k` passages nearest to the vector, best first: never fewer than there are, before
    /// `min_similarity` counts.
    ///
    /// Only passages of `collection.space` are compared. Fails with
    /// [`StoreError::SpacesChanged`] when the collection no longer holds all of them.
    pub async fn nearest_passages(&self, query: PassageQuery<'_>) -> Result<NearestPassages, StoreError> {
        // Boxed, as they are large and held by all that waits for them.
        match self.on_replica(async |replica| Box::pin(replica.nearest_here(&query)).await).await {
            Some(found) => found,
            None => Box::pin(self.nearest_here(&query)).await,
        }
    }

    async fn nearest_here(&self, query: &PassageQuery<'_>) -> Result<NearestPassages, StoreError> {
        let connection = self.cancellable().await?;
        let searched = self.search(&connection, query).await;
        connection.keep();
        let (rows, plan) = searched?;
        if !rows.first().is_some_and(|row| row.get("held")) {
            return Err(StoreError::SpacesChanged(query.collection.name.clone()));
        }
        let near = found(&rows).filter(|row| row.get::<_, f32>("similarity") >= query.min_similarity);
        let seals = self.seals(query.tenant);
        let passages = near.map(|row| FoundPassage::open(row, seals)).collect::<Result<_, _>>()?;
        Ok(NearestPassages { passages, plan })
    }

    /// Chooses a plan and follows it.
    async fn search(
        &self,
        client: &Client,
        query: &PassageQuery<'_>,
    ) -> Result<(Vec<Row>, SearchPlan), StoreError> {
        let index = query.collection.index.spec.kind;
        let (candidates, through) = match query.effort {
            SearchEffort::Exact => (Candidates::Unknown, Through::Nothing),
            SearchEffort::Indexed => {
                let probe = self.probes.probe(client, query).await?;
                // Without iterative scans the index could lose rows.
                let through_index = self.pgvector.iterative_scan && probe.prefers_index(query.k);
                let through = match probe.shards.as_slice() {
                    _ if !through_index => Through::Nothing,
                    [] => Through::Index,
                    _ => Through::Shards(probe.shards),
                };
                (probe.candidates, through)
            }
        };
        let plan = |kind| SearchPlan { kind, candidates, index };
        let mut kind = PlanKind::Exact;
        if through != Through::Nothing {
            let (rows, given) = self.compare_through(client, query, &through).await?;
            let few = found(&rows).count() < query.k;
            let strayed = given.is_some_and(|given| given > trusted(index.candidates(query.k)));
            match given {
                // It was dropped meanwhile: PostgreSQL had to compare all of them.
                Some(0) if !few => {}
                // A scan that gives up hands out what is left of its candidates, which need not be near.
                _ if few || strayed => kind = PlanKind::IndexThenExact,
                _ => return Ok((rows, plan(PlanKind::Index))),
            }
        }
        let current = self.check_current(client, query.collection);
        let compared = self.compare(client, query, &Through::Nothing);
        let (_, rows) = alone(client, query.tenant, try_join(current, compared)).await?;
        Ok((rows, plan(kind)))
    }

    /// [`Store::compare`] by an index, and how many vectors its scan has given, where that is known.
    async fn compare_through(
        &self,
        client: &Client,
        query: &PassageQuery<'_>,
        through: &Through,
    ) -> Result<(Vec<Row>, Option<i64>), StoreError> {
        let statements = try_join4(
            self.check_current(client, query.collection),
            send_through_index(client, query, through),
            self.compare(client, query, through),
            given_by_index(client, query, through),
        );
        let (_, before, rows, after) = alone(client, query.tenant, statements).await?;
        Ok((rows, after.zip(before).map(|(after, before)| after - before)))
    }

    /// The nearest passages, those of an index compared again by their whole vectors.
    async fn compare(
        &self,
        client: &Client,
        query: &PassageQuery<'_>,
        through: &Through,
    ) -> Result<Vec<Row>, StoreError> {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let mut parameters = Parameters::default();
        let vector = parameters.add(Vector::from(query.vector.clone()), self.pgvector.vector.clone());
        let limit = parameters.add(count(query.k), Type::INT8);
        let index = &query.collection.index;
        let (order, candidates) = match through {
            Through::Index | Through::Shards(_) => {
                (index.order(query.collection.space.dimension, &vector), index.spec.kind.candidates(query.k))
            }
            Through::Nothing => (exact_order(&vector), query.k),
        };
        let candidates = parameters.add(count(candidates), Type::INT8);
        let tenant = parameters.add(query.tenant.0, Type::UUID);
        let collection = parameters.add(query.collection.id, Type::UUID);
        let space = parameters.add(query.collection.space.id.clone(), Type::TEXT);
        let condition = place(query, query.filter, &mut parameters);
        let nearest = match through {
            Through::Shards(shards) => nearest_of_each(shards, &condition, &order, &candidates, &space),
            Through::Index | Through::Nothing => {
                format!(
                    "SELECT p.* FROM tenant_passages p WHERE {condition} ORDER BY {order} LIMIT {candidates}"
                )
            }
        };
        let readable = parameters.add(query.collection.readable(), Type::TEXT_ARRAY);
        // Whether the space is whole is read in the same snapshot as its passages.
        let statement = format!(
            "SELECT held.*, near.*, d.version AS document_version, d.external_id, d.title, d.source, d.format,
                    s.sealed_by, s.sealed_heading, s.sealed_content FROM (
                 SELECT EXISTS (SELECT FROM collection_spaces h
                     WHERE h.collection_id = {collection} AND h.tenant_id = {tenant} AND h.space_id = {space}
                       AND h.state = ANY({readable})) AS held
             ) held LEFT JOIN (
                 SELECT c.id, c.document_id, c.ordinal, c.heading, c.content, c.metadata,
                        (1 - (c.embedding <=> {vector}))::real AS similarity
                 FROM ({nearest}) c
                 ORDER BY c.embedding <=> {vector} LIMIT {limit}
             ) near ON true LEFT JOIN documents d ON d.id = near.document_id
             LEFT JOIN sealed_passages s ON s.passage_id = near.id
             ORDER BY near.similarity DESC, near.id"
        );
        Ok(client.query_typed(&statement, &parameters.as_slice()).await?)
    }
}

/// To be called before [`Store::compare`] by an index; gives what [`given_by_index`] does.
async fn send_through_index(
    client: &Client,
    query: &PassageQuery<'_>,
    through: &Through,
) -> Result<Option<i64>, StoreError> {
    let spec = query.collection.index.spec;
    let wanted = spec.kind.candidates(query.k).max(spec.ef_search as usize).min(MAX_EF_SEARCH);
    let (ef_search, max_scan) = (wanted.to_string(), MAX_SCAN_TUPLES.to_string());
    let index = &query.collection.index.name;
    let parameters = [(&ef_search as _, Type::TEXT), (&max_scan as _, Type::TEXT), (index as _, Type::TEXT)];
    let settings = async { Ok(client.query_typed_one(THROUGH_INDEX, &parameters).await?.get("given")) };
    let Through::Shards(shards) = through else { return settings.await };
    let (_, given): (Option<i64>, _) = try_join(settings, given_by_all(client, shards)).await?;
    Ok(given)
}

/// [`GIVEN`], by all shards together; absent where that is not known.
async fn given_by_index(
    client: &Client,
    query: &PassageQuery<'_>,
    through: &Through,
) -> Result<Option<i64>, StoreError> {
    if let Through::Shards(shards) = through {
        return given_by_all(client, shards).await;
    }
    let index = [(&query.collection.index.name as _, Type::TEXT)];
    Ok(client.query_typed_one(GIVEN, &index).await?.get(0))
}

async fn given_by_all(client: &Client, shards: &[String]) -> Result<Option<i64>, StoreError> {
    let Some(statement) = given_by_shards(shards) else { return Ok(None) };
    Ok(client.query_typed_one(&statement, &[]).await?.get(0))
}

/// The rows that are passages: where there is none, one row tells whether the space is held.
fn found(rows: &[Row]) -> impl Iterator<Item = &Row> {
    rows.iter().filter(|row| row.get::<_, Option<Uuid>>("id").is_some())
}
