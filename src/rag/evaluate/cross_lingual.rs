//! Questions in one language, documents in another: `queries.<language>.jsonl` and
//! `corpus.<language>.jsonl`; a question's document has the question's id in every language.

use std::{collections::HashMap, fs, path::Path};

use uuid::Uuid;

use super::{
    EvaluationError, Progress,
    retrieval::{Entry, RetrievalOptions, TestSet, measure, read_jsonl, store_all},
    vectors::Vectors,
};
use crate::{
    config::SearchMode,
    models::{Embedder, TextRole},
    rag::Rag,
    store::{Collection, SearchEffort, TenantId},
};

/// Documents among which the right one is looked for.
const DEPTH: usize = 5;

/// recall@5 of every pair of languages.
#[derive(Debug, Clone, PartialEq)]
pub struct CrossLingualReport {
    pub languages: Vec<String>,
    pub queries: usize,
    /// `[of the query][of the documents]`, in the order of `languages`.
    pub recall_5: Vec<Vec<f64>>,
}

impl CrossLingualReport {
    /// Mean over the pairs of two languages.
    pub fn across(&self) -> f64 {
        self.mean(|query, corpus| query != corpus)
    }

    /// Mean over the languages by themselves.
    pub fn within(&self) -> f64 {
        self.mean(|query, corpus| query == corpus)
    }

    fn mean(&self, counts: impl Fn(usize, usize) -> bool) -> f64 {
        let rows = self.recall_5.iter().enumerate();
        let pairs =
            rows.flat_map(|(query, row)| row.iter().enumerate().map(move |(corpus, r)| (query, corpus, r)));
        let recalls: Vec<f64> =
            pairs.filter(|(query, corpus, _)| counts(*query, *corpus)).map(|(.., recall)| *recall).collect();
        recalls.iter().sum::<f64>() / recalls.len().max(1) as f64
    }
}

/// Embeds each language's documents, cut where the model stops reading, and asks in every language.
pub async fn evaluate_cross_lingual(
    embedder: &dyn Embedder,
    folder: &Path,
    progress: &Progress<'_>,
) -> Result<CrossLingualReport, EvaluationError> {
    let languages = languages(folder)?;
    let mut sets = Vec::new();
    for language in &languages {
        sets.push(Set::embed(embedder, folder, language, progress).await?);
    }
    let mut recall_5 = Vec::new();
    for asked in &sets {
        let mut row = Vec::new();
        for (language, searched) in languages.iter().zip(&sets) {
            let right = asked.queries.iter().map(|id| {
                let place = searched.documents.get(id).ok_or_else(|| {
                    EvaluationError::data(folder, format!("corpus.{language}.jsonl has no document `{id}`"))
                })?;
                Ok(vec![*place])
            });
            let right = right.collect::<Result<Vec<_>, EvaluationError>>()?;
            row.push(asked.query_vectors.recall(&searched.document_vectors, right, DEPTH).await?);
        }
        recall_5.push(row);
    }
    Ok(CrossLingualReport { queries: sets.iter().map(|set| set.queries.len()).sum(), languages, recall_5 })
}

/// Searches by questions in one language among documents in another.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchedPair {
    pub asked_in: String,
    pub written_in: String,
    /// nDCG@10, dense, lexical and hybrid.
    pub ndcg_10: [f64; 3],
}

impl SearchedPair {
    /// By how much the hybrid search is better than the better one of its lists.
    pub fn gain(&self) -> f64 {
        let [dense, lexical, hybrid] = self.ndcg_10;
        hybrid - dense.max(lexical)
    }
}

/// The same through the database, in each mode: stores each language's documents in a collection of its own,
/// which is deleted at the end, and searches it in every language.
pub async fn evaluate_cross_lingual_search(
    rag: &Rag,
    folder: &Path,
    model: &str,
    progress: &Progress<'_>,
) -> Result<Vec<SearchedPair>, EvaluationError> {
    let languages = languages(folder)?;
    let mut pairs = Vec::new();
    for written_in in &languages {
        let name = format!("evaluation-{}", Uuid::now_v7());
        let collection = rag.create_collection(TenantId::DEFAULT, &name, Some(model)).await?;
        let searched = search_language(rag, &collection, folder, written_in, &languages, progress).await;
        rag.delete_collection(TenantId::DEFAULT, &name).await?;
        pairs.extend(searched?);
    }
    Ok(pairs)
}

async fn search_language(
    rag: &Rag,
    collection: &Collection,
    folder: &Path,
    written_in: &str,
    languages: &[String],
    progress: &Progress<'_>,
) -> Result<Vec<SearchedPair>, EvaluationError> {
    let corpus = read_jsonl(&folder.join(format!("corpus.{written_in}.jsonl")))?;
    store_all(rag, collection, &corpus, progress).await?;
    let mut pairs = Vec::new();
    for asked_in in languages {
        let queries = read_jsonl(&folder.join(format!("queries.{asked_in}.jsonl")))?;
        let own = |query: &Entry| (query.id.clone(), HashMap::from([(query.id.clone(), 1.0)]));
        let judgements = queries.iter().map(own).collect();
        let set = TestSet { name: asked_in.clone(), corpus: Vec::new(), queries, judgements };
        let options = RetrievalOptions {
            model: None,
            modes: vec![SearchMode::Dense, SearchMode::Lexical, SearchMode::Hybrid],
            effort: SearchEffort::Exact,
            rerank: None,
        };
        let mut ndcg_10 = [0.0; 3];
        for (ndcg, mode) in ndcg_10.iter_mut().zip(&options.modes) {
            *ndcg = measure(rag, collection, &set, *mode, &options, progress).await?.ndcg_10;
        }
        pairs.push(SearchedPair { asked_in: asked_in.clone(), written_in: written_in.to_owned(), ndcg_10 });
    }
    Ok(pairs)
}

/// One language.
struct Set {
    /// Ids, in the order of the vectors.
    queries: Vec<String>,
    query_vectors: Vectors,
    /// Id → place of the vector.
    documents: HashMap<String, usize>,
    document_vectors: Vectors,
}

impl Set {
    async fn embed(
        embedder: &dyn Embedder,
        folder: &Path,
        language: &str,
        progress: &Progress<'_>,
    ) -> Result<Self, EvaluationError> {
        let queries = read_jsonl(&folder.join(format!("queries.{language}.jsonl")))?;
        let corpus = read_jsonl(&folder.join(format!("corpus.{language}.jsonl")))?;
        let asked: Vec<String> = queries.iter().map(Entry::whole).collect();
        let written: Vec<String> = corpus.iter().map(Entry::whole).collect();
        Ok(Self {
            query_vectors: Vectors::of_texts(embedder, &asked, TextRole::Query, "queries", progress).await?,
            document_vectors: Vectors::of_texts(embedder, &written, TextRole::Passage, "documents", progress)
                .await?,
            queries: queries.into_iter().map(|query| query.id).collect(),
            documents: corpus.into_iter().enumerate().map(|(place, document)| (document.id, place)).collect(),
        })
    }
}

/// Languages that have queries, in alphabetical order.
fn languages(folder: &Path) -> Result<Vec<String>, EvaluationError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| EvaluationError::data(folder, error))? {
        let name = entry.map_err(|error| EvaluationError::data(folder, error))?.file_name();
        let language = name.to_str().and_then(|name| name.strip_prefix("queries.")?.strip_suffix(".jsonl"));
        found.extend(language.map(str::to_owned));
    }
    found.sort();
    if found.is_empty() {
        return Err(EvaluationError::data(folder, "no files named like `queries.de.jsonl`"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_over_pairs_of_languages() {
        let report = CrossLingualReport {
            languages: vec!["de".into(), "en".into()],
            queries: 2,
            recall_5: vec![vec![1.0, 0.5], vec![0.25, 0.75]],
        };
        assert!((report.across() - 0.375).abs() < 1e-12);
        assert!((report.within() - 0.875).abs() < 1e-12);
    }

    #[test]
    fn languages_are_those_of_the_files() {
        let folder = tempfile::tempdir().unwrap();
        assert!(languages(folder.path()).is_err());
        for name in ["queries.zh-cn.jsonl", "queries.de.jsonl", "corpus.fr.jsonl", "README.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(languages(folder.path()).unwrap(), ["de", "zh-cn"]);
    }
}
