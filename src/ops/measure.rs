//! `measure`: how large the file of a new image would be, before there is one.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::{Format, Preallocation};
use super::context::Context;
use super::guest::look_at;
use super::options::LayoutOptions;
use super::wire::{self, bytes_hex, lossy};
use crate::error::{Error, ErrorKind, Result};
use crate::image::ChainMap;
use crate::image::chain::{Link, Opening};
use crate::qcow2::geometry::Geometry;
use crate::qcow2::{self, Counted, CreateOptions, Measured, Version, measure_bitmaps};
use crate::units::{ByteSize, VirtualSize};

/// A new image whose size is asked for: an empty one of a size, or one with the contents of a disk.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MeasureRequest {
    /// The disk whose contents it would have, with everything below it; excludes `size`.
    pub path: Option<PathBuf>,
    /// The format of that disk, where name and content leave a doubt. Default: what they agree on.
    pub source_format: Option<Format>,
    /// The id or the name of an internal snapshot of it, whose disk is meant instead. Default: none.
    pub snapshot: Option<String>,
    /// The size of an empty disk; rounded up to 512 bytes.
    #[serde(deserialize_with = "wire::size::optional")]
    #[schemars(with = "Option<wire::Size>")]
    pub size: Option<ByteSize>,
    /// The format of the new image. Default: `qcow2`.
    pub format: Option<Format>,
    /// How it would be laid out.
    #[serde(deserialize_with = "wire::object::required")]
    pub layout: LayoutOptions,
}

/// How large the file of a new image would be.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct MeasureReport {
    /// The disk whose contents it would have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// The format of the new image.
    pub format: Format,
    /// The size of the guest's disk, in bytes.
    pub virtual_size_bytes: u64,
    /// The size of the file with the data that there is, in bytes: what reads as zeros takes no room.
    pub required_bytes: u64,
    /// The size of the file once the guest has written to every cluster, in bytes.
    pub fully_allocated_bytes: u64,
    /// What the disk's bitmaps would take besides, in bytes, where both images can have any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitmaps_bytes: Option<u64>,
}

/// Works out how large the file of a new image would be: the figures are those of
/// `qemu-img measure`.
///
/// # Errors
/// [`BadRequest`](ErrorKind::BadRequest) unless a disk or a size is given;
/// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions) for both, and for what a raw disk does not
/// have; [`BadSize`](ErrorKind::BadSize); what opening the disk and everything below it says.
pub fn measure(request: &MeasureRequest, context: Context<'_>) -> Result<MeasureReport> {
    let incompatible = |message: String, field| {
        Err(Error::new(ErrorKind::IncompatibleOptions, message).in_field(field))
    };
    let format = request.format.unwrap_or(Format::Qcow2);
    if let (Format::Raw, Some((option, field))) = (format, request.layout.first_qcow2_option()) {
        return incompatible(format!("a raw disk has no {option}"), field);
    }
    match (&request.path, request.size) {
        (None, None) => {
            let message = "name a disk, or the size of an empty one";
            Err(Error::new(ErrorKind::BadRequest, message).in_field("size"))
        }
        (Some(_), Some(_)) => {
            incompatible("a disk has its size: path and size exclude each other".into(), "size")
        }
        (None, Some(_)) if request.source_format.is_some() => {
            incompatible("there is no disk whose format that could be".into(), "source_format")
        }
        (None, Some(_)) if request.snapshot.is_some() => {
            incompatible("there is no disk that could have a snapshot".into(), "snapshot")
        }
        (None, Some(size)) => empty(request, format, size),
        (Some(path), None) => {
            let (mut link, _) = look_at(path, request.source_format, context)?;
            if let Some(snapshot) = &request.snapshot {
                link = link.at_snapshot(snapshot)?;
            }
            let report = filled(request, format, link, context)?;
            Ok(MeasureReport { path: Some(lossy(path)), path_bytes_hex: bytes_hex(path), ..report })
        }
    }
}

fn empty(request: &MeasureRequest, format: Format, size: ByteSize) -> Result<MeasureReport> {
    let size = VirtualSize::round_up(size).map_err(|error| error.in_field("size"))?;
    match format {
        Format::Raw => Ok(report(format, size, raw(size))),
        Format::Qcow2 => {
            let options = request.layout.resolve(size, None)?;
            let count = Counted::new(options.geometry);
            Ok(report(format, size, measured(request, &options, count)?))
        }
    }
}

fn filled(
    request: &MeasureRequest,
    format: Format,
    link: Link,
    context: Context<'_>,
) -> Result<MeasureReport> {
    let opening = Opening { trust: context.trust, locks: None, cancel: context.cancel };
    let len = match &link.header {
        Some(header) => header.virtual_size,
        None => link.storage.info()?.len,
    };
    let size = VirtualSize::round_up(ByteSize::from_bytes(len))?;
    if format == Format::Raw {
        return Ok(report(format, size, raw(size)));
    }
    let options = request.layout.resolve(size, None)?;
    let bitmaps = bitmaps(&link, options.version, options.geometry)?;
    let chain = ChainMap::open(&opening, link)?;
    let mut count = Counted::new(options.geometry);
    for run in chain.runs(0..chain.size()) {
        context.cancel.check()?;
        let run = run?;
        if run.is_data && !run.is_zero {
            count.add(run.start, run.len);
        }
    }
    let report = report(format, size, measured(request, &options, count)?);
    Ok(MeasureReport { bitmaps_bytes: bitmaps, ..report })
}

/// What bitmaps would take, where the disk and the new image can have any.
fn bitmaps(link: &Link, new: Version, geometry: Geometry) -> Result<Option<u64>> {
    let header = link.header.as_ref().filter(|header| header.version == Version::V3);
    match header.filter(|_| new == Version::V3) {
        Some(header) => measure_bitmaps(&link.storage, header, geometry).map(Some),
        None => Ok(None),
    }
}

fn measured(request: &MeasureRequest, options: &CreateOptions, count: Counted) -> Result<Measured> {
    let measured = qcow2::measure(options.geometry, options.virtual_size, count.clusters())?;
    Ok(match request.layout.preallocation {
        // Room is taken for all of it.
        Some(Preallocation::Falloc | Preallocation::Full) => {
            Measured { required: measured.fully_allocated, ..measured }
        }
        _ => measured,
    })
}

fn raw(size: VirtualSize) -> Measured {
    Measured { required: size.bytes(), fully_allocated: size.bytes() }
}

fn report(format: Format, size: VirtualSize, measured: Measured) -> MeasureReport {
    MeasureReport {
        path: None,
        path_bytes_hex: None,
        format,
        virtual_size_bytes: size.bytes(),
        required_bytes: measured.required,
        fully_allocated_bytes: measured.fully_allocated,
        bitmaps_bytes: None,
    }
}
