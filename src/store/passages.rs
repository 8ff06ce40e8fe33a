//! Passages: what search finds.

use pgvector::Vector;
use serde_json::Value;
use tokio_postgres::{Client, Row, types::Type};
use uuid::Uuid;

use super::{Collection, Filter, FromRow, Store, StoreError, TenantId, filter::Parameters};

/// How thoroughly vectors are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchEffort {
    /// Through the HNSW index where the planner finds it worth while; scans on
    /// until `k` rows pass the filter.
    Indexed,
    /// Every vector of the collection.
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
}

impl FromRow for FoundPassage {
    fn from_row(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            document_id: row.get("document_id"),
            external_id: row.get("external_id"),
            ordinal: row.get("ordinal"),
            title: row.get("title"),
            source: row.get("source"),
            format: row.get("format"),
            heading: row.get("heading"),
            content: row.get("content"),
            metadata: row.get("metadata"),
            similarity: row.get("similarity"),
            scores: SearchScores::default(),
        }
    }
}

/// Keeps the planner from the HNSW index.
const EXACT: &str = "SELECT set_config('enable_indexscan', 'off', true)";

/// The rows of a statement under settings that are its own.
async fn rows_with(
    client: &mut Client,
    settings: &str,
    statement: &str,
    parameters: &Parameters,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.query_typed(settings, &[]).await?;
    let rows = transaction.query_typed(statement, &parameters.as_slice()).await?;
    transaction.commit().await?;
    Ok(rows)
}

impl Store {
    /// The `k` passages nearest to the vector, best first.
    ///
    /// Only passages of `collection.space` are compared. Fails with
    /// [`StoreError::SpacesChanged`] when the collection no longer holds all of them.
    pub async fn nearest_passages(&self, query: PassageQuery<'_>) -> Result<Vec<FoundPassage>, StoreError> {
        let mut parameters = Parameters::default();
        let statement = self.nearest_statement(&query, &mut parameters);
        let settings = match query.effort {
            SearchEffort::Indexed if !self.pgvector.iterative_scan => EXACT,
            // 40 candidates, the extension's default, cannot return more than 40 rows in one pass.
            SearchEffort::Indexed => {
                "SELECT set_config('hnsw.iterative_scan', 'strict_order', true), set_config('hnsw.ef_search', '100', true)"
            }
            SearchEffort::Exact => EXACT,
        };
        let mut connection = self.cancellable().await?;
        let rows = rows_with(&mut connection, settings, &statement, &parameters).await;
        connection.keep();
        let rows = rows?;
        if !rows.first().is_some_and(|row| row.get("held")) {
            return Err(StoreError::SpacesChanged(query.collection.name.clone()));
        }
        let found = rows.iter().filter(|row| row.get::<_, Option<Uuid>>("id").is_some());
        let found = found.map(FoundPassage::from_row);
        Ok(found.filter(|passage| passage.similarity >= query.min_similarity).collect())
    }

    fn nearest_statement(&self, query: &PassageQuery<'_>, parameters: &mut Parameters) -> String {
        let vector = parameters.add(Vector::from(query.vector.clone()), self.pgvector.vector.clone());
        let tenant = parameters.add(query.tenant.0, Type::UUID);
        let collection = parameters.add(query.collection.id, Type::UUID);
        let space = parameters.add(query.collection.space.id.clone(), Type::TEXT);
        let limit = parameters.add(i64::try_from(query.k).unwrap_or(i64::MAX), Type::INT8);
        let filter = query.filter.map_or("true".to_owned(), |filter| filter.to_sql(parameters));
        // The cast makes the expression that of the space's index; a number cannot be a parameter there.
        let dimension = query.collection.space.dimension;
        // Whether the space is whole is read in the same snapshot as its passages.
        format!(
            "SELECT held.*, near.*, d.external_id, d.title, d.source, d.format FROM (
                 SELECT EXISTS (SELECT FROM collection_spaces h
                     WHERE h.collection_id = {collection} AND h.tenant_id = {tenant} AND h.space_id = {space}
                       AND h.state IN ('live', 'kept')) AS held
             ) held LEFT JOIN (
                 SELECT p.id, p.document_id, p.ordinal, p.heading, p.content, p.metadata,
                        (1 - (p.embedding::vector({dimension}) <=> {vector}))::real AS similarity
                 FROM passages p
                 WHERE p.tenant_id = {tenant} AND p.collection_id = {collection} AND p.space_id = {space}
                   AND {filter}
                 ORDER BY p.embedding::vector({dimension}) <=> {vector}
                 LIMIT {limit}
             ) near ON true LEFT JOIN documents d ON d.id = near.document_id
             ORDER BY near.similarity DESC, near.id"
        )
    }
}
