//! The metrics of a server that was used, and those who rely on their names.

use std::{collections::BTreeSet, fs, path::Path};

use ragway::config::JobSettings;
use serde_json::{Value, json};

use super::parse_metrics;
use crate::{
    harness::{TestApp, eventually, good},
    llm::{ferry_with, saying, upstream},
};

/// Every label, and what its values are: names of ours or of models.toml.
const LABELS: [&str; 12] = [
    "backend",
    "direction",
    "endpoint",
    "kind",
    "lane",
    "le",
    "model",
    "operation",
    "outcome",
    "status",
    "tier",
    "tool",
];
/// A word that clients put wherever they can.
const WORD: &str = "quagmarch";

async fn scrape(app: &TestApp) -> String {
    let response = app.get("/metrics").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    response.text().await.unwrap()
}

/// A server of which every metric has a value.
async fn used() -> TestApp {
    let server = upstream(saying(&["A bicycle costs 3 euros each way. [1]"])).await;
    let app = ferry_with(&server).await;
    let post = async |path: &str, body: Value| app.post(path).json(&body).send().await.unwrap();
    good(post("/api/v1/embed/cached", json!({"texts": ["a", "b"]})).await).await;
    good(post("/api/v1/search", json!({"query": "bicycle"})).await).await;
    let answer = good(app.ask(json!({"question": "What does a bicycle cost?"})).await).await;
    assert_eq!(answer["method"], "generated", "{answer}");
    let task = good(post("/api/v1/embed/async", json!({"texts": ["a", "b", "c"]})).await).await;
    let location = format!("/api/v1/tasks/{}", task["task_id"].as_str().unwrap());
    eventually("the task ends", async || {
        good(app.get(&location).send().await.unwrap()).await["status"] == "succeeded"
    })
    .await;
    let arguments = json!({"query": "bicycle"});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "search", "arguments": arguments}});
    let mcp = app.post("/mcp").header("accept", "application/json, text/event-stream").json(&call);
    assert_eq!(mcp.send().await.unwrap().status(), 200);

    // What clients choose must not become a label.
    app.get(&format!("/{WORD}")).send().await.unwrap();
    app.get(&format!("/api/v1/documents/{WORD}")).send().await.unwrap();
    app.get(&format!("/ui/{WORD}.js")).send().await.unwrap();
    post("/api/v1/search", json!({"query": WORD, "collection": WORD})).await;
    post("/api/v1/ask", json!({"question": WORD, "model": WORD})).await;
    post(&format!("/embed/{WORD}"), json!({"texts": [WORD]})).await;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": WORD}});
    let mcp = app.post("/mcp").header("accept", "application/json, text/event-stream").json(&call);
    mcp.send().await.unwrap();
    app
}

#[tokio::test]
async fn metrics_have_names_types_and_labels_that_can_be_relied_on() {
    let app = used().await;
    let text = scrape(&app).await;
    let exported = parse_metrics(&text);
    for (name, kind, labels) in [
        ("embedding_requests_total", "counter", &["endpoint", "status"][..]),
        ("embedding_request_duration_seconds", "histogram", &["endpoint", "le"]),
        ("db_active_connections", "gauge", &[]),
        ("model_loaded", "gauge", &["model"]),
        ("model_queue_tokens", "gauge", &["lane", "model"]),
        ("model_batch_items", "histogram", &["lane", "le", "model"]),
        ("job_attempts_total", "counter", &["kind", "outcome"]),
        ("answer_duration_seconds", "histogram", &["backend", "le"]),
        ("usage_tokens_total", "counter", &["backend", "kind", "operation"]),
    ] {
        let metric = &exported[name];
        let found: BTreeSet<&str> = metric.series.iter().flatten().map(|(label, _)| label.as_str()).collect();
        assert_eq!((metric.kind.as_str(), found), (kind, labels.iter().copied().collect()), "{name}");
    }
    for (name, metric) in &exported {
        assert_eq!(name.ends_with("_total"), metric.kind == "counter", "{name} is a {}", metric.kind);
        for (label, value) in metric.series.iter().flatten() {
            assert!(LABELS.contains(&label.as_str()), "{name} has a label {label}");
            assert!(uuid::Uuid::try_parse(value).is_err() && value.len() < 64, "{name}: {label} is {value}");
        }
    }
    assert!(!text.contains(WORD), "{text}");
    for line in [
        "answer_duration_seconds_count{backend=\"remote\"} 1",
        "answer_tokens_total{backend=\"remote\",direction=\"prompt\"} 90",
        "job_attempts_total{kind=\"embed\",outcome=\"succeeded\"} 1",
        "jobs_queued_total{kind=\"embed\"} 1",
        "jobs_running{kind=\"embed\"} 0",
        "embedding_cache_misses_total{tier=\"memory\"} 4",
        "search_cache_misses_total 2",
        "search_cache_hits_total 1",
        "model_queue_items{lane=\"interactive\",model=\"all-MiniLM-L6-v2\"} 0",
        "db_pool_connections_max 4",
        "http_requests_under_way 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let counted = |start: &str| {
        let line =
            text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}\n{text}"));
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    for start in [
        "model_tokens_total{lane=\"interactive\",model=\"all-MiniLM-L6-v2\"}",
        "model_busy_seconds_total{lane=\"bulk\",model=\"all-MiniLM-L6-v2\"}",
        "model_batch_items_count{lane=\"interactive\",model=\"all-MiniLM-L6-v2\"}",
    ] {
        assert!(counted(start) > 0.0, "{start}");
    }
}

#[tokio::test]
async fn a_job_that_no_worker_takes_is_seen_to_wait() {
    let app = TestApp::with(|setup| setup.catalog.jobs.workers = 0).await;
    good(app.post("/api/v1/embed/async").json(&json!({"texts": ["a"]})).send().await.unwrap()).await;
    let text = scrape(&app).await;
    assert!(text.contains("jobs_queued_total{kind=\"embed\"} 1\n"), "{text}");
    assert!(text.contains("job_attempts_total{kind=\"embed\",outcome=\"succeeded\"} 0\n"), "{text}");
    let settings = JobSettings { workers: 1, poll_ms: 50, ..JobSettings::default() };
    let worker = tokio::spawn(app.rag.clone().with_job_settings(settings).run_jobs(std::future::pending()));
    eventually("it is done", async || {
        scrape(&app).await.contains("job_attempts_total{kind=\"embed\",outcome=\"succeeded\"} 1\n")
    })
    .await;
    worker.abort();
}

#[tokio::test]
async fn readme_rules_and_dashboard_name_the_metrics_that_there_are() {
    let app = used().await;
    let exported = parse_metrics(&scrape(&app).await);
    let listed: BTreeSet<String> = table(&read("README.md")).collect();
    let shown: BTreeSet<String> = exported
        .iter()
        .map(|(name, metric)| {
            let labels = metric
                .series
                .iter()
                .flatten()
                .map(|(label, _)| label.as_str())
                .filter(|label| *label != "le");
            let labels: BTreeSet<&str> = labels.collect();
            format!("{name} {} {}", metric.kind, labels.into_iter().collect::<Vec<_>>().join(", "))
        })
        .collect();
    assert_eq!(listed, shown, "README's table of metrics, and what is exported");

    let recording = read("deploy/prometheus/recording.yml");
    let recorded: Vec<&str> = recording
        .lines()
        .filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix("record: "))
        .collect();
    let mut queries = expressions(&recording);
    queries.extend(expressions(&read("deploy/prometheus/alerts.yml")));
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dashboards/ragway.json")).unwrap();
    let targets =
        dashboard["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array());
    let targets = targets.flatten().filter(|target| target["datasource"]["type"] == "prometheus");
    queries.extend(targets.map(|target| target["expr"].as_str().unwrap().to_owned()));
    assert!(queries.len() > 50, "{}", queries.len());
    for query in &queries {
        let names = names_in(query);
        assert!(!names.is_empty(), "{query}");
        for name in names {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            let known = exported.contains_key(&name) || base.is_some_and(|base| exported.contains_key(base));
            assert!(known || name == "up" || recorded.contains(&&*name), "{name} is not exported: {query}");
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The rows of README's table: name, type, labels.
fn table(readme: &str) -> impl Iterator<Item = String> {
    let rows = readme.lines().skip_while(|line| !line.starts_with("| metric | type |")).skip(2);
    rows.take_while(|line| line.starts_with('|')).map(|row| {
        let cells: Vec<String> = row.split('|').map(|cell| cell.replace('`', "").trim().to_owned()).collect();
        format!("{} {} {}", cells[1], cells[2], cells[3])
    })
}

/// What stands behind each `expr:` of a file of rules, on the same line or on the deeper ones that follow.
fn expressions(rules: &str) -> Vec<String> {
    let depth = |line: &str| line.len() - line.trim_start_matches([' ', '-']).len();
    let mut lines = rules.lines().peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(first) = line.trim_start_matches([' ', '-']).strip_prefix("expr:") else { continue };
        let mut expression = first.trim().trim_start_matches('|').to_owned();
        while let Some(more) = lines.next_if(|next| depth(next) > depth(line)) {
            expression.push(' ');
            expression.push_str(more.trim());
        }
        found.push(expression);
    }
    found
}

/// The metrics that a query of PromQL reads: its words besides labels, durations, strings and functions.
fn names_in(query: &str) -> Vec<String> {
    let after =
        |text: &'_ str, end: char| text.split_once(end).map_or(text.len(), |(inside, _)| inside.len() + 1);
    let (mut names, mut at) = (Vec::new(), 0);
    while let Some(next) = query[at..].chars().next() {
        let rest = &query[at..];
        at += match next {
            '{' => after(rest, '}'),
            '[' => after(rest, ']'),
            '"' => 1 + after(&rest[1..], '"'),
            _ if next.is_ascii_alphanumeric() || next == '_' => {
                let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
                let (word, behind) = rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()));
                let is_called =
                    ["(", "by ", "without "].iter().any(|next| behind.trim_start().starts_with(next));
                if !is_called && !next.is_ascii_digit() && !["and", "or", "unless"].contains(&word) {
                    names.push(word.to_owned());
                }
                let has_labels = behind.trim_start().starts_with('(')
                    && ["by", "without", "on", "ignoring"].contains(&word);
                word.len() + if has_labels { after(behind, ')') } else { 0 }
            }
            _ => next.len_utf8(),
        };
    }
    names
}
