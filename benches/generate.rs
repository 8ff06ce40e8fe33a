//! The local language model against llama.cpp on the same file:
//! `LLAMA_BENCH=…/llama-bench cargo bench --bench generate [-- file.gguf]`.
//!
//! Prints tokens a second of reading a prompt and of writing an answer, alternating with
//! `llama-bench` (where `LLAMA_BENCH` names it) on as many threads, and beside them the floor of
//! writing: the file read at the memory bandwidth that is measured between the turns. Weights:
//! SmolLM2-135M-Instruct in `target/test-cache` (or `RAGWAY_TEST_CACHE`), or the given file.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use ragway::{
    config::GgufEntry,
    models::{GenerateRequest, GeneratedPart, Generator, Message, Speaker, candle::gguf::GgufGenerator},
};
use serde_json::{Value, json};

const TURNS: usize = 4;
/// Tokens of a prompt and of an answer, about.
const PROMPT: usize = 512;
const ANSWER: usize = 64;

/// Tokens a second.
#[derive(Default)]
struct Rates {
    reading: Vec<f64>,
    writing: Vec<f64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    ragway::app::size_thread_pools();
    let file = std::env::args().skip(1).find(|argument| argument.ends_with(".gguf"));
    let file = file.map_or_else(smollm2, PathBuf::from);
    let bytes = std::fs::metadata(&file).with_context(|| file.display().to_string())?.len();
    let llama = std::env::var_os("LLAMA_BENCH").map(PathBuf::from);
    let model = load(&file).await?;
    let threads = rayon::current_num_threads();

    let (mut own, mut theirs, mut bandwidth) = (Rates::default(), Rates::default(), Vec::new());
    println!("{}, {} MB, {threads} threads", file.display(), bytes / 1_000_000);
    for turn in 0..TURNS {
        measure(&model, turn, &mut own).await?;
        print("ragway", &own, last);
        if let Some(llama) = &llama {
            llama_bench(llama, &file, threads, &mut theirs)?;
            print("llama.cpp", &theirs, last);
        }
        bandwidth.push(read_memory(threads));
    }
    println!("best of {TURNS}");
    print("ragway", &own, best);
    if llama.is_some() {
        print("llama.cpp", &theirs, best);
        let ratio = |own: &[f64], theirs: &[f64]| best(own) / best(theirs);
        println!(
            "ragway / llama.cpp: reading {:.2}, writing {:.2}",
            ratio(&own.reading, &theirs.reading),
            ratio(&own.writing, &theirs.writing)
        );
    }
    let floor = best(&bandwidth) / bytes as f64;
    println!("memory {:.1} GB/s: at most {floor:.0} tokens/s of writing", best(&bandwidth) / 1e9);
    Ok(())
}

fn smollm2() -> PathBuf {
    let cache = std::env::var("RAGWAY_TEST_CACHE").map_or_else(
        |_| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target").join("test-cache"),
        PathBuf::from,
    );
    cache.join("models").join("smollm2-135m-instruct").join("SmolLM2-135M-Instruct.Q4_1.gguf")
}

async fn load(file: &Path) -> Result<GgufGenerator> {
    let folder = file.parent().context("the file is in no folder")?;
    let name = file.file_name().and_then(|name| name.to_str()).context("the file has no name")?;
    let entry: GgufEntry = serde_json::from_value(json!({
        "name": "model",
        "context_tokens": 2048,
        "files": [{ "name": name, "sha256": "0".repeat(64) }],
        "sources": [],
    }))?;
    Ok(GgufGenerator::load(&entry, folder).await?)
}

/// One prompt that begins as no other, and its answer.
async fn measure(model: &GgufGenerator, turn: usize, rates: &mut Rates) -> Result<()> {
    let text = "The ferry leaves the northern harbour at a quarter past seven in the morning. ".repeat(31);
    let message = |speaker, text| Message { speaker, text };
    let request = GenerateRequest {
        messages: vec![
            message(Speaker::System, format!("{turn} is your number.")),
            message(Speaker::User, format!("{text}\nTell me a long story about this ferry.")),
        ],
        max_tokens: ANSWER,
        ..GenerateRequest::default()
    };
    let start = Instant::now();
    let mut stream = model.generate(request).await?;
    let (mut first, mut usage) = (None, None);
    while let Some(part) = stream.next().await {
        match part? {
            GeneratedPart::Text(_) => _ = first.get_or_insert_with(|| start.elapsed()),
            GeneratedPart::Usage(counted) => usage = Some(counted),
        }
    }
    let (first, usage) = (first.context("no text")?, usage.context("no usage")?);
    ensure!(usage.completion_tokens > ANSWER / 2, "an answer of {} tokens", usage.completion_tokens);
    ensure!(usage.prompt_tokens.abs_diff(PROMPT) < 40, "a prompt of {} tokens", usage.prompt_tokens);
    rates.reading.push(usage.prompt_tokens as f64 / first.as_secs_f64());
    let rest = start.elapsed() - first;
    rates.writing.push((usage.completion_tokens - 1) as f64 / rest.as_secs_f64());
    Ok(())
}

fn llama_bench(program: &Path, file: &Path, threads: usize, rates: &mut Rates) -> Result<()> {
    let mut command = Command::new(program);
    command.args(["-o", "json", "-r", "1", "-p", &PROMPT.to_string()]).arg("-m").arg(file);
    // The answer follows the prompt, as here.
    command.args(["-n", "0", "-t", &threads.to_string()]);
    let reading = run(command)?;
    let mut command = Command::new(program);
    command.args(["-o", "json", "-r", "1", "-p", "0", "-n", &ANSWER.to_string()]).arg("-m").arg(file);
    command.args(["-d", &PROMPT.to_string(), "-t", &threads.to_string()]);
    rates.reading.push(reading);
    rates.writing.push(run(command)?);
    Ok(())
}

fn run(mut command: Command) -> Result<f64> {
    let output = command.output().context("llama-bench")?;
    ensure!(output.status.success(), "llama-bench: {}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&output.stdout)?;
    results[0]["avg_ts"].as_f64().context("llama-bench printed no avg_ts")
}

/// Bytes a second that all threads together read from memory: they compare what is equal.
fn read_memory(threads: usize) -> f64 {
    let memories = [vec![1u8; 128 << 20], vec![1u8; 128 << 20]];
    let share = memories[0].len().div_ceil(threads);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for (left, right) in memories[0].chunks(share).zip(memories[1].chunks(share)) {
            scope.spawn(move || std::hint::black_box(left == right));
        }
    });
    2.0 * memories[0].len() as f64 / start.elapsed().as_secs_f64()
}

fn print(name: &str, rates: &Rates, rate: fn(&[f64]) -> f64) {
    println!(
        "{name:10} reading {PROMPT} tokens {:6.0}/s, writing {ANSWER} after them {:6.1}/s",
        rate(&rates.reading),
        rate(&rates.writing)
    );
}

fn last(rates: &[f64]) -> f64 {
    rates.last().copied().unwrap_or(0.0)
}

fn best(rates: &[f64]) -> f64 {
    rates.iter().copied().fold(0.0, f64::max)
}
