//! Waiting for a server that is not there yet.

use std::time::{Duration, Instant};

use secrecy::SecretString;
use tokio::time::{sleep, timeout};
use tokio_postgres::NoTls;

use super::{StoreError, describe, parse_url};

/// Between the first two attempts; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// Longest wait for one attempt.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Waits until the server takes connections, `limit` at most; says in the log that it waits.
///
/// Fails with [`StoreError::Unavailable`]: at once where the server refuses this role or database, which
/// waiting does not change.
pub async fn wait_until_reachable(url: &SecretString, limit: Duration) -> Result<(), StoreError> {
    let end = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        let reason = match attempt(url).await {
            Ok(()) => return Ok(()),
            Err(StoreError::Unavailable(reason)) => reason,
            Err(StoreError::Statement(error)) => return Err(StoreError::Unavailable(describe(&error))),
            Err(error) => return Err(error),
        };
        if Instant::now() + pause > end {
            return Err(StoreError::Unavailable(format!("{reason} (tried for {} s)", limit.as_secs())));
        }
        tracing::warn!(error = reason, "waiting for the database: {reason}");
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn attempt(url: &SecretString) -> Result<(), StoreError> {
    let config = parse_url(url)?;
    let connected = timeout(ATTEMPT, config.connect(NoTls)).await;
    let (client, connection) =
        connected.map_err(|_| StoreError::Unavailable("it does not answer".into()))??;
    let driver = tokio::spawn(connection);
    drop(client);
    // Ends once the server has been told.
    let _ = driver.await;
    Ok(())
}
