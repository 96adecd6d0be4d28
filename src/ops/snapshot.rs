//! `snapshot_list`, `snapshot_show`, `snapshot_create`, `snapshot_apply`, `snapshot_delete`: the
//! internal snapshots of a qcow2 image. Those that only look take no lock.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::Format;
use super::context::Context;
use super::existing::Existing;
use super::info::SnapshotReport;
use super::wire::{bytes_hex, lossy};
use crate::error::{Error, ErrorKind, Result};
use crate::host::resolve;
use crate::image::chain::{Link, Opening};
use crate::image::refuse_dependents;
use crate::qcow2::{
    Header, Incompatible, NewSnapshot, Qcow2, SnapshotChange, exclusive_bytes, find_snapshot,
    read_snapshots,
};

/// An image whose snapshots are asked about.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotListRequest {
    /// The disk.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
}

/// A snapshot that is to be made.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotCreateRequest {
    /// The disk.
    pub path: PathBuf,
    /// The snapshot's name: 1 to 255 bytes without control characters, and no other snapshot's name
    /// or id.
    pub name: String,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
}

/// A snapshot that is asked about, or is to be deleted.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// The disk.
    pub path: PathBuf,
    /// The snapshot's id or its name.
    pub snapshot: String,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
}

/// A snapshot that the disk is to be as again.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotApplyRequest {
    /// The disk.
    pub path: PathBuf,
    /// The snapshot's id or its name.
    pub snapshot: String,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// Whether the disk alone of a snapshot is wanted that has the state of a running machine too:
    /// its guest then finds its disk as after a power cut. Default: `false`.
    #[serde(default)]
    pub disk_only: bool,
    /// Whether to do it although other images have this one as their backing file, and would show
    /// something else. Default: `false`.
    #[serde(default)]
    pub force: bool,
}

/// The snapshots of an image.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SnapshotListReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// In the order in which they were taken.
    pub snapshots: Vec<SnapshotReport>,
}

/// A snapshot.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SnapshotShowReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// What the image says of it.
    pub snapshot: SnapshotReport,
    /// Bytes of the image that it alone holds on to: they become free when it is deleted. None for an
    /// image whose counts may be stale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclusive_bytes: Option<u64>,
    /// What else the caller should know.
    pub notes: Vec<String>,
}

/// What a change of the snapshots did.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SnapshotChangeReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Whether anything was written.
    pub changed: bool,
    /// The snapshot that was made, applied or deleted.
    pub snapshot: SnapshotReport,
    /// The size of the disk before, in bytes.
    pub old_virtual_size_bytes: u64,
    /// The size of the disk now, in bytes.
    pub virtual_size_bytes: u64,
    /// By how many bytes what the image has in use became less.
    pub freed_bytes: u64,
    /// Whether reference counts of a dirty image were rebuilt first.
    pub refcounts_rebuilt: bool,
}

/// Tells which snapshots there are.
///
/// # Errors
/// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for a raw disk, [`Corrupt`](ErrorKind::Corrupt)
/// for a table that cannot be read, and what opening says.
pub fn snapshot_list(
    request: &SnapshotListRequest,
    context: Context<'_>,
) -> Result<SnapshotListReport> {
    let link = look_at(&request.path, request.format, context)?;
    let header = qcow2(link.header.as_ref()).map_err(|error| error.at_path(&request.path))?;
    let snapshots = read_snapshots(&link.storage, header);
    let snapshots = snapshots.map_err(|error| error.at_path(&request.path))?;
    Ok(SnapshotListReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        snapshots: snapshots.iter().map(SnapshotReport::of).collect(),
    })
}

/// Tells all that is known of a snapshot.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound), [`BadRequest`](ErrorKind::BadRequest) where several are meant,
/// and as [`snapshot_list`] and [`exclusive_bytes`].
pub fn snapshot_show(
    request: &SnapshotRequest,
    context: Context<'_>,
) -> Result<SnapshotShowReport> {
    let link = look_at(&request.path, request.format, context)?;
    show(&link, request, context).map_err(|error| error.at_path(&request.path))
}

fn show(
    link: &Link,
    request: &SnapshotRequest,
    context: Context<'_>,
) -> Result<SnapshotShowReport> {
    let header = qcow2(link.header.as_ref())?;
    let mut snapshots = read_snapshots(&link.storage, header)?;
    let place = find_snapshot(&snapshots, &request.snapshot)?;
    let snapshot = snapshots.swap_remove(place);
    let mut notes = Vec::new();
    let stale = header.incompatible.contains(Incompatible::DIRTY);
    if stale {
        notes.push("the image is dirty: what the snapshot alone holds is not known".to_owned());
    }
    let exclusive = (!stale)
        .then(|| exclusive_bytes(&link.storage, header, &snapshot, context.task()))
        .transpose()?;
    Ok(SnapshotShowReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        snapshot: SnapshotReport::of(&snapshot),
        exclusive_bytes: exclusive,
        notes,
    })
}

/// Keeps what the disk holds now under a name.
///
/// # Errors
/// As [`Qcow2::create_snapshot`], and what opening says.
pub fn snapshot_create(
    request: &SnapshotCreateRequest,
    context: Context<'_>,
) -> Result<SnapshotChangeReport> {
    let new = NewSnapshot::now(&request.name);
    change(&request.path, request.format, context, |image| {
        image.create_snapshot(&new, context.task())
    })
}

/// Makes the disk what it was when a snapshot was taken; what it holds now is lost.
///
/// # Errors
/// [`HasDependents`](ErrorKind::HasDependents) where an image in the same folder lies above it,
/// unless that is forced; as [`Qcow2::apply_snapshot`], and what opening says.
pub fn snapshot_apply(
    request: &SnapshotApplyRequest,
    context: Context<'_>,
) -> Result<SnapshotChangeReport> {
    change(&request.path, request.format, context, |image| {
        if !request.force {
            refuse_dependents(&request.path)?;
        }
        image.apply_snapshot(&request.snapshot, request.disk_only, context.task())
    })
}

/// Deletes a snapshot; the disk stays as it is.
///
/// # Errors
/// As [`Qcow2::delete_snapshot`], and what opening says.
pub fn snapshot_delete(
    request: &SnapshotRequest,
    context: Context<'_>,
) -> Result<SnapshotChangeReport> {
    change(&request.path, request.format, context, |image| {
        image.delete_snapshot(&request.snapshot, context.task())
    })
}

/// Opens an image to be looked at, also while a machine runs.
fn look_at(path: &Path, told: Option<Format>, context: Context<'_>) -> Result<Link> {
    let opening = Opening { trust: context.trust, locks: None, cancel: context.cancel };
    opening.named_by_caller(&resolve(path)?, told.map(Into::into), false)
}

fn qcow2(header: Option<&Header>) -> Result<&Header> {
    header.ok_or_else(|| {
        Error::new(ErrorKind::UnsupportedFeature, "a raw disk has no internal snapshots")
    })
}

/// Opens and locks the image, and changes it.
fn change(
    path: &Path,
    told: Option<Format>,
    context: Context<'_>,
    change: impl FnOnce(&mut Qcow2) -> Result<SnapshotChange>,
) -> Result<SnapshotChangeReport> {
    let existing = Existing::open_to_change(path, told, context)?;
    let mark = existing.mark();
    let at_path = |error: Error| mark(error.at_path(path));
    qcow2(existing.header()).map_err(&at_path)?;
    let mut image = existing.into_qcow2().map_err(&at_path)?;
    let old_virtual_size = image.header().virtual_size;
    let done = change(&mut image).map_err(&at_path)?;
    Ok(SnapshotChangeReport {
        path: lossy(path),
        path_bytes_hex: bytes_hex(path),
        changed: true,
        snapshot: SnapshotReport::of(&done.snapshot),
        old_virtual_size_bytes: old_virtual_size,
        virtual_size_bytes: image.header().virtual_size,
        freed_bytes: done.freed_bytes,
        refcounts_rebuilt: done.rebuilt,
    })
}
