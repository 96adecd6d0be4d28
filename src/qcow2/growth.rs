//! Counting clusters that are added behind all others: where there is room for them, which
//! refcount blocks exist already, which are new, and whether the refcount table must be written
//! anew for them.
//!
//! A new block is always referred to by a new refcount table, so that one write in the header
//! makes blocks and table valid together.

use std::collections::BTreeSet;
use std::ops::Range;

use super::entry::RefcountTableEntry;
use super::error::FormatError;
use super::geometry::{
    ClusterCount, Geometry, HostCluster, MAX_HOST_OFFSET, MAX_REFCOUNT_TABLE_BYTES,
};
use super::header::TableRef;
use super::refblock::RefcountBlock;
use super::stream::StreamWriter;
use super::table::encode_words;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, read_exact_at};

/// Where clusters may be added to a file whose use ends at `used`: behind its end, where nothing is
/// at all; where it cannot grow, behind what is used.
pub(super) fn free_end(
    storage: &dyn Storage,
    geometry: Geometry,
    used: HostCluster,
) -> Result<HostCluster> {
    match storage.can_grow() {
        true => Ok(used.max(geometry.host_cluster_after(storage.len()?))),
        false => Ok(used),
    }
}

/// Refuses to add clusters up to `end` to what cannot grow so far.
///
/// # Errors
/// [`NoSpace`](ErrorKind::NoSpace).
pub(super) fn require_room(
    storage: &dyn Storage,
    geometry: Geometry,
    end: HostCluster,
) -> Result<()> {
    let end = geometry.host_offset(end).get();
    if storage.can_grow() || end <= storage.len()? {
        return Ok(());
    }
    let message = format!("the image needs {end} bytes, and its block device is smaller");
    Err(Error::new(ErrorKind::NoSpace, message))
}

/// New clusters behind everything in use, and the refcount structures that count them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RefcountGrowth {
    geometry: Geometry,
    /// Every new cluster: blocks, table, then the caller's.
    added: Range<HostCluster>,
    /// The index of each new block, ascending; they lie one behind the other from the start.
    new_blocks: Vec<u64>,
    /// The new refcount table, if one is needed, behind the blocks.
    new_table: Option<Range<HostCluster>>,
}

impl RefcountGrowth {
    /// Adds `rest` clusters at `start`, beyond everything in use. Blocks with an index in `needed`
    /// are made also where they count nothing that is added.
    ///
    /// # Errors
    /// [`BadSize`](ErrorKind::BadSize) when the refcount table or the file would exceed the
    /// format's limits.
    pub(super) fn plan(
        geometry: Geometry,
        table: &[RefcountTableEntry],
        start: HostCluster,
        rest: ClusterCount,
        needed: &BTreeSet<u64>,
    ) -> Result<RefcountGrowth> {
        let exists = |index: &u64| {
            let entry = usize::try_from(*index).ok().and_then(|index| table.get(index));
            entry.is_some_and(|entry| *entry != RefcountTableEntry::EMPTY)
        };
        let old_entries = u64::try_from(table.len()).unwrap_or(u64::MAX);
        let mut added = rest;
        // Each step can only add blocks, and fewer than the step before: it ends after a few.
        loop {
            let mut blocks: BTreeSet<u64> = needed.clone();
            if added != ClusterCount::ZERO {
                let last = HostCluster::new((start + added).get().saturating_sub(1));
                if geometry.host_offset(last).get() >= MAX_HOST_OFFSET {
                    return Err(Error::new(ErrorKind::BadSize, "the file would exceed 2^56 bytes"));
                }
                blocks.extend(geometry.refblock_index(start)..=geometry.refblock_index(last));
            }
            blocks.retain(|index| !exists(index));
            let entries = blocks.last().map_or(0, |last| last.saturating_add(1).max(old_entries));
            let table_clusters = geometry.table_clusters(entries);
            if geometry.bytes_of(table_clusters) > MAX_REFCOUNT_TABLE_BYTES {
                return Err(Error::new(
                    ErrorKind::BadSize,
                    format!("the refcount table would exceed {MAX_REFCOUNT_TABLE_BYTES} bytes"),
                ));
            }
            let block_count = ClusterCount::new(u64::try_from(blocks.len()).unwrap_or(u64::MAX));
            let total = rest + block_count + table_clusters;
            if total == added {
                let table_start = start + block_count;
                return Ok(RefcountGrowth {
                    geometry,
                    added: start..start + added,
                    new_table: (entries > 0).then(|| table_start..table_start + table_clusters),
                    new_blocks: blocks.into_iter().collect(),
                });
            }
            added = total;
        }
    }

    /// Refuses to add what does not fit where the storage cannot grow.
    ///
    /// # Errors
    /// [`NoSpace`](ErrorKind::NoSpace).
    pub(super) fn require_room(&self, storage: &dyn Storage) -> Result<()> {
        match self.added.is_empty() {
            true => Ok(()),
            false => require_room(storage, self.geometry, self.added.end),
        }
    }

    /// Every new cluster, the refcount structures included.
    pub(super) fn added(&self) -> Range<HostCluster> {
        self.added.clone()
    }

    /// Where the caller's clusters begin.
    pub(super) fn rest(&self) -> HostCluster {
        let blocks = ClusterCount::new(u64::try_from(self.new_blocks.len()).unwrap_or(u64::MAX));
        self.new_table.as_ref().map_or(self.added.start + blocks, |table| table.end)
    }

    /// What the header must say about the refcount table, if it is a new one.
    pub(super) fn table_ref(&self) -> Option<TableRef> {
        let table = self.new_table.as_ref()?;
        let count = u32::try_from((table.end - table.start).get()).ok()?;
        Some(TableRef { offset: self.geometry.host_offset(table.start), count })
    }

    /// The refcount table as it will be.
    pub(super) fn table(&self, old: &[RefcountTableEntry]) -> Vec<RefcountTableEntry> {
        let mut entries = old.to_vec();
        let Some(table) = &self.new_table else { return entries };
        let len = self.geometry.table_entries_in(table.end - table.start);
        entries.resize(usize::try_from(len).unwrap_or_default(), RefcountTableEntry::EMPTY);
        for (place, &index) in (0..).zip(&self.new_blocks) {
            let block = self.added.start + ClusterCount::new(place);
            let entry = usize::try_from(index).ok().and_then(|index| entries.get_mut(index));
            if let Some(entry) = entry {
                *entry = RefcountTableEntry::encode(self.geometry.host_offset(block));
            }
        }
        entries
    }

    /// Writes the new blocks and the new table, which nothing refers to yet. `fill` gives a new
    /// block the counts that it has besides the added clusters'.
    pub(super) fn write_added(
        &self,
        storage: &dyn Storage,
        old: &[RefcountTableEntry],
        fill: impl Fn(u64, &mut RefcountBlock),
    ) -> Result<()> {
        let geometry = self.geometry;
        let mut out = StreamWriter::new(storage, geometry.host_offset(self.added.start).get());
        for &index in &self.new_blocks {
            let mut block = RefcountBlock::zeroed(geometry);
            fill(index, &mut block);
            self.count_added(index, &mut block);
            out.put(block.bytes())?;
        }
        if self.new_table.is_some() {
            // It lies right behind the blocks.
            let words = self.table(old).into_iter().map(RefcountTableEntry::word);
            out.put(&encode_words(words))?;
        }
        out.finish()
    }

    /// Raises the counts in blocks that exist. Until the switch, a crash leaves leaks at most.
    pub(super) fn raise_existing(
        &self,
        storage: &dyn Storage,
        old: &[RefcountTableEntry],
    ) -> Result<()> {
        let geometry = self.geometry;
        let existing = |index: &u64| self.new_blocks.binary_search(index).is_err();
        for index in self.touched_blocks().filter(existing) {
            let entry = usize::try_from(index).ok().and_then(|index| old.get(index));
            let entry = entry.copied().unwrap_or_default().decode(geometry);
            let Some(offset) = entry.map_err(FormatError::into_error)? else { continue };
            let mut bytes = vec![0; geometry.cluster_len()];
            read_exact_at(storage, offset.get(), &mut bytes)?;
            let mut block = RefcountBlock::from_bytes(bytes, geometry);
            self.count_added(index, &mut block);
            storage.write_at(offset.get(), block.bytes())?;
        }
        Ok(())
    }

    /// Indexes of the blocks that count added clusters.
    fn touched_blocks(&self) -> Range<u64> {
        if self.added.is_empty() {
            return 0..0;
        }
        let last = HostCluster::new(self.added.end.get().saturating_sub(1));
        let end = self.geometry.refblock_index(last).saturating_add(1);
        self.geometry.refblock_index(self.added.start)..end
    }

    fn count_added(&self, index: u64, block: &mut RefcountBlock) {
        let first = self.geometry.first_cluster_of_refblock(index);
        let start = (self.added.start - first).get();
        let end = (self.added.end - first).get().min(self.geometry.refblock_entries());
        if start < end {
            block.fill_ones(start, end);
        }
    }
}
