//! The unpacked build.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use super::{EmbeddedError, place};

/// PostgreSQL's programs with pgvector beside them.
#[derive(Debug, Clone)]
pub(super) struct Installation {
    root: PathBuf,
}

impl Installation {
    /// Unpacks the build into `target` unless it is there. Blocks.
    pub(super) fn ensure(pg0: &Path, target: &Path) -> Result<Self, EmbeddedError> {
        if let Some(found) = Self::find(target) {
            return Ok(found);
        }
        let lock = beside(target, "lock");
        let locked = File::create(&lock).and_then(|file| file.lock().map(|()| file));
        let _locked = locked.map_err(|error| EmbeddedError::io(&lock, error))?;
        // Another process may have held the lock to unpack the same.
        if let Some(found) = Self::find(target) {
            return Ok(found);
        }
        tracing::info!("unpacking PostgreSQL");
        let scratch = beside(target, "part");
        // Left by an interrupted start; what cannot be removed fails below.
        let _ = fs::remove_dir_all(&scratch);
        let unpacked = unpack(pg0, &scratch, target);
        let _ = fs::remove_dir_all(&scratch);
        unpacked
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.root.join("bin").join(name)
    }

    /// Lets a command's libraries find each other: some name those beside them without
    /// saying where they lie.
    pub(super) fn with_libraries<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env(LIBRARY_PATH, self.root.join("lib"))
    }

    /// Major version, as `PG_VERSION` of a database gives it.
    pub(super) fn major(&self) -> String {
        let version = self.root.file_name().unwrap_or_default().to_string_lossy();
        version.split('.').next().unwrap_or_default().to_owned()
    }

    /// The build in `folder`, complete; it lies in a folder named by its version.
    fn find(folder: &Path) -> Option<Self> {
        let versions = fs::read_dir(folder).ok()?.flatten();
        versions.map(|version| Self { root: version.path() }).find(|found| {
            found.program("postgres").is_file() && found.root.join("share/extension/vector.control").is_file()
        })
    }
}

#[cfg(target_os = "macos")]
const LIBRARY_PATH: &str = "DYLD_LIBRARY_PATH";
#[cfg(not(target_os = "macos"))]
const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// `pg0` has no command that only unpacks. Its `start` unpacks, creates the
/// database unless the folder has a `postgresql.conf`, adds pgvector and calls
/// `pg_ctl`, which refuses a folder without a database. So an empty file makes it
/// stop after the part that is wanted, and no server ever runs.
fn unpack(pg0: &Path, scratch: &Path, target: &Path) -> Result<Installation, EmbeddedError> {
    let no_database = scratch.join("no-database");
    place::create(&no_database)?;
    let file = no_database.join("postgresql.conf");
    fs::write(&file, "").map_err(|error| EmbeddedError::io(&file, error))?;
    // The account that runs the server must be able to read what is unpacked.
    let output = Command::new("/bin/sh")
        .args(["-c", "umask 022; exec \"$@\"", "sh"])
        .arg(pg0)
        .args(["start", "--name", "unpack", "--data-dir"])
        .arg(&no_database)
        .env("HOME", scratch)
        .output()
        .map_err(|error| EmbeddedError::io(pg0, error))?;
    let unpacked = scratch.join(".pg0").join("installation");
    if Installation::find(&unpacked).is_none() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(EmbeddedError::Unpack { pg0: pg0.to_owned(), reason });
    }
    fs::rename(&unpacked, target).map_err(|error| EmbeddedError::io(target, error))?;
    Installation::find(target).ok_or_else(|| EmbeddedError::Unpack {
        pg0: pg0.to_owned(),
        reason: format!("{} is incomplete", target.display()),
    })
}

/// `folder.extension`, next to the folder.
fn beside(folder: &Path, extension: &str) -> PathBuf {
    let mut path = folder.to_owned();
    path.as_mut_os_string().push(format!(".{extension}"));
    path
}
