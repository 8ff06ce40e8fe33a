//! Vectors in Redis, shared by all replicas.
//!
//! No request waits longer than [`LOOKUP_LIMIT`] for Redis, and after one did,
//! none tries again until a task in the background has reached it. An outage is
//! logged once when it begins and once when it is over.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult, aio::MultiplexedConnection};
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::Notify, task::JoinSet, time::timeout};
use uuid::Uuid;

use super::{CachedVector, is_sound, prefix_of};

/// Longest wait of a request.
const LOOKUP_LIMIT: Duration = Duration::from_millis(100);
/// Longest wait of a write or a connection attempt, for which nobody waits.
const WRITE_LIMIT: Duration = Duration::from_secs(1);
/// Longest wait for each answer while vectors are removed.
const FORGET_LIMIT: Duration = Duration::from_secs(10);
/// Between the end of a connection and the next attempt. Longer than a write
/// takes, so that no call on the old connection can end the new one.
const PAUSE: Duration = Duration::from_secs(2);

/// A Redis server; it may come and go.
pub struct RedisTier {
    link: Arc<Link>,
    ttl: Duration,
    /// Connects; ends with this value.
    _connector: JoinSet<()>,
}

struct Link {
    client: Client,
    /// None during an outage.
    connection: Mutex<Option<MultiplexedConnection>>,
    lost: Notify,
    /// A refusal (no memory, no permission) was logged since the connection was made.
    refused: AtomicBool,
}

impl RedisTier {
    /// Connects in the background. Fails only for what is no Redis URL.
    pub fn open(url: &SecretString, ttl: Duration) -> RedisResult<Self> {
        let link = Arc::new(Link {
            client: Client::open(url.expose_secret())?,
            connection: Mutex::default(),
            lost: Notify::new(),
            refused: AtomicBool::new(false),
        });
        let mut connector = JoinSet::new();
        connector.spawn(keep_connected(Arc::clone(&link)));
        Ok(Self { link, ttl, _connector: connector })
    }

    /// What calls are made on; none during an outage.
    pub fn connection(&self) -> Option<MultiplexedConnection> {
        self.link.connection().clone()
    }

    /// The values of these keys in their order; none when Redis did not say.
    pub async fn get(
        &self,
        mut connection: MultiplexedConnection,
        keys: &[String],
    ) -> Option<Vec<Option<Vec<u8>>>> {
        let mut command = redis::cmd("MGET");
        command.arg(keys);
        let values = timeout(LOOKUP_LIMIT, command.query_async(&mut connection)).await;
        self.link.checked(values, LOOKUP_LIMIT).filter(|values: &Vec<_>| values.len() == keys.len())
    }

    /// Stores values for the time to live; tells whether Redis took them.
    pub async fn set(
        &self,
        mut connection: MultiplexedConnection,
        entries: impl Iterator<Item = (String, Vec<u8>)>,
    ) -> bool {
        let mut pipeline = redis::pipe();
        for (key, value) in entries {
            pipeline.cmd("SET").arg(key).arg(value).arg("EX").arg(self.ttl.as_secs()).ignore();
        }
        let stored = timeout(WRITE_LIMIT, pipeline.query_async::<()>(&mut connection)).await;
        self.link.checked(stored, WRITE_LIMIT).is_some()
    }
}

/// Removes the vectors of an owner; says how many there were. Those in the memory of running servers
/// stay for their time to live.
pub async fn forget(url: &SecretString, owner: Uuid) -> RedisResult<u64> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(FORGET_LIMIT))
        .set_response_timeout(Some(FORGET_LIMIT));
    let client = Client::open(url.expose_secret())?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let (pattern, mut cursor, mut removed) = (format!("{}*", prefix_of(owner)), 0, 0);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1000);
        let (next, keys): (u64, Vec<String>) = scan.query_async(&mut connection).await?;
        if !keys.is_empty() {
            removed += redis::cmd("UNLINK").arg(&keys).query_async::<u64>(&mut connection).await?;
        }
        if next == 0 {
            return Ok(removed);
        }
        cursor = next;
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
                    tracing::warn!(%error, "Redis refuses to cache embeddings: {error}");
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
            tracing::warn!(
                reason,
                "Redis is lost ({reason}); embeddings are cached in memory only meanwhile"
            );
            self.lost.notify_one();
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(WRITE_LIMIT))
            .set_response_timeout(Some(WRITE_LIMIT));
        let attempt = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            redis::cmd("PING").query_async::<()>(&mut connection).await?;
            Ok(connection)
        };
        match timeout(WRITE_LIMIT, attempt).await {
            Ok(connected) => connected.map_err(|error: RedisError| error.to_string()),
            Err(_) => Err(format!("no answer within {} ms", WRITE_LIMIT.as_millis())),
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
                    tracing::info!("Redis is back: embeddings are cached there again");
                }
                link.lost.notified().await;
            }
            Err(reason) if !down => {
                tracing::warn!(
                    reason,
                    "Redis cannot be reached ({reason}); embeddings are cached in memory only meanwhile"
                );
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

/// Tokens (u32), truncated (0 or 1), then the vector: all little-endian.
const HEAD: usize = 5;

/// A value as it stands in Redis.
pub fn encode(value: &CachedVector) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + 4 * value.vector.len());
    bytes.extend(value.tokens.to_le_bytes());
    bytes.push(value.truncated.into());
    bytes.extend(value.vector.iter().flat_map(|x| x.to_le_bytes()));
    bytes
}

/// None for what cannot be a vector of this dimension.
pub fn decode(bytes: &[u8], dimension: usize) -> Option<CachedVector> {
    let (tokens, rest) = bytes.split_first_chunk::<4>()?;
    let (flag, floats) = rest.split_first()?;
    let truncated = match flag {
        0 => false,
        1 => true,
        _ => return None,
    };
    let (floats, tail) = floats.as_chunks::<4>();
    let vector: Vec<f32> = floats.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let sound = tail.is_empty() && is_sound(&vector, dimension);
    sound.then_some(CachedVector { vector, truncated, tokens: u32::from_le_bytes(*tokens) })
}
