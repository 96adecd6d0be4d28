//! `guest`: what is inside of a disk, and how far it would grow. Nothing is written. A disk that a
//! machine uses is looked at all the same: what is read of it may change meanwhile.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::{Format, PartitionTable};
use super::context::Context;
use super::growth::RefusalReport;
use super::info::JournalReport;
use super::wire::{bytes_hex, lossy, stored_text};
use crate::block::{BlockDevice, DeviceOptions, Slice};
use crate::error::{ErrorKind, Result};
use crate::guest::ext4::{self, Filesystem};
use crate::guest::partitions::{Partition, Reading, Table};
use crate::guest::{Contents, FillRequest, InsideGrowth, identify};
use crate::host::{Access, FileKind, FileStorage, LockMode, LockPolicy, open_locked, resolve};
use crate::image::chain::{Link, Opening};
use crate::image::probe::{self, Evidence, Magic};

/// A disk whose inside is asked about.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InsideRequest {
    /// The disk.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
}

/// What is inside of a disk.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct InsideReport {
    /// Where it is.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// The format of its content.
    pub format: Format,
    /// The size of the guest's disk, in bytes.
    pub virtual_size_bytes: u64,
    /// Whether somebody writes to the disk right now: what is told may be out of date already.
    pub in_use: bool,
    /// What it begins with: `empty`, `payload` (the guest is going to format it), `mbr`, `gpt`, a
    /// filesystem, `swap`, `luks`, `lvm` or `unknown`.
    pub contents: String,
    /// Its partition table, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_table: Option<PartitionTableReport>,
    /// The filesystem that has the disk to itself, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FilesystemReport>,
    /// Why nothing inside would grow, where that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalReport>,
    /// A journal beside a raw disk: a change of it was interrupted, or is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal: Option<JournalReport>,
    /// What else the caller should know.
    pub notes: Vec<String>,
}

/// A partition table.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PartitionTableReport {
    /// Its kind.
    pub kind: PartitionTable,
    /// In the order of their numbers; none where the table cannot be believed.
    pub partitions: Vec<PartitionReport>,
}

/// A partition.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PartitionReport {
    /// Its number, from 1.
    pub number: u32,
    /// Where it begins, in bytes from the beginning of the disk.
    pub start_bytes: u64,
    /// Its length, in bytes.
    pub size_bytes: u64,
    /// What it is said to be for: a name, else the byte or the GUID that the table has.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name, of a GPT where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is told from all others by, of a GPT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guid: Option<String>,
    /// The length that it would grow to, in bytes, if it would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_grow_to_bytes: Option<u64>,
    /// What it begins with: as of the disk.
    pub contents: String,
    /// The filesystem in it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FilesystemReport>,
}

/// A filesystem. What only ext2, ext3 and ext4 tell is left out of others.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct FilesystemReport {
    /// What it is: `ext4`, `xfs` and so on.
    pub kind: String,
    /// Its label, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What it is told from all others by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Its size, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// What files, directories and the filesystem itself take, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// What is free, in bytes, what is reserved for the guest's root included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Whether it was unmounted cleanly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean: Option<bool>,
    /// The size that it would grow to, in bytes, if it would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_grow_to_bytes: Option<u64>,
}

/// Looks at what is inside of the disk.
///
/// # Errors
/// [`FormatMismatch`](ErrorKind::FormatMismatch), what opening the disk and everything below it says,
/// and reading it. What is wrong with its contents is no error.
pub fn guest(request: &InsideRequest, context: Context<'_>) -> Result<InsideReport> {
    let (link, in_use) = look_at(&request.path, request.format, context)?;
    let format = link.format;
    let opening = Opening { trust: context.trust, locks: None, cancel: context.cancel };
    let journal = JournalReport::beside(&link)?;
    let below = opening.below(&link, &[])?;
    let disk = opening.assemble(link, below, &[], &DeviceOptions::default())?;
    let plan = FillRequest { disk_bytes: disk.size(), restore: false };
    let plan = InsideGrowth::outline(&disk, plan)?;
    let mut report = InsideReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        format: format.into(),
        virtual_size_bytes: disk.size(),
        in_use,
        contents: plan.contents.name().to_owned(),
        partition_table: partition_table(&disk, plan.contents)?,
        filesystem: filesystem(&disk, plan.contents)?,
        refusal: plan.refusal.as_ref().map(RefusalReport::of),
        journal,
        notes: plan.note.iter().map(ToString::to_string).collect(),
    };
    if plan.refusal.is_none() {
        tell_growth(&plan, &mut report);
    }
    Ok(report)
}

/// Opens a disk to be looked at, without a lock, in the format that is told or that name and content
/// agree on, and tells whether somebody else writes to it.
pub(super) fn look_at(
    path: &Path,
    told: Option<Format>,
    context: Context<'_>,
) -> Result<(Link, bool)> {
    let path = resolve(path)?;
    let (storage, in_use) = open(&path, context)?;
    let magic = Magic::read(&storage)?;
    let block_device = storage.info()?.kind == FileKind::BlockDevice;
    let evidence = Evidence { path: &path, block_device, magic };
    // What begins as an image may have been written by the guest of a raw disk, and names files.
    let format = evidence.believe(told.map(probe::Format::from))?;
    Ok((Link::open(&path, format, storage)?, in_use))
}

/// Opens a disk to be looked at, and tells whether somebody else writes to it. The lock that finds
/// that out is given back at once: nobody is kept from starting a machine.
fn open(path: &Path, context: Context<'_>) -> Result<(FileStorage, bool)> {
    let at_once = LockPolicy { required: false, ..LockPolicy::default() };
    let in_use = match open_locked(path, Access::Read, LockMode::Reader, &at_once, context.cancel) {
        Err(error) if error.kind() == ErrorKind::Locked => true,
        opened => {
            drop(opened?);
            false
        }
    };
    Ok((FileStorage::open(path, Access::Read)?, in_use))
}

fn partition_table(
    disk: &dyn BlockDevice,
    contents: Contents,
) -> Result<Option<PartitionTableReport>> {
    let Contents::PartitionTable(kind) = contents else { return Ok(None) };
    let partitions = match Table::read(disk)? {
        Reading::Table(table) => table.partitions().iter().map(|it| partition(disk, it)).collect(),
        Reading::Nothing | Reading::Refused(_) => Ok(Vec::new()),
    };
    Ok(Some(PartitionTableReport { kind: kind.into(), partitions: partitions? }))
}

fn partition(disk: &dyn BlockDevice, partition: &Partition) -> Result<PartitionReport> {
    let place = Slice::new(disk, partition.start_bytes, partition.len_bytes);
    let contents = identify(&place)?;
    Ok(PartitionReport {
        number: partition.number,
        start_bytes: partition.start_bytes,
        size_bytes: partition.len_bytes,
        kind: partition.kind.to_string(),
        name: partition.name.as_ref().map(|name| stored_text(name.as_bytes())),
        guid: partition.guid.map(|guid| guid.to_string()),
        would_grow_to_bytes: None,
        contents: contents.name().to_owned(),
        filesystem: filesystem(&place, contents)?,
    })
}

fn filesystem(place: &dyn BlockDevice, contents: Contents) -> Result<Option<FilesystemReport>> {
    let Contents::Filesystem(kind) = contents else { return Ok(None) };
    let mut report = FilesystemReport {
        kind: kind.name().to_owned(),
        label: None,
        uuid: None,
        size_bytes: None,
        used_bytes: None,
        free_bytes: None,
        clean: None,
        would_grow_to_bytes: None,
    };
    if let ext4::Reading::Filesystem(found) = Filesystem::read(place)? {
        report.label = found.label();
        report.uuid = Some(found.uuid().to_string());
        report.size_bytes = Some(found.size_bytes());
        report.used_bytes = Some(found.used_bytes());
        report.free_bytes = Some(found.free_bytes());
        report.clean = Some(found.is_clean());
    }
    Ok(Some(report))
}

/// Says how far the partition and the filesystem that would grow would.
fn tell_growth(plan: &InsideGrowth, report: &mut InsideReport) {
    let grown = plan.filesystem.as_ref().filter(|step| step.new_bytes > step.old_bytes);
    let grown = grown.and_then(|step| step.new_bytes);
    let Some(step) = plan.partition else {
        if let Some(filesystem) = &mut report.filesystem {
            filesystem.would_grow_to_bytes = grown;
        }
        return;
    };
    let partitions = report.partition_table.iter_mut().flat_map(|table| &mut table.partitions);
    for partition in partitions.filter(|partition| partition.number == step.number) {
        partition.would_grow_to_bytes = (step.new_bytes > step.old_bytes).then_some(step.new_bytes);
        if let Some(filesystem) = &mut partition.filesystem {
            filesystem.would_grow_to_bytes = grown;
        }
    }
}
