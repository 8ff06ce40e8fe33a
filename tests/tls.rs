//! HTTPS: versions, protocols, certificates that change, files that cannot be used.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ragway::config::TlsFiles;
use reqwest::Certificate;

use crate::{
    cli,
    harness::{TestApp, eventually, temporary_folder},
};

/// Files of a new certificate for 127.0.0.1.
struct Issued {
    folder: PathBuf,
}

impl Issued {
    fn new() -> Self {
        let folder = temporary_folder().join(uuid::Uuid::now_v7().simple().to_string());
        fs::create_dir(&folder).unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(' '));
        openssl.args("-subj /CN=ragway -addext subjectAltName=IP:127.0.0.1".split(' '));
        openssl.args("-addext basicConstraints=critical,CA:FALSE -keyout key.pem -out cert.pem".split(' '));
        let output = openssl.current_dir(&folder).output().unwrap_or_else(|error| {
            panic!("openssl cannot be run ({error}): install it (apt-get install openssl)")
        });
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { folder }
    }

    fn files(&self) -> TlsFiles {
        TlsFiles { certificate: self.folder.join("cert.pem"), key: self.folder.join("key.pem") }
    }

    /// What trusts this certificate and nothing else.
    fn client(&self) -> reqwest::Client {
        let certificate = fs::read(self.files().certificate).unwrap();
        reqwest::Client::builder()
            .tls_certs_only([Certificate::from_pem(&certificate).unwrap()])
            .pool_max_idle_per_host(0)
            .build()
            .unwrap()
    }

    fn copy_to(&self, files: &TlsFiles) {
        fs::copy(self.files().certificate, &files.certificate).unwrap();
        fs::copy(self.files().key, &files.key).unwrap();
    }
}

async fn is_alive(client: &reqwest::Client, app: &TestApp) -> bool {
    let answer = client.get(format!("{}/health/live", app.url)).send().await;
    answer.is_ok_and(|answer| answer.status() == 200)
}

/// What `openssl s_client` says of a handshake with these arguments.
async fn handshake(app: &TestApp, arguments: &str) -> String {
    let mut openssl = tokio::process::Command::new("openssl");
    openssl.args(["s_client", "-connect", app.url.strip_prefix("https://").unwrap()]);
    let output = openssl.args(arguments.split(' ')).stdin(Stdio::null()).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn https_is_served_and_new_certificates_are_taken() {
    let (first, second) = (Issued::new(), Issued::new());
    let in_use = Issued::new();
    first.copy_to(&in_use.files());
    let app = TestApp::with(|setup| setup.tls = Some(in_use.files())).await;
    let answer = first.client().get(format!("{}/health/live", app.url)).send().await.unwrap();
    assert_eq!(answer.headers()["strict-transport-security"], "max-age=31536000");
    assert!(!is_alive(&second.client(), &app).await);

    let said = handshake(&app, "-alpn h2,http/1.1 -tls1_2").await;
    assert!(said.contains("ALPN protocol: h2") && said.contains("TLSv1.2"), "{said}");
    let said = handshake(&app, "-alpn http/1.1").await;
    assert!(said.contains("ALPN protocol: http/1.1") && said.contains("TLSv1.3"), "{said}");
    let said = handshake(&app, "-tls1_1 -cipher DEFAULT@SECLEVEL=0").await;
    assert!(said.contains("no peer certificate") && said.contains("alert"), "{said}");

    // A certificate whose key is another's: the one before stays.
    fs::copy(second.files().certificate, in_use.files().certificate).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert!(is_alive(&first.client(), &app).await);
    second.copy_to(&in_use.files());
    eventually("the new certificate is used", async || is_alive(&second.client(), &app).await).await;
    assert!(!is_alive(&first.client(), &app).await);
    app.stop().await;
}

#[tokio::test]
async fn plain_http_promises_nothing() {
    let app = TestApp::start().await;
    let answer = app.get("/health/live").send().await.unwrap();
    assert!(!answer.headers().contains_key("strict-transport-security"));
}

#[test]
fn files_that_cannot_be_used_are_named_at_start() {
    let (issued, other) = (Issued::new(), Issued::new());
    let TlsFiles { certificate, key } = issued.files();
    let home = tempfile::tempdir().unwrap();
    let refused = |variables: &[(&str, &Path)]| {
        let mut server = cli::ragway(home.path());
        let output = server.args(["serve", "--port", "0"]).envs(variables.iter().copied()).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&[("TLS_CERT", &certificate)]);
    assert!(said.contains("TLS_KEY: set it to the key's file"), "{said}");
    let nowhere = home.path().join("nowhere.pem");
    let said = refused(&[("TLS_CERT", &nowhere), ("TLS_KEY", &key)]);
    assert!(said.contains("TLS_CERT: ") && said.contains("nowhere.pem cannot be read"), "{said}");
    let said = refused(&[("TLS_CERT", &key), ("TLS_KEY", &key)]);
    assert!(said.contains("holds no certificate in PEM form"), "{said}");
    let said = refused(&[("TLS_CERT", &certificate), ("TLS_KEY", &certificate)]);
    assert!(said.contains("holds no private key in PEM form"), "{said}");
    let said = refused(&[("TLS_CERT", &certificate), ("TLS_KEY", &other.files().key)]);
    assert!(said.contains("does not belong to the certificate in"), "{said}");
}
