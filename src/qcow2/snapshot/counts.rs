//! The counts as they will be: those that are stored, with what is added to them and taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, read_exact_at};
use crate::qcow2::check::Ledger;
use crate::qcow2::entry::RefcountTableEntry;
use crate::qcow2::error::FormatError;
use crate::qcow2::geometry::{ClusterCount, Geometry, HostCluster};
use crate::qcow2::refblock::RefcountBlock;

/// Blocks that are kept in memory, in bytes.
const CACHE_BYTES: u64 = 16 << 20;

/// The counts of an image whose references change.
pub(super) struct NewCounts<'a> {
    storage: &'a dyn Storage,
    geometry: Geometry,
    /// The refcount table as it is.
    table: Vec<RefcountTableEntry>,
    more: Ledger,
    less: Ledger,
    cache: BTreeMap<u64, RefcountBlock>,
}

impl<'a> NewCounts<'a> {
    pub(super) fn new(
        storage: &'a dyn Storage,
        geometry: Geometry,
        table: Vec<RefcountTableEntry>,
    ) -> Self {
        let (more, less) = (Ledger::default(), Ledger::default());
        NewCounts { storage, geometry, table, more, less, cache: BTreeMap::new() }
    }

    /// The refcount table as it is.
    pub(super) fn table(&self) -> &[RefcountTableEntry] {
        &self.table
    }

    /// What is referred to once more than now.
    pub(super) fn more(&mut self) -> &mut Ledger {
        self.cache.clear();
        &mut self.more
    }

    /// What is referred to once less than now.
    pub(super) fn less(&mut self) -> &mut Ledger {
        self.cache.clear();
        &mut self.less
    }

    /// The indexes of the blocks that change.
    pub(super) fn changed(&self) -> BTreeSet<u64> {
        let mut blocks = self.more.blocks(self.geometry);
        blocks.append(&mut self.less.blocks(self.geometry));
        blocks
    }

    /// Whether any of these clusters loses a reference.
    pub(super) fn loses(&self, run: &Range<HostCluster>) -> bool {
        self.less.meets(run)
    }

    /// The block with this index as it is stored.
    fn stored(&self, index: u64) -> Result<RefcountBlock> {
        let entry = usize::try_from(index).ok().and_then(|index| self.table.get(index));
        let entry = entry.copied().unwrap_or_default().decode(self.geometry);
        let Some(at) = entry.map_err(FormatError::into_error)? else {
            return Ok(RefcountBlock::zeroed(self.geometry));
        };
        let mut bytes = vec![0; self.geometry.cluster_len()];
        read_exact_at(self.storage, at.get(), &mut bytes)?;
        Ok(RefcountBlock::from_bytes(bytes, self.geometry))
    }

    /// The block with this index as it will be.
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) where a count does not fit.
    pub(super) fn block(&mut self, index: u64) -> Result<&RefcountBlock> {
        if !self.cache.contains_key(&index) {
            let cached = u64::try_from(self.cache.len()).unwrap_or(u64::MAX);
            if cached.saturating_mul(self.geometry.cluster_size()) >= CACHE_BYTES {
                self.cache.clear();
            }
            let block = self.make(index)?;
            self.cache.insert(index, block);
        }
        // OK to fail: it was put there.
        self.cache.get(&index).ok_or_else(|| Error::new(ErrorKind::Internal, "a block is missing"))
    }

    fn make(&self, index: u64) -> Result<RefcountBlock> {
        let mut block = self.stored(index)?;
        let first = self.geometry.first_cluster_of_refblock(index);
        let shift = |ledger: &Ledger| ledger.block(self.geometry, index);
        let (Some(more), Some(less)) = (shift(&self.more), shift(&self.less)) else {
            let places = (0..self.geometry.refblock_entries()).map(ClusterCount::new);
            let max = self.geometry.refcount_order().max_count();
            let large = places.map(|n| first + n).find(|&cluster| self.more.get(cluster) > max);
            return Err(self.too_many(large.unwrap_or(first), u64::MAX));
        };
        match block.shift(&more, &less) {
            Ok(()) => Ok(block),
            Err(place) => {
                let sum = block.get(place).saturating_add(more.get(place));
                let sum = sum.saturating_sub(less.get(place));
                Err(self.too_many(first + ClusterCount::new(place), sum))
            }
        }
    }

    fn too_many(&self, cluster: HostCluster, count: u64) -> Error {
        let width = self.geometry.refcount_order();
        let (bits, max) = (width.bits(), width.max_count());
        let times =
            if count == u64::MAX { "more often".to_owned() } else { format!("{count} times") };
        let message = format!(
            "a cluster would be referred to {times}, and the image's reference counts of {bits} bits \
             go up to {max}"
        );
        let offset = self.geometry.host_offset(cluster).get();
        Error::new(ErrorKind::UnsupportedFeature, message).at_offset(offset)
    }

    /// The count that a cluster will have.
    pub(super) fn get(&mut self, cluster: HostCluster) -> Result<u64> {
        let place = self.geometry.index_in_refblock(cluster);
        Ok(self.block(self.geometry.refblock_index(cluster))?.get(place))
    }

    /// Whether every cluster of a run will be counted once.
    pub(super) fn are_ones(&mut self, run: &Range<HostCluster>) -> Result<bool> {
        let geometry = self.geometry;
        let mut first = run.start;
        while first < run.end {
            let index = geometry.refblock_index(first);
            let start = geometry.first_cluster_of_refblock(index);
            let end = geometry.first_cluster_of_refblock(index.saturating_add(1)).min(run.end);
            if !self.block(index)?.are_ones((first - start).get()..(end - start).get()) {
                return Ok(false);
            }
            first = end;
        }
        Ok(true)
    }

    /// The runs of clusters counted by the block with this index that are used now and will not be.
    pub(super) fn freed(&mut self, index: u64) -> Result<Vec<Range<HostCluster>>> {
        let first = self.geometry.first_cluster_of_refblock(index);
        let at = |place| first + ClusterCount::new(place);
        let stored = self.stored(index)?;
        let lost = stored.lost_in(self.block(index)?);
        Ok(lost.into_iter().map(|run| at(run.start)..at(run.end)).collect())
    }
}
