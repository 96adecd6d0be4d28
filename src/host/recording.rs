//! A file in memory that remembers everything that was done to it, so that tests can rebuild what
//! a power cut would have left, and that fails where it is told to. Several may share a history.

use std::backtrace::Backtrace;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::storage::{Allocation, MemoryStorage, Run, Storage};
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

/// One thing that was done to one of several files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The file's place among those that were made [together](RecordingStorage::together).
    pub file: usize,
    /// What was done.
    pub event: Event,
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

/// What goes wrong with the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// A change does nothing and fails like this.
    Change(ErrorKind),
    /// The first half of a write reaches the medium, in whole sectors; then there is no more room.
    /// A change that is not a write does nothing.
    ShortWrite,
    /// A read fails.
    Read,
}

/// Where something goes wrong, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The number of the change, or of the read, that fails first; counted from 0, syncs included.
    pub nth: usize,
    /// What goes wrong.
    pub failure: Failure,
    /// Whether it goes on like that; else it happens once.
    pub lasts: bool,
}

/// A [`MemoryStorage`] with its history, which can be told to fail.
#[derive(Debug, Default)]
pub struct RecordingStorage {
    memory: MemoryStorage,
    file: usize,
    history: Arc<Mutex<History>>,
}

#[derive(Debug, Default)]
struct History {
    records: Vec<Record>,
    /// Changes that were asked for, whatever became of them.
    changes: usize,
    reads: usize,
    fault: Option<Fault>,
    /// Who asked for each sync, if that is to be known.
    traces: Option<Vec<Backtrace>>,
}

impl RecordingStorage {
    /// A file with these contents and no history.
    pub fn new(contents: Vec<u8>) -> Self {
        RecordingStorage { memory: MemoryStorage::new(contents), ..RecordingStorage::default() }
    }

    /// Files with these contents and one history, which is empty: what is done to any of them has
    /// its place in it, and counts where they are told to fail.
    pub fn together(contents: Vec<Vec<u8>>) -> Vec<Self> {
        let history = Arc::default();
        let file = |(file, contents)| {
            let memory = MemoryStorage::new(contents);
            RecordingStorage { memory, file, history: Arc::clone(&history) }
        };
        contents.into_iter().enumerate().map(file).collect()
    }

    /// From its `nth` change on (counted from 0, syncs included) the medium fails.
    pub fn fail_from(&self, nth: usize) {
        self.fail(Fault { nth, failure: Failure::Change(ErrorKind::Io), lasts: true });
    }

    /// The medium fails as this says.
    pub fn fail(&self, fault: Fault) {
        self.history().fault = Some(fault);
    }

    /// From now on it is remembered who asks for each sync.
    pub fn trace_syncs(&self) {
        self.history().traces = Some(Vec::new());
    }

    /// Who asked for each sync, as far as the program knows its own functions.
    pub fn sync_traces(&self) -> Vec<String> {
        self.history().traces.iter().flatten().map(Backtrace::to_string).collect()
    }

    /// How many changes and how many reads were asked for.
    pub fn operations(&self) -> (usize, usize) {
        let history = self.history();
        (history.changes, history.reads)
    }

    /// What was done to this file so far.
    pub fn events(&self) -> Vec<Event> {
        let history = self.history();
        let mine = history.records.iter().filter(|record| record.file == self.file);
        mine.map(|record| record.event.clone()).collect()
    }

    /// What was done so far to all files that share the history.
    pub fn records(&self) -> Vec<Record> {
        self.history().records.clone()
    }

    /// How much that is.
    pub fn done(&self) -> usize {
        self.history().records.len()
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
        let number = history.changes;
        history.changes += 1;
        let fault = history.fault.filter(|fault| fault.failure != Failure::Read);
        let Some(fault) = fault.filter(|fault| fault.strikes(number)) else {
            event.apply(&self.memory)?;
            history.records.push(Record { file: self.file, event });
            return Ok(());
        };
        let Failure::Change(kind) = fault.failure else {
            if let Some(head) = first_sectors(&event) {
                head.apply(&self.memory)?;
                history.records.push(Record { file: self.file, event: head });
            }
            return Err(Error::new(ErrorKind::NoSpace, "the medium is full"));
        };
        Err(Error::new(kind, "the medium fails"))
    }
}

impl Fault {
    fn strikes(self, number: usize) -> bool {
        number == self.nth || self.lasts && number > self.nth
    }
}

/// The first half of a write, up to a sector's end: no medium tears a sector.
fn first_sectors(event: &Event) -> Option<Event> {
    let Event::Write(offset, data) = event else { return None };
    let end = (offset + data.len() as u64 / 2).next_multiple_of(512);
    let len = usize::try_from(end.checked_sub(*offset)?).ok()?;
    (0 < len && len < data.len()).then(|| Event::Write(*offset, data[..len].to_vec()))
}

impl Storage for RecordingStorage {
    fn len(&self) -> Result<u64> {
        self.memory.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut history = self.history();
        let number = history.reads;
        history.reads += 1;
        let fault = history.fault.filter(|fault| fault.failure == Failure::Read);
        if fault.is_some_and(|fault| fault.strikes(number)) {
            return Err(Error::new(ErrorKind::Io, "the medium cannot be read").at_offset(offset));
        }
        drop(history);
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

    fn run(&self, offset: u64, end: u64) -> Result<Run> {
        self.memory.run(offset, end)
    }

    fn sync(&self) -> Result<()> {
        if let Some(traces) = &mut self.history().traces {
            traces.push(Backtrace::force_capture());
        }
        self.record(Event::Sync)
    }
}
