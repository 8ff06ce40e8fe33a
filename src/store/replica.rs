//! Searches on a read replica.
//!
//! A streaming replica is a little behind. What a collection has gone through is counted
//! (`collection_versions`), and the collection is looked up on the primary, so a search knows what it
//! must find: a replica that has not come that far does not answer it. So no search misses a document
//! that was stored before it began. Whatever the replica cannot do, the primary does.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use secrecy::SecretString;
use tokio::time::timeout;
use tokio_postgres::{Client, types::Type};

use super::{Collection, Store, StoreError, collections::KnownCollections, most_connections, plans::Probes};
use crate::config::PoolSettings;

/// How long a replica that failed is left alone.
const REST: Duration = Duration::from_secs(5);
/// Longest wait for a connection to it: the primary is there.
const CONNECT_TIMEOUT_MS: u64 = 1_000;
/// Longest that a search of it is waited for: one that takes milliseconds and is still not done meets
/// a server that hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A replica and when it may be asked.
pub(super) struct Replica {
    /// Its own pool; has no replica itself.
    store: Store,
    /// When it is asked again; absent: it works.
    failed_until: Mutex<Option<Instant>>,
}

impl Store {
    /// Sends searches to a streaming replica of this database as long as it keeps up.
    ///
    /// That it cannot be reached is a warning: searches go to the primary until it can. A server that
    /// is no copy of this one is [`StoreError::NotAReplica`].
    pub async fn with_replica(
        mut self,
        url: &SecretString,
        settings: &PoolSettings,
    ) -> Result<Self, StoreError> {
        let settings = PoolSettings {
            connect_timeout_ms: settings.connect_timeout_ms.min(CONNECT_TIMEOUT_MS),
            min_connections: 0,
            ..settings.clone()
        };
        // Types have the same OIDs in a copy.
        let store = Store {
            pool: Self::pool(url, &settings)?,
            most_connections: most_connections(&settings),
            pgvector: self.pgvector.clone(),
            keyring: Arc::clone(&self.keyring),
            role: Role::Replica,
            probes: Probes::default(),
            known: KnownCollections::default(),
        };
        let failed_until = match store.identity().await {
            Ok(found) if found == self.identity().await? => None,
            Ok(_) => return Err(StoreError::NotAReplica),
            Err(error) => {
                tracing::warn!(%error, "the read replica cannot be used, searches go to the primary: {error}");
                Some(Instant::now() + REST)
            }
        };
        let replica = Replica { store, failed_until: Mutex::new(failed_until) };
        self.role = Role::Primary(Some(Arc::new(replica)));
        Ok(self)
    }

    /// Whether searches may go to a read replica.
    pub(super) fn has_replica(&self) -> bool {
        matches!(self.role, Role::Primary(Some(_)))
    }

    /// Whether the read replica answers; absent: there is none.
    pub async fn ping_replica(&self) -> Option<Result<(), StoreError>> {
        let Role::Primary(Some(replica)) = &self.role else { return None };
        Some(replica.store.ping().await)
    }

    /// What a database has in common with its physical copies, and with no other.
    async fn identity(&self) -> Result<(i64, String), StoreError> {
        let statement = "SELECT system_identifier, current_database()::text FROM pg_control_system()";
        let row = self.connection().await?.query_typed_one(statement, &[]).await?;
        Ok((row.get(0), row.get(1)))
    }

    /// What the replica answers; absent: the primary has to be asked.
    pub(super) async fn on_replica<T>(
        &self,
        ask: impl AsyncFnOnce(&Store) -> Result<T, StoreError>,
    ) -> Option<Result<T, StoreError>> {
        let Role::Primary(Some(replica)) = &self.role else { return None };
        if !replica.may_be_asked() {
            return None;
        }
        let failed = match timeout(PATIENCE, ask(&replica.store)).await {
            Ok(Ok(answer)) => {
                replica.works();
                return Some(Ok(answer));
            }
            // On the primary it would take as long.
            Ok(Err(error @ StoreError::StatementTimedOut)) => return Some(Err(error)),
            // It has not come so far yet.
            Ok(Err(StoreError::SpacesChanged(_))) => return None,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".to_owned(),
        };
        replica.failed(&failed);
        None
    }

    /// On a replica: that it holds the collection as the caller knows it, else [`StoreError::SpacesChanged`].
    /// To be sent in the transaction of the search, before it: replay only goes on.
    pub(super) async fn check_current(
        &self,
        client: &Client,
        collection: &Collection,
    ) -> Result<(), StoreError> {
        if !matches!(self.role, Role::Replica) {
            return Ok(());
        }
        let row = client
            .query_typed_one(
                "SELECT EXISTS (SELECT FROM collection_versions WHERE collection_id = $1 AND version >= $2)",
                &[(&collection.id, Type::UUID), (&collection.version, Type::INT8)],
            )
            .await?;
        if row.get(0) { Ok(()) } else { Err(StoreError::SpacesChanged(collection.name.clone())) }
    }
}

/// What a store's database is for it.
#[derive(Clone)]
pub(super) enum Role {
    /// Takes everything but, where there is one, what its replica answers.
    Primary(Option<Arc<Replica>>),
    /// Answers searches.
    Replica,
}

impl Replica {
    /// Where it has failed, one caller after another tries whether it works again.
    fn may_be_asked(&self) -> bool {
        let mut failed_until = self.failed_until.lock().unwrap_or_else(PoisonError::into_inner);
        match *failed_until {
            None => true,
            Some(until) if Instant::now() < until => false,
            Some(_) => {
                *failed_until = Some(Instant::now() + REST);
                true
            }
        }
    }

    fn works(&self) {
        let failed = self.failed_until.lock().unwrap_or_else(PoisonError::into_inner).take();
        if failed.is_some() {
            tracing::info!("the read replica answers again");
        }
    }

    fn failed(&self, reason: &str) {
        let until = Instant::now() + REST;
        let before = self.failed_until.lock().unwrap_or_else(PoisonError::into_inner).replace(until);
        if before.is_none() {
            tracing::warn!(error = reason, "the read replica failed, searches go to the primary: {reason}");
        }
    }
}
