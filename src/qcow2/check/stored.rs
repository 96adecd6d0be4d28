//! The counts as the image stores them, read with suspicion.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::Result;
use crate::host::storage::{Storage, read_padded_at};
use crate::qcow2::geometry::{Geometry, HostCluster, HostOffset};
use crate::qcow2::refblock::RefcountBlock;

/// Blocks that are kept in memory, in bytes: lookups follow the guest's order, not the file's.
const CACHE_BYTES: u64 = 4 << 20;

/// Where the counts of a run of clusters are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockAt {
    /// Nowhere: they are zero.
    Nowhere,
    /// In a block of their own.
    Offset(HostOffset),
    /// The table's entry cannot be believed, so nothing is known.
    Unknown,
}

/// The stored counts. Blocks are read when they are asked for.
pub(super) struct StoredCounts<'a> {
    storage: &'a dyn Storage,
    geometry: Geometry,
    blocks: Vec<BlockAt>,
    cache: BTreeMap<u64, RefcountBlock>,
}

impl<'a> StoredCounts<'a> {
    pub(super) const fn new(storage: &'a dyn Storage, geometry: Geometry) -> Self {
        StoredCounts { storage, geometry, blocks: Vec::new(), cache: BTreeMap::new() }
    }

    /// The place of the next block.
    pub(super) fn push(&mut self, block: BlockAt) {
        self.blocks.push(block);
    }

    /// How many entries the refcount table has.
    pub(super) const fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Where the block with this index is.
    pub(super) fn block_at(&self, index: u64) -> BlockAt {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        self.blocks.get(index).copied().unwrap_or(BlockAt::Nowhere)
    }

    /// Nothing is known of this block's counts any more.
    pub(super) fn forget(&mut self, index: u64) {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if let Some(block) = self.blocks.get_mut(index) {
            *block = BlockAt::Unknown;
        }
    }

    /// The count of a cluster, if it is known. What cannot be read is reported where all blocks
    /// are compared.
    pub(super) fn get(&mut self, cluster: HostCluster) -> Option<u64> {
        let index = self.geometry.refblock_index(cluster);
        let place = self.geometry.index_in_refblock(cluster);
        match self.block_at(index) {
            BlockAt::Nowhere => Some(0),
            BlockAt::Unknown => None,
            BlockAt::Offset(_) => self.load(index).ok()?.map(|block| block.get(place)),
        }
    }

    /// Whether the counts of all these clusters are known to be one.
    pub(super) fn are_ones(&mut self, run: &Range<HostCluster>) -> bool {
        self.all(run, RefcountBlock::are_ones)
    }

    /// Whether the counts of all these clusters are known, and none is one.
    pub(super) fn have_no_one(&mut self, run: &Range<HostCluster>) -> bool {
        self.all(run, RefcountBlock::has_no_one)
    }

    /// Whether this is so of the places of all these clusters in their blocks.
    fn all(
        &mut self,
        run: &Range<HostCluster>,
        is_so: impl Fn(&RefcountBlock, Range<u64>) -> bool,
    ) -> bool {
        let mut first = run.start;
        while first < run.end {
            let index = self.geometry.refblock_index(first);
            let end = self.geometry.first_cluster_of_refblock(index.saturating_add(1)).min(run.end);
            let start = self.geometry.index_in_refblock(first);
            let places = start..start.saturating_add((end - first).get());
            match self.load(index) {
                Ok(Some(block)) if is_so(block, places) => first = end,
                _ => return false,
            }
        }
        true
    }

    /// The block with this index, if there is one that is known.
    pub(super) fn load(&mut self, index: u64) -> Result<Option<&RefcountBlock>> {
        let BlockAt::Offset(offset) = self.block_at(index) else { return Ok(None) };
        if !self.cache.contains_key(&index) {
            let cached = u64::try_from(self.cache.len()).unwrap_or(u64::MAX);
            if cached.saturating_mul(self.geometry.cluster_size()) >= CACHE_BYTES {
                self.cache.clear();
            }
            let mut bytes = vec![0; self.geometry.cluster_len()];
            read_padded_at(self.storage, offset.get(), &mut bytes)?;
            self.cache.insert(index, RefcountBlock::from_bytes(bytes, self.geometry));
        }
        Ok(self.cache.get(&index))
    }
}
