//! The qcow2 format engine: between the bytes of an image file and what its guest sees.
//!
//! It knows storage and offsets, never a path. The format is specified by QEMU's
//! `docs/interop/qcow2`; limits that the specification leaves open are QEMU's own.
//!
//! - What is on disk: [`geometry`], `header` (with `first_cluster`), `feature`, `extension`,
//!   `entry`, `table`, `refblock`, `snapshot`.
//! - The life of an image: `create` (with `layout`), `open`, `resize`, `rebase`, `rebuild`.
//! - The life of an image: `create` (with `layout`), `compose` (with guest data, as it comes),
//!   `open`, `resize`, `rebuild`.
//! - The life of an image: `create` (with `layout`), `compose` (with guest data, as it comes),
//!   `open`, `resize`, `amend`, `rebase`, `rebuild`.
//! - What was written since some moment: `bitmap`.
//! - Whether an image is sound: [`check`]; what it claims before anything is believed: `claims`.
//! - What can be read of one that is not: `salvage`. What another program makes of one:
//!   [`hyperkit`].
//! - Shared by those that change an image: `header_change` replaces the header, `growth` adds clusters, `flush` alone knows the order
//!   of writes, `release` frees.
//! - Guest data: `device` is the disk; `lookup` finds, `mappings` finds all in order, `read`, `write` and `discard` do, `pack`
//!   (with `compress`) packs; `cache` and `live` are what an open image has in memory, `alloc` and
//!   `overlap` know which clusters are free and which are never guest data.
#![cfg_attr(
    not(any(test, fuzzing)),
    deny(clippy::as_conversions, clippy::arithmetic_side_effects, clippy::indexing_slicing)
)]
#![deny(clippy::little_endian_bytes, clippy::host_endian_bytes)]

mod alloc;
mod amend;
#[cfg(test)]
mod audit_tests;
mod bitmap;
mod cache;
pub mod check;
mod claims;
mod clusters;
mod compact;
mod compose;
mod compress;
#[cfg(test)]
mod crash_barrier_tests;
#[cfg(test)]
mod crash_create_tests;
#[cfg(test)]
mod crash_oracle_tests;
#[cfg(test)]
pub(crate) mod crash_states_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod crash_write_tests;
mod create;
pub mod damage;
mod device;
mod discard;
mod empty;
mod entry;
#[cfg(test)]
mod entry_tests;
mod error;
mod extension;
#[cfg(test)]
mod fault_tests;
mod feature;
mod first_cluster;
#[cfg(any(test, fuzzing))]
pub(crate) mod fixtures_tests;
mod flush;
#[cfg(any(test, fuzzing))]
pub mod fuzz_damaged_tests;
#[cfg(any(test, fuzzing))]
pub mod fuzz_tests;
pub mod geometry;
mod growth;
mod header;
mod header_change;
#[cfg(test)]
mod header_change_tests;
#[cfg(test)]
mod header_tests;
#[cfg(test)]
mod hostile_tests;
pub mod hyperkit;
mod laid_out;
mod layout;
mod leaks;
mod lengths;
mod live;
mod lookup;
mod luks;
mod mappings;
mod measure;
#[cfg(test)]
mod medium_tests;
#[cfg(any(test, fuzzing))]
mod metered_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod on_device_tests;
mod open;
mod options;
mod overlap;
#[cfg(test)]
mod overlap_tests;
mod pack;
#[cfg(test)]
mod pack_tests;
mod raw_header;
mod read;
mod rebase;
#[cfg(test)]
mod rebase_tests;
mod rebuild;
mod refblock;
mod refcounts;
mod release;
pub mod repair;
mod resize;
mod runs;
mod salvage;
#[cfg(test)]
mod scenario_tests;
#[cfg(any(test, fuzzing))]
mod shape_tests;
mod snapshot;
mod stream;
#[cfg(any(test, fuzzing))]
mod subject_tests;
#[cfg(any(test, fuzzing))]
mod survive_tests;
mod table;
#[cfg(test)]
mod wait_tests;
#[cfg(test)]
mod wounds_tests;
mod write;

pub use amend::{Amended, Amendment, refuse_amendment};
#[cfg(test)]
pub(crate) use bitmap::bitmaps_of;
pub use bitmap::{
    Announced, Bitmap, BitmapChange, BitmapSource, BitmapsChanged, DirtyRanges, Granularity,
    MAX_BITMAP_NAME, MAX_BITMAPS, dirty_bytes, read_bitmaps,
};
pub use claims::{Claims, ExtensionClaim, FeatureClaim, TableClaim};
pub use compact::{Compacted, Sound};
pub use compose::Composer;
pub use compress::Packer;
pub use create::create;
pub use empty::Emptied;
pub use error::FormatError;
pub use extension::{BitmapDirectory, Extension};
pub use feature::{Autoclear, Compatible, FeatureKind, FeatureName, Incompatible};
pub use header::{
    BackingName, CompressionType, Encryption, Header, MAX_BACKING_NAME, TableRef, Version,
};
pub use luks::{Luks, LuksKey, LuksSlot, read_luks};
pub use mappings::{Mapped, Mappings};
pub use measure::{Counted, Measured, measure, measure_bitmaps};
pub use open::{Backing, Parts, Qcow2};
pub use options::{CreateOptions, HeaderForm, L1Capacity, Preallocation};
pub use raw_header::MAGIC;
pub use rebase::{Rebased, name_backing, refuse_rebase};
pub use resize::{ResizeOptions, Resized};
pub use salvage::{Below, Salvager};
pub use snapshot::{
    NewSnapshot, Snapshot, SnapshotChange, exclusive_bytes, find_snapshot, read_snapshots,
};
