//! `ragway ingest`

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, bail};
use futures_util::{StreamExt, stream};
use ragway::{
    app::Parts,
    config::Config,
    rag::{
        Caller,
        ingest::{Ingested, SourceFile},
    },
    store::SaveOutcome,
};

/// Files that are read, embedded and stored at once, so that the model always has work.
const AT_ONCE: usize = 4;

#[derive(clap::Args)]
pub struct Arguments {
    /// Files, or folders that are read with all below them.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Where they go.
    #[arg(long, default_value = "default")]
    collection: String,
}

#[derive(Default)]
struct Summary {
    created: usize,
    updated: usize,
    unchanged: usize,
    passages: i64,
    failed: Vec<(PathBuf, String)>,
}

pub async fn run(config: &Config, arguments: Arguments) -> Result<ExitCode> {
    let mut summary = Summary::default();
    let mut files = Vec::new();
    for path in &arguments.paths {
        collect(path, &mut files, &mut summary.failed);
    }
    if files.is_empty() && summary.failed.is_empty() {
        bail!("no files there");
    }
    super::with_parts(config, async |parts| ingest(parts, &arguments.collection, files, summary).await).await
}

async fn ingest(
    parts: &Parts,
    collection: &str,
    files: Vec<PathBuf>,
    mut summary: Summary,
) -> Result<ExitCode> {
    let bar = super::bar(files.len());
    let mut ingested = stream::iter(files)
        .map(async |path| {
            let ingested = ingest_file(parts, collection, &path).await;
            (path, ingested)
        })
        .buffered(AT_ONCE);
    while let Some((path, ingested)) = ingested.next().await {
        bar.set_message(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        match ingested {
            Ok(ingested) => summary.add(&ingested),
            Err(error) => {
                bar.suspend(|| eprintln!("{}: {error:#}", path.display()));
                summary.failed.push((path, format!("{error:#}")));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    summary.print();
    Ok(if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ingest_file(parts: &Parts, collection: &str, path: &Path) -> Result<Ingested> {
    let limit = parts.rag.catalog().http.max_body_bytes as u64;
    let length = fs::metadata(path)?.len();
    if length > limit {
        bail!("{length} bytes long, at most {limit} are read (http.max_body_bytes)");
    }
    let file = SourceFile {
        name: path.file_name().map(|name| name.to_string_lossy().into_owned()),
        source: Some(path.display().to_string()),
        bytes: fs::read(path)?,
        ..SourceFile::default()
    };
    let collection = (collection != "default").then_some(collection);
    Ok(parts.rag.ingest(Caller::DEFAULT, collection, file).await?)
}

/// Hidden files are left out; what cannot be read is reported.
fn collect(path: &Path, files: &mut Vec<PathBuf>, failed: &mut Vec<(PathBuf, String)>) {
    if !path.is_dir() {
        files.push(path.to_owned());
        return;
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            return failed.push((path.to_owned(), error.to_string()));
        }
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        // It could lead in a circle.
        let linked_folder = path.is_symlink() && path.is_dir();
        if !hidden && !linked_folder {
            collect(&path, files, failed);
        }
    }
}

impl Summary {
    fn add(&mut self, ingested: &Ingested) {
        match ingested.saved.outcome {
            SaveOutcome::Created => self.created += 1,
            SaveOutcome::Updated => self.updated += 1,
            SaveOutcome::Unchanged => self.unchanged += 1,
        }
        self.passages += ingested.saved.passages;
    }

    fn print(&self) {
        println!(
            "{} created, {} updated, {} unchanged ({} passages), {} failed",
            self.created,
            self.updated,
            self.unchanged,
            self.passages,
            self.failed.len()
        );
    }
}
