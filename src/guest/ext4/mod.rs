//! ext2, ext3 and ext4: what a filesystem says of itself, and the bytes that make it fill a
//! partition that grew, without mounting it; and what of it is free.
//!
//! A filesystem grows as `resize2fs` grows one that is not mounted, within what `mkfs` reserved for
//! that: no block of a file moves. Whatever the plan relies on is read and checked first, with its
//! checksums; what is not understood in full is refused, each time with its reason.
//!
//! Everything here is little-endian. The names of fields are those of e2fsprogs
//! (`lib/ext2fs/ext2_fs.h`); what they mean is from there and from the kernel's
//! `Documentation/filesystems/ext4`.
//!
//! Left out on purpose: replaying a journal, shrinking, and layouts that need blocks to move
//! (`meta_bg` and a table of groups that outgrows its reservation).

mod bitmap;
mod checksum;
mod descriptor;
mod features;
mod filesystem;
mod free;
#[cfg(any(test, fuzzing))]
pub(in crate::guest) mod fuzz_tests;
mod geometry;
mod growth;
mod metadata;
mod reach;
mod refusal;
mod resize_inode;
mod superblock;
#[cfg(test)]
mod tests;
mod zeros;

pub(in crate::guest) use features::generation;
pub use filesystem::{Filesystem, Reading, Uuid};
pub use free::FreeMap;
pub use growth::Growth;
pub use refusal::Refusal;
