//! Requests at once.

use std::sync::Arc;

use actix_web::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::error::ApiError;

/// As many as requests may be served at once.
pub struct Seats(Arc<Semaphore>);

/// A place among them, until it is dropped.
pub struct Seat {
    _permit: OwnedSemaphorePermit,
}

impl Seats {
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS))))
    }

    /// None while all are taken.
    pub fn take(&self) -> Option<Seat> {
        Arc::clone(&self.0).try_acquire_owned().ok().map(|permit| Seat { _permit: permit })
    }
}

/// 503 that says when to come again.
pub fn no_seat(limit: usize) -> ApiError {
    let detail = format!("{limit} requests are being served already (http.max_in_flight); try again");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_busy", detail).retry_after(1)
}
