//! `compact`: what a disk need not keep goes back to the host.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::{Format, GuestFs, ReadZeros};
use super::context::Context;
use super::existing::Existing;
use super::resize::{auto, note_settled};
use super::wire::{bytes_hex, lossy};
use crate::error::{Case, Error, ErrorKind, Result};
use crate::guest::{FreeSpace, Unneeded};
use crate::host::{Access, FileStorage};
use crate::image::{GivenUp, Image, Zeros, refuse_dependents};
use crate::qcow2::{Autoclear, Incompatible, Sound};

/// A disk that shall take less room.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompactRequest {
    /// The disk.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// Whether what the guest calls free is given up: blocks of ext2, ext3 and ext4, and swap. With
    /// `require`, a disk of which nothing or not all is known is refused. Default: `auto`.
    #[serde(default = "auto")]
    pub guest_fs: GuestFs,
    /// Whether all data is read to find zeros in it. Default: `auto`.
    #[serde(default = "auto_zeros")]
    pub read_zeros: ReadZeros,
    /// Whether it is only told what would be done. Default: `false`.
    #[serde(default)]
    pub dry_run: bool,
    /// Whether what the guest calls free is given up although other images in the folder depend on
    /// the disk: they show something else there. Default: `false`.
    #[serde(default)]
    pub force: bool,
}

/// The default of `read_zeros`.
fn auto_zeros() -> ReadZeros {
    ReadZeros::Auto
}

impl CompactRequest {
    /// The disk at `path`, with every default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        CompactRequest {
            path: path.into(),
            format: None,
            guest_fs: auto(),
            read_zeros: ReadZeros::Auto,
            dry_run: false,
            force: false,
        }
    }
}

/// What was done, or would be.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CompactReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Whether anything was written.
    pub changed: bool,
    /// Whether it is only told what would be done.
    pub dry_run: bool,
    /// Its format.
    pub format: Format,
    /// The size of the guest's disk, in bytes.
    pub virtual_size_bytes: u64,
    /// The length of the file before, in bytes.
    pub old_file_size_bytes: u64,
    /// The length of the file now, in bytes.
    pub file_size_bytes: u64,
    /// What of it was allocated on the host before, in bytes.
    pub old_allocated_bytes: u64,
    /// What of it is allocated on the host now, in bytes.
    pub allocated_bytes: u64,
    /// Data that could be given up, or was, of every kind together, in bytes: as it lay in the file,
    /// uncompressed.
    pub reclaimed_bytes: u64,
    /// Of that, blocks that the guest's filesystems call free.
    pub guest_free_bytes: u64,
    /// Of that, swap.
    pub swap_bytes: u64,
    /// Of that, zeros.
    pub zero_bytes: u64,
    /// Of that, clusters that nothing referred to.
    pub leaked_bytes: u64,
    /// Room that was laid out in the file and never written, in bytes.
    pub unwritten_bytes: u64,
    /// What was moved from the end of the file to free clusters before it, in bytes.
    pub moved_bytes: u64,
    /// Whether what the guest calls free was believed and given up.
    pub guest_aware: bool,
    /// What else the caller should know.
    pub notes: Vec<String>,
}

impl CompactReport {
    /// That of a disk to which nothing was done yet.
    fn of(existing: &Existing, request: &CompactRequest) -> Result<CompactReport> {
        let settled = existing.settled().map(note_settled);
        let info = existing.storage().info()?;
        Ok(CompactReport {
            path: lossy(&request.path),
            path_bytes_hex: bytes_hex(&request.path),
            changed: settled.is_some(),
            dry_run: request.dry_run,
            format: existing.format(),
            virtual_size_bytes: existing.virtual_size()?,
            old_file_size_bytes: info.len,
            file_size_bytes: info.len,
            old_allocated_bytes: info.allocated_bytes,
            allocated_bytes: info.allocated_bytes,
            reclaimed_bytes: 0,
            guest_free_bytes: 0,
            swap_bytes: 0,
            zero_bytes: 0,
            leaked_bytes: 0,
            unwritten_bytes: 0,
            moved_bytes: 0,
            guest_aware: false,
            notes: settled.into_iter().collect(),
        })
    }
}

/// Gives up what the guest does not need and what reads as zeros, frees what is leaked, moves what lies
/// at the end of an image's file into the free clusters before it, and cuts the file. What the guest has,
/// internal snapshots and bitmaps stay as they are. Stopped at any point, and where the power goes, the
/// disk is sound and the same call goes on from there.
///
/// # Errors
/// With nothing changed: [`GuestRefused`](ErrorKind::GuestRefused) where what the guest calls free is in
/// doubt, or has to be known and is not; [`HasDependents`](ErrorKind::HasDependents) where images in the
/// folder are above the disk, unless forced; [`Corrupt`](ErrorKind::Corrupt) for a damaged image; and
/// what opening it says. Later ([`changed`](Error::changed)) what reading and writing say, and
/// [`Cancelled`](ErrorKind::Cancelled).
pub fn compact(request: &CompactRequest, context: Context<'_>) -> Result<CompactReport> {
    let existing = match request.dry_run {
        true => Existing::open_to_read(&request.path, request.format, context)?,
        false => Existing::open_to_change(&request.path, request.format, context)?,
    };
    let mark = existing.mark();
    compact_open(existing, request, context).map_err(mark)
}

fn compact_open(
    existing: Existing,
    request: &CompactRequest,
    context: Context<'_>,
) -> Result<CompactReport> {
    let path = existing.storage().path().to_owned();
    let mut report = CompactReport::of(&existing, request)?;
    let has_bitmaps = existing.header().is_some_and(|header| {
        header.bitmaps().is_some() && header.autoclear.contains(Autoclear::BITMAPS)
    });
    let has_snapshots = existing.header().is_some_and(|header| header.snapshots.count > 0);
    // Who opens a dirty image to change it has its counts rebuilt.
    let dirty =
        existing.header().is_some_and(|header| header.incompatible.contains(Incompatible::DIRTY));
    let rebuilt = dirty && !request.dry_run;
    let image = match request.dry_run {
        true => existing.assemble_to_read(true, context)?,
        // Without what the guest calls free, nothing is given up that reads as anything but zeros.
        false => existing.assemble_to_compact(has_bitmaps, context)?,
    };
    report.changed |= rebuilt;
    let mark = |error: Error| error.after_changes_if(rebuilt);
    let sound = image.require_sound(context.task()).map_err(mark)?;
    let free = known_free(&image, request, has_bitmaps, &mut report).map_err(mark)?;
    if !free.is_empty() && !request.force {
        refuse_dependents(&path).map_err(mark)?;
    }
    give_up(&image, &free, request, &mut report, context).map_err(mark)?;
    if has_snapshots && report.guest_free_bytes + report.swap_bytes + report.zero_bytes > 0 {
        let note = "what snapshots show of it stays in the file as long as they do";
        report.notes.push(note.to_owned());
    }
    report.leaked_bytes = sound.map_or(0, |sound| sound.leaked_bytes());
    report.reclaimed_bytes =
        report.guest_free_bytes + report.swap_bytes + report.zero_bytes + report.leaked_bytes;
    if !request.dry_run {
        move_together(image, &path, sound, &mut report, context)?;
    }
    Ok(report)
}

/// Moves what lies at the end of the file, cuts it, and tells what the file is now.
fn move_together(
    mut image: Image,
    path: &Path,
    sound: Option<Sound>,
    report: &mut CompactReport,
    context: Context<'_>,
) -> Result<()> {
    report.changed |= report.guest_free_bytes + report.swap_bytes + report.zero_bytes > 0
        || report.unwritten_bytes > 0;
    let compacted = image.compact(sound, context.task());
    let compacted = compacted.map_err(|error| error.after_changes_if(report.changed))?;
    report.moved_bytes = compacted.moved_bytes;
    report.changed |= compacted.changed;
    image.close().map_err(|error| error.after_changes_if(report.changed))?;
    let info = FileStorage::open(path, Access::Read).and_then(|file| file.info());
    let info = info.map_err(|error| error.after_changes_if(report.changed))?;
    (report.file_size_bytes, report.allocated_bytes) = (info.len, info.allocated_bytes);
    report.changed |= info.allocated_bytes < report.old_allocated_bytes;
    Ok(())
}

/// What the guest calls free, as far as it is to be given up.
fn known_free(
    image: &Image,
    request: &CompactRequest,
    has_bitmaps: bool,
    report: &mut CompactReport,
) -> Result<FreeSpace> {
    let refused = |why: &str| {
        Error::new(ErrorKind::GuestRefused, format!("what the guest calls free is kept: {why}"))
            .at_path(&request.path)
            .in_case(Case::UnknownContents)
    };
    if request.guest_fs == GuestFs::Off {
        return Ok(FreeSpace::default());
    }
    let requires = request.guest_fs == GuestFs::Require;
    let free = FreeSpace::find(image)?.map_err(|doubt| doubt.to_error().at_path(&request.path))?;
    let why = match (free.unknown(), has_bitmaps) {
        _ if free.is_empty() && free.unknown().is_none() => {
            Some("nothing on the disk says what it is")
        }
        (Some(_), _) if free.is_empty() => Some("only ext2, ext3, ext4 and swap are known"),
        (_, true) => Some("the image has bitmaps, which say what of the disk changed"),
        _ if !image.can_hide() => {
            Some("in version 2 of the format, nothing hides what is in the backing file")
        }
        (Some(contents), false) if requires => {
            return Err(refused(&format!("a part of the disk holds {contents}")));
        }
        _ => None,
    };
    match why {
        Some(why) if requires => Err(refused(why)),
        Some(why) => {
            if !free.is_empty() {
                report.notes.push(format!("what the guest calls free is kept: {why}"));
            }
            Ok(FreeSpace::default())
        }
        None => {
            report.guest_aware = true;
            Ok(free)
        }
    }
}

/// Gives up what need not be kept.
fn give_up(
    image: &Image,
    free: &FreeSpace,
    request: &CompactRequest,
    report: &mut CompactReport,
    context: Context<'_>,
) -> Result<()> {
    if !image.can_hide() {
        report.notes.push(
            "in version 2 of the format, nothing hides what is in the backing file: no data was given up"
                .to_owned(),
        );
        return Ok(());
    }
    let acts = !request.dry_run;
    let mut found = walk(image, free, Zeros::Known, acts, context)?;
    let reads = match request.read_zeros {
        ReadZeros::Always => true,
        ReadZeros::Never => false,
        // Where a filesystem says what is free, what else it has is hardly ever zeros: it is read where
        // there is work to do in any case.
        ReadZeros::Auto => free.is_empty() || free.unknown().is_some() || !found.is_nothing(),
    };
    if reads {
        let known = std::mem::take(&mut found);
        let has_acted = acts && !known.is_nothing();
        found = walk(image, free, Zeros::Read, acts, context)
            .map_err(|error| error.after_changes_if(has_acted))?;
        if acts {
            // What was given up is not to be counted again, where the host does not tell holes.
            found = Found { zeros: found.zeros, ..known };
            found.zeros += known.zeros;
        }
    }
    report.guest_free_bytes = found.free.data_bytes;
    report.swap_bytes = found.swap.data_bytes;
    report.zero_bytes = found.zeros.data_bytes;
    report.unwritten_bytes = found.unwritten_bytes();
    Ok(())
}

/// What a walk over the disk finds.
#[derive(Debug, Default)]
struct Found {
    free: GivenUp,
    swap: GivenUp,
    zeros: GivenUp,
}

impl Found {
    fn unwritten_bytes(&self) -> u64 {
        self.free.unwritten_bytes + self.swap.unwritten_bytes + self.zeros.unwritten_bytes
    }

    fn is_nothing(&self) -> bool {
        let data = self.free.data_bytes + self.swap.data_bytes + self.zeros.data_bytes;
        data + self.unwritten_bytes() == 0
    }
}

fn walk(
    image: &Image,
    free: &FreeSpace,
    zeros: Zeros,
    acts: bool,
    context: Context<'_>,
) -> Result<Found> {
    let likely = free.likely_zeros();
    let mut found = Found::default();
    let mut walk = image.reclaimer(zeros, &likely, acts, context.task());
    let given = free.each_run(image, |run, why| {
        let sum = match why {
            Unneeded::Free => &mut found.free,
            Unneeded::Swap => &mut found.swap,
        };
        *sum += walk.give_up(run)?;
        Ok(())
    });
    let zeros = given.and_then(|()| walk.finish());
    found.zeros = zeros.map_err(|error| walk.mark(error))?;
    Ok(found)
}
