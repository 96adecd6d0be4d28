//! What a new disk is going to be, decided before anything is made; and whether it came to be that.

use super::super::backing::Base;
use super::super::choices::{Compression, Format, Preallocation, Preset};
use super::super::context::Context;
use super::ConvertRequest;
use crate::block::{BlockDevice, DeviceOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::host::FileStorage;
use crate::host::storage::Storage;
use crate::image::copy::{self, CopyOptions, InKernel, Packing, Target};
use crate::image::{Comparison, compare};
use crate::qcow2::{CompressionType, Header, Packer, Parts, Qcow2};
use crate::raw::{Raw, RawAllocation};
use crate::units::{ByteSize, VirtualSize, exactly};

/// What a new disk is going to be.
pub(super) struct Plan {
    pub(super) target: Target,
    packing: Option<Packing>,
    sparse_size: Option<u64>,
}

impl Plan {
    /// What is asked for, for a disk of `size` bytes, where that is known.
    ///
    /// # Errors
    /// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions), [`BadRequest`](ErrorKind::BadRequest)
    /// and [`BadSize`](ErrorKind::BadSize).
    pub(super) fn of(
        request: &ConvertRequest,
        size: Option<u64>,
        base: Option<&Base>,
    ) -> Result<Plan> {
        let packing = packing(request)?;
        let target = match request.format() {
            Format::Raw => raw(request, size.unwrap_or_default())?,
            Format::Qcow2 => qcow2(request, size, base)?,
        };
        let plan = Plan { target, packing, sparse_size: request.sparse_size.map(ByteSize::bytes) };
        copy::check(&plan.target, &plan.options(base, false))?;
        Ok(plan)
    }

    pub(super) fn format(&self) -> Format {
        match self.target {
            Target::Qcow2(_) => Format::Qcow2,
            Target::Raw { .. } => Format::Raw,
        }
    }

    /// How it is copied.
    pub(super) fn options<'a>(&self, base: Option<&'a Base>, shares_base: bool) -> CopyOptions<'a> {
        let cluster = match &self.target {
            Target::Qcow2(create) => create.geometry.cluster_size(),
            Target::Raw { .. } => u64::MAX,
        };
        let default = CopyOptions::default().sparse_size.min(cluster);
        CopyOptions {
            base: base.map(|base| copy::Base { disk: &base.image, is_below_source: shares_base }),
            packing: self.packing,
            sparse_size: self.sparse_size.unwrap_or(default),
        }
    }

    /// How the system may copy a raw disk, if nothing more is asked for.
    pub(super) fn in_kernel(&self) -> Option<InKernel> {
        match (&self.target, self.sparse_size) {
            (Target::Raw { allocation: RawAllocation::Sparse, .. }, None) => {
                Some(InKernel::Reflink)
            }
            (Target::Raw { allocation: RawAllocation::Sparse, .. }, Some(0)) => {
                Some(InKernel::Ranges)
            }
            _ => None,
        }
    }
}

fn incompatible<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::new(ErrorKind::IncompatibleOptions, message.into()))
}

fn packing(request: &ConvertRequest) -> Result<Option<Packing>> {
    let Some(compress) = request.compress else {
        return match request.level {
            Some(_) => incompatible("a level is of use with compress only"),
            None => Ok(None),
        };
    };
    if request.layout.compression_type.is_some_and(|kind| kind != compress) {
        return incompatible(format!("compress {compress} excludes another compression type"));
    }
    if request.layout.preset == Some(Preset::Hyperkit) {
        return incompatible("preset hyperkit: its reader rejects compressed clusters");
    }
    let levels = Packer::levels(kind(compress));
    let level = request.level.map(|level| match u8::try_from(level) {
        Ok(level) if levels.contains(&level) => Ok(level),
        _ => {
            let (least, most) = (levels.start(), levels.end());
            let message = format!("level {level}: {compress} has {least} to {most}");
            Err(Error::new(ErrorKind::BadRequest, message).in_field("level"))
        }
    });
    Ok(Some(Packing { level: level.transpose()? }))
}

fn kind(compress: Compression) -> CompressionType {
    match compress {
        Compression::Zlib => CompressionType::Zlib,
        Compression::Zstd => CompressionType::Zstd,
    }
}

fn raw(request: &ConvertRequest, size: u64) -> Result<Target> {
    let incompatible = |what: &str, field| {
        let message = format!("a raw disk has no {what}");
        let refused = Error::new(ErrorKind::IncompatibleOptions, message);
        Err(refused.at_path(&request.out).in_field(field))
    };
    if let Some((option, field)) = request.layout.first_qcow2_option() {
        return incompatible(option, field);
    }
    if request.compress.is_some() {
        return incompatible("compressed clusters", "compress");
    }
    if request.backing.is_some() {
        return incompatible("backing file", "backing");
    }
    let preallocation = request.layout.preallocation.unwrap_or(Preallocation::Off);
    match preallocation.for_raw() {
        Some(allocation) => Ok(Target::Raw { size, allocation }),
        None => incompatible(&format!("preallocation {preallocation}"), "layout.preallocation"),
    }
}

fn qcow2(request: &ConvertRequest, size: Option<u64>, base: Option<&Base>) -> Result<Target> {
    // Where how much comes is not known before, what came decides.
    let size = size.unwrap_or(1);
    let virtual_size = VirtualSize::round_up(ByteSize::from_bytes(size))?;
    if let Some(base) = base.filter(|base| base.size() > virtual_size.bytes()) {
        let (path, below, size) = (base.path.display(), exactly(base.size()), exactly(size));
        let message = format!("backing file {path} has {below}, more than the disk: {size}");
        return Err(Error::new(ErrorKind::BadSize, message));
    }
    let mut layout = request.layout.clone();
    layout.preallocation = layout.preallocation.or(Some(Preallocation::Off));
    layout.compression_type = layout.compression_type.or(request.compress);
    layout.resolve(virtual_size, base.map(Base::backing_name)).map(Target::Qcow2)
}

/// Reads the new disk again, and compares it with the one that it was made from.
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt) where they differ, and what reading both says.
pub(super) fn verify(
    source: &dyn BlockDevice,
    plan: &Plan,
    storage: &FileStorage,
    base: Option<Base>,
    context: Context<'_>,
) -> Result<()> {
    storage.sync()?;
    let file = storage.reader()?;
    let disk: Box<dyn BlockDevice> = match plan.target {
        Target::Raw { .. } => Box::new(Raw::open(Box::new(file))?),
        Target::Qcow2(_) => {
            let header = Header::read(&file)?;
            let below = base.map(|base| Box::new(base.image) as Box<dyn BlockDevice>);
            let parts = Parts { storage: Box::new(file), data_file: None, backing: below };
            let options = DeviceOptions::default();
            Box::new(Qcow2::open_with(parts, header, &options, context.task())?)
        }
    };
    match compare(source, &*disk, context.task())? {
        Comparison::Same => Ok(()),
        Comparison::Differ { offset } => {
            let message = "the new disk does not read as the one that it was made from";
            Err(Error::new(ErrorKind::Corrupt, message).at_guest_offset(offset))
        }
    }
}

/// The size of the disk in a new file, in bytes.
pub(super) fn size_of(format: Format, storage: &FileStorage) -> Result<u64> {
    match format {
        Format::Raw => storage.len(),
        Format::Qcow2 => Ok(Header::read(storage)?.virtual_size),
    }
}
