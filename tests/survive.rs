//! What survives: a database that is late, that goes and comes back, that moves; a model that is stuck.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use ragway::{
    app::postgres_wheel,
    config::{EmbeddingSpace, Home},
    models::{
        Embedder, Embeddings, Lane, ModelError, TextRole,
        scheduler::{BatchModel, Limits, Scheduler},
    },
    store::{embedded::EmbeddedPostgres, migrate},
};
use reqwest::Response;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    harness::{self, TestApp, eventually, execute, fresh_database, good, problem, temporary_folder},
    shutdown::{self, Server},
    standby::{Standby, connect},
};

/// A server of PostgreSQL for one test, which can be stopped and started.
struct Postgres {
    data: PathBuf,
    running: Option<EmbeddedPostgres>,
    urls: (SecretString, SecretString),
}

impl Postgres {
    async fn new() -> Self {
        let data = temporary_folder().join(Uuid::now_v7().simple().to_string());
        let server = Self::serve(&data).await;
        let urls = (server.url(), server.admin_url());
        Self { data, running: Some(server), urls }
    }

    /// On the same port as before.
    async fn start(&mut self) {
        let server = Self::serve(&self.data).await;
        assert_eq!(server.url().expose_secret(), self.urls.0.expose_secret(), "it moved to another port");
        self.running = Some(server);
    }

    async fn serve(data: &Path) -> EmbeddedPostgres {
        let pg0 =
            harness::assets().obtain_postgres(postgres_wheel(&harness::catalog()).unwrap()).await.unwrap();
        let home = Home { data: data.to_owned(), ..harness::home() };
        EmbeddedPostgres::start(&home, &pg0).await.unwrap()
    }

    async fn stop(&mut self) {
        self.running.take().unwrap().stop().await.unwrap();
    }
}

async fn store(client: &reqwest::Client, url: &str, name: &str) -> reqwest::Result<Response> {
    let document = json!({"content": format!("The ferry {name} costs 3 euros."), "external_id": name});
    client.post(format!("{url}/api/v1/documents")).json(&document).send().await
}

/// Stores documents until `stop`; returns those that were acknowledged. Whatever else is answered must be
/// a 503 that says when to try again.
async fn keep_storing(url: String, writer: usize, stop: Arc<AtomicBool>) -> Vec<String> {
    let client = reqwest::Client::new();
    let (mut acknowledged, mut count) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let name = format!("{writer}-{count}");
        let answer = store(&client, &url, &name).await.unwrap();
        match answer.status().as_u16() {
            201 => acknowledged.push(name),
            503 => {
                assert!(answer.headers().contains_key("retry-after"));
                assert_eq!(answer.json::<Value>().await.unwrap()["code"], "database_unavailable");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => panic!("{other}: {}", answer.text().await.unwrap()),
        }
    }
    acknowledged
}

#[tokio::test]
async fn a_database_that_comes_late_and_goes_for_a_while_costs_nothing() {
    let mut postgres = Postgres::new().await;
    postgres.stop().await;
    let home = shutdown::home().await;
    let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listening.local_addr().unwrap());
    let port = listening.local_addr().unwrap().port();
    drop(listening);
    let urls = postgres.urls.clone();
    let folder = home.path().to_owned();
    let starting = tokio::task::spawn_blocking(move || Server::start_at(&folder, &urls, port));

    // It lives, is not ready, and says so.
    let client = reqwest::Client::new();
    let get = async |path: &str| client.get(format!("{url}{path}")).send().await;
    eventually("it lives", async || get("/health/live").await.is_ok_and(|answer| answer.status() == 200))
        .await;
    for path in ["/health/ready", "/health", "/api/v1/documents"] {
        let answer = get(path).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].as_bytes()), (503, &b"2"[..]));
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], "starting");
    }
    postgres.start().await;
    let server = starting.await.unwrap();
    assert!(
        server.before.iter().any(|line| line.contains("waiting for the database")),
        "{:?}",
        server.before
    );
    assert_eq!(get("/health/ready").await.unwrap().status(), 200);

    // It goes while documents are stored, and comes back.
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..3).map(|writer| tokio::spawn(keep_storing(url.clone(), writer, Arc::clone(&stop)))).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    postgres.stop().await;
    eventually("it is not ready", async || get("/health/ready").await.unwrap().status() == 503).await;
    assert_eq!(get("/health/live").await.unwrap().status(), 200, "an outage must not end processes");
    tokio::time::sleep(Duration::from_secs(2)).await;
    postgres.start().await;
    eventually("it stores again", async || store(&client, &url, "back").await.unwrap().status() == 201).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = vec!["back".to_owned()];
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    let rows = connect(&postgres.urls.1).await.query_typed("SELECT external_id FROM documents", &[]).await;
    let stored: Vec<String> = rows.unwrap().iter().map(|row| row.get(0)).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|name| !stored.contains(name)).collect();
    assert!(acknowledged.len() > 10 && lost.is_empty(), "of {} lost: {lost:?}", acknowledged.len());
    server.signal("-INT");
    assert_eq!(server.ended().await.0, Some(0));
    postgres.stop().await;
}

#[tokio::test]
async fn a_database_that_does_not_come_or_refuses_is_told() {
    let gone = SecretString::from("postgresql://ragway:x@127.0.0.1:1/ragway");
    let error = ragway::store::wait_until_reachable(&gone, Duration::from_secs(1)).await.unwrap_err();
    assert!(error.to_string().contains("(tried for 1 s)"), "{error}");
    // Waiting does not change a password.
    let (url, _) = fresh_database().await;
    let mut url = url::Url::parse(url.expose_secret()).unwrap();
    url.set_password(Some("wrong")).unwrap();
    let begun = Instant::now();
    let error = ragway::store::wait_until_reachable(&url.to_string().into(), Duration::from_secs(600)).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("password authentication failed"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(300));
}

/// Ids of the application's connections.
async fn connections(admin_url: &SecretString) -> Vec<i32> {
    let statement =
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'ragway' AND usename = 'ragway'";
    let rows = connect(admin_url).await.query_typed(statement, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn writes_go_on_with_the_server_that_takes_over() {
    let mut primary = Postgres::new().await;
    let (url, admin_url) = primary.urls.clone();
    migrate(&admin_url, Some("ragway")).await.unwrap();
    let mut standby = Standby::of(primary.running.as_ref().unwrap()).await;
    standby.ready(&url).await;
    // Acknowledged means: on both.
    execute(&admin_url, "ALTER SYSTEM SET synchronous_standby_names = '*'").await;
    execute(&admin_url, "SELECT pg_reload_conf()").await;
    let port = url::Url::parse(url.expose_secret()).unwrap().port().unwrap();
    // The one that cannot be written to comes first.
    let both = url.expose_secret().replacen(
        &format!("127.0.0.1:{port}/"),
        &format!("127.0.0.1:{},127.0.0.1:{port}/", standby.port),
        1,
    );
    let both = SecretString::from(format!("{both}?target_session_attrs=read-write"));
    let app = TestApp::with(|setup| setup.database = Some((both, admin_url.clone()))).await;
    app.store_ferry().await;

    // A server that takes no more writes has its connections dropped.
    let before = connections(&admin_url).await;
    execute(&admin_url, "ALTER SYSTEM SET default_transaction_read_only = on").await;
    execute(&admin_url, "SELECT pg_reload_conf()").await;
    eventually("writes are refused", async || {
        let answer = store(&app.client, &app.url, "refused").await.unwrap();
        let refused = answer.status() == 503;
        assert!(!refused || answer.headers().contains_key("retry-after"));
        refused
    })
    .await;
    eventually("its connections are gone", async || {
        let now = connections(&admin_url).await;
        before.iter().all(|connection| !now.contains(connection))
    })
    .await;
    execute(&admin_url, "ALTER SYSTEM RESET default_transaction_read_only").await;
    execute(&admin_url, "SELECT pg_reload_conf()").await;
    eventually("writes are taken", async || {
        store(&app.client, &app.url, "taken").await.unwrap().status() == 201
    })
    .await;

    // The primary dies while documents are stored, and the standby takes over.
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(keep_storing(app.url.clone(), 0, Arc::clone(&stop)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    primary.stop().await;
    execute(&standby.url(&admin_url), "SELECT pg_promote()").await;
    execute(&standby.url(&admin_url), "ALTER SYSTEM RESET synchronous_standby_names").await;
    execute(&standby.url(&admin_url), "SELECT pg_reload_conf()").await;
    eventually("writes work again", async || {
        store(&app.client, &app.url, "harbour").await.unwrap().status() == 201
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let acknowledged = writer.await.unwrap();
    let rows = connect(&standby.url(&admin_url)).await;
    let rows = rows.query_typed("SELECT external_id FROM documents", &[]).await.unwrap();
    let stored: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|name| !stored.contains(name)).collect();
    assert!(!acknowledged.is_empty() && lost.is_empty(), "of {} lost: {lost:?}", acknowledged.len());
    assert!(["taken", "harbour", "fares"].iter().all(|name| stored.contains(&(*name).to_owned())));
    app.stop().await;
    standby.stop().await;
}

/// all-MiniLM-L6-v2 behind a model that can be held up.
struct HeldUp {
    model: Arc<dyn Embedder>,
    scheduler: Scheduler<Gate>,
}

/// Computes nothing, for as long as it is shut.
struct Gate {
    shut: Arc<AtomicBool>,
}

impl BatchModel for Gate {
    type Item = ();
    type Output = ();

    fn run(&self, items: &[&()]) -> Result<Vec<()>, ModelError> {
        while self.shut.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(vec![(); items.len()])
    }
}

impl Embedder for HeldUp {
    fn space(&self) -> &EmbeddingSpace {
        self.model.space()
    }

    crate::harness::reads_as_its_model!();

    fn check_alive(&self) -> Result<(), ModelError> {
        self.scheduler.check_alive()
    }

    fn embed(
        &self,
        texts: Vec<String>,
        role: TextRole,
        lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        async move {
            self.scheduler.submit(vec![((), 1)], lane).await?;
            self.model.embed(texts, role, lane).await
        }
        .boxed()
    }
}

#[tokio::test]
async fn a_stuck_model_is_seen_by_liveness_a_busy_one_is_not() {
    let shut = Arc::new(AtomicBool::new(false));
    let limits = Limits {
        interactive_batch: 1,
        bulk_batch: 1,
        queue: 1000,
        ageing: Duration::from_secs(2),
        stuck: Duration::from_secs(4),
    };
    let gate = Gate { shut: Arc::clone(&shut) };
    let model = harness::embedder().await;
    let held_up = HeldUp { model, scheduler: Scheduler::start("held-up", limits, gate).unwrap() };
    let app = TestApp::with(|setup| setup.embedder = Some(Arc::new(held_up))).await;
    let status = async |path: &str| app.get(path).send().await.unwrap().status().as_u16();
    assert_eq!((status("/health/live").await, status("/health/ready").await), (200, 200));

    shut.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(status("/health/ready").await, 200, "a model that is busy for a second is well");
    eventually("liveness notices", async || status("/health/live").await == 503).await;
    let told = problem(app.get("/health/live").send().await.unwrap(), 503, "model_stuck").await;
    assert!(told["detail"].as_str().unwrap().contains("held-up"), "{told}");
    problem(app.get("/health/ready").send().await.unwrap(), 503, "model_stuck").await;
    let health = app.get("/health").send().await.unwrap();
    assert_eq!(health.status(), 503);
    let health: Value = health.json().await.unwrap();
    assert!(health["status"] == "unhealthy" && health["database"] == "connected", "{health}");

    shut.store(false, Ordering::Relaxed);
    eventually("it is well again", async || status("/health/live").await == 200).await;
    eventually("it is ready again", async || status("/health/ready").await == 200).await;
}

/// PgBouncer in transaction mode with two connections to the server.
struct PgBouncer {
    process: Child,
    url: SecretString,
}

impl PgBouncer {
    async fn before(url: &SecretString) -> Self {
        let mut url = url::Url::parse(url.expose_secret()).unwrap();
        let folder = temporary_folder().join(Uuid::now_v7().simple().to_string());
        std::fs::create_dir(&folder).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let name = url.path().trim_start_matches('/').to_owned();
        let settings = format!(
            "[databases]\n{name} = host=127.0.0.1 port={} user={} password={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n\
             user = nobody\n",
            url.port().unwrap(),
            url.username(),
            url.password().unwrap(),
        );
        let file = folder.join("pgbouncer.ini");
        std::fs::write(&file, settings).unwrap();
        let process =
            Command::new("pgbouncer").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.unwrap_or_else(|error| {
            panic!("pgbouncer cannot be run ({error}): install it (apt-get install pgbouncer)")
        });
        url.set_port(Some(port)).unwrap();
        let url = SecretString::from(url.to_string());
        eventually("PgBouncer lets in", async || {
            tokio_postgres::connect(url.expose_secret(), tokio_postgres::NoTls).await.is_ok()
        })
        .await;
        Self { process, url }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn two_servers_share_connections_behind_pgbouncer() {
    let (url, admin_url) = fresh_database().await;
    let bouncer = PgBouncer::before(&url).await;
    let pair = (bouncer.url.clone(), admin_url);
    let (first, second) = tokio::join!(
        TestApp::with(|setup| setup.database = Some(pair.clone())),
        TestApp::with(|setup| setup.database = Some(pair.clone())),
    );
    first.store_ferry().await;
    let work = async |app: &TestApp, name: String| {
        for turn in 0..10 {
            let stored = store(&app.client, &app.url, &format!("{name}-{turn}")).await.unwrap();
            assert_eq!(stored.status(), 201);
            let filter = json!({"query": "bicycle", "filters": {"topic": "money"}});
            let found = good(app.search(filter).await).await;
            assert_eq!(found["results"].as_array().unwrap().len(), 1, "{found}");
            good(app.search(json!({"query": "first ferry", "mode": "hybrid"})).await).await;
        }
        let texts = json!({"documents": [{"content": format!("Later {name}"), "external_id": name}]});
        let accepted = app.post("/api/v1/documents/async").json(&texts).send().await.unwrap();
        let task = good(accepted).await["task_id"].as_str().unwrap().to_owned();
        eventually("the task is done", async || {
            let task = good(app.get(&format!("/api/v1/tasks/{task}")).send().await.unwrap()).await;
            task["status"] == "succeeded"
        })
        .await;
    };
    let works = (0..3).flat_map(|n| [(&first, format!("first-{n}")), (&second, format!("second-{n}"))]);
    futures_util::future::join_all(works.map(|(app, name)| work(app, name))).await;
    first.stop().await;
    second.stop().await;
}
