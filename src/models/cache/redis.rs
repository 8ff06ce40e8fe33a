//! Vectors in Redis, shared by all replicas.

use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, RedisResult, aio::MultiplexedConnection};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::{CachedVector, is_sound, prefix_of};
use crate::redis_link::{Purpose, RedisLink};

/// Longest wait of a request.
const LOOKUP_LIMIT: Duration = Duration::from_millis(100);
/// Longest wait of a write, for which nobody waits.
const WRITE_LIMIT: Duration = Duration::from_secs(1);
/// Longest wait for each answer while vectors are removed.
const FORGET_LIMIT: Duration = Duration::from_secs(10);

const PURPOSE: Purpose = Purpose {
    does: "cache embeddings",
    meanwhile: "embeddings are cached in memory only meanwhile",
    again: "embeddings are cached there again",
};

/// A Redis server; it may come and go.
pub struct RedisTier {
    link: RedisLink,
    ttl: Duration,
}

impl RedisTier {
    /// Connects in the background. Fails only for what is no Redis URL.
    pub fn open(url: &SecretString, ttl: Duration) -> RedisResult<Self> {
        Ok(Self { link: RedisLink::open(url, PURPOSE)?, ttl })
    }

    /// What calls are made on; none during an outage.
    pub fn connection(&self) -> Option<MultiplexedConnection> {
        self.link.connection()
    }

    /// The values of these keys in their order; none when Redis did not say.
    pub async fn get(
        &self,
        connection: MultiplexedConnection,
        keys: &[String],
    ) -> Option<Vec<Option<Vec<u8>>>> {
        let mut command = redis::cmd("MGET");
        command.arg(keys);
        let values: Vec<_> = self.link.command(connection, &command, LOOKUP_LIMIT).await?;
        (values.len() == keys.len()).then_some(values)
    }

    /// Stores values for the time to live; tells whether Redis took them.
    pub async fn set(
        &self,
        connection: MultiplexedConnection,
        entries: impl Iterator<Item = (String, Vec<u8>)>,
    ) -> bool {
        let mut pipeline = redis::pipe();
        for (key, value) in entries {
            pipeline.cmd("SET").arg(key).arg(value).arg("EX").arg(self.ttl.as_secs()).ignore();
        }
        self.link.commands(connection, &pipeline, WRITE_LIMIT).await
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
