//! `rebase`: another backing file below a disk, which reads the same, or gets the name alone.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backing::{Base, refuse_another_below};
use super::choices::Format;
use super::context::Context;
use super::create::BackingReport;
use super::existing::Existing;
use super::options::BackingOptions;
use super::wire::{self, bytes_hex, lossy, stored_text};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::qcow2::{BackingName, Incompatible, Rebased, refuse_rebase};
use crate::units::ByteSize;

/// Another backing file that is asked for.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RebaseRequest {
    /// The disk: a qcow2 image.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// The file that it gets as its backing file.
    #[serde(default, deserialize_with = "wire::object::optional")]
    pub backing: Option<BackingOptions>,
    /// Whether it gets none, and stands alone; excludes `backing`. Default: `false`.
    #[serde(default)]
    pub no_backing: bool,
    /// Whether only the name changes: for a backing file that was moved, or that the caller knows to
    /// read the same. What is below the disk now need not be there. Default: `false`.
    #[serde(default, rename = "unsafe")]
    pub name_alone: bool,
    /// Whether what images above the disk show may change with the name; needs `unsafe`. Default:
    /// `false`.
    #[serde(default)]
    pub force: bool,
}

impl RebaseRequest {
    /// The disk at `path`, above `backing` or above nothing, as it reads now.
    pub fn new(path: impl Into<PathBuf>, backing: Option<BackingOptions>) -> Self {
        let no_backing = backing.is_none();
        let (name_alone, force) = (false, false);
        RebaseRequest { path: path.into(), format: None, backing, no_backing, name_alone, force }
    }
}

/// What a rebase did.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RebaseReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Whether anything was written.
    pub changed: bool,
    /// The backing file that it had, as stored; none where it stood alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_backing_file: Option<String>,
    /// The backing file that it has now; none where it stands alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing: Option<BackingReport>,
    /// What had to become the disk's own, in bytes, since the new backing file has something else.
    pub copied_bytes: u64,
    /// What the disk says is zeros now, in bytes, since the new backing file has something else.
    pub zeroed_bytes: u64,
    /// Whether reference counts of a dirty image were rebuilt first.
    pub refcounts_rebuilt: bool,
    /// What else the caller should know.
    pub notes: Vec<String>,
}

/// What the disk will lie above.
enum Below {
    /// An open chain: the disk goes on to read the same.
    Chain(Option<Box<Base>>),
    /// The name alone, and the size of the disk that it is of.
    Name(Option<(BackingName, u64)>),
}

impl Below {
    fn name(&self) -> Option<BackingName> {
        match self {
            Below::Chain(base) => base.as_ref().map(|base| base.backing_name()),
            Below::Name(name) => name.as_ref().map(|(name, _)| name.clone()),
        }
    }

    fn report(&self) -> Option<BackingReport> {
        let size = match self {
            Below::Chain(base) => base.as_ref()?.size(),
            Below::Name(name) => name.as_ref()?.1,
        };
        let name = self.name()?;
        let is_raw = name.format.as_deref() == Some(b"raw");
        Some(BackingReport {
            name: stored_text(&name.name),
            format: if is_raw { Format::Raw } else { Format::Qcow2 },
            virtual_size_bytes: size,
        })
    }
}

/// Puts the disk above another backing file, or above none. Unless the name alone is asked for, it
/// reads the same as before: what differs becomes its own first, and is on the medium before the
/// header changes. A crash, a failure or a cancellation leaves a disk that reads the same.
///
/// # Errors
/// [`BackingCycle`](ErrorKind::BackingCycle) for a file that lies above itself then;
/// [`HasSnapshots`](ErrorKind::HasSnapshots) for a disk with internal snapshots, unless the name
/// alone changes; [`HasDependents`](ErrorKind::HasDependents) where the name alone changes, unless
/// forced, and images in the disk's folder would show another file; [`IncompatibleOptions`](ErrorKind::IncompatibleOptions),
/// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for raw disks; of the new backing file as
/// [`create`](super::create()); of the chain below the disk what opening it says.
pub fn rebase(request: &RebaseRequest, context: Context<'_>) -> Result<RebaseReport> {
    check_request(request)?;
    let existing = Existing::open_to_change(&request.path, request.format, context)?;
    let mark = existing.mark();
    rebase_open(existing, request, context).map_err(|error| mark(error.at_path(&request.path)))
}

fn check_request(request: &RebaseRequest) -> Result<()> {
    if request.force && !request.name_alone {
        let message = "force is of use with unsafe only: a disk that reads the same hurts nobody";
        return Err(Error::new(ErrorKind::IncompatibleOptions, message).in_field("force"));
    }
    let message = match (&request.backing, request.no_backing) {
        (Some(_), true) => "backing and no_backing exclude each other",
        (None, false) => "a rebase needs a backing file, or no_backing",
        _ => return Ok(()),
    };
    let kind = match request.no_backing {
        true => ErrorKind::IncompatibleOptions,
        false => ErrorKind::BadRequest,
    };
    Err(Error::new(kind, message).in_field("backing"))
}

fn rebase_open(
    existing: Existing,
    request: &RebaseRequest,
    context: Context<'_>,
) -> Result<RebaseReport> {
    let Some(header) = existing.header() else {
        let message = "a raw disk has no backing file";
        return Err(Error::new(ErrorKind::UnsupportedFeature, message));
    };
    let (old, keeps) = (header.backing.clone(), !request.name_alone);
    let dirty = header.incompatible.contains(Incompatible::DIRTY);
    let mut notes = Vec::new();
    let below = match &request.backing {
        None if keeps => Below::Chain(None),
        None => Below::Name(None),
        Some(options) if keeps => {
            Below::Chain(Some(Box::new(Base::open(options, &request.path, context)?)))
        }
        Some(options) => {
            let recorded = old.as_ref().and_then(|old| old.format.as_deref());
            Below::Name(Some(Base::look(options, recorded, &request.path, &mut notes, context)?))
        }
    };
    let (name, backing) = (below.name(), below.report());
    refuse_rebase(existing.storage(), header, name.as_ref(), keeps)?;
    let changed = name != old;
    if changed && !keeps && !request.force {
        refuse_another_below(existing.storage(), old.as_ref(), name.as_ref())?;
    }
    let mut rebased = Rebased::default();
    if changed {
        let image = existing.assemble_to_write(keeps, context)?;
        let done = carry_out(image, below, name.as_ref(), context);
        rebased = done.map_err(|error| error.after_changes_if(dirty))?;
        notes.extend(note_leaked(rebased.leaked_bytes));
    }
    Ok(RebaseReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        changed,
        old_backing_file: old.map(|old| stored_text(&old.name)),
        backing,
        copied_bytes: rebased.written_bytes,
        zeroed_bytes: rebased.zeroed_bytes,
        refcounts_rebuilt: changed && dirty,
        notes,
    })
}

/// That what an interrupted change had left behind is free again.
pub(super) fn note_leaked(bytes: u64) -> Option<String> {
    let size = ByteSize::from_bytes(bytes);
    let note =
        || format!("{size} were leaked, as an interrupted change leaves them, and are free now");
    (bytes > 0).then(note)
}

fn carry_out(
    mut image: Image,
    below: Below,
    name: Option<&BackingName>,
    context: Context<'_>,
) -> Result<Rebased> {
    let rebased = match below {
        Below::Name(_) => {
            image.rename_backing(name)?;
            Rebased::default()
        }
        Below::Chain(base) => image.rebase(base.map(|base| base.image), name, context.task())?,
    };
    image.close().map_err(Error::after_changes)?;
    Ok(rebased)
}
