//! Checking an image: what refers to which host cluster, held against what the image counts.
//!
//! [`scan()`] looks and never writes; what it finds is data, not an error. `rebuild` makes the counts
//! of a dirty image true from what the scan counted.

mod bitmaps;
mod census;
mod compare;
mod finding;
mod ledger;
mod report;
mod scan;
mod snapshots;
mod stored;
mod tables;
#[cfg(test)]
mod tests;

pub use census::{Census, Tally};
pub use finding::{Finding, Reference, Severity, Structure};
pub use report::{MAX_FINDINGS, ScanReport};
pub use scan::scan;

pub(super) use ledger::Ledger;
pub(super) use report::ScanOptions;
pub(super) use scan::scan_with;
