//! `map`: what a disk shows, run by run, and which file of its chain has that. Nothing is written to
//! it. A disk that a machine uses is looked at all the same.

mod picture;
mod svg;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use picture::{MapKind, Picture};

use super::choices::Format;
use super::context::Context;
use super::guest::look_at;
use super::wire::{self, bytes_hex, lossy};
use crate::error::{Error, ErrorKind, Result};
use crate::host::FileId;
use crate::image::chain::Opening;
use crate::image::{ChainMap, MapRun};
use crate::task::Cancel;
use crate::units::{ByteSize, exactly};

/// So many entries are answered at once, unless fewer or more are asked for.
const ENTRIES: u64 = 10_000;
/// So many at the most.
pub(super) const MOST_ENTRIES: u64 = 100_000;

/// A disk whose map is asked for, or a part of it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MapRequest {
    /// The disk.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// Where on the guest's disk the map begins. Default: 0.
    #[serde(default, deserialize_with = "wire::size::optional")]
    #[schemars(with = "Option<wire::Size>")]
    pub start_offset: Option<ByteSize>,
    /// How much of the disk it is about. Default: up to the end.
    #[serde(default, deserialize_with = "wire::size::optional")]
    #[schemars(with = "Option<wire::Size>")]
    pub max_length: Option<ByteSize>,
    /// How many entries are answered, at most: `next_start_offset_bytes` is where to go on. Default:
    /// 10000; no more than 100000.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_entries: Option<u64>,
    /// Where a picture of the map goes, as SVG: of all of it, however many entries are answered. It
    /// takes the place of another picture, and of nothing else. Default: nowhere.
    pub svg: Option<PathBuf>,
}

impl MapRequest {
    /// All of the map of a disk.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        MapRequest {
            path: path.into(),
            format: None,
            start_offset: None,
            max_length: None,
            max_entries: None,
            svg: None,
        }
    }

    fn entries(&self) -> Result<usize> {
        let asked = self.max_entries.unwrap_or(ENTRIES);
        if (1..=MOST_ENTRIES).contains(&asked) {
            // OK to default: it is small.
            return Ok(usize::try_from(asked).unwrap_or_default());
        }
        let message = format!("{asked} entries at once: 1 to {MOST_ENTRIES} are possible");
        Err(Error::new(ErrorKind::BadRequest, message).in_field("max_entries"))
    }
}

/// The map of a disk; `E` is how its entries are held.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "MapReport")]
pub struct MapReport<E = Vec<MapEntry>> {
    /// Where the disk is.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// The format of its content.
    pub format: Format,
    /// The size of the guest's disk, in bytes.
    pub virtual_size_bytes: u64,
    /// Whether somebody writes to the disk right now: what is told may be out of date already.
    pub in_use: bool,
    /// The images that it consists of, the uppermost first: an entry's `depth` counts them from 0.
    pub images: Vec<MapImage>,
    /// Where the picture is that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub svg: Option<String>,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub svg_bytes_hex: Option<String>,
    /// The runs of the disk, in order; neighbours that are alike are one.
    pub entries: E,
    /// Where the next entry begins, in bytes of the disk, where there are more: the `start_offset`
    /// to go on with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_start_offset_bytes: Option<u64>,
}

/// An image that a disk consists of.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct MapImage {
    /// Where it is.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Its format.
    pub format: Format,
    /// Where the guest's data is, if that is another file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file: Option<String>,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file_bytes_hex: Option<String>,
}

/// A run of a disk. Fields and meanings are those of `qemu-img map --output=json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct MapEntry {
    /// Where it begins on the guest's disk, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// Which image decides what it shows: 0 is the disk itself, 1 its backing file, and so on.
    pub depth: u64,
    /// Whether that image has it allocated, as data or as zeros.
    pub present: bool,
    /// Whether it reads as zeros.
    pub zero: bool,
    /// Whether there is room for data.
    pub data: bool,
    /// Whether the data is compressed.
    pub compressed: bool,
    /// Where it begins in the file that has the data, in bytes, where it has a place there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl From<MapRun> for MapEntry {
    fn from(run: MapRun) -> Self {
        MapEntry {
            start: run.start,
            length: run.len,
            depth: run.depth as u64,
            present: run.is_present,
            zero: run.is_zero,
            data: run.is_data,
            compressed: run.is_compressed,
            offset: run.offset,
        }
    }
}

/// Tells the map of a disk, so many entries of it at a time.
///
/// # Errors
/// As [`OpenMap::open`]; of the picture, [`Exists`](ErrorKind::Exists) where something else has that
/// name, and what creating a file says.
pub fn map(request: &MapRequest, context: Context<'_>) -> Result<MapReport> {
    let most = request.entries()?;
    let map = OpenMap::open(request, context)?;
    let (mut entries, mut next) = (Vec::new(), None);
    for entry in map.entries() {
        let entry = entry?;
        if entries.len() == most {
            next = Some(entry.start);
            break;
        }
        entries.push(entry);
    }
    map.publish_picture()?;
    Ok(MapReport { next_start_offset_bytes: next, ..map.report(entries) })
}

/// The map of a disk that is open, for those who take its entries one by one: there may be many.
#[derive(Debug)]
pub struct OpenMap {
    request: MapRequest,
    format: Format,
    in_use: bool,
    chain: ChainMap,
    files: Vec<FileId>,
    start: u64,
    end: u64,
    cancel: Cancel,
}

impl OpenMap {
    /// Opens a disk, and what is below it, to be looked at.
    ///
    /// # Errors
    /// [`FormatMismatch`](ErrorKind::FormatMismatch), [`BadRequest`](ErrorKind::BadRequest) for a
    /// part that begins beyond the disk's end, and what opening everything below it says.
    pub fn open(request: &MapRequest, context: Context<'_>) -> Result<OpenMap> {
        let (link, in_use) = look_at(&request.path, request.format, context)?;
        let format = link.format.into();
        let opening = Opening { trust: context.trust, locks: None, cancel: context.cancel };
        let chain = ChainMap::open(&opening, link)?;
        let start = request.start_offset.map_or(0, ByteSize::bytes);
        let size = chain.size();
        if start > size {
            let [start, size] = [start, size].map(exactly);
            let message = format!("begins at {start}, beyond the end of a disk of {size}");
            let error = Error::new(ErrorKind::BadRequest, message).in_field("start_offset");
            return Err(error.at_path(&request.path));
        }
        let most = request.max_length.map_or(u64::MAX, ByteSize::bytes);
        let end = start.saturating_add(most).min(size);
        let mut files = Vec::new();
        for image in chain.images() {
            for path in image.data_file().into_iter().chain([image.path()]) {
                files.push(FileId::of(path)?);
            }
        }
        let (request, cancel) = (request.clone(), context.cancel.clone());
        Ok(OpenMap { request, format, in_use, chain, files, start, end, cancel })
    }

    /// The entries of the part that was asked for, in order.
    pub fn entries(&self) -> impl Iterator<Item = Result<MapEntry>> {
        self.entries_to(self.end)
    }

    /// As [`entries`](Self::entries), to the end of the disk's last sector of 512 bytes, which a raw
    /// disk of an odd length does not fill: so QEMU sees it.
    pub fn sector_entries(&self) -> impl Iterator<Item = Result<MapEntry>> {
        let most = self.request.max_length.map_or(u64::MAX, ByteSize::bytes);
        self.entries_to(self.start.saturating_add(most))
    }

    fn entries_to(&self, end: u64) -> impl Iterator<Item = Result<MapEntry>> {
        self.chain.runs(self.start..end).map(|run| {
            self.cancel.check()?;
            run.map(MapEntry::from)
        })
    }

    /// The size of the guest's disk, in bytes.
    pub fn size(&self) -> u64 {
        self.chain.size()
    }

    /// The file that an entry's data is in, or its zeros have their place in.
    pub fn file_of(&self, entry: &MapEntry) -> Option<String> {
        let depth = usize::try_from(entry.depth).ok()?;
        entry.present.then(|| self.chain.data_file(depth)).flatten().map(lossy)
    }

    /// What is told of the disk, with these entries.
    pub fn report<E>(&self, entries: E) -> MapReport<E> {
        let image = |image: &crate::image::Image| MapImage {
            path: lossy(image.path()),
            path_bytes_hex: bytes_hex(image.path()),
            format: image.format().into(),
            data_file: image.data_file().map(lossy),
            data_file_bytes_hex: image.data_file().and_then(bytes_hex),
        };
        MapReport {
            path: lossy(&self.request.path),
            path_bytes_hex: bytes_hex(&self.request.path),
            format: self.format,
            virtual_size_bytes: self.chain.size(),
            in_use: self.in_use,
            images: self.chain.images().map(image).collect(),
            svg: self.request.svg.as_deref().map(lossy),
            svg_bytes_hex: self.request.svg.as_deref().and_then(bytes_hex),
            entries,
            next_start_offset_bytes: None,
        }
    }

    /// Sums up what was asked for in so many columns, from its beginning to its end.
    ///
    /// # Errors
    /// [`Cancelled`](ErrorKind::Cancelled), and what reading the map says.
    pub fn draw(&self, columns: usize) -> Result<Picture> {
        let mut picture = Picture::new(self.start..self.end, columns);
        for entry in self.entries() {
            picture.add(&entry?);
        }
        Ok(picture)
    }

    /// The picture of what was asked for, as SVG.
    ///
    /// # Errors
    /// As [`draw`](Self::draw).
    pub fn svg(&self) -> Result<String> {
        let name = self.request.path.file_name().unwrap_or_default().to_string_lossy();
        Ok(self.draw(svg::COLUMNS)?.svg(&name))
    }

    /// Draws the picture that was asked for, if one was.
    ///
    /// # Errors
    /// As [`map`].
    pub fn publish_picture(&self) -> Result<()> {
        match &self.request.svg {
            Some(path) => svg::publish(path, self),
            None => Ok(()),
        }
    }
}
