//! A disk that exists: opened, locked, its format believed or refused, and compared with what was
//! asked for.

use std::path::Path;

use super::choices::Format;
use super::context::Context;
use crate::block::{DeviceOptions, Discard};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Access, FileKind, FileStorage, LockMode, open_locked};
use crate::image::Image;
use crate::image::chain::Link;
use crate::image::journal::{Settled, settle};
use crate::image::probe::{self, Evidence, Magic};
use crate::image::refuse_dependents_of;
use crate::qcow2::{Header, Qcow2};

/// An open and locked disk.
#[derive(Debug)]
pub(super) struct Existing {
    link: Link,
    /// The format that name and content agree on, whatever was told.
    looks_like: Option<Format>,
    /// What became of a change of it that had been interrupted.
    settled: Option<Settled>,
}

impl Existing {
    /// Opens a disk that will be changed. A change of a raw disk that was interrupted is completed
    /// first.
    pub(super) fn open_to_change(
        path: &Path,
        told: Option<Format>,
        context: Context<'_>,
    ) -> Result<Existing> {
        Self::open(path, Access::Write, LockMode::Writer, told, context)
    }

    /// Opens a disk that will only be compared.
    pub(super) fn open_to_read(
        path: &Path,
        told: Option<Format>,
        context: Context<'_>,
    ) -> Result<Existing> {
        Self::open(path, Access::Read, LockMode::Reader, told, context)
    }

    /// Locks a disk of any content that will be replaced: else it would be taken silently from
    /// whoever uses it. A change of it that was interrupted is completed first: its journal must
    /// neither outlive it nor be gone while the disk is still there, half changed. What other images
    /// in its folder depend on is refused, unless `forced`. Returned with what becomes of an error
    /// that comes later.
    pub(super) fn open_to_replace(
        path: &Path,
        forced: bool,
        context: Context<'_>,
    ) -> Result<(FileStorage, impl Fn(Error) -> Error + use<>)> {
        let storage =
            open_locked(path, Access::Write, LockMode::Writer, context.locks, context.cancel)?;
        if storage.info()?.kind != FileKind::Regular {
            let message = "a device cannot be replaced by a file";
            return Err(Error::new(ErrorKind::Exists, message).at_path(path));
        }
        if !forced {
            refuse_dependents_of(path, "cannot be replaced")?;
        }
        let settled = settle(&storage, context.task())?;
        Ok((storage, mark(settled)))
    }

    fn open(
        path: &Path,
        access: Access,
        mode: LockMode,
        told: Option<Format>,
        context: Context<'_>,
    ) -> Result<Existing> {
        let storage = open_locked(path, access, mode, context.locks, context.cancel)?;
        let magic = Magic::read(&storage)?;
        let block_device = storage.info()?.kind == FileKind::BlockDevice;
        let told = told.map(probe::Format::from);
        let evidence = Evidence { path, block_device, magic };
        let format = evidence.believe(told)?;
        let looks_like = evidence.agreed().map(Format::from);
        let settled = match (mode, format) {
            (LockMode::Writer, probe::Format::Raw) => settle(&storage, context.task())?,
            _ => None,
        };
        Ok(Existing { link: Link::open(path, format, storage)?, looks_like, settled })
    }

    pub(super) fn format(&self) -> Format {
        self.link.format.into()
    }

    /// What became of an interrupted change that was found when the disk was opened.
    pub(super) fn settled(&self) -> Option<Settled> {
        self.settled
    }

    /// What becomes of an error that comes later.
    pub(super) fn mark(&self) -> impl Fn(Error) -> Error + use<> {
        mark(self.settled)
    }

    /// The format that name and content agree on, if they do.
    pub(super) fn looks_like(&self) -> Option<Format> {
        self.looks_like
    }

    /// The disk itself, with its lock.
    pub(super) fn into_link(self) -> Link {
        self.link
    }

    pub(super) fn header(&self) -> Option<&Header> {
        self.link.header.as_ref()
    }

    pub(super) fn storage(&self) -> &FileStorage {
        &self.link.storage
    }

    /// The size of the guest's disk, in bytes.
    pub(super) fn virtual_size(&self) -> Result<u64> {
        match self.header() {
            Some(header) => Ok(header.virtual_size),
            None => Ok(self.storage().info()?.len),
        }
    }

    /// The image, to be written, with everything below it, or with nothing of that where its contents
    /// do not matter.
    pub(super) fn assemble_to_write(self, with_below: bool, context: Context<'_>) -> Result<Image> {
        let opening = context.opening();
        let below = if with_below { opening.below(&self.link, &[])? } else { Vec::new() };
        let options = DeviceOptions { writable: true, ..DeviceOptions::default() };
        opening.assemble(self.link, below, &[], &options)
    }

    /// The same, with everything below it, where what is done `keeps_contents`.
    pub(super) fn assemble_to_compact(
        self,
        keeps_contents: bool,
        context: Context<'_>,
    ) -> Result<Image> {
        let opening = context.opening();
        let below = opening.below(&self.link, &[])?;
        // Compacting an image gives its room back itself, at its end.
        let moves = self.header().is_some_and(|header| !header.has_external_data());
        let discard = if moves { Discard::Free } else { Discard::Unmap };
        let options =
            DeviceOptions { writable: true, discard, keeps_contents, ..DeviceOptions::default() };
        opening.assemble(self.link, below, &[], &options)
    }

    /// The qcow2 image alone, for what changes its tables and reads no guest data.
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for a disk that is not one, or that keeps
    /// its data in an external data file, and as [`Qcow2::open`].
    pub(super) fn into_qcow2(self) -> Result<Qcow2> {
        let Some(header) = self.link.header else {
            return Err(Error::new(ErrorKind::UnsupportedFeature, "the disk is not a qcow2 image"));
        };
        header.require_own_data()?;
        Qcow2::open(Box::new(self.link.storage), header, None)
    }

    /// The same, to be read.
    pub(super) fn assemble_to_read(self, with_below: bool, context: Context<'_>) -> Result<Image> {
        let opening = context.opening();
        let below = if with_below { opening.below(&self.link, &[])? } else { Vec::new() };
        opening.assemble(self.link, below, &[], &DeviceOptions::default())
    }

    /// What lies below the image, as a disk of its own; none where nothing does.
    pub(super) fn below_alone(&self, context: Context<'_>) -> Result<Option<Image>> {
        let opening = context.opening();
        let mut below = opening.below(&self.link, &[])?.into_iter();
        let Some(top) = below.next() else { return Ok(None) };
        opening.assemble(top, below.collect(), &[], &DeviceOptions::default()).map(Some)
    }

    /// The image with what is below it, as far as a resize needs that: a disk that shrinks shows
    /// no more of it than before. A backing file that the policy refuses is left out.
    pub(super) fn assemble(
        self,
        grows: bool,
        context: Context<'_>,
        notes: &mut Vec<String>,
    ) -> Result<Image> {
        self.header().map_or(Ok(()), Header::require_own_data)?;
        let (opening, options) = (context.opening(), DeviceOptions::default());
        let subclusters = self.header().is_some_and(|header| header.geometry.extended_l2());
        if !grows && !subclusters {
            return opening.assemble(self.link, Vec::new(), &[], &options);
        }
        let below = match opening.below(&self.link, &[]) {
            Err(error) if error.kind() == ErrorKind::BackingRefused => {
                if grows {
                    notes.push(format!("{error}; everything that is added hides it"));
                }
                Vec::new()
            }
            below => below?,
        };
        opening.assemble(self.link, below, &[], &options)
    }
}

/// Where a change was completed, or taken back, no later error can promise that nothing was changed.
fn mark(settled: Option<Settled>) -> impl Fn(Error) -> Error + use<> {
    let changed = settled.is_some();
    move |error: Error| error.after_changes_if(changed)
}
