//! The HTTP client that batches of spans leave by.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use tokio::runtime::Handle;

/// A client of the collector. Its requests run on the runtime in which it was made: the exporter's own
/// thread has none.
#[derive(Debug)]
pub(super) struct Collector {
    http: reqwest::Client,
    runtime: Handle,
    failing: Arc<AtomicBool>,
}

impl Collector {
    /// `timeout` is for a batch.
    pub fn new(endpoint: &url::Url, timeout: Duration) -> reqwest::Result<Self> {
        crate::tls::install();
        let http = reqwest::Client::builder().timeout(timeout);
        let is_here = matches!(endpoint.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let http = if is_here { http.no_proxy() } else { http };
        Ok(Self { http: http.build()?, runtime: Handle::current(), failing: Arc::default() })
    }
}

impl HttpClient for Collector {
    // As the trait's macro writes it.
    fn send_bytes<'life, 'future>(
        &'life self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'future>>
    where
        'life: 'future,
        Self: 'future,
    {
        let sent = self.runtime.spawn(send(self.http.clone(), request));
        let failing = Arc::clone(&self.failing);
        Box::pin(async move {
            let answer = sent.await?;
            tell(&failing, &answer);
            answer
        })
    }
}

async fn send(http: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let answer = http.execute(request.try_into()?).await.map_err(reqwest::Error::without_url)?;
    let status = answer.status();
    let headers = answer.headers().clone();
    let mut response = Response::new(answer.bytes().await.map_err(reqwest::Error::without_url)?);
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Ok(response)
}

/// An outage is told once, and its end.
fn tell(failing: &AtomicBool, answer: &Result<Response<Bytes>, HttpError>) {
    let error = match answer {
        Ok(response) if response.status().is_success() => None,
        Ok(response) => Some(response.status().to_string()),
        Err(error) => Some(causes(error.as_ref())),
    };
    match (error, failing.load(Ordering::Relaxed)) {
        (Some(error), false) => {
            tracing::warn!(%error, "the collector does not take traces, requests are served as before: {error}");
            failing.store(true, Ordering::Relaxed);
        }
        (None, true) => {
            tracing::info!("the collector takes traces again");
            failing.store(false, Ordering::Relaxed);
        }
        (Some(_), true) | (None, false) => {}
    }
}

fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
