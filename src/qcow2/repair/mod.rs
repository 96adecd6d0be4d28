//! Mending an image: what a check finds is mended in a draft, checked again there, and only then
//! written, in an order that a crash at any point leaves mendable.

mod apply;
mod counts;
#[cfg(test)]
mod crash_tests;
mod draft;
mod intact;
mod owners;
#[cfg(test)]
mod patient_tests;
mod plan;
mod references;
mod remedy;
mod room;
mod rounds;
#[cfg(test)]
mod tests;
mod undo;

pub(super) use counts::lower;
pub use draft::Change;
pub use plan::{Lost, RepairMode, RepairPlan};
pub use remedy::Remedy;
pub use undo::{Hash, Hashed, Replaced, UndoRecord};
