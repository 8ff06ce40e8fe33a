//! The composition root: builds models, store and use cases, and hands them down.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    assets::{AssetError, Assets},
    config::{
        Catalog, Config, DatabaseSettings, EmbedderEntry, GgufEntry, LlmEntry, PinnedFile, PostgresWheel,
        Source,
    },
    http::{self, Gateway},
    metrics::Metrics,
    models::{
        Embedder, Embedders, Generator,
        cache::EmbeddingCache,
        candle::{bert::BertEmbedder, gguf::GgufGenerator},
        openai::OpenAiGenerator,
        router::AnswerRouter,
    },
    rag::{Rag, prompts::Prompts},
    store::{ServerReport, Store, TenantId, embedded::EmbeddedPostgres, migrate},
};

/// Everything but the HTTP surface: what the commands work with.
pub struct Parts {
    pub rag: Rag,
    pub database: Database,
}

impl Parts {
    /// Fetches what is missing, starts the database, migrates, loads the models.
    pub async fn build(config: &Config, assets: &Assets) -> Result<Self> {
        let prompts = Prompts::load(config.prompts.as_deref())?;
        let catalog = Arc::new(config.catalog.clone());
        let chosen = Chosen::obtain(config, assets).await?;
        let (database, models) = tokio::try_join!(
            Database::open(config, chosen.postgres.as_deref()),
            Models::load(&catalog, &chosen),
        )?;
        let store = Store::connect(&database.url, &catalog.database).await?;
        let cache = EmbeddingCache::new(&catalog.cache, config.redis_url.as_ref())?;
        let rag = Rag::new(catalog, store, models.embedders, models.answers, prompts, cache);
        rag.ensure_default_collection(TenantId::DEFAULT).await?;
        if let Err(error) = rag.check_ready(TenantId::DEFAULT).await {
            tracing::error!(%error, "the default collection cannot be used: {error}");
        }
        Ok(Self { rag, database })
    }

    /// Stops what was started.
    pub async fn stop(self) -> Result<()> {
        self.database.stop().await
    }
}

/// A running server.
pub struct Application {
    server: actix_web::dev::Server,
    address: SocketAddr,
}

impl Application {
    /// Serves on a bound listener; `samples` are questions that the page offers.
    pub fn start(listener: TcpListener, rag: Rag, workers: usize, samples: Vec<String>) -> Result<Self> {
        let address = listener.local_addr()?;
        let metrics = Metrics::new()?;
        for (_, model) in rag.embedders().routes() {
            metrics.model_loaded.with_label_values(&[model]).set(1);
        }
        let server = http::serve(listener, Gateway { rag, metrics, samples }, workers)?;
        Ok(Self { server, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is done, then lets running requests end.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<()> {
        let handle = self.server.handle();
        let mut serving = tokio::spawn(self.server);
        tokio::select! {
            ended = &mut serving => ended??,
            () = stop => {
                handle.stop(true).await;
                serving.await??;
            }
        }
        Ok(())
    }
}

/// The database in use.
pub struct Database {
    pub report: ServerReport,
    url: SecretString,
    embedded: Option<Supervised>,
}

impl Database {
    /// Connects to the configured server, or starts the embedded one; migrates.
    pub async fn open(config: &Config, pg0: Option<&std::path::Path>) -> Result<Self> {
        let (embedded, url, admin_url) = match (&config.database, pg0) {
            (DatabaseSettings::External { url, admin_url }, _) => (None, url.clone(), admin_url.clone()),
            (DatabaseSettings::Embedded, Some(pg0)) => {
                let server = EmbeddedPostgres::start(&config.home, pg0).await?;
                let (url, admin_url) = (server.url(), server.admin_url());
                (Some(server), url, admin_url)
            }
            (DatabaseSettings::Embedded, None) => bail!("the embedded PostgreSQL was not fetched"),
        };
        let role = role_of(&url);
        let report = migrate(&admin_url, role.as_deref()).await?;
        for warning in &report.warnings {
            tracing::warn!("{warning}");
        }
        Ok(Self { embedded: embedded.map(Supervised::watch), report, url })
    }

    /// Stops the server where ragway started it.
    pub async fn stop(self) -> Result<()> {
        match self.embedded {
            Some(server) => server.stop().await,
            None => Ok(()),
        }
    }
}

/// The embedded server with a task that starts it again when it ends unasked.
struct Supervised {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

/// How often the supervisor looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

impl Supervised {
    fn watch(mut server: EmbeddedPostgres) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    // Also when the sender is gone: then nobody uses the server any more.
                    _ = &mut stopped => return Ok(server.stop().await?),
                    () = tokio::time::sleep(WATCH_INTERVAL) => {}
                }
                if let Err(error) = server.ensure_running().await {
                    tracing::error!(%error, "PostgreSQL cannot be started again: {error}");
                }
            }
        });
        Self { stop, task }
    }

    async fn stop(self) -> Result<()> {
        // The task ends by itself only after this message.
        let _ = self.stop.send(());
        self.task.await?
    }
}

/// What was found or fetched, by name.
struct Chosen {
    postgres: Option<PathBuf>,
    embedders: BTreeMap<String, (EmbedderEntry, PathBuf)>,
    local_llm: Option<(GgufEntry, PathBuf)>,
}

impl Chosen {
    async fn obtain(config: &Config, assets: &Assets) -> Result<Self> {
        let postgres = match &config.database {
            DatabaseSettings::Embedded => {
                Some(assets.obtain_postgres(postgres_wheel(&config.catalog)?).await?)
            }
            DatabaseSettings::External { .. } => None,
        };
        let mut embedders = BTreeMap::new();
        for (model_type, route) in &config.catalog.routes.embed {
            let chosen = obtain_embedder(&config.catalog, &route.candidates, assets).await?;
            embedders.insert(model_type.clone(), chosen);
        }
        Ok(Self { postgres, embedders, local_llm: obtain_local_llm(&config.catalog, assets).await? })
    }
}

/// The build of PostgreSQL for this machine.
pub fn postgres_wheel(catalog: &Catalog) -> Result<&PostgresWheel> {
    let platform = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    catalog.postgres.iter().find(|wheel| wheel.platform == platform).with_context(|| {
        format!(
            "models.toml names no PostgreSQL build for {platform}; set DATABASE_URL to a server with pgvector"
        )
    })
}

/// The embedder of a route: one of its candidates must be had.
async fn obtain_embedder(
    catalog: &Catalog,
    candidates: &[String],
    assets: &Assets,
) -> Result<(EmbedderEntry, PathBuf)> {
    let entries: Vec<&EmbedderEntry> = candidates.iter().filter_map(|name| catalog.embedder(name)).collect();
    let weights = entries.iter().map(|entry| Weights::new(&entry.name, &entry.files, &entry.sources));
    match first_obtainable(&weights.collect::<Vec<_>>(), assets).await? {
        Ok((index, folder)) => Ok((entries[index].clone(), folder)),
        Err(failures) => bail!("{}", failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    }
}

/// The local backend; none is no error, for others and the extractive answer are left.
async fn obtain_local_llm(catalog: &Catalog, assets: &Assets) -> Result<Option<(GgufEntry, PathBuf)>> {
    let backends = catalog.routes.answer.backends.iter().filter_map(|name| catalog.llm(name));
    let entries: Vec<&GgufEntry> = backends
        .filter_map(|entry| match entry {
            LlmEntry::Candle(gguf) => Some(gguf),
            LlmEntry::Openai(_) => None,
        })
        .collect();
    let weights = entries.iter().map(|entry| Weights::new(&entry.name, &entry.files, &entry.sources));
    let found = first_obtainable(&weights.collect::<Vec<_>>(), assets).await?;
    Ok(found.ok().map(|(index, folder)| (entries[index].clone(), folder)))
}

/// What is fetched for a model.
struct Weights<'a> {
    name: &'a str,
    files: &'a [PinnedFile],
    sources: &'a [Source],
}

impl<'a> Weights<'a> {
    fn new(name: &'a str, files: &'a [PinnedFile], sources: &'a [Source]) -> Self {
        Self { name, files, sources }
    }
}

/// Index and folder of the first that is there, else of the first that can be
/// fetched, else what each said.
async fn first_obtainable(
    candidates: &[Weights<'_>],
    assets: &Assets,
) -> Result<Result<(usize, PathBuf), Vec<AssetError>>> {
    for (index, weights) in candidates.iter().enumerate() {
        if let Some(folder) = assets.locate(weights.name, weights.files, weights.sources)? {
            return Ok(Ok((index, folder)));
        }
    }
    let mut failures = Vec::new();
    for (index, weights) in candidates.iter().enumerate() {
        match assets.obtain(weights.name, weights.files, weights.sources).await {
            Ok(folder) => return Ok(Ok((index, folder))),
            Err(error) => {
                tracing::debug!("{error}");
                tracing::warn!("{} is left out: it cannot be fetched", weights.name);
                failures.push(error);
            }
        }
    }
    Ok(Err(failures))
}

struct Models {
    embedders: Embedders,
    answers: AnswerRouter,
}

impl Models {
    async fn load(catalog: &Catalog, chosen: &Chosen) -> Result<Self> {
        let embedders = chosen.embedders.clone();
        let embedders = tokio::task::spawn_blocking(move || load_embedders(embedders)).await??;
        let mut backends: Vec<Arc<dyn Generator>> = Vec::new();
        for name in &catalog.routes.answer.backends {
            match catalog.llm(name) {
                Some(LlmEntry::Openai(entry)) => {
                    let key = entry.api_key_env.as_ref().map(std::env::var);
                    match key {
                        Some(Err(_)) => tracing::debug!("{name} is not configured: its key is not set"),
                        Some(Ok(key)) => {
                            backends.push(Arc::new(OpenAiGenerator::new(entry, Some(key.into()))?))
                        }
                        None => backends.push(Arc::new(OpenAiGenerator::new(entry, None)?)),
                    }
                }
                Some(LlmEntry::Candle(entry)) => {
                    if let Some((_, folder)) =
                        chosen.local_llm.as_ref().filter(|(found, _)| found.name == entry.name)
                    {
                        backends.push(Arc::new(GgufGenerator::load(entry, folder).await?));
                    }
                }
                None => {}
            }
        }
        Ok(Self { embedders, answers: AnswerRouter::new(backends) })
    }
}

/// A model that serves several routes is loaded once.
fn load_embedders(chosen: BTreeMap<String, (EmbedderEntry, PathBuf)>) -> Result<Embedders> {
    let mut loaded: BTreeMap<String, Arc<dyn Embedder>> = BTreeMap::new();
    let mut routes = BTreeMap::new();
    for (model_type, (entry, folder)) in chosen {
        let embedder = match loaded.get(&entry.name) {
            Some(embedder) => Arc::clone(embedder),
            None => {
                let embedder: Arc<dyn Embedder> = Arc::new(BertEmbedder::load(&entry, &folder)?);
                loaded.insert(entry.name.clone(), Arc::clone(&embedder));
                embedder
            }
        };
        routes.insert(model_type, embedder);
    }
    Ok(Embedders::new(routes))
}

/// The role in a database URL.
fn role_of(url: &SecretString) -> Option<String> {
    let config: tokio_postgres::Config = url.expose_secret().parse().ok()?;
    config.get_user().map(str::to_owned)
}

/// Lets candle compute on every core that this process may use. To be called first of all.
///
/// candle asks `RAYON_NUM_THREADS`, else counts physical cores: it ignores what a
/// container may use, and on some virtual machines it finds one core of several
/// (measured on one with two: half the speed).
pub fn size_thread_pools() {
    const VARIABLE: &str = "RAYON_NUM_THREADS";
    // Only Linux says how many threads there are, and only there the count goes wrong.
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if !alone || std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    #[expect(unsafe_code, reason = "candle takes the number from nowhere else")]
    // SAFETY: no other thread exists that could read the environment meanwhile.
    unsafe {
        std::env::set_var(VARIABLE, cores.to_string());
    }
}
