//! Figures of an evaluation in a file, for later ones to be held against.
//!
//! JSON: `{format: "ragway-baseline", version: 1, made_by, tolerance: {figure: most it may fall},
//! evaluations: [{evaluation, data, space, model, k, counts, figures}]}`.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::EvaluationError;

const FORMAT: &str = "ragway-baseline";
const VERSION: u32 = 1;
/// How much figures may fall, where nobody says otherwise; the others are told only.
const TOLERANCES: [(&str, f64); 6] = [
    ("ndcg@10", 0.01),
    ("recall@10", 0.01),
    ("recall@100", 0.01),
    ("citation_precision", 0.02),
    ("abstention", 0.02),
    // Else never to answer would pass.
    ("answered", 0.02),
];
/// Files of a folder in BEIR's format.
const BEIR_FILES: [&str; 3] = ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"];

/// Results of evaluations, and by how much each figure may fall.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    format: String,
    version: u32,
    /// Version of the ragway that wrote it.
    made_by: String,
    /// By figure; those without one are not compared.
    pub tolerance: BTreeMap<String, f64>,
    pub evaluations: Vec<Measured>,
}

/// What one evaluation gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    pub evaluation: Evaluation,
    pub data: DataSet,
    /// Id of the embedding space.
    pub space: String,
    /// The embedder.
    pub model: String,
    /// Passages that a query or question got.
    pub k: usize,
    /// Of documents, queries, questions.
    pub counts: BTreeMap<String, usize>,
    /// 0 to 1.
    pub figures: BTreeMap<String, f64>,
}

/// Which evaluation it was, so that it can be done again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Evaluation {
    Retrieval {
        mode: String,
        /// Whether every vector was compared.
        exact: bool,
        /// The embedder that was asked for; null: that of the route.
        model: Option<String>,
        /// The reranker; empty: that of the route; null: none.
        rerank: Option<String>,
    },
    Answers {
        /// The backend that was asked for; null: the route's choice.
        backend: Option<String>,
        half: String,
        limit: usize,
    },
}

/// A test set and what tells whether it is the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSet {
    /// Name of its folder or file.
    pub name: String,
    /// Where it was.
    pub path: PathBuf,
    /// Of its files, in hexadecimal digits.
    pub sha256: String,
}

impl DataSet {
    /// That of a BEIR folder or of a file.
    pub fn of(path: &Path) -> Result<Self, EvaluationError> {
        let files =
            if path.is_dir() { BEIR_FILES.map(|file| path.join(file)).to_vec() } else { vec![path.into()] };
        let mut hash = Sha256::new();
        for file in files {
            let bytes = fs::read(&file).map_err(|error| EvaluationError::data(&file, error))?;
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(&bytes);
        }
        let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let resolved = fs::canonicalize(path).map_err(|error| EvaluationError::data(path, error))?;
        let name = resolved.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, path: path.to_owned(), sha256 })
    }

    /// Where it is now: at one of `others` that has its name, else where it was.
    ///
    /// Fails where there is none, or another one under its name: figures of two sets say nothing of each other.
    pub fn find(&self, others: &[PathBuf]) -> Result<PathBuf, EvaluationError> {
        let named = |path: &&PathBuf| path.file_name().is_some_and(|name| *name == *self.name);
        let path = others.iter().find(named).unwrap_or(&self.path);
        if !path.exists() {
            let reason = format!("the test set `{}` is not there; say where with --data", self.name);
            return Err(EvaluationError::data(path, reason));
        }
        if Self::of(path)?.sha256 != self.sha256 {
            let reason = "is not the test set that the baseline was measured on (its files differ); save a new \
                          baseline, or say with --data where the old one is";
            return Err(EvaluationError::data(path, reason));
        }
        Ok(path.clone())
    }
}

/// Values by name.
pub(super) fn named<T, const N: usize>(values: [(&str, T); N]) -> BTreeMap<String, T> {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl Measured {
    /// What it is of, in words.
    pub fn subject(&self) -> String {
        match &self.evaluation {
            Evaluation::Retrieval { mode, rerank, .. } => {
                let rerank = if rerank.is_some() { ", reranked" } else { "" };
                format!("{} {mode}{rerank}", self.data.name)
            }
            Evaluation::Answers { backend: Some(backend), .. } => {
                format!("{} answers by {backend}", self.data.name)
            }
            Evaluation::Answers { backend: None, .. } => format!("{} answers", self.data.name),
        }
    }

    fn is_of_the_same(&self, other: &Self) -> bool {
        self.evaluation == other.evaluation && self.data.name == other.data.name
    }
}

impl Baseline {
    /// Of these results, with the usual tolerances.
    pub fn of(evaluations: Vec<Measured>) -> Self {
        let mut baseline = Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            made_by: env!("CARGO_PKG_VERSION").to_owned(),
            tolerance: BTreeMap::new(),
            evaluations: Vec::new(),
        };
        baseline.take(evaluations);
        baseline
    }

    /// Takes results in, in place of earlier ones of the same evaluation. Tolerances that are there stay.
    pub fn take(&mut self, evaluations: Vec<Measured>) {
        for measured in evaluations {
            for (figure, tolerance) in TOLERANCES {
                if measured.figures.contains_key(figure) {
                    self.tolerance.entry(figure.to_owned()).or_insert(tolerance);
                }
            }
            self.evaluations.retain(|known| !known.is_of_the_same(&measured));
            self.evaluations.push(measured);
        }
        self.made_by = env!("CARGO_PKG_VERSION").to_owned();
    }

    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, EvaluationError> {
        let text = fs::read_to_string(path).map_err(|error| EvaluationError::data(path, error))?;
        Self::parse(&text).map_err(|reason| EvaluationError::data(path, reason))
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("is empty; `ragway eval retrieval … --save FILE` writes a baseline".into());
        }
        let foreign = |why: &str| format!("is no baseline of ragway: {why}");
        let value: Value = serde_json::from_str(text).map_err(|error| foreign(&error.to_string()))?;
        if value["format"] != FORMAT {
            return Err(foreign(&format!("`format` must be \"{FORMAT}\"")));
        }
        if value["version"] != VERSION {
            return Err(format!(
                "is a baseline of version {}, and this ragway reads version {VERSION}; save it anew",
                value["version"]
            ));
        }
        let baseline: Self = serde_json::from_value(value).map_err(|error| error.to_string())?;
        baseline.check()?;
        Ok(baseline)
    }

    fn check(&self) -> Result<(), String> {
        if self.evaluations.is_empty() {
            return Err("holds no evaluation; save one into it".into());
        }
        if self.tolerance.is_empty() {
            return Err(
                "`tolerance` names no figure, so that nothing could fail; an example: {\"ndcg@10\": 0.01}"
                    .into(),
            );
        }
        let share = |value: &f64| (0.0..=1.0).contains(value);
        for (figure, tolerance) in &self.tolerance {
            if !share(tolerance) {
                return Err(format!("tolerance.{figure}: must be between 0 and 1, is {tolerance}"));
            }
            if !self.evaluations.iter().any(|measured| measured.figures.contains_key(figure)) {
                return Err(format!("tolerance.{figure}: no evaluation has this figure"));
            }
        }
        for measured in &self.evaluations {
            if let Some((figure, value)) = measured.figures.iter().find(|(_, value)| !share(value)) {
                return Err(format!("{}: {figure} must be between 0 and 1, is {value}", measured.subject()));
            }
        }
        Ok(())
    }

    /// Takes results into the baseline in this file, or makes one.
    pub fn save(path: &Path, evaluations: Vec<Measured>) -> Result<(), EvaluationError> {
        let baseline = match path.exists() {
            true => {
                let mut known = Self::read(path)?;
                known.take(evaluations);
                known
            }
            false => Self::of(evaluations),
        };
        let failed = |error: std::io::Error| EvaluationError::data(path, error);
        let mut text = serde_json::to_string_pretty(&baseline).map_err(|error| failed(error.into()))?;
        text.push('\n');
        // The old one stays whole until the new one is.
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let written = fs::File::create(&beside).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&beside, path)).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn measured(mode: &str, ndcg: f64) -> Measured {
        let evaluation = Evaluation::Retrieval { mode: mode.into(), exact: true, model: None, rerank: None };
        let data = DataSet { name: "set".into(), path: "set".into(), sha256: "00".into() };
        let (counts, figures) = (named([("queries", 2)]), named([("ndcg@10", ndcg), ("mrr@10", 0.5)]));
        Measured { evaluation, data, space: "m@1".into(), model: "m".into(), k: 100, counts, figures }
    }

    #[test]
    fn results_are_saved_beside_others_and_in_place_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("baseline.json");
        Baseline::save(&file, vec![measured("dense", 0.5), measured("hybrid", 0.7)]).unwrap();
        let mut stated = Baseline::read(&file).unwrap();
        assert_eq!(stated.tolerance, BTreeMap::from([("ndcg@10".to_owned(), 0.01)]));
        stated.tolerance.insert("ndcg@10".into(), 0.2);
        fs::write(&file, serde_json::to_string(&stated).unwrap()).unwrap();
        Baseline::save(&file, vec![measured("dense", 0.6)]).unwrap();
        let saved = Baseline::read(&file).unwrap();
        assert_eq!(saved.evaluations, [measured("hybrid", 0.7), measured("dense", 0.6)]);
        assert_eq!(saved.tolerance["ndcg@10"], 0.2);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(&file, "notes").unwrap();
        assert!(Baseline::save(&file, vec![measured("dense", 0.6)]).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "notes");
    }

    #[test]
    fn what_is_no_baseline_says_why() {
        let good = serde_json::to_value(Baseline::of(vec![measured("dense", 0.5)])).unwrap();
        let with = |place: &str, value: Value| {
            let mut changed = good.clone();
            *changed.pointer_mut(place).unwrap() = value;
            changed.to_string()
        };
        assert!(Baseline::parse(&good.to_string()).is_ok());
        for (text, said) in [
            ("  \n".to_owned(), "is empty; `ragway eval retrieval"),
            ("ndcg 0.7".to_owned(), "is no baseline of ragway"),
            ("[1]".to_owned(), "`format` must be \"ragway-baseline\""),
            (with("/format", json!("beir")), "`format` must be"),
            (with("/version", json!(2)), "version 2, and this ragway reads version 1"),
            (with("/evaluations", json!([])), "holds no evaluation"),
            (with("/tolerance", json!({})), "`tolerance` names no figure"),
            (with("/tolerance", json!({"ndcg@10": -0.1})), "tolerance.ndcg@10: must be between 0 and 1"),
            (with("/tolerance", json!({"ndgc": 0.1})), "tolerance.ndgc: no evaluation has this figure"),
            (with("/evaluations/0/figures/mrr@10", json!(7.0)), "set dense: mrr@10 must be between 0 and 1"),
            (with("/evaluations/0/evaluation", json!({"sts": {}})), "unknown variant `sts`"),
            (with("/evaluations/0/k", json!("many")), "invalid type"),
        ] {
            let told = Baseline::parse(&text).unwrap_err();
            assert!(told.contains(said), "{told}");
        }
    }

    #[test]
    fn a_test_set_is_known_by_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("set.json");
        fs::write(&file, "one").unwrap();
        let data = DataSet::of(&file).unwrap();
        assert_eq!((data.name.as_str(), data.sha256.len()), ("set.json", 64));
        assert_eq!(data.find(&[]).unwrap(), file);
        let moved = folder.path().join("elsewhere").join("set.json");
        fs::create_dir(moved.parent().unwrap()).unwrap();
        fs::rename(&file, &moved).unwrap();
        assert!(data.find(&[]).unwrap_err().to_string().contains("say where with --data"));
        assert_eq!(data.find(std::slice::from_ref(&moved)).unwrap(), moved);
        fs::write(&moved, "two").unwrap();
        assert!(data.find(&[moved]).unwrap_err().to_string().contains("its files differ"));
    }
}
