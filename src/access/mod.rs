//! Who may do what: tokens and keys, and what they permit.
//!
//! | file | |
//! |---|---|
//! | `tokens` | JSON Web Tokens, checked and made |
//! | `key_set` | the keys of an issuer, read again when they change |
//! | `signatures` | their cryptography |
//! | `api_keys` | keys of programs |
//! | `permission` | what can be permitted |
//!
//! Absent here: HTTP's side of it (headers, statuses, which endpoint needs what: `http::access`), use cases.

mod api_keys;
mod key_set;
mod permission;
mod signatures;
mod tokens;

pub use api_keys::{KeyRequest, create_key, revoke_key};
pub use permission::{Permission, Permissions, UnknownPermission};
pub use tokens::{NewToken, mint};

use std::{fmt, sync::Arc};

use moka::future::Cache;
use uuid::Uuid;

use crate::{
    config::AuthSettings,
    store::{Store, StoreError, TenantId},
};
use api_keys::{ApiKeys, BELIEVED, PREFIX};
use tokens::{Claims, Tokens};

/// Who somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub tenant: TenantId,
    pub actor: Actor,
    pub permissions: Permissions,
}

/// By what somebody is known, as the audit log names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// Nobody had to say who they are.
    Anyone,
    Key(Uuid),
    /// A token's subject.
    Token(Option<String>),
    /// A user of the machine.
    CommandLine(String),
}

impl Actor {
    /// The key, where there is one.
    pub fn key(&self) -> Option<Uuid> {
        match self {
            Actor::Key(id) => Some(*id),
            Actor::Anyone | Actor::Token(_) | Actor::CommandLine(_) => None,
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::Anyone => f.write_str("anyone"),
            Actor::Key(id) => write!(f, "key {id}"),
            Actor::Token(Some(subject)) => write!(f, "token of {subject}"),
            Actor::Token(None) => f.write_str("token of nobody"),
            Actor::CommandLine(user) => write!(f, "command line of {user}"),
        }
    }
}

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nothing says who they are.
    #[error("this server wants to know who asks: send `Authorization: Bearer` with a key or a token")]
    Missing,
    /// What they show is not believed.
    #[error("{0}")]
    Invalid(String),
    /// The token is good, but its tenant is not here.
    #[error("the token is for the tenant `{0}` (`tenant_id`), which does not exist here")]
    UnknownTenant(String),
    /// Cannot be told now; the same may succeed later.
    #[error("{0}")]
    Unavailable(String),
    #[error(transparent)]
    Store(Arc<StoreError>),
}

/// Why access cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AccessError(pub(crate) String);

impl From<StoreError> for AccessError {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

/// Tells who somebody is; shared by all workers.
pub struct Access {
    checks: Option<Checks>,
}

struct Checks {
    keys: ApiKeys,
    tokens: Option<Tokens>,
    tenants: Tenants,
}

impl Access {
    /// Everybody may do everything, as the default tenant.
    pub fn open() -> Self {
        Self { checks: None }
    }

    /// Checked by these settings; without any, everybody may do everything.
    ///
    /// # Errors
    /// When a key that the settings name cannot be read.
    pub async fn new(settings: Option<&AuthSettings>, store: &Store) -> Result<Self, AccessError> {
        let Some(settings) = settings else { return Ok(Self::open()) };
        let tokens = match &settings.tokens {
            Some(tokens) => Some(Tokens::new(tokens).await?),
            None => None,
        };
        let (keys, tenants) = (ApiKeys::new(store.clone()), Tenants::new(store.clone()));
        Ok(Self { checks: Some(Checks { keys, tokens, tenants }) })
    }

    /// Who shows this key or token.
    pub async fn identify(&self, credential: Option<&str>) -> Result<Identity, Refusal> {
        let Some(checks) = &self.checks else {
            return Ok(Identity {
                tenant: TenantId::DEFAULT,
                actor: Actor::Anyone,
                permissions: Permissions::all(),
            });
        };
        let credential = credential.ok_or(Refusal::Missing)?;
        match &checks.tokens {
            _ if credential.starts_with(PREFIX) => checks.keys.identify(credential).await,
            Some(tokens) => checks.tenants.identity(tokens.verify(credential).await?).await,
            None => Err(Refusal::Invalid("what was sent is no key, and tokens are not known here".into())),
        }
    }

    /// Whether anything is asked of anybody.
    pub fn is_open(&self) -> bool {
        self.checks.is_none()
    }
}

/// The tenants that tokens name, remembered for a moment.
struct Tenants {
    store: Store,
    seen: Cache<String, Option<TenantId>>,
}

impl Tenants {
    fn new(store: Store) -> Self {
        Self { store, seen: Cache::builder().max_capacity(10_000).time_to_live(BELIEVED).build() }
    }

    async fn identity(&self, claims: Claims) -> Result<Identity, Refusal> {
        let permissions = claims.permissions();
        let tenant = match claims.tenant_id {
            None => TenantId::DEFAULT,
            // The database takes no NUL.
            Some(named) if named.contains('\0') => return Err(Refusal::UnknownTenant(named)),
            Some(named) => {
                let found = self.seen.try_get_with_by_ref(&named, self.store.find_tenant(&named)).await;
                found.map_err(Refusal::Store)?.ok_or(Refusal::UnknownTenant(named))?
            }
        };
        Ok(Identity { tenant, actor: Actor::Token(claims.sub), permissions })
    }
}
