//! The backing chain: from an image down to the file that has nothing below it.

use std::path::{Path, PathBuf};

use super::gate::{MAX_CHAIN_DEPTH, Trust};
use super::probe::{Evidence, Format, Magic};
use super::{Image, open_qcow2};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Access, FileId, FileKind, FileStorage, LockMode, LockPolicy, open_locked};
use crate::qcow2::{Backing, Header};
use crate::raw::Raw;
use crate::task::Cancel;

/// How files of a chain are opened.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// Which names in images are followed.
    pub trust: &'a Trust,
    /// Reader locks, or none for a verb that only looks.
    pub locks: Option<&'a LockPolicy>,
    /// Ends the wait for a lock.
    pub cancel: &'a Cancel,
}

/// One image of a chain, opened but not yet put together with what is below it.
#[derive(Debug)]
pub struct Link {
    /// The path that it was opened by.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Its header, when it is qcow2.
    pub header: Option<Header>,
    /// The file.
    pub storage: FileStorage,
}

impl Opening<'_> {
    fn open(&self, path: &Path) -> Result<FileStorage> {
        match self.locks {
            Some(locks) => open_locked(path, Access::Read, LockMode::Reader, locks, self.cancel),
            None => FileStorage::open(path, Access::Read),
        }
    }

    /// Opens a file that the caller names, in the format that is told or that name and content
    /// agree on.
    ///
    /// # Errors
    /// As [`Evidence::believe`], and what opening says.
    pub fn named_by_caller(&self, path: &Path, told: Option<Format>) -> Result<Link> {
        let storage = self.open(path)?;
        let magic = Magic::read(&storage)?;
        let block_device = storage.info()?.kind == FileKind::BlockDevice;
        let format = Evidence { path, block_device, magic }.believe(told)?;
        Link::open(path, format, storage)
    }

    /// Everything below `top`, nearest first. `above` are files that must not come again.
    ///
    /// # Errors
    /// [`BackingCycle`](ErrorKind::BackingCycle) for a chain that comes back to itself or is
    /// deeper than [`MAX_CHAIN_DEPTH`], and as [`Trust::admit`].
    pub fn below(&self, top: &Link, above: &[FileId]) -> Result<Vec<Link>> {
        let mut seen = above.to_vec();
        seen.push(top.storage.id()?);
        let mut links: Vec<Link> = Vec::new();
        loop {
            let last = links.last().unwrap_or(top);
            let Some(next) = self.next(last, &seen)? else { return Ok(links) };
            if seen.len() >= MAX_CHAIN_DEPTH {
                let message = format!("the backing chain has more than {MAX_CHAIN_DEPTH} images");
                return Err(Error::new(ErrorKind::BackingCycle, message).at_path(&top.path));
            }
            seen.push(next.storage.id()?);
            links.push(next);
        }
    }

    /// The image that `link` names as its backing file. What was `seen` is not opened again: our
    /// own lock on it would be in the way.
    fn next(&self, link: &Link, seen: &[FileId]) -> Result<Option<Link>> {
        let Some(backing) = link.header.as_ref().and_then(|header| header.backing.as_ref()) else {
            return Ok(None);
        };
        let path = self.trust.admit(&link.path, &backing.name)?;
        if seen.contains(&FileId::of(&path)?) {
            let message = "the backing chain comes back to this file";
            return Err(Error::new(ErrorKind::BackingCycle, message).at_path(&path));
        }
        let storage = self.open(&path)?;
        let kind = storage.info()?.kind;
        if kind != FileKind::Regular && *self.trust != Trust::Full {
            let message =
                format!("is a block device, and the backing file of {}", link.path.display());
            return Err(Error::new(ErrorKind::BackingRefused, message).at_path(&path));
        }
        let format = match backing.format.as_deref() {
            Some(b"qcow2") => Format::Qcow2,
            Some(b"raw") => Format::Raw,
            Some(other) => {
                let message = format!("backing files of format '{}'", other.escape_ascii());
                return Err(Error::new(ErrorKind::UnsupportedFeature, message).at_path(&link.path));
            }
            None if *self.trust == Trust::Full => {
                let (magic, block_device) = (Magic::read(&storage)?, kind == FileKind::BlockDevice);
                Evidence { path: &path, block_device, magic }.believe(None)?
            }
            None => {
                let message = "does not record its backing file's format, so it may not be opened";
                return Err(Error::new(ErrorKind::BackingRefused, message).at_path(&link.path));
            }
        };
        Link::open(&path, format, storage).map(Some)
    }
}

impl Link {
    /// A file whose format is known; the header of a qcow2 image is read and checked.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn open(path: &Path, format: Format, storage: FileStorage) -> Result<Link> {
        let header = match format {
            Format::Qcow2 => Some(Header::read(&storage).map_err(|error| error.at_path(path))?),
            Format::Raw => None,
        };
        Ok(Link { path: path.to_owned(), format, header, storage })
    }

    /// Puts an image together with what is below it, nearest first.
    ///
    /// # Errors
    /// As [`Qcow2::open`](crate::qcow2::Qcow2::open).
    pub fn assemble(self, below: Vec<Link>) -> Result<Image> {
        let mut device: Option<Backing> = None;
        for link in below.into_iter().rev() {
            device = Some(Box::new(link.put_above(device)?));
        }
        self.put_above(device)
    }

    fn put_above(self, below: Option<Backing>) -> Result<Image> {
        match self.header {
            Some(header) => open_qcow2(&self.path, self.storage, header, below),
            None => Ok(Image::Raw(Raw::open(Box::new(self.storage))?)),
        }
    }
}
