//! Who asks.

use uuid::Uuid;

use crate::store::TenantId;

/// Whose rows are read, and whose account is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller {
    pub tenant: TenantId,
    /// The key that the request was made with; absent where nobody has to log in.
    pub key: Option<Uuid>,
}

impl Caller {
    /// The caller of an installation without accounts.
    pub const DEFAULT: Caller = Caller { tenant: TenantId::DEFAULT, key: None };
}

impl From<TenantId> for Caller {
    fn from(tenant: TenantId) -> Self {
        Caller { tenant, key: None }
    }
}
