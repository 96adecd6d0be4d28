//! A storage that is not written any more once a write has failed: what reached the medium until
//! then is safe because of its order, and what would come after it need not be.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::{Allocation, Run, Storage};
use crate::error::{Error, ErrorKind, Result};

/// The first change that failed, of all files that share it: they fail together.
#[derive(Debug, Default)]
pub struct FirstFailure {
    error: OnceLock<Error>,
    suspended: AtomicBool,
    /// How many changes were begun.
    changes: AtomicU64,
}

/// Ends the suspension, also where a panic does.
struct Suspension<'a>(&'a FirstFailure);

impl Drop for Suspension<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let message = "a change did not come to its end";
            self.0.remember(Error::new(ErrorKind::Internal, message));
        }
        self.0.suspended.store(false, Ordering::Relaxed);
    }
}

impl FirstFailure {
    /// Does what clears up behind itself where it fails: until its end, a change that fails keeps
    /// nothing from being changed, and afterwards only where something could not be cleared up
    /// (the error is then [`changed`](Error::changed)). Nobody else may change the files meanwhile.
    ///
    /// # Errors
    /// What `run` says, or that there was a failure before.
    pub fn suspended<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        self.require_none()?;
        self.suspended.store(true, Ordering::Relaxed);
        let suspension = Suspension(self);
        let done = run();
        drop(suspension);
        done.map_err(|error| if error.changed() { self.remember(error) } else { error })
    }

    /// How many changes the files were asked for so far.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Refuses to go on behind a failure. The error has its kind, so that whoever waits for room
    /// or reports a broken medium hears of it from any call, and has it as its cause.
    fn require_none(&self) -> Result<()> {
        let Some(first) = self.error.get() else { return Ok(()) };
        let message = "nothing more is written, since an earlier write failed";
        Err(Error::new(first.kind(), message).with_source(first.clone()))
    }

    /// Part of what failed may be there.
    fn remember(&self, error: Error) -> Error {
        let error = error.after_changes();
        self.error.get_or_init(|| error.clone());
        error
    }

    /// A change failed.
    fn failed(&self, error: Error) -> Error {
        if self.suspended.load(Ordering::Relaxed) { error } else { self.remember(error) }
    }
}

/// Passes everything on until a change fails.
pub struct Latch {
    storage: Box<dyn Storage>,
    first_failure: Arc<FirstFailure>,
}

impl std::fmt::Debug for Latch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Latch").field("failed", &self.first_failure).finish_non_exhaustive()
    }
}

impl Latch {
    /// Over this file.
    pub fn new(storage: Box<dyn Storage>, first_failure: Arc<FirstFailure>) -> Self {
        Latch { storage, first_failure }
    }

    fn change(&self, change: impl FnOnce(&dyn Storage) -> Result<()>) -> Result<()> {
        self.first_failure.require_none()?;
        self.first_failure.changes.fetch_add(1, Ordering::Relaxed);
        change(&*self.storage).map_err(|error| self.first_failure.failed(error))
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
        self.first_failure.require_none()?;
        self.storage.punch_hole(offset, len)
    }

    fn zero_range(&self, offset: u64, len: u64) -> Result<()> {
        self.change(|storage| storage.zero_range(offset, len))
    }

    fn sync(&self) -> Result<()> {
        self.change(|storage| storage.sync())
    }

    fn run(&self, offset: u64, end: u64) -> Result<Run> {
        self.storage.run(offset, end)
    }

    fn is_read_only(&self) -> bool {
        self.storage.is_read_only()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::host::recording::{Failure, Fault, RecordingStorage};

    #[test]
    fn later_changes_say_what_failed_first() {
        let shared = Arc::<FirstFailure>::default();
        let files = [(); 2].map(|()| Arc::new(RecordingStorage::new(vec![1; 512])));
        let latch =
            |file: &Arc<RecordingStorage>| Latch::new(Box::new(file.clone()), shared.clone());
        let latches = files.each_ref().map(latch);
        let failure = Failure::Change(ErrorKind::NoSpace);
        files[0].fail(Fault { nth: 1, failure, lasts: false });
        latches[0].write_at(0, b"x").unwrap();
        let first = latches[0].write_at(0, b"y").unwrap_err();
        assert!(first.changed());
        for latch in &latches {
            for later in [latch.write_at(0, b"z"), latch.sync(), latch.punch_hole(0, 512)] {
                let later = later.unwrap_err();
                assert_eq!((later.kind(), later.changed()), (ErrorKind::NoSpace, false));
                let message = later.to_string();
                assert!(
                    message.ends_with("an earlier write failed: the medium fails"),
                    "{message}"
                );
            }
            assert_eq!(latch.read_at(0, &mut [0; 4]).unwrap(), 4);
        }
        assert_eq!(files[0].events().len(), 1);
    }
}
