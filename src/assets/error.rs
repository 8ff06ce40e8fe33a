//! What can go wrong, told so that it can be mended.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::config::PinnedFile;

use super::verify::Refusal;

/// Why a set of files cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("the HTTP client cannot be set up: {0}")]
    Client(reqwest::Error),
    #[error("{0}")]
    Refused(String),
    #[error("the work on an asset was interrupted: {0}")]
    Interrupted(tokio::task::JoinError),
    #[error("{}", unobtainable(wanted, files, folder, failures))]
    Unobtainable { wanted: Wanted, files: Vec<PinnedFile>, folder: PathBuf, failures: Vec<SourceFailure> },
}

impl AssetError {
    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        Self::Io { path: path.to_owned(), error }
    }
}

/// Whose files are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Model(String),
    Postgres,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wanted::Model(name) => write!(f, "model `{name}`"),
            Wanted::Postgres => write!(f, "embedded PostgreSQL"),
        }
    }
}

/// What one source said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFailure {
    pub source: String,
    pub reason: String,
}

impl fmt::Display for SourceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.reason)
    }
}

/// Why one source did not give a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{url}: {reason}")]
    Http { url: String, reason: String },
    #[error("{0}")]
    Pip(String),
    #[error("{wheel}: {reason}")]
    Wheel { wheel: String, reason: String },
    #[error("interrupted: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl FetchError {
    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        Self::Io { path: path.to_owned(), error }
    }
}

fn unobtainable(wanted: &Wanted, files: &[PinnedFile], folder: &Path, failures: &[SourceFailure]) -> String {
    let mut text = format!("{wanted}: no source gave its files\n  wanted:");
    for file in files {
        text.push_str(&format!("\n    {} (sha256 {})", file.name, file.sha256));
    }
    text.push_str(&format!("\n  looked in {} and asked:", folder.display()));
    for failure in failures {
        // Indents what pip wrote on several lines.
        text.push_str(&format!("\n    {}", failure.to_string().replace('\n', "\n      ")));
    }
    text.push_str(&advice(wanted, folder));
    text
}

fn advice(wanted: &Wanted, folder: &Path) -> String {
    match wanted {
        Wanted::Model(name) => format!(
            "\n  To try again: ragway models fetch {name}\n  \
             To use files of your own, give their folder in models.toml, in the entry of `{name}` \
             before its other sources\n  (for an answer model the table is `llm.sources`):\n\n    \
             [[embedder.sources]]\n    kind = \"path\"\n    path = \"/folder/of/the/files\"\n"
        ),
        Wanted::Postgres => format!(
            "\n  To try again, start ragway again. To do without, set DATABASE_URL to a PostgreSQL server \
             with pgvector,\n  or put the file into {}.",
            folder.display()
        ),
    }
}
