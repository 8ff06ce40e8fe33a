//! Files of the Hugging Face hub, or of a mirror with the same addresses.
//!
//! Plain HTTP: `{endpoint}/{repository}/resolve/{revision}/{file}`
//! (<https://huggingface.co/docs/hub/models-downloading>). The token goes to the
//! endpoint only: reqwest drops it where a redirect leads to another host.

use std::path::Path;

use futures_util::StreamExt;
use reqwest::{
    Client, Response, StatusCode,
    header::{CONTENT_RANGE, RANGE},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{fs::File, io::AsyncWriteExt};

use crate::config::PinnedFile;

use super::{
    error::FetchError,
    progress::{Progress, Transfer},
    verify::{self, Refusal},
};

/// The hub itself.
pub(super) const PUBLIC_ENDPOINT: &str = "https://huggingface.co";

/// How often a download is begun or continued in one go.
const ATTEMPTS: usize = 10;

/// A hub and the right to read from it.
#[derive(Clone)]
pub(super) struct Hub {
    client: Client,
    endpoint: String,
    token: Option<SecretString>,
}

impl Hub {
    pub(super) fn new(client: Client, endpoint: &str, token: Option<SecretString>) -> Self {
        Self { client, endpoint: endpoint.trim_end_matches('/').to_owned(), token }
    }

    /// The same client for another address.
    pub(super) fn at(self, endpoint: &str, token: Option<SecretString>) -> Self {
        Self::new(self.client, endpoint, token)
    }

    /// Fetches one file into `folder`, continuing an earlier attempt where the server allows it.
    pub(super) async fn fetch(
        &self,
        repository: &str,
        revision: &str,
        file: &PinnedFile,
        folder: &Path,
        progress: &Progress,
    ) -> Result<(), FetchError> {
        let url = format!("{}/{repository}/resolve/{revision}/{}", self.endpoint, file.name);
        let part = verify::part_of(folder, file);
        let resumed = self.download_whole(&url, file, &part, progress).await?;
        match promote(&part, folder, file, &url).await? {
            // A bad beginning, left by an earlier attempt, must not spoil the file for good.
            Err(_) if resumed => {
                self.download_whole(&url, file, &part, progress).await?;
                Ok(promote(&part, folder, file, &url).await??)
            }
            outcome => Ok(outcome?),
        }
    }

    /// [`Hub::download`], continued when the connection breaks, as long as that brings it further.
    async fn download_whole(
        &self,
        url: &str,
        file: &PinnedFile,
        part: &Path,
        progress: &Progress,
    ) -> Result<bool, FetchError> {
        let first = size_of(part).await;
        for _ in 1..ATTEMPTS {
            let before = size_of(part).await;
            match self.download(url, file, part, progress).await {
                Err(error) if size_of(part).await > before => {
                    tracing::info!("{error}; continuing");
                }
                outcome => return outcome.map(|resumed| resumed && first > 0),
            }
        }
        self.download(url, file, part, progress).await
    }

    /// Writes the rest of the file to `part`; says whether there was a beginning already.
    async fn download(
        &self,
        url: &str,
        file: &PinnedFile,
        part: &Path,
        progress: &Progress,
    ) -> Result<bool, FetchError> {
        let have = size_of(part).await;
        let response = self.request(url, have).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && have > 0 {
            // Nothing follows what is there: it is whole, or spoilt, and the hash will tell.
            return Ok(true);
        }
        let start = if continues_at(&response, have) { have } else { 0 };
        if !response.status().is_success() {
            return Err(FetchError::Http { url: url.to_owned(), reason: refusal(response.status()) });
        }
        let total = response.content_length().map(|rest| start + rest);
        let transfer = progress.download(file.name.clone(), start, total);
        let mut options = File::options();
        if start > 0 {
            options.append(true);
        } else {
            options.create(true).write(true).truncate(true);
        }
        let mut output = options.open(part).await.map_err(|error| FetchError::io(part, error))?;
        let copied = copy_body(response, &mut output, &transfer).await;
        // What arrived before a connection broke counts.
        output.flush().await.map_err(|error| FetchError::io(part, error))?;
        copied.map_err(|error| match error {
            CopyError::Read(error) => broken(url, error),
            CopyError::Write(error) => FetchError::io(part, error),
        })?;
        transfer.finish();
        Ok(start > 0)
    }

    async fn request(&self, url: &str, have: u64) -> Result<Response, FetchError> {
        let mut request = self.client.get(url);
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        request.send().await.map_err(|error| broken(url, error))
    }
}

enum CopyError {
    Read(reqwest::Error),
    Write(std::io::Error),
}

async fn copy_body(response: Response, output: &mut File, transfer: &Transfer) -> Result<(), CopyError> {
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(CopyError::Read)?;
        output.write_all(&chunk).await.map_err(CopyError::Write)?;
        transfer.add(chunk.len() as u64);
    }
    Ok(())
}

async fn size_of(path: &Path) -> u64 {
    tokio::fs::metadata(path).await.map_or(0, |metadata| metadata.len())
}

/// Whether the body goes on where the file on the disk ends.
fn continues_at(response: &Response, have: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {have}-")))
}

async fn promote(
    part: &Path,
    folder: &Path,
    file: &PinnedFile,
    url: &str,
) -> Result<Result<(), Refusal>, FetchError> {
    let (from, to, sha256) = (part.to_owned(), folder.join(&file.name), file.sha256.clone());
    let outcome = tokio::task::spawn_blocking(move || verify::promote(&from, &to, &sha256)).await?;
    let outcome = outcome.map_err(|error| FetchError::io(part, error))?;
    Ok(outcome.map_err(|why| Refusal::new(url.into(), why)))
}

fn refusal(status: StatusCode) -> String {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            format!("{status}; a private or gated repository wants a token in HF_TOKEN")
        }
        _ => status.to_string(),
    }
}

/// The innermost cause says what happened; the outer ones repeat the address.
fn broken(url: &str, error: reqwest::Error) -> FetchError {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let reason = if error.is_timeout() { "no answer in time".to_owned() } else { cause.to_string() };
    FetchError::Http { url: url.to_owned(), reason }
}
