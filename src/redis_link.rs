//! A connection to Redis that may come and go.
//!
//! Nobody waits longer than a call's limit, and after one did, none tries again until a task in the
//! background has reached Redis again. An outage is logged once when it begins and once when it is over.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, RedisError, RedisResult, aio::MultiplexedConnection,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::Notify, task::JoinSet, time::timeout};

/// Longest wait of a connection attempt, for which nobody waits.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Between the end of a connection and the next attempt. Longer than a call
/// takes, so that no call on the old connection can end the new one.
const PAUSE: Duration = Duration::from_secs(2);

/// What the log says of an outage.
#[derive(Debug, Clone, Copy)]
pub struct Purpose {
    /// What Redis does, in the infinitive.
    pub does: &'static str,
    /// What holds during an outage.
    pub meanwhile: &'static str,
    /// What holds after it.
    pub again: &'static str,
}

/// A Redis server; it may come and go.
pub struct RedisLink {
    link: Arc<Link>,
    /// Connects; ends with this value.
    _connector: JoinSet<()>,
}

struct Link {
    client: Client,
    purpose: Purpose,
    /// None during an outage.
    connection: Mutex<Option<MultiplexedConnection>>,
    lost: Notify,
    /// A refusal (no memory, no permission) was logged since the connection was made.
    refused: AtomicBool,
}

impl RedisLink {
    /// Connects in the background, for which it needs a tokio runtime. Fails only for what is no Redis URL.
    pub fn open(url: &SecretString, purpose: Purpose) -> RedisResult<Self> {
        let link = Arc::new(Link {
            client: Client::open(url.expose_secret())?,
            purpose,
            connection: Mutex::default(),
            lost: Notify::new(),
            refused: AtomicBool::new(false),
        });
        let mut connector = JoinSet::new();
        connector.spawn(keep_connected(Arc::clone(&link)));
        Ok(Self { link, _connector: connector })
    }

    /// What calls are made on; none during an outage.
    pub fn connection(&self) -> Option<MultiplexedConnection> {
        self.link.connection().clone()
    }

    /// What a command gives within `limit`; none when Redis did not say.
    pub async fn command<T: FromRedisValue>(
        &self,
        mut connection: MultiplexedConnection,
        command: &redis::Cmd,
        limit: Duration,
    ) -> Option<T> {
        self.link.checked(timeout(limit, command.query_async(&mut connection)).await, limit)
    }

    /// The same for several commands, whose results are ignored; tells whether Redis took them.
    pub async fn commands(
        &self,
        mut connection: MultiplexedConnection,
        commands: &redis::Pipeline,
        limit: Duration,
    ) -> bool {
        let taken = timeout(limit, commands.query_async::<()>(&mut connection)).await;
        self.link.checked(taken, limit).is_some()
    }
}

impl Link {
    fn connection(&self) -> MutexGuard<'_, Option<MultiplexedConnection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a call gave; a failure is logged, and ends the connection unless Redis itself said no.
    fn checked<T>(
        &self,
        result: Result<RedisResult<T>, tokio::time::error::Elapsed>,
        limit: Duration,
    ) -> Option<T> {
        match result {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(error)) if is_refusal(&error) => {
                if !self.refused.swap(true, Relaxed) {
                    let Purpose { does, meanwhile, .. } = self.purpose;
                    tracing::warn!(%error, "Redis refuses to {does} ({error}); {meanwhile}");
                }
            }
            Ok(Err(error)) => self.end(&error.to_string()),
            Err(_) => self.end(&format!("no answer within {} ms", limit.as_millis())),
        }
        None
    }

    /// Only the first who notices an outage finds a connection to end.
    fn end(&self, reason: &str) {
        if self.connection().take().is_some() {
            tracing::warn!(reason, "Redis is lost ({reason}); {}", self.purpose.meanwhile);
            self.lost.notify_one();
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(Some(CONNECT_LIMIT));
        let attempt = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            redis::cmd("PING").query_async::<()>(&mut connection).await?;
            Ok(connection)
        };
        match timeout(CONNECT_LIMIT, attempt).await {
            Ok(connected) => connected.map_err(|error: RedisError| error.to_string()),
            Err(_) => Err(format!("no answer within {} ms", CONNECT_LIMIT.as_millis())),
        }
    }
}

/// Connects, waits until the connection is lost, and begins again.
async fn keep_connected(link: Arc<Link>) {
    // The first connection is no recovery, and a later one follows a loss that was logged.
    let mut down = false;
    loop {
        match link.connect().await {
            Ok(connection) => {
                link.refused.store(false, Relaxed);
                *link.connection() = Some(connection);
                if down {
                    tracing::info!("Redis is back: {}", link.purpose.again);
                }
                link.lost.notified().await;
            }
            Err(reason) if !down => {
                tracing::warn!(reason, "Redis cannot be reached ({reason}); {}", link.purpose.meanwhile);
            }
            Err(_) => {}
        }
        down = true;
        tokio::time::sleep(PAUSE).await;
    }
}

/// The connection is sound; Redis just does not do this.
fn is_refusal(error: &RedisError) -> bool {
    error.code().is_some() && !error.is_unrecoverable_error()
}
