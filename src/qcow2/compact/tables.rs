//! The tables: L2 tables, and what the header and other tables lead to as a whole.

use super::Mover;
use super::room::first_run;
use crate::error::{ErrorKind, Result};
use crate::qcow2::bitmap::table_places;
use crate::qcow2::entry::L1Entry;
use crate::qcow2::error::FormatError;
use crate::qcow2::extension::BitmapDirectory;
use crate::qcow2::geometry::{ClusterCount, ENTRY_SIZE, HostOffset};
use crate::qcow2::header::{Header, TableRef};
use crate::qcow2::header_change::HeaderChange;
use crate::qcow2::snapshot::{l1_places, table_bytes};
use crate::qcow2::table::{L2Table, read_words};

/// An entry of an L1 table.
#[derive(Debug, Clone, Copy)]
pub(super) struct L1Place {
    pub(super) index: u64,
    pub(super) at: HostOffset,
    pub(super) entry: L1Entry,
}

/// Those for the same part of the disks, together.
pub(super) fn same_index(places: &[L1Place]) -> impl Iterator<Item = &[L1Place]> {
    places.chunk_by(|one, next| one.index == next.index)
}

impl<'a> Mover<'a> {
    /// Moves L2 tables: those of the disk and of all snapshots.
    pub(super) fn move_tables(&mut self) -> Result<()> {
        for part in self.l1_parts()? {
            self.task.check()?;
            for alike in same_index(&part?) {
                for L1Place { at, entry, .. } in alike {
                    let Some(table) = self.l2_table(*entry)? else { continue };
                    if let Some(to) = self.relocate(table, 1)? {
                        self.batch.put(*at, entry.moved_to(to).word());
                    }
                }
                self.carry_out_if_full()?;
            }
        }
        self.give_up_shared()
    }

    /// Takes L2 tables out of use that map nothing, where no other L1 table leads to them.
    pub(super) fn drop_empty_tables(&mut self) -> Result<()> {
        for part in self.l1_parts()? {
            for L1Place { at, entry, .. } in part? {
                self.task.check()?;
                let Some(table) = self.l2_table(entry)? else { continue };
                let cluster = self.geometry.host_cluster(table);
                if self.count_of(cluster)? == 1 && self.is_empty_table(table)? {
                    self.batch.put(at, 0);
                    self.batch.give_up(cluster, 1);
                }
            }
            self.carry_out_if_full()?;
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

    /// Where an entry of an L1 table leads.
    pub(super) fn l2_table(&self, entry: L1Entry) -> Result<Option<HostOffset>> {
        let table = entry.decode(self.geometry).map_err(FormatError::into_error)?;
        Ok(table.map(|table| table.offset))
    }

    /// The entries of the L1 tables of the disk and of all snapshots, those with the same index side by
    /// side, a part of the disks at a time.
    pub(super) fn l1_parts(&self) -> Result<impl Iterator<Item = Result<Vec<L1Place>>> + use<'a>> {
        /// So many entries are in memory, or one of each table.
        const MAX_ENTRIES: u64 = 16 << 10;
        let (storage, tables) = (self.storage, self.l1_tables()?);
        let tables_len = u64::try_from(tables.len()).unwrap_or(u64::MAX);
        let at_once = MAX_ENTRIES.checked_div(tables_len).unwrap_or(1).max(1);
        let longest = tables.iter().map(|l1| u64::from(l1.count)).max().unwrap_or(0);
        let starts = (0..longest.div_ceil(at_once)).map(move |part| part.saturating_mul(at_once));
        Ok(starts.map(move |start| {
            let mut entries = Vec::new();
            for l1 in &tables {
                let at = |index: u64| l1.offset.plus_bytes(index.saturating_mul(ENTRY_SIZE));
                let count = u64::from(l1.count).saturating_sub(start).min(at_once);
                for (index, word) in (start..).zip(read_words(storage, at(start), count)?) {
                    entries.push(L1Place { index, at: at(index), entry: L1Entry::from_word(word) });
                }
            }
            entries.sort_by_key(|place| place.index);
            Ok(entries)
        }))
    }

    /// Moves what has to lie in a row: L1 tables, the snapshot table, bitmap tables, the directory.
    pub(super) fn move_structures(&mut self) -> Result<()> {
        for (at, table) in table_places(self.storage, &self.header)? {
            self.move_run(table.offset, self.table_clusters(table), |mover, to| {
                mover.point(at, to)
            })?;
        }
        for (at, l1) in l1_places(self.storage, &self.header)? {
            self.move_run(l1.offset, self.table_clusters(l1), |mover, to| mover.point(at, to))?;
        }
        let l1 = self.header.l1;
        self.move_run(l1.offset, self.table_clusters(l1), |mover, offset| {
            let l1 = TableRef { offset, ..mover.header.l1 };
            mover.switch(Header { l1, ..mover.header.clone() })
        })?;
        if self.header.snapshots.count > 0 {
            let len = table_bytes(self.storage, &self.header)?;
            let clusters = self.geometry.clusters_for(len);
            self.move_run(self.header.snapshots.offset, clusters, |mover, offset| {
                let snapshots = TableRef { offset, ..mover.header.snapshots };
                mover.switch(Header { snapshots, ..mover.header.clone() })
            })?;
        }
        self.move_directory()
    }

    fn move_directory(&mut self) -> Result<()> {
        let Some(directory) = self.header.vouched_bitmaps() else { return Ok(()) };
        let clusters = self.geometry.clusters_for(directory.size_bytes);
        // Where a header that others wrote has no room to be changed, the directory stays.
        if let Err(error) = HeaderChange::plan(self.storage, &self.header) {
            return match error.kind() {
                ErrorKind::UnsupportedFeature => Ok(()),
                _ => Err(error),
            };
        }
        self.move_run(HostOffset::new(directory.offset), clusters, |mover, to| {
            let moved = BitmapDirectory { offset: to.get(), ..directory };
            let change =
                HeaderChange::plan(mover.storage, &mover.header.with_bitmaps(Some(moved)))?;
            change.apply(mover.storage)?;
            mover.header = change.header().clone();
            Ok(())
        })
    }

    fn table_clusters(&self, table: TableRef) -> ClusterCount {
        self.geometry.table_clusters(table.count.into())
    }

    /// Makes the word at `at` lead to `to`, on the medium.
    fn point(&mut self, at: HostOffset, to: HostOffset) -> Result<()> {
        self.batch.put(at, to.get());
        self.carry_out()
    }

    /// Moves clusters in a row that reach behind the mark to the first free place that is long enough.
    /// `switch` makes them true there, on the medium.
    pub(super) fn move_run(
        &mut self,
        from: HostOffset,
        clusters: ClusterCount,
        switch: impl FnOnce(&mut Self, HostOffset) -> Result<()>,
    ) -> Result<()> {
        let first = self.geometry.host_cluster(from);
        if clusters == ClusterCount::ZERO || first + clusters <= self.pass.mark {
            return Ok(());
        }
        self.carry_out()?;
        let Some(to) = first_run(&mut self.stored_counts(), clusters, first)? else {
            return Ok(());
        };
        for n in (0..clusters.get()).map(ClusterCount::new) {
            self.batch.copy(first + n, to + n, 1);
        }
        self.carry_out()?;
        switch(self, self.geometry.host_offset(to))?;
        for n in (0..clusters.get()).map(ClusterCount::new) {
            self.batch.give_up(first + n, 1);
        }
        self.progress.moved(self.geometry.bytes_of(clusters));
        self.carry_out()
    }
}
