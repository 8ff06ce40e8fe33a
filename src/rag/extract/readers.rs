//! The processes that read files: how many, for how long, and what became of one that ended.

use std::{
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::{Child, ChildStderr, Command},
    sync::Semaphore,
    task::JoinHandle,
};

use super::{
    ExtractError, Extracted, extract_plain,
    worker::{MAX_PART, Request},
};
use crate::config::ReaderSettings;

/// Files that a process reads before another takes its place: what readers leak goes with it.
const MAX_FILES: usize = 200;

/// How much of what a process said last is looked at, in bytes.
const LAST_WORDS: usize = 2048;

/// Signal of a process that has used up its processor time.
const SIGXCPU: i32 = 24;
const SIGKILL: i32 = 9;

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    #[error(transparent)]
    File(#[from] ExtractError),
    /// Not the file's fault.
    #[error("a process that reads files cannot be started: {0}")]
    Unavailable(io::Error),
}

/// A bounded set of processes that read files; cheap to clone.
#[derive(Debug, Clone)]
pub struct Readers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// ragway, which is started with the hidden command `extract-worker`.
    program: PathBuf,
    settings: ReaderSettings,
    permits: Semaphore,
    idle: Mutex<Vec<Reader>>,
}

impl Readers {
    /// Readers that are started from the program that runs.
    pub fn new(settings: ReaderSettings) -> Self {
        // The link leads to what runs, although its file may have been replaced meanwhile.
        let link = Path::new("/proc/self/exe");
        let program = if link.exists() { Ok(link.to_owned()) } else { std::env::current_exe() };
        Self::of_program(program.unwrap_or_else(|_| "ragway".into()), settings)
    }

    /// Readers that are started from this build of ragway.
    pub fn of_program(program: PathBuf, settings: ReaderSettings) -> Self {
        let permits = Semaphore::new(settings.processes);
        Self(Arc::new(Inner { program, settings, permits, idle: Mutex::default() }))
    }

    /// Reads a file as [`super::extract`] does: plain text and Markdown here, all else in a
    /// process that it can at worst end.
    ///
    /// A caller that leaves ends the process that works for it.
    pub async fn extract(
        &self,
        name: Option<String>,
        content_type: Option<String>,
        bytes: Bytes,
    ) -> Result<Extracted, ReaderError> {
        let request = Request { name, content_type };
        let (request, plain) = {
            let bytes = bytes.clone();
            let look = move || {
                let plain = extract_plain(request.name.as_deref(), request.content_type.as_deref(), &bytes);
                (request, plain)
            };
            tokio::task::spawn_blocking(look).await.map_err(|error| ReaderError::Unavailable(error.into()))?
        };
        match plain {
            Some(result) => Ok(result?),
            None => self.extract_apart(&request, &bytes).await,
        }
    }

    async fn extract_apart(&self, request: &Request, bytes: &[u8]) -> Result<Extracted, ReaderError> {
        let permit = self.0.permits.acquire().await;
        let _permit = permit.map_err(|error| ReaderError::Unavailable(io::Error::other(error)))?;
        let mut reader = match self.take_idle() {
            Some(reader) => reader,
            None => Reader::start(&self.0.program, &self.0.settings).map_err(ReaderError::Unavailable)?,
        };
        let limit = Duration::from_millis(self.0.settings.timeout_ms);
        match tokio::time::timeout(limit, reader.ask(request, bytes)).await {
            Ok(Ok(result)) => {
                self.keep(reader);
                Ok(result?)
            }
            Ok(Err(error)) => Err(reader.obituary(&error, &self.0.settings).await.into()),
            // Dropped, it is killed.
            Err(_) => Err(ExtractError::TooSlow { seconds: limit.as_secs() }.into()),
        }
    }

    /// A process that still runs; others may have been ended while they waited.
    fn take_idle(&self) -> Option<Reader> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop())
            .find_map(|mut reader| matches!(reader.child.try_wait(), Ok(None)).then_some(reader))
    }

    fn keep(&self, reader: Reader) {
        if reader.files < MAX_FILES {
            self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        }
    }
}

/// A process that reads files, one after the other.
#[derive(Debug)]
struct Reader {
    child: Child,
    socket: UnixStream,
    last_words: JoinHandle<String>,
    files: usize,
}

impl Reader {
    fn start(program: &Path, settings: &ReaderSettings) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(program);
        command
            .arg("extract-worker")
            .args(["--memory-mb", &settings.memory_mb.to_string()])
            .args(["--timeout-ms", &settings.timeout_ms.to_string()])
            // It has no use for secrets.
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "LD_LIBRARY_PATH"))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C is for the server, which lets running requests end.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let last_words = tokio::spawn(last_words(child.stderr.take()));
        Ok(Self { child, socket: UnixStream::from_std(ours)?, last_words, files: 0 })
    }

    async fn ask(&mut self, request: &Request, bytes: &[u8]) -> io::Result<Result<Extracted, ExtractError>> {
        self.files += 1;
        self.write_part(&serde_json::to_vec(request)?).await?;
        self.write_part(bytes).await?;
        let mut result: Result<Extracted, ExtractError> = serde_json::from_slice(&self.read_part().await?)?;
        let text = String::from_utf8(self.read_part().await?).map_err(io::Error::other)?;
        if let Ok(extracted) = &mut result {
            extracted.text = text;
        }
        Ok(result)
    }

    async fn write_part(&mut self, part: &[u8]) -> io::Result<()> {
        let length = u32::try_from(part.len()).map_err(io::Error::other)?;
        self.socket.write_u32_le(length).await?;
        self.socket.write_all(part).await
    }

    async fn read_part(&mut self) -> io::Result<Vec<u8>> {
        let length = self.socket.read_u32_le().await?;
        if length > MAX_PART {
            return Err(io::Error::other("a part is too long"));
        }
        let mut part = Vec::new();
        (&mut self.socket).take(u64::from(length)).read_to_end(&mut part).await?;
        if part.len() < length as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(part)
    }

    /// What the end of the process says about the file that it was reading.
    async fn obituary(mut self, error: &io::Error, settings: &ReaderSettings) -> ExtractError {
        // It may have answered nonsense and still run.
        let _ = self.child.start_kill();
        let status = self.child.wait().await;
        let words = self.last_words.await.unwrap_or_default();
        tracing::warn!(%error, ?status, words, "a process that reads files has ended: {error}");
        let memory = || format!("needs more than {} MiB of memory", settings.memory_mb);
        let what = match status.ok().and_then(|status| status.signal()) {
            Some(SIGXCPU) => return ExtractError::TooSlow { seconds: settings.timeout_ms / 1000 },
            _ if words.contains("memory allocation of") => memory(),
            _ if words.contains("overflowed its stack") => "overflows the stack of its reader".to_owned(),
            Some(SIGKILL) => format!("was ended by the system, or {}", memory()),
            Some(signal) => format!("ends its reader (signal {signal})"),
            None => "ends its reader".to_owned(),
        };
        ExtractError::Crashed { what }
    }
}

/// The end of what a process prints, read on while it runs so that it never waits for it.
async fn last_words(stderr: Option<ChildStderr>) -> String {
    let (mut words, mut buffer) = (Vec::new(), [0; 512]);
    if let Some(mut stderr) = stderr {
        while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
            words.extend_from_slice(&buffer[..read]);
            words.drain(..words.len().saturating_sub(LAST_WORDS));
        }
    }
    String::from_utf8_lossy(&words).into_owned()
}
