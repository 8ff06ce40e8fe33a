//! Passages found by their words.
//!
//! A lexical index belongs to a space of a collection, and rows of it to passages:
//! without rows a collection simply has none. PostgreSQL stems the words and finds
//! the passages that hold one (`tsvector`, GIN); what a passage scores is BM25, which
//! needs to know in how many passages each word stands ([`upkeep`]).

mod bm25;
mod terms;
mod upkeep;
mod write;

pub(super) use write::{TermSource, announce_terms, insert_missing_terms, insert_terms};

use pgvector::Vector;
use tokio_postgres::{Client, IsolationLevel, Row, Transaction, types::Type};

use super::{Collection, Filter, FoundPassage, Store, StoreError, TenantId, filter::Parameters, see_tenant};
use bm25::{B, K1, Statistics, Variant, Weights, rank_steps, weigh};
use terms::{QueryTerms, UNSPACED, configuration, quoted};

/// A search for words within one collection.
#[derive(Debug, Clone)]
pub struct LexicalQuery<'a> {
    pub tenant: TenantId,
    pub collection: &'a Collection,
    pub text: &'a str,
    /// Of the collection's space, to tell how similar the passages are.
    pub vector: Vec<f32>,
    pub k: usize,
    pub filter: Option<&'a Filter>,
}

/// Passages found by their words.
#[derive(Debug, Clone, PartialEq)]
pub struct LexicalMatches {
    /// With their BM25 scores, best first. Each holds a word of the query.
    pub passages: Vec<(FoundPassage, f32)>,
    /// What a passage would score that was all about every word of the query.
    pub bound: f32,
    /// Whether the query seems to be in a language that a share of the passages is in.
    pub same_language: bool,
}

/// Terms of a query whose passages are counted, words and pairs each: the first.
const MAX_COUNTED: usize = 128;
/// Share of the passages that must be in a language for it to be one of the collection's: some are
/// always taken for another.
const LANGUAGE_SHARE: f64 = 0.1;

impl Store {
    /// The `k` passages that score best by BM25 for the words of a text; none where the text has no
    /// words but those that stand everywhere. Absent: the collection has no lexical index, or not
    /// yet a complete one.
    ///
    /// Fails with [`StoreError::SpacesChanged`] when the collection no longer holds all of them.
    pub async fn lexical_matches(
        &self,
        query: LexicalQuery<'_>,
    ) -> Result<Option<LexicalMatches>, StoreError> {
        match self.on_replica(async |replica| Box::pin(replica.matches_here(&query)).await).await {
            Some(matches) => matches,
            None => Box::pin(self.matches_here(&query)).await,
        }
    }

    async fn matches_here(&self, query: &LexicalQuery<'_>) -> Result<Option<LexicalMatches>, StoreError> {
        let mut connection = self.cancellable().await?;
        let matches = self.matches_in(&mut connection, query).await;
        connection.keep();
        matches
    }

    async fn matches_in(
        &self,
        client: &mut Client,
        query: &LexicalQuery<'_>,
    ) -> Result<Option<LexicalMatches>, StoreError> {
        // One snapshot for counts and passages.
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        see_tenant(&transaction, query.tenant)?;
        self.check_current(transaction.client(), query.collection).await?;
        let Some((index, weights)) = weights(&transaction, query).await? else { return Ok(None) };
        let mut matches = LexicalMatches {
            passages: Vec::new(),
            bound: weights.bound as f32,
            same_language: index.knows_language(),
        };
        if !weights.terms.is_empty() {
            let mut parameters = Parameters::default();
            let statement = self.matches_statement(query, &index, &weights, &mut parameters);
            let rows = transaction.query_typed(&statement, &parameters.as_slice()).await?;
            let seals = self.seals(query.tenant);
            let scored = |row: &Row| Ok((FoundPassage::open(row, seals)?, row.get::<_, f64>("score") as f32));
            matches.passages = rows.iter().map(scored).collect::<Result<_, StoreError>>()?;
        }
        transaction.commit().await?;
        Ok(Some(matches))
    }

    /// Candidates are found and scored without looking at passages.
    fn matches_statement(
        &self,
        query: &LexicalQuery<'_>,
        index: &Index,
        weights: &Weights,
        parameters: &mut Parameters,
    ) -> String {
        let tenant = parameters.add(query.tenant.0, Type::UUID);
        let id = parameters.add(index.id, Type::INT8);
        let average = parameters.add(index.average_words(), Type::FLOAT8);
        let steps = parameters.add(rank_steps(), Type::FLOAT8_ARRAY);
        let selected: Vec<String> =
            weights.terms.iter().filter(|term| term.selects).map(|term| quoted(&term.term)).collect();
        let own = quoted(&format!("@{}", index.id));
        let wanted = parameters.add(format!("{own} & ({})", selected.join(" | ")), Type::TEXT);
        // Times in the passage: see `rank_steps`. A term that is not there adds 0.
        let parts: Vec<String> = weights.terms.iter().map(|term| {
            let weight = parameters.add(term.weight, Type::FLOAT8);
            let term = parameters.add(quoted(&term.term), Type::TEXT);
            format!(
                "{weight} * (1 - soon / (soon + width_bucket(ts_rank('{{1,1,1,1}}', terms, {term}::tsquery)::float8, {steps})))"
            )
        }).collect();
        let limit = parameters.add(i64::try_from(query.k).unwrap_or(i64::MAX), Type::INT8);
        let space = parameters.add(query.collection.space.id.clone(), Type::TEXT);
        let vector = parameters.add(Vector::from(query.vector.clone()), self.pgvector.vector.clone());
        let filter = query.filter.map(|filter| filter.to_sql(parameters));
        let filtered = filter.map_or(String::new(), |filter| {
            format!("JOIN tenant_passages p ON p.id = passage_id AND p.space_id = {space} AND {filter}")
        });
        let dimension = query.collection.space.dimension;
        format!(
            "SELECT p.id, p.document_id, p.ordinal, p.heading, p.content, p.metadata, d.version AS document_version,
                    d.external_id, d.title, d.source, d.format, s.sealed_by, s.sealed_heading, s.sealed_content, best.score,
                    (1 - (p.embedding::vector({dimension}) <=> {vector}))::real AS similarity
             FROM (
                 SELECT passage_id, score FROM (
                     SELECT passage_id, {} AS score FROM (
                         SELECT passage_id, terms, {K1}::float8 * (1 - {B}::float8 + {B}::float8 * words / {average}) AS soon
                         FROM tenant_passage_terms
                         WHERE tenant_id = {tenant} AND index_id = {id} AND terms @@ {wanted}::tsquery
                     ) candidates
                 ) scored {filtered}
                 ORDER BY score DESC, passage_id LIMIT {limit}
             ) best
             JOIN tenant_passages p ON p.id = best.passage_id AND p.space_id = {space}
             JOIN documents d ON d.id = p.document_id
             LEFT JOIN sealed_passages s ON s.passage_id = p.id
             ORDER BY best.score DESC, p.id",
            parts.join(" + ")
        )
    }
}

/// A lexical index with its counts.
struct Index {
    id: i64,
    statistics: Statistics,
    /// Passages in the language of the query.
    in_language: i64,
}

impl Index {
    fn knows_language(&self) -> bool {
        self.in_language as f64 >= LANGUAGE_SHARE * self.statistics.passages as f64
    }

    fn average_words(&self) -> f64 {
        (self.statistics.words as f64 / self.statistics.passages.max(1) as f64).max(1.0)
    }
}

/// Counts of the index and of the query's terms, with what is not folded into the counts yet.
const COUNTS: &str = "
    WITH held AS (
        SELECT EXISTS (SELECT FROM collection_spaces h
            WHERE h.collection_id = $1 AND h.tenant_id = $2 AND h.space_id = $3
              AND h.state = ANY($7)) AS held
    ), index AS (
        SELECT i.id, i.ready, i.passages + coalesce(c.passages, 0) AS passages,
               i.words + coalesce(c.words, 0) AS words
        FROM lexical_indexes i, LATERAL (
            SELECT sum(change)::bigint AS passages, sum(change * words)::bigint AS words
            FROM term_changes WHERE index_id = i.id) c
        WHERE i.collection_id = $1 AND i.tenant_id = $2 AND i.space_id = $3
    ), language AS (
        SELECT name, sum(passages)::bigint AS passages FROM (
            SELECT substr(t.term, 2), t.passages FROM index JOIN term_counts t ON t.index_id = index.id
                AND t.term >= '@' AND t.term < 'A'
            UNION ALL
            SELECT c.language, c.change FROM index JOIN term_changes c ON c.index_id = index.id
        ) known (name, passages) GROUP BY name HAVING sum(passages) > 0
    ), variant AS (
        SELECT w.n AS word, stem.term, language.passages
        FROM unnest($4::text[]) WITH ORDINALITY w (word, n) CROSS JOIN language
        LEFT JOIN LATERAL unnest(tsvector_to_array(
            to_tsvector(('pg_catalog.' || language.name)::regconfig, w.word))) stem (term) ON true
        UNION ALL
        SELECT -s.n, s.term, 0 FROM unnest($5::text[]) WITH ORDINALITY s (term, n)
        UNION ALL
        SELECT 0, $8, 0
    )
    SELECT held.held, index.id, index.ready, index.passages, index.words, v.word, v.term,
           coalesce((SELECT passages FROM language WHERE name = $6), 0) AS in_language,
           CASE WHEN v.term IS NULL THEN v.passages ELSE coalesce(t.passages, 0) + coalesce((
               SELECT sum(c.change)::bigint FROM term_changes c WHERE c.index_id = index.id AND c.terms
                   @@ ('''' || replace(replace(v.term, '\\', '\\\\'), '''', '''''') || '''')::tsquery), 0)
           END AS with_term
    FROM held LEFT JOIN index ON true LEFT JOIN variant v ON true
    LEFT JOIN term_counts t ON t.index_id = index.id AND t.term = v.term";

/// The index and what each term of the query weighs; none where there is no complete index.
async fn weights(
    transaction: &Transaction<'_>,
    query: &LexicalQuery<'_>,
) -> Result<Option<(Index, Weights)>, StoreError> {
    let QueryTerms { words, signs, is_unspaced } = QueryTerms::of(query.text, MAX_COUNTED);
    let language = configuration(query.text);
    let rows = transaction
        .query_typed(
            COUNTS,
            &[
                (&query.collection.id, Type::UUID),
                (&query.tenant.0, Type::UUID),
                (&query.collection.space.id, Type::TEXT),
                (&words, Type::TEXT_ARRAY),
                (&signs, Type::TEXT_ARRAY),
                (&language, Type::TEXT),
                (&query.collection.readable(), Type::TEXT_ARRAY),
                (&UNSPACED, Type::TEXT),
            ],
        )
        .await?;
    let Some(first) = rows.first().filter(|row| row.get("held")) else {
        return Err(StoreError::SpacesChanged(query.collection.name.clone()));
    };
    let Some(id) = first.get::<_, Option<i64>>("id").filter(|_| first.get("ready")) else {
        return Ok(None);
    };
    let statistics = Statistics { passages: first.get("passages"), words: first.get("words") };
    let (mut unspaced, mut variants) = (0, Vec::new());
    for row in &rows {
        let passages = row.get("with_term");
        match row.get::<_, Option<i64>>("word") {
            Some(0) => unspaced = passages,
            Some(word) => variants.push(Variant { word, term: row.get("term"), passages }),
            None => {}
        }
    }
    let in_language = match (is_unspaced, language) {
        (true, _) => unspaced,
        // Which also stems the Latin words of those.
        (false, "english") => first.get::<_, i64>("in_language") - unspaced,
        (false, _) => first.get("in_language"),
    };
    let index = Index { id, statistics, in_language };
    Ok(Some((index, weigh(statistics, &variants))))
}
