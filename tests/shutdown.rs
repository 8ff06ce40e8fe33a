//! The end of a server: what has begun ends well, and others go on at once.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use ragway::{
    config::BUILT_IN,
    models::{GenerateRequest, GenerationStream, Generator, ModelError},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::{
    cli,
    harness::{TestApp, eventually, fresh_database, good, problem, temporary_folder},
};

/// A process that serves.
pub struct Server {
    process: Child,
    /// Without a slash at its end.
    pub url: String,
    /// What it said before it was ready.
    pub before: Vec<String>,
    said: std::thread::JoinHandle<Vec<String>>,
}

impl Server {
    /// Waits until it says that it is ready.
    pub fn start(home: &Path, database: &(SecretString, SecretString)) -> Self {
        Self::start_at(home, database, 0)
    }

    /// The same on a port that is known before.
    pub fn start_at(home: &Path, (url, admin_url): &(SecretString, SecretString), port: u16) -> Self {
        let mut command = cli::ragway(home);
        command.args(["serve", "--port", &port.to_string()]).env("RAGWAY_LOG", "text");
        command.env("DATABASE_URL", url.expose_secret()).env("DATABASE_ADMIN_URL", admin_url.expose_secret());
        let mut process = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut before = Vec::new();
        let url = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it ended:\n{}", before.join("\n")));
            if let Some((_, url)) = line.split_once("ask a question") {
                break url.trim().trim_end_matches('/').to_owned();
            }
            before.push(line);
        };
        Self { process, url, before, said: std::thread::spawn(move || lines.collect()) }
    }

    pub fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// Its exit status, and what it said since it was ready.
    pub async fn ended(mut self) -> (Option<i32>, String) {
        let ended = tokio::task::spawn_blocking(move || {
            let status = self.process.wait().unwrap();
            (status.code(), self.said.join().unwrap().join("\n"))
        });
        ended.await.unwrap()
    }

    async fn status(&self, path: &str) -> Option<u16> {
        Some(reqwest::get(format!("{}{path}", self.url)).await.ok()?.status().as_u16())
    }
}

/// A home whose servers start fast and pause for a second before they stop.
pub async fn home() -> tempfile::TempDir {
    let home = cli::own_home().await;
    let catalog = BUILT_IN
        .replace("pause_ms = 5_000", "pause_ms = 1_000")
        .replace("poll_ms = 2_000", "poll_ms = 200")
        .replace("[\"openai\", \"qwen2.5-0.5b-instruct\", \"smollm2-135m-instruct\"]", "[\"openai\"]");
    fs::write(home.path().join("models.toml"), catalog).unwrap();
    home
}

/// nginx before two servers, which sends to the other one what the first did not begin to answer.
struct Nginx {
    process: Child,
    url: String,
}

impl Nginx {
    async fn before(servers: [&Server; 2]) -> Self {
        let folder = temporary_folder().join(uuid::Uuid::now_v7().simple().to_string());
        fs::create_dir(&folder).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let upstreams =
            servers.map(|server| format!("server {};", server.url.strip_prefix("http://").unwrap()));
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {}/{kind};", folder.display()));
        let settings = format!(
            "daemon off; master_process off; pid {0}/pid; error_log {0}/errors;
             events {{}}
             http {{
                 access_log off; {1}
                 upstream gateways {{ {2} keepalive 8; }}
                 server {{
                     listen 127.0.0.1:{port};
                     location / {{
                         proxy_pass http://gateways;
                         proxy_http_version 1.1;
                         proxy_set_header Connection \"\";
                         proxy_next_upstream error timeout http_503 non_idempotent;
                     }}
                 }}
             }}",
            folder.display(),
            temporary.join(" "),
            upstreams.join(" "),
        );
        fs::write(folder.join("nginx.conf"), settings).unwrap();
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(&folder).arg("-e").arg(folder.join("errors")).args(["-c", "nginx.conf"]);
        let process = nginx.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap_or_else(|error| {
            panic!("nginx cannot be run ({error}): install it (apt-get install nginx-light)")
        });
        let nginx = Self { process, url: format!("http://127.0.0.1:{port}") };
        eventually("nginx answers", async || {
            reqwest::get(format!("{}/version", nginx.url)).await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Searches until `stop`; tries nothing again. Returns what failed.
async fn search(url: String, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) -> Vec<String> {
    let client = reqwest::Client::new();
    let mut failures = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let query = json!({"query": "What does a bicycle cost?"});
        let answer = client.post(format!("{url}/api/v1/search")).json(&query).send().await;
        let body = async { answer?.error_for_status()?.json::<Value>().await };
        match body.await {
            Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
            Err(error) => failures.push(format!("{error:?}")),
        }
    }
    failures
}

#[tokio::test]
async fn no_request_fails_when_one_of_two_servers_is_told_to_end() {
    let (home, database) = (home().await, fresh_database().await);
    let leaving = Server::start(home.path(), &database);
    let staying = Server::start(home.path(), &database);
    let nginx = Nginx::before([&leaving, &staying]).await;
    let document = json!({"content": "A bicycle costs 3 euros each way."});
    let client = reqwest::Client::new();
    good(client.post(format!("{}/api/v1/documents", nginx.url)).json(&document).send().await.unwrap()).await;

    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|_| tokio::spawn(search(nginx.url.clone(), Arc::clone(&stop), Arc::clone(&answered))))
        .collect();
    eventually("searches are answered", async || answered.load(Ordering::Relaxed) > 20).await;
    leaving.signal("-TERM");
    // Still serving, and everybody is told to go elsewhere.
    eventually("it is not ready", async || leaving.status("/health/ready").await == Some(503)).await;
    assert_eq!(leaving.status("/health/live").await, Some(200));
    let (status, said) = leaving.ended().await;
    assert!(status == Some(0) && said.contains("ragway has stopped"), "{status:?} {said}");
    let before = answered.load(Ordering::Relaxed);
    eventually("the other one answers", async || answered.load(Ordering::Relaxed) > before + 20).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        assert_eq!(client.await.unwrap(), Vec::<String>::new());
    }
    staying.signal("-INT");
    assert_eq!(staying.ended().await.0, Some(0));
}

#[tokio::test]
async fn another_server_goes_on_with_a_running_job_at_once() {
    let (home, database) = (home().await, fresh_database().await);
    let leaving = Server::start(home.path(), &database);
    let client = reqwest::Client::new();
    let texts: Vec<String> =
        (0..900).map(|n| format!("Ferry {n} leaves at {} past. ", n % 60).repeat(100)).collect();
    let body = json!({"documents": texts.iter().map(|text| json!({"content": text})).collect::<Vec<_>>()});
    let url = format!("{}/api/v1/documents/async", leaving.url);
    let accepted = good(client.post(url).json(&body).send().await.unwrap()).await;
    let task = format!("/api/v1/tasks/{}", accepted["task_id"].as_str().unwrap());
    eventually("the job runs", async || {
        let task = good(client.get(format!("{}{task}", leaving.url)).send().await.unwrap()).await;
        task["progress"]["done"].as_u64() > Some(0)
    })
    .await;
    let staying = Server::start(home.path(), &database);
    leaving.signal("-TERM");
    assert_eq!(leaving.ended().await.0, Some(0));
    // Its lease would have lasted half a minute.
    let (client_of, _) = (tokio_postgres::connect(database.1.expose_secret(), tokio_postgres::NoTls).await)
        .map(|(client, connection)| (client, tokio::spawn(connection)))
        .unwrap();
    let documents = async || -> i64 {
        client_of.query_typed_one("SELECT count(*) FROM documents", &[]).await.unwrap().get(0)
    };
    let before = documents().await;
    assert!(before < 900, "it was done before");
    eventually("the other one goes on", async || documents().await > before).await;
    staying.signal("-INT");
    assert_eq!(staying.ended().await.0, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (home, database) = (home().await, fresh_database().await);
    let server = Server::start(home.path(), &database);
    let signalled = Instant::now();
    server.signal("-TERM");
    eventually("it is not ready", async || server.status("/health/ready").await == Some(503)).await;
    server.signal("-TERM");
    let (status, said) = server.ended().await;
    assert!(status == Some(1) && said.contains("second signal"), "{status:?} {said}");
    assert!(signalled.elapsed() < Duration::from_secs(20));
}

/// Never begins to answer.
struct Silent;

impl Generator for Silent {
    fn name(&self) -> &str {
        "silent"
    }

    fn context_tokens(&self) -> usize {
        4096
    }

    fn count_tokens(&self, text: &str) -> usize {
        text.len()
    }

    fn generate(&self, _: GenerateRequest) -> BoxFuture<'_, Result<GenerationStream, ModelError>> {
        async { Ok(stream::pending().boxed()) }.boxed()
    }
}

#[tokio::test]
async fn what_has_not_ended_at_the_limit_is_told_so() {
    let app = TestApp::with(|setup| {
        setup.catalog.shutdown.limit_ms = 1_000;
        setup.catalog.ask.deadline_ms = 600_000;
        setup.backends.push(Arc::new(Silent));
    })
    .await;
    app.store_ferry().await;
    let question = "What does it cost to take a bicycle?";
    let mut streamed = app.ask(json!({"question": question, "stream": true})).await.bytes_stream();
    let begun = streamed.next().await.unwrap().unwrap();
    assert!(begun.starts_with(b"event: sources"), "{begun:?}");
    let chat =
        json!({"model": "ragway", "stream": true, "messages": [{"role": "user", "content": question}]});
    let mut chat = app.post("/v1/chat/completions").json(&chat).send().await.unwrap().bytes_stream();
    chat.next().await.unwrap().unwrap();
    let whole = tokio::spawn(app.post("/api/v1/ask").json(&json!({"question": question})).send());
    let openai = json!({"model": "ragway", "messages": [{"role": "user", "content": question}]});
    let openai = tokio::spawn(app.post("/v1/chat/completions").json(&openai).send());
    eventually("all four wait for the model", async || {
        let health = good(app.get("/health").send().await.unwrap()).await;
        health["answers"][0]["load"] == 4
    })
    .await;

    app.stop().await;
    let rest = |stream: Vec<Result<bytes::Bytes, reqwest::Error>>| {
        let bytes: Vec<u8> = stream.into_iter().flat_map(|part| part.unwrap()).collect();
        String::from_utf8(bytes).unwrap()
    };
    let last = rest(streamed.collect().await);
    let event = last.strip_prefix("event: error\ndata: ").unwrap_or_else(|| panic!("{last}"));
    let told: Value = serde_json::from_str(event).unwrap();
    assert!(
        told["status"] == 503 && told["detail"].as_str().unwrap().contains("this server stops"),
        "{told}"
    );
    let last = rest(chat.collect().await);
    assert!(last.contains("\"error\"") && last.contains("this server stops"), "{last}");
    let whole = whole.await.unwrap().unwrap();
    assert_eq!(whole.headers()["retry-after"], "1");
    problem(whole, 503, "stopping").await;
    let openai = openai.await.unwrap().unwrap();
    assert_eq!(openai.status(), 503);
    assert_eq!(openai.json::<Value>().await.unwrap()["error"]["code"], "stopping");
}
