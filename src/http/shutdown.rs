//! A server's way to its end.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use actix_web::{
    Error, ResponseError,
    body::{BodySize, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    error::InternalError,
    http::{ConnectionType, StatusCode},
    middleware::Next,
    web::{self, Bytes},
};
use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture, stream};
use tokio::sync::watch;

use super::{
    Gateway,
    compat::OpenAiError,
    error::ApiError,
    observe::{REQUEST_ID, request_id},
};
use crate::models::ModelError;

/// What responses to what is ended may take to be written.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// How far it is, for everybody who serves; cheap to clone.
#[derive(Clone)]
pub struct Shutdown {
    phase: watch::Sender<Phase>,
    /// Requests whose responses have not been written.
    open: Arc<AtomicUsize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Still serving, but it tells everybody to go elsewhere.
    Leaving,
    /// What has not ended is ended.
    Over,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { phase: watch::Sender::new(Phase::Serving), open: Arc::default() }
    }
}

impl Shutdown {
    /// From now on the server is not ready, and closes each connection behind a response.
    pub fn leave(&self) {
        self.phase.send_replace(Phase::Leaving);
    }

    /// Ends what has not ended: requests with 503, streams with an error event.
    pub fn end(&self) {
        self.phase.send_replace(Phase::Over);
    }

    /// Whether the server is to be asked nothing more.
    pub fn is_leaving(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    /// Done when no request has been open for so long.
    pub async fn idle_for(&self, time: Duration) {
        let mut since = Instant::now();
        while since.elapsed() < time {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if self.open.load(Ordering::Relaxed) > 0 {
                since = Instant::now();
            }
        }
    }

    /// A stream that has `last` as its last item when the server ends before it does.
    pub fn bound<T>(&self, items: impl Stream<Item = T> + 'static, last: T) -> impl Stream<Item = T> + 'static
    where
        T: 'static,
    {
        let state = Some((items.boxed_local(), self.over(), last));
        stream::unfold(state, |state| async {
            let (mut items, mut over, last) = state?;
            tokio::select! {
                biased;
                item = items.next() => item.map(|item| (item, Some((items, over, last)))),
                () = &mut over => Some((last, None)),
            }
        })
    }

    fn over(&self) -> BoxFuture<'static, ()> {
        let mut phase = self.phase.subscribe();
        async move {
            if phase.wait_for(|phase| *phase == Phase::Over).await.is_err() {
                // The server is gone, and nothing of it is to be ended any more.
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }
}

/// The error that ends a stream.
pub fn stopping() -> ModelError {
    let reason = "this server stops; send the request again".to_owned();
    ModelError::Unavailable { model: "answer".into(), reason }
}

/// Middleware: ends what the server's end does not wait for, and tells clients to close.
pub async fn bound(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let Some(gateway) = request.app_data::<web::Data<Gateway>>().cloned() else {
        return Err(ApiError::internal("the server has no gateway").into());
    };
    let shutdown = &gateway.shutdown;
    let open = Open::of(shutdown);
    let path = request.path().to_owned();
    let mut response = tokio::select! {
        biased;
        response = next.call(request) => response?,
        () = shutdown.over() => return Err(cut_off(&path)),
    };
    if shutdown.is_leaving() {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response.map_body(|_, body| Counted { body: body.boxed(), _open: open }))
}

/// 503 in the route's own shape.
fn cut_off(path: &str) -> Error {
    tracing::warn!(path, "a request was not done when the server had to end: {path}");
    let detail = "this server stops and cannot end the request; send it again, another one may take it";
    let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", detail).retry_after(1);
    let mut response = match path.starts_with("/v1/") {
        true => OpenAiError::from(error).error_response(),
        false => error.error_response(),
    };
    if let Ok(id) = request_id().parse() {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response.head_mut().set_connection_type(ConnectionType::Close);
    InternalError::from_response("the server stops", response).into()
}

/// A request, until its response has been written or dropped.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn of(shutdown: &Shutdown) -> Self {
        shutdown.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&shutdown.open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Counted {
    body: BoxBody,
    _open: Open,
}

impl MessageBody for Counted {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}
