//! How much of the embedder's own throughput is left when documents are read, cut, embedded and
//! stored by a job: `cargo bench --bench ingest`.
//!
//! The passages of the documents are embedded in one call, then the documents are ingested, in turns of
//! one run. Works in a temporary folder, with files from `target/test-cache` (or `RAGWAY_TEST_CACHE`).
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

mod common;

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ragway::{
    app::Parts,
    assets::Assets,
    demo,
    models::{Lane, TextRole},
    rag::{
        Caller, Rag,
        chunk::{ChunkLimits, chunk},
        extract::Format,
        ingest::SourceFile,
    },
    store::{JobState, TenantId},
};

const TURNS: usize = 2;

fn main() -> anyhow::Result<()> {
    ragway::app::size_thread_pools();
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let config = common::config_in(folder.path())?;
    let parts = Parts::build(&config, &Assets::new(&config.home, true)?).await?;
    let jobs = tokio::spawn(parts.rag.clone().run_jobs(std::future::pending()));
    for (name, count, sentences) in [("long documents", 24, 160), ("short documents", 200, 6)] {
        compare(&parts.rag, name, count, sentences).await?;
    }
    jobs.abort();
    parts.stop().await
}

/// The embedder alone and whole ingests, of `count` documents of so many sentences.
async fn compare(rag: &Rag, name: &str, count: usize, sentences: usize) -> anyhow::Result<()> {
    let space = rag.store().collection(TenantId::DEFAULT, "default").await?.space;
    let embedder = rag.embedders().of_space(&space.id).await.context("no embedder")??;
    let limits = ChunkLimits {
        max_tokens: rag.catalog().ingest.passage_tokens,
        overlap_tokens: rag.catalog().ingest.overlap_tokens,
    };
    let (mut alone, mut whole) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let documents: Vec<String> = (0..count).map(|n| document(turn * count + n, sentences)).collect();
        let cut = |text: &String| chunk(text, Format::Text, limits, &|text| embedder.count_tokens(text));
        let passages = documents.iter().flat_map(cut).map(|chunk| format!("Notes\n{}", chunk.text));
        let passages: Vec<String> = passages.collect();
        let started = Instant::now();
        let embedded = embedder.embed(passages.clone(), TextRole::Passage, Lane::Bulk).await?;
        alone.push(passages.len() as f64 / started.elapsed().as_secs_f64());
        let files = documents.into_iter().map(|text| SourceFile {
            title: Some("Notes".into()),
            content_type: Some("text/plain".into()),
            bytes: text.into(),
            ..SourceFile::default()
        });
        let started = Instant::now();
        ingest(rag, files.collect()).await?;
        whole.push(passages.len() as f64 / started.elapsed().as_secs_f64());
        if turn == 0 {
            let tokens: usize = embedded.tokens.iter().sum();
            println!("{count} {name}: {} passages, {tokens} tokens", passages.len());
        }
    }
    for (turn, (alone, whole)) in alone.iter().zip(&whole).enumerate() {
        println!(
            "  turn {turn}: embedder alone {alone:7.1} passages/s, ingest {whole:7.1} passages/s, ratio {:.3}",
            whole / alone
        );
    }
    Ok(())
}

/// By a job, as `POST /api/v1/documents/async` does.
async fn ingest(rag: &Rag, files: Vec<SourceFile>) -> anyhow::Result<()> {
    let id = rag.ingest_later(Caller::DEFAULT, None, files).await?;
    loop {
        let task = rag.task(TenantId::DEFAULT, id).await?;
        match task.state {
            JobState::Succeeded => return Ok(()),
            JobState::Queued | JobState::Running => tokio::time::sleep(Duration::from_millis(20)).await,
            JobState::Failed | JobState::Cancelled => bail!("the job failed: {:?}", task.error),
        }
    }
}

/// Sentences of the sample documents in another order for each number, so that no two are alike.
fn document(number: usize, sentences: usize) -> String {
    let pool: Vec<&str> = demo::DOCUMENTS
        .iter()
        .flat_map(|document| document.text.split_inclusive(". "))
        .map(str::trim)
        .filter(|sentence| !sentence.contains('\n'))
        .collect();
    let mut state = number as u64 + 1;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let mut text = format!("Notes of day {number}. ");
    for n in 0..sentences {
        text.push_str(pool[random(pool.len())]);
        text.push_str(if n % 5 == 4 { "\n\n" } else { " " });
    }
    text
}
