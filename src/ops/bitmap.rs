//! `bitmap`: the persistent dirty bitmaps of an image, from which incremental backups are made.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::Format;
use super::context::Context;
use super::existing::Existing;
use super::wire::{self, bytes_hex, lossy, stored_text};
use crate::error::{Case, Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::host::{Access, FileId, FileKind, FileStorage, resolve};
use crate::image::chain::Link;
use crate::image::probe::{self, Evidence, Magic};
use crate::qcow2::{
    Bitmap, BitmapChange, BitmapSource, Granularity, Header, dirty_bytes, read_bitmaps,
};
use crate::units::ByteSize;

/// An image whose bitmaps are asked about.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BitmapListRequest {
    /// The disk: a qcow2 image.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// Whether to read the bitmaps too, and tell how much each has as dirty. Default: `false`.
    #[serde(default)]
    pub count: bool,
}

/// A bitmap that is to be added.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BitmapAddRequest {
    /// The disk: a qcow2 image of version 3.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// The name: 1 to 1023 bytes, none of which is 0, that no bitmap of the image has.
    pub name: String,
    /// Bytes of the disk that a bit stands for: a power of two from 512 to 2 GiB. Default: a cluster,
    /// but from 4 KiB to 64 KiB.
    #[serde(default, deserialize_with = "wire::size::optional")]
    #[schemars(with = "Option<wire::Size>")]
    pub granularity: Option<ByteSize>,
    /// Whether it is left as it is by programs that would keep it up to date. Default: `false`.
    #[serde(default)]
    pub disabled: bool,
}

/// Bitmaps that are to be removed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BitmapRemoveRequest {
    /// The disk: a qcow2 image.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// The name of the one; excludes `all`.
    pub name: Option<String>,
    /// Whether to remove every bitmap, those also that the image does not vouch for any more.
    /// Default: `false`.
    #[serde(default)]
    pub all: bool,
}

/// A bitmap that is to be changed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BitmapRequest {
    /// The disk: a qcow2 image.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// The bitmap's name.
    pub name: String,
}

/// Bitmaps that are to be merged into another one.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BitmapMergeRequest {
    /// The disk: a qcow2 image.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// The name of the bitmap that changes.
    pub name: String,
    /// The names of those that are merged into it; they stay as they are.
    pub from: Vec<String>,
    /// The image that they are in, of a disk of the same size. Default: the same image.
    pub source: Option<PathBuf>,
}

/// The bitmaps of an image.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct BitmapListReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Its bitmaps, in the order of the image.
    pub bitmaps: Vec<BitmapReport>,
    /// How many bitmaps it had before a program that does not keep them wrote to it: they are not
    /// true any more, and their room is leaked.
    pub lost: u64,
}

/// What a change of bitmaps did.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct BitmapChangeReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Whether anything was written; `false` where all was as asked for already.
    pub changed: bool,
    /// The bitmaps that the image has now, in its order.
    pub bitmaps: Vec<BitmapReport>,
    /// Bytes of the file whose clusters were freed.
    pub freed_bytes: u64,
    /// Whether reference counts of a dirty image were rebuilt first.
    pub refcounts_rebuilt: bool,
    /// What else the caller should know.
    pub notes: Vec<String>,
}

/// One bitmap.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct BitmapReport {
    /// Its name.
    pub name: String,
    /// The name's bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_bytes_hex: Option<String>,
    /// Bytes of the disk that a bit stands for.
    pub granularity_bytes: u64,
    /// Whether programs that know bitmaps keep it up to date.
    pub enabled: bool,
    /// Whether whoever had it in use did not save it, or has it in use right now: what it says in the
    /// file is not true, and it can only be removed.
    pub in_use: bool,
    /// Bytes of extra data, which no program is known to write, where it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_data_bytes: Option<u64>,
    /// Whether one who does not know the extra data may use it all the same, where it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_data_compatible: Option<bool>,
    /// How much of the disk it has as dirty, in bytes, where that was asked for and can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_bytes: Option<u64>,
}

impl BitmapReport {
    fn of(bitmap: &Bitmap) -> BitmapReport {
        let hex = || bitmap.name.iter().map(|byte| format!("{byte:02x}")).collect();
        let extra = Some(bitmap.extra_data_bytes()).filter(|bytes| *bytes > 0);
        BitmapReport {
            name: stored_text(&bitmap.name),
            name_bytes_hex: std::str::from_utf8(&bitmap.name).is_err().then(hex),
            granularity_bytes: bitmap.granularity.bytes(),
            enabled: bitmap.is_enabled(),
            in_use: bitmap.is_in_use(),
            extra_data_bytes: extra,
            extra_data_compatible: extra.map(|_| bitmap.is_extra_data_compatible()),
            dirty_bytes: None,
        }
    }
}

/// Lists the bitmaps of the image. No lock is taken, so it works while a machine runs: its bitmaps
/// are in use then.
///
/// # Errors
/// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for a disk that is not qcow2,
/// [`Corrupt`](ErrorKind::Corrupt), what opening says.
pub fn bitmap_list(request: &BitmapListRequest, context: Context<'_>) -> Result<BitmapListReport> {
    let (storage, header) = look_at(&request.path, request.format)?;
    list(&storage, &header, request, context).map_err(|error| error.at_path(&request.path))
}

fn list(
    storage: &FileStorage,
    header: &Header,
    request: &BitmapListRequest,
    context: Context<'_>,
) -> Result<BitmapListReport> {
    let found = read_bitmaps(storage, header)?;
    let mut bitmaps: Vec<_> = found.iter().map(BitmapReport::of).collect();
    if request.count {
        let told = |bitmap: &Bitmap| !bitmap.is_in_use() && !bitmap.is_foreign();
        for (bitmap, report) in found.iter().zip(&mut bitmaps).filter(|(bitmap, _)| told(bitmap)) {
            report.dirty_bytes = Some(dirty_bytes(storage, header, bitmap, context.task())?);
        }
    }
    Ok(BitmapListReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        bitmaps,
        lost: header.lost_bitmaps(),
    })
}

/// Opens an image to be looked at, whoever uses it.
fn look_at(path: &Path, told: Option<Format>) -> Result<(FileStorage, Header)> {
    let resolved = resolve(path)?;
    let storage = FileStorage::open(&resolved, Access::Read)?;
    let magic = Magic::read(&storage)?;
    let block_device = storage.info()?.kind == FileKind::BlockDevice;
    let evidence = Evidence { path: &resolved, block_device, magic };
    let format = evidence.believe(told.map(probe::Format::from))?;
    let link = Link::open(&resolved, format, storage)?;
    let header = link.header.ok_or_else(|| no_bitmaps().at_path(path))?;
    Ok((link.storage, header))
}

fn no_bitmaps() -> Error {
    Error::new(ErrorKind::UnsupportedFeature, "only qcow2 images have bitmaps")
}

/// Adds a bitmap that has nothing as dirty.
///
/// # Errors
/// [`Exists`](ErrorKind::Exists), and as [`Qcow2::change_bitmaps`](crate::qcow2::Qcow2::change_bitmaps).
pub fn bitmap_add(request: &BitmapAddRequest, context: Context<'_>) -> Result<BitmapChangeReport> {
    let granularity = request.granularity.map(granularity).transpose()?;
    let (name, enabled) = (request.name.as_bytes(), !request.disabled);
    change(
        (&request.path, request.format),
        &BitmapChange::Add { name, granularity, enabled },
        context,
    )
}

fn granularity(asked: ByteSize) -> Result<Granularity> {
    Granularity::from_bytes(asked.bytes()).ok_or_else(|| {
        let message = format!(
            "granularity {}: allowed are powers of two from 512 bytes to 2 GiB",
            asked.exactly()
        );
        Error::new(ErrorKind::BadSize, message).in_field("granularity")
    })
}

/// Removes a bitmap, or all of them.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound), and as
/// [`Qcow2::change_bitmaps`](crate::qcow2::Qcow2::change_bitmaps).
pub fn bitmap_remove(
    request: &BitmapRemoveRequest,
    context: Context<'_>,
) -> Result<BitmapChangeReport> {
    let asked = match (&request.name, request.all) {
        (Some(name), false) => BitmapChange::Remove(name.as_bytes()),
        (None, true) => BitmapChange::RemoveAll,
        (Some(_), true) => {
            let message = "name and all exclude each other";
            return Err(Error::new(ErrorKind::IncompatibleOptions, message).in_field("all"));
        }
        (None, false) => {
            let message = "which bitmap is to be removed is not said";
            return Err(Error::new(ErrorKind::BadRequest, message).in_field("name"));
        }
    };
    change((&request.path, request.format), &asked, context)
}

/// Has a bitmap forget what is dirty.
///
/// # Errors
/// As [`Qcow2::change_bitmaps`](crate::qcow2::Qcow2::change_bitmaps).
pub fn bitmap_clear(request: &BitmapRequest, context: Context<'_>) -> Result<BitmapChangeReport> {
    change((&request.path, request.format), &BitmapChange::Clear(request.name.as_bytes()), context)
}

/// Has a bitmap kept up to date by programs that know bitmaps.
///
/// # Errors
/// As [`Qcow2::change_bitmaps`](crate::qcow2::Qcow2::change_bitmaps).
pub fn bitmap_enable(request: &BitmapRequest, context: Context<'_>) -> Result<BitmapChangeReport> {
    change(
        (&request.path, request.format),
        &BitmapChange::Enable(request.name.as_bytes(), true),
        context,
    )
}

/// Has a bitmap left as it is by programs that would keep it up to date.
///
/// # Errors
/// As [`Qcow2::change_bitmaps`](crate::qcow2::Qcow2::change_bitmaps).
pub fn bitmap_disable(request: &BitmapRequest, context: Context<'_>) -> Result<BitmapChangeReport> {
    change(
        (&request.path, request.format),
        &BitmapChange::Enable(request.name.as_bytes(), false),
        context,
    )
}

/// Has a bitmap take over what others have as dirty.
///
/// # Errors
/// [`BadSize`](ErrorKind::BadSize) for a source of another size, and as
/// [`Qcow2::change_bitmaps`](crate::qcow2::Qcow2::change_bitmaps).
pub fn bitmap_merge(
    request: &BitmapMergeRequest,
    context: Context<'_>,
) -> Result<BitmapChangeReport> {
    if request.from.is_empty() {
        let message = "which bitmaps are to be merged is not said";
        return Err(Error::new(ErrorKind::BadRequest, message).in_field("from"));
    }
    let other = match &request.source {
        Some(source) if FileId::of(&resolve(source)?)? != FileId::of(&resolve(&request.path)?)? => {
            let other = Existing::open_to_read(source, None, context)?;
            if other.header().is_none() {
                return Err(no_bitmaps().at_path(source));
            }
            Some(other)
        }
        // The same image under another name, which its own lock would keep us from.
        _ => None,
    };
    let image = other.as_ref().and_then(|other| Some((other.storage(), other.header()?)));
    let image = image.map(|(storage, header)| (storage as &dyn Storage, header));
    let names = request.from.iter().map(String::as_bytes);
    let sources = names.map(|name| BitmapSource { image, name }).collect();
    let merged = change(
        (&request.path, request.format),
        &BitmapChange::Merge { into: request.name.as_bytes(), sources },
        context,
    );
    merged.map_err(|error| match (error.case(), &request.source) {
        (Some(Case::OtherImage), Some(source)) => error.with_path(source),
        _ => error,
    })
}

fn change(
    (path, told): (&Path, Option<Format>),
    change: &BitmapChange<'_>,
    context: Context<'_>,
) -> Result<BitmapChangeReport> {
    let existing = Existing::open_to_change(path, told, context)?;
    let at_path = |error: Error| error.at_path(path);
    let lost = existing.header().map_or(0, Header::lost_bitmaps);
    let mut image = existing.assemble_to_read(false, context)?;
    let done = image.change_bitmaps(change, context.task()).map_err(at_path)?;
    let bitmaps = image.bitmaps().map_err(|error| error.after_changes_if(done.changed))?;
    image.close()?;
    let mut notes = Vec::new();
    if done.changed && lost > 0 {
        notes.push(format!(
            "{lost} bitmaps were lost before, when a program that does not keep them wrote to the \
             image; their room is leaked until vmdisk check --repair leaks frees it"
        ));
    }
    Ok(BitmapChangeReport {
        path: lossy(path),
        path_bytes_hex: bytes_hex(path),
        changed: done.changed,
        bitmaps: bitmaps.iter().map(BitmapReport::of).collect(),
        freed_bytes: done.freed_bytes,
        refcounts_rebuilt: done.rebuilt,
        notes,
    })
}
