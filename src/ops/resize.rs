//! `resize`: the same disk, larger or smaller.

use std::cmp::Ordering;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::{Format, GuestFs, Preallocation};
use super::compact::CompactReport;
use super::context::Context;
use super::existing::Existing;
use super::growth::{GrowthReport, Inside};
use super::wire::{self, bytes_hex, lossy, one_size};
use crate::error::{Case, Error, ErrorKind, Result};
use crate::image::journal::Settled;
use crate::image::{Change, Image, refuse_dependents_of};
use crate::raw::RawAllocation;
use crate::units::{ByteSize, VirtualSize, exactly};

/// The size that a disk gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSize {
    /// This size.
    Absolute(ByteSize),
    /// So much more than it has.
    More(ByteSize),
}

impl From<ByteSize> for TargetSize {
    fn from(size: ByteSize) -> Self {
        TargetSize::Absolute(size)
    }
}

/// A resize that is asked for.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResizeRequest {
    /// The disk.
    pub path: PathBuf,
    /// Its size afterwards; rounded up to 512 bytes.
    #[serde(default, deserialize_with = "wire::size::optional")]
    #[schemars(with = "Option<wire::Size>")]
    pub size: Option<TargetSize>,
    /// The same in MiB, for drivers whose own option has that unit; excludes `size`.
    #[schemars(with = "Option<wire::Mebibytes>")]
    pub docker_machine_mb: Option<u64>,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// What is laid out for what is added. Default: `metadata` if the disk's end has it, else
    /// `off`.
    pub preallocation: Option<Preallocation>,
    /// Whether it may become smaller: what its guest has behind the new end is lost. Default:
    /// `false`.
    #[serde(default)]
    pub shrink: bool,
    /// Whether what is inside grows with it, the last partition and the filesystem in it: also
    /// where the disk has its size already. Default: `auto`.
    #[serde(default = "auto")]
    pub guest_fs: GuestFs,
    /// Whether a damaged GPT at the start of the disk may be made anew from its backup. Default:
    /// `false`.
    #[serde(default)]
    pub restore_gpt: bool,
    /// Whether its size changes although other images in its folder depend on it: they show zeros
    /// instead of what is cut, and nothing of what is added. Default: `false`.
    #[serde(default)]
    pub force: bool,
}

/// The default of `guest_fs`.
pub(super) fn auto() -> GuestFs {
    GuestFs::Auto
}

impl ResizeRequest {
    /// A resize with every default.
    pub fn new(path: impl Into<PathBuf>, size: TargetSize) -> Self {
        ResizeRequest {
            path: path.into(),
            size: Some(size),
            docker_machine_mb: None,
            format: None,
            preallocation: None,
            shrink: false,
            guest_fs: auto(),
            restore_gpt: false,
            force: false,
        }
    }
}

/// What a resize did.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ResizeReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Whether anything was written.
    pub changed: bool,
    /// Its format.
    pub format: Format,
    /// Its size before, in bytes.
    pub old_virtual_size_bytes: u64,
    /// Its size now, in bytes.
    pub virtual_size_bytes: u64,
    /// What was laid out for what was added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preallocation: Option<Preallocation>,
    /// Whether that was inferred from the image.
    pub preallocation_inferred: bool,
    /// Bytes of the file whose clusters were freed.
    pub freed_bytes: u64,
    /// Whether reference counts of a dirty image were rebuilt first.
    pub refcounts_rebuilt: bool,
    /// What became of what is inside, where that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<GrowthReport>,
    /// How it was compacted, where `ensure` did that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compaction: Option<CompactReport>,
    /// What else the caller should know.
    pub notes: Vec<String>,
}

/// Resizes the disk, and what is inside with it. A crash leaves the old disk or the new one.
///
/// # Errors
/// [`WouldShrink`](ErrorKind::WouldShrink) unless shrinking was allowed;
/// [`GuestRefused`](ErrorKind::GuestRefused), with nothing changed, where what is inside cannot
/// grow and has to; [`HasDependents`](ErrorKind::HasDependents) for a disk whose size would change
/// below other images, unless forced; and as [`Image::apply_atomically`].
pub fn resize(request: &ResizeRequest, context: Context<'_>) -> Result<ResizeReport> {
    let Some(size) = one_size(request.size, request.docker_machine_mb)? else {
        return Err(Error::new(ErrorKind::BadRequest, "a resize needs a size").in_field("size"));
    };
    let existing = Existing::open_to_change(&request.path, request.format, context)?;
    let mark = existing.mark();
    resize_open(existing, size, request, context).map_err(mark)
}

/// Resizes a disk that is open and locked.
pub(super) fn resize_open(
    existing: Existing,
    size: TargetSize,
    request: &ResizeRequest,
    context: Context<'_>,
) -> Result<ResizeReport> {
    let at_path = |error: Error| error.at_path(&request.path);
    let old = existing.virtual_size()?;
    let mut notes = Vec::new();
    let settled = existing.settled().inspect(|settled| notes.push(note_settled(*settled)));
    let completed = settled.filter(|settled| settled.completed);
    let size = new_size(size, old, &mut notes)?;
    let mut report = ResizeReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        // What was completed was this disk's last resize.
        changed: settled.is_some(),
        format: existing.format(),
        old_virtual_size_bytes: completed.map_or(old, |settled| settled.old_size),
        virtual_size_bytes: size.bytes(),
        preallocation: None,
        preallocation_inferred: false,
        freed_bytes: 0,
        refcounts_rebuilt: false,
        growth: None,
        compaction: None,
        notes,
    };
    check_request(request, existing.format(), size.bytes() < old)?;
    match size.bytes().cmp(&old) {
        Ordering::Less if !request.shrink => {
            let message = format!("the disk has {}, more than the {size} asked for", exactly(old));
            Err(at_path(Error::new(ErrorKind::WouldShrink, message)))
        }
        Ordering::Equal => {
            if let Some(asked) = request.preallocation.filter(|_| settled.is_none()) {
                let note = format!("nothing was added, so nothing was preallocated ({asked})");
                report.notes.push(note);
            }
            fill(existing, size, request, &mut report, context).map_err(at_path)?;
            Ok(report)
        }
        how @ (Ordering::Less | Ordering::Greater) => {
            let grows = how == Ordering::Greater;
            change_size(existing, size, grows, request, &mut report, context).map_err(at_path)?;
            Ok(report)
        }
    }
}

/// Changes the size, and what is inside if the disk grows.
fn change_size(
    existing: Existing,
    size: VirtualSize,
    grows: bool,
    request: &ResizeRequest,
    report: &mut ResizeReport,
    context: Context<'_>,
) -> Result<()> {
    let mut image = existing.assemble(grows, context, &mut report.notes)?;
    if !request.force {
        let (cannot, case) = match grows {
            true => ("cannot become larger", Case::GrowsBelow),
            false => ("cannot become smaller", Case::ShrinksBelow),
        };
        refuse_dependents_of(image.path(), cannot).map_err(|error| error.in_case(case))?;
    }
    let mut inside = match request.guest_fs {
        GuestFs::Off => None,
        _ if !grows => None,
        how => Some(plan_inside(&image, size, how, request, report, context)?),
    };
    let for_raw = request.preallocation.and_then(Preallocation::for_raw);
    let outside = Change {
        preallocation: request.preallocation.map(Into::into),
        raw_allocation: for_raw.unwrap_or(RawAllocation::Sparse),
        ..Change::of_size(size)
    };
    let stages = inside.as_ref().map(Inside::stages).unwrap_or_default();
    let change = Change { stages, ..outside.clone() };
    let done = match (image.apply_atomically(&change, context.task()), &mut inside) {
        (Err(error), Some(inside)) if !inside.is_empty() => {
            // The disk alone grows, if that is possible where everything at once is not.
            inside.leave(error, request.guest_fs)?;
            image.apply_atomically(&outside, context.task())?
        }
        (done, _) => done?,
    };
    if report.format == Format::Raw {
        report.preallocation = grows.then(|| request.preallocation.unwrap_or(Preallocation::Off));
    } else {
        report.preallocation = done.preallocation.map(Into::into);
        report.preallocation_inferred = grows && request.preallocation.is_none();
    }
    report.freed_bytes = done.freed_bytes;
    report.refcounts_rebuilt = done.rebuilt;
    report.growth = inside.map(|inside| inside.report());
    report.changed = true;
    Ok(())
}

/// Makes what is inside fill a disk that has its size already. Unless that is required, what
/// speaks against changing the image is no error: nothing else was asked for.
fn fill(
    existing: Existing,
    size: VirtualSize,
    request: &ResizeRequest,
    report: &mut ResizeReport,
    context: Context<'_>,
) -> Result<()> {
    let how = request.guest_fs;
    if how == GuestFs::Off {
        return Ok(());
    }
    let mut image = match existing.assemble(true, context, &mut Vec::new()) {
        Ok(image) => image,
        Err(error) => {
            report.growth = Some(Inside::unreadable(error, how)?.report());
            return Ok(());
        }
    };
    let mut inside = plan_inside(&image, size, how, request, report, context)?;
    if !inside.is_empty() {
        let change = Change { stages: inside.stages(), ..Change::of_size(size) };
        match image.apply_atomically(&change, context.task()) {
            Ok(done) => {
                report.changed = true;
                report.freed_bytes = done.freed_bytes;
                report.refcounts_rebuilt = done.rebuilt;
            }
            Err(error) => inside.leave(error, how)?,
        }
    }
    report.growth = Some(inside.report());
    Ok(())
}

fn plan_inside(
    image: &Image,
    size: VirtualSize,
    how: GuestFs,
    request: &ResizeRequest,
    report: &mut ResizeReport,
    context: Context<'_>,
) -> Result<Inside> {
    let inside = Inside::plan(image, size.bytes(), how, request.restore_gpt, context.cancel)?;
    report.notes.extend(inside.note());
    Ok(inside)
}

/// What the caller hears of an interrupted change that was found.
pub(super) fn note_settled(settled: Settled) -> String {
    let note = match settled.completed {
        true => "a change of the disk that had been interrupted was completed first",
        false => {
            "a change of the disk that had been interrupted was taken back first: there is no room \
             for it"
        }
    };
    note.to_owned()
}

fn new_size(target: TargetSize, old: u64, notes: &mut Vec<String>) -> Result<VirtualSize> {
    let asked = match target {
        TargetSize::Absolute(size) => size,
        TargetSize::More(more) => {
            let sum = old.checked_add(more.bytes());
            ByteSize::from_bytes(sum.ok_or_else(|| {
                let message = format!("{} and {} more are too large", exactly(old), more.exactly());
                Error::new(ErrorKind::BadSize, message)
            })?)
        }
    };
    let size = VirtualSize::round_up(asked)?;
    if size.byte_size() != asked {
        notes.push(format!("size rounded up from {} to {} bytes", asked.bytes(), size.bytes()));
    }
    Ok(size)
}

/// What contradicts itself is refused whatever there is to do.
fn check_request(request: &ResizeRequest, format: Format, shrinks: bool) -> Result<()> {
    let incompatible = |message| Err(Error::new(ErrorKind::IncompatibleOptions, message));
    if request.restore_gpt && request.guest_fs == GuestFs::Off {
        let message = "a partition table is restored where what is inside may be changed";
        return Err(Error::new(ErrorKind::IncompatibleOptions, message).in_field("restore_gpt"));
    }
    if shrinks && request.shrink && (request.restore_gpt || request.guest_fs == GuestFs::Require) {
        let message = "a disk that becomes smaller is not looked into: nothing inside grows";
        let field = if request.restore_gpt { "restore_gpt" } else { "guest_fs" };
        return Err(Error::new(ErrorKind::IncompatibleOptions, message).in_field(field));
    }
    match request.preallocation {
        Some(asked) if format == Format::Raw && asked.for_raw().is_none() => {
            incompatible(format!("a raw disk has no preallocation {asked}"))
        }
        Some(asked) if shrinks && asked != Preallocation::Off => {
            incompatible(format!("a disk that shrinks has nothing to preallocate ({asked})"))
        }
        _ => Ok(()),
    }
}
