//! The database: a configured server, or the embedded one kept running.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    config::{Catalog, Config, DatabaseSettings, EncryptionSettings, PoolSettings, PostgresWheel},
    store::{ServerReport, Store, embedded::EmbeddedPostgres, migrate, wait_until_reachable},
};

/// The database in use.
pub struct Database {
    pub report: ServerReport,
    /// Connects as the application's role.
    pub url: SecretString,
    /// Connects as the owner, directly.
    pub admin_url: SecretString,
    /// Answers searches.
    pub replica_url: Option<SecretString>,
    /// What texts are sealed with.
    encryption: EncryptionSettings,
    embedded: Option<Supervised>,
}

impl Database {
    /// Connects to the configured server, or starts the embedded one; migrates.
    pub async fn open(config: &Config, pg0: Option<&Path>) -> Result<Self> {
        let mut replica = None;
        let (embedded, url, admin_url) = match (&config.database, pg0) {
            (DatabaseSettings::External { url, admin_url, replica_url }, _) => {
                replica.clone_from(replica_url);
                (None, url.clone(), admin_url.clone())
            }
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
        Ok(Self {
            embedded: embedded.map(Supervised::watch),
            report,
            url,
            admin_url,
            replica_url: replica,
            encryption: config.encryption.clone(),
        })
    }

    /// Connects with the application's role, to the replica too where there is one.
    pub async fn connect(&self, settings: &PoolSettings) -> Result<Store> {
        let store = Store::connect(&self.url, settings).await?.with_keys(&self.encryption).await?;
        match &self.replica_url {
            Some(url) => Ok(store.with_replica(url, settings).await?),
            None => Ok(store),
        }
    }

    /// Waits until a configured server can be reached by both roles, `database.start_timeout_ms` at most.
    pub async fn wait(config: &Config) -> Result<()> {
        if let DatabaseSettings::External { url, admin_url, .. } = &config.database {
            let limit = Duration::from_millis(config.catalog.database.start_timeout_ms);
            wait_until_reachable(admin_url, limit).await?;
            wait_until_reachable(url, limit).await?;
        }
        Ok(())
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

/// The build of PostgreSQL for this machine.
pub fn postgres_wheel(catalog: &Catalog) -> Result<&PostgresWheel> {
    let platform = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    catalog.postgres.iter().find(|wheel| wheel.platform == platform).with_context(|| {
        format!(
            "models.toml names no PostgreSQL build for {platform}; set DATABASE_URL to a server with pgvector"
        )
    })
}

/// The role in a database URL.
fn role_of(url: &SecretString) -> Option<String> {
    let config: tokio_postgres::Config = url.expose_secret().parse().ok()?;
    config.get_user().map(str::to_owned)
}
