//! `[limits]`: how many requests a minute whom.

use serde::Deserialize;

/// Requests a minute; 0: as many as come.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// From an IPv4 address, or from the /64 of an IPv6 address.
    pub per_address: u32,
    /// With an API key.
    pub per_key: u32,
    /// Of a tenant, however many keys it has.
    pub per_tenant: u32,
    /// Whether requests of this machine itself, through no proxy, are free.
    pub exempt_loopback: bool,
    pub embedding: GroupLimits,
    pub search: GroupLimits,
    pub ask: GroupLimits,
    pub ingest: GroupLimits,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            per_address: 100,
            per_key: 0,
            per_tenant: 0,
            exempt_loopback: true,
            embedding: GroupLimits::default(),
            search: GroupLimits::default(),
            ask: GroupLimits::default(),
            ingest: GroupLimits::default(),
        }
    }
}

/// `[limits.GROUP]`: what is given here is counted apart, in place of the common limit.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GroupLimits {
    pub per_address: Option<u32>,
    pub per_key: Option<u32>,
    pub per_tenant: Option<u32>,
}
