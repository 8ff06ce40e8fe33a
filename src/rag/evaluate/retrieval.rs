//! Retrieval on a BEIR-format folder: `corpus.jsonl`, `queries.jsonl`, `qrels/test.tsv`.

use std::{collections::HashMap, fs, path::Path};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    EvaluationError, Progress,
    baseline::{DataSet, Evaluation, Measured, named},
    scores,
};
use crate::{
    config::{EmbeddingSpace, SearchMode},
    models::{Lane, TextRole},
    rag::{
        Caller, Rag, RagError,
        search::{Reranking, SearchRequest},
    },
    store::{
        Collection, ExpectedVersion, FoundPassage, NewDocument, NewPassage, PassageSet, SearchEffort,
        TenantId,
    },
};

const BATCH: usize = 64;
/// The deepest cut that is reported.
const DEPTH: usize = 100;
/// Cuts of the curves.
const CUTS: [usize; 7] = [1, 3, 5, 10, 20, 50, DEPTH];
/// Results of a query whose scores are kept.
const SCORED: usize = 10;

/// How a test set is searched.
#[derive(Debug, Clone, PartialEq)]
pub struct RetrievalOptions {
    /// An embedder, or a model type; absent: that of the route of texts.
    pub model: Option<String>,
    /// One report each.
    pub modes: Vec<SearchMode>,
    pub effort: SearchEffort,
    pub rerank: Option<Reranking>,
}

impl RetrievalOptions {
    /// Whether the same corpus serves both.
    pub(super) fn differs_in_mode_only(&self, other: &Self) -> bool {
        (&self.model, self.effort, &self.rerank) == (&other.model, other.effort, &other.rerank)
    }
}

/// Figures of the first `k` results.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cutoff {
    pub k: usize,
    pub ndcg: f64,
    pub recall: f64,
}

/// Means over the queries that have a judgement.
#[derive(Debug, Clone, PartialEq)]
pub struct RetrievalReport {
    pub mode: SearchMode,
    pub space: EmbeddingSpace,
    /// Name of the test set.
    pub data: String,
    pub reranked: bool,
    pub documents: usize,
    pub queries: usize,
    pub ndcg_10: f64,
    /// Of every second query, from the first on, and of the others: what is tuned on one shows on the other.
    pub ndcg_10_halves: [f64; 2],
    pub recall_10: f64,
    pub recall_100: f64,
    pub mrr_10: f64,
    /// From the first result to the deepest.
    pub curve: Vec<Cutoff>,
    /// What the first ten results of each query were ranked by: of the relevant ones, and of the others.
    pub scores: [Vec<f32>; 2],
}

impl RetrievalReport {
    /// As a baseline keeps it.
    pub fn measured(&self, options: &RetrievalOptions, data: &DataSet) -> Measured {
        let evaluation = Evaluation::Retrieval {
            mode: self.mode.name().to_owned(),
            exact: options.effort == SearchEffort::Exact,
            model: options.model.clone(),
            rerank: options.rerank.as_ref().map(|rerank| rerank.model.clone().unwrap_or_default()),
        };
        Measured {
            evaluation,
            data: data.clone(),
            space: self.space.id.clone(),
            model: self.space.model.clone(),
            k: DEPTH,
            counts: named([("documents", self.documents), ("queries", self.queries)]),
            figures: named([
                ("ndcg@10", self.ndcg_10),
                ("recall@10", self.recall_10),
                ("recall@100", self.recall_100),
                ("mrr@10", self.mrr_10),
            ]),
        }
    }
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
pub(super) struct TestSet {
    /// Name of its folder.
    pub name: String,
    pub corpus: Vec<Entry>,
    /// Those that have a judgement.
    pub queries: Vec<Entry>,
    pub judgements: HashMap<String, HashMap<String, f64>>,
}

impl TestSet {
    fn read(folder: &Path) -> Result<Self, EvaluationError> {
        let judgements = read_judgements(&folder.join("qrels").join("test.tsv"))?;
        let mut queries = read_jsonl(&folder.join("queries.jsonl"))?;
        queries.retain(|query| judgements.contains_key(&query.id));
        if queries.is_empty() {
            return Err(EvaluationError::data(
                folder,
                "no query of queries.jsonl has a judgement in qrels/test.tsv",
            ));
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, corpus: read_jsonl(&folder.join("corpus.jsonl"))?, queries, judgements })
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
    options: &RetrievalOptions,
    progress: &Progress<'_>,
) -> Result<Vec<RetrievalReport>, EvaluationError> {
    let set = TestSet::read(folder)?;
    let name = format!("evaluation-{}", Uuid::now_v7());
    let collection = rag.create_collection(TenantId::DEFAULT, &name, options.model.as_deref()).await?;
    let result = run(rag, &collection, &set, options, progress).await;
    rag.delete_collection(TenantId::DEFAULT, &name).await?;
    result
}

async fn run(
    rag: &Rag,
    collection: &Collection,
    set: &TestSet,
    options: &RetrievalOptions,
    progress: &Progress<'_>,
) -> Result<Vec<RetrievalReport>, EvaluationError> {
    store_all(rag, collection, &set.corpus, progress).await?;
    let mut reports = Vec::with_capacity(options.modes.len());
    for mode in &options.modes {
        reports.push(measure(rag, collection, set, *mode, options, progress).await?);
    }
    Ok(reports)
}

/// Stores a corpus, one passage a document.
pub(super) async fn store_all(
    rag: &Rag,
    collection: &Collection,
    corpus: &[Entry],
    progress: &Progress<'_>,
) -> Result<(), EvaluationError> {
    for (index, batch) in corpus.chunks(BATCH).enumerate() {
        store(rag, collection, batch).await?;
        progress("documents", (index * BATCH + batch.len()).min(corpus.len()), corpus.len());
    }
    Ok(())
}

/// Asks every query of a set whose corpus is stored.
pub(super) async fn measure(
    rag: &Rag,
    collection: &Collection,
    set: &TestSet,
    mode: SearchMode,
    options: &RetrievalOptions,
    progress: &Progress<'_>,
) -> Result<RetrievalReport, EvaluationError> {
    let mut scored = Vec::with_capacity(set.queries.len());
    let mut cuts = CUTS.map(|k| Cutoff { k, ndcg: 0.0, recall: 0.0 });
    let mut ranked_by = [Vec::new(), Vec::new()];
    for query in &set.queries {
        let passages = search(rag, collection, query, mode, options).await?;
        let ranked: Vec<&str> =
            passages.iter().filter_map(|passage| passage.external_id.as_deref()).collect();
        let relevant = &set.judgements[&query.id];
        for (passage, id) in passages.iter().zip(&ranked).take(SCORED) {
            let other = !relevant.get(*id).is_some_and(|gain| *gain > 0.0);
            ranked_by[usize::from(other)].extend(rank_score(passage));
        }
        for cut in &mut cuts {
            cut.ndcg += scores::ndcg(&ranked, relevant, cut.k) / set.queries.len() as f64;
            cut.recall += scores::recall(&ranked, relevant, cut.k) / set.queries.len() as f64;
        }
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
        space: collection.space.clone(),
        data: set.name.clone(),
        reranked: options.rerank.is_some(),
        curve: cuts.to_vec(),
        scores: ranked_by,
        documents: set.corpus.len(),
        queries: set.queries.len(),
        ndcg_10: mean(0),
        ndcg_10_halves: [half(0), half(1)],
        recall_10: mean(1),
        recall_100: mean(2),
        mrr_10: mean(3),
    })
}

/// The results of a query. A reranker that fails is an error: its figures would be those of another order.
async fn search(
    rag: &Rag,
    collection: &Collection,
    query: &Entry,
    mode: SearchMode,
    options: &RetrievalOptions,
) -> Result<Vec<FoundPassage>, EvaluationError> {
    let request = SearchRequest {
        caller: Caller::DEFAULT,
        collection: Some(collection.name.clone()),
        query: query.text.clone().into(),
        k: DEPTH,
        mode: Some(mode),
        threshold: Some(-1.0),
        filter: None,
        effort: options.effort,
        rerank: options.rerank.clone(),
    };
    let found = rag.search(&request).await?;
    match found.rerank.map(|outcome| outcome.result) {
        Some(Err(error)) => Err(RagError::from(error).into()),
        Some(Ok(_)) | None => Ok(found.passages),
    }
}

/// What a passage was ranked by.
fn rank_score(passage: &FoundPassage) -> Option<f32> {
    let scores = passage.scores;
    scores.rerank.or(scores.fused).or(scores.lexical).or(scores.dense)
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
