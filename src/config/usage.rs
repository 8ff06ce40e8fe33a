//! What is counted, what it costs, and how much of it a caller may have.

use serde::Deserialize;
use uuid::Uuid;

/// `[usage]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UsageSettings {
    /// How long counts stay in memory before they are added to the database's.
    pub flush_ms: u64,
}

impl Default for UsageSettings {
    fn default() -> Self {
        Self { flush_ms: 5_000 }
    }
}

/// `[[quota]]`: what one caller may use until the period ends.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Who has an allowance of their own.
    pub per: QuotaSubject,
    /// Only this tenant; absent: each.
    pub tenant: Option<Uuid>,
    /// Only this key; absent: each.
    pub key: Option<Uuid>,
    pub period: QuotaPeriod,
    /// Tokens read and written, by embedders and answer backends together.
    pub tokens: Option<u64>,
    /// In the unit of the prices.
    pub cost: Option<f64>,
}

/// Whose use is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaSubject {
    Tenant,
    Key,
}

impl QuotaSubject {
    /// As it is written in the file and told to callers.
    pub fn name(self) -> &'static str {
        match self {
            QuotaSubject::Tenant => "tenant",
            QuotaSubject::Key => "key",
        }
    }
}

/// In UTC, from its calendar's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaPeriod {
    Day,
    Month,
}

impl QuotaPeriod {
    /// As it is written in the file and told to callers.
    pub fn name(self) -> &'static str {
        match self {
            QuotaPeriod::Day => "day",
            QuotaPeriod::Month => "month",
        }
    }
}

impl Quota {
    /// Says what contradicts itself.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.tokens.is_none() && self.cost.is_none() {
            return Err("quota: give `tokens`, `cost`, or both".into());
        }
        if self.cost.is_some_and(|cost| !cost.is_finite() || cost < 0.0) {
            return Err("quota: cost must be a number of 0 or more".into());
        }
        if self.key.is_some() && self.per == QuotaSubject::Tenant {
            return Err("quota: `key` belongs to per = \"key\"".into());
        }
        Ok(())
    }
}
