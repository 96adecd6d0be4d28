//! Works that are called off on the way.

use std::sync::atomic::{AtomicUsize, Ordering};

use vmdisk::task::{Cancel, Progress};

/// Calls a work off at its nth report, counted from 0.
pub(crate) struct StopsAt {
    nth: usize,
    pub(crate) seen: AtomicUsize,
    pub(crate) cancel: Cancel,
}

impl StopsAt {
    pub(crate) fn new(nth: usize) -> StopsAt {
        StopsAt { nth, seen: AtomicUsize::new(0), cancel: Cancel::new() }
    }
}

impl Progress for StopsAt {
    fn advance(&self, _: &'static str, _: u64, _: u64) {
        if self.seen.fetch_add(1, Ordering::Relaxed) == self.nth {
            self.cancel.trip();
        }
    }
}
