//! A storage that is not written any more once a write has failed: what reached the medium until
//! then is safe because of its order, and what would come after it need not be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Allocation, Storage};
use crate::error::{Error, ErrorKind, Result};

/// Passes everything on until a change fails.
pub struct Latch {
    storage: Box<dyn Storage>,
    failed: Arc<AtomicBool>,
}

impl std::fmt::Debug for Latch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Latch").field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Latch {
    /// Files that share `failed` fail together.
    pub fn new(storage: Box<dyn Storage>, failed: Arc<AtomicBool>) -> Self {
        Latch { storage, failed }
    }

    fn change<T>(&self, change: impl FnOnce(&dyn Storage) -> Result<T>) -> Result<T> {
        self.require_sound()?;
        change(&*self.storage).map_err(|error| {
            self.failed.store(true, Ordering::Release);
            // Part of it may be there.
            error.after_changes()
        })
    }

    fn require_sound(&self) -> Result<()> {
        if self.failed.load(Ordering::Acquire) {
            let message = "an earlier write failed, so nothing more is written";
            return Err(Error::new(ErrorKind::Io, message));
        }
        Ok(())
    }
}

impl Storage for Latch {
    fn len(&self) -> Result<u64> {
        self.storage.len()
    }

    fn can_grow(&self) -> bool {
        self.storage.can_grow()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.storage.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.change(|storage| storage.write_at(offset, data))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change(|storage| storage.set_len(len))
    }

    fn allocate(&self, offset: u64, len: u64, how: Allocation) -> Result<()> {
        self.change(|storage| storage.allocate(offset, len, how))
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Result<()> {
        // Advice: where it is not taken, everything is as before.
        self.require_sound()?;
        self.storage.punch_hole(offset, len)
    }

    fn zero_range(&self, offset: u64, len: u64) -> Result<()> {
        self.change(|storage| storage.zero_range(offset, len))
    }

    fn sync(&self) -> Result<()> {
        self.change(|storage| storage.sync())
    }
}
