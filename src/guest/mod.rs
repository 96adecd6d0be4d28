//! What is inside the disk: read through a [`BlockDevice`](crate::block::BlockDevice), and changed
//! only by whoever takes the bytes that are computed here.
//!
//! Nothing in this room opens a file or knows how an image stores the guest's bytes.
#![cfg_attr(
    not(any(test, fuzzing)),
    deny(clippy::as_conversions, clippy::arithmetic_side_effects, clippy::indexing_slicing)
)]
// What PCs keep on their disks is little-endian; whatever is not says so where it is read.
#![deny(clippy::big_endian_bytes, clippy::host_endian_bytes)]

pub mod boot2docker;
pub mod edit;
pub mod ext4;
mod foreign;
mod free;
#[cfg(any(test, fuzzing))]
pub mod fuzz_tests;
mod growth;
mod identify;
pub mod partitions;
mod swap;

pub use free::{Doubt, FreeSpace, Unneeded};
pub use growth::{FilesystemGrowth, FillRequest, InsideGrowth, PartitionGrowth, Refusal};
pub use identify::{Contents, FilesystemKind, PartitionTableKind, VolumeKind, identify};
