//! Refcount blocks, and the table that leads to them.

use std::collections::BTreeMap;

use super::Mover;
use super::room::FreeClusters;
use crate::error::Result;
use crate::qcow2::entry::RefcountTableEntry;
use crate::qcow2::error::FormatError;
use crate::qcow2::geometry::{ClusterCount, ENTRY_SIZE, Geometry, HostOffset};
use crate::qcow2::header::{Header, TableRef};
use crate::qcow2::refblock::RefcountBlock;
use crate::qcow2::table::read_refcount_table;

impl Mover<'_> {
    /// Moves the refcount blocks, and then the table. A block takes along what it counts, itself
    /// included: nothing else is counted while it moves.
    pub(super) fn move_counts(&mut self) -> Result<()> {
        // Clusters before the mark became free again that what is in a row did not take.
        self.pass.free = FreeClusters::before(self.pass.mark);
        for (index, entry) in (0u64..).zip(self.counts.clone()) {
            let block = entry.decode(self.geometry).map_err(FormatError::into_error)?;
            let Some(block) = block else { continue };
            if let Some(to) = self.relocate(block, 1)? {
                self.batch.put(self.block_entry(index), RefcountTableEntry::encode(to).word());
            }
        }
        self.carry_out()?;
        let table = self.header.refcount_table;
        let clusters = ClusterCount::new(table.count.into());
        self.move_run(table.offset, clusters, |mover, offset| {
            let refcount_table = TableRef { offset, ..mover.header.refcount_table };
            mover.switch(Header { refcount_table, ..mover.header.clone() })
        })
    }

    /// Adds refcount blocks, by their indexes, in whose clusters nothing is: each lies in the first one
    /// that it counts. Those that count nothing else in the end do not stay.
    pub(super) fn add_counts(&mut self, blocks: &[u64]) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        self.begin_writing()?;
        let place = |geometry: Geometry, index| {
            geometry.host_offset(geometry.first_cluster_of_refblock(index))
        };
        for &index in blocks {
            let mut block = RefcountBlock::zeroed(self.geometry);
            block.set(0, 1);
            self.storage.write_at(place(self.geometry, index).get(), block.bytes())?;
        }
        self.storage.sync()?;
        for &index in blocks {
            let entry = RefcountTableEntry::encode(place(self.geometry, index));
            let at = self.block_entry(index).get();
            self.storage.write_at(at, &entry.word().to_be_bytes())?;
        }
        self.storage.sync()?;
        self.counts = read_refcount_table(self.storage, &self.header)?;
        self.recent = None;
        Ok(())
    }

    fn block_entry(&self, index: u64) -> HostOffset {
        self.header.refcount_table.offset.plus_bytes(index.saturating_mul(ENTRY_SIZE))
    }

    /// Learns where refcount blocks are, if words that were written say so.
    pub(super) fn learn_moved_counts(&mut self, words: &BTreeMap<u64, u64>) -> Result<()> {
        let table = self.header.refcount_table;
        let start = table.offset.get();
        let len = self.geometry.bytes_of(ClusterCount::new(table.count.into()));
        if words.range(start..start.saturating_add(len)).next().is_some() {
            self.counts = read_refcount_table(self.storage, &self.header)?;
        }
        Ok(())
    }
}
