//! What L2 tables and bitmap tables lead to.

use std::collections::BTreeSet;

use super::Mover;
use crate::error::Result;
use crate::qcow2::bitmap::{data_words, read_bitmaps};
use crate::qcow2::entry::{ClusterRef, CompressedRange, L1Entry, L2Entry, Mapping};
use crate::qcow2::error::FormatError;
use crate::qcow2::geometry::HostOffset;
use crate::qcow2::table::{L2Table, read_words};

impl Mover<'_> {
    /// Moves guest data: that of the disk and of all snapshots.
    pub(super) fn move_data(&mut self) -> Result<()> {
        if self.header.has_external_data() {
            return Ok(());
        }
        for table in self.l2_tables()? {
            self.move_data_of(table)?;
        }
        self.give_up_shared()
    }

    /// The L2 tables of the disk and of all snapshots, each once.
    fn l2_tables(&self) -> Result<Vec<HostOffset>> {
        let (mut tables, mut seen) = (Vec::new(), BTreeSet::new());
        for l1 in self.l1_tables()? {
            for word in read_words(self.storage, l1.offset, l1.count.into())? {
                let table = L1Entry::from_word(word).decode(self.geometry);
                let Some(table) = table.map_err(FormatError::into_error)? else { continue };
                if seen.insert(self.geometry.host_cluster(table.offset)) {
                    tables.push(table.offset);
                }
            }
        }
        Ok(tables)
    }

    /// Shows where compressed data is, and the L2 table that leads to it.
    pub(super) fn each_packed(
        &self,
        mut visit: impl FnMut(HostOffset, CompressedRange),
    ) -> Result<()> {
        for at in self.l2_tables()? {
            self.task.check()?;
            let table = L2Table::read_padded(self.storage, at, self.geometry)?;
            for entry in table.entries() {
                let mapping = self.header.mapping(entry).map_err(FormatError::into_error)?;
                if let Mapping::Compressed(range) = mapping {
                    visit(at, range);
                }
            }
        }
        Ok(())
    }

    fn move_data_of(&mut self, at: HostOffset) -> Result<()> {
        let (geometry, entry_size) = (self.geometry, self.geometry.l2_entry_size());
        let table = L2Table::read_padded(self.storage, at, geometry)?;
        self.task.step("move", self.progress.moved_bytes, self.progress.all_bytes())?;
        for (index, run) in table.runs(geometry) {
            for (index, entry) in (index..).zip(run.entries(geometry)) {
                if let Some(moved) = self.moved_entry(at, entry)? {
                    self.batch.put(at.plus_bytes(index.saturating_mul(entry_size)), moved.word);
                    self.carry_out_if_full()?;
                }
            }
        }
        Ok(())
    }

    /// The entry as it is to be, if what it leads to moves.
    fn moved_entry(&mut self, table: HostOffset, entry: L2Entry) -> Result<Option<L2Entry>> {
        let mapping = self.header.mapping(entry).map_err(FormatError::into_error)?;
        if let Mapping::Compressed(range) = mapping {
            return self.relocate_packed(range, table);
        }
        let Some(host) = mapping.host_cluster() else { return Ok(None) };
        let moved = |offset| entry.moved_to(ClusterRef { offset, ..host });
        Ok(self.relocate(host.offset)?.map(moved))
    }

    /// Moves the bits of bitmaps.
    pub(super) fn move_bitmap_data(&mut self) -> Result<()> {
        for bitmap in read_bitmaps(self.storage, &self.header)? {
            // What the words of its table mean is not known then.
            if bitmap.extra_data_bytes() > 0 && !bitmap.is_extra_data_compatible() {
                continue;
            }
            for (at, data) in data_words(self.storage, &self.header, &bitmap)? {
                if let Some(to) = self.relocate(data)? {
                    self.batch.put(at, to.get());
                    self.carry_out_if_full()?;
                }
            }
        }
        self.carry_out()
    }

    /// Takes L2 tables out of use that map nothing, where no other L1 table leads to them.
    pub(super) fn drop_empty_tables(&mut self) -> Result<()> {
        for l1 in self.l1_tables()? {
            let words = read_words(self.storage, l1.offset, l1.count.into())?;
            for (at, word) in (0u64..).zip(words) {
                let table = L1Entry::from_word(word).decode(self.geometry);
                let Some(table) = table.map_err(FormatError::into_error)? else { continue };
                let cluster = self.geometry.host_cluster(table.offset);
                if self.is_empty_table(table.offset)? && self.count_of(cluster)? == 1 {
                    self.batch.put(l1.offset.plus_bytes(at.saturating_mul(8)), 0);
                    self.batch.give_up(cluster, 1);
                    self.carry_out_if_full()?;
                }
            }
        }
        self.carry_out()
    }

    fn is_empty_table(&self, at: HostOffset) -> Result<bool> {
        let run = self.storage.run(at.get(), at.plus_bytes(self.geometry.cluster_size()).get())?;
        let ends_behind = run.end >= at.plus_bytes(self.geometry.cluster_size()).get();
        if run.is_hole && ends_behind {
            return Ok(true);
        }
        let table = L2Table::read_padded(self.storage, at, self.geometry)?;
        Ok(crate::block::is_zero(table.bytes()))
    }
}
