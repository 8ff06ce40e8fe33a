//! Folders of the server, and the account that it runs under.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

use crate::config::Home;

use super::EmbeddedError;

/// Used by root where `nobody` cannot reach the user's own folders.
const OPEN_BASE: &str = "/var/lib/ragway";

/// Where things lie and who may touch them.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Holds the unpacked build.
    pub(super) installation: PathBuf,
    /// Holds lock, passwords, log and cluster.
    pub(super) data: PathBuf,
    /// Runs the server; `None`: the user that runs ragway.
    pub(super) account: Option<Account>,
}

/// An unprivileged account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) user: u32,
    pub(super) group: u32,
}

impl Place {
    /// Chooses the folders and creates the data folder. Blocks.
    pub(super) fn choose(home: &Home, pg0: &Path) -> Result<Self, EmbeddedError> {
        let account = if is_root()? { Some(nobody()?) } else { None };
        let build = pg0.parent().unwrap_or(Path::new("/"));
        create(&home.data)?;
        let place = if account.is_none() || (reachable(&home.data) && reachable(build)) {
            Self { installation: build.join("installation"), data: home.data.join("postgres"), account }
        } else {
            let base = Path::new(OPEN_BASE).join(short_hash(&home.data));
            create(&base)?;
            for folder in [Path::new(OPEN_BASE), &base] {
                set_mode(folder, 0o755)?;
            }
            let version = build.file_name().unwrap_or("postgres".as_ref());
            let build = base.join(format!("build-{}", version.display()));
            Self { installation: build, data: base.join("postgres"), account }
        };
        create(&place.data)?;
        set_mode(&place.data, if account.is_some() { 0o755 } else { 0o700 })?;
        Ok(place)
    }

    /// A command that runs under the account, without the caller's environment:
    /// `PGOPTIONS` and the like must not reach the server.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
        if let Some(account) = self.account {
            // Root's supplementary groups are dropped along with its user id.
            command.uid(account.user).gid(account.group);
        }
        command
    }

    /// Gives a file or folder to the account.
    pub(super) fn hand_over(&self, path: &Path) -> Result<(), EmbeddedError> {
        match self.account {
            None => Ok(()),
            Some(account) => std::os::unix::fs::lchown(path, Some(account.user), Some(account.group))
                .map_err(|error| EmbeddedError::io(path, error)),
        }
    }
}

pub(super) fn create(folder: &Path) -> Result<(), EmbeddedError> {
    fs::create_dir_all(folder).map_err(|error| EmbeddedError::io(folder, error))
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), EmbeddedError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| EmbeddedError::io(path, error))
}

/// The standard library has no safe `geteuid`; `id` is in POSIX.
fn is_root() -> Result<bool, EmbeddedError> {
    let output = Command::new("id").arg("-u").output();
    let output = output.map_err(|error| EmbeddedError::io(Path::new("id"), error))?;
    Ok(output.stdout.trim_ascii() == b"0")
}

fn nobody() -> Result<Account, EmbeddedError> {
    let path = Path::new("/etc/passwd");
    let text = fs::read_to_string(path).map_err(|error| EmbeddedError::io(path, error))?;
    account_in(&text, "nobody").ok_or_else(|| EmbeddedError::NoAccount {
        reason: "/etc/passwd has no account `nobody` to run it under".into(),
    })
}

/// `name:password:user:group:…`, see passwd(5).
fn account_in(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| match fields[..] {
        [found, _, user, group, ..] if found == name => {
            Some(Account { user: user.parse().ok()?, group: group.parse().ok()? })
        }
        _ => None,
    })
}

/// Whether every account may pass through the folder and all those above it.
fn reachable(folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    folder.ancestors().all(|ancestor| {
        fs::metadata(ancestor).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
    })
}

fn short_hash(path: &Path) -> String {
    let sum = Sha256::digest(path.as_os_str().as_encoded_bytes());
    sum.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_is_read_from_passwd() {
        let passwd = "root:x:0:0::/root:/bin/sh\nnobody2:x:1:1::/:\nnobody:x:65534:65533::/nonexistent:\n";
        assert_eq!(account_in(passwd, "nobody"), Some(Account { user: 65534, group: 65533 }));
        assert_eq!(account_in(passwd, "somebody"), None);
    }

    #[test]
    fn closed_folder_cannot_be_reached() {
        let folder = tempfile::TempDir::new().unwrap();
        let below = folder.path().join("below");
        fs::create_dir(&below).unwrap();
        set_mode(&below, 0o755).unwrap();
        set_mode(folder.path(), 0o700).unwrap();
        assert!(!reachable(&below));
        set_mode(folder.path(), 0o755).unwrap();
        assert!(reachable(&below));
        assert!(!reachable(&below.join("absent")));
    }
}
