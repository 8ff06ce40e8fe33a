//! Retrieval on a BEIR-format folder: `corpus.jsonl`, `queries.jsonl`, `qrels/test.tsv`.

use std::{collections::HashMap, fs, path::Path};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{EvaluationError, Progress, scores};
use crate::{
    config::SearchMode,
    models::{Lane, TextRole},
    rag::{Caller, Rag, search::SearchRequest},
    store::{Collection, ExpectedVersion, NewDocument, NewPassage, PassageSet, SearchEffort, TenantId},
};

const BATCH: usize = 64;
/// The deepest cut that is reported.
const DEPTH: usize = 100;

/// Means over the queries that have a judgement.
#[derive(Debug, Clone, PartialEq)]
pub struct RetrievalReport {
    pub mode: SearchMode,
    pub documents: usize,
    pub queries: usize,
    pub ndcg_10: f64,
    /// Of every second query, from the first on, and of the others: what is tuned on one shows on the other.
    pub ndcg_10_halves: [f64; 2],
    pub recall_10: f64,
    pub recall_100: f64,
    pub mrr_10: f64,
}

#[derive(Deserialize)]
pub(super) struct Entry {
    #[serde(rename = "_id")]
    pub id: String,
    #[serde(default)]
    title: String,
    text: String,
}

impl Entry {
    /// Title and text.
    pub fn whole(&self) -> String {
        format!("{} {}", self.title, self.text).trim().to_owned()
    }
}

/// What is stored, asked and expected.
struct TestSet {
    corpus: Vec<Entry>,
    /// Those that have a judgement.
    queries: Vec<Entry>,
    judgements: HashMap<String, HashMap<String, f64>>,
}

impl TestSet {
    fn read(folder: &Path) -> Result<Self, EvaluationError> {
        let judgements = read_judgements(&folder.join("qrels").join("test.tsv"))?;
        let mut queries = read_jsonl(&folder.join("queries.jsonl"))?;
        queries.retain(|query| judgements.contains_key(&query.id));
        Ok(Self { corpus: read_jsonl(&folder.join("corpus.jsonl"))?, queries, judgements })
    }
}

/// Stores the corpus, one passage a document (title and text, cut where the
/// model stops reading, as the published figures are), and runs every judged
/// query in each mode. `progress` is told how many documents and queries are done.
///
/// Works in a collection of its own, which is deleted at the end.
pub async fn evaluate_retrieval(
    rag: &Rag,
    folder: &Path,
    modes: &[SearchMode],
    effort: SearchEffort,
    progress: &Progress<'_>,
) -> Result<Vec<RetrievalReport>, EvaluationError> {
    let set = TestSet::read(folder)?;
    let name = format!("evaluation-{}", Uuid::now_v7());
    let collection = rag.create_collection(TenantId::DEFAULT, &name, None).await?;
    let result = run(rag, &collection, &set, modes, effort, progress).await;
    rag.delete_collection(TenantId::DEFAULT, &name).await?;
    result
}

async fn run(
    rag: &Rag,
    collection: &Collection,
    set: &TestSet,
    modes: &[SearchMode],
    effort: SearchEffort,
    progress: &Progress<'_>,
) -> Result<Vec<RetrievalReport>, EvaluationError> {
    for (index, batch) in set.corpus.chunks(BATCH).enumerate() {
        store(rag, collection, batch).await?;
        progress("documents", (index * BATCH + batch.len()).min(set.corpus.len()), set.corpus.len());
    }
    let mut reports = Vec::with_capacity(modes.len());
    for mode in modes {
        reports.push(measure(rag, collection, set, *mode, effort, progress).await?);
    }
    Ok(reports)
}

async fn measure(
    rag: &Rag,
    collection: &Collection,
    set: &TestSet,
    mode: SearchMode,
    effort: SearchEffort,
    progress: &Progress<'_>,
) -> Result<RetrievalReport, EvaluationError> {
    let mut scored = Vec::with_capacity(set.queries.len());
    for query in &set.queries {
        let found = rag
            .search(&SearchRequest {
                caller: Caller::DEFAULT,
                collection: Some(collection.name.clone()),
                query: query.text.clone().into(),
                k: DEPTH,
                mode: Some(mode),
                threshold: Some(-1.0),
                filter: None,
                effort,
            })
            .await?;
        let ranked: Vec<&str> =
            found.passages.iter().filter_map(|passage| passage.external_id.as_deref()).collect();
        let relevant = &set.judgements[&query.id];
        scored.push([
            scores::ndcg(&ranked, relevant, 10),
            scores::recall(&ranked, relevant, 10),
            scores::recall(&ranked, relevant, 100),
            scores::reciprocal_rank(&ranked, relevant, 10),
        ]);
        progress(mode.name(), scored.len(), set.queries.len());
    }
    let mean = |measure: usize| mean(scored.iter().map(|scores| scores[measure]));
    let half = |first: usize| self::mean(scored.iter().skip(first).step_by(2).map(|scores| scores[0]));
    Ok(RetrievalReport {
        mode,
        documents: set.corpus.len(),
        queries: set.queries.len(),
        ndcg_10: mean(0),
        ndcg_10_halves: [half(0), half(1)],
        recall_10: mean(1),
        recall_100: mean(2),
        mrr_10: mean(3),
    })
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1);
    values.sum::<f64>() / count as f64
}

async fn store(rag: &Rag, collection: &Collection, batch: &[Entry]) -> Result<(), EvaluationError> {
    let texts: Vec<String> = batch.iter().map(Entry::whole).collect();
    let embedder = rag.embedder_of(collection).await?;
    let embeddings = embedder
        .embed(texts.clone(), TextRole::Passage, Lane::Bulk)
        .await
        .map_err(crate::rag::RagError::from)?;
    for ((entry, text), vector) in batch.iter().zip(texts).zip(embeddings.vectors) {
        let document = NewDocument {
            image: None,
            external_id: Some(entry.id.clone()),
            content_hash: Sha256::digest(text.as_bytes()).to_vec(),
            file_hash: None,
            title: Some(entry.title.clone()).filter(|title| !title.is_empty()),
            source: None,
            format: "text/plain",
            content: text.clone(),
            metadata: serde_json::json!({}),
            expected: ExpectedVersion::Anything,
        };
        let passage = NewPassage { heading: None, content: text, vector, embedded_hash: None };
        let set = PassageSet { space: collection.space.clone(), passages: vec![passage], embedded: 1 };
        rag.store.save_document(TenantId::DEFAULT, collection, &document, &[set], None).await?;
    }
    Ok(())
}

pub(super) fn read_jsonl(path: &Path) -> Result<Vec<Entry>, EvaluationError> {
    let text = fs::read_to_string(path).map_err(|error| EvaluationError::data(path, error))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            serde_json::from_str(line)
                .map_err(|error| EvaluationError::data(path, format!("line {}: {error}", number + 1)))
        })
        .collect()
}

/// `query-id  corpus-id  score`, with a header line.
fn read_judgements(path: &Path) -> Result<HashMap<String, HashMap<String, f64>>, EvaluationError> {
    let text = fs::read_to_string(path).map_err(|error| EvaluationError::data(path, error))?;
    let mut judgements: HashMap<String, HashMap<String, f64>> = HashMap::new();
    for (number, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = || EvaluationError::data(path, format!("line {}: not three columns", number + 1));
        let mut columns = line.split('\t');
        let (Some(query), Some(document), Some(score)) = (columns.next(), columns.next(), columns.next())
        else {
            return Err(wrong());
        };
        let score = score.trim().parse().map_err(|_| wrong())?;
        judgements.entry(query.to_owned()).or_default().insert(document.to_owned(), score);
    }
    Ok(judgements)
}
