//! Keys of programs. A key is 256 random bits, and what is stored of it is its SHA-256: there is nothing to guess,
//! so that a slow hash, which passwords need, would only make requests slow. A key is found by its hash, which
//! nobody can steer: how long the comparison takes tells nothing of a key.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use moka::future::Cache;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{AccessError, Actor, Identity, Permission, Permissions, Refusal};
use crate::store::{ApiKey, NewApiKey, NewAuditEntry, Store, StoreError, TenantId};

/// What a key begins with: told apart from tokens by it, and found by those who look for secrets in files.
pub const PREFIX: &str = "ragway_";

/// How long a replica believes what it was told of a key: that long a revoked one may still be used.
pub(super) const BELIEVED: Duration = Duration::from_secs(3);

/// Keys that a replica remembers.
const REMEMBERED: u64 = 10_000;

/// Checks keys, without asking the database for each request.
pub struct ApiKeys {
    store: Store,
    seen: Cache<[u8; 32], Option<Arc<ApiKey>>>,
}

impl ApiKeys {
    pub fn new(store: Store) -> Self {
        let seen = Cache::builder().max_capacity(REMEMBERED).time_to_live(BELIEVED).build();
        Self { store, seen }
    }

    /// Whose key this is.
    pub async fn identify(&self, key: &str) -> Result<Identity, Refusal> {
        let hash = hash(key);
        let found = self.seen.try_get_with(hash, async {
            Ok::<_, StoreError>(self.store.key_of_hash(&hash).await?.map(Arc::new))
        });
        let key = found.await.map_err(Refusal::Store)?;
        let key = key.ok_or_else(|| Refusal::Invalid("there is no such key".into()))?;
        if key.revoked_at.is_some() {
            return Err(Refusal::Invalid("the key was revoked".into()));
        }
        if key.expires_at.is_some_and(|end| end <= OffsetDateTime::now_utc()) {
            return Err(Refusal::Invalid("the key has expired".into()));
        }
        Ok(Identity {
            tenant: key.tenant,
            actor: Actor::Key(key.id),
            permissions: Permissions::known_of(key.permissions.iter().map(String::as_str)),
        })
    }
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct KeyRequest<'a> {
    pub tenant: TenantId,
    pub name: &'a str,
    pub permissions: Permissions,
    pub expires_at: Option<OffsetDateTime>,
}

/// Makes a key and returns it with its id: the one time that it is seen.
pub async fn create_key(
    store: &Store,
    request: &KeyRequest<'_>,
    actor: &Actor,
) -> Result<(Uuid, SecretString), AccessError> {
    let key = random_key()?;
    let id = Uuid::now_v7();
    let new = NewApiKey {
        id,
        tenant: request.tenant,
        name: request.name,
        hash: hash(key.expose_secret()),
        permissions: request.permissions.iter().map(Permission::name).collect(),
        expires_at: request.expires_at,
    };
    let target = format!("key {id} ({}): {}", request.name, request.permissions);
    let actor = actor.to_string();
    let entry = audited(request.tenant, &actor, "key.create", &target);
    store.create_key(&new, &entry).await?;
    Ok((id, key))
}

/// Revokes a key; false where there is none of this id that could be used.
pub async fn revoke_key(store: &Store, id: Uuid, actor: &Actor) -> Result<bool, AccessError> {
    let target = format!("key {id}");
    let actor = actor.to_string();
    // The statement takes the tenant from the key.
    let entry = audited(TenantId::DEFAULT, &actor, "key.revoke", &target);
    Ok(store.revoke_key(id, &entry).await?)
}

fn audited<'a>(tenant: TenantId, actor: &'a str, action: &'a str, target: &'a str) -> NewAuditEntry<'a> {
    NewAuditEntry { tenant, actor, action, target, request_id: None }
}

fn random_key() -> Result<SecretString, AccessError> {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| AccessError("the system gives no random numbers".into()))?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)).into())
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_and_never_the_same() {
        let (one, other) = (random_key().unwrap(), random_key().unwrap());
        assert_ne!(one.expose_secret(), other.expose_secret());
        assert_eq!(one.expose_secret().len(), PREFIX.len() + 43);
        assert!(!format!("{one:?}").contains(one.expose_secret()));
    }
}
