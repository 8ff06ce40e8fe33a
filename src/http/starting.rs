//! What is answered while the server starts, on the same port.

use std::{io, net::TcpListener};

use actix_web::{
    App, HttpResponse, HttpServer, ResponseError,
    dev::ServerHandle,
    http::{KeepAlive, StatusCode},
    web,
};
use rustls::ServerConfig;
use tokio::task::JoinHandle;

use super::error::ApiError;

/// Answers in place of a server that is not there yet: the process lives, and is not ready.
pub struct Starting {
    handle: ServerHandle,
    task: JoinHandle<io::Result<()>>,
}

impl Starting {
    /// Serves on a copy of the listener, until [`Starting::stop`].
    pub fn serve(listener: &TcpListener, tls: Option<ServerConfig>) -> io::Result<Self> {
        let server = HttpServer::new(|| {
            App::new()
                .route("/health/live", web::get().to(live))
                .default_service(web::to(|| async { not_ready().error_response() }))
        });
        // Nobody is to stay on a connection that ends soon.
        let server = server.keep_alive(KeepAlive::Disabled).workers(1).disable_signals().shutdown_timeout(1);
        let listener = listener.try_clone()?;
        let server = match tls {
            Some(tls) => server.listen_rustls_0_23(listener, tls)?,
            None => server.listen(listener)?,
        };
        let server = server.run();
        let handle = server.handle();
        Ok(Self { handle, task: tokio::spawn(server) })
    }

    /// Ends when what was asked has been answered. Who connects meanwhile waits for the next server.
    pub async fn stop(self) -> io::Result<()> {
        self.handle.stop(true).await;
        self.task.await?
    }
}

async fn live() -> HttpResponse {
    HttpResponse::Ok().json(super::health::Probe::ALIVE)
}

fn not_ready() -> ApiError {
    let detail = "ragway starts: it waits for its database or loads its models; the log says which";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "starting", detail).retry_after(2)
}
