//! Sequential writing through one bounded buffer.

use super::entry::L2Entry;
use super::geometry::{ClusterCount, Geometry};
use crate::error::Result;
use crate::host::storage::Storage;

/// Bytes gathered before a write.
const CAPACITY: usize = 1 << 20;
/// What is as large as this is not worth a copy.
const LARGE: usize = CAPACITY / 4;

/// L2 entries that follow one another, each word larger than the one before by the same step.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryRun {
    pub(super) first: L2Entry,
    pub(super) step: u64,
    pub(super) count: ClusterCount,
}

impl EntryRun {
    /// No run is longer, so that progress is told and wishes to stop are heard.
    pub(super) const MAX: ClusterCount = ClusterCount::new(1 << 20);
}

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
        if data.len() >= LARGE {
            self.flush()?;
            self.storage.write_at(self.offset, data)?;
            let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
            self.offset = self.offset.saturating_add(len);
            return Ok(());
        }
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= CAPACITY { self.flush() } else { Ok(()) }
    }

    /// Appends a run of L2 entries in the form that the geometry has.
    pub(super) fn put_entries(&mut self, run: EntryRun, geometry: Geometry) -> Result<()> {
        let size = usize::try_from(geometry.l2_entry_size()).unwrap_or(8);
        let bitmap = run.first.bitmap.to_be_bytes();
        let mut word = run.first.word;
        let mut left = usize::try_from(run.count.get()).unwrap_or(usize::MAX);
        while left > 0 {
            let room = CAPACITY.saturating_sub(self.buffer.len()).div_ceil(size);
            let piece = left.min(room);
            let start = self.buffer.len();
            self.buffer.resize(start.saturating_add(piece.saturating_mul(size)), 0);
            let entries = self.buffer.get_mut(start..).unwrap_or_default();
            for entry in entries.chunks_exact_mut(size) {
                if let Some((stored, subclusters)) = entry.split_first_chunk_mut() {
                    *stored = word.to_be_bytes();
                    if let Some(stored) = subclusters.first_chunk_mut() {
                        *stored = bitmap;
                    }
                }
                word = word.wrapping_add(run.step);
            }
            left = left.saturating_sub(piece);
            if self.buffer.len() >= CAPACITY {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Puts `data` at `offset`. Nothing is written in between.
    pub(super) fn put_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if offset != self.end() {
            self.flush()?;
            self.offset = offset;
        }
        self.put(data)
    }

    /// Where the next piece goes.
    fn end(&self) -> u64 {
        self.offset.saturating_add(u64::try_from(self.buffer.len()).unwrap_or(u64::MAX))
    }

    /// Goes on at `offset`. A short gap is filled with zeros, a long one is left as it is.
    pub(super) fn seek(&mut self, offset: u64) -> Result<()> {
        let gap = offset.checked_sub(self.end()).and_then(|gap| usize::try_from(gap).ok());
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
