//! What benchmarks share.

use std::path::{Path, PathBuf};

use ragway::config::{Config, Home};

/// The built-in configuration with its data in `folder`, and with downloads from `target/test-cache` (or
/// `RAGWAY_TEST_CACHE`).
pub fn config_in(folder: &Path) -> anyhow::Result<Config> {
    let cache = std::env::var("RAGWAY_TEST_CACHE").map_or_else(
        |_| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target").join("test-cache"),
        PathBuf::from,
    );
    let mut config = Config::from_variables(None, &|name| (name == "RAGWAY_HOME").then(|| "unused".into()))?;
    config.home = Home { cache, data: folder.join("data") };
    Ok(config)
}
