//! No secret reaches a log, however much is logged.

use std::{
    fs,
    io::Read,
    process::{Command, Output, Stdio},
};

use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::SECRET;
use crate::cli::{own_home, ragway};

fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let shown =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output, shown)
}

/// A command of one that signs tokens with the tests' secret.
fn with_secret(home: &TempDir) -> Command {
    let mut command = ragway(home.path());
    command.env("JWT_SECRET", SECRET).env("RUST_LOG", "trace").env("RAGWAY_LOG", "json");
    command
}

#[tokio::test]
async fn a_server_that_logs_everything_shows_no_key_and_no_token() {
    let home = own_home().await;
    let make = ["keys", "create", "crawler", "--permissions", "embedding,search", "--expires-in", "1d"];
    let (output, _) = run(ragway(home.path()).args(make).env("USER", "tester"));
    let key = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert!(output.status.success() && key.starts_with("ragway_"), "{key}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("RAGWAY_AUTH=required") && told.contains("may: embedding, search"), "{told}");
    let (output, _) =
        run(ragway(home.path()).args(["token", "--permissions", "admin"]).env("JWT_SECRET", SECRET));
    let token = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert_eq!(token.split('.').count(), 3, "{token}");

    let log = home.path().join("log");
    let mut server = with_secret(&home)
        .args(["serve", "--port", "0"])
        .stdout(fs::File::create(&log).unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = server.stderr.take().unwrap();
    let mut seen = Vec::new();
    let url = loop {
        let mut chunk = [0; 1024];
        let count = stderr.read(&mut chunk).unwrap();
        assert!(count > 0, "it ended: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&seen);
        if let Some(rest) = text.split("ask a question").nth(1).filter(|rest| rest.contains('\n')) {
            break rest.lines().next().unwrap().trim().trim_end_matches('/').to_owned();
        }
    };
    let client = Client::new();
    let embed = client.post(format!("{url}/api/v1/embed")).json(&json!({"texts": ["a"]}));
    let embed = embed.bearer_auth(&key).send().await.unwrap();
    assert_eq!(embed.status(), 200);
    let usage = client.get(format!("{url}/api/v1/usage")).header("x-api-key", &token).send().await.unwrap();
    assert_eq!(usage.status(), 200, "{:?}", usage.json::<Value>().await);
    let forged = format!("{token}x");
    let refused = client.get(format!("{url}/api/v1/usage")).bearer_auth(&forged).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    assert!(Command::new("kill").args(["-INT", &server.id().to_string()]).status().unwrap().success());
    stderr.read_to_end(&mut seen).unwrap();
    assert!(server.wait().unwrap().success());

    let logged = format!("{}{}", fs::read_to_string(&log).unwrap(), String::from_utf8_lossy(&seen));
    assert!(logged.contains("/api/v1/embed") && logged.contains("not let in"), "{logged}");
    assert!(logged.contains("\"level\":10"), "nothing was traced");
    for secret in [SECRET, &key, &key["ragway_".len()..], &token, token.rsplit('.').next().unwrap()] {
        let line = logged.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "a secret is in the log: {line:?}");
    }
}

#[tokio::test]
async fn keys_are_listed_and_revoked_and_the_log_shows_it() {
    let home = own_home().await;
    let ragway = |arguments: &[&str]| {
        let (output, shown) = run(ragway(home.path()).args(arguments).env("USER", "tester"));
        (output.status.success(), shown)
    };
    assert_eq!(ragway(&["keys", "list"]), (true, "there are no keys\n".into()));
    assert_eq!(ragway(&["audit"]), (true, "nothing was administered yet\n".into()));
    let (good, shown) = ragway(&["keys", "create", "crawler", "--permissions", "ingest"]);
    let key = shown.lines().next().unwrap().to_owned();
    assert!(good && shown.contains("It is not shown again"), "{shown}");
    let (good, listed) = ragway(&["keys", "list", "--tenant", "default"]);
    assert!(good && !listed.contains(&key), "{listed}");
    let id = listed.split_whitespace().next().unwrap();
    assert!(listed.contains("default  ingest") && listed.ends_with("never expires  crawler\n"), "{listed}");
    assert!(ragway(&["keys", "revoke", id]).0);
    let (good, again) = ragway(&["keys", "revoke", id]);
    assert!(!good && again.contains("revoked before"), "{again}");
    assert!(ragway(&["keys", "list"]).1.contains("  revoked 20"));
    let (_, audited) = ragway(&["audit"]);
    let lines: Vec<&str> = audited.lines().collect();
    assert!(
        lines[0].contains("command line of tester  key.create  key")
            && lines[0].contains("(crawler): ingest")
    );
    assert!(lines[1].contains(&format!("key.revoke  key {id}  done")) && lines.len() == 2, "{audited}");

    for (arguments, words) in [
        (&["keys", "create", "x", "--permissions", "root"][..], "there are embedding, search"),
        (&["keys", "create", "x"], "--permissions"),
        (&["keys", "create", " ", "--permissions", "ask"], "1 to 100 characters"),
        (&["keys", "create", "x", "--permissions", "ask", "--tenant", "none"], "there is no tenant `none`"),
        (&["keys", "create", "x", "--permissions", "ask", "--expires-in", "soon"], "write 90d"),
        (&["token", "--permissions", "ask"], "JWT_SECRET, which is not set"),
    ] {
        let (good, shown) = ragway(arguments);
        assert!(!good && shown.contains(words), "{arguments:?}: {shown}");
    }
}

#[test]
fn who_listens_for_the_network_asks_who_comes_or_warns() {
    let home = tempfile::tempdir().unwrap();
    let refused = |command: &mut Command| {
        let (output, shown) = run(command.args(["serve", "--host", "0.0.0.0", "--port", "0"]));
        assert!(!output.status.success());
        shown
    };
    let shown = refused(&mut ragway(home.path()));
    assert!(shown.contains("RAGWAY_AUTH=required") && shown.contains("--allow-unauthenticated"), "{shown}");
    let shown = refused(ragway(home.path()).env("JWT_SECRET", "short"));
    assert!(shown.contains("JWT_SECRET: has 5 bytes"), "{shown}");
    // An address that no machine has, so that it ends after it has warned.
    let warns = |command: &mut Command| {
        let arguments = ["serve", "--host", "192.0.2.1", "--port", "0", "--allow-unauthenticated"];
        let shown = run(command.args(arguments)).1;
        assert!(shown.contains("cannot listen on 192.0.2.1"), "{shown}");
        shown.contains("nobody has to say who they are")
    };
    assert!(warns(&mut ragway(home.path())));
    assert!(!warns(ragway(home.path()).env("RAGWAY_AUTH", "required")));
    let shown = run(with_secret(&home).args(["config", "show"])).1;
    assert!(shown.contains("JWT_SECRET      (set)") && !shown.contains(SECRET), "{shown}");
}
