//! The database files: created once, started many times.

use std::{
    fs::{self, File},
    io::{self, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use rand::Rng;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use crate::config::Home;

use super::{
    EmbeddedError,
    installation::Installation,
    off_thread,
    place::{self, Place},
    roles::{self, Access, Login},
    server::{self, Server},
};

/// A folder with a database, the build that serves it, and how to get in.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    place: Place,
    installation: Installation,
    admin_password: SecretString,
    application_password: SecretString,
}

impl Cluster {
    /// Chooses the folders, unpacks the build, makes the passwords. Needs no lock. Blocks.
    pub(super) fn locate(home: &Home, pg0: &Path) -> Result<Self, EmbeddedError> {
        let place = Place::choose(home, pg0)?;
        let installation = Installation::ensure(pg0, &place.installation)?;
        let admin_password = password(&place, Login::Admin)?;
        let application_password = password(&place, Login::Application)?;
        Ok(Self { place, installation, admin_password, application_password })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.place.data
    }

    pub(super) fn lock_path(&self) -> PathBuf {
        self.place.data.join("lock")
    }

    pub(super) fn url(&self, login: Login, port: u16) -> SecretString {
        let password = self.password(login).expose_secret();
        let (user, database) = (login.role(), roles::DATABASE);
        // Passwords are hexadecimal digits: nothing to escape.
        format!("postgresql://{user}:{password}@127.0.0.1:{port}/{database}").into()
    }

    /// Creates the database where it is missing. Needs the lock. Blocks.
    pub(super) fn prepare(&self) -> Result<(), EmbeddedError> {
        let files = self.files();
        match fs::read_to_string(files.join("PG_VERSION")) {
            Ok(found) => self.check_version(found.trim()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(),
            Err(error) => Err(EmbeddedError::io(&files, error)),
        }
    }

    /// Starts the server and sets its roles up. Needs the lock.
    pub(super) async fn run(&self) -> Result<(Server, u16), EmbeddedError> {
        self.stop_leftover().await?;
        let mut attempt = 1;
        let (server, port) = loop {
            let port = free_port(self.saved_port());
            let mut server = self.spawn(port)?;
            match server.ready(&self.login(Login::Admin, port)).await {
                Ok(()) => break (server, port),
                // A port that was taken meanwhile, or a predecessor that takes a moment longer to end.
                Err(_) if attempt < 3 && server.exited().is_some() => attempt += 1,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        };
        roles::set_up(&self.login(Login::Admin, port), &self.login(Login::Application, port)).await?;
        let path = self.port_path();
        fs::write(&path, port.to_string()).map_err(|error| EmbeddedError::io(&path, error))?;
        Ok((server, port))
    }

    fn spawn(&self, port: u16) -> Result<Server, EmbeddedError> {
        Server::spawn(&self.place, &self.installation, &self.files(), port)
    }

    /// The port of a server on this folder that lets the application in.
    pub(super) async fn accepting_port(&self) -> Option<u16> {
        let port = self.running_port()?;
        let login = self.login(Login::Application, port);
        roles::connect(&login).await.is_ok().then_some(port)
    }

    /// Ends a server that its ragway could not end.
    ///
    /// A process id in a file may belong to another program by now. Only a server
    /// that knows our password is stopped; one that is on its way down is awaited.
    async fn stop_leftover(&self) -> Result<(), EmbeddedError> {
        for _ in 0..600 {
            let Some(port) = self.running_port() else { break };
            match roles::connect(&self.login(Login::Admin, port).to_server()).await {
                Ok(_) => {
                    tracing::warn!(port, "stopping a PostgreSQL that an earlier ragway left running");
                    let cluster = self.clone();
                    off_thread(move || cluster.stop_by_pid_file()).await?;
                }
                Err(failure) if failure.is_passing() => {}
                Err(_) => break,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn stop_by_pid_file(&self) -> Result<(), EmbeddedError> {
        let program = self.installation.program("pg_ctl");
        let mut command = self.place.command(&program);
        self.installation.with_libraries(&mut command);
        command.args(["stop", "--silent", "--wait", "--timeout", "60", "--mode", "fast", "--pgdata"]);
        let output = command.arg(self.files()).output();
        let output = output.map_err(|error| EmbeddedError::io(&program, error))?;
        if output.status.success() {
            return Ok(());
        }
        let reason = format!("an earlier server could not be stopped: {}", said(&output));
        Err(EmbeddedError::NotStarted { reason, log: server::log_path(&self.place), tail: String::new() })
    }

    /// Line 4 of `postmaster.pid`; the file may be left over.
    fn running_port(&self) -> Option<u16> {
        let text = fs::read_to_string(self.files().join("postmaster.pid")).ok()?;
        text.lines().nth(3)?.trim().parse().ok()
    }

    fn check_version(&self, found: &str) -> Result<(), EmbeddedError> {
        let bundled = self.installation.major();
        if found == bundled {
            return Ok(());
        }
        Err(EmbeddedError::OtherVersion { folder: self.files(), found: found.to_owned(), bundled })
    }

    /// `initdb` into a temporary name: a database under its final name is whole.
    fn create(&self) -> Result<(), EmbeddedError> {
        tracing::info!("creating the database in {}", self.place.data.display());
        let part = self.place.data.join("cluster.part");
        match fs::remove_dir_all(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(EmbeddedError::io(&part, error));
            }
            _ => place::create(&part)?,
        }
        place::set_mode(&part, 0o700)?;
        self.place.hand_over(&part)?;
        let password = self.place.data.join("initdb.password");
        let written = write_private(&password, self.password(Login::Admin).expose_secret());
        written.map_err(|error| EmbeddedError::io(&password, error))?;
        self.place.hand_over(&password)?;
        let outcome = self.initdb(&part, &password);
        fs::remove_file(&password).map_err(|error| EmbeddedError::io(&password, error))?;
        outcome?;
        let files = self.files();
        fs::rename(&part, &files).map_err(|error| EmbeddedError::io(&files, error))?;
        let synced = File::open(&self.place.data).and_then(|folder| folder.sync_all());
        synced.map_err(|error| EmbeddedError::io(&self.place.data, error))
    }

    fn initdb(&self, folder: &Path, password: &Path) -> Result<(), EmbeddedError> {
        let program = self.installation.program("initdb");
        let mut command = self.place.command(&program);
        self.installation.with_libraries(&mut command);
        command.arg("--pgdata").arg(folder).arg("--pwfile").arg(password);
        command.args(["--username", Login::Admin.role(), "--auth", "scram-sha-256", "--data-checksums"]);
        // PostgreSQL's own rules for order and case: the same on every machine. Full-text
        // search still asks the C library for the case of letters, hence its UTF-8 locale.
        command.args(["--encoding", "UTF8", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]);
        command.args(["--locale", "C", "--lc-ctype", LC_CTYPE]);
        // One flush of the file system instead of a thousand of files: 1 s instead of 5 on a busy disk.
        command.args(["--sync-method", if cfg!(target_os = "linux") { "syncfs" } else { "fsync" }]);
        let output = command.output().map_err(|error| EmbeddedError::io(&program, error))?;
        if output.status.success() {
            return Ok(());
        }
        Err(EmbeddedError::Create { folder: self.place.data.clone(), reason: said(&output) })
    }

    fn login(&self, login: Login, port: u16) -> Access {
        Access::new(login, self.password(login).clone(), port)
    }

    fn password(&self, login: Login) -> &SecretString {
        match login {
            Login::Admin => &self.admin_password,
            Login::Application => &self.application_password,
        }
    }

    fn files(&self) -> PathBuf {
        self.place.data.join("cluster")
    }

    fn port_path(&self) -> PathBuf {
        self.place.data.join("port")
    }

    fn saved_port(&self) -> u16 {
        fs::read_to_string(self.port_path()).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

/// Name of the C library's locale with UTF-8 letters.
#[cfg(target_os = "macos")]
const LC_CTYPE: &str = "UTF-8";
#[cfg(not(target_os = "macos"))]
const LC_CTYPE: &str = "C.UTF-8";

/// The wished port if nobody listens there, else any free one.
fn free_port(wished: u16) -> u16 {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|it| it.local_addr());
    let address = bind(wished).or_else(|_| bind(0));
    address.map_or(wished, |address| address.port())
}

/// The password of a role; a random one the first time.
///
/// Several processes may be the first: a hard link, unlike a rename, does not
/// replace what another one has just made.
fn password(place: &Place, login: Login) -> Result<SecretString, EmbeddedError> {
    let path = place.data.join(format!("{}.password", login.role()));
    let make = || {
        let mut bytes = [0; 24];
        rand::rng().fill_bytes(&mut bytes);
        let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let part = path.with_extension(format!("{}.part", Uuid::now_v7()));
        write_private(&part, &password)?;
        let linked = fs::hard_link(&part, &path);
        fs::remove_file(&part)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => fs::read_to_string(&path),
        }
    };
    let read = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(),
        read => read,
    };
    read.map(SecretString::from).map_err(|error| EmbeddedError::io(&path, error))
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, content: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

/// What a failed program wrote.
fn said(output: &Output) -> String {
    let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    format!("{} ({})", String::from_utf8_lossy(text).trim(), output.status)
}

#[cfg(test)]
impl Cluster {
    /// A server on a port that need not be free: how its start ends.
    pub(super) async fn start_at(&self, port: u16) -> Result<(), EmbeddedError> {
        self.spawn(port)?.ready(&self.login(Login::Admin, port)).await
    }

    /// A server without the script that ends it with ragway.
    pub(super) fn unwatched_server(&self, port: u16) -> std::process::Command {
        let mut command = self.place.command(&self.installation.program("postgres"));
        self.installation.with_libraries(&mut command).arg("-D").arg(self.files());
        command.args(server::settings(port).iter().flat_map(|setting| ["-c", setting]));
        command
    }
}
