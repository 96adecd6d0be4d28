//! What a verb gets beside its request: whom to tell, when to stop, what may be opened.

use crate::host::LockPolicy;
use crate::image::chain::Opening;
use crate::image::gate::Trust;
use crate::task::{Cancel, Progress, Task};

/// The circumstances of a call.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Receives progress.
    pub progress: &'a dyn Progress,
    /// Asks to stop.
    pub cancel: &'a Cancel,
    /// Which files named in images are opened.
    pub trust: &'a Trust,
    /// How long to wait for locks, and what to do where there are none.
    pub locks: &'a LockPolicy,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("trust", self.trust)
            .field("locks", self.locks)
            .finish_non_exhaustive()
    }
}

impl<'a> Context<'a> {
    /// Progress and cancellation, as loops take them.
    pub(super) fn task(&self) -> Task<'a> {
        Task::new(self.progress, self.cancel)
    }

    /// How files below a disk are opened: locked against writers.
    pub(super) fn opening(&self) -> Opening<'a> {
        Opening { trust: self.trust, locks: Some(self.locks), cancel: self.cancel }
    }
}
