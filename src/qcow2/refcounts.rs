//! Reference counts of host clusters, found through the refcount table, one block in memory at a
//! time.

use std::ops::Range;

use super::entry::RefcountTableEntry;
use super::error::Problem;
use super::geometry::{ClusterCount, Geometry, HostCluster, HostOffset};
use super::refblock::RefcountBlock;
use crate::error::Result;
use crate::host::storage::{Storage, read_exact_at};

/// The most bytes of blocks without any count that are read to find the last cluster in use: those
/// of 2 TiB in clusters of 64 KiB.
const MAX_IDLE_BYTES: u64 = 64 << 20;

/// The counts of an image. Changes reach the file when another block is needed and on
/// [`flush`](Self::flush).
pub(super) struct Refcounts<'a> {
    storage: &'a dyn Storage,
    geometry: Geometry,
    table: &'a [RefcountTableEntry],
    current: Option<Loaded>,
}

struct Loaded {
    index: u64,
    offset: HostOffset,
    block: RefcountBlock,
    dirty: bool,
}

impl<'a> Refcounts<'a> {
    pub(super) fn new(
        storage: &'a dyn Storage,
        geometry: Geometry,
        table: &'a [RefcountTableEntry],
    ) -> Self {
        Refcounts { storage, geometry, table, current: None }
    }

    /// Where the block with this index is, if there is one.
    pub(super) fn block_offset(&self, index: u64) -> Result<Option<HostOffset>> {
        let entry = usize::try_from(index).ok().and_then(|index| self.table.get(index));
        let Some(entry) = entry else { return Ok(None) };
        entry.decode(self.geometry).map_err(|error| error.into_error())
    }

    /// The count of a cluster.
    pub(super) fn get(&mut self, cluster: HostCluster) -> Result<u64> {
        let index = self.geometry.index_in_refblock(cluster);
        let block = self.load(self.geometry.refblock_index(cluster))?;
        Ok(block.map_or(0, |loaded| loaded.block.get(index)))
    }

    /// Whether every cluster of a run is counted once.
    pub(super) fn are_ones(&mut self, run: &Range<HostCluster>) -> Result<bool> {
        let geometry = self.geometry;
        let mut first = run.start;
        while first < run.end {
            let index = geometry.refblock_index(first);
            let block = geometry.first_cluster_of_refblock(index);
            let end = geometry.first_cluster_of_refblock(index.saturating_add(1)).min(run.end);
            let places = (first - block).get()..(end - block).get();
            if !self.load(index)?.is_some_and(|loaded| loaded.block.are_ones(places)) {
                return Ok(false);
            }
            first = end;
        }
        Ok(true)
    }

    /// How many of the clusters before `end` are in use, up to `most`; nobody knows where more than
    /// `most` blocks would have to be read for that.
    pub(super) fn used(&mut self, end: HostCluster, most: u64) -> Result<Option<u64>> {
        let geometry = self.geometry;
        let blocks = geometry.refblock_index(end).saturating_add(1);
        let (mut used, mut read) = (0u64, 0u64);
        for index in 0..blocks.min(u64::try_from(self.table.len()).unwrap_or(u64::MAX)) {
            let first = geometry.first_cluster_of_refblock(index);
            let places = (end - first).get().min(geometry.refblock_entries());
            let Some(loaded) = self.load(index)? else { continue };
            let left = usize::try_from(most.saturating_sub(used)).unwrap_or(usize::MAX);
            let counted = (0..places).filter(|&place| loaded.block.get(place) != 0);
            used = used.saturating_add(u64::try_from(counted.take(left).count()).unwrap_or(most));
            if used >= most {
                return Ok(Some(used));
            }
            read = read.saturating_add(1);
            if read > most {
                return Ok(None);
            }
        }
        Ok(Some(used))
    }

    /// Takes one reference away and returns how many are left.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when there was none.
    pub(super) fn release(&mut self, cluster: HostCluster) -> Result<u64> {
        self.lower(cluster, 1)
    }

    /// Changes the count of a cluster, and returns what it is then.
    fn change(
        &mut self,
        cluster: HostCluster,
        change: impl FnOnce(u64) -> Option<u64>,
    ) -> Result<u64> {
        let index = self.geometry.index_in_refblock(cluster);
        let offset = self.geometry.host_offset(cluster).get();
        let impossible = |count| Problem::ImpossibleCount { offset, count }.into_error();
        let block = self.load(self.geometry.refblock_index(cluster))?;
        let Some(loaded) = block else { return Err(impossible(0)) };
        let count = loaded.block.get(index);
        let changed = change(count).ok_or_else(|| impossible(count))?;
        loaded.block.set(index, changed);
        loaded.dirty = true;
        Ok(changed)
    }

    /// The sizes that everything follows from.
    pub(super) const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The block with this index, if there is one.
    pub(super) fn block(&mut self, index: u64) -> Result<Option<RefcountBlock>> {
        Ok(self.load(index)?.map(|loaded| loaded.block.clone()))
    }

    /// The runs of places before `end` in the block with this index whose counts are zero; none
    /// where there is no block.
    pub(super) fn free_runs_in(&mut self, index: u64, end: u64) -> Result<Vec<Range<u64>>> {
        let block = self.load(index)?;
        Ok(block.map(|loaded| loaded.block.free_runs(end).collect()).unwrap_or_default())
    }

    /// Adds references to a cluster, which has a block and room in its count for them.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) where it has not.
    pub(super) fn raise(&mut self, cluster: HostCluster, more: u64) -> Result<()> {
        let max = self.geometry.refcount_order().max_count();
        self.change(cluster, |count| count.checked_add(more).filter(|sum| *sum <= max)).map(drop)
    }

    /// Takes references away and returns how many are left.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) where there were not so many.
    pub(super) fn lower(&mut self, cluster: HostCluster, less: u64) -> Result<u64> {
        self.change(cluster, |count| count.checked_sub(less))
    }

    /// The first cluster at or beyond `from` that has no used cluster behind it; one further on
    /// where too many blocks count nothing.
    pub(super) fn end_of_use(&mut self, from: HostCluster) -> Result<HostCluster> {
        let blocks = u64::try_from(self.table.len()).unwrap_or(u64::MAX);
        let mut idle = ClusterCount::ZERO;
        for index in (self.geometry.refblock_index(from)..blocks).rev() {
            let first = self.geometry.first_cluster_of_refblock(index);
            let Some(loaded) = self.load(index)? else { continue };
            if let Some(last) = loaded.block.last_used() {
                let end = HostCluster::new(first.get().saturating_add(last).saturating_add(1));
                return Ok(end.max(from));
            }
            idle = idle + ClusterCount::new(1);
            if self.geometry.bytes_of(idle) > MAX_IDLE_BYTES {
                return Ok(self.geometry.first_cluster_of_refblock(index.saturating_add(1)));
            }
        }
        Ok(from)
    }

    /// Gives `visit` every block with its index, where it is, and its counts.
    pub(super) fn each_block(
        &mut self,
        mut visit: impl FnMut(u64, HostOffset, &RefcountBlock) -> Result<()>,
    ) -> Result<()> {
        for index in (0..).take(self.table.len()) {
            if let Some(loaded) = self.load(index)? {
                visit(index, loaded.offset, &loaded.block)?;
            }
        }
        Ok(())
    }

    /// The block with this index, loaded.
    fn load(&mut self, index: u64) -> Result<Option<&mut Loaded>> {
        if self.current.as_ref().is_none_or(|loaded| loaded.index != index) {
            self.flush()?;
            self.current = None;
            let Some(offset) = self.block_offset(index)? else { return Ok(None) };
            let mut bytes = vec![0; self.geometry.cluster_len()];
            read_exact_at(self.storage, offset.get(), &mut bytes)?;
            let block = RefcountBlock::from_bytes(bytes, self.geometry);
            self.current = Some(Loaded { index, offset, block, dirty: false });
        }
        Ok(self.current.as_mut())
    }

    /// Writes what was changed. Does not sync.
    pub(super) fn flush(&mut self) -> Result<()> {
        if let Some(loaded) = self.current.as_mut().filter(|loaded| loaded.dirty) {
            self.storage.write_at(loaded.offset.get(), loaded.block.bytes())?;
            loaded.dirty = false;
        }
        Ok(())
    }
}
