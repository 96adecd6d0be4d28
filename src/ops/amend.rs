//! `amend`: another kind of the same disk. In its place where that is a matter of its header and its
//! counts; else it is written anew beside itself, and takes its own place at once.

mod rewrite;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::rewrite::Rewrite;
use super::backing::{Base, refuse_another_below};
use super::choices::{Compat, Compression, Format};
use super::context::Context;
use super::existing::Existing;
use super::options::BackingOptions;
use super::wire::{self, bytes_hex, lossy, stored_text};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Access, FileStorage, resolve};
use crate::qcow2::geometry::RefcountOrder;
use crate::qcow2::{
    Amendment, Autoclear, BackingName, Compatible, Header, Incompatible, refuse_amendment,
};
use crate::units::ByteSize;

/// What a disk is to be. What is not said stays.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AmendRequest {
    /// The disk: a qcow2 image.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// The version of qcow2.
    pub compat: Option<Compat>,
    /// Whether reference counts may be updated late.
    pub lazy_refcounts: Option<bool>,
    /// Bits a reference count: a power of two from 1 to 64; 16 in version 0.10.
    pub refcount_bits: Option<u64>,
    /// How compressed clusters are packed.
    pub compression_type: Option<Compression>,
    /// Bytes a cluster: a power of two from 512 to 2 MiB.
    #[serde(default, deserialize_with = "wire::size::optional")]
    #[schemars(with = "Option<wire::Size>")]
    pub cluster_size: Option<ByteSize>,
    /// Whether L2 entries have subclusters.
    pub extended_l2: Option<bool>,
    /// The backing file that is named, as by an unsafe rebase: what is in it is not looked at.
    #[serde(default, deserialize_with = "wire::object::optional")]
    pub backing: Option<BackingOptions>,
    /// Whether none is named any more; excludes `backing`. Default: `false`.
    #[serde(default)]
    pub no_backing: bool,
    /// Whether what images above the disk show may change with the name of its backing file; needs
    /// `backing` or `no_backing`. Default: `false`.
    #[serde(default)]
    pub force: bool,
    /// Whether the external data file is the disk, byte for byte.
    pub data_file_raw: Option<bool>,
    /// Whether nothing is written, and only told what would be. Default: `false`.
    #[serde(default)]
    pub dry_run: bool,
}

impl AmendRequest {
    /// Nothing yet, of the disk at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        AmendRequest {
            path: path.into(),
            format: None,
            compat: None,
            lazy_refcounts: None,
            refcount_bits: None,
            compression_type: None,
            cluster_size: None,
            extended_l2: None,
            backing: None,
            no_backing: false,
            force: false,
            data_file_raw: None,
            dry_run: false,
        }
    }

    fn asks_nothing(&self) -> bool {
        let said = [
            self.compat.is_some(),
            self.lazy_refcounts.is_some(),
            self.refcount_bits.is_some(),
            self.compression_type.is_some(),
            self.cluster_size.is_some(),
            self.extended_l2.is_some(),
            self.backing.is_some(),
            self.no_backing,
            self.data_file_raw.is_some(),
        ];
        !said.contains(&true)
    }
}

/// What an amendment did, or would do.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct AmendReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Whether anything was written.
    pub changed: bool,
    /// Whether nothing was to be written.
    pub dry_run: bool,
    /// What is different, or would be, in the order of the request.
    pub amendments: Vec<AmendmentReport>,
    /// Whether the disk is written anew for that, and replaced.
    pub rewritten: bool,
    /// Bytes of the disk that were said to be zeros, as version 0.10 cannot say it.
    pub unsaid_zero_bytes: u64,
    /// Whether reference counts of a dirty image were rebuilt first.
    pub refcounts_rebuilt: bool,
    /// The length of the file now, in bytes.
    pub file_size_bytes: u64,
    /// What of it is allocated on the host, in bytes.
    pub allocated_bytes: u64,
    /// What else the caller should know.
    pub notes: Vec<String>,
}

/// One thing that an amendment changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AmendmentReport {
    /// Its name: a field of the request, `backing_file` or `backing_format`.
    pub option: String,
    /// What it was; none where it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What it is; none where it is not there any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Makes the disk what is asked for; it reads the same, unless another backing file is named. A crash
/// or a failure leaves the old image or the new one.
///
/// # Errors
/// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions) for what does not go together, or with
/// what the image has; [`HasDependents`](ErrorKind::HasDependents) where images in the disk's folder
/// would show another backing file, unless forced; [`HasSnapshots`](ErrorKind::HasSnapshots) where snapshots would not survive;
/// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for raw disks and what a rewrite would
/// lose; as [`rebase`](super::rebase()) of the backing file; what the system says.
pub fn amend(request: &AmendRequest, context: Context<'_>) -> Result<AmendReport> {
    if request.asks_nothing() {
        let message = "nothing to change is named: say what, such as compat";
        return Err(Error::new(ErrorKind::BadRequest, message).at_path(&request.path));
    }
    if request.backing.is_some() && request.no_backing {
        let message = "backing and no_backing exclude each other";
        return Err(Error::new(ErrorKind::IncompatibleOptions, message).in_field("backing"));
    }
    if request.force && request.backing.is_none() && !request.no_backing {
        let message =
            "force is of use with another backing file only: else the disk reads the same";
        return Err(Error::new(ErrorKind::IncompatibleOptions, message).in_field("force"));
    }
    let order = request.refcount_bits.map(refcount_order).transpose()?;
    let existing = match request.dry_run {
        true => Existing::open_to_read(&request.path, request.format, context)?,
        false => Existing::open_to_change(&request.path, request.format, context)?,
    };
    let mark = existing.mark();
    let amended = amend_open(existing, request, order, context);
    amended.map_err(|error| mark(error.at_path(&request.path)))
}

fn refcount_order(bits: u64) -> Result<RefcountOrder> {
    RefcountOrder::from_bits(bits).ok_or_else(|| {
        let message = format!("refcount bits {bits}: allowed are 1, 2, 4, 8, 16, 32 and 64");
        Error::new(ErrorKind::BadRequest, message).in_field("refcount_bits")
    })
}

fn amend_open(
    existing: Existing,
    request: &AmendRequest,
    order: Option<RefcountOrder>,
    context: Context<'_>,
) -> Result<AmendReport> {
    let Some(old) = existing.header().cloned() else {
        let message = "a raw disk has no header that could be changed";
        return Err(Error::new(ErrorKind::UnsupportedFeature, message));
    };
    let mut notes = Vec::new();
    let backing = match &request.backing {
        None => request.no_backing.then_some(None),
        Some(options) => {
            let recorded = old.backing.as_ref().and_then(|old| old.format.as_deref());
            let found = Base::look(options, recorded, &request.path, &mut notes, context)?;
            Some(Some(found.0))
        }
    };
    if let Some(new) = backing.as_ref().filter(|new| **new != old.backing && !request.force) {
        refuse_another_below(existing.storage(), old.backing.as_ref(), new.as_ref())?;
    }
    let dirty = old.incompatible.contains(Incompatible::DIRTY);
    let mut report = AmendReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        changed: false,
        dry_run: request.dry_run,
        amendments: Vec::new(),
        rewritten: false,
        unsaid_zero_bytes: 0,
        refcounts_rebuilt: false,
        file_size_bytes: 0,
        allocated_bytes: 0,
        notes,
    };
    if let Some(rewrite) = Rewrite::of(&existing, &old, request, backing.clone(), context)? {
        report.amendments = differences(&old, &rewrite.header(&old));
        report.rewritten = true;
        report.notes.extend(rewrite.note());
        if !request.dry_run {
            rewrite.carry_out(existing, &request.path, context)?;
            report.changed = true;
        }
    } else {
        let amendment = amendment(request, order, backing);
        in_place(existing, &old, &amendment, &mut report, context)?;
        report.refcounts_rebuilt = report.changed && dirty;
    }
    let info = FileStorage::open(&resolve(&request.path)?, Access::Read)?.info()?;
    (report.file_size_bytes, report.allocated_bytes) = (info.len, info.allocated_bytes);
    Ok(report)
}

fn amendment(
    request: &AmendRequest,
    refcount_order: Option<RefcountOrder>,
    backing: Option<Option<BackingName>>,
) -> Amendment {
    Amendment {
        version: request.compat.map(Into::into),
        lazy_refcounts: request.lazy_refcounts,
        refcount_order,
        compression: request.compression_type.map(Into::into),
        backing,
        raw_data_file: request.data_file_raw,
    }
}

/// Changes the header and the counts, or tells how.
fn in_place(
    existing: Existing,
    old: &Header,
    amendment: &Amendment,
    report: &mut AmendReport,
    context: Context<'_>,
) -> Result<()> {
    let target = refuse_amendment(existing.storage(), old, amendment, context.task())?;
    report.amendments = differences(old, &target);
    if target == *old {
        return Ok(());
    }
    let with_below = target.version != old.version;
    let mut image = match report.dry_run {
        true => existing.assemble_to_read(with_below, context)?,
        false => existing.assemble_to_write(with_below, context)?,
    };
    // The counts of a dirty image were made true when it was opened.
    let mended = old.incompatible.contains(Incompatible::DIRTY) && !report.dry_run;
    let amended = match report.dry_run {
        true => image.plan_amendment(amendment, context.task()),
        false => image.amend(amendment, context.task()),
    };
    let amended = amended.map_err(|error| error.after_changes_if(mended))?;
    report.unsaid_zero_bytes = amended.unsaid_zero_bytes;
    if !report.dry_run {
        image.close().map_err(Error::after_changes)?;
        report.changed = true;
    }
    Ok(())
}

/// What one header says other than another, by name.
fn differences(old: &Header, new: &Header) -> Vec<AmendmentReport> {
    let said = |header: &Header| {
        let on_off = |on: bool| Some(if on { "on" } else { "off" }.to_owned());
        let backing = header.backing.as_ref();
        let format = backing.and_then(|backing| backing.format.as_deref());
        let raw = Autoclear::RAW_EXTERNAL_DATA;
        [
            ("compat", Some(Compat::from(header.version).to_string())),
            ("lazy_refcounts", on_off(header.compatible.contains(Compatible::LAZY_REFCOUNTS))),
            ("refcount_bits", Some(header.geometry.refcount_order().bits().to_string())),
            ("compression_type", Some(Compression::from(header.compression).to_string())),
            ("cluster_size", Some(header.geometry.cluster_size().to_string())),
            ("extended_l2", on_off(header.geometry.extended_l2())),
            ("backing_file", backing.map(|backing| stored_text(&backing.name))),
            ("backing_format", format.map(stored_text)),
            ("data_file_raw", on_off(header.autoclear.contains(raw))),
        ]
    };
    let both = said(old).into_iter().zip(said(new));
    let different = both.filter(|(old, new)| old != new);
    different
        .map(|((option, from), (_, to))| AmendmentReport { option: option.to_owned(), from, to })
        .collect()
}
