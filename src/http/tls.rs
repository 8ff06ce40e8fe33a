//! HTTPS: the certificate, read again when its files change.

use std::{
    fmt,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::config::TlsFiles;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);

/// The certificate that new connections get.
pub struct Certificate {
    files: TlsFiles,
    current: RwLock<Arc<CertifiedKey>>,
}

/// Why files cannot be served with; names the variable and the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{variable}: {path} cannot be read: {error}")]
    Unreadable { variable: &'static str, path: String, error: std::io::Error },
    #[error("{variable}: {path} holds no {wanted} in PEM form")]
    Malformed { variable: &'static str, path: String, wanted: &'static str },
    #[error("TLS_KEY: {key} does not belong to the certificate in {certificate}: {reason}")]
    Mismatch { key: String, certificate: String, reason: rustls::Error },
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// The bytes of both files.
#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Certificate {
    /// Reads both files. Blocks.
    pub fn load(files: &TlsFiles) -> Result<Arc<Self>, TlsError> {
        let current = Contents::read(files)?.parse(files)?;
        Ok(Arc::new(Self { files: files.clone(), current: RwLock::new(Arc::new(current)) }))
    }

    /// For connections of TLS 1.2 or 1.3, which take the certificate from here.
    pub fn server_config(self: &Arc<Self>) -> Result<ServerConfig, TlsError> {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth();
        Ok(config.with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>))
    }

    /// Looks again and again whether the files have changed; does not end. What cannot be served with is
    /// told once, and the certificate before it stays.
    pub async fn keep_current(self: Arc<Self>) {
        let mut seen = self.look().await;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.look().await;
            if now == seen {
                continue;
            }
            match now.as_ref().map_err(Clone::clone).and_then(|contents| self.take(contents)) {
                Ok(()) => tracing::info!("new connections get the new certificate of TLS_CERT"),
                Err(error) => tracing::warn!(error, "the certificate stays as it was: {error}"),
            }
            seen = now;
        }
    }

    async fn look(&self) -> Result<Contents, String> {
        let files = self.files.clone();
        let read = tokio::task::spawn_blocking(move || Contents::read(&files)).await;
        read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    fn take(&self, contents: &Contents) -> Result<(), String> {
        let parsed = contents.parse(&self.files).map_err(|error| error.to_string())?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(parsed);
        Ok(())
    }
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |variable, path: &Path| {
            let path_shown = path.display().to_string();
            std::fs::read(path).map_err(|error| TlsError::Unreadable { variable, path: path_shown, error })
        };
        Ok(Self { certificate: read("TLS_CERT", &files.certificate)?, key: read("TLS_KEY", &files.key)? })
    }

    fn parse(&self, files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
        let malformed = |variable, path: &Path, wanted| TlsError::Malformed {
            variable,
            path: path.display().to_string(),
            wanted,
        };
        let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| malformed("TLS_CERT", &files.certificate, "certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key);
        let key = key.map_err(|_| malformed("TLS_KEY", &files.key, "private key"))?;
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|reason| TlsError::Mismatch {
            key: files.key.display().to_string(),
            certificate: files.certificate.display().to_string(),
            reason,
        })
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
    }
}
