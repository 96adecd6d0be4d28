//! Emptying an image: an empty L1 table takes the place of the one that is there, by one write in
//! the header's first sector; then everything that the old one led to is released.

use std::collections::BTreeSet;

use super::check::scan;
use super::entry::{L1Entry, RefcountTableEntry};
use super::feature::{Autoclear, Incompatible};
use super::flush::switch_header;
use super::geometry::{ClusterCount, HostCluster};
use super::growth::{RefcountGrowth, free_end};
use super::header::{BackingName, Header, TableRef};
use super::open::Qcow2;
use super::rebase::refuse_rebase;
use super::refcounts::Refcounts;
use super::release::Releaser;
use super::table::read_refcount_table;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{clear, refuse_read_only};
use crate::task::{Cancel, Silent, Task};

/// What emptying an image did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Emptied {
    /// Bytes of the file whose clusters were freed.
    pub freed_bytes: u64,
    /// Whether the image was dirty, and its reference counts were made true first.
    pub rebuilt: bool,
}

/// An empty L1 table at a new place.
struct Move {
    growth: RefcountGrowth,
    /// The refcount table before.
    table: Vec<RefcountTableEntry>,
    header: Header,
}

impl Qcow2 {
    /// Refuses what [`make_empty`](Self::make_empty) would refuse, and an image whose references
    /// are wrong: on a damaged image, what seems to be guest data may be something else's; and the name
    /// of another backing file, if that is to be changed first and cannot. Reads all tables, and writes
    /// nothing.
    ///
    /// # Errors
    /// [`Permission`](ErrorKind::Permission) for a storage that cannot be written, whatever the image
    /// was opened for; [`Corrupt`](ErrorKind::Corrupt), naming what is wrong;
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) with an external data file; as
    /// [`refuse_rebase`].
    pub fn require_emptiable(&self, backing: Option<&BackingName>, task: Task<'_>) -> Result<()> {
        refuse_read_only(&*self.storage)?;
        self.header.require_not_corrupt()?;
        self.header.require_own_data()?;
        if backing.is_some() {
            refuse_rebase(&*self.storage, &self.header, backing, false)?;
        }
        let report = scan(&*self.storage, &self.header, task)?;
        if let Some(damage) = report.damage() {
            return Err(damage.to_error());
        }
        let dirty = self.header.incompatible.contains(Incompatible::DIRTY);
        if report.corruptions > 0 && !dirty {
            let message = format!("{} reference counts or flags are wrong", report.corruptions);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(())
    }

    /// Drops everything that the disk has of its own: what is below shows, or zeros. Internal
    /// snapshots keep what is theirs, and bitmaps stay as they are. The reference counts of a dirty
    /// image are rebuilt first. The caller must hold the image's lock, and have asked
    /// [`require_emptiable`](Self::require_emptiable). The disk is empty on the medium afterwards; what
    /// was freed may be leaked where the power goes before the next sync.
    ///
    /// A crash leaves the disk as it was or empty, and at worst leaked clusters. So does a failure:
    /// where its error is not [`changed`](Error::changed), the image is used on as it was; else
    /// nothing more is written to it, and it must be opened again. It stops on request as long as
    /// nothing was changed.
    ///
    /// # Errors
    /// Before anything is changed: [`Permission`](ErrorKind::Permission),
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) with an external data file,
    /// [`NoSpace`](ErrorKind::NoSpace) where the new table does not fit on a block device, and as
    /// [`rebuild_refcounts`](Self::rebuild_refcounts). Afterwards what the storage says.
    pub fn make_empty(&mut self, task: Task<'_>) -> Result<Emptied> {
        refuse_read_only(&*self.storage)?;
        self.header.require_own_data()?;
        self.settle()?;
        let rebuilt = self.header.incompatible.contains(Incompatible::DIRTY);
        if rebuilt {
            self.rebuild_refcounts(task)?;
        }
        let emptied = self.change_whole(|image| image.empty(task));
        let freed_bytes = emptied.map_err(|error| error.after_changes_if(rebuilt))?;
        Ok(Emptied { freed_bytes, rebuilt })
    }

    /// Returns the header afterwards, and the bytes that were freed.
    fn empty(&self, task: Task<'_>) -> Result<(Header, u64)> {
        let old = self.l1()?;
        if old.iter().all(|entry| *entry == L1Entry::EMPTY) {
            return Ok((self.header.clone(), 0));
        }
        let geometry = self.header.geometry;
        let table = read_refcount_table(&*self.storage, &self.header)?;
        let used =
            Refcounts::new(&*self.storage, geometry, &table).end_of_use(HostCluster::ZERO)?;
        let end = free_end(&*self.storage, geometry, used)?;
        let away = self.plan_move(&self.header, table, end)?;
        away.growth.require_room(&*self.storage)?;
        self.write_away(&away, task)?;
        let finished = self.finish_emptying(&away, &old);
        finished.map_err(Error::after_changes)
    }

    /// From the first write into what the image has already.
    fn finish_emptying(&self, away: &Move, old: &[L1Entry]) -> Result<(Header, u64)> {
        self.switch_move(away)?;
        let mut releaser = self.releaser(away, &self.header)?;
        for table in old {
            releaser.release_table(*table)?;
        }
        let freed = releaser.finish()?;
        // The file has become shorter by all but the new table, which lies at its end.
        let mut header = away.header.clone();
        let table = away.growth.table(&away.table);
        if let Some(start) = self.room_before(&header, &table)? {
            let back = self.plan_move(&header, table.clone(), start)?;
            let offset = back.header.l1.offset.get();
            clear(&*self.storage, offset, self.l1_bytes(), Task::new(&Silent, &Cancel::new()))?;
            self.switch_move(&back)?;
            self.releaser(&back, &header)?.finish()?;
            header = back.header;
        }
        let freed_end = Releaser::new(&*self.storage, header.geometry, table);
        freed_end.finish_and_cut(&header, HostCluster::ZERO)?;
        Ok((header, freed))
    }

    /// What releases what a move leaves behind: the L1 table that `old` names, and its refcount
    /// table if there is a new one.
    fn releaser(&self, done: &Move, old: &Header) -> Result<Releaser<'_>> {
        let geometry = old.geometry;
        let mut releaser = Releaser::new(&*self.storage, geometry, done.growth.table(&done.table));
        let l1 = geometry.host_cluster(old.l1.offset);
        releaser.release_run(l1..l1 + geometry.table_clusters(u64::from(old.l1.count)))?;
        if done.growth.table_ref().is_some() {
            let table = geometry.host_cluster(old.refcount_table.offset);
            let clusters = ClusterCount::new(u64::from(old.refcount_table.count));
            releaser.release_run(table..table + clusters)?;
        }
        Ok(releaser)
    }

    /// An empty L1 table at `start`, where nothing is used.
    fn plan_move(
        &self,
        header: &Header,
        table: Vec<RefcountTableEntry>,
        start: HostCluster,
    ) -> Result<Move> {
        let geometry = header.geometry;
        let clusters = geometry.table_clusters(u64::from(header.l1.count));
        let growth = RefcountGrowth::plan(geometry, &table, start, clusters, &BTreeSet::new())?;
        // What the guest sees stays as it is, and so do bitmaps.
        let bitmaps = header.autoclear.contains(Autoclear::BITMAPS);
        let header = Header {
            l1: TableRef { offset: geometry.host_offset(growth.rest()), ..header.l1 },
            refcount_table: growth.table_ref().unwrap_or(header.refcount_table),
            autoclear: Autoclear::default().with_if(bitmaps, Autoclear::BITMAPS),
            ..header.clone()
        };
        Ok(Move { growth, table, header })
    }

    fn l1_bytes(&self) -> u64 {
        let geometry = self.header.geometry;
        geometry.bytes_of(geometry.table_clusters(u64::from(self.header.l1.count)))
    }

    /// Writes the table behind all that is used. If it cannot all be written, a file is cut back to
    /// what it was.
    fn write_away(&self, away: &Move, task: Task<'_>) -> Result<()> {
        let storage = &*self.storage;
        let old_len = storage.len()?;
        let written = clear(storage, away.header.l1.offset.get(), self.l1_bytes(), task)
            .and_then(|()| away.growth.write_added(storage, &away.table, |_, _| {}));
        if !storage.can_grow() {
            return written;
        }
        written.map_err(|error| error.after_changes_if(storage.set_len(old_len).is_err()))
    }

    fn switch_move(&self, to: &Move) -> Result<()> {
        to.growth.raise_existing(&*self.storage, &to.table)?;
        switch_header(&*self.storage, &to.header)
    }

    /// The first free clusters before the L1 table that it fits in, whose counts have a place.
    fn room_before(
        &self,
        header: &Header,
        table: &[RefcountTableEntry],
    ) -> Result<Option<HostCluster>> {
        let geometry = header.geometry;
        let wanted = geometry.table_clusters(u64::from(header.l1.count));
        let mut counts = Refcounts::new(&*self.storage, geometry, table);
        let end = geometry.host_cluster(header.l1.offset);
        let (mut start, mut at) = (HostCluster::ZERO, HostCluster::ZERO);
        while at < end {
            let index = geometry.refblock_index(at);
            if counts.block_offset(index)?.is_none() {
                at = geometry.first_cluster_of_refblock(index.saturating_add(1));
                start = at;
                continue;
            }
            let used = counts.get(at)? > 0;
            at = at + ClusterCount::new(1);
            if used {
                start = at;
            } else if at - start == wanted {
                return Ok(Some(start));
            }
        }
        Ok(None)
    }
}
