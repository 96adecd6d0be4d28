//! What L2 tables and bitmap tables lead to.

use std::collections::BTreeSet;

use super::Mover;
use super::batch::MIN_BYTES;
use crate::error::Result;
use crate::qcow2::bitmap::{data_words, read_bitmaps};
use crate::qcow2::entry::{ClusterRef, CompressedRange, L2Entry, Mapping};
use crate::qcow2::error::FormatError;
use crate::qcow2::geometry::HostOffset;
use crate::qcow2::table::L2Table;

/// An L2 table.
pub(super) struct Loaded {
    pub(super) at: HostOffset,
    /// How many L1 tables lead to it.
    pub(super) times: u64,
    pub(super) table: L2Table,
}

/// Those of them for the same part of a disk, not too many at once.
pub(super) fn side_by_side(
    tables: &[(u64, HostOffset)],
) -> impl Iterator<Item = &[(u64, HostOffset)]> {
    /// Of 2 MiB at most.
    const MAX_TABLES: usize = 16;
    tables.chunk_by(|one, next| one.0 == next.0).flat_map(|alike| alike.chunks(MAX_TABLES))
}

impl Mover<'_> {
    /// Moves guest data: that of the disk and of all snapshots. What several of them share moves
    /// in one batch, as far as it is in the same place of their disks.
    pub(super) fn move_data(&mut self) -> Result<()> {
        if self.header.has_external_data() {
            return Ok(());
        }
        for tables in side_by_side(&self.l2_tables()?) {
            self.move_data_of(tables)?;
        }
        self.give_up_shared()
    }

    /// The L2 tables of the disk and of all snapshots, each once, with the index in the L1 table that
    /// leads to it, ascending.
    pub(super) fn l2_tables(&self) -> Result<Vec<(u64, HostOffset)>> {
        let (mut tables, mut seen) = (Vec::new(), BTreeSet::new());
        for part in self.l1_parts()? {
            for place in part? {
                let Some(table) = self.l2_table(place.entry)? else { continue };
                if seen.insert(self.geometry.host_cluster(table)) {
                    tables.push((place.index, table));
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
        for (_, at) in self.l2_tables()? {
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

    pub(super) fn loaded(&mut self, at: HostOffset) -> Result<Loaded> {
        let times = self.count_of(self.geometry.host_cluster(at))?;
        let table = L2Table::read_padded(self.storage, at, self.geometry)?;
        Ok(Loaded { at, times, table })
    }

    fn move_data_of(&mut self, tables: &[(u64, HostOffset)]) -> Result<()> {
        /// So many entries of each table are looked at before those of the next one.
        const MAX_ENTRIES: u64 = 256;
        self.task.step("move", self.progress.moved_bytes, self.progress.all_bytes())?;
        let tables = tables.iter().map(|(_, at)| self.loaded(*at)).collect::<Result<Vec<_>>>()?;
        let all = self.geometry.l2_entries();
        let at_once = (MIN_BYTES >> self.geometry.cluster_bits().get()).clamp(1, MAX_ENTRIES);
        let mut start = 0;
        while start < all {
            let end = all.min(start.saturating_add(at_once));
            for Loaded { at, times, table } in &tables {
                for index in start..end {
                    if let Some(moved) = self.moved_entry(table.get(index), *times)? {
                        self.batch.put(self.entry_at(*at, index), moved.word);
                    }
                }
            }
            self.carry_out_if_full()?;
            start = end;
        }
        Ok(())
    }

    /// Where the entry of an L2 table is.
    pub(super) fn entry_at(&self, table: HostOffset, index: u64) -> HostOffset {
        table.plus_bytes(index.saturating_mul(self.geometry.l2_entry_size()))
    }

    /// The entry as it is to be, if what it leads to moves. So many L1 tables lead to it.
    fn moved_entry(&mut self, entry: L2Entry, times: u64) -> Result<Option<L2Entry>> {
        if entry.is_empty() {
            return Ok(None);
        }
        let mapping = self.header.mapping(entry).map_err(FormatError::into_error)?;
        if let Mapping::Compressed(range) = mapping {
            return self.relocate_packed(range, times);
        }
        let Some(host) = mapping.host_cluster() else { return Ok(None) };
        let moved = |offset| entry.moved_to(ClusterRef { offset, ..host });
        Ok(self.relocate(host.offset, times)?.map(moved))
    }

    /// Moves the bits of bitmaps.
    pub(super) fn move_bitmap_data(&mut self) -> Result<()> {
        for bitmap in read_bitmaps(self.storage, &self.header)? {
            // What the words of its table mean is not known then.
            if bitmap.extra_data_bytes() > 0 && !bitmap.is_extra_data_compatible() {
                continue;
            }
            for (at, data) in data_words(self.storage, &self.header, &bitmap)? {
                if let Some(to) = self.relocate(data, 1)? {
                    self.batch.put(at, to.get());
                    self.carry_out_if_full()?;
                }
            }
        }
        self.carry_out()
    }
}
