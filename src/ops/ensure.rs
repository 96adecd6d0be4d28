//! `ensure`: create, or grow, or nothing; the one call for every machine start.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::backing::{Base, backing_path};
use super::choices::{GuestFs, ReadZeros};
use super::compact::{CompactReport, CompactRequest, compact};
use super::context::Context;
use super::create::{CreateReport, build, kept};
use super::existing::Existing;
use super::fits::check_fit;
use super::growth::Inside;
use super::options::{CreateRequest, EnsureRequest};
use super::resize::{ResizeReport, ResizeRequest, TargetSize, note_settled, resize_open};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Access, FileStorage, Occupant, resolve_target};
use crate::image::gate::Trust;
use crate::units::{ByteSize, VirtualSize};

/// What `ensure` found to do.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum EnsureReport {
    /// There was no disk: it was created.
    Created(CreateReport),
    /// The disk was smaller, or what is inside was: it was grown.
    Grown(ResizeReport),
    /// The disk is as asked.
    Unchanged(CreateReport),
}

impl EnsureReport {
    /// Whether anything was written.
    pub fn changed(&self) -> bool {
        match self {
            EnsureReport::Created(report) | EnsureReport::Unchanged(report) => report.changed,
            EnsureReport::Grown(report) => report.changed,
        }
    }

    fn add_compaction(&mut self, done: Result<Option<CompactReport>, String>) {
        let (compaction, changed, notes) = match self {
            EnsureReport::Created(report) | EnsureReport::Unchanged(report) => {
                (&mut report.compaction, &mut report.changed, &mut report.notes)
            }
            EnsureReport::Grown(report) => {
                (&mut report.compaction, &mut report.changed, &mut report.notes)
            }
        };
        match done {
            Ok(done) => {
                *changed |= done.as_ref().is_some_and(|done| done.changed);
                *compaction = done;
            }
            Err(why) => notes.push(why),
        }
    }
}

/// Makes sure that the disk exists with at least what is asked: safe to repeat at any time.
///
/// # Errors
/// [`WouldShrink`](ErrorKind::WouldShrink) when the disk is larger,
/// [`FormatMismatch`](ErrorKind::FormatMismatch) when it has another format,
/// [`Exists`](ErrorKind::Exists) when it differs in what was explicitly asked for, and as
/// [`create`](super::create()) and [`resize`](super::resize()).
pub fn ensure(request: &EnsureRequest, context: Context<'_>) -> Result<EnsureReport> {
    let (guest_fs, compact_above) = (request.guest_fs, request.compact_above_percent);
    if compact_above.is_some_and(|percent| !(1..=99).contains(&percent)) {
        let message = "a share of what the disk takes is 1 to 99 percent";
        return Err(Error::new(ErrorKind::BadRequest, message).in_field("compact_above_percent"));
    }
    let request = &CreateRequest::from(request.clone());
    let target = resolve_target(&request.path)?;
    if Occupant::of(&target)? == Occupant::Nobody {
        match create_filled(request, &target, guest_fs, context) {
            // Somebody else created it meanwhile: then it is looked at like any other.
            Err(error) if error.kind() == ErrorKind::Exists => {}
            report => return report.map(EnsureReport::Created),
        }
    }
    let existing = Existing::open_to_change(&target, request.format, context)?;
    let mark = existing.mark();
    let mut report = ensure_open(existing, request, guest_fs, context).map_err(&mark)?;
    if let Some(percent) = compact_above {
        let trust = trust_with_backing(request, context.trust);
        let compacting = Context { trust: &trust, ..context };
        let done = compact_if_worth(&target, request, guest_fs, percent, compacting);
        let done = done.map_err(|error| error.after_changes_if(report.changed()));
        report.add_compaction(done.map_err(mark)?);
    }
    Ok(report)
}

/// Compacts a disk that takes so many percent more than it needs. What speaks against that is no
/// error: a machine is to be started.
fn compact_if_worth(
    target: &Path,
    request: &CreateRequest,
    guest_fs: GuestFs,
    percent: u8,
    context: Context<'_>,
) -> Result<Result<Option<CompactReport>, String>> {
    let look = CompactRequest {
        format: request.format,
        // What has to grow need not be known to be free.
        guest_fs: if guest_fs == GuestFs::Off { GuestFs::Off } else { GuestFs::Auto },
        read_zeros: ReadZeros::Never,
        dry_run: true,
        ..CompactRequest::new(target)
    };
    let done = compact(&look, context).and_then(|found| {
        let worth = u128::from(found.old_allocated_bytes) * u128::from(percent);
        if found.reclaimed_bytes == 0 || u128::from(found.reclaimed_bytes) * 100 < worth {
            return Ok(None);
        }
        compact(&CompactRequest { dry_run: false, ..look.clone() }, context).map(Some)
    });
    match done {
        Err(error) if error.kind() == ErrorKind::Cancelled || error.changed() => Err(error),
        Err(error) => Ok(Err(format!("the disk was not compacted: {error}"))),
        Ok(done) => Ok(Ok(done)),
    }
}

/// A new disk. Above a backing file that a guest has lived in, what is inside fills it from the start.
fn create_filled(
    request: &CreateRequest,
    target: &Path,
    guest_fs: GuestFs,
    context: Context<'_>,
) -> Result<CreateReport> {
    let Some(backing) = request.backing.as_ref().filter(|_| guest_fs != GuestFs::Off) else {
        return build(request, target, None, context);
    };
    if guest_fs == GuestFs::Require {
        let base = Base::open(backing, target, context)?;
        let size = request.asked_size()?.map_or(base.size(), ByteSize::bytes);
        Inside::require(&base.image, size, context.cancel)?;
    }
    let mut report = build(request, target, None, context)?;
    let filled = fill_new(request, target, report.virtual_size_bytes, guest_fs, context);
    let filled = filled.map_err(Error::after_changes)?;
    report.growth = filled.growth;
    report.notes.extend(filled.notes);
    let info = FileStorage::open(target, Access::Read).and_then(|disk| disk.info());
    let info = info.map_err(Error::after_changes)?;
    (report.file_size_bytes, report.allocated_bytes) = (info.len, info.allocated_bytes);
    Ok(report)
}

fn fill_new(
    request: &CreateRequest,
    target: &Path,
    bytes: u64,
    guest_fs: GuestFs,
    context: Context<'_>,
) -> Result<ResizeReport> {
    let format = Some(request.format());
    let existing = Existing::open_to_change(target, format, context)?;
    let size = TargetSize::Absolute(ByteSize::from_bytes(bytes));
    let resize = ResizeRequest { format, guest_fs, ..ResizeRequest::new(&request.path, size) };
    let trust = trust_with_backing(request, context.trust);
    resize_open(existing, size, &resize, Context { trust: &trust, ..context })
}

/// Grows a disk that is open and locked, if it is to be larger.
fn ensure_open(
    existing: Existing,
    request: &CreateRequest,
    guest_fs: GuestFs,
    context: Context<'_>,
) -> Result<EnsureReport> {
    check_fit(&existing, request, false)?;
    if existing.virtual_size()? == 0 {
        let message = "is empty, so it is no disk: remove it, and one will be created";
        return Err(Error::new(ErrorKind::NotADisk, message).at_path(&request.path));
    }
    // Whoever asks for no size has the one that there is, and what is inside filled up to it.
    let present = ByteSize::from_bytes(existing.virtual_size()?);
    let size = match request.asked_size()? {
        Some(size) => TargetSize::Absolute(size),
        None if VirtualSize::round_up(present)?.byte_size() == present => {
            TargetSize::Absolute(present)
        }
        // To fill a disk that is no whole number of sectors would change its size.
        None if guest_fs == GuestFs::Require => {
            let message =
                format!("the disk has {} bytes, no whole number of sectors", present.bytes());
            return Err(Error::new(ErrorKind::GuestRefused, message).at_path(&request.path));
        }
        None => {
            let mut report = kept(&existing, request)?;
            report.changed = existing.settled().is_some();
            report.notes.extend(existing.settled().map(note_settled));
            return Ok(EnsureReport::Unchanged(report));
        }
    };
    let resize = ResizeRequest {
        format: request.format,
        preallocation: request.layout.preallocation,
        guest_fs,
        // A machine starts all the same, and what is added shows nowhere above.
        force: true,
        ..ResizeRequest::new(&request.path, size)
    };
    // What became of the preallocation is for the resize to say.
    let mut rest = request.clone();
    rest.layout.preallocation = None;
    let mut unchanged = kept(&existing, &rest)?;
    let trust = trust_with_backing(request, context.trust);
    let report = resize_open(existing, size, &resize, Context { trust: &trust, ..context })?;
    if report.changed {
        let notes = [unchanged.notes, report.notes].concat();
        return Ok(EnsureReport::Grown(ResizeReport { notes, ..report }));
    }
    unchanged.notes.extend(report.notes);
    unchanged.growth = report.growth;
    Ok(EnsureReport::Unchanged(unchanged))
}

/// The policy of this call: the backing file that the caller names is trusted.
fn trust_with_backing(request: &CreateRequest, trust: &Trust) -> Trust {
    let backing = request.backing.as_ref();
    let backing = backing.and_then(|backing| backing_path(backing, &request.path).ok());
    match backing {
        Some(backing) => trust.clone().and(backing),
        None => trust.clone(),
    }
}
