//! The backing chain: from an image down to the file that has nothing below it.

#[cfg(test)]
mod tests;
mod written;

use std::path::{Path, PathBuf};

use super::gate::{MAX_CHAIN_DEPTH, Named, Trust};
use super::journal::{Beside, settle};
use super::opened::{Disk, Image};
use super::probe::{Evidence, Format, Magic};
use crate::block::{CacheConfig, DeviceOptions};
use crate::error::{Case, Error, ErrorKind, Result};
use crate::host::{
    Access, FileId, FileKind, FileStorage, LockMode, LockPolicy, open_locked, open_resolved_locked,
    resolve,
};
use crate::qcow2::{Backing, Header, Incompatible, Parts, Qcow2, find_snapshot, read_snapshots};
use crate::raw::Raw;
use crate::task::{Cancel, Silent, Task};
use crate::units::ByteSize;

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
    /// Whether the header is that of a [snapshot's](Link::at_snapshot) disk, to be read alone.
    pub is_snapshot: bool,
}

impl Opening<'_> {
    /// Opens a file that an image names, by the path that the gate admitted: a symbolic link that
    /// has appeared in it since is not followed. What cannot be the file is not even opened.
    fn open_named(
        &self,
        path: &Path,
        what: Named,
        image: &Path,
        seen: &mut Seen,
    ) -> Result<FileStorage> {
        seen.require_new(path, what, image)?;
        self.require_kind(FileKind::of(path)?, path, what, image)?;
        let (access, mode) = access(what.is_written());
        let file = match self.locks {
            Some(locks) => open_resolved_locked(path, access, mode, locks, self.cancel)?,
            None => FileStorage::open(path, access)?,
        };
        // Another file may have taken its place before it was opened.
        seen.add(&file, what, image)?;
        self.require_kind(file.info()?.kind, path, what, image)?;
        Ok(file)
    }

    /// Only who trusts an image fully has devices opened that it names.
    fn require_kind(&self, kind: FileKind, path: &Path, what: Named, image: &Path) -> Result<()> {
        if kind == FileKind::Regular || *self.trust == Trust::Full {
            return Ok(());
        }
        let message = format!("is a block device, and the {what} of {}", image.display());
        Err(Error::new(ErrorKind::BackingRefused, message).at_path(path))
    }

    /// Opens a file that the caller names, in the format that is told or that name and content
    /// agree on. A change of a raw disk that was interrupted is completed first, if the disk is to
    /// be written and is locked.
    ///
    /// # Errors
    /// As [`Evidence::believe`]; [`JournalStale`](ErrorKind::JournalStale) for a change that cannot
    /// be completed, since something else has changed the disk; what opening says.
    pub fn named_by_caller(
        &self,
        path: &Path,
        told: Option<Format>,
        writable: bool,
    ) -> Result<Link> {
        let (access, mode) = access(writable);
        let storage = match self.locks {
            Some(locks) => open_locked(path, access, mode, locks, self.cancel)?,
            None => FileStorage::open(&resolve(path)?, access)?,
        };
        let magic = Magic::read(&storage)?;
        let block_device = storage.info()?.kind == FileKind::BlockDevice;
        let format = Evidence { path, block_device, magic }.believe(told)?;
        if writable && self.locks.is_some() && format == Format::Raw {
            settle(&storage, Task::new(&Silent, self.cancel))?;
        }
        Link::open(path, format, storage)
    }

    /// Every file that an image and those below it consist of, their data files too.
    ///
    /// # Errors
    /// As [`Trust::admit`], and what stat(2) says.
    pub fn files(&self, top: &Link, below: &[Link]) -> Result<Vec<FileId>> {
        let mut files = Vec::new();
        for link in [top].into_iter().chain(below) {
            files.push(link.storage.id()?);
            let external = link.header.as_ref().filter(|header| header.has_external_data());
            if let Some(name) = external.and_then(Header::data_file) {
                files.push(FileId::of(&self.trust.admit(&link.path, Named::DataFile, name)?)?);
            }
        }
        Ok(files)
    }

    /// Everything below `top`, nearest first. `above` are files that must not come again.
    ///
    /// # Errors
    /// [`BackingCycle`](ErrorKind::BackingCycle) for a chain that comes back to itself or is
    /// deeper than [`MAX_CHAIN_DEPTH`], and as [`Trust::admit`].
    pub fn below(&self, top: &Link, above: &[FileId]) -> Result<Vec<Link>> {
        match self.below_as_far(top, above) {
            (links, None) => Ok(links),
            (_, Some(error)) => Err(error),
        }
    }

    /// Everything below `top` that can be opened, nearest first, and why it goes no further.
    pub fn below_as_far(&self, top: &Link, above: &[FileId]) -> (Vec<Link>, Option<Error>) {
        let mut links: Vec<Link> = Vec::new();
        let failed = self.collect_below(top, above, &mut links).err();
        (links, failed)
    }

    fn collect_below(&self, top: &Link, above: &[FileId], links: &mut Vec<Link>) -> Result<()> {
        let mut seen = Seen(above.to_vec());
        seen.0.push(top.storage.id()?);
        loop {
            let last = links.last().unwrap_or(top);
            let next = self.next(last, |_| Ok(Named::BackingFile), &mut seen)?;
            let Some(next) = next else { return Ok(()) };
            seen.require_depth(top)?;
            links.push(next);
        }
    }

    /// The image that `link` names as its backing file; `what` says of the file where that leads
    /// what it is opened for.
    fn next(
        &self,
        link: &Link,
        what: impl FnOnce(&Path) -> Result<Named>,
        seen: &mut Seen,
    ) -> Result<Option<Link>> {
        let Some(backing) = link.header.as_ref().and_then(|header| header.backing.as_ref()) else {
            return Ok(None);
        };
        let mut path = self.trust.admit(&link.path, Named::BackingFile, &backing.name)?;
        let what = what(&path)?;
        if what.is_written() {
            path = self.trust.admit(&link.path, what, &backing.name)?;
        }
        let storage = self.open_named(&path, what, &link.path, seen)?;
        let kind = storage.info()?.kind;
        log::info!("{} lies above {}", link.path.display(), path.display());
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

    /// Puts an image together with what is below it, nearest first, and opens the data files that
    /// they name. What lies below is only read; the memory for tables is shared out evenly. `above`
    /// are files that must not come again.
    ///
    /// # Errors
    /// [`BackingCycle`](ErrorKind::BackingCycle) for a data file that is an image of the chain, or
    /// another one's data file; as [`Trust::admit`] and [`Qcow2::open_with`].
    pub fn assemble(
        &self,
        top: Link,
        below: Vec<Link>,
        above: &[FileId],
        options: &DeviceOptions,
    ) -> Result<Image> {
        let tables = below.iter().chain([&top]).filter(|link| link.header.is_some()).count();
        let share = u64::try_from(tables).unwrap_or(u64::MAX).max(1);
        let cache = CacheConfig { table_bytes: options.cache.table_bytes / share, ..options.cache };
        let reads = DeviceOptions { cache, ..DeviceOptions::default() };
        let mut seen = Seen(above.to_vec());
        for link in below.iter().chain([&top]) {
            seen.0.push(link.storage.id()?);
        }
        let mut image = None;
        for link in below.into_iter().rev() {
            image = Some(self.put_above(image, link, &mut seen, &reads)?);
        }
        self.put_above(image, top, &mut seen, &DeviceOptions { cache, ..*options })
    }

    fn put_above(
        &self,
        below: Option<Image>,
        link: Link,
        seen: &mut Seen,
        options: &DeviceOptions,
    ) -> Result<Image> {
        let Link { path, header, storage, is_snapshot, .. } = link;
        if is_snapshot && options.writable {
            let message = "the disk of a snapshot can be read and not be written";
            return Err(Error::new(ErrorKind::BadRequest, message).at_path(&path));
        }
        let (mut data_path, mut backing_path) = (None, None);
        let journal = if header.is_none() { Beside::of(&storage)? } else { None };
        let disk = match header {
            None => Raw::open_with(Box::new(storage), options).map(Disk::Raw),
            Some(header) => {
                let data_file = self.data_file(&path, &header, seen, options.writable)?;
                data_path = data_file.as_ref().map(|file| file.path().to_owned());
                backing_path = below.as_ref().map(|image| image.path().to_owned());
                let parts = Parts {
                    storage: Box::new(storage),
                    data_file: data_file.map(|file| Box::new(file) as _),
                    backing: below.map(|image| Box::new(image) as Backing),
                };
                let task = Task::new(&Silent, self.cancel);
                let image = Qcow2::open_with(parts, header, options, task);
                image.map(|image| Disk::Qcow2(Box::new(image)))
            }
        };
        let disk = disk.map_err(|error| error.at_path(&path))?;
        Ok(Image { path, data_path, backing_path, writable: options.writable, journal, disk })
    }

    /// The file that an image keeps its guest data in, where that is not the image itself.
    pub(super) fn data_file(
        &self,
        image: &Path,
        header: &Header,
        seen: &mut Seen,
        writable: bool,
    ) -> Result<Option<FileStorage>> {
        if !header.has_external_data() {
            return Ok(None);
        }
        let Some(name) = header.data_file() else {
            let message = "keeps its data in an external data file and does not name it";
            return Err(Error::new(ErrorKind::Corrupt, message).at_path(image));
        };
        let what = if writable { Named::DataFileToWrite } else { Named::DataFile };
        let path = self.trust.admit(image, what, name)?;
        log::info!("{} has its data in {}", image.display(), path.display());
        self.open_named(&path, what, image, seen).map(Some)
    }
}

fn access(writable: bool) -> (Access, LockMode) {
    match writable {
        true => (Access::Write, LockMode::Writer),
        false => (Access::Read, LockMode::Reader),
    }
}

/// The files of a chain, none of which comes twice.
#[derive(Default)]
pub(super) struct Seen(Vec<FileId>);

impl Seen {
    /// Remembers a file of the chain.
    pub(super) fn remember(&mut self, file: FileId) {
        self.0.push(file);
    }

    /// All of them.
    pub(super) fn files(self) -> Vec<FileId> {
        self.0
    }

    /// Refuses a chain that is deeper than any that is followed.
    fn require_depth(&self, top: &Link) -> Result<()> {
        if self.0.len() <= MAX_CHAIN_DEPTH {
            return Ok(());
        }
        let message = format!("the backing chain has more than {MAX_CHAIN_DEPTH} images");
        let error = Error::new(ErrorKind::BackingCycle, message).in_case(Case::TooDeep);
        Err(error.at_path(&top.path))
    }

    /// Refuses the file that `path` leads to now. It is not even opened: our own lock on it would
    /// be in the way, and where there are no locks, guest data would overwrite an image.
    fn require_new(&self, path: &Path, what: Named, image: &Path) -> Result<()> {
        self.refuse(FileId::of(path)?, path, what, image)
    }

    /// Remembers the file that was opened, unless it has taken the place of a new one meanwhile.
    fn add(&mut self, file: &FileStorage, what: Named, image: &Path) -> Result<()> {
        let id = file.id()?;
        self.refuse(id, file.path(), what, image)?;
        self.0.push(id);
        Ok(())
    }

    fn refuse(&self, id: FileId, path: &Path, what: Named, image: &Path) -> Result<()> {
        if !self.0.contains(&id) {
            return Ok(());
        }
        let message =
            format!("is the {what} of {}, and in the same chain already", image.display());
        Err(Error::new(ErrorKind::BackingCycle, message).at_path(path))
    }
}

impl Link {
    /// Whether it was not closed cleanly: opened to be written, its reference counts are made true.
    pub fn is_dirty(&self) -> bool {
        let header = self.header.as_ref();
        header.is_some_and(|header| header.incompatible.contains(Incompatible::DIRTY))
    }

    /// A file whose format is known; the header of a qcow2 image is read and checked.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn open(path: &Path, format: Format, storage: FileStorage) -> Result<Link> {
        let header = match format {
            Format::Qcow2 => Some(Header::read(&storage).map_err(|error| error.at_path(path))?),
            Format::Raw => None,
        };
        match &header {
            Some(header) => {
                let size = ByteSize::from_bytes(header.virtual_size);
                log::info!("{} is {format}, a disk of {size}", path.display());
            }
            None => log::info!("{} is {format}", path.display()),
        }
        Ok(Link { path: path.to_owned(), format, header, storage, is_snapshot: false })
    }

    /// The same image with the disk of the snapshot that has this id or this name, to be read: what
    /// is below it shows through as it does now.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), [`BadRequest`](ErrorKind::BadRequest) where several are
    /// meant, [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for a raw disk, and as
    /// [`Header::at_snapshot`].
    pub fn at_snapshot(self, id_or_name: &str) -> Result<Link> {
        let at_path = |error: Error| error.at_path(&self.path);
        let Some(header) = &self.header else {
            let message = "a raw disk has no internal snapshots";
            return Err(at_path(Error::new(ErrorKind::UnsupportedFeature, message)));
        };
        let snapshots = read_snapshots(&self.storage, header).map_err(at_path)?;
        let place = find_snapshot(&snapshots, id_or_name).map_err(at_path)?;
        let snapshot = snapshots.get(place);
        let header = snapshot.map(|snapshot| header.at_snapshot(&self.storage, snapshot));
        let header = header.transpose().map_err(at_path)?;
        Ok(Link { header, is_snapshot: true, ..self })
    }
}
