//! Bodies that do not come, and bodies that come compressed.

use std::{cell::RefCell, future::poll_fn, io, rc::Rc, time::Duration};

use actix_web::{
    dev::Payload,
    error::PayloadError,
    http::header::{CONTENT_ENCODING, HeaderMap},
    web::Bytes,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use crate::http::error::ApiError;

/// For each so many bytes that have come a body gets a second more: 32 MiB over a slow line are no attack.
const BYTES_A_SECOND: u32 = 16 << 10;

/// 415 for a compressed body: a few bytes could become gigabytes.
pub fn check_coding(headers: &HeaderMap) -> Result<(), ApiError> {
    let coded =
        headers.get_all(CONTENT_ENCODING).find(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    coded.map_or(Ok(()), |coding| {
        let coding = coding.to_str().unwrap_or("what is not ASCII");
        Err(ApiError::unsupported_content_type(format!(
            "send the body as it is, not with `content-encoding: {coding}`"
        )))
    })
}

/// The body of a request, as whoever answers keeps it.
///
/// While it is kept actix closes the connection after a response if not all of the body has come. Were it dropped,
/// actix would go on reading a chunked one, for ever if it does not end.
pub struct Kept {
    _payload: Rc<RefCell<Payload>>,
}

/// The same body, which ends with an error of the kind `TimedOut` when it takes too long to come; to be kept until
/// the response has been sent.
pub fn timed(payload: Payload, limit_ms: u64) -> (Payload, Option<Kept>) {
    if matches!(payload, Payload::None) {
        return (payload, None);
    }
    let deadline = Instant::now() + Duration::from_millis(limit_ms);
    let shared = Rc::new(RefCell::new(payload));
    // Forms ask again after the end.
    let payload = Payload::Stream { payload: until(Rc::clone(&shared), deadline).fuse().boxed_local() };
    (payload, Some(Kept { _payload: shared }))
}

fn until(
    payload: Rc<RefCell<Payload>>,
    deadline: Instant,
) -> impl Stream<Item = Result<Bytes, PayloadError>> {
    stream::unfold(Some((payload, deadline)), async |state| {
        let (payload, deadline) = state?;
        let next = poll_fn(|context| payload.borrow_mut().poll_next_unpin(context));
        match timeout_at(deadline, next).await {
            Ok(Some(Ok(bytes))) => {
                let earned = Duration::from_secs_f64(bytes.len() as f64 / f64::from(BYTES_A_SECOND));
                Some((Ok(bytes), Some((payload, deadline + earned))))
            }
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Ok(None) => None,
            Err(_) => Some((Err(PayloadError::Io(io::ErrorKind::TimedOut.into())), None)),
        }
    })
}
