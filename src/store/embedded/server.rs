//! The server as a child process.

use std::{
    fs::{self, File},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    process::{Child, ChildStdin, Command},
    time::Instant,
};

use super::{
    EmbeddedError,
    installation::Installation,
    place::Place,
    roles::{self, Access},
};

/// Runs its arguments and sends them SIGINT when standard input ends.
///
/// A background job's input is /dev/null, hence descriptor 3. Signals sent to all
/// processes of a service must not end script or watcher before the server.
const SUPERVISE: &str = r#"
exec 3<&0
"$@" 3<&- &
server=$!
trap '' HUP INT TERM
(read -r _ <&3; kill -INT "$server") &
watcher=$!
exec 3<&-
wait "$server"
status=$?
kill -KILL "$watcher" 2>/dev/null
exit "$status"
"#;

const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// A `postgres` that lives as long as this value.
pub(super) struct Server {
    child: Child,
    /// Closing it ends the server.
    lifeline: Option<ChildStdin>,
    log: PathBuf,
    pid_file: PathBuf,
    /// What a server that crashed left in `pid_file`.
    predecessor: Option<String>,
}

impl Server {
    /// Starts `postgres` on the database in `files`; it is not ready yet.
    pub(super) fn spawn(
        place: &Place,
        installation: &Installation,
        files: &Path,
        port: u16,
    ) -> Result<Self, EmbeddedError> {
        let log = log_path(place);
        let output = fresh_log(&log).map_err(|error| EmbeddedError::io(&log, error))?;
        let errors = output.try_clone().map_err(|error| EmbeddedError::io(&log, error))?;
        let shell = Path::new("/bin/sh");
        let mut command = place.command(shell);
        installation.with_libraries(&mut command);
        command.args(["-c", SUPERVISE, "sh"]).arg(installation.program("postgres")).arg("-D").arg(files);
        for setting in settings(port) {
            command.arg("-c").arg(setting);
        }
        // Ctrl-C in a terminal reaches the whole group; the server must end after ragway's own work.
        command.process_group(0).stdin(Stdio::piped()).stdout(output).stderr(errors);
        let pid_file = files.join("postmaster.pid");
        let predecessor = fs::read_to_string(&pid_file).ok();
        let mut child = Command::from(command).spawn().map_err(|error| EmbeddedError::io(shell, error))?;
        let lifeline = child.stdin.take();
        Ok(Self { child, lifeline, log, pid_file, predecessor })
    }

    /// Waits until the server lets `admin` in.
    pub(super) async fn ready(&mut self, admin: &Access) -> Result<(), EmbeddedError> {
        let admin = admin.to_server();
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let Err(failure) = roles::connect(&admin).await else { return Ok(()) };
            if let Some(status) = self.exited() {
                return Err(self.not_started(format!("it ended ({status})")));
            }
            // Before it listens, only another server that has taken the port can have answered.
            if failure.is_final() && self.listens() {
                return Err(self.not_started(failure.to_string()));
            }
            if Instant::now() > deadline {
                return Err(self.not_started(format!("not ready after {} s", START_LIMIT.as_secs())));
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }

    /// Whether this server says, in line 8 of `postmaster.pid`, that it is ready.
    fn listens(&self) -> bool {
        let Ok(text) = fs::read_to_string(&self.pid_file) else { return false };
        let ready = text.lines().nth(7).is_some_and(|status| status.trim() == "ready");
        ready && self.predecessor.as_ref().and_then(|old| old.lines().next()) != text.lines().next()
    }

    pub(super) fn exited(&mut self) -> Option<ExitStatus> {
        // An error means that the child cannot be asked, and says nothing about its end.
        self.child.try_wait().ok().flatten()
    }

    /// Fast shutdown: closes connections, writes a checkpoint, ends.
    pub(super) async fn stop(mut self) -> Result<(), EmbeddedError> {
        drop(self.lifeline.take());
        match tokio::time::timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(EmbeddedError::io(Path::new("/bin/sh"), error)),
            Err(_) => Err(EmbeddedError::NotStopped { seconds: STOP_LIMIT.as_secs() }),
        }
    }

    fn not_started(&self, reason: String) -> EmbeddedError {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n");
        EmbeddedError::NotStarted { reason, log: self.log.clone(), tail }
    }
}

pub(super) fn log_path(place: &Place) -> PathBuf {
    place.data.join("server.log")
}

/// Command-line settings win over `postgresql.conf`.
pub(super) fn settings(port: u16) -> Vec<String> {
    let mut settings: Vec<String> = [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "fsync=on",
        "full_page_writes=on",
        "synchronous_commit=on",
        "max_connections=100",
        "shared_buffers=128MB",
        // Compiling a query takes longer than the queries of this application.
        "jit=off",
        "timezone=UTC",
        "log_timezone=UTC",
    ]
    .map(str::to_owned)
    .to_vec();
    settings.push(format!("port={port}"));
    settings
}

/// An empty log; the one before is kept as `server.log.1`.
fn fresh_log(path: &Path) -> std::io::Result<File> {
    if path.exists() {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    File::options().create(true).append(true).mode(0o600).open(path)
}
