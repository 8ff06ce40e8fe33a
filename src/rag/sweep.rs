//! Removes what is out of date, a portion at a time.

use std::time::Duration;

use futures_util::future::{BoxFuture, Shared};

use crate::store::StoreError;

/// Ends background work; everybody who works on it has one.
pub(super) type Stop = Shared<BoxFuture<'static, ()>>;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(60);
/// Before the next portion, while there is more.
const PAUSE: Duration = Duration::from_secs(1);

/// Removes rows until `stop` is done. `remove` takes away as many as it is given at most, and says
/// how many they were.
pub(super) async fn sweep<R: Future<Output = Result<u64, StoreError>>>(
    what: &str,
    portion: i64,
    stop: Stop,
    remove: impl Fn(i64) -> R,
) {
    while stop.peek().is_none() {
        let more = match remove(portion).await {
            Ok(removed) => i64::try_from(removed).is_ok_and(|removed| removed >= portion),
            Err(error) => {
                tracing::debug!(%error, "{what} could not be removed: {error}");
                false
            }
        };
        let pause = if more { PAUSE } else { jittered(INTERVAL) };
        tokio::select! {
            () = stop.clone() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Replicas that start together do not ask together.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.75..1.25))
}
