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
    store::{Collection, NewDocument, NewPassage, PassageSet, SearchEffort, TenantId},
};

const BATCH: usize = 64;
/// The deepest cut that is reported.
const DEPTH: usize = 100;

/// Means over the queries that have a judgement.
#[derive(Debug, Clone, PartialEq)]
pub struct RetrievalReport {
    pub documents: usize,
    pub queries: usize,
    pub ndcg_10: f64,
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

/// Stores the corpus, one passage a document (title and text, cut where the
/// model stops reading, as the published figures are), and runs every judged
/// query. `progress` is told how many documents and queries are done.
///
/// Works in a collection of its own, which is deleted at the end.
pub async fn evaluate_retrieval(
    rag: &Rag,
    folder: &Path,
    mode: SearchMode,
    effort: SearchEffort,
    progress: &Progress<'_>,
) -> Result<RetrievalReport, EvaluationError> {
    let corpus = read_jsonl(&folder.join("corpus.jsonl"))?;
    let queries = read_jsonl(&folder.join("queries.jsonl"))?;
    let judgements = read_judgements(&folder.join("qrels").join("test.tsv"))?;
    let name = format!("evaluation-{}", Uuid::now_v7());
    let collection = rag.create_collection(TenantId::DEFAULT, &name, None).await?;
    let result = run(rag, &collection, &corpus, &queries, &judgements, mode, effort, progress).await;
    rag.delete_collection(TenantId::DEFAULT, &name).await?;
    result
}

async fn run(
    rag: &Rag,
    collection: &Collection,
    corpus: &[Entry],
    queries: &[Entry],
    judgements: &HashMap<String, HashMap<String, f64>>,
    mode: SearchMode,
    effort: SearchEffort,
    progress: &Progress<'_>,
) -> Result<RetrievalReport, EvaluationError> {
    for (index, batch) in corpus.chunks(BATCH).enumerate() {
        store(rag, collection, batch).await?;
        progress("documents", (index * BATCH + batch.len()).min(corpus.len()), corpus.len());
    }
    let judged: Vec<_> = queries.iter().filter(|query| judgements.contains_key(&query.id)).collect();
    let mut sums = [0.0; 4];
    for (index, query) in judged.iter().enumerate() {
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
        let relevant = &judgements[&query.id];
        let scores = [
            scores::ndcg(&ranked, relevant, 10),
            scores::recall(&ranked, relevant, 10),
            scores::recall(&ranked, relevant, 100),
            scores::reciprocal_rank(&ranked, relevant, 10),
        ];
        sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score);
        progress("queries", index + 1, judged.len());
    }
    let mean = |sum: f64| sum / judged.len().max(1) as f64;
    Ok(RetrievalReport {
        documents: corpus.len(),
        queries: judged.len(),
        ndcg_10: mean(sums[0]),
        recall_10: mean(sums[1]),
        recall_100: mean(sums[2]),
        mrr_10: mean(sums[3]),
    })
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
            title: Some(entry.title.clone()).filter(|title| !title.is_empty()),
            source: None,
            format: "text/plain",
            content: text.clone(),
            metadata: serde_json::json!({}),
        };
        let passage = NewPassage { heading: None, content: text, vector };
        let set = PassageSet { space: collection.space.clone(), passages: vec![passage] };
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
