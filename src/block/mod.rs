//! What the guest sees: a run of bytes at guest offsets.

mod layers;
mod patch;
pub mod salvage;
mod slice;

pub use layers::{Layers, Shown};
pub use patch::{Patch, PatchContent};
pub use slice::Slice;

use std::ops::Range;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use crate::error::{Error, ErrorKind, Result};

/// What becomes of the room of what is discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Discard {
    /// It is freed, and goes back to the host's file system.
    #[default]
    Unmap,
    /// It is freed; the file keeps it for what is written next.
    Free,
    /// It stays where it is and reads as zeros, so that writing there again allocates nothing.
    /// Where that cannot be said (version 2 of qcow2, raw disks), nothing happens.
    KeepAllocated,
}

/// How much memory an open image may use for its tables, in bytes: a budget, whatever the size of
/// the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheConfig {
    /// For L1 and L2 tables.
    pub table_bytes: u64,
    /// For refcount blocks; used when writing.
    pub refcount_bytes: u64,
}

impl Default for CacheConfig {
    /// 8 MiB, which map 64 GiB in clusters of 64 KiB, and 1 MiB, which counts 32 GiB of them.
    fn default() -> Self {
        CacheConfig { table_bytes: 8 << 20, refcount_bytes: 1 << 20 }
    }
}

/// How a disk is used. Name the fields that matter and take the others from
/// `DeviceOptions::default()`: there may be more of them one day.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeviceOptions {
    /// Whether it will be written. Its file must be locked for that.
    pub writable: bool,
    /// What discarding does.
    pub discard: Discard,
    /// Whether a write of nothing but zeros becomes a [`write_zeroes`](BlockDevice::write_zeroes).
    pub detect_zeroes: bool,
    /// Whether nothing that is done changes what the guest sees, as when zeros are discarded: bitmaps
    /// that say what was written stay true.
    pub keeps_contents: bool,
    /// The memory for tables; of a chain, for all its images together.
    pub cache: CacheConfig,
}

/// A disk as its guest sees it. Offsets and lengths are in bytes; any are allowed that lie inside
/// the disk. What is written may be read at once; it is on the medium after [`flush`](Self::flush).
///
/// Any number of threads may use a disk at once, for everything. Of two that change the same bytes
/// at the same time, either may be the last, byte for byte.
///
/// Where a method is called with a range beyond the disk's end, the error is
/// [`BadRequest`](crate::ErrorKind::BadRequest); otherwise errors are what the storage below says,
/// and [`Corrupt`](crate::ErrorKind::Corrupt) for an image that contradicts its format. Where on the
/// disk it was is the error's [`guest_offset`](Error::guest_offset).
pub trait BlockDevice: Send + Sync {
    /// The size of the disk.
    fn size(&self) -> u64;

    /// Fills `buf` with the bytes at `offset`. What nothing was ever written to reads as zeros.
    ///
    /// # Errors
    /// See the trait.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// See the trait; [`Permission`](crate::ErrorKind::Permission) where the disk was opened to be
    /// read. Once a change has failed on the medium, for lack of room too, nothing more is written:
    /// later changes fail with the kind of that failure and have it as their cause, and only
    /// opening the image again helps.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Makes the range read as zeros, cheaply where that is possible.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()>;

    /// Says that the guest does not need the range any more: it reads as zeros, as before or as
    /// what is below, as the format can, and its room may go back to the host.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn discard(&self, offset: u64, len: u64) -> Result<()>;

    /// Returns when everything written before is on the medium.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn flush(&self) -> Result<()>;

    /// What the run of bytes that begins at `offset` is, and where it ends: at most at `end`, which
    /// lies behind it and on the disk, and no later than something else begins. (Two runs of a kind may follow on one another.)
    ///
    /// # Errors
    /// See the trait.
    fn extent(&self, offset: u64, end: u64) -> Result<Extent>;

    /// Whether the bytes from `offset` on are zeros, with everything that lies below, as far as that
    /// can be told without reading them, and where that ends: at most at `end`, as for
    /// [`extent`](Self::extent).
    ///
    /// # Errors
    /// See the trait.
    fn content(&self, offset: u64, end: u64) -> Result<Content> {
        let Extent { len, kind, .. } = self.extent(offset, end)?;
        let is_zero = matches!(kind, ExtentKind::Zero | ExtentKind::Unallocated);
        Ok(Content { is_zero, end: offset.saturating_add(len) })
    }

    /// The runs of a range of the disk, one after the other; neighbours of a kind are one. For many
    /// runs, this is the fast way: a disk may read its tables in large pieces for it.
    fn extents(&self, range: Range<u64>) -> Extents<'_> {
        Extents::of(self, range)
    }
}

/// Whose bytes a run of a disk shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// The image's own data, in the file at this offset.
    Data {
        /// Where the run begins in the file that holds the data, in bytes.
        host_offset: u64,
    },
    /// The image's own data, compressed.
    Compressed,
    /// Zeros, as the image says, or the file system of a raw disk, which has a hole there.
    Zero,
    /// Nothing of the image's own: what is below, else zeros.
    Unallocated,
}

/// A run of bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins on the disk, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
    /// What it is.
    pub kind: ExtentKind,
}

/// What a run of a disk reads as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Whether it reads as zeros; else nobody can tell without reading it.
    pub is_zero: bool,
    /// Where it ends, in bytes from the beginning of the disk.
    pub end: u64,
}

/// A run of bytes, one of many that follow on one another.
pub trait Joins: Sized {
    /// How many bytes there are.
    fn run_len(&self) -> u64;

    /// Both as one, where `next`, which comes right behind this, goes on with what this is.
    fn joined(&self, next: &Self) -> Option<Self>;
}

impl Joins for Extent {
    fn run_len(&self) -> u64 {
        self.len
    }

    fn joined(&self, next: &Extent) -> Option<Extent> {
        let goes_on = match (self.kind, next.kind) {
            (ExtentKind::Data { host_offset: a }, ExtentKind::Data { host_offset: b }) => {
                a.checked_add(self.len) == Some(b)
            }
            (a, b) => a == b,
        };
        goes_on.then_some(Extent { len: self.len.saturating_add(next.len), ..*self })
    }
}

/// The runs of a range, one after the other; neighbours that can be one are one.
pub struct Runs<'a, R> {
    /// What the run that begins at an offset is, at most to an end.
    run: Box<dyn FnMut(u64, u64) -> Result<R> + Send + Sync + 'a>,
    at: u64,
    end: u64,
    held: Option<R>,
    /// What comes behind the run that is held.
    failed: Option<Error>,
}

/// The extents of a range, one after the other; neighbours of a kind are one.
pub type Extents<'a> = Runs<'a, Extent>;

impl<'a> Extents<'a> {
    /// Those of the bytes of `device` from `range.start` to `range.end`.
    pub fn of(device: &'a (impl BlockDevice + ?Sized), range: Range<u64>) -> Self {
        Self::with(range, move |offset, end| device.extent(offset, end))
    }
}

impl<'a, R: 'a> Runs<'a, R> {
    /// Those that `run` gives, which is asked as [`BlockDevice::extent`] is, from the beginning of
    /// the range to its end.
    pub fn with(
        range: Range<u64>,
        run: impl FnMut(u64, u64) -> Result<R> + Send + Sync + 'a,
    ) -> Self {
        let (at, end) = (range.start, range.end);
        Runs { run: Box::new(run), at, end, held: None, failed: None }
    }

    /// The same, where `tell` gets every error before anybody sees it.
    #[must_use]
    pub fn map_err(mut self, tell: impl Fn(Error) -> Error + Send + Sync + 'a) -> Self {
        let mut run = self.run;
        self.run = Box::new(move |offset, end| run(offset, end).map_err(&tell));
        self
    }
}

impl<R> std::fmt::Debug for Runs<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runs").field("at", &self.at).field("end", &self.end).finish()
    }
}

impl<R: Joins> Iterator for Runs<'_, R> {
    type Item = Result<R>;

    fn next(&mut self) -> Option<Result<R>> {
        while self.at < self.end {
            let next = match (self.run)(self.at, self.end) {
                Ok(next) => next,
                Err(error) => {
                    self.at = self.end;
                    self.failed = Some(error);
                    break;
                }
            };
            // A run has at least a byte: else this would not end.
            self.at = self.at.saturating_add(next.run_len().max(1));
            match self.held.as_ref().map(|held| held.joined(&next)) {
                None => self.held = Some(next),
                Some(Some(joined)) => self.held = Some(joined),
                Some(None) => return self.held.replace(next).map(Ok),
            }
        }
        self.held.take().map(Ok).or_else(|| self.failed.take().map(Err))
    }
}

/// Refuses a range beyond the disk's end.
///
/// # Errors
/// [`BadRequest`](ErrorKind::BadRequest).
pub fn require_inside(size: u64, what: &str, offset: u64, len: u64) -> Result<()> {
    if offset.checked_add(len).is_some_and(|end| end <= size) {
        return Ok(());
    }
    let message = format!("{what} of {len} bytes beyond the end of a disk of {size} bytes");
    Err(Error::new(ErrorKind::BadRequest, message).at_guest_offset(offset))
}

/// The length of the run from `offset` to `end`.
///
/// # Errors
/// [`BadRequest`](ErrorKind::BadRequest) for a run that is empty or goes beyond the disk's end.
pub fn require_run(size: u64, offset: u64, end: u64) -> Result<u64> {
    if offset < end && end <= size {
        return Ok(end - offset);
    }
    let message = format!("no run from {offset} to {end} on a disk of {size} bytes");
    Err(Error::new(ErrorKind::BadRequest, message).at_guest_offset(offset))
}

/// Whether there is nothing but zeros.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Chunks of a constant length are compared many bytes at a time.
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| *chunk == [0; 64]) && rest.iter().all(|&byte| byte == 0)
}

/// A disk in memory.
#[derive(Debug, Default)]
pub struct MemoryDevice(RwLock<Vec<u8>>);

impl MemoryDevice {
    /// A disk with these contents.
    pub fn new(contents: Vec<u8>) -> Self {
        MemoryDevice(RwLock::new(contents))
    }

    /// The contents now.
    pub fn contents(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> RwLockReadGuard<'_, Vec<u8>> {
        // OK to ignore poison: every change below is a single complete step.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(
        &self,
        what: &str,
        offset: u64,
        len: u64,
        with: impl FnOnce(&mut [u8]),
    ) -> Result<()> {
        let mut contents = self.0.write().unwrap_or_else(PoisonError::into_inner);
        require_inside(contents.len() as u64, what, offset, len)?;
        // OK: what lies in memory is addressed by a usize.
        with(&mut contents[offset as usize..(offset + len) as usize]);
        Ok(())
    }
}

impl BlockDevice for MemoryDevice {
    fn size(&self) -> u64 {
        self.lock().len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let contents = self.lock();
        require_inside(contents.len() as u64, "read", offset, buf.len() as u64)?;
        // OK: what lies in memory is addressed by a usize.
        buf.copy_from_slice(&contents[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.change("write", offset, data.len() as u64, |place| place.copy_from_slice(data))
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.change("write of zeros", offset, len, |place| place.fill(0))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.change("discard", offset, len, |place| place.fill(0))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        let len = require_run(self.size(), offset, end)?;
        Ok(Extent { offset, len, kind: ExtentKind::Data { host_offset: offset } })
    }
}
