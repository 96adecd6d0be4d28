//! A raw disk: the guest's bytes are the file's bytes.

use std::ops::Range;
use std::sync::Arc;

use crate::block::salvage::{LossReason, Rescue, Salvage};
use crate::block::{
    BlockDevice, DeviceOptions, Discard, Extent, ExtentKind, is_zero, require_inside, require_run,
};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{
    Allocation, FirstFailure, Found, Latch, Storage, read_padded_at, read_past_errors,
    refuse_read_only, write_zeros,
};
use crate::task::Task;
use crate::units::{VirtualSize, exactly};

/// What of a raw disk's room is taken from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawAllocation {
    /// Nothing: the file is sparse.
    Sparse,
    /// The host file system reserves the room.
    Reserve,
    /// Zeros are written.
    Zeros,
}

/// An open raw disk.
pub struct Raw {
    storage: Box<dyn Storage>,
    /// The first change of it that failed.
    failure: Arc<FirstFailure>,
    size: u64,
    options: DeviceOptions,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raw").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Raw {
    /// A disk as large as the file, to be read.
    ///
    /// # Errors
    /// What the storage says.
    pub fn open(storage: Box<dyn Storage>) -> Result<Raw> {
        Self::open_with(storage, &DeviceOptions::default())
    }

    /// A disk as large as the file. The caller must hold its lock if it is to be written.
    ///
    /// # Errors
    /// To write, [`Permission`](ErrorKind::Permission) where the storage
    /// [cannot be](Storage::is_read_only); what the storage says.
    pub fn open_with(storage: Box<dyn Storage>, options: &DeviceOptions) -> Result<Raw> {
        if options.writable {
            refuse_read_only(&*storage)?;
        }
        let size = storage.len()?;
        let failure: Arc<FirstFailure> = Arc::default();
        let storage = match options.writable {
            true => Box::new(Latch::new(storage, failure.clone())),
            // What changes a disk as a whole clears up behind itself when that fails.
            false => storage,
        };
        Ok(Raw { storage, failure, size, options: *options })
    }

    /// What changes the range, if that is allowed.
    fn changing(&self, what: &str, offset: u64, len: u64) -> Result<&dyn Storage> {
        require_inside(self.size, what, offset, len)?;
        if !self.options.writable {
            return Err(Error::new(ErrorKind::Permission, "the disk was opened to be read"));
        }
        Ok(&*self.storage)
    }

    /// Makes the disk, and with it the file, `size` long; what is added reads as zeros and is
    /// allocated as told. The result is on the medium, with everything written before.
    ///
    /// # Errors
    /// [`Permission`](ErrorKind::Permission) for a storage that cannot be written, whatever the
    /// disk was opened for; [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for another size
    /// of a block device; what the storage says. Where the error is [`changed`](Error::changed),
    /// nothing more is written to the disk, and it must be opened again; else it is as before.
    pub fn resize(&mut self, size: VirtualSize, how: RawAllocation, task: Task<'_>) -> Result<()> {
        refuse_read_only(&*self.storage)?;
        if !self.storage.can_grow() && size.bytes() != self.size {
            let message = "a block device has the size that it has";
            return Err(Error::new(ErrorKind::UnsupportedFeature, message));
        }
        self.failure.suspended(|| self.resize_file(size, how, task))?;
        self.size = size.bytes();
        Ok(())
    }

    /// Changes the disk as a whole: `run` gets the file, on whose medium everything is that was
    /// written before, and leaves it `size` long.
    ///
    /// # Errors
    /// As [`resize`](Self::resize), and what `run` says: where that is not
    /// [`changed`](Error::changed), it has left the file as it was.
    pub(crate) fn change_whole(
        &mut self,
        size: VirtualSize,
        run: impl FnOnce(&dyn Storage) -> Result<()>,
    ) -> Result<()> {
        refuse_read_only(&*self.storage)?;
        self.storage.sync()?;
        self.failure.suspended(|| run(&*self.storage))?;
        self.size = size.bytes();
        Ok(())
    }

    fn resize_file(&self, size: VirtualSize, how: RawAllocation, task: Task<'_>) -> Result<()> {
        let storage = &*self.storage;
        let changed = |error: Error| error.after_changes();
        if let Some(added) = size.bytes().checked_sub(self.size).filter(|&added| added > 0) {
            let allocated = allocate(storage, self.size, added, how, task);
            if let Err(error) = allocated {
                // Back to the old length: the disk is as it was.
                return match storage.set_len(self.size).and_then(|()| storage.sync()) {
                    Ok(()) => Err(error),
                    Err(_) => Err(changed(error)),
                };
            }
        } else {
            storage.set_len(size.bytes()).map_err(|error| match storage.len() {
                Ok(len) if len == self.size => error,
                _ => changed(error),
            })?;
        }
        storage.sync().map_err(changed)
    }
}

impl BlockDevice for Raw {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        require_inside(self.size, "read", offset, buf.len() as u64)?;
        read_padded_at(&*self.storage, offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        if self.options.detect_zeroes && is_zero(data) {
            return self.write_zeroes(offset, data.len() as u64);
        }
        self.changing("write", offset, data.len() as u64)?.write_at(offset, data)
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.changing("write of zeros", offset, len)?.zero_range(offset, len)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let storage = self.changing("discard", offset, len)?;
        match self.options.discard {
            Discard::Unmap => storage.punch_hole(offset, len),
            // A file without a hole there keeps what it has, and so does the disk.
            Discard::Free | Discard::KeepAllocated => Ok(()),
        }
    }

    fn flush(&self) -> Result<()> {
        if self.options.writable { self.storage.sync() } else { Ok(()) }
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        require_run(self.size, offset, end)?;
        let run = self.storage.run(offset, end)?;
        let kind = match run.is_hole {
            true => ExtentKind::Zero,
            false => ExtentKind::Data { host_offset: offset },
        };
        Ok(Extent { offset, len: run.end.saturating_sub(offset), kind })
    }
}

impl Salvage for Raw {
    fn size(&self) -> u64 {
        self.size
    }

    fn salvage(&mut self, range: Range<u64>, to: &mut dyn Rescue) -> Result<()> {
        to.reached(range.start)?;
        read_past_errors(&*self.storage, range, |at, found| {
            to.reached(at)?;
            match found {
                Found::Data(data) => to.data(at, data)?,
                Found::Unreadable(len) => to.lost(at, len, LossReason::Unreadable),
                Found::BeyondFile(len) => to.lost(at, len, LossReason::BeyondFile),
            }
            Ok(())
        })
    }
}

/// Writes a new raw disk into an empty `storage`, with `initial` at its beginning. Does not sync.
///
/// # Errors
/// [`BadSize`](ErrorKind::BadSize) when `initial` is longer than the disk, and what the storage
/// says.
pub fn create(
    storage: &dyn Storage,
    size: VirtualSize,
    how: RawAllocation,
    initial: &[u8],
    task: Task<'_>,
) -> Result<()> {
    if initial.len() as u64 > size.bytes() {
        let initial = exactly(initial.len() as u64);
        let message = format!("size {size} is smaller than what the disk begins with: {initial}");
        return Err(Error::new(ErrorKind::BadSize, message));
    }
    allocate(storage, 0, size.bytes(), how, task)?;
    if initial.is_empty() { Ok(()) } else { storage.write_at(0, initial) }
}

/// Lengthens a file that ends at `offset`, which then reads as zeros from there on. Does not sync.
///
/// # Errors
/// [`Cancelled`](ErrorKind::Cancelled), and what the storage says.
pub(crate) fn allocate(
    storage: &dyn Storage,
    offset: u64,
    len: u64,
    how: RawAllocation,
    task: Task<'_>,
) -> Result<()> {
    match how {
        RawAllocation::Sparse => storage.set_len(offset.saturating_add(len)),
        RawAllocation::Reserve => storage.allocate(offset, len, Allocation::Reserve),
        // The file grows as they are written: what is interrupted is smaller than asked for, so
        // asking again goes on where it ended.
        RawAllocation::Zeros => write_zeros(storage, offset, len, task),
    }
}
