//! A file in memory that remembers everything that was done to it, so that tests can rebuild what
//! a power cut would have left.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::storage::{Allocation, MemoryStorage, Storage};
use crate::error::{Error, ErrorKind, Result};

/// One thing that was done to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes were written at an offset.
    Write(u64, Vec<u8>),
    /// The length was set.
    SetLen(u64),
    /// A range was given back: it reads as zeros, or as before.
    Punch(u64, u64),
    /// Everything before is on the medium.
    Sync,
}

impl Event {
    /// Does it to a file.
    ///
    /// # Errors
    /// What the storage says.
    pub fn apply(&self, storage: &dyn Storage) -> Result<()> {
        match self {
            Event::Write(offset, data) => storage.write_at(*offset, data),
            Event::SetLen(len) => storage.set_len(*len),
            Event::Punch(offset, len) => storage.punch_hole(*offset, *len),
            Event::Sync => Ok(()),
        }
    }
}

/// A [`MemoryStorage`] with its history, which can be told to fail.
#[derive(Debug, Default)]
pub struct RecordingStorage {
    memory: MemoryStorage,
    history: Mutex<History>,
}

#[derive(Debug, Default)]
struct History {
    events: Vec<Event>,
    /// The number of the change that fails, and every one after it.
    fails_from: Option<usize>,
}

impl RecordingStorage {
    /// A file with these contents and no history.
    pub fn new(contents: Vec<u8>) -> Self {
        RecordingStorage { memory: MemoryStorage::new(contents), history: Mutex::default() }
    }

    /// From its `nth` change on (counted from 0, syncs included) the medium fails.
    pub fn fail_from(&self, nth: usize) {
        self.history().fails_from = Some(nth);
    }

    /// What was done so far.
    pub fn events(&self) -> Vec<Event> {
        self.history().events.clone()
    }

    /// The contents now.
    pub fn contents(&self) -> Vec<u8> {
        self.memory.contents()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // OK to ignore poison: each change below is complete in itself.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, event: Event) -> Result<()> {
        let mut history = self.history();
        if history.fails_from.is_some_and(|nth| history.events.len() >= nth) {
            return Err(Error::new(ErrorKind::Io, "the medium fails"));
        }
        event.apply(&self.memory)?;
        history.events.push(event);
        Ok(())
    }
}

impl Storage for RecordingStorage {
    fn len(&self) -> Result<u64> {
        self.memory.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.memory.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.record(Event::Write(offset, data.to_vec()))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.record(Event::SetLen(len))
    }

    fn allocate(&self, offset: u64, len: u64, _: Allocation) -> Result<()> {
        let end = offset.saturating_add(len);
        if end > self.len()? { self.record(Event::SetLen(end)) } else { Ok(()) }
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Result<()> {
        self.record(Event::Punch(offset, len))
    }

    fn zero_range(&self, offset: u64, len: u64) -> Result<()> {
        let len = usize::try_from(len).expect("a range of a file in memory");
        self.record(Event::Write(offset, vec![0; len]))
    }

    fn sync(&self) -> Result<()> {
        self.record(Event::Sync)
    }
}
