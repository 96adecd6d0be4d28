//! Internal snapshots: the table that lists them, and making, applying and deleting them.
//!
//! A snapshot is an L1 table of its own. What it leads to is shared with the active disk, counted
//! once for each L1 table that leads there, and copied when it is written. An entry of the active
//! tables says by its COPIED flag that its cluster is counted once, so a change of who refers to what
//! changes counts and flags far apart in the file. Here both are written anew: the L2 tables whose
//! flags change, the L1 table, the snapshot table, the refcount blocks whose counts change and the
//! refcount table, all in clusters that are free. One write in the header's first sector makes all of
//! it true (`change.rs`); a crash leaves the image as it was or as it is meant to be, and nothing
//! leaked.
//!
//! - `table.rs` reads the table, and says what an entry of it is; `change.rs` has what is done to it.
//! - `references.rs` counts what an L1 table leads to; `plan.rs` says what a change writes, from what
//!   `counts.rs` says of the counts and `room.rs` of the room; `apply.rs` writes it.
//! - `exclusive.rs` tells what a snapshot alone holds on to.

mod apply;
mod change;
mod counts;
#[cfg(test)]
mod crash_tests;
mod exclusive;
mod plan;
mod references;
mod room;
#[cfg(test)]
pub(super) mod subject_tests;
mod table;
#[cfg(test)]
mod tests;

pub use change::{NewSnapshot, SnapshotChange};
pub use exclusive::exclusive_bytes;
pub use table::{Snapshot, find_snapshot, read_snapshots};

pub(super) use table::{SnapshotReader, l1_places, table_bytes};
