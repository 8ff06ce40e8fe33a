//! Questions and a bulk job at once, through the scheduler: `cargo bench --bench scheduler`.
//!
//! Prints the latency of a question alone and while 10,000 passages are embedded, and the
//! throughput of 64 clients with one question each against the same questions in one call. The
//! weights are found as `forward` finds them.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use ragway::{
    config::{BUILT_IN, Catalog},
    models::{Embedder, Lane, TextRole, candle::bert::BertEmbedder},
};

const PASSAGES: usize = 10_000;

fn main() -> Result<()> {
    ragway::app::size_thread_pools();
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> Result<()> {
    let cache = std::env::var("RAGWAY_TEST_CACHE").map_or_else(
        |_| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target").join("test-cache"),
        PathBuf::from,
    );
    let catalog: Catalog = Catalog::parse(BUILT_IN, "models.toml")?;
    let entry = catalog.embedder("all-MiniLM-L6-v2").context("all-MiniLM-L6-v2 in models.toml")?;
    let folder = cache.join("models").join(&entry.name);
    let embedder = Arc::new(BertEmbedder::load(entry, &folder)?);

    let idle = latencies(&embedder, 300).await?;
    println!("question alone:            {idle}");
    let bulk = Arc::clone(&embedder);
    let started = Instant::now();
    let job = tokio::spawn(async move {
        let done = bulk.embed((0..PASSAGES).map(passage).collect(), TextRole::Passage, Lane::Bulk).await;
        done.map(|done| (done.tokens.iter().sum::<usize>(), started.elapsed()))
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let busy = latencies(&embedder, 300).await?;
    println!(
        "question beside bulk job:  {busy} ({:.2} × the idle P95{})",
        busy.p95 / idle.p95,
        if job.is_finished() { ", but the job ended before" } else { "" }
    );
    let (tokens, elapsed) = job.await??;
    println!("bulk job: {PASSAGES} passages, {:.0} tokens/s", tokens as f64 / elapsed.as_secs_f64());

    let questions: Vec<String> = (0..2048).map(question).collect();
    for _ in 0..3 {
        let started = Instant::now();
        embedder.embed(questions.clone(), TextRole::Query, Lane::Interactive).await?;
        let packed = questions.len() as f64 / started.elapsed().as_secs_f64();
        let started = Instant::now();
        try_join_all(questions.chunks(questions.len() / 64).map(async |questions| {
            for question in questions {
                embedder.embed(vec![question.clone()], TextRole::Query, Lane::Interactive).await?;
            }
            anyhow::Ok(())
        }))
        .await?;
        let clients = questions.len() as f64 / started.elapsed().as_secs_f64();
        let started = Instant::now();
        for question in &questions[..300] {
            embedder.embed(vec![question.clone()], TextRole::Query, Lane::Interactive).await?;
        }
        let single = 300.0 / started.elapsed().as_secs_f64();
        println!(
            "questions/s: {packed:.0} in one call, {clients:.0} of 64 clients ({:.2}), {single:.0} one at a time",
            clients / packed
        );
    }
    Ok(())
}

struct Latency {
    p50: f64,
    p95: f64,
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "P50 {:.2} ms, P95 {:.2} ms", self.p50, self.p95)
    }
}

async fn latencies(embedder: &BertEmbedder, times: usize) -> Result<Latency> {
    let mut taken = Vec::with_capacity(times);
    for index in 0..times {
        // Questions come at any moment of a batch.
        tokio::time::sleep(Duration::from_millis(3 + index as u64 * 7 % 11)).await;
        let started = Instant::now();
        embedder.embed(vec![question(index)], TextRole::Query, Lane::Interactive).await?;
        taken.push(started.elapsed().as_secs_f64() * 1e3);
    }
    taken.sort_by(f64::total_cmp);
    Ok(Latency { p50: taken[times / 2], p95: taken[times * 95 / 100] })
}

/// About ten tokens.
fn question(index: usize) -> String {
    format!("When does ferry {index} leave the harbour?")
}

/// 20 to 160 tokens.
fn passage(index: usize) -> String {
    let sentence = "Skippers report cargo and draught, pay the berth fee and hang up the receipt. ";
    format!("Quay {index}. {}", sentence.repeat(1 + index * 7 % 8))
}
