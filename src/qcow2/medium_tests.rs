//! Media that are files in memory except for what their test says: shared by such tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Allocation, MemoryStorage, Storage};

/// What a medium does in its own way.
pub(super) trait Medium: Send + Sync {
    /// How long it is at least: behind its contents are holes.
    fn min_len(&self) -> u64 {
        0
    }

    /// Whether it never becomes longer than that.
    fn is_device(&self) -> bool {
        false
    }

    /// So many bytes are about to be read.
    fn on_read(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    /// Something is about to be changed.
    fn on_change(&self) -> Result<()> {
        Ok(())
    }

    /// Everything is about to be on the medium.
    fn on_sync(&self) -> Result<()> {
        Ok(())
    }
}

/// A medium and what is on it.
pub(super) struct On<M> {
    pub(super) medium: M,
    pub(super) memory: MemoryStorage,
}

impl<M: Medium> On<M> {
    pub(super) fn holding(medium: M, bytes: Vec<u8>) -> Arc<On<M>> {
        Arc::new(On { medium, memory: MemoryStorage::new(bytes) })
    }

    /// The memory, for a change up to `end`.
    fn changing(&self, end: u64) -> Result<&MemoryStorage> {
        self.medium.on_change()?;
        if self.medium.is_device() && end > self.medium.min_len() {
            return Err(Error::new(ErrorKind::NoSpace, "the device ends"));
        }
        Ok(&self.memory)
    }
}

impl<M: Medium> Storage for On<M> {
    fn len(&self) -> Result<u64> {
        Ok(self.medium.min_len().max(self.memory.len()?))
    }

    fn can_grow(&self) -> bool {
        !self.medium.is_device()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let inside = self.len()?.saturating_sub(offset).min(buf.len() as u64);
        self.medium.on_read(offset, inside)?;
        let found = self.memory.read_at(offset, buf)?;
        buf[found..inside as usize].fill(0);
        Ok(inside as usize)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.changing(offset + data.len() as u64)?.write_at(offset, data)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        if self.medium.is_device() && len != self.len()? {
            return Err(Error::new(ErrorKind::UnsupportedFeature, "a device has its length"));
        }
        self.changing(len)?.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64, how: Allocation) -> Result<()> {
        self.changing(offset + len)?.allocate(offset, len, how)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Result<()> {
        let memory = self.changing(offset + len)?;
        // A device keeps what is there.
        if self.medium.is_device() { Ok(()) } else { memory.punch_hole(offset, len) }
    }

    fn zero_range(&self, offset: u64, len: u64) -> Result<()> {
        self.changing(offset + len)?.zero_range(offset, len)
    }

    fn sync(&self) -> Result<()> {
        self.medium.on_sync()
    }
}

/// A block device of this length.
pub(super) struct Device(u64);

impl Device {
    /// One that somebody else used before, with a file's bytes at its beginning.
    pub(super) fn holding(bytes: &[u8], len: u64) -> Arc<On<Device>> {
        let device = On::holding(Device(len), vec![0xa5; len as usize]);
        device.memory.write_at(0, bytes).unwrap();
        device
    }
}

impl Medium for Device {
    fn min_len(&self) -> u64 {
        self.0
    }

    fn is_device(&self) -> bool {
        true
    }
}

/// A file that claims to be long: some bytes at the beginning, then holes. Counts what is read.
pub(super) struct Holes {
    len: u64,
    read: AtomicU64,
    /// Whether a change is a bug.
    to_read: bool,
}

impl Holes {
    pub(super) fn behind(bytes: Vec<u8>, len: u64) -> Arc<On<Holes>> {
        On::holding(Holes { len, read: AtomicU64::new(0), to_read: false }, bytes)
    }

    /// One that is not to be changed.
    pub(super) fn to_read(bytes: Vec<u8>, len: u64) -> Arc<On<Holes>> {
        On::holding(Holes { len, read: AtomicU64::new(0), to_read: true }, bytes)
    }

    /// How many bytes were read.
    pub(super) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

impl Medium for Holes {
    fn min_len(&self) -> u64 {
        self.len
    }

    fn on_read(&self, _: u64, len: u64) -> Result<()> {
        self.read.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    fn on_change(&self) -> Result<()> {
        assert!(!self.to_read, "what is only read was changed");
        Ok(())
    }

    fn on_sync(&self) -> Result<()> {
        self.on_change()
    }
}
