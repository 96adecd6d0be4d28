//! An open image: its disk, and which files it consists of.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::change::Change;
use super::journal::Beside;
use super::probe::Format;
use crate::block::{BlockDevice, Content, Extent, Extents};
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::{Bitmap, BitmapChange, BitmapsChanged, Header, Qcow2};
use crate::raw::Raw;
use crate::task::Task;
use crate::units::VirtualSize;

/// An open image, with everything below it: a disk, whatever its format ([`BlockDevice`]).
///
/// - **It ends with [`close`](Self::close).** An image that is dropped instead is sound and lacks
///   what was written since the last [`flush`](BlockDevice::flush). If it counts references late
///   (`lazy_refcounts`), it stays marked dirty, and its counts are rebuilt when it is opened to be
///   written the next time.
/// - **A change that failed is the last**, for lack of room too: see
///   [`write_at`](BlockDevice::write_at). Reading goes on. A hypervisor that stops its guest until
///   there is room again has to open the image again as well, and to repeat what was not flushed.
/// - **Errors say which file they are about**: the image, its data file, or one below.
/// - **Relative names in an image** are looked for in the folder of the path that it was opened by,
///   which may be that of a symbolic link; those in an image below, in the folder where that file
///   really is (where QEMU stays in that of the link).
/// - **Bitmaps become invalid with the first change**, as the format has it for programs that do
///   not keep them up to date. They stay in the file: QEMU calls them inconsistent, a check takes
///   their room for leaked, and incremental backups that build on them have to begin anew.
#[derive(Debug)]
pub struct Image {
    pub(super) path: PathBuf,
    pub(super) data_path: Option<PathBuf>,
    pub(super) backing_path: Option<PathBuf>,
    pub(super) writable: bool,
    /// Where a raw disk has its journal.
    pub(super) journal: Option<Beside>,
    pub(super) disk: Disk,
}

/// The disk of an image, by its format.
#[derive(Debug)]
pub(super) enum Disk {
    Qcow2(Box<Qcow2>),
    Raw(Raw),
}

impl Image {
    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its backing file is, without symbolic links; its name as stored is in the header.
    pub fn backing_file(&self) -> Option<&Path> {
        self.backing_path.as_deref()
    }

    /// Where its external data file is, without symbolic links.
    pub fn data_file(&self) -> Option<&Path> {
        self.data_path.as_deref()
    }

    /// Its format.
    pub fn format(&self) -> Format {
        match self.disk {
            Disk::Qcow2(_) => Format::Qcow2,
            Disk::Raw(_) => Format::Raw,
        }
    }

    /// Whether it was opened to be written.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Bytes a cluster; a raw disk has none.
    pub fn cluster_size(&self) -> Option<u64> {
        self.header().map(|header| header.geometry.cluster_size())
    }

    /// The header, unless the disk is raw: as it was when the image was opened, once a dirty one
    /// was rebuilt, or resized. What the guest writes sets and clears feature bits since.
    pub fn header(&self) -> Option<&Header> {
        match &self.disk {
            Disk::Qcow2(image) => Some(image.header()),
            Disk::Raw(_) => None,
        }
    }

    /// Writes whole clusters, compressed: see [`Qcow2::write_compressed`].
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for raw disks; otherwise as there.
    pub fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.of_file(match &self.disk {
            Disk::Qcow2(image) => image.write_compressed(offset, data),
            Disk::Raw(_) => {
                let message = "a raw disk cannot have compressed clusters";
                Err(Error::new(ErrorKind::UnsupportedFeature, message))
            }
        })
    }

    /// Changes the image's bitmaps: see [`Qcow2::change_bitmaps`].
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for raw disks; otherwise as there.
    pub fn change_bitmaps(
        &mut self,
        change: &BitmapChange<'_>,
        task: Task<'_>,
    ) -> Result<BitmapsChanged> {
        let changed = match &mut self.disk {
            Disk::Qcow2(image) => image.change_bitmaps(change, task),
            Disk::Raw(_) => {
                let message = "a raw disk has no bitmaps";
                Err(Error::new(ErrorKind::UnsupportedFeature, message))
            }
        };
        self.of_file(changed)
    }

    /// The image's bitmaps: see [`Qcow2::bitmaps`]. A raw disk has none.
    ///
    /// # Errors
    /// As there.
    pub fn bitmaps(&self) -> Result<Vec<Bitmap>> {
        match &self.disk {
            Disk::Qcow2(image) => self.of_file(image.bitmaps()),
            Disk::Raw(_) => Ok(Vec::new()),
        }
    }

    /// Makes the disk larger or smaller, rounded up to 512 bytes by [`VirtualSize`], as
    /// [`apply_atomically`](Self::apply_atomically) does with nothing to write. Added bytes read as
    /// zeros; what lies behind a smaller disk's end is lost. Everything written before is on the
    /// medium afterwards. `task` hears of the progress, and can stop it.
    ///
    /// # Errors
    /// [`Permission`](ErrorKind::Permission) for an image that was opened to be read; as
    /// [`Qcow2::resize`] and [`Raw::resize`].
    pub fn resize(&mut self, size: VirtualSize, task: Task<'_>) -> Result<()> {
        if !self.writable {
            let message = "the image was opened to be read";
            return self.of_file(Err(Error::new(ErrorKind::Permission, message)));
        }
        self.apply_atomically(&Change::of_size(size), task).map(drop)
    }

    /// Writes what is still in memory, and returns when everything is on the medium: the real end
    /// of an image that was written.
    ///
    /// # Errors
    /// What the system says.
    pub fn close(self) -> Result<()> {
        let closed = match self.disk {
            Disk::Qcow2(image) => image.close(),
            Disk::Raw(image) => image.flush(),
        };
        closed.map_err(|error| error.at_path(&self.path))
    }

    fn device(&self) -> &dyn BlockDevice {
        match &self.disk {
            Disk::Qcow2(image) => &**image,
            Disk::Raw(image) => image,
        }
    }

    /// Where an error does not say which file it is about, it is this one.
    pub(super) fn of_file<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| error.at_path(&self.path))
    }
}

impl BlockDevice for Image {
    fn size(&self) -> u64 {
        self.device().size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.of_file(self.device().read_at(offset, buf))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.of_file(self.device().write_at(offset, data))
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.of_file(self.device().write_zeroes(offset, len))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.of_file(self.device().discard(offset, len))
    }

    fn flush(&self) -> Result<()> {
        self.of_file(self.device().flush())
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        self.of_file(self.device().extent(offset, end))
    }

    fn content(&self, offset: u64, end: u64) -> Result<Content> {
        self.of_file(self.device().content(offset, end))
    }

    fn extents(&self, range: Range<u64>) -> Extents<'_> {
        match &self.disk {
            Disk::Qcow2(image) => image.extents(range).map_err(|error| error.at_path(&self.path)),
            Disk::Raw(_) => Extents::of(self, range),
        }
    }
}
