//! The program as a person starts it.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::harness::{embedder, home, local_llm};

/// A home of its own for one test, with the downloads of all tests.
pub async fn own_home() -> tempfile::TempDir {
    // Fetched once, by this process, before the program looks for them.
    let _ = (embedder().await, local_llm().await);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(fs::canonicalize(home().cache).unwrap(), folder.path().join("cache")).unwrap();
    folder
}

pub fn ragway(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ragway"));
    command.env("RAGWAY_HOME", home).current_dir(home);
    for variable in
        ["DATABASE_URL", "DB_HOST", "RAGWAY_CONFIG", "RAGWAY_PROMPTS", "PORT", "HOST", "OPENAI_API_KEY"]
            .into_iter()
            .chain(["RAGWAY_AUTH", "JWT_SECRET", "JWT_PUBLIC_KEY", "JWT_JWKS", "JWT_ISSUER", "JWT_AUDIENCE"])
            .chain(["TLS_CERT", "TLS_KEY"])
    {
        command.env_remove(variable);
    }
    command
}

pub fn run(home: &Path, arguments: &[&str]) -> (Output, String, String) {
    let output = ragway(home).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

#[tokio::test]
async fn files_are_ingested_searched_and_asked() {
    let home = own_home().await;
    let notes = home.path().join("notes");
    fs::create_dir_all(notes.join("deep")).unwrap();
    fs::write(notes.join("fares.md"), "# Fares\n\nA bicycle costs 3 euros each way.").unwrap();
    fs::write(notes.join("deep/times.txt"), "The first ferry leaves Nordby at 06:40.").unwrap();
    fs::write(notes.join("picture.png"), b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", notes.join("gone.txt")).unwrap();
    let notes = notes.to_str().unwrap();

    let (output, out, err) = run(home.path(), &["ingest", notes]);
    assert_eq!(out.trim(), "2 created, 0 updated, 0 unchanged (2 passages), 2 failed", "{err}");
    assert!(!output.status.success());
    assert!(err.contains("picture.png") && err.contains("gone.txt"), "{err}");

    let (output, out, err) = run(home.path(), &["search", "bicycle", "--k", "1"]);
    assert!(output.status.success() && out.contains("3 euros"), "{out}{err}");

    let question = "What does a bicycle cost?";
    let (output, out, err) = run(home.path(), &["ask", question, "--explain", "--model", "extractive"]);
    assert!(output.status.success() && out.contains("“A bicycle costs 3 euros each way.” [1]"), "{out}{err}");
    assert!(out.contains("stages:") && out.contains("search"), "{out}");

    let (output, out, err) = run(home.path(), &["ask", question, "--collection", "none"]);
    assert!(!output.status.success() && err.contains("there is no collection `none`"), "{out}{err}");

    let filter = r#"{"type": "exists", "key": "none"}"#;
    let (output, out, err) = run(home.path(), &["search", "bicycle", "--filter", filter]);
    assert!(output.status.success() && out.contains("nothing found"), "{out}{err}");
    let (output, _, err) =
        run(home.path(), &["search", "bicycle", "--filter", "{\"type\": \"like\", \"key\": 1}"]);
    assert!(!output.status.success() && err.contains("unknown operator `like`; known are"), "{err}");

    let (output, out, _) = run(home.path(), &["doctor"]);
    assert!(output.status.success() && out.contains("schema up to date"), "{out}");
}

#[tokio::test]
async fn an_index_is_advised_built_and_measured() {
    let home = own_home().await;
    let index = |arguments: &[&str]| run(home.path(), &[&["index"], arguments].concat());
    let (output, out, err) = index(&["status"]);
    assert!(output.status.success() && out.contains("no collections"), "{out}{err}");
    fs::write(home.path().join("fares.md"), "# Fares\n\nA bicycle costs 3 euros each way.").unwrap();
    let (output, out, err) = run(home.path(), &["ingest", "fares.md"]);
    assert!(output.status.success(), "{out}{err}");
    let (_, out, err) = index(&["status"]);
    assert!(out.starts_with("default: 1 passages of 384 dimensions; shared hnsw (m 16"), "{out}{err}");
    let (_, out, err) = index(&["advise"]);
    assert!(out.contains("default: shared hnsw") && out.contains("one by one"), "{out}{err}");
    let (output, out, err) = index(&["rebuild", "--kind", "halfvec", "--m", "8", "--ef-search", "50"]);
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("own halfvec (m 8, ef_construction 64, ef_search 50)"), "{out}{err}");
    let (_, out, err) = index(&["rebuild", "--ef-search", "60"]);
    assert!(out.starts_with("searches look at 60 candidates now; the index is the same"), "{out}{err}");
    assert!(out.contains("own halfvec (m 8, ef_construction 64, ef_search 60)"), "{out}{err}");
    for more in [&[][..], &["--ef-search", "400"]] {
        let (_, out, err) = index(&[&["recall", "--queries", "5"], more].concat());
        assert!(out.contains("recall@10   1.0000, worst 1.0000"), "{out}{err}");
    }
    let (output, out, err) = index(&["field", "year"]);
    assert!(output.status.success() && out.contains("`year`"), "{out}{err}");
    let (output, out, err) = index(&["field", "year", "--drop"]);
    assert!(output.status.success() && out.contains("is gone"), "{out}{err}");
    let (output, out, err) = index(&["rebuild", "--kind", "shared"]);
    assert!(output.status.success() && out.contains("shared hnsw"), "{out}{err}");
    for (arguments, told) in [
        (&["rebuild", "--kind", "ivfflat"][..], "unknown index kind `ivfflat`; known are hnsw, halfvec"),
        (&["rebuild", "--kind", "hnsw", "--m", "500"], "m must be between 2 and 100"),
        (&["rebuild", "--kind", "shared", "--m", "8"], "fixed settings"),
        (&["rebuild", "none"], "no collection `none`"),
        (&["recall", "--ef-search", "2000"], "ef_search must be between 1 and 1000"),
        (&["field", "year", "--drop"], "has no index"),
    ] {
        let (output, _, err) = index(arguments);
        assert!(!output.status.success() && err.contains(told), "{arguments:?}: {err}");
    }
}

#[tokio::test]
async fn a_collection_goes_over_to_another_model_and_back() {
    let home = own_home().await;
    // The same weights pooled in another way: another space.
    let (_, entry) = ragway::config::BUILT_IN.split_once("[[embedder]]").unwrap();
    let (entry, _) = entry.split_once("[[embedder]]").unwrap();
    let second = entry.replacen("all-MiniLM-L6-v2", "minilm-cls", 1).replace("\"mean\"", "\"cls\"");
    let catalog = format!("{}\n[[embedder]]{second}", ragway::config::BUILT_IN);
    fs::write(home.path().join("models.toml"), catalog).unwrap();
    fs::write(home.path().join("fares.md"), "# Fares\n\nA bicycle costs 3 euros each way.").unwrap();
    let (output, out, err) = run(home.path(), &["ingest", "fares.md"]);
    assert!(output.status.success(), "{out}{err}");

    let (output, _, err) = run(home.path(), &["reembed", "default", "--to", "all-MiniLM-L6-v2"]);
    assert!(!output.status.success() && err.contains("nothing to do"), "{err}");
    let (output, out, err) = run(home.path(), &["reembed", "default", "--to", "minilm-cls"]);
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("read minilm-cls@") && out.contains("1 documents"), "{out}");
    let (_, out, err) = run(home.path(), &["reembed", "default", "--status"]);
    assert!(out.contains("cut over to minilm-cls@") && out.contains("1 of 1"), "{out}{err}");
    let (output, out, err) = run(home.path(), &["search", "bicycle", "--threshold=-1"]);
    assert!(output.status.success() && out.contains("3 euros"), "{out}{err}");
    let (_, out, err) = run(home.path(), &["reembed", "default", "--rollback"]);
    assert!(out.contains("read all-MiniLM-L6-v2@"), "{out}{err}");
    let (output, _, err) = run(home.path(), &["reembed", "default", "--finish"]);
    assert!(!output.status.success() && err.contains("not being re-embedded"), "{err}");
    let (output, _, err) = run(home.path(), &["reembed", "default"]);
    assert!(!output.status.success() && err.contains("--status"), "{err}");
}

#[tokio::test]
async fn the_demo_is_served_and_ctrl_c_stops_everything() {
    let home = own_home().await;
    let mut server = ragway(home.path())
        .args(["serve", "--demo", "--port", "0"])
        .env("RAGWAY_LOG", "text")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut seen = Vec::new();
    let url = loop {
        let line = lines.next().unwrap_or_else(|| panic!("it ended:\n{}", seen.join("\n")));
        if let Some((_, url)) = line.split_once("ask a question") {
            break url.trim().to_owned();
        }
        seen.push(line);
    };
    let rest = std::thread::spawn(move || lines.collect::<Vec<_>>());
    let samples: serde_json::Value =
        reqwest::get(format!("{url}ui/samples.json")).await.unwrap().json().await.unwrap();
    assert!(!samples["questions"].as_array().unwrap().is_empty());
    let documents: serde_json::Value =
        reqwest::get(format!("{url}api/v1/documents")).await.unwrap().json().await.unwrap();
    assert_eq!(documents["total"], ragway::demo::DOCUMENTS.len());

    // A command beside the running server uses the server's database.
    let (output, out, err) = run(home.path(), &["search", ragway::demo::QUESTIONS[0].question, "--k", "1"]);
    assert!(output.status.success() && !out.starts_with("nothing"), "{out}{err}");

    let postgres = postgres_of(home.path());
    assert!(Path::new(&format!("/proc/{postgres}")).exists());
    assert!(Command::new("kill").args(["-INT", &server.id().to_string()]).status().unwrap().success());
    assert!(server.wait().unwrap().success());
    assert!(rest.join().unwrap().iter().any(|line| line.contains("has stopped")));
    assert!(!Path::new(&format!("/proc/{postgres}")).exists(), "PostgreSQL outlived ragway");
}

/// Process id of the home's PostgreSQL.
fn postgres_of(home: &Path) -> String {
    let file = fs::read_to_string(home.join("data/postgres/cluster/postmaster.pid")).unwrap();
    file.lines().next().unwrap().trim().to_owned()
}

#[test]
fn mistakes_in_the_configuration_are_named() {
    let home = tempfile::tempdir().unwrap();
    let catalog = home.path().join("models.toml");
    let refused = |change: &dyn Fn(String) -> String| {
        fs::write(&catalog, change(ragway::config::BUILT_IN.to_owned())).unwrap();
        let (output, _, err) = run(home.path(), &["config", "show"]);
        assert!(!output.status.success());
        err
    };
    let err = refused(&|text| text.replace("max_texts", "max_text"));
    assert!(err.contains("unknown field `max_text`") && err.contains("line"), "{err}");
    let err = refused(&|text| text.replace("backends = [\"openai\"", "backends = [\"opemai\""));
    assert!(err.contains("routes.answer: unknown model `opemai`"), "{err}");
    let err = refused(&|text| {
        text.replace("origins = []", "origins = [\"*\"]").replace("credentials = false", "credentials = true")
    });
    assert!(err.contains("http.cors"), "{err}");
    fs::write(&catalog, ragway::config::BUILT_IN).unwrap();
    let output = ragway(home.path()).args(["serve"]).env("HOST", "0.0.0.0").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("--allow-unauthenticated"));
    let output = ragway(home.path())
        .args(["config", "show"])
        .env("DATABASE_URL", "postgres://u:sekret@db.example/x")
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("db.example") && !shown.contains("sekret"), "{shown}");
}
