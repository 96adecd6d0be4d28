//! `create`: a new disk, whole and synced before anybody can see it.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::backing::Base;
use super::choices::{Format, IfExists, Preallocation};
use super::compact::CompactReport;
use super::context::Context;
use super::existing::Existing;
use super::fits::check_fit;
use super::growth::GrowthReport;
use super::options::CreateRequest;
use super::payload::Prepared;
use super::place::{Place, exists, is_taken, note_name, refuse_foreign_name, refuse_idle_force};
use super::wire::{bytes_hex, lossy, stored_text};
use crate::error::{Case, Error, ErrorKind, Result};
use crate::host::{FileStorage, Staging, resolve_target};
use crate::units::{ByteSize, VirtualSize, exactly};
use crate::{qcow2, raw};

/// What was created.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CreateReport {
    /// Where it is.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Whether anything was written; `false` when an existing disk was kept.
    pub changed: bool,
    /// Its format.
    pub format: Format,
    /// The size of the guest's disk, in bytes.
    pub virtual_size_bytes: u64,
    /// The length of the file, in bytes.
    pub file_size_bytes: u64,
    /// What of it is allocated on the host, in bytes.
    pub allocated_bytes: u64,
    /// What was laid out from the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preallocation: Option<Preallocation>,
    /// The backing file as it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing: Option<BackingReport>,
    /// What the guest will find at the beginning of the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestReport>,
    /// What became of what is inside, where `ensure` looked at that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<GrowthReport>,
    /// How it was compacted, where `ensure` did that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compaction: Option<CompactReport>,
    /// What else the caller should know.
    pub notes: Vec<String>,
}

/// A backing file as recorded.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct BackingReport {
    /// The name as stored in the image.
    pub name: String,
    /// The recorded format.
    pub format: Format,
    /// The size of its disk, in bytes.
    pub virtual_size_bytes: u64,
}

/// A payload as written.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct GuestReport {
    /// The profile's name.
    pub profile: String,
    /// The archive's layout; none for the bare magic or a ready archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// Public keys installed; not known for a ready archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// The payload's length, in bytes.
    pub payload_bytes: u64,
}

/// Makes the disk: staged in its folder, synced, published without replacing anything that
/// appeared meanwhile, folder synced.
///
/// # Errors
/// [`HasDependents`](ErrorKind::HasDependents) for a disk that would be replaced and that other images
/// in its folder depend on, unless forced; of any kind that concerns options, backing file, keys and
/// the host. Whatever it is, the path is as it was before.
pub fn create(request: &CreateRequest, context: Context<'_>) -> Result<CreateReport> {
    refuse_idle_force(request.force, request.if_exists == IfExists::Replace)?;
    let target = resolve_target(&request.path)?;
    match (is_taken(&request.path, &target)?, request.if_exists) {
        (false, _) => build(request, &target, None, context),
        (true, IfExists::Fail) => Err(exists(&request.path)),
        (true, IfExists::Keep) => keep_if_it_fits(request, &target, context),
        (true, IfExists::Replace) => {
            let (replaced, mark) = Existing::open_to_replace(&target, request.force, context)
                .map_err(|error| error.at_path(&request.path))?;
            build(request, &target, Some(replaced), context).map_err(mark)
        }
    }
}

fn keep_if_it_fits(
    request: &CreateRequest,
    target: &Path,
    context: Context<'_>,
) -> Result<CreateReport> {
    let existing = Existing::open_to_read(target, request.format, context)?;
    check_fit(&existing, request, true)?;
    kept(&existing, request)
}

/// What is there, in the words of `create`.
pub(super) fn kept(existing: &Existing, request: &CreateRequest) -> Result<CreateReport> {
    let info = existing.storage().info()?;
    let notes = not_looked_at(request);
    Ok(CreateReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        changed: false,
        format: existing.format(),
        virtual_size_bytes: existing.virtual_size()?,
        file_size_bytes: info.len,
        allocated_bytes: info.allocated_bytes,
        preallocation: None,
        backing: None,
        guest: None,
        growth: None,
        compaction: None,
        notes,
    })
}

/// What of the request an existing disk was not held against.
pub(super) fn not_looked_at(request: &CreateRequest) -> Vec<String> {
    let guest = &request.guest;
    let asked = [
        (guest.has_keys(), "keys"),
        (guest.userdata_file.is_some(), "userdata"),
        (guest.profile.is_some(), "guest"),
        (request.layout.preallocation.is_some(), "preallocation"),
        (request.layout.nocow, "nocow"),
        (request.mode.is_some(), "mode"),
        (request.owner.is_some(), "owner"),
    ];
    let asked: Vec<_> = asked.iter().filter(|(asked, _)| *asked).map(|(_, what)| *what).collect();
    let note = || format!("the disk was there already; not looked at: {}", asked.join(", "));
    if asked.is_empty() { Vec::new() } else { vec![note()] }
}

/// Everything that is checked before anything is made, then the making. What is `replaced` hands
/// down its mode and owner, unless others are asked for.
pub(super) fn build(
    request: &CreateRequest,
    target: &Path,
    replaced: Option<FileStorage>,
    context: Context<'_>,
) -> Result<CreateReport> {
    let mut notes = Vec::new();
    let Place { mode, owner, publish } =
        Place::of(target, replaced.as_ref(), request.mode, request.owner.as_deref())?;
    refuse_foreign_name(&request.path, request.format)?;
    let format = request.format();
    let base = match &request.backing {
        Some(_) if format == Format::Raw => {
            let refused =
                Error::new(ErrorKind::IncompatibleOptions, "a raw disk has no backing file");
            return Err(refused.at_path(&request.path).in_field("backing"));
        }
        Some(options) => Some(Base::open(options, target, context)?),
        None => None,
    };
    let size = virtual_size(request, base.as_ref(), &mut notes)?;
    let prepared = request.guest.prepare(base.is_some(), context)?;
    note_keys(prepared.as_ref(), &mut notes);
    note_name(&request.path, format, &mut notes);
    let plan = Plan::new(request, format, size, base.as_ref(), prepared.as_ref())?;

    let staging = Staging::begin(target, mode, owner)?;
    if request.layout.nocow && !staging.storage().set_nocow()? {
        notes.push("nocow has no effect: the folder is not on btrfs".to_owned());
    }
    plan.write(staging.storage(), context)?;
    let info = staging.storage().info()?;
    context.cancel.check()?;
    staging.publish(publish)?;
    drop(replaced);
    Ok(CreateReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        changed: true,
        format,
        virtual_size_bytes: size.bytes(),
        file_size_bytes: info.len,
        allocated_bytes: info.allocated_bytes,
        preallocation: Some(plan.preallocation()),
        backing: base.as_ref().map(|base| BackingReport {
            name: stored_text(&base.name),
            format: base.format.into(),
            virtual_size_bytes: base.size(),
        }),
        guest: prepared.as_ref().map(Prepared::report),
        growth: None,
        compaction: None,
        notes,
    })
}

/// The size asked for or the backing file's, rounded up to whole sectors.
fn virtual_size(
    request: &CreateRequest,
    base: Option<&Base>,
    notes: &mut Vec<String>,
) -> Result<VirtualSize> {
    let asked = match (request.asked_size()?, base) {
        (Some(size), _) => size,
        (None, Some(base)) => ByteSize::from_bytes(base.size()),
        (None, None) => {
            let refused = Error::new(ErrorKind::BadRequest, "a new disk needs a size");
            let refused = refused.at_path(&request.path).in_case(Case::NoSize);
            return Err(refused.in_field("size"));
        }
    };
    let size = VirtualSize::round_up(asked)?;
    if size.byte_size() != asked {
        notes.push(format!("size rounded up from {} to {} bytes", asked.bytes(), size.bytes()));
    }
    if let Some(base) = base.filter(|base| base.size() > size.bytes()) {
        let message = format!(
            "backing file {} has {}, more than the size asked for: {size}",
            base.path.display(),
            exactly(base.size())
        );
        return Err(Error::new(ErrorKind::BadSize, message));
    }
    Ok(size)
}

fn note_keys(prepared: Option<&Prepared>, notes: &mut Vec<String>) {
    if prepared.is_some_and(|prepared| prepared.payload.key_count() == Some(0)) {
        notes.push(
            "no key is installed: the guest formats the disk but nobody can log in by key"
                .to_owned(),
        );
    }
}

/// A new disk, ready to be written.
enum Plan {
    Qcow2(qcow2::CreateOptions, Vec<u8>),
    Raw(VirtualSize, Preallocation, raw::RawAllocation, Vec<u8>),
}

impl Plan {
    fn new(
        request: &CreateRequest,
        format: Format,
        size: VirtualSize,
        base: Option<&Base>,
        prepared: Option<&Prepared>,
    ) -> Result<Plan> {
        if format == Format::Raw {
            let initial = prepared.map_or_else(Vec::new, |p| p.payload.bytes().to_vec());
            let preallocation = request.layout.preallocation.unwrap_or(Preallocation::Off);
            let incompatible = |what: &str, field| {
                let message = format!("a raw disk has no {what}");
                let refused = Error::new(ErrorKind::IncompatibleOptions, message);
                refused.at_path(&request.path).in_field(field)
            };
            if let Some((option, field)) = request.layout.first_qcow2_option() {
                return Err(incompatible(option, field));
            }
            let allocation = preallocation.for_raw().ok_or_else(|| {
                incompatible(&format!("preallocation {preallocation}"), "layout.preallocation")
            })?;
            return Ok(Plan::Raw(size, preallocation, allocation, initial));
        }
        let options = request.layout.resolve(size, base.map(Base::backing_name))?;
        let initial = match (prepared, base) {
            (None, _) => Vec::new(),
            (Some(prepared), None) => prepared.payload.bytes().to_vec(),
            (Some(prepared), Some(base)) => {
                let footprint = prepared.payload.footprint_bytes(prepared.profile);
                let clusters = footprint.next_multiple_of(options.geometry.cluster_size());
                let len = clusters.min(size.bytes());
                prepared.above(&base.image, &base.path, request.guest.overwrite, len)?
            }
        };
        Ok(Plan::Qcow2(options, initial))
    }

    fn write(&self, storage: &FileStorage, context: Context<'_>) -> Result<()> {
        match self {
            Plan::Qcow2(options, initial) => {
                qcow2::create(storage, options, initial, context.task())
            }
            Plan::Raw(size, _, allocation, initial) => {
                raw::create(storage, *size, *allocation, initial, context.task())
            }
        }
    }

    fn preallocation(&self) -> Preallocation {
        match self {
            Plan::Qcow2(options, _) => options.preallocation.into(),
            Plan::Raw(_, preallocation, ..) => *preallocation,
        }
    }
}

impl Prepared {
    fn report(&self) -> GuestReport {
        GuestReport {
            profile: self.profile.name().to_owned(),
            layout: self.payload.layout().map(|layout| layout.name().to_owned()),
            keys: self.payload.key_count().map(|count| count as u64),
            payload_bytes: self.payload.bytes().len() as u64,
        }
    }
}
