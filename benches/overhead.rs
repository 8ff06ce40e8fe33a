//! What the gateway adds to a chat call that it passes through:
//! `cargo bench --bench overhead -- <gateway> <backend>`.
//!
//! It serves a mock upstream at 127.0.0.1:9911 and sends it 1,000 requests a second, directly and
//! through a running ragway in turns. That ragway's models.toml names the upstream:
//!
//! ```toml
//! [[llm]]
//! name = "mock"                       # the <backend>
//! kind = "openai"
//! base_url = "http://127.0.0.1:9911/v1"
//! model = "m"
//! context_tokens = 4096
//! limits = { max_concurrent = 512, queue = 512, retries = 0 }
//! ```
//!
//! A latency counts from the moment that its request was due, so that a server that falls behind
//! is not asked less.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::time::{Duration, Instant};

use actix_web::{App, HttpServer, web};
use anyhow::{Context, Result};
use futures_util::future::join_all;
use serde_json::{Value, json};

const UPSTREAM: &str = "127.0.0.1:9911";
const PER_SECOND: u32 = 1_000;
const TURNS: usize = 10;
const TURN: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    // Cargo adds `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let gateway = arguments.next().context("which gateway? such as http://127.0.0.1:8080")?;
    let backend = arguments.next().context("which of its backends?")?;
    std::thread::spawn(|| actix_web::rt::System::new().block_on(upstream()));
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(compare(&gateway, &backend))
}

async fn upstream() -> std::io::Result<()> {
    let answer = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{ "index": 0, "finish_reason": "stop",
            "message": { "role": "assistant", "content": "A bicycle costs 3 euros each way. ".repeat(10) } }],
        "usage": { "prompt_tokens": 90, "completion_tokens": 80, "total_tokens": 170 },
    });
    let app = move || {
        let answer = answer.to_string();
        App::new().default_service(web::to(move |_: web::Bytes| {
            let answer = answer.clone();
            async move { actix_web::HttpResponse::Ok().content_type("application/json").body(answer) }
        }))
    };
    HttpServer::new(app).workers(1).disable_signals().bind(UPSTREAM)?.run().await
}

async fn compare(gateway: &str, backend: &str) -> Result<()> {
    // That there is one already is no failure.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build()?;
    let direct = (format!("http://{UPSTREAM}/v1/chat/completions"), body("m"));
    let through = (format!("{gateway}/v1/chat/completions"), body(backend));
    // Connections, and whatever is made at the first request.
    for _ in 0..2 {
        turn(&http, &direct, TURN / 2).await?;
        turn(&http, &through, TURN / 2).await?;
    }
    let (mut directly, mut passed) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        directly.extend(turn(&http, &direct, TURN).await?);
        passed.extend(turn(&http, &through, TURN).await?);
    }
    println!("{PER_SECOND} requests/s, {TURNS} turns of {} s each in alternation, ms", TURN.as_secs());
    println!("{:>9} {:>8} {:>8} {:>8}", "", "P50", "P90", "P99");
    let [directly, passed] = [directly, passed].map(|mut latencies| {
        latencies.sort_unstable();
        [0.5, 0.9, 0.99].map(|share| {
            let at = (latencies.len() as f64 * share) as usize;
            latencies[at.min(latencies.len() - 1)].as_secs_f64() * 1e3
        })
    });
    let row = |name: &str, row: [f64; 3]| {
        println!("{name:>9} {:>8.3} {:>8.3} {:>8.3}", row[0], row[1], row[2]);
    };
    row("direct", directly);
    row("gateway", passed);
    row("added", std::array::from_fn(|i| passed[i] - directly[i]));
    Ok(())
}

fn body(model: &str) -> Value {
    let system = "You answer from the numbered passages only. ".repeat(20);
    json!({ "model": model, "max_tokens": 160, "temperature": 0, "messages": [
        { "role": "system", "content": system },
        { "role": "user", "content": "What does it cost to take a bicycle?" },
    ]})
}

/// Latencies of the requests of one turn, each sent when it is due.
async fn turn(
    http: &reqwest::Client,
    (url, body): &(String, Value),
    time: Duration,
) -> Result<Vec<Duration>> {
    let count = (time.as_secs_f64() * f64::from(PER_SECOND)) as u32;
    let body = body.to_string();
    let start = Instant::now();
    let mut requests = Vec::new();
    for index in 0..count {
        let due = start + Duration::from_secs(1) / PER_SECOND * index;
        tokio::time::sleep_until(due.into()).await;
        let request = http.post(url).header("content-type", "application/json").body(body.clone());
        requests.push(tokio::spawn(async move {
            let response = request.send().await?.error_for_status()?;
            response.bytes().await?;
            anyhow::Ok(due.elapsed())
        }));
    }
    join_all(requests).await.into_iter().map(|request| request?).collect()
}
