//! Content hashes, and a record of what was hashed already.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::PinnedFile;

const RECORD: &str = ".verified.json";

/// A file that may not be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub(super) struct Refusal {
    path: PathBuf,
    why: Why,
}

impl Refusal {
    pub(super) fn new(path: PathBuf, why: Why) -> Self {
        Self { path, why }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Why {
    Absent,
    OtherContent { expected: String, got: String },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Absent => write!(f, "no such file"),
            Why::OtherContent { expected, got } => {
                write!(f, "refused: its sha256 is {got}, expected {expected}")
            }
        }
    }
}

/// Files whose content was hashed, by path: hashing a model at each start takes
/// a good part of a second, asking for its size and time takes nothing.
pub(super) struct Verified {
    record: PathBuf,
    files: BTreeMap<PathBuf, Stamp>,
}

/// What a file looked like when it was hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    sha256: String,
    size: u64,
    modified_ns: u128,
}

impl Verified {
    /// The record kept in `folder`; an absent or unreadable one is empty.
    pub(super) fn load(folder: &Path) -> Self {
        let record = folder.join(RECORD);
        let files = fs::read(&record).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Self { record, files: files.unwrap_or_default() }
    }

    /// The files of `folder` that cannot be used as they are, and why.
    ///
    /// Fails with the file's name where reading fails otherwise than by absence.
    pub(super) fn missing(
        &mut self,
        folder: &Path,
        files: &[PinnedFile],
    ) -> Result<Vec<(PinnedFile, Why)>, (String, io::Error)> {
        let mut missing = Vec::new();
        let before = self.files.clone();
        for file in files {
            match self.check(&folder.join(&file.name), &file.sha256) {
                Ok(None) => {}
                Ok(Some(why)) => missing.push((file.clone(), why)),
                Err(error) => return Err((file.name.clone(), error)),
            }
        }
        if self.files != before {
            self.save();
        }
        Ok(missing)
    }

    fn check(&mut self, path: &Path, sha256: &str) -> io::Result<Option<Why>> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Ok(Some(Why::Absent)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                self.files.remove(path);
                return Ok(Some(Why::Absent));
            }
            Err(error) => return Err(error),
        };
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let stamp =
            Stamp { sha256: sha256.to_owned(), size: metadata.len(), modified_ns: modified.as_nanos() };
        if self.files.get(path) == Some(&stamp) {
            return Ok(None);
        }
        let got = sha256_of(path)?;
        if got == sha256 {
            self.files.insert(path.to_owned(), stamp);
            return Ok(None);
        }
        self.files.remove(path);
        Ok(Some(Why::OtherContent { expected: sha256.to_owned(), got }))
    }

    /// Best effort: without the record the next start hashes again.
    fn save(&self) {
        let written = serde_json::to_vec_pretty(&self.files).map_err(io::Error::from).and_then(|text| {
            let folder = self.record.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(folder)?;
            let temporary = self.record.with_extension(format!("{}.part", std::process::id()));
            fs::write(&temporary, text)?;
            fs::rename(&temporary, &self.record)
        });
        if let Err(error) = written {
            tracing::debug!("{}: not written: {error}", self.record.display());
        }
    }
}

/// Makes a downloaded file final: hashes it, flushes it to the disk and renames it.
///
/// A file of another content is removed.
pub(super) fn promote(part: &Path, target: &Path, sha256: &str) -> io::Result<Result<(), Why>> {
    let got = sha256_of(part)?;
    if got != sha256 {
        fs::remove_file(part)?;
        return Ok(Err(Why::OtherContent { expected: sha256.to_owned(), got }));
    }
    File::open(part)?.sync_all()?;
    fs::rename(part, target)?;
    if let Some(folder) = target.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(Ok(()))
}

/// Lower-case hexadecimal SHA-256 of a file's content. Blocks.
pub(super) fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Where the download of a file is kept until it is whole.
///
/// The name holds the hash: a part of another content is never continued.
pub(super) fn part_of(folder: &Path, file: &PinnedFile) -> PathBuf {
    folder.join(format!("{}.{}.part", file.name, file.sha256.get(..12).unwrap_or(&file.sha256)))
}
