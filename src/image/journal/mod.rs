//! What makes the guest's data change together with the length of a raw disk: a journal beside it.
//!
//! A raw disk has no place of its own where something new could wait to become true. So what it
//! holds and what it will hold is written to a file beside it first (`place`), whole and synced;
//! then to the disk, in stages (`change`); then the journal goes. Whoever finds a journal when
//! opening the disk to write to it completes what it says (`settle`), if the disk holds nothing
//! but what the journal knows of: somebody may have used the disk since.
//!
//! What is deliberately absent: readers act on no journal, and no journal is ever taken away that
//! does not fit its disk.

mod change;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod fault_tests;
mod format;
mod place;
mod settle;
#[cfg(test)]
mod settle_tests;
#[cfg(test)]
mod subject_tests;

pub(super) use change::{Lens, change};
pub(super) use place::{Beside, Place};
pub(crate) use settle::settle;
pub use settle::{Pending, PendingState, Settled, pending, refuse_orphan, refuse_pending};
