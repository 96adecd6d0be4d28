//! What becomes of an image's bitmaps: looked up and decided, before anything is written.

use std::ops::Range;

use super::announce::DirtyRanges;
use super::chunks::{BitmapReader, Chunk, ChunkEntry, Dirty, each_entry, merged};
use super::directory::{
    Bitmap, Coverage, Granularity, MAX_BITMAP_NAME, MAX_BITMAPS, MAX_DIRECTORY, encode_directory,
    read_bitmaps,
};
use crate::error::{Case, Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::qcow2::geometry::{ClusterCount, HostCluster, HostOffset};
use crate::qcow2::header::{Header, TableRef, Version};
use crate::qcow2::lengths::len_of;
use crate::task::Task;
use crate::units::ByteSize;

/// What is done to the bitmaps of an image.
#[derive(Debug, Clone)]
pub enum BitmapChange<'a> {
    /// Adds one that has nothing as dirty.
    Add {
        /// Its name: 1 to 1023 bytes, not 0, which no other has.
        name: &'a [u8],
        /// Bytes of the disk a bit; a cluster, but from 4 KiB to 64 KiB, when not given.
        granularity: Option<Granularity>,
        /// Whether it is kept up to date by programs that know bitmaps.
        enabled: bool,
    },
    /// Removes one, whatever is wrong with what it says.
    Remove(&'a [u8]),
    /// Removes all of them, those also that the image does not vouch for any more.
    RemoveAll,
    /// Has one forget what is dirty.
    Clear(&'a [u8]),
    /// Has one be kept up to date, or left as it is, by programs that know bitmaps.
    Enable(&'a [u8], bool),
    /// Has one take what is going to be written as dirty, by its name.
    Mark(&'a [u8], &'a dyn DirtyRanges),
    /// Has one take over what others have as dirty.
    Merge {
        /// The one that changes.
        into: &'a [u8],
        /// The others.
        sources: Vec<BitmapSource<'a>>,
    },
}

/// A bitmap that is merged into another one.
#[derive(Clone)]
pub struct BitmapSource<'a> {
    /// The image that it is in; the same as the other, when not given.
    pub image: Option<(&'a dyn Storage, &'a Header)>,
    /// Its name.
    pub name: &'a [u8],
}

impl std::fmt::Debug for BitmapSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BitmapSource").field("name", &self.name.escape_ascii()).finish()
    }
}

/// The bitmaps as they will be.
pub(super) struct Decision<'a> {
    pub(super) bitmaps: Vec<Bitmap>,
    /// The one whose table is written anew.
    pub(super) fresh: Option<Fresh<'a>>,
    /// What nothing refers to any more, beside the directory.
    pub(super) released: Vec<Range<HostCluster>>,
}

/// A table that is written anew.
pub(super) struct Fresh<'a> {
    /// Whose it is, by its place in the directory.
    pub(super) index: usize,
    pub(super) entries: Vec<FreshEntry>,
    /// Where bits come from that are written anew.
    pub(super) merge: Option<Merge<'a>>,
}

/// An entry of a table that is written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FreshEntry {
    /// As in the old table, or without data.
    Known(ChunkEntry),
    /// To a new cluster.
    New,
}

/// A bitmap, and what is merged into it.
pub(super) struct Merge<'a> {
    pub(super) target: BitmapReader<'a>,
    pub(super) sources: Vec<Dirty<'a>>,
}

impl Merge<'_> {
    /// The bits of a chunk as they will be.
    pub(super) fn chunk(&mut self, chunk: u64) -> Result<Chunk> {
        merged(&mut self.target, &mut self.sources, chunk)
    }
}

impl Fresh<'_> {
    /// New clusters of data.
    pub(super) fn data_clusters(&self) -> ClusterCount {
        let new = self.entries.iter().filter(|entry| **entry == FreshEntry::New);
        ClusterCount::new(u64::try_from(new.count()).unwrap_or(u64::MAX))
    }
}

/// Decides what `change` makes of the bitmaps; nothing where all is as it should be already.
pub(super) fn decide<'a>(
    storage: &'a dyn Storage,
    header: &'a Header,
    change: &BitmapChange<'a>,
    task: Task<'_>,
) -> Result<Option<Decision<'a>>> {
    let image = Image { storage, header, bitmaps: read_bitmaps(storage, header)? };
    let decision = match change {
        BitmapChange::Add { name, granularity, enabled } => {
            Some(image.add(name, *granularity, *enabled)?)
        }
        BitmapChange::Remove(name) => Some(image.remove(name)?),
        BitmapChange::RemoveAll => image.remove_all()?,
        BitmapChange::Clear(name) => image.clear(name)?,
        BitmapChange::Enable(name, enabled) => image.enable(name, *enabled)?,
        BitmapChange::Mark(name, dirty) => image.merge(name, vec![Dirty::Ranges(*dirty)], task)?,
        BitmapChange::Merge { into, sources } => {
            image.usable(into)?;
            let sources = sources.iter().map(|source| image.source(source).map(Dirty::Bitmap));
            let sources = sources.collect::<Result<_>>()?;
            image.merge(into, sources, task)?
        }
    };
    if let Some(decision) = &decision {
        require_room_in_directory(&decision.bitmaps)?;
    }
    Ok(decision)
}

struct Image<'a> {
    storage: &'a dyn Storage,
    header: &'a Header,
    bitmaps: Vec<Bitmap>,
}

impl<'a> Image<'a> {
    fn add(
        mut self,
        name: &[u8],
        granularity: Option<Granularity>,
        enabled: bool,
    ) -> Result<Decision<'a>> {
        require_name(name)?;
        require_home(self.header)?;
        if self.bitmaps.iter().any(|bitmap| bitmap.name == name) {
            let message = format!("there is a bitmap {} already", quoted(name));
            return Err(Error::new(ErrorKind::Exists, message));
        }
        if len_of(&self.bitmaps) >= MAX_BITMAPS.into() {
            let message = format!("the image has {MAX_BITMAPS} bitmaps, and no more are allowed");
            return Err(Error::new(ErrorKind::UnsupportedFeature, message));
        }
        let chosen = Granularity::default_for(self.header.geometry.cluster_size());
        let granularity = granularity.unwrap_or(chosen);
        let coverage = Coverage::of(self.header, granularity);
        if !coverage.is_allowed() {
            let (granularity, size) = (granularity.bytes(), self.header.virtual_size);
            let message = format!(
                "a bitmap of {granularity} bytes a bit is too large, or has nothing to stand for, \
                 on a disk of {size} bytes"
            );
            return Err(Error::new(ErrorKind::BadSize, message).in_field("granularity"));
        }
        self.bitmaps.push(Bitmap::new(name, granularity, enabled));
        let index = self.bitmaps.len().saturating_sub(1);
        let entries = cleared(coverage);
        let fresh = Some(Fresh { index, entries, merge: None });
        Ok(Decision { bitmaps: self.bitmaps, fresh, released: Vec::new() })
    }

    fn remove(mut self, name: &[u8]) -> Result<Decision<'a>> {
        let bitmap = self.bitmaps.remove(self.find(name)?);
        let released = self.clusters_of(&bitmap)?;
        Ok(Decision { bitmaps: self.bitmaps, fresh: None, released })
    }

    fn remove_all(self) -> Result<Option<Decision<'a>>> {
        let mut released = Vec::new();
        for bitmap in &self.bitmaps {
            released.extend(self.clusters_of(bitmap)?);
        }
        let has_any = self.header.bitmaps().is_some();
        Ok(has_any.then(|| Decision { bitmaps: Vec::new(), fresh: None, released }))
    }

    fn clear(self, name: &[u8]) -> Result<Option<Decision<'a>>> {
        let (index, bitmap) = self.usable(name)?;
        let reader = BitmapReader::new(self.storage, self.header, bitmap)?;
        if reader.entries.iter().all(|entry| *entry == ChunkEntry::Zeros) {
            return Ok(None);
        }
        let released = self.clusters_of(bitmap)?;
        let fresh = Some(Fresh { index, entries: cleared(reader.coverage), merge: None });
        Ok(Some(Decision { bitmaps: self.bitmaps, fresh, released }))
    }

    fn enable(mut self, name: &[u8], enabled: bool) -> Result<Option<Decision<'a>>> {
        let (index, bitmap) = self.usable(name)?;
        if bitmap.is_enabled() == enabled {
            return Ok(None);
        }
        let changed = bitmap.clone().with_enabled(enabled);
        if let Some(bitmap) = self.bitmaps.get_mut(index) {
            *bitmap = changed;
        }
        Ok(Some(Decision { bitmaps: self.bitmaps, fresh: None, released: Vec::new() }))
    }

    fn merge(
        self,
        into: &[u8],
        sources: Vec<Dirty<'a>>,
        task: Task<'_>,
    ) -> Result<Option<Decision<'a>>> {
        let (index, bitmap) = self.usable(into)?;
        let target = BitmapReader::new(self.storage, self.header, bitmap)?;
        let mut merge = Merge { target, sources };
        let chunks = merge.target.coverage.chunks();
        let mut released = self.table_of(bitmap);
        let mut entries = Vec::new();
        let mut changed = false;
        for chunk in 0..chunks {
            task.step("bitmaps", chunk, chunks)?;
            let old = merge.target.entry(chunk);
            let entry = match (merge.chunk(chunk)?, old) {
                (Chunk::Zeros, _) => FreshEntry::Known(ChunkEntry::Zeros),
                (Chunk::Ones, _) => FreshEntry::Known(ChunkEntry::Ones),
                (Chunk::Bits(bits), ChunkEntry::Data(host))
                    if bits == merge.target.bits(chunk, host)? =>
                {
                    FreshEntry::Known(old)
                }
                (Chunk::Bits(_), _) => FreshEntry::New,
            };
            if entry != FreshEntry::Known(old) {
                changed = true;
                released.extend(self.data_of(old));
            }
            entries.push(entry);
        }
        let fresh = Some(Fresh { index, entries, merge: Some(merge) });
        Ok(changed.then_some(Decision { bitmaps: self.bitmaps, fresh, released }))
    }

    fn source(&self, source: &BitmapSource<'a>) -> Result<BitmapReader<'a>> {
        let Some((storage, header)) = source.image else {
            let (_, bitmap) = self.usable(source.name)?;
            return BitmapReader::new(self.storage, self.header, bitmap);
        };
        self.other_source(storage, header, source.name)
            .map_err(|error| error.in_case(Case::OtherImage))
    }

    fn other_source(
        &self,
        storage: &'a dyn Storage,
        header: &'a Header,
        name: &[u8],
    ) -> Result<BitmapReader<'a>> {
        let image = Image { storage, header, bitmaps: read_bitmaps(storage, header)? };
        let (_, bitmap) = image.usable(name)?;
        let [size, needed] = [header, self.header].map(|header| header.virtual_size);
        if size != needed {
            let [size, needed] = [size, needed].map(|bytes| ByteSize::from_bytes(bytes).exactly());
            let message = format!(
                "the bitmap {} stands for a disk of {size}, and cannot be merged into one for \
                 {needed}",
                quoted(name)
            );
            return Err(Error::new(ErrorKind::BadSize, message));
        }
        BitmapReader::new(storage, header, bitmap)
    }

    /// The bitmap of this name, in which one may look and write.
    fn usable(&self, name: &[u8]) -> Result<(usize, &Bitmap)> {
        let index = self.find(name)?;
        let bitmap = self.bitmaps.get(index).ok_or_else(|| not_found(name, self.header))?;
        if bitmap.is_in_use() {
            let message = format!(
                "the bitmap {} was not saved by whoever had it in use: what it says is not true, \
                 and it can only be removed",
                quoted(name)
            );
            return Err(Error::new(ErrorKind::Dirty, message));
        }
        if bitmap.is_foreign() {
            let message = format!(
                "the bitmap {} has extra data without which it means something else: it can only \
                 be removed",
                quoted(name)
            );
            return Err(Error::new(ErrorKind::UnsupportedFeature, message));
        }
        Ok((index, bitmap))
    }

    fn find(&self, name: &[u8]) -> Result<usize> {
        let found = self.bitmaps.iter().position(|bitmap| bitmap.name == name);
        found.ok_or_else(|| not_found(name, self.header))
    }

    /// Every cluster that a bitmap takes.
    fn clusters_of(&self, bitmap: &Bitmap) -> Result<Vec<Range<HostCluster>>> {
        let mut clusters = self.table_of(bitmap);
        each_entry(self.storage, self.header.geometry, bitmap.table, |entry| {
            clusters.extend(self.data_of(entry));
        })?;
        Ok(clusters)
    }

    fn table_of(&self, bitmap: &Bitmap) -> Vec<Range<HostCluster>> {
        let TableRef { offset, count } = bitmap.table;
        let clusters = self.header.geometry.table_clusters(count.into());
        let first = self.header.geometry.host_cluster(offset);
        vec![first..first + clusters]
    }

    fn data_of(&self, entry: ChunkEntry) -> Option<Range<HostCluster>> {
        let ChunkEntry::Data(host) = entry else { return None };
        let first = self.header.geometry.host_cluster(host);
        Some(first..first + ClusterCount::new(1))
    }
}

/// A table that has nothing as dirty.
fn cleared(coverage: Coverage) -> Vec<FreshEntry> {
    (0..coverage.chunks()).map(|_| FreshEntry::Known(ChunkEntry::Zeros)).collect()
}

/// The clusters of a directory, which has no place yet.
pub(super) fn directory_run(header: &Header) -> Option<Range<HostCluster>> {
    let directory = header.vouched_bitmaps()?;
    let first = header.geometry.host_cluster(HostOffset::new(directory.offset));
    Some(first..first + header.geometry.clusters_for(directory.size_bytes))
}

/// Only images that could say when a bitmap is not true any more have one.
fn require_home(header: &Header) -> Result<()> {
    let refuse = |message| Err(Error::new(ErrorKind::UnsupportedFeature, message));
    if header.version == Version::V2 {
        return refuse("an image of version 2 (compat 0.10) cannot have bitmaps");
    }
    if header.is_lazy_for_hyperkit() {
        return refuse("hyperkit, which this image is for, would not keep a bitmap true");
    }
    Ok(())
}

fn require_name(name: &[u8]) -> Result<()> {
    let len = name.len();
    if (1..=MAX_BITMAP_NAME).contains(&len) && !name.contains(&0) {
        return Ok(());
    }
    let message = format!(
        "the name of a bitmap has 1 to {MAX_BITMAP_NAME} bytes, none of which is 0; this one has {len}"
    );
    Err(Error::new(ErrorKind::BadRequest, message).in_field("name"))
}

fn require_room_in_directory(bitmaps: &[Bitmap]) -> Result<()> {
    let len = len_of(&encode_directory(bitmaps));
    if len <= MAX_DIRECTORY {
        return Ok(());
    }
    let message = format!(
        "the directory of bitmaps would have {len} bytes, and at most {MAX_DIRECTORY} are allowed"
    );
    Err(Error::new(ErrorKind::UnsupportedFeature, message))
}

fn not_found(name: &[u8], header: &Header) -> Error {
    let why = match header.lost_bitmaps() > 0 {
        true => {
            ": a program that does not keep bitmaps has written to the image since, so none of them \
             is true any more"
        }
        false => "",
    };
    let message = format!("there is no bitmap {}{why}", quoted(name));
    Error::new(ErrorKind::NotFound, message)
}

fn quoted(name: &[u8]) -> String {
    format!("'{}'", name.escape_ascii())
}
