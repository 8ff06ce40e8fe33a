//! A streaming replica of a server, for tests of several.

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
};

use ragway::store::embedded::EmbeddedPostgres;
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::{Client, NoTls};
use url::Url;
use uuid::Uuid;

use crate::harness::{eventually, temporary_folder};

/// Runs its arguments until its input ends, which it does when the test has ended in whatever way.
const UNTIL_INPUT_ENDS: &str = r#""$@" & server=$!; read -r _; kill -INT "$server"; wait "$server""#;

/// A copy of a server that follows it.
pub struct Standby {
    files: PathBuf,
    pub port: u16,
    programs: Programs,
    running: Option<(Child, ChildStdin)>,
}

/// The programs of a server's build, run by its account.
struct Programs {
    folder: PathBuf,
    user: u32,
    group: u32,
}

impl Programs {
    async fn of(server: &EmbeddedPostgres) -> Self {
        let client = connect(&server.admin_url()).await;
        let row = client
            .query_typed_one(
                "SELECT setting, current_setting('data_directory') FROM pg_config WHERE name = 'BINDIR'",
                &[],
            )
            .await
            .unwrap();
        let data = fs::metadata(row.get::<_, String>(1)).unwrap();
        Self { folder: row.get::<_, String>(0).into(), user: data.uid(), group: data.gid() }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let libraries = self.folder.parent().unwrap().join("lib");
        command.env("LD_LIBRARY_PATH", &libraries).env("DYLD_LIBRARY_PATH", libraries).current_dir("/");
        // As root PostgreSQL does not run.
        if fs::metadata(temporary_folder()).unwrap().uid() != self.user {
            command.uid(self.user).gid(self.group);
        }
        command
    }

    fn path(&self, program: &str) -> String {
        self.folder.join(program).display().to_string()
    }
}

impl Standby {
    pub async fn of(primary: &EmbeddedPostgres) -> Self {
        let programs = Programs::of(primary).await;
        let files = temporary_folder().join(Uuid::now_v7().simple().to_string());
        fs::create_dir(&files).unwrap();
        // PostgreSQL wants it closed.
        fs::set_permissions(&files, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&files, Some(programs.user), Some(programs.group)).unwrap();
        let mut copy = programs.command(&programs.path("pg_basebackup"));
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--pgdata"]).arg(&files);
        copy.arg("--dbname").arg(primary.admin_url().expose_secret());
        let copied = tokio::process::Command::from(copy).output().await.unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut standby = Self { files, port, programs, running: None };
        standby.start();
        standby
    }

    pub fn start(&mut self) {
        let mut command = self.programs.command("/bin/sh");
        command.args(["-c", UNTIL_INPUT_ENDS, "sh", &self.programs.path("postgres"), "-D"]).arg(&self.files);
        let port = format!("port={}", self.port);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", &port] {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        self.running = Some((child, input));
    }

    pub async fn stop(&mut self) {
        let (mut child, input) = self.running.take().unwrap();
        drop(input);
        tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    }

    /// The same login there.
    pub fn url(&self, of_primary: &SecretString) -> SecretString {
        let mut url = Url::parse(of_primary.expose_secret()).unwrap();
        url.set_port(Some(self.port)).unwrap();
        url.to_string().into()
    }

    pub async fn ready(&self, url: &SecretString) {
        let url = self.url(url);
        eventually("the standby lets in", async || {
            tokio_postgres::connect(url.expose_secret(), NoTls).await.is_ok()
        })
        .await;
    }
}

pub async fn connect(url: &SecretString) -> Client {
    let (client, connection) = tokio_postgres::connect(url.expose_secret(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
