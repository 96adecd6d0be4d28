//! What is handed down into every long loop: where to report progress, and when to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Receives the progress of a long operation. Implementations decide how often they show it.
pub trait Progress: Send + Sync {
    /// `done` of `total` bytes of `phase` are finished; `done` never goes backwards in a phase.
    fn advance(&self, phase: &'static str, done: u64, total: u64);
}

/// A [`Progress`] that shows nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn advance(&self, _: &'static str, _: u64, _: u64) {}
}

/// A wish to stop, shared between the one who wishes and the loops that look at it.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    own: Arc<AtomicUsize>,
    parent: Option<Arc<Cancel>>,
}

impl Cancel {
    /// A wish that nobody has made yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A wish of its own that is also made whenever this one is.
    #[must_use]
    pub fn child(&self) -> Self {
        Cancel { own: Arc::default(), parent: Some(Arc::new(self.clone())) }
    }

    /// Asks every loop that holds a clone, or a child, to stop at its next safe point.
    pub fn trip(&self) {
        // A signal that came before stays known.
        let _ = self.own.compare_exchange(0, usize::MAX, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The cell behind it: not zero once the wish is made, and the signal's number if a signal
    /// made it. `host` registers it with the system.
    pub(crate) fn cell(&self) -> &Arc<AtomicUsize> {
        &self.own
    }

    /// The signal that asked to stop, if one did.
    pub fn signal(&self) -> Option<i32> {
        match self.own.load(Ordering::Relaxed) {
            0 | usize::MAX => self.parent.as_ref()?.signal(),
            signal => i32::try_from(signal).ok(),
        }
    }

    /// Whether somebody asked to stop.
    pub fn is_tripped(&self) -> bool {
        self.own.load(Ordering::Relaxed) != 0
            || self.parent.as_ref().is_some_and(|parent| parent.is_tripped())
    }

    /// To be called wherever stopping is safe.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] once somebody asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.is_tripped() {
            return Err(Error::new(ErrorKind::Cancelled, "stopped on request"));
        }
        Ok(())
    }
}

/// Progress and cancellation together, as loops take them.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

impl std::fmt::Debug for Task<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("cancel", self.cancel).finish_non_exhaustive()
    }
}

impl<'a> Task<'a> {
    /// Joins the two.
    pub fn new(progress: &'a dyn Progress, cancel: &'a Cancel) -> Self {
        Task { progress, cancel }
    }

    /// The same, without progress: for work that is done more often than once.
    #[must_use]
    pub const fn quiet(self) -> Self {
        Task { progress: &Silent, ..self }
    }

    /// Stops here if that was asked for.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] once somebody asked to stop.
    pub fn check(&self) -> Result<()> {
        self.cancel.check()
    }

    /// Reports `done` of `total` bytes, and stops here if that was asked for.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] once somebody asked to stop.
    pub fn step(&self, phase: &'static str, done: u64, total: u64) -> Result<()> {
        self.cancel.check()?;
        self.progress.advance(phase, done, total);
        Ok(())
    }
}

/// Calls a work off at its nth report, counted from 0.
#[cfg(test)]
pub(crate) struct StopsAt {
    nth: usize,
    seen: AtomicUsize,
    cancel: Cancel,
}

#[cfg(test)]
impl StopsAt {
    pub(crate) fn new(nth: usize) -> StopsAt {
        StopsAt { nth, seen: AtomicUsize::new(0), cancel: Cancel::new() }
    }

    pub(crate) fn task(&self) -> Task<'_> {
        Task::new(self, &self.cancel)
    }

    /// Whether there were so many reports.
    pub(crate) fn has_stopped(&self) -> bool {
        self.cancel.is_tripped()
    }
}

#[cfg(test)]
impl Progress for StopsAt {
    fn advance(&self, _: &'static str, _: u64, _: u64) {
        if self.seen.fetch_add(1, Ordering::Relaxed) == self.nth {
            self.cancel.trip();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_hears_its_parent_and_not_the_other_way_round() {
        let parent = Cancel::new();
        let (first, second) = (parent.child(), parent.child());
        first.trip();
        assert!(first.is_tripped() && !second.is_tripped() && !parent.is_tripped());
        parent.trip();
        assert!(second.is_tripped());
        assert_eq!(second.signal(), None);
    }
}
