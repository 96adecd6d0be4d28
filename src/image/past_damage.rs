//! Opening an image to read it past its damage: what is below it, as far as that can be opened.

use std::path::Path;

use super::chain::{Link, Opening, Seen};
use super::probe::{Evidence, Format, Magic};
use crate::block::salvage::Salvage;
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Access, FileId, FileKind, FileStorage, LockMode, open_locked, resolve};
use crate::qcow2::{Below, Header, Salvager};
use crate::raw::Raw;

/// An image that may be damaged, open and locked, with what could be opened below it.
pub struct PastDamage {
    /// Its disk.
    pub disk: Box<dyn Salvage>,
    /// Its format.
    pub format: Format,
    /// Every file that it consists of, and those below.
    pub files: Vec<FileId>,
    /// Why something below it could not be opened.
    pub missing: Option<Error>,
}

impl std::fmt::Debug for PastDamage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PastDamage").field("format", &self.format).finish_non_exhaustive()
    }
}

impl Opening<'_> {
    /// Opens the image at `path`, whose header must open, and nothing else of which need be sound.
    /// What cannot be opened below it is told, unless it is in use: then trying again helps.
    ///
    /// # Errors
    /// As [`Evidence::believe`] and [`Header::read_past_damage`], and what opening says; as
    /// [`Trust::admit`](super::gate::Trust::admit) for the image's own data file.
    pub fn past_damage(&self, path: &Path, told: Option<Format>) -> Result<PastDamage> {
        let top = self.open_damaged(path, told)?;
        let format = top.format;
        let (below, mut missing) = self.below_as_far(&top, &[]);
        let mut seen = Seen::default();
        for link in below.iter().chain([&top]) {
            seen.remember(link.storage.id()?);
        }
        let mut lower = missing.as_ref().map_or(Below::Nothing, |_| Below::Missing);
        for link in below.into_iter().rev() {
            lower = match self.put_above_damaged(lower, link, &mut seen) {
                Ok(disk) => Below::Disk(disk),
                Err(error) => {
                    missing = Some(error);
                    Below::Missing
                }
            };
        }
        if let Some(error) = missing.take_if(|error| error.retriable() || is_ours(error)) {
            return Err(error);
        }
        let disk = self.put_above_damaged(lower, top, &mut seen)?;
        Ok(PastDamage { disk, format, files: seen.files(), missing })
    }

    fn open_damaged(&self, path: &Path, told: Option<Format>) -> Result<Link> {
        let storage = match self.locks {
            Some(locks) => open_locked(path, Access::Read, LockMode::Reader, locks, self.cancel)?,
            None => FileStorage::open(&resolve(path)?, Access::Read)?,
        };
        let magic = Magic::read(&storage)?;
        let block_device = storage.info()?.kind == FileKind::BlockDevice;
        let format = Evidence { path, block_device, magic }.believe(told)?;
        let header = match format {
            Format::Qcow2 => {
                let header = Header::read_past_damage(&storage);
                Some(header.map_err(|error| error.at_path(path))?)
            }
            Format::Raw => None,
        };
        // Names in it start from where the file really is, as from a disk below.
        Ok(Link { path: resolve(path)?, format, header, storage, is_snapshot: false })
    }

    fn put_above_damaged(
        &self,
        below: Below,
        link: Link,
        seen: &mut Seen,
    ) -> Result<Box<dyn Salvage>> {
        let Link { path, header, storage, .. } = link;
        let Some(header) = header else {
            return Ok(Box::new(Raw::open(Box::new(storage))?));
        };
        let data_file = self.data_file(&path, &header, seen, false)?;
        let data_file = data_file.map(|file| Box::new(file) as _);
        let disk = Salvager::new(Box::new(storage), data_file, header, below);
        Ok(Box::new(disk.map_err(|error| error.at_path(&path))?))
    }
}

/// Whether it says nothing about the image.
fn is_ours(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::LockUnavailable)
}
