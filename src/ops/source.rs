//! A disk that is read, whatever its format: opened and locked with everything below it.

use std::path::Path;

use super::choices::Format;
use super::context::Context;
use crate::block::DeviceOptions;
use crate::error::Result;
use crate::host::storage::Storage;
use crate::host::{FileId, FileStorage};
use crate::image::chain::Link;
use crate::image::journal::refuse_pending;
use crate::image::probe;
use crate::image::{ChainMap, Image};

/// A disk that is read, not put together yet.
pub(super) struct Source {
    link: Link,
    below: Vec<Link>,
    /// Every file that it consists of.
    files: Vec<FileId>,
}

impl Source {
    /// Opens a disk, or what an internal snapshot of it holds.
    ///
    /// # Errors
    /// What opening it and everything below it says; [`Dirty`](crate::ErrorKind::Dirty) for a raw
    /// disk whose change was interrupted.
    pub(super) fn open(
        path: &Path,
        told: Option<Format>,
        snapshot: Option<&str>,
        context: Context<'_>,
    ) -> Result<Source> {
        let opening = context.opening();
        let mut link = opening.named_by_caller(path, told.map(probe::Format::from), false)?;
        if let Some(snapshot) = snapshot {
            link = link.at_snapshot(snapshot)?;
        }
        if link.format == probe::Format::Raw {
            refuse_pending(path)?;
        }
        let below = opening.below(&link, &[])?;
        let files = opening.files(&link, &below)?;
        Ok(Source { link, below, files })
    }

    pub(super) fn format(&self) -> Format {
        self.link.format.into()
    }

    /// The size of the guest's disk, in bytes.
    pub(super) fn size(&self) -> Result<u64> {
        match &self.link.header {
            Some(header) => Ok(header.virtual_size),
            None => self.link.storage.len(),
        }
    }

    /// Every file that it consists of.
    pub(super) fn files(&self) -> Vec<FileId> {
        self.files.clone()
    }

    /// The file of a raw disk.
    pub(super) fn raw_file(&self) -> Option<&FileStorage> {
        self.link.header.is_none().then_some(&self.link.storage)
    }

    /// Whether it lies directly above this disk.
    pub(super) fn lies_above(&self, file: FileId, format: probe::Format) -> Result<bool> {
        match self.below.first() {
            Some(below) => Ok(below.format == format && below.storage.id()? == file),
            None => Ok(false),
        }
    }

    /// What of it is where, image by image.
    ///
    /// # Errors
    /// As [`ChainMap::open`].
    pub(super) fn into_map(self, context: Context<'_>) -> Result<ChainMap> {
        ChainMap::open(&context.opening(), self.link)
    }

    /// Puts it together.
    ///
    /// # Errors
    /// What opening an external data file says.
    pub(super) fn assemble(self, context: Context<'_>) -> Result<Image> {
        context.opening().assemble(self.link, self.below, &[], &DeviceOptions::default())
    }
}
