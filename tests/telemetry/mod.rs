//! What those who run ragway see of it: metrics, traces, logs; and what caches may keep.

mod caching;
mod metrics;
mod traces;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::JoinHandle,
};

use tempfile::TempDir;

use crate::cli::{own_home, ragway};

/// `ragway serve` with a catalog of its own; only a process of its own can log and trace for itself.
struct Program {
    url: String,
    server: Child,
    log: PathBuf,
    told: JoinHandle<Vec<String>>,
    _home: TempDir,
}

impl Program {
    async fn start(catalog: &str, variables: &[(&str, &str)]) -> Self {
        let home = own_home().await;
        fs::write(home.path().join("models.toml"), catalog).unwrap();
        let log = home.path().join("log");
        let mut server = ragway(home.path())
            .args(["serve", "--port", "0"])
            .env("RAGWAY_LOG", "json")
            .envs(variables.iter().copied())
            .stdout(fs::File::create(&log).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut seen = Vec::new();
        let url = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it ended:\n{}", seen.join("\n")));
            if let Some((_, url)) = line.split_once("ask a question") {
                break url.trim().trim_end_matches('/').to_owned();
            }
            seen.push(line);
        };
        let told = std::thread::spawn(move || lines.collect());
        Self { url, server, log, told, _home: home }
    }

    /// Stops it as a person does; gives what it has logged.
    fn stop(mut self) -> String {
        let kill = Command::new("kill").args(["-INT", &self.server.id().to_string()]).status().unwrap();
        assert!(kill.success() && self.server.wait().unwrap().success());
        let told = self.told.join().unwrap().join("\n");
        format!("{}\n{told}", fs::read_to_string(&self.log).unwrap())
    }
}

/// A metric as it is exported: its type, and the labels of each of its series.
struct Exported {
    kind: String,
    series: Vec<BTreeMap<String, String>>,
}

/// The metrics in Prometheus' text format, by name.
fn parse_metrics(text: &str) -> BTreeMap<String, Exported> {
    let mut found: BTreeMap<String, Exported> = BTreeMap::new();
    let mut helped = None;
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').map(|(name, help)| (name.to_owned(), help.len()));
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(
                helped.take().is_some_and(|(of, length)| of == name && length > 10),
                "{name} has no help"
            );
            found.insert(name.to_owned(), Exported { kind: kind.to_owned(), series: Vec::new() });
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let (name, labels) = series.strip_suffix('}').and_then(|s| s.split_once('{')).unwrap_or((series, ""));
        let parts = ["_bucket", "_sum", "_count"];
        let base =
            parts.iter().find_map(|part| name.strip_suffix(part).filter(|base| found.contains_key(*base)));
        let labels = labels.split_terminator("\",").map(|label| {
            let (name, value) = label.trim_end_matches('"').split_once("=\"").unwrap();
            (name.to_owned(), value.to_owned())
        });
        let metric = found.get_mut(base.unwrap_or(name)).unwrap_or_else(|| panic!("{name} has no type"));
        metric.series.push(labels.collect());
    }
    found
}
