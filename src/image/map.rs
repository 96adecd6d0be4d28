//! What a disk shows, run by run, and which image of its chain holds that: what `qemu-img map` tells.

use std::ops::Range;
use std::path::Path;

use super::chain::{Link, Opening};
use super::opened::{Disk, Image};
use crate::block::{BlockDevice, DeviceOptions, Extent, ExtentKind, Joins, Runs};
use crate::error::Result;
use crate::host::FileId;
use crate::qcow2::{Mapped, Mappings};

/// What a disk consists of, to QEMU, in bytes.
const SECTOR: u64 = 512;

/// A run of a disk's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapRun {
    /// Where it begins on the disk, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub len: u64,
    /// How many images above the one that decides what it shows.
    pub depth: usize,
    /// Whether that image has an entry for it of its own; else it shows zeros since nothing does.
    pub is_present: bool,
    /// Whether it reads as zeros.
    pub is_zero: bool,
    /// Whether there is room for data, which may be a hole of the file nevertheless.
    pub is_data: bool,
    /// Whether that is compressed.
    pub is_compressed: bool,
    /// Where it is in the file that holds the data, in bytes, where it has a place there.
    pub offset: Option<u64>,
}

impl Joins for MapRun {
    fn run_len(&self) -> u64 {
        self.len
    }

    fn joined(&self, next: &MapRun) -> Option<MapRun> {
        let expected = MapRun {
            start: next.start,
            len: next.len,
            offset: self.offset.map(|offset| offset.saturating_add(self.len)),
            ..*self
        };
        (expected == *next).then_some(MapRun { len: self.len.saturating_add(next.len), ..*self })
    }
}

/// An image of a chain, by itself.
#[derive(Debug)]
struct Layer {
    image: Image,
    /// Whether its clusters were laid out ahead, so that the file's holes tell what was written.
    is_laid_out: bool,
}

/// The images of a chain, the uppermost first, each by itself.
#[derive(Debug)]
pub struct ChainMap(Vec<Layer>);

impl ChainMap {
    /// Opens everything below `top`, to be read.
    ///
    /// # Errors
    /// As [`Opening::below`] and [`Opening::assemble`].
    pub fn open(opening: &Opening<'_>, top: Link) -> Result<ChainMap> {
        let below = opening.below(&top, &[])?;
        let links: Vec<Link> = std::iter::once(top).chain(below).collect();
        let files = links.iter().map(|link| link.storage.id()).collect::<Result<Vec<_>>>()?;
        let layer = |link| Layer::open(opening, link, &files);
        links.into_iter().map(layer).collect::<Result<_>>().map(ChainMap)
    }

    /// The size of the disk, in bytes.
    pub fn size(&self) -> u64 {
        self.0.first().map_or(0, |layer| layer.image.size())
    }

    /// The images, the uppermost first.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        self.0.iter().map(|layer| &layer.image)
    }

    /// Where the guest's data of the image at this depth is.
    pub fn data_file(&self, depth: usize) -> Option<&Path> {
        let image = &self.0.get(depth)?.image;
        Some(image.data_file().unwrap_or(image.path()))
    }

    /// The runs of a range of the disk, one after the other. To QEMU a raw disk has whole sectors:
    /// what a file of an odd length lacks of its last one are zeros with a place.
    pub fn runs(&self, range: Range<u64>) -> Runs<'_, MapRun> {
        let mut walks: Vec<_> = self.0.iter().map(Walk::of).collect();
        let sizes: Vec<_> = self.images().map(Image::mapped_size).collect();
        let size = sizes.first().copied().unwrap_or_default();
        let range = range.start.min(size)..range.end.min(size);
        Runs::with(range, move |offset, end| find(&mut walks, &sizes, offset, end))
    }
}

impl Image {
    /// How far a map of it goes, in bytes.
    fn mapped_size(&self) -> u64 {
        match &self.disk {
            Disk::Qcow2(image) => image.size(),
            Disk::Raw(disk) => disk.size().next_multiple_of(SECTOR),
        }
    }
}

impl Layer {
    fn open(opening: &Opening<'_>, link: Link, files: &[FileId]) -> Result<Layer> {
        let allocated = link.storage.info()?.allocated_bytes;
        let own = link.storage.id()?;
        let others: Vec<_> = files.iter().copied().filter(|file| *file != own).collect();
        let image = opening.assemble(link, Vec::new(), &others, &DeviceOptions::default())?;
        // Nobody says that counts which cannot be read are wrong: they only speak of holes.
        let is_laid_out = match &image.disk {
            Disk::Qcow2(image) => image.is_laid_out_ahead(allocated).unwrap_or(false),
            Disk::Raw(_) => false,
        };
        Ok(Layer { image, is_laid_out })
    }
}

/// How much of a disk an image shows by itself, in bytes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnBytes {
    /// Data that is stored, packed or not.
    pub data: u64,
    /// Zeros that it has entries for, and room that was laid out ahead and never written.
    pub zeros: u64,
}

/// Counts what an image of a chain has of its own. `files` are those of the chain.
///
/// # Errors
/// As [`Opening::assemble`], and what reading its tables says.
pub fn own_bytes(opening: &Opening<'_>, link: Link, files: &[FileId]) -> Result<OwnBytes> {
    let chain = ChainMap(vec![Layer::open(opening, link, files)?]);
    let mut own = OwnBytes::default();
    for run in chain.runs(0..chain.size()) {
        opening.cancel.check()?;
        let run = run?;
        match (run.is_present, run.is_zero) {
            (true, true) => own.zeros = own.zeros.saturating_add(run.len),
            (true, false) => own.data = own.data.saturating_add(run.len),
            (false, _) => {}
        }
    }
    Ok(own)
}

/// A layer that is walked through.
struct Walk<'a> {
    layer: &'a Layer,
    mappings: Option<Mappings<'a>>,
}

impl<'a> Walk<'a> {
    fn of(layer: &'a Layer) -> Self {
        let mappings = match &layer.image.disk {
            Disk::Qcow2(image) => Some(image.mappings()),
            Disk::Raw(_) => None,
        };
        Walk { layer, mappings }
    }

    fn mapped(&mut self, offset: u64, end: u64) -> Result<Mapped> {
        let image = &self.layer.image;
        match &mut self.mappings {
            Some(mappings) => image.of_file(mappings.from(offset, end)),
            None => {
                let there = image.size();
                let extent = match offset < there {
                    true => image.extent(offset, end.min(there))?,
                    false => {
                        Extent { offset, len: end.saturating_sub(offset), kind: ExtentKind::Zero }
                    }
                };
                let reserved = (extent.kind == ExtentKind::Zero).then_some(offset);
                Ok(Mapped { offset, len: extent.len, kind: extent.kind, reserved })
            }
        }
    }

    /// Whether what lies at an offset of the data file is a hole, and how much of it is alike.
    fn hole(&self, host_offset: u64, len: u64) -> Result<(bool, u64)> {
        let image = &self.layer.image;
        let Disk::Qcow2(disk) = &image.disk else { return Ok((false, len)) };
        if !self.layer.is_laid_out {
            return Ok((false, len));
        }
        let run = image.of_file(disk.stored(host_offset, host_offset.saturating_add(len)))?;
        Ok((run.is_hole, run.end.saturating_sub(host_offset).min(len)))
    }
}

/// What the run that begins at `offset` is, as far down as it is decided.
fn find(walks: &mut [Walk<'_>], sizes: &[u64], offset: u64, mut end: u64) -> Result<MapRun> {
    let mut run = MapRun {
        start: offset,
        len: end.saturating_sub(offset),
        depth: 0,
        is_present: false,
        is_zero: true,
        is_data: false,
        is_compressed: false,
        offset: None,
    };
    for (depth, (walk, &size)) in walks.iter_mut().zip(sizes).enumerate() {
        let found = walk.mapped(offset, end.min(size))?;
        (run.depth, run.len, run.offset) = (depth, found.len, found.reserved);
        end = offset.saturating_add(found.len);
        match found.kind {
            ExtentKind::Data { host_offset } => {
                let (is_hole, len) = walk.hole(host_offset, found.len)?;
                (run.is_present, run.is_data, run.is_zero) = (true, true, is_hole);
                (run.offset, run.len) = (Some(host_offset), len);
                return Ok(run);
            }
            ExtentKind::Compressed => {
                (run.is_present, run.is_data, run.is_zero) = (true, true, false);
                run.is_compressed = true;
                return Ok(run);
            }
            ExtentKind::Zero => {
                run.is_present = true;
                return Ok(run);
            }
            // Behind the end of what is below, and where there is nothing, zeros are read.
            ExtentKind::Unallocated => match sizes.get(depth.saturating_add(1)) {
                Some(&below) if offset < below => {}
                _ => return Ok(run),
            },
        }
    }
    Ok(run)
}
