//! What L2 tables and bitmap tables lead to.

use std::collections::BTreeMap;

use super::Mover;
use crate::error::Result;
use crate::qcow2::bitmap::{data_words, read_bitmaps};
use crate::qcow2::entry::{ClusterRef, CompressedRange, L2Entry, Mapping};
use crate::qcow2::error::FormatError;
use crate::qcow2::geometry::HostOffset;
use crate::qcow2::table::L2Table;

/// Where an L2 table is.
#[derive(Debug, Clone, Copy)]
pub(super) struct L2Place {
    /// Which part of a disk it is for.
    pub(super) index: u64,
    pub(super) at: HostOffset,
    /// How many L1 tables lead to it.
    pub(super) times: u64,
}

/// Those for the same part of the disks, together.
pub(super) fn same_part(places: &[L2Place]) -> impl Iterator<Item = &[L2Place]> {
    places.chunk_by(|one, next| one.index == next.index)
}

impl Mover<'_> {
    /// Moves guest data: that of the disk and of all snapshots. What some of them share in the same
    /// place of their disks moves in one batch.
    pub(super) fn move_data(&mut self) -> Result<()> {
        if self.header.has_external_data() {
            return Ok(());
        }
        for alike in same_part(&self.l2_places()?) {
            // Of 2 MiB at most each.
            for places in alike.chunks(16) {
                self.move_data_of(places)?;
            }
        }
        self.give_up_shared()
    }

    /// The L2 tables of the disk and of all snapshots, each once, in the order of the disks.
    pub(super) fn l2_places(&self) -> Result<Vec<L2Place>> {
        let (mut places, mut known) = (Vec::<L2Place>::new(), BTreeMap::new());
        for part in self.l1_parts()? {
            self.task.check()?;
            for place in part? {
                let Some(at) = self.l2_table(place.entry)? else { continue };
                let number = *known.entry(at).or_insert(places.len());
                match places.get_mut(number) {
                    Some(known) => known.times = known.times.saturating_add(1),
                    None => places.push(L2Place { index: place.index, at, times: 1 }),
                }
            }
        }
        Ok(places)
    }

    /// Shows where compressed data is, and how many L1 tables lead to the L2 table that leads there.
    pub(super) fn each_packed(&self, mut visit: impl FnMut(u64, CompressedRange)) -> Result<()> {
        for L2Place { at, times, .. } in self.l2_places()? {
            self.task.check()?;
            let table = L2Table::read_padded(self.storage, at, self.geometry)?;
            for entry in table.entries() {
                let mapping = self.header.mapping(entry).map_err(FormatError::into_error)?;
                if let Mapping::Compressed(range) = mapping {
                    visit(times, range);
                }
            }
        }
        Ok(())
    }

    fn move_data_of(&mut self, places: &[L2Place]) -> Result<()> {
        self.task.step("move", self.progress.moved_bytes, self.progress.all_bytes())?;
        let read = |place: &L2Place| L2Table::read_padded(self.storage, place.at, self.geometry);
        let tables = places.iter().map(read).collect::<Result<Vec<_>>>()?;
        for index in 0..self.geometry.l2_entries() {
            self.task.check()?;
            for (place, table) in places.iter().zip(&tables) {
                if let Some(moved) = self.moved_entry(table.get(index), place.times)? {
                    self.batch.put(self.entry_at(place.at, index), moved.word);
                }
            }
            self.carry_out_if_full()?;
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
