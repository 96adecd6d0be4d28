//! `salvage`: what can be read of a damaged disk, as a new raw disk, and what is lost of it.

mod losses;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use losses::{Loss, Lost};

use self::losses::Losses;
use super::choices::Format;
use super::context::Context;
use super::existing::Existing;
use super::place::{Place, exists, is_taken, note_name, refuse_idle_force};
use super::wire::{bytes_hex, choice, lossy};
use crate::block::is_zero;
use crate::block::salvage::{LossReason, Rescue};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::host::{FileId, FileStorage, Staging, resolve_target};
use crate::image::{PastDamage, probe};
use crate::task::Task;
use crate::units::ByteSize;

/// A damaged disk, and where what can be read of it goes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SalvageRequest {
    /// The disk.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// Where the new raw disk will be.
    pub out: PathBuf,
    /// What to do when that path exists. Default: `fail`.
    #[serde(default)]
    pub if_exists: IfTaken,
    /// Whether what is there is replaced although other images in its folder depend on it; needs
    /// `if_exists` `replace`. Default: `false`.
    #[serde(default)]
    pub force: bool,
}

impl SalvageRequest {
    /// What can be read of `path`, into a new file at `out`.
    pub fn new(path: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        let (path, out) = (path.into(), out.into());
        SalvageRequest { path, format: None, out, if_exists: IfTaken::Fail, force: false }
    }
}

choice! {
    /// What to do when a file is where a new one shall be.
    #[derive(Default)]
    IfTaken {
        /// Refuse.
        #[default]
        Fail = "fail",
        /// Replace it by the new disk, atomically.
        Replace = "replace",
    }
}

/// What was read, and what is lost.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SalvageReport {
    /// The disk that was read.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Its format.
    pub format: Format,
    /// Where the new raw disk is.
    pub out: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_bytes_hex: Option<String>,
    /// The size of the guest's disk, in bytes.
    pub virtual_size_bytes: u64,
    /// What of the new disk is allocated on the host, in bytes; what reads as zeros is not.
    pub allocated_bytes: u64,
    /// All that is lost, in bytes of the guest's disk: the new disk has zeros there.
    pub lost_bytes: u64,
    /// The first parts that are lost, in the order of the disk.
    pub lost: Vec<Loss>,
    /// How many more there are.
    pub lost_left_out: u64,
    /// What else the caller should know.
    pub notes: Vec<String>,
}

/// Reads what can be read of a disk into a new raw disk: staged in its folder, synced, published,
/// as by [`create`](super::create()). That something is lost is no error.
///
/// # Errors
/// Of the header of an image, which must open; [`BadRequest`](ErrorKind::BadRequest) for a new disk
/// in the place of the old one or of a file below it; [`HasDependents`](ErrorKind::HasDependents) in the
/// place of one that other images in its folder depend on, unless forced;
/// [`NoSpace`](ErrorKind::NoSpace) for a disk larger than a file can be; what opening, locking and the
/// host say. Whatever it is, both paths are as before.
pub fn salvage(request: &SalvageRequest, context: Context<'_>) -> Result<SalvageReport> {
    refuse_idle_force(request.force, request.if_exists == IfTaken::Replace)?;
    let told = request.format.map(probe::Format::from);
    let mut source = context.opening().past_damage(&request.path, told)?;
    let target = resolve_target(&request.out)?;
    let (replaced, mark) = replaced(request, &target, &source, context)?.unzip();
    let salvaged = rescue(request, &target, &mut source, replaced, context);
    salvaged.map_err(|error| match &mark {
        Some(mark) => mark(error),
        None => error,
    })
}

/// Reads what can be read into a new file.
fn rescue(
    request: &SalvageRequest,
    target: &Path,
    source: &mut PastDamage,
    replaced: Option<FileStorage>,
    context: Context<'_>,
) -> Result<SalvageReport> {
    let place = Place::of(target, replaced.as_ref(), None, None)?;
    let mut notes = Vec::new();
    if let Some(missing) = &source.missing {
        notes.push(format!("below it, something could not be opened: {missing}"));
    }
    note_name(&request.out, Format::Raw, &mut notes);

    let staging = Staging::begin(target, place.mode, place.owner)?;
    let size = source.disk.size();
    staging.storage().set_len(size).map_err(|error| too_large(size, error))?;
    let mut rescued = Rescued {
        storage: staging.storage(),
        losses: Losses::default(),
        size,
        task: context.task(),
    };
    source.disk.salvage(0..size, &mut rescued).map_err(|error| error.at_path(&request.path))?;
    rescued.reached(size)?;
    let losses = rescued.losses;
    let allocated_bytes = staging.storage().info()?.allocated_bytes;
    context.cancel.check()?;
    staging.publish(place.publish)?;
    drop(replaced);
    Ok(SalvageReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        format: source.format.into(),
        out: lossy(&request.out),
        out_bytes_hex: bytes_hex(&request.out),
        virtual_size_bytes: size,
        allocated_bytes,
        lost_bytes: losses.bytes(),
        lost_left_out: losses.left_out(),
        lost: losses.listed(),
        notes,
    })
}

/// The file that the new one takes the place of, locked, and what becomes of an error that comes later.
fn replaced(
    request: &SalvageRequest,
    target: &Path,
    source: &PastDamage,
    context: Context<'_>,
) -> Result<Option<(FileStorage, impl Fn(Error) -> Error + use<>)>> {
    if !is_taken(&request.out, target)? {
        return Ok(None);
    }
    let refuse = |message| {
        let error = Error::new(ErrorKind::BadRequest, message).at_path(&request.out);
        Err(error.in_field("out"))
    };
    if source.files.contains(&FileId::of(target)?) {
        return refuse("is what would be read: name another file for what is salvaged");
    }
    match request.if_exists {
        IfTaken::Fail => Err(exists(&request.out)),
        IfTaken::Replace if source.missing.as_ref().is_some_and(was_refused) => refuse(
            "may be the very file that could not be opened below the disk: name another one for \
             what is salvaged",
        ),
        IfTaken::Replace => Existing::open_to_replace(target, request.force, context)
            .map(Some)
            .map_err(|error| error.at_path(&request.out)),
    }
}

/// Whether there is a file that was not opened.
fn was_refused(missing: &Error) -> bool {
    missing.kind() != ErrorKind::BackingMissing
}

fn too_large(size: u64, error: Error) -> Error {
    if error.kind() != ErrorKind::NoSpace {
        return error;
    }
    let size = ByteSize::from_bytes(size);
    let message = format!("the disk has {size}, more than a file can have here");
    Error::new(ErrorKind::NoSpace, message).with_source(error)
}

/// The new disk, and what is lost of it.
struct Rescued<'a> {
    storage: &'a FileStorage,
    losses: Losses,
    size: u64,
    task: Task<'a>,
}

impl Rescue for Rescued<'_> {
    fn data(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        /// A block of most file systems: a hole is no smaller.
        const BLOCK: usize = 4096;
        let mut at = offset;
        for run in data.chunks(BLOCK).collect::<Vec<_>>().chunk_by(|a, b| is_zero(a) == is_zero(b))
        {
            let len: usize = run.iter().map(|block| block.len()).sum();
            let from = (at - offset) as usize;
            if !is_zero(run[0]) {
                self.storage.write_at(at, &data[from..from + len])?;
            }
            at += len as u64;
        }
        Ok(())
    }

    fn lost(&mut self, offset: u64, len: u64, reason: LossReason) {
        self.losses.add(offset, len, reason);
    }

    fn reached(&mut self, offset: u64) -> Result<()> {
        self.task.step("salvage", offset, self.size)
    }
}
