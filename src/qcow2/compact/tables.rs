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
use crate::qcow2::table::read_words;

impl Mover<'_> {
    /// Moves L2 tables: those of the disk and of all snapshots.
    pub(super) fn move_tables(&mut self) -> Result<()> {
        for l1 in self.l1_tables()? {
            let words = read_words(self.storage, l1.offset, l1.count.into())?;
            for (place, word) in (0u64..).zip(words) {
                let entry = L1Entry::from_word(word);
                let table = entry.decode(self.geometry).map_err(FormatError::into_error)?;
                let Some(table) = table else { continue };
                if let Some(to) = self.relocate(table.offset)? {
                    let at = l1.offset.plus_bytes(place.saturating_mul(ENTRY_SIZE));
                    self.batch.put(at, entry.moved_to(to).word());
                    self.carry_out_if_full()?;
                }
            }
        }
        self.give_up_shared()
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
