//! `convert`: what the guest sees of a disk, written as a new one, whole and synced before anybody
//! can see it.

mod plan;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::plan::Plan;
use super::backing::Base;
use super::choices::{Compression, Format};
use super::context::Context;
use super::create::BackingReport;
use super::existing::Existing;
use super::options::{BackingOptions, LayoutOptions};
use super::place::{Place, exists, is_taken, note_name, refuse_foreign_name, refuse_idle_force};
use super::salvage::IfTaken;
use super::source::Source;
use super::wire::{self, bytes_hex, choice, lossy, stored_text};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::host::{FileId, FileStorage, Staging, resolve_target};
use crate::image::copy::{self, InKernel};
use crate::image::probe;
use crate::qcow2::MAGIC;
use crate::units::ByteSize;

/// A disk, and the one that what its guest sees is written as.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConvertRequest {
    /// The disk that is read.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub source_format: Option<Format>,
    /// The id or the name of an internal snapshot, whose disk is read instead. Default: none.
    pub snapshot: Option<String>,
    /// Where the new disk will be.
    pub out: PathBuf,
    /// The new disk's format. Default: what its name promises, else `qcow2`.
    pub format: Option<Format>,
    /// How it is laid out; `preallocation` is `off` unless asked for.
    #[serde(default, deserialize_with = "wire::object::required")]
    pub layout: LayoutOptions,
    /// What it lies above: what reads the same there is left out. Default: nothing.
    #[serde(default, deserialize_with = "wire::object::optional")]
    pub backing: Option<BackingOptions>,
    /// Whether its clusters are compressed, and how. Default: they are not.
    pub compress: Option<Compression>,
    /// How hard: `1` to `9` with `zlib`, `1` to `22` with `zstd`. Default: `6` and `3`.
    pub level: Option<u64>,
    /// So many bytes of zeros, one after the other, become a hole: a multiple of 512 up to 1 MiB. With
    /// 0, nothing is looked through, and only what the source is known to have as zeros becomes one.
    /// Default: 4 KiB.
    #[serde(default, deserialize_with = "wire::size::optional")]
    #[schemars(with = "Option<wire::Size>")]
    pub sparse_size: Option<ByteSize>,
    /// Whether the new disk is read again, and compared, before it appears. Default: `false`.
    #[serde(default)]
    pub verify: bool,
    /// What to do when the new disk's path exists. Default: `fail`.
    #[serde(default)]
    pub if_exists: IfTaken,
    /// Whether what is there is replaced although other images in its folder depend on it; needs
    /// `if_exists` `replace`. Default: `false`.
    #[serde(default)]
    pub force: bool,
    /// The new file's permission bits, in octal. Default: those of the file that it replaces, else
    /// `0600`.
    #[serde(default, deserialize_with = "wire::mode::optional")]
    #[schemars(with = "Option<wire::Mode>")]
    pub mode: Option<u32>,
    /// The new file's owner, as `user` or `user:group`, by name or number. Default: that of the file
    /// that it replaces, else whoever runs the program.
    pub owner: Option<String>,
}

impl ConvertRequest {
    /// `path` as a new disk at `out`, with every default.
    pub fn new(path: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        ConvertRequest {
            path: path.into(),
            source_format: None,
            snapshot: None,
            out: out.into(),
            format: None,
            layout: LayoutOptions::default(),
            backing: None,
            compress: None,
            level: None,
            sparse_size: None,
            verify: false,
            if_exists: IfTaken::Fail,
            force: false,
            mode: None,
            owner: None,
        }
    }

    /// The format asked for, or promised by the name.
    fn format(&self) -> Format {
        let promised = || probe::Format::promised_by(&self.out).map(Format::from);
        self.format.or_else(promised).unwrap_or(Format::Qcow2)
    }
}

choice! {
    /// How the contents got into a new disk.
    CopyMethod {
        /// It shares the blocks of the source's file.
        Reflink = "reflink",
        /// The system copied them from file to file.
        InKernel = "in_kernel",
        /// They were read and written.
        Written = "written",
    }
}

impl From<InKernel> for CopyMethod {
    fn from(how: InKernel) -> Self {
        match how {
            InKernel::Reflink => CopyMethod::Reflink,
            InKernel::Ranges => CopyMethod::InKernel,
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ConvertReport {
    /// The disk that was read.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Its format.
    pub source_format: Format,
    /// Where the new disk is.
    pub out: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_bytes_hex: Option<String>,
    /// Its format.
    pub format: Format,
    /// The size of the guest's disk, in bytes.
    pub virtual_size_bytes: u64,
    /// The length of the new file, in bytes.
    pub file_size_bytes: u64,
    /// What of it is allocated on the host, in bytes.
    pub allocated_bytes: u64,
    /// The backing file of the new disk, as it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing: Option<BackingReport>,
    /// How the contents got there.
    pub method: CopyMethod,
    /// Whether the new disk was read again and found to be the same.
    pub verified: bool,
    /// What else the caller should know.
    pub notes: Vec<String>,
}

/// Writes what the guest sees of a disk as a new one: staged in its folder, synced, published, as by
/// [`create`](super::create()).
///
/// # Errors
/// What opening and reading the disk says; of any kind that concerns the options of the new one;
/// [`BadRequest`](ErrorKind::BadRequest) for a new disk in the place of a file that is read;
/// [`HasDependents`](ErrorKind::HasDependents) for one that would be replaced and that other images in
/// its folder depend on, unless forced;
/// [`Corrupt`](ErrorKind::Corrupt) where it was asked to verify and the new disk is another;
/// [`Cancelled`](ErrorKind::Cancelled). Whatever it is, both paths are as before.
pub fn convert(request: &ConvertRequest, context: Context<'_>) -> Result<ConvertReport> {
    refuse_foreign_name(&request.out, request.format)?;
    let (told, snapshot) = (request.source_format, request.snapshot.as_deref());
    let source = Source::open(&request.path, told, snapshot, context)?;
    Job::new(request, context).run(source.files(), |job| job.write_disk(source))
}

/// As [`convert`], with what a stream has until it ends as the disk that is read, which is raw; the
/// request's `path` only names it.
///
/// # Errors
/// As [`convert`]; [`IncompatibleOptions`](ErrorKind::IncompatibleOptions) for what needs more than
/// one look at the disk.
pub fn convert_from(
    stream: &mut (dyn Read + Send),
    request: &ConvertRequest,
    context: Context<'_>,
) -> Result<ConvertReport> {
    let unfit = [
        (request.source_format == Some(Format::Qcow2), "source_format", "it is read as a raw disk"),
        (request.snapshot.is_some(), "snapshot", "a raw disk has no snapshots"),
        (request.backing.is_some(), "backing", "it cannot be compared with what is below"),
        (request.verify, "verify", "it cannot be read again"),
    ];
    refuse_unfit(&unfit, "standard input")?;
    refuse_foreign_name(&request.out, request.format)?;
    let mut head = Vec::new();
    let most = MAGIC.len() as u64;
    Read::take(&mut *stream, most)
        .read_to_end(&mut head)
        .map_err(|error| Error::io("cannot read", Path::new("standard input"), error))?;
    if head == MAGIC && request.source_format.is_none() {
        let message = "standard input is read as a raw disk, and begins as a qcow2 image";
        return Err(Error::new(ErrorKind::FormatMismatch, message));
    }
    let mut whole = (&head[..]).chain(stream);
    Job::new(request, context).run(Vec::new(), |job| job.write_stream(&mut whole))
}

/// Writes what the guest sees of a disk to a stream, every byte of it; the request's `out` only names
/// it.
///
/// # Errors
/// What opening and reading the disk says; [`IncompatibleOptions`](ErrorKind::IncompatibleOptions)
/// for what only a file can be; [`Io`](ErrorKind::Io) where the stream fails;
/// [`Cancelled`](ErrorKind::Cancelled).
pub fn convert_to(
    stream: &mut (dyn Write + Send),
    request: &ConvertRequest,
    context: Context<'_>,
) -> Result<()> {
    let layout = &request.layout;
    let unfit = [
        (request.format == Some(Format::Qcow2), "format", "only a raw disk is written to it"),
        (layout.first_qcow2_option().is_some(), "layout", "only a raw disk is written to it"),
        (layout.preallocation.is_some(), "preallocation", "every byte is written to it"),
        (layout.nocow, "nocow", "it is no file"),
        (request.backing.is_some(), "backing", "only a raw disk is written to it"),
        (request.compress.is_some(), "compress", "only a raw disk is written to it"),
        (request.level.is_some(), "level", "only a raw disk is written to it"),
        (request.sparse_size.is_some(), "sparse_size", "every byte is written to it"),
        (request.verify, "verify", "it cannot be read again"),
        (request.if_exists != IfTaken::Fail, "if_exists", "it is no file"),
        (request.mode.is_some(), "mode", "it is no file"),
        (request.owner.is_some(), "owner", "it is no file"),
        (request.force, "force", "it is no file"),
    ];
    refuse_unfit(&unfit, "standard output")?;
    let (told, snapshot) = (request.source_format, request.snapshot.as_deref());
    let disk = Source::open(&request.path, told, snapshot, context)?.assemble(context)?;
    copy::copy_to_stream(&disk, stream, context.task())
}

fn refuse_unfit(unfit: &[(bool, &'static str, &str)], stream: &str) -> Result<()> {
    match unfit.iter().find(|(asked, ..)| *asked) {
        Some((_, field, why)) => {
            let message = format!("{field} is not possible with {stream}: {why}");
            Err(Error::new(ErrorKind::IncompatibleOptions, message).in_field(field))
        }
        None => Ok(()),
    }
}

/// A new disk in the making.
struct Job<'a> {
    request: &'a ConvertRequest,
    context: Context<'a>,
    target: PathBuf,
    replaced: Option<FileStorage>,
    notes: Vec<String>,
}

impl<'a> Job<'a> {
    fn new(request: &'a ConvertRequest, context: Context<'a>) -> Self {
        let target = PathBuf::new();
        Job { request, context, target, replaced: None, notes: Vec::new() }
    }

    /// Finds the place, and whether it may be had, then does the work.
    fn run(
        mut self,
        read: Vec<FileId>,
        work: impl FnOnce(Self) -> Result<ConvertReport>,
    ) -> Result<ConvertReport> {
        let out = &self.request.out;
        refuse_idle_force(self.request.force, self.request.if_exists == IfTaken::Replace)?;
        self.target = resolve_target(out)?;
        if !is_taken(out, &self.target)? {
            return work(self);
        }
        if read.contains(&FileId::of(&self.target)?) {
            let message = "is what would be read: name another file for the new disk";
            let error = Error::new(ErrorKind::BadRequest, message).at_path(out);
            return Err(error.in_field("out"));
        }
        if self.request.if_exists == IfTaken::Fail {
            return Err(exists(out));
        }
        let (replaced, mark) =
            Existing::open_to_replace(&self.target, self.request.force, self.context)
                .map_err(|error| error.at_path(out))?;
        self.replaced = Some(replaced);
        work(self).map_err(mark)
    }

    fn write_disk(mut self, source: Source) -> Result<ConvertReport> {
        let place = self.place()?;
        let (source_format, size) = (source.format(), source.size()?);
        let base = self.base()?;
        let plan = Plan::of(self.request, Some(size), base.as_ref())?;
        let shares_base = match &base {
            Some(base) => source.lies_above(FileId::of(&base.path)?, base.format)?,
            None => false,
        };
        let (mut staging, task) = (self.begin(&place)?, self.context.task());
        // What shares blocks is copied on write: the opposite of what was asked for.
        let shares = |how: &InKernel| *how != InKernel::Reflink || !self.request.layout.nocow;
        let in_kernel = plan.in_kernel().filter(shares);
        let method = match in_kernel.zip(source.raw_file()) {
            Some((how, file)) if copy::copy_in_kernel(file, &mut staging, how, task)? => how.into(),
            _ => CopyMethod::Written,
        };
        let storage = staging.storage();
        let disk = source.assemble(self.context)?;
        if method == CopyMethod::Written {
            // What the system did not copy to its end.
            storage.set_len(0)?;
            let options = plan.options(base.as_ref(), shares_base);
            copy::copy(&disk, storage, &plan.target, &options, task)?;
        }
        let backing = base.as_ref().map(backing_report);
        if self.request.verify {
            plan::verify(&disk, &plan, storage, base, self.context)?;
        }
        self.publish(staging, &place, plan.format(), source_format, backing, method)
    }

    fn write_stream(mut self, stream: &mut (dyn Read + Send)) -> Result<ConvertReport> {
        let place = self.place()?;
        let plan = Plan::of(self.request, None, None)?;
        let staging = self.begin(&place)?;
        let options = plan.options(None, false);
        let storage = staging.storage();
        copy::copy_stream(stream, storage, &plan.target, &options, self.context.task())?;
        self.publish(staging, &place, plan.format(), Format::Raw, None, CopyMethod::Written)
    }

    fn place(&self) -> Result<Place> {
        let owner = self.request.owner.as_deref();
        Place::of(&self.target, self.replaced.as_ref(), self.request.mode, owner)
    }

    fn base(&self) -> Result<Option<Base>> {
        let Some(options) = &self.request.backing else { return Ok(None) };
        Base::open(options, &self.target, self.context).map(Some)
    }

    fn begin(&mut self, place: &Place) -> Result<Staging> {
        note_name(&self.request.out, self.request.format(), &mut self.notes);
        let staging = Staging::begin(&self.target, place.mode, place.owner)?;
        if self.request.layout.nocow && !staging.storage().set_nocow()? {
            self.notes.push("nocow has no effect: the folder is not on btrfs".to_owned());
        }
        Ok(staging)
    }

    fn publish(
        self,
        staging: Staging,
        place: &Place,
        format: Format,
        source_format: Format,
        backing: Option<BackingReport>,
        method: CopyMethod,
    ) -> Result<ConvertReport> {
        let request = self.request;
        let info = staging.storage().info()?;
        let virtual_size_bytes = plan::size_of(format, staging.storage())?;
        self.context.cancel.check()?;
        staging.publish(place.publish)?;
        Ok(ConvertReport {
            path: lossy(&request.path),
            path_bytes_hex: bytes_hex(&request.path),
            source_format,
            out: lossy(&request.out),
            out_bytes_hex: bytes_hex(&request.out),
            format,
            virtual_size_bytes,
            file_size_bytes: info.len,
            allocated_bytes: info.allocated_bytes,
            backing,
            method,
            verified: request.verify,
            notes: self.notes,
        })
    }
}

fn backing_report(base: &Base) -> BackingReport {
    BackingReport {
        name: stored_text(&base.name),
        format: base.format.into(),
        virtual_size_bytes: base.size(),
    }
}
