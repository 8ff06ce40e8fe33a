//! One process fetches into a folder, the others wait.

use std::{
    fs::{File, TryLockError},
    path::Path,
    time::Duration,
};

use super::{AssetError, error::Wanted};

/// Held while a folder is filled. The operating system releases it with the process.
pub(super) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Waits for the lock of an existing folder.
    ///
    /// Asks again and again instead of blocking a thread, so that the wait can be
    /// cancelled by dropping the future.
    pub(super) async fn acquire(folder: &Path, wanted: &Wanted) -> Result<Self, AssetError> {
        let path = folder.join(".lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| AssetError::io(&path, error))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => {
                    if !told {
                        tracing::info!("{wanted} is being fetched by another process; waiting for it");
                        told = true;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(TryLockError::Error(error)) => return Err(AssetError::io(&path, error)),
            }
        }
    }
}
