//! ZIP containers, with bounds on what they may expand to.

use std::io::{Cursor, Read};

use zip::{ZipArchive, result::ZipError};

use super::{ExtractError, Format};

/// Bytes that all parts of a file may expand to.
const MAX_EXPANDED: u64 = 512 << 20;
/// Bytes that a part may expand to whatever its packed size is.
const ALWAYS_ALLOWED: u64 = 16 << 20;
/// How many times its packed size a larger part may expand to; office files stay below 100.
const MAX_RATIO: u64 = 250;
/// Parts of a file; books and long presentations have some hundreds.
const MAX_PARTS: usize = 10_000;

/// An opened container. What is read from it counts against [`MAX_EXPANDED`].
pub(super) struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    format: Format,
    left: u64,
}

impl<'a> Archive<'a> {
    /// Opens a container of files of `format`.
    pub fn open(bytes: &'a [u8], format: Format) -> Result<Self, ExtractError> {
        let zip = ZipArchive::new(Cursor::new(bytes)).map_err(|error| refusal(format, error))?;
        if zip.len() > MAX_PARTS {
            return Err(format.broken(format!("it has {} parts, at most {MAX_PARTS} are read", zip.len())));
        }
        Ok(Self { zip, format, left: MAX_EXPANDED })
    }

    pub fn has(&self, path: &str) -> bool {
        self.zip.index_for_name(path).is_some()
    }

    /// The bytes of a part; nothing when there is none of this name.
    pub fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, ExtractError> {
        let Some(index) = self.zip.index_for_name(path.trim_start_matches('/')) else { return Ok(None) };
        let mut bytes = Vec::new();
        self.expand(index, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// The bytes of a part without which the file means nothing.
    pub fn require(&mut self, path: &str) -> Result<Vec<u8>, ExtractError> {
        self.read(path)?.ok_or_else(|| self.format.broken(format!("it has no {path}")))
    }

    /// Expands everything once and keeps nothing: for readers that open the container themselves.
    pub fn check_all(mut self) -> Result<(), ExtractError> {
        (0..self.zip.len()).try_for_each(|index| self.expand(index, &mut std::io::sink()))
    }

    fn expand(&mut self, index: usize, out: &mut dyn std::io::Write) -> Result<(), ExtractError> {
        let format = self.format;
        let part = self.zip.by_index(index).map_err(|error| refusal(format, error))?;
        let limit = self.left.min(ALWAYS_ALLOWED.max(part.compressed_size().saturating_mul(MAX_RATIO)));
        let name = part.name().map(std::borrow::Cow::into_owned).unwrap_or_default();
        // Not what the part says of its size: that may be a lie.
        let size = std::io::copy(&mut part.take(limit + 1), out)
            .map_err(|error| format.broken(format!("{name} is damaged: {error}")))?;
        if size > limit {
            let mib = limit >> 20;
            return Err(format.broken(format!("{name} expands to more than {mib} MiB, which is not read")));
        }
        self.left -= size;
        Ok(())
    }
}

fn refusal(format: Format, error: ZipError) -> ExtractError {
    match error {
        ZipError::UnsupportedArchive(reason) if reason == ZipError::PASSWORD_REQUIRED => {
            ExtractError::Encrypted { format }
        }
        other => format.broken(format!("its ZIP container is damaged ({other})")),
    }
}
