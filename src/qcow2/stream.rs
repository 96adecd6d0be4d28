//! Sequential writing through one bounded buffer.

use crate::error::Result;
use crate::host::storage::Storage;

/// Bytes gathered before a write.
const CAPACITY: usize = 1 << 20;

/// Turns small pieces that follow one another into large writes. What is skipped stays a hole.
pub(super) struct StreamWriter<'a> {
    storage: &'a dyn Storage,
    buffer: Vec<u8>,
    /// Where the buffer's first byte goes.
    offset: u64,
}

impl<'a> StreamWriter<'a> {
    /// Begins at `offset`.
    pub(super) fn new(storage: &'a dyn Storage, offset: u64) -> Self {
        StreamWriter { storage, buffer: Vec::with_capacity(CAPACITY), offset }
    }

    /// Appends `data`.
    pub(super) fn put(&mut self, data: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= CAPACITY { self.flush() } else { Ok(()) }
    }

    /// Goes on at `offset`. A short gap is filled with zeros, a long one is left as it is.
    pub(super) fn seek(&mut self, offset: u64) -> Result<()> {
        let end = self.offset.saturating_add(u64::try_from(self.buffer.len()).unwrap_or(u64::MAX));
        let gap = offset.checked_sub(end).and_then(|gap| usize::try_from(gap).ok());
        match gap.filter(|&gap| gap < 4096) {
            Some(gap) => self.buffer.resize(self.buffer.len().saturating_add(gap), 0),
            None => {
                self.flush()?;
                self.offset = offset;
            }
        }
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish(mut self) -> Result<()> {
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.storage.write_at(self.offset, &self.buffer)?;
            let len = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
            self.offset = self.offset.saturating_add(len);
            self.buffer.clear();
        }
        Ok(())
    }
}
