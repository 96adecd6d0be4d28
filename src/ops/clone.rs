//! `clone`: a second disk that shows the same. Sharing the file's blocks is best, a new overlay next,
//! a copy last.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::{Format, IfExists};
use super::context::Context;
use super::create::create;
use super::existing::Existing;
use super::options::{BackingOptions, CreateRequest};
use super::place::{Place, exists, is_taken, note_name, refuse_idle_force};
use super::salvage::IfTaken;
use super::wire::{bytes_hex, choice, lossy, stored_text};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, read_exact_at};
use crate::host::{FileId, FileStorage, Staging, folder_of, resolve, resolve_target};
use crate::image::chain::Link;
use crate::image::copy::{InKernel, copy_in_kernel};
use crate::image::gate::{Named, is_protocol};
use crate::image::journal::refuse_pending;
use crate::image::probe;
use crate::qcow2::{BackingName, Header, name_backing};
use crate::task::Task;

choice! {
    /// How a clone is made.
    CloneMethod {
        /// The file system shares the blocks of both files until one of them changes.
        Reflink = "reflink",
        /// A new qcow2 image above the disk, which must not change any more.
        Overlay = "overlay",
        /// The file is copied, byte for byte; holes stay holes.
        Copy = "copy",
    }
}

/// A disk, and where its clone goes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneRequest {
    /// The disk.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// Where the clone will be.
    pub out: PathBuf,
    /// How it is made. Default: `reflink` where the file system can, else `overlay`, else `copy`.
    pub method: Option<CloneMethod>,
    /// What to do when that path exists. Default: `fail`.
    #[serde(default)]
    pub if_exists: IfTaken,
    /// Whether what is there is replaced although other images in its folder depend on it; needs
    /// `if_exists` `replace`. Default: `false`.
    #[serde(default)]
    pub force: bool,
}

impl CloneRequest {
    /// A clone of `path` at `out`, as well as it can be made.
    pub fn new(path: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        let (path, out) = (path.into(), out.into());
        let (method, if_exists) = (None, IfTaken::Fail);
        CloneRequest { path, format: None, out, method, if_exists, force: false }
    }
}

/// What was made.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CloneReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Where the clone is.
    pub out: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_bytes_hex: Option<String>,
    /// How it was made.
    pub method: CloneMethod,
    /// The format of the clone.
    pub format: Format,
    /// The size of the guest's disk, in bytes.
    pub virtual_size_bytes: u64,
    /// The length of the clone's file, in bytes.
    pub file_size_bytes: u64,
    /// What of it is allocated on the host, in bytes; blocks that are shared count in both files.
    pub allocated_bytes: u64,
    /// The backing file of the clone as it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing: Option<String>,
    /// What else the caller should know.
    pub notes: Vec<String>,
}

/// Clones the disk: the clone appears under its name whole and synced, or not at all. The disk is
/// locked against writers meanwhile, and not changed.
///
/// # Errors
/// [`Exists`](ErrorKind::Exists); [`HasDependents`](ErrorKind::HasDependents) for a file that would be
/// replaced and that other images in its folder depend on, unless forced;
/// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for a method that the file system or the disk
/// does not allow; [`Dirty`](ErrorKind::Dirty) for a raw disk whose change was interrupted;
/// [`BackingMissing`](ErrorKind::BackingMissing) where a clone in another folder would not find what
/// it needs; what opening, locking and the host say. Whatever it is, both paths are as before.
pub fn clone(request: &CloneRequest, context: Context<'_>) -> Result<CloneReport> {
    refuse_idle_force(request.force, request.if_exists == IfTaken::Replace)?;
    let target = resolve_target(&request.out)?;
    let existing = Existing::open_to_read(&request.path, request.format, context)?;
    let virtual_size = existing.virtual_size()?;
    let source = existing.into_link();
    if source.header.is_none() {
        refuse_pending(source.storage.path())?;
    }
    let cloning = Cloning { request, target, source, context };
    cloning.refuse_target()?;
    let (mut notes, methods) = (Vec::new(), cloning.methods());
    for (place, &method) in methods.iter().enumerate() {
        match cloning.make(method) {
            Err(error) if place + 1 < methods.len() && is_impossible(&error) => {
                if method == CloneMethod::Overlay {
                    notes.push(format!("copied, since no overlay can be made: {error}"));
                }
            }
            made => {
                let made = made?;
                notes.extend(made.notes);
                return Ok(CloneReport {
                    path: lossy(&request.path),
                    path_bytes_hex: bytes_hex(&request.path),
                    out: lossy(&request.out),
                    out_bytes_hex: bytes_hex(&request.out),
                    method,
                    format: made.format,
                    virtual_size_bytes: virtual_size,
                    file_size_bytes: made.file_size_bytes,
                    allocated_bytes: made.allocated_bytes,
                    backing: made.backing,
                    notes,
                });
            }
        }
    }
    Err(Error::new(ErrorKind::Internal, "there is no way to make a clone"))
}

/// Whether another way may still work.
fn is_impossible(error: &Error) -> bool {
    let kinds = [
        ErrorKind::UnsupportedFeature,
        ErrorKind::BackingRefused,
        ErrorKind::BackingCycle,
        ErrorKind::BadRequest,
        // An image of nothing at all, or a raw disk too large for one.
        ErrorKind::BadSize,
    ];
    !error.changed() && kinds.contains(&error.kind())
}

/// A clone that was made.
struct Made {
    format: Format,
    file_size_bytes: u64,
    allocated_bytes: u64,
    backing: Option<String>,
    notes: Vec<String>,
}

/// The disk, open and locked, and where its clone goes.
struct Cloning<'a> {
    request: &'a CloneRequest,
    target: PathBuf,
    source: Link,
    context: Context<'a>,
}

impl Cloning<'_> {
    /// The ways to try, the best first. The clone is of the format that its name promises.
    fn methods(&self) -> Vec<CloneMethod> {
        use CloneMethod::{Copy, Overlay, Reflink};
        let apart = self.source.header.as_ref().is_some_and(Header::has_external_data);
        let is_raw = self.source.format == probe::Format::Raw;
        let promised = probe::Format::promised_by(&self.request.out);
        match self.request.method {
            Some(method) => vec![method],
            None if apart || is_raw && promised == Some(probe::Format::Qcow2) => vec![Overlay],
            None if is_raw => vec![Reflink, Copy],
            None => vec![Reflink, Overlay, Copy],
        }
    }

    /// Refuses a path that is taken, unless what is there may go, and is no part of the disk.
    fn refuse_target(&self) -> Result<()> {
        let out = &self.request.out;
        if !is_taken(out, &self.target)? {
            return Ok(());
        }
        if self.request.if_exists == IfTaken::Fail {
            return Err(exists(out));
        }
        let below = self.context.opening().below(&self.source, &[])?;
        let mut parts = vec![self.source.storage.id()?];
        for link in std::iter::once(&self.source).chain(&below) {
            parts.push(link.storage.id()?);
            if let Some(name) = link.header.as_ref().and_then(Header::data_file) {
                let data_file = self.context.trust.admit(&link.path, Named::DataFile, name)?;
                parts.push(FileId::of(&data_file)?);
            }
        }
        if parts.contains(&FileId::of(&self.target)?) {
            let message = "is a part of the disk that would be cloned";
            return Err(Error::new(ErrorKind::BadRequest, message).at_path(out).in_field("out"));
        }
        Ok(())
    }

    fn make(&self, method: CloneMethod) -> Result<Made> {
        match method {
            CloneMethod::Overlay => self.overlay(),
            CloneMethod::Reflink | CloneMethod::Copy => self.duplicate(method),
        }
    }

    /// A new image above the disk.
    fn overlay(&self) -> Result<Made> {
        let request = self.request;
        let backing = BackingOptions {
            path: request.path.clone(),
            format: Some(self.source.format.into()),
            store: None,
        };
        let if_exists = match request.if_exists {
            IfTaken::Fail => IfExists::Fail,
            IfTaken::Replace => IfExists::Replace,
        };
        let new = CreateRequest {
            format: Some(Format::Qcow2),
            backing: Some(backing),
            if_exists,
            force: request.force,
            ..CreateRequest::new(&request.out, None)
        };
        let made = create(&new, self.context)?;
        let mut notes = made.notes;
        let (path, out) = (lossy(&request.path), lossy(&request.out));
        notes.push(format!(
            "{out} needs {path} as it is now: {path} must not be started, changed or moved before \
             {out} is flattened"
        ));
        if self.source.header.as_ref().is_some_and(|header| header.snapshots.count > 0) {
            notes.push("the clone has none of the disk's internal snapshots".to_owned());
        }
        Ok(Made {
            format: made.format,
            file_size_bytes: made.file_size_bytes,
            allocated_bytes: made.allocated_bytes,
            backing: made.backing.map(|backing| backing.name),
            notes,
        })
    }

    /// A file with the same bytes.
    fn duplicate(&self, method: CloneMethod) -> Result<Made> {
        if let Some(header) = &self.source.header {
            // Both would write to the one data file.
            header.require_own_data().map_err(|error| error.at_path(&self.request.path))?;
        }
        let backing = self.moved_backing()?;
        if !is_taken(&self.request.out, &self.target)? {
            return self.stage(method, backing, None);
        }
        let (replaced, mark) =
            Existing::open_to_replace(&self.target, self.request.force, self.context)
                .map_err(|error| error.at_path(&self.request.out))?;
        self.stage(method, backing, Some(replaced)).map_err(mark)
    }

    fn stage(
        &self,
        method: CloneMethod,
        backing: Option<BackingName>,
        replaced: Option<FileStorage>,
    ) -> Result<Made> {
        let (source, context) = (&self.source, self.context);
        let place = Place::of(&self.target, replaced.as_ref(), None, None)?;
        let mut notes = Vec::new();
        note_name(&self.request.out, source.format.into(), &mut notes);
        let mut staging = Staging::begin(&self.target, place.mode, place.owner)?;
        if method == CloneMethod::Copy {
            copy_file(&source.storage, &mut staging, context.task())?;
        } else if !staging.reflink(&source.storage)? {
            let message = "the file system cannot share the blocks of these two files";
            let error = Error::new(ErrorKind::UnsupportedFeature, message);
            return Err(error.at_path(&self.request.out).in_field("method"));
        }
        let header = source.header.as_ref();
        if let (Some(header), Some(backing)) = (header, &backing) {
            name_backing(staging.storage(), header, backing)?;
            notes.push(
                "the clone lies in another folder, so it names its backing file from the root"
                    .to_owned(),
            );
        }
        let info = staging.storage().info()?;
        context.cancel.check()?;
        staging.publish(place.publish)?;
        drop(replaced);
        let backing = backing.as_ref().or(header.and_then(|header| header.backing.as_ref()));
        Ok(Made {
            format: source.format.into(),
            file_size_bytes: info.len,
            allocated_bytes: info.allocated_bytes,
            backing: backing.map(|backing| stored_text(&backing.name)),
            notes,
        })
    }

    /// The name that leads from another folder to the disk's backing file, where its own does not.
    fn moved_backing(&self) -> Result<Option<BackingName>> {
        let backing = self.source.header.as_ref().and_then(|header| header.backing.as_ref());
        let Some(backing) = backing else { return Ok(None) };
        let (from, to) = (folder_of(&self.source.path)?, folder_of(&self.target)?);
        // What is no file name is the same everywhere.
        let stays = from == to || backing.name.starts_with(b"/") || is_protocol(&backing.name);
        if stays {
            return Ok(None);
        }
        let path = resolve(&from.join(OsStr::from_bytes(&backing.name))).map_err(|error| {
            let missing = error.kind() == ErrorKind::NotFound;
            let kind = if missing { ErrorKind::BackingMissing } else { error.kind() };
            let message = "the clone in another folder would not find its backing file";
            Error::new(kind, message).at_path(&self.request.path).with_source(error)
        })?;
        let name = path.as_os_str().as_bytes().to_vec();
        Ok(Some(BackingName { name, ..backing.clone() }))
    }
}

/// Copies a file into an empty one; holes stay holes.
fn copy_file(source: &FileStorage, target: &mut Staging, task: Task<'_>) -> Result<()> {
    // Where the system can share blocks, it does that when it is to copy.
    if target.reflink(source)? {
        target.storage().set_len(0)?;
    } else if copy_in_kernel(source, target, InKernel::Ranges, task)? {
        return Ok(());
    }
    copy_pieces(source, target.storage(), task)
}

/// The same where the system does not copy.
fn copy_pieces(source: &FileStorage, target: &FileStorage, task: Task<'_>) -> Result<()> {
    const PIECE: u64 = 1 << 20;
    let len = source.len()?;
    target.set_len(len)?;
    let (mut at, mut buffer) = (0, vec![0; PIECE as usize]);
    while at < len {
        task.step("clone", at, len)?;
        let run = source.run(at, len)?;
        if run.is_hole {
            at = run.end;
            continue;
        }
        let piece = &mut buffer[..(run.end - at).min(PIECE) as usize];
        read_exact_at(source, at, piece)?;
        target.write_at(at, piece)?;
        at += piece.len() as u64;
    }
    task.step("clone", len, len)
}
