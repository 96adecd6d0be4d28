//! [`Storage`]: the few things that an image format asks of the file that it lives in.

mod latch;
mod past_errors;

use std::sync::RwLock;

pub use latch::{FirstFailure, Latch};
pub use past_errors::{Found, data_bytes, read_past_errors};

use crate::error::{Error, ErrorKind, Result};
use crate::task::Task;

/// How [`Storage::allocate`] makes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// Blocks are reserved; they read as zeros.
    Reserve,
    /// Zeros are written.
    Zeros,
}

/// Bytes of a file that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Whether they are a hole, which reads as zeros; else they are data, or nobody can tell.
    pub is_hole: bool,
    /// Where they end.
    pub end: u64,
}

/// A file as the format engines see it: positional, synchronous, shared between threads. Offsets
/// and lengths are host bytes. Errors carry the file's path.
pub trait Storage: Send + Sync {
    /// The length of the file.
    fn len(&self) -> Result<u64>;

    /// Whether the file is empty.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Whether it becomes longer by what is written behind its end. A block device does not: it has
    /// the room that it has, and nobody knows what is in it.
    fn can_grow(&self) -> bool {
        true
    }

    /// Reads up to `buf.len()` bytes; fewer only where the file ends.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// Writes all of `data`, lengthening the file if it must.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Makes the file exactly `len` bytes long; what is added reads as zeros.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Makes sure that writing to this range cannot fail for lack of room; it reads as zeros
    /// where nothing was written.
    fn allocate(&self, offset: u64, len: u64, how: Allocation) -> Result<()>;

    /// Gives the range's room back where the file system can; it reads as zeros or as before.
    fn punch_hole(&self, offset: u64, len: u64) -> Result<()>;

    /// Makes the range read as zeros, lengthening the file if it must, without writing them where
    /// the file system knows a way.
    fn zero_range(&self, offset: u64, len: u64) -> Result<()>;

    /// Returns when everything written before is on the medium.
    fn sync(&self) -> Result<()>;

    /// What the bytes from `offset` on are, and where that ends: behind `offset`, and at `end` at
    /// the latest.
    fn run(&self, offset: u64, end: u64) -> Result<Run> {
        let _ = offset;
        Ok(Run { is_hole: false, end })
    }

    /// Whether it was opened to be read, so that every change is refused.
    fn is_read_only(&self) -> bool {
        false
    }
}

/// Refuses to change what was opened to be read, before any of it is changed.
///
/// # Errors
/// [`Permission`](ErrorKind::Permission).
pub fn refuse_read_only(storage: &dyn Storage) -> Result<()> {
    if storage.is_read_only() {
        return Err(Error::new(ErrorKind::Permission, "the file was opened to be read"));
    }
    Ok(())
}

impl<T: Storage + ?Sized> Storage for std::sync::Arc<T> {
    fn len(&self) -> Result<u64> {
        (**self).len()
    }

    fn can_grow(&self) -> bool {
        (**self).can_grow()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        (**self).read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        (**self).write_at(offset, data)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        (**self).set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64, how: Allocation) -> Result<()> {
        (**self).allocate(offset, len, how)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Result<()> {
        (**self).punch_hole(offset, len)
    }

    fn zero_range(&self, offset: u64, len: u64) -> Result<()> {
        (**self).zero_range(offset, len)
    }

    fn sync(&self) -> Result<()> {
        (**self).sync()
    }

    fn run(&self, offset: u64, end: u64) -> Result<Run> {
        (**self).run(offset, end)
    }

    fn is_read_only(&self) -> bool {
        (**self).is_read_only()
    }
}

/// Fills `buf`, which must lie inside the file: for metadata, where a missing byte is an error.
pub fn read_exact_at(storage: &dyn Storage, offset: u64, buf: &mut [u8]) -> Result<()> {
    let wanted = buf.len();
    let found = storage.read_at(offset, buf)?;
    if found < wanted {
        let message = format!("the file ends {found} bytes into a structure of {wanted} bytes");
        return Err(Error::new(ErrorKind::Corrupt, message).at_offset(offset));
    }
    Ok(())
}

/// Fills `buf` with zeros where the file has ended: for guest data.
pub fn read_padded_at(storage: &dyn Storage, offset: u64, buf: &mut [u8]) -> Result<()> {
    let found = storage.read_at(offset, buf)?;
    if let Some(rest) = buf.get_mut(found..) {
        rest.fill(0);
    }
    Ok(())
}

/// Writes zeros, stopping between pieces if asked to.
///
/// # Errors
/// [`Cancelled`](ErrorKind::Cancelled), and what the storage says.
pub fn write_zeros(storage: &dyn Storage, offset: u64, len: u64, task: Task<'_>) -> Result<()> {
    piecewise(len, task, |done, len| {
        storage.allocate(offset.saturating_add(done), len, Allocation::Zeros)
    })
}

/// Makes the range read as zeros, whatever is there, stopping between pieces if asked to.
///
/// # Errors
/// [`Cancelled`](ErrorKind::Cancelled), and what the storage says.
pub fn clear(storage: &dyn Storage, offset: u64, len: u64, task: Task<'_>) -> Result<()> {
    piecewise(len, task, |done, len| storage.zero_range(offset.saturating_add(done), len))
}

fn piecewise(len: u64, task: Task<'_>, mut zero: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
    const PIECE: u64 = 16 << 20;
    let mut done = 0;
    while done < len {
        task.step("zeros", done, len)?;
        let piece = (len - done).min(PIECE);
        zero(done, piece)?;
        done += piece;
    }
    task.step("zeros", len, len)
}

/// A file that lives in memory.
#[derive(Debug, Default)]
pub struct MemoryStorage(RwLock<Vec<u8>>);

impl MemoryStorage {
    /// A file with these contents.
    pub fn new(contents: Vec<u8>) -> Self {
        MemoryStorage(RwLock::new(contents))
    }

    /// The contents now.
    pub fn contents(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::RwLockReadGuard<'_, Vec<u8>> {
        // OK to ignore poison: every change below is a single complete step.
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn lock_mut(&self) -> std::sync::RwLockWriteGuard<'_, Vec<u8>> {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn in_memory(offset: u64, len: usize) -> Result<(usize, usize)> {
    let start = usize::try_from(offset).ok();
    let range = start.and_then(|start| Some((start, start.checked_add(len)?)));
    range.ok_or_else(|| Error::new(ErrorKind::NoSpace, "offset exceeds memory").at_offset(offset))
}

/// What holes of a [`MemoryStorage`] consist of, in bytes.
const SECTOR: usize = 512;

impl Storage for MemoryStorage {
    fn len(&self) -> Result<u64> {
        // OK: a usize always fits.
        Ok(self.lock().len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let data = self.lock();
        let (start, end) = in_memory(offset, buf.len())?;
        let end = end.min(data.len());
        let Some(found) = data.get(start..end) else { return Ok(0) };
        buf[..found.len()].copy_from_slice(found);
        Ok(found.len())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let (start, end) = in_memory(offset, data.len())?;
        let mut contents = self.lock_mut();
        if contents.len() < end {
            contents.resize(end, 0);
        }
        contents[start..end].copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let (len, _) = in_memory(len, 0)?;
        self.lock_mut().resize(len, 0);
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64, _: Allocation) -> Result<()> {
        let (end, _) = in_memory(offset.saturating_add(len), 0)?;
        let mut contents = self.lock_mut();
        if contents.len() < end {
            contents.resize(end, 0);
        }
        Ok(())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Result<()> {
        let mut contents = self.lock_mut();
        let (start, _) = in_memory(offset, 0)?;
        let (end, _) = in_memory(offset.saturating_add(len), 0)?;
        let end = end.min(contents.len());
        if let Some(range) = contents.get_mut(start..end) {
            range.fill(0);
        }
        Ok(())
    }

    fn zero_range(&self, offset: u64, len: u64) -> Result<()> {
        self.allocate(offset, len, Allocation::Zeros)?;
        self.punch_hole(offset, len)
    }

    /// Sectors of zeros are holes.
    fn run(&self, offset: u64, end: u64) -> Result<Run> {
        let is_hole = |data: &[u8], at: u64| {
            let start = usize::try_from(at).unwrap_or(usize::MAX);
            let sector = data.get(start..).unwrap_or_default();
            sector.iter().take(SECTOR).all(|&byte| byte == 0)
        };
        let data = self.lock();
        let (first, mut at) = (is_hole(&data, offset), offset);
        while at < end && is_hole(&data, at) == first {
            at = (at + 1).next_multiple_of(SECTOR as u64);
        }
        Ok(Run { is_hole: first, end: at.min(end) })
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}
