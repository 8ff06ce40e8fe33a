//! Vector indexes spread over other PostgreSQL servers.
//!
//! What outgrows a machine first is the memory of the HNSW index. So each *shard* holds the vectors of a
//! part of the passages, chosen by a hash of their ids, with an index over them; the primary holds
//! everything, as without shards. Here the shards are the partitions of one table, `passage_shards`, through
//! `postgres_fdw`, and triggers write to it what is written to `passages`: in the same transaction, so that a
//! search finds what was stored before it. A search asks all shards at once for the nearest ids and reads
//! the passages themselves from the primary. So what a shard says of a passage that is no longer there
//! has no effect, and neither has row-level security to hold on a shard.

mod admin;

pub use admin::{Shard, ShardAdmin, ShardState};

/// Tables that searches read candidates from. Without `postgres_fdw`, the table itself: then something
/// else spreads it. None while it is being filled: see [`SEARCHED`].
pub(super) const SHARDS: &str = "
    SELECT coalesce((SELECT array_agg(inhrelid::regclass::text ORDER BY inhrelid) FROM pg_inherits WHERE inhparent = t.oid),
                    ARRAY['passage_shards'])
    FROM pg_class t WHERE t.oid = to_regclass('passage_shards')
      AND obj_description(t.oid, 'pg_class') = 'searches read it'";

/// Says of `passage_shards` that it is whole.
const SEARCHED: &str = "COMMENT ON TABLE passage_shards IS 'searches read it'";

/// The nearest of each shard, as rows of `passages`: `condition` and `order` are over an alias `p`, as
/// everywhere. Each part is sent to its server as a whole, with its LIMIT, and all of them at once; that
/// needs each part to give what it is ordered by, and all of that to be read.
pub(super) fn nearest_of_each(
    shards: &[String],
    condition: &str,
    order: &str,
    limit: &str,
    space: &str,
) -> String {
    let parts: Vec<String> = shards
        .iter()
        .map(|shard| {
            format!("(SELECT p.id, {order} FROM {shard} p WHERE {condition} ORDER BY {order} LIMIT {limit})")
        })
        .collect();
    format!(
        "SELECT p.* FROM (SELECT * FROM ({}) part (id, distance) OFFSET 0) near
         JOIN passages p ON p.id = near.id AND p.space_id = {space} WHERE near.distance IS NOT NULL",
        parts.join(" UNION ALL ")
    )
}

/// What the index scans of the shards have given together: see `passages::given_by_index`.
/// Nothing is known of a table that is no foreign one.
pub(super) fn given_by_shards(shards: &[String]) -> Option<String> {
    let parts: Vec<String> = match shards {
        [whole] if whole == "passage_shards" => return None,
        shards => shards.iter().map(|shard| format!("SELECT given FROM {shard}_reads")).collect(),
    };
    Some(format!("SELECT sum(given)::bigint FROM ({}) each", parts.join(" UNION ALL ")))
}
