//! Where everything new goes: one run of free clusters, with new refcount structures in front.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::qcow2::entry::RefcountTableEntry;
use crate::qcow2::error::FormatError;
use crate::qcow2::geometry::{
    ClusterCount, Geometry, HostCluster, MAX_HOST_OFFSET, MAX_REFCOUNT_TABLE_BYTES,
};
use crate::qcow2::growth::{free_end, require_room};
use crate::qcow2::header::{Header, TableRef};
use crate::qcow2::refcounts::Refcounts;

/// Room for what is new, and the refcount structures that take the place of those that change.
#[derive(Debug)]
pub(super) struct Room {
    geometry: Geometry,
    /// Every new cluster: refcount blocks, the refcount table, then the caller's.
    added: Range<HostCluster>,
    /// The index of each block that is written anew, ascending; they lie one behind the other.
    blocks: Vec<u64>,
    /// How many clusters the refcount table has.
    table: ClusterCount,
    /// The clusters of the structures that they replace.
    replaced: Vec<Range<HostCluster>>,
}

impl Room {
    /// For `rest` clusters, where the blocks in `changed` are written anew. `used` is where the
    /// last cluster ends that is in use.
    ///
    /// # Errors
    /// [`BadSize`](ErrorKind::BadSize) when the refcount table or the file would exceed the format's
    /// limits, [`NoSpace`](ErrorKind::NoSpace) where the storage cannot grow so far.
    pub(super) fn find(
        storage: &dyn Storage,
        header: &Header,
        old: &[RefcountTableEntry],
        changed: BTreeSet<u64>,
        rest: ClusterCount,
        used: HostCluster,
    ) -> Result<Room> {
        let geometry = header.geometry;
        let old_clusters = ClusterCount::new(u64::from(header.refcount_table.count));
        let old_start = geometry.host_cluster(header.refcount_table.offset);
        let old_table = old_start..old_start + old_clusters;
        let finder = Finder { storage, geometry, old, used };
        let mut blocks = changed;
        blocks.extend(indexes(geometry, &old_table));
        // Each round can only add blocks, and fewer than the one before: it ends after a few.
        let mut added = used..used;
        loop {
            blocks.extend(indexes(geometry, &added));
            finder.close(&mut blocks)?;
            let entries = blocks.last().map_or(0, |last| last.saturating_add(1));
            let entries = entries.max(geometry.table_entries_in(old_clusters));
            let table = geometry.table_clusters(entries);
            if geometry.bytes_of(table) > MAX_REFCOUNT_TABLE_BYTES {
                let message =
                    format!("the refcount table would exceed {MAX_REFCOUNT_TABLE_BYTES} bytes");
                return Err(Error::new(ErrorKind::BadSize, message));
            }
            let total = ClusterCount::new(u64::try_from(blocks.len()).unwrap_or(u64::MAX));
            let total = total + table + rest;
            if total <= added.end - added.start {
                require_room(storage, geometry, added.end)?;
                let mut replaced = finder.places(&blocks)?;
                replaced.push(old_table);
                let (added, blocks) =
                    (added.start..added.start + total, blocks.into_iter().collect());
                return Ok(Room { geometry, added, blocks, table, replaced });
            }
            let start = finder.free(total)?;
            added = start..start + total;
            if geometry.host_offset(added.end).get() >= MAX_HOST_OFFSET {
                return Err(Error::new(ErrorKind::BadSize, "the file would exceed 2^56 bytes"));
            }
        }
    }

    /// Every new cluster.
    pub(super) fn added(&self) -> Range<HostCluster> {
        self.added.clone()
    }

    /// Where the caller's clusters begin.
    pub(super) fn rest(&self) -> HostCluster {
        let blocks = ClusterCount::new(u64::try_from(self.blocks.len()).unwrap_or(u64::MAX));
        self.added.start + blocks + self.table
    }

    /// The blocks that are written anew.
    pub(super) fn blocks(&self) -> &[u64] {
        &self.blocks
    }

    /// The clusters of the blocks and the table that they replace.
    pub(super) fn replaced(&self) -> &[Range<HostCluster>] {
        &self.replaced
    }

    /// What the header must say about the refcount table.
    pub(super) fn table_ref(&self) -> TableRef {
        let blocks = ClusterCount::new(u64::try_from(self.blocks.len()).unwrap_or(u64::MAX));
        let offset = self.geometry.host_offset(self.added.start + blocks);
        // OK to default: the table has 8 MiB at most.
        TableRef { offset, count: u32::try_from(self.table.get()).unwrap_or(u32::MAX) }
    }

    /// The refcount table as it will be.
    pub(super) fn table(&self, old: &[RefcountTableEntry]) -> Vec<RefcountTableEntry> {
        let mut entries = old.to_vec();
        let len = self.geometry.table_entries_in(self.table);
        entries.resize(usize::try_from(len).unwrap_or_default(), RefcountTableEntry::EMPTY);
        for (place, &index) in (0..).zip(&self.blocks) {
            let block = self.geometry.host_offset(self.added.start + ClusterCount::new(place));
            let entry = usize::try_from(index).ok().and_then(|index| entries.get_mut(index));
            if let Some(entry) = entry {
                *entry = RefcountTableEntry::encode(block);
            }
        }
        entries
    }
}

struct Finder<'a> {
    storage: &'a dyn Storage,
    geometry: Geometry,
    old: &'a [RefcountTableEntry],
    used: HostCluster,
}

impl Finder<'_> {
    /// Where the block with this index is, if there is one.
    fn place(&self, index: u64) -> Result<Option<HostCluster>> {
        let entry = usize::try_from(index).ok().and_then(|index| self.old.get(index));
        let entry = entry.copied().unwrap_or_default().decode(self.geometry);
        Ok(entry.map_err(FormatError::into_error)?.map(|at| self.geometry.host_cluster(at)))
    }

    fn places(&self, blocks: &BTreeSet<u64>) -> Result<Vec<Range<HostCluster>>> {
        let mut places = Vec::new();
        for index in blocks {
            if let Some(place) = self.place(*index)? {
                places.push(place..place + ClusterCount::new(1));
            }
        }
        Ok(places)
    }

    /// A block that is written anew gives up its old place, which some block counts.
    fn close(&self, blocks: &mut BTreeSet<u64>) -> Result<()> {
        loop {
            let before = blocks.len();
            let places = self.places(blocks)?;
            blocks.extend(places.iter().map(|place| self.geometry.refblock_index(place.start)));
            if blocks.len() == before {
                return Ok(());
            }
        }
    }

    /// The first run of free clusters that is long enough; where there is none, behind everything.
    /// Counts were held against what is referred to: what is not counted is free.
    fn free(&self, len: ClusterCount) -> Result<HostCluster> {
        let geometry = self.geometry;
        let (mut run, mut found) = (HostCluster::ZERO..HostCluster::ZERO, None);
        Refcounts::new(self.storage, geometry, self.old).each_block(|index, _, block| {
            let first = geometry.first_cluster_of_refblock(index);
            let end = (self.used - first).get().min(geometry.refblock_entries());
            for free in block.free_runs(end) {
                let (start, end) =
                    (first + ClusterCount::new(free.start), first + ClusterCount::new(free.end));
                run = if run.end == start { run.start..end } else { start..end };
                if found.is_none() && run.end - run.start >= len {
                    found = Some(run.start);
                }
            }
            Ok(())
        })?;
        match found {
            Some(start) => Ok(start),
            None => free_end(self.storage, geometry, self.used),
        }
    }
}

/// The blocks that count these clusters.
fn indexes(geometry: Geometry, run: &Range<HostCluster>) -> Range<u64> {
    if run.is_empty() {
        return 0..0;
    }
    let last = HostCluster::new(run.end.get().saturating_sub(1));
    geometry.refblock_index(run.start)..geometry.refblock_index(last).saturating_add(1)
}
