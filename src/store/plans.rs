//! How a search is done, chosen so that no passage that passes its filter is lost.
//!
//! An HNSW index gives the neighbours of the query, and the filter is applied to
//! what it gives. Where few pass, the index would give up before `k` have; those
//! are few enough to compare each. What has to be known is counted up to a limit
//! and, beyond, estimated by PostgreSQL from its statistics.

use std::time::Duration;

use futures_util::future::try_join;
use moka::future::Cache;
use serde_json::Value;
use tokio_postgres::{Client, types::Type};
use uuid::Uuid;

use super::{Filter, IndexKind, PassageQuery, StoreError, alone, filter::Parameters, shards::SHARDS};

/// Passages that are compared one by one rather than through an index, at most.
pub(super) const EXACT_UP_TO: i64 = 5000;
/// Passages that an index scan looks at before it gives up.
pub(super) const MAX_SCAN_TUPLES: i64 = 20_000;
/// Vectors of an index that are given, beside four for each passage asked for, before its scan is
/// believed to have gone where the filter passes nothing: a tenth of what it looks at.
const TRUSTED: i64 = MAX_SCAN_TUPLES / 10;
/// Passages that are read to see how many pass a filter that no index answers.
const SAMPLE: i64 = 20_000;

/// Vectors that an index may give until `k` candidates pass the filter. Where more are needed and the
/// filter has nothing to do with the query, so few pass that comparing them costs little.
pub(super) fn trusted(k: usize) -> i64 {
    TRUSTED + 4 * i64::try_from(k).unwrap_or(i64::MAX / 8)
}

/// What a search did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SearchPlan {
    pub kind: PlanKind,
    /// Passages that pass the filter.
    pub candidates: Candidates,
    /// The kind of index that was scanned.
    pub index: IndexKind,
}

/// How the passages were compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanKind {
    /// Every one that passes the filter.
    Exact,
    /// Those that the index gave.
    Index,
    /// The index gave fewer than asked for, so then every one.
    IndexThenExact,
}

/// How many passages there are to compare.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Candidates {
    Counted(i64),
    /// More than are counted.
    Estimated(f64),
    /// Nobody asked.
    Unknown,
}

/// How long it is believed that a collection has many passages: to find it out anew takes a good part of
/// what a search through the index does.
const BELIEVED: Duration = Duration::from_secs(10);

/// What was known before searches without a filter, of collections with many passages. A search that is planned by
/// it finds no less: where the index gives too few, or is gone, all are compared.
#[derive(Clone)]
pub(super) struct Probes {
    known: Cache<ProbeKey, Probe>,
}

type ProbeKey = (Uuid, String, Option<String>);

impl Default for Probes {
    fn default() -> Self {
        Self { known: Cache::builder().max_capacity(10_000).time_to_live(BELIEVED).build() }
    }
}

impl Probes {
    /// What is known, or becomes known now.
    pub(super) async fn probe(&self, client: &Client, query: &PassageQuery<'_>) -> Result<Probe, StoreError> {
        let collection = query.collection;
        let key = (collection.id, collection.space.id.clone(), collection.index.name.clone());
        if query.filter.is_none()
            && let Some(known) = self.known.get(&key).await
        {
            return Ok(known);
        }
        let probe = probe(client, query).await?;
        if query.filter.is_none()
            && matches!(probe.candidates, Candidates::Estimated(_))
            && probe.index_rows.is_some()
        {
            self.known.insert(key, probe.clone()).await;
        }
        Ok(probe)
    }
}

/// What is known before a search.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    pub candidates: Candidates,
    /// Vectors in the index, at most; absent when it is not there or not whole.
    pub index_rows: Option<f64>,
    /// Tables that have it instead.
    pub shards: Vec<String>,
}

impl Probe {
    /// Whether the index is worth asking for `k` passages.
    pub(super) fn prefers_index(&self, k: usize) -> bool {
        let Some(index_rows) = self.index_rows else { return false };
        match self.candidates {
            Candidates::Counted(_) | Candidates::Unknown => false,
            Candidates::Estimated(candidates) => {
                let share = (candidates / index_rows.max(1.0)).min(1.0);
                // Twice: passages that pass are not spread evenly.
                candidates > EXACT_UP_TO as f64 && MAX_SCAN_TUPLES as f64 * share >= 2.0 * k as f64
            }
        }
    }
}

/// The condition on a collection's place, with the filter where there is one.
pub(super) fn place(
    query: &PassageQuery<'_>,
    filter: Option<&Filter>,
    parameters: &mut Parameters,
) -> String {
    let tenant = parameters.add(query.tenant.0, Type::UUID);
    let collection = parameters.add(query.collection.id, Type::UUID);
    let space = parameters.add(query.collection.space.id.clone(), Type::TEXT);
    let place = format!("p.tenant_id = {tenant} AND p.collection_id = {collection} AND p.space_id = {space}");
    match filter {
        Some(filter) => format!("{place} AND {}", filter.to_sql(parameters)),
        None => place,
    }
}

/// Looks how many passages a search has to do with, and whether its index is there.
async fn probe(client: &Client, query: &PassageQuery<'_>) -> Result<Probe, StoreError> {
    let indexed = query.filter.is_none_or(|filter| filter.is_indexed(&query.collection.fields));
    let in_statistics = query.filter.filter(|_| indexed);
    let both = try_join(count(client, query, indexed), estimate(client, query, in_statistics));
    let (counted, estimate) = alone(client, query.tenant, both).await?;
    let Counted { passed, read, limit, index_rows, shards } = counted;
    let candidates = if read < limit {
        Candidates::Counted(passed)
    } else if indexed {
        Candidates::Estimated(estimate.max(limit as f64))
    } else {
        Candidates::Estimated(estimate.max(read as f64) * passed as f64 / read as f64)
    };
    Ok(Probe { candidates, index_rows, shards })
}

struct Counted {
    passed: i64,
    read: i64,
    limit: i64,
    index_rows: Option<f64>,
    shards: Vec<String>,
}

/// Counts passages that pass, up to a limit. Where no index answers the filter, it is the
/// passages read that are limited, for there may be few that pass among very many.
async fn count(client: &Client, query: &PassageQuery<'_>, indexed: bool) -> Result<Counted, StoreError> {
    let mut parameters = Parameters::default();
    let (passes, condition, limit) = match query.filter.filter(|_| !indexed) {
        Some(filter) => {
            let condition = place(query, None, &mut parameters);
            (filter.to_sql(&mut parameters), condition, SAMPLE)
        }
        None => ("true".to_owned(), place(query, query.filter, &mut parameters), EXACT_UP_TO + 1),
    };
    let limited = parameters.add(limit, Type::INT8);
    let index = parameters.add(query.collection.index.name.clone(), Type::TEXT);
    let statement = format!(
        "SELECT count(*) FILTER (WHERE passes) AS passed, count(*) AS read,
                (SELECT greatest(c.reltuples, 0)::float8 FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
                 WHERE c.oid = to_regclass({index}) AND i.indisvalid) AS index_rows,
                (SELECT greatest(reltuples, 0)::float8 FROM pg_class WHERE oid = 'passages'::regclass) AS stored,
                ({SHARDS}) AS shards
         FROM (SELECT {passes} AS passes FROM tenant_passages p WHERE {condition} LIMIT {limited}) few"
    );
    let row = client.query_typed_one(&statement, &parameters.as_slice()).await?;
    // What a collection has of its own is not spread.
    let shards = match query.collection.index.own {
        true => Vec::new(),
        false => row.get::<_, Option<Vec<String>>>("shards").unwrap_or_default(),
    };
    let index_rows = if shards.is_empty() { row.get("index_rows") } else { Some(row.get("stored")) };
    Ok(Counted { passed: row.get("passed"), read: row.get("read"), limit, index_rows, shards })
}

/// PostgreSQL's own estimate.
async fn estimate(
    client: &Client,
    query: &PassageQuery<'_>,
    filter: Option<&Filter>,
) -> Result<f64, StoreError> {
    let mut parameters = Parameters::default();
    let condition = place(query, filter, &mut parameters);
    let statement = format!("EXPLAIN (FORMAT JSON) SELECT FROM tenant_passages p WHERE {condition}");
    let row = client.query_typed_one(&statement, &parameters.as_slice()).await?;
    let plan: Value = row.get(0);
    Ok(plan.pointer("/0/Plan/Plan Rows").and_then(Value::as_f64).unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_asked_where_it_can_be_expected_to_give_enough() {
        let probe = |candidates, index_rows| Probe { candidates, index_rows, shards: Vec::new() };
        let large = Candidates::Estimated(1e6);
        assert!(probe(large, Some(1e6)).prefers_index(1000));
        assert!(!probe(large, None).prefers_index(10), "it is not there");
        for few in [Candidates::Counted(1500), Candidates::Estimated(1500.0)] {
            assert!(!probe(few, Some(1e5)).prefers_index(10), "few are compared");
        }
        // 6000 of ten million: 12 among the 20,000 that are looked at.
        assert!(!probe(Candidates::Estimated(6000.0), Some(1e7)).prefers_index(10));
        assert!(probe(Candidates::Estimated(6000.0), Some(1e7)).prefers_index(5));
        // An index that was not analysed since it was empty.
        assert!(probe(large, Some(0.0)).prefers_index(10));
    }
}
