//! How a server ends.

use std::time::Duration;

use serde::Deserialize;

/// What is left to requests once a server was told to end.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownSettings {
    /// How long it goes on serving after SIGTERM while it says that it is not ready.
    pub pause_ms: u64,
    /// How long requests that have begun may take after that.
    pub limit_ms: u64,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self { pause_ms: 5_000, limit_ms: 20_000 }
    }
}

impl ShutdownSettings {
    pub fn pause(&self) -> Duration {
        Duration::from_millis(self.pause_ms)
    }

    pub fn limit(&self) -> Duration {
        Duration::from_millis(self.limit_ms)
    }
}
