//! A streaming replica that answers searches, and one that takes over.

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use ragway::store::{Store, StoreError, embedded::EmbeddedPostgres, migrate};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};
use url::Url;
use uuid::Uuid;

use crate::harness::{
    TestApp, another_server, catalog, eventually, execute, fresh_database, good, temporary_folder,
};

/// Runs its arguments until its input ends, which it does when the test has ended in whatever way.
const UNTIL_INPUT_ENDS: &str = r#""$@" & server=$!; read -r _; kill -INT "$server"; wait "$server""#;

/// A copy of a server that follows it.
struct Standby {
    files: PathBuf,
    port: u16,
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
    async fn of(primary: &EmbeddedPostgres) -> Self {
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

    fn start(&mut self) {
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

    async fn stop(&mut self) {
        let (mut child, input) = self.running.take().unwrap();
        drop(input);
        tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    }

    /// The same login there.
    fn url(&self, of_primary: &SecretString) -> SecretString {
        let mut url = Url::parse(of_primary.expose_secret()).unwrap();
        url.set_port(Some(self.port)).unwrap();
        url.to_string().into()
    }

    async fn ready(&self, url: &SecretString) {
        let url = self.url(url);
        eventually("the standby lets in", async || {
            tokio_postgres::connect(url.expose_secret(), NoTls).await.is_ok()
        })
        .await;
    }
}

async fn connect(url: &SecretString) -> Client {
    let (client, connection) = tokio_postgres::connect(url.expose_secret(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Whether a search is answered while the primary lets nobody read passages.
async fn answered_without_primary(app: &TestApp, search: Value) -> bool {
    let client = connect(&app.admin_url).await;
    client.batch_execute("BEGIN; LOCK TABLE passages IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let search = app.post("/api/v1/search").json(&search).timeout(Duration::from_secs(3)).send().await;
    client.batch_execute("ROLLBACK").await.unwrap();
    search.is_ok_and(|response| response.status() == 200)
}

/// The same of a replica that works: it must not take over the lock.
async fn replica_answers(app: &TestApp, replica: &SecretString, query: &str) -> bool {
    pause(replica).await;
    let answered = answered_without_primary(app, json!({"query": query})).await;
    execute(replica, "SELECT pg_wal_replay_resume()").await;
    answered
}

/// Lets the replica stay where it is.
async fn pause(replica: &SecretString) {
    execute(replica, "SELECT pg_wal_replay_pause()").await;
    let client = connect(replica).await;
    eventually("replay stands", async || {
        let state = client.query_typed_one("SELECT pg_get_wal_replay_pause_state()", &[]).await.unwrap();
        state.get::<_, String>(0) == "paused"
    })
    .await;
}

/// What a search finds first.
async fn first(app: &TestApp, query: &str) -> String {
    let found = good(app.search(json!({"query": query})).await).await;
    found["results"][0]["external_id"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_replica_answers_searches_and_none_misses_what_was_stored_before() {
    let primary = another_server().await;
    let (url, admin_url) = (primary.url(), primary.admin_url());
    migrate(&admin_url, Some("ragway")).await.unwrap();
    let mut standby = Standby::of(&primary).await;
    standby.ready(&url).await;
    let replica = standby.url(&admin_url);
    let app = TestApp::with(|setup| {
        setup.database = Some((url.clone(), admin_url.clone()));
        setup.replica_url = Some(standby.url(&url));
    })
    .await;
    app.store_ferry().await;
    eventually("the replica answers", async || replica_answers(&app, &replica, "bicycle").await).await;
    assert_eq!(first(&app, "What does a bicycle cost?").await, "fares");

    // A replica that is behind does not answer for what it lacks, but for other collections it does.
    good(app.post("/api/v1/collections").json(&json!({"name": "other"})).send().await.unwrap()).await;
    app.store_in("other", "The saloon has forty seats.").await;
    eventually("all is there", async || {
        let there = connect(&replica).await.query_typed_one("SELECT count(*) FROM documents", &[]).await;
        there.unwrap().get::<_, i64>(0) == 4
    })
    .await;
    pause(&replica).await;
    let winter = json!({"content": "The winter ferry has snow chains.", "external_id": "winter"});
    let stored = app.store(winter.clone()).await;
    assert_eq!(first(&app, "snow chains in winter").await, "winter");
    let path = format!("/api/v1/documents/{}", stored["id"].as_str().unwrap());
    assert!(app.delete(&path).send().await.unwrap().status().is_success());
    assert_ne!(first(&app, "snow chains in winter").await, "winter");
    app.store(winter).await;
    assert!(!answered_without_primary(&app, json!({"query": "bicycle"})).await, "it lacks three changes");
    assert!(answered_without_primary(&app, json!({"query": "seats", "collection": "other"})).await);
    execute(&replica, "SELECT pg_wal_replay_resume()").await;
    eventually("it answers again", async || replica_answers(&app, &replica, "snow").await).await;

    // Gone, the primary does its work; back, it is used again.
    standby.stop().await;
    assert_eq!(first(&app, "snow chains in winter").await, "winter");
    assert!(!answered_without_primary(&app, json!({"query": "snow"})).await);
    standby.start();
    standby.ready(&url).await;
    eventually("it is used again", async || replica_answers(&app, &replica, "snow").await).await;

    // The application goes on with a server that has taken over.
    let both = url.expose_secret().replacen(
        &format!(":{}/", port(&url)),
        &format!(":{},127.0.0.1:{}/", port(&url), standby.port),
        1,
    );
    let either = SecretString::from(format!("{both}?target_session_attrs=read-write"));
    let surviving = TestApp::with(|setup| setup.database = Some((either, admin_url.clone()))).await;
    assert_eq!(first(&surviving, "snow chains in winter").await, "winter");
    primary.stop().await.unwrap();
    execute(&standby.url(&admin_url), "SELECT pg_promote()").await;
    eventually("it serves again", async || {
        surviving.search(json!({"query": "snow chains in winter"})).await.status() == 200
    })
    .await;
    surviving.store(json!({"content": "The new harbour is open.", "external_id": "harbour"})).await;
    assert_eq!(first(&surviving, "Is the new harbour open?").await, "harbour");
    standby.stop().await;
}

fn port(url: &SecretString) -> u16 {
    Url::parse(url.expose_secret()).unwrap().port().unwrap()
}

#[tokio::test]
async fn another_database_is_no_replica() {
    let ((url, _), (other, _)) = (fresh_database().await, fresh_database().await);
    let settings = catalog().database;
    let refused = Store::connect(&url, &settings).await.unwrap().with_replica(&other, &settings).await;
    assert!(matches!(refused, Err(StoreError::NotAReplica)));
    // One that cannot be reached may come later.
    let gone = SecretString::from("postgresql://ragway:x@127.0.0.1:1/ragway");
    let store = Store::connect(&url, &settings).await.unwrap().with_replica(&gone, &settings).await.unwrap();
    store.ping().await.unwrap();
}
