//! Reference counts of another width: all of them are written anew, where nothing refers to them,
//! and become true with the header that says their width and place.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::qcow2::check::ScanReport;
use crate::qcow2::entry::RefcountTableEntry;
use crate::qcow2::error::FormatError;
use crate::qcow2::geometry::{ClusterCount, Geometry, HostCluster};
use crate::qcow2::growth::{RefcountGrowth, free_end};
use crate::qcow2::header::{Header, TableRef};
use crate::qcow2::refblock::RefcountBlock;
use crate::qcow2::refcounts::Refcounts;
use crate::qcow2::release::Releaser;
use crate::qcow2::table::read_refcount_table;

/// The counts of an image in another width, planned.
pub(super) struct Recount {
    old: Geometry,
    new: Geometry,
    old_table: Vec<RefcountTableEntry>,
    old_place: TableRef,
    growth: RefcountGrowth,
}

impl Recount {
    /// Plans the counts of the image in `storage` in the width of `new`; nothing is written.
    ///
    /// # Errors
    /// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions) for a count that does not fit,
    /// [`BadSize`](ErrorKind::BadSize) and [`NoSpace`](ErrorKind::NoSpace) where the new ones have
    /// no room.
    pub(super) fn plan(storage: &dyn Storage, header: &Header, new: Geometry) -> Result<Recount> {
        let old = header.geometry;
        let old_table = read_refcount_table(storage, header)?;
        let mut needed = BTreeSet::new();
        let mut counts = Refcounts::new(storage, old, &old_table);
        counts.each_block(|index, _, block| {
            let first = old.first_cluster_of_refblock(index);
            for n in 0..old.refblock_entries() {
                let cluster = first + ClusterCount::new(n);
                match block.get(n) {
                    0 => {}
                    count if count > new.refcount_order().max_count() => {
                        return Err(does_not_fit(old, new, cluster, count));
                    }
                    _ => drop(needed.insert(new.refblock_index(cluster))),
                }
            }
            Ok(())
        })?;
        let used = counts.end_of_use(HostCluster::ZERO)?;
        let start = free_end(storage, old, used)?;
        let growth = RefcountGrowth::plan(new, &[], start, ClusterCount::ZERO, &needed)?;
        growth.require_room(storage)?;
        Ok(Recount { old, new, old_table, old_place: header.refcount_table, growth })
    }

    /// Where the new refcount table is.
    pub(super) fn table_ref(&self) -> TableRef {
        self.growth.table_ref().unwrap_or(self.old_place)
    }

    /// Writes them and lets `switch` make them true. If that fails with nothing changed, a file is as
    /// long as before.
    pub(super) fn write_and(
        &self,
        storage: &dyn Storage,
        switch: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let old_len = storage.len()?;
        self.write_blocks(storage).and_then(|()| switch()).map_err(|error| {
            if error.changed() || !storage.can_grow() {
                return error;
            }
            match storage.set_len(old_len) {
                Ok(()) => error,
                Err(_) => error.after_changes(),
            }
        })
    }

    fn write_blocks(&self, storage: &dyn Storage) -> Result<()> {
        let counts = RefCell::new(Refcounts::new(storage, self.old, &self.old_table));
        let failed = RefCell::new(None);
        self.growth.write_added(storage, &[], |index, block| {
            let filled = self.fill(&mut counts.borrow_mut(), index, block);
            if let Err(error) = filled {
                failed.borrow_mut().get_or_insert(error);
            }
        })?;
        failed.into_inner().map_or(Ok(()), Err)
    }

    /// Gives a new block the counts that the old ones have.
    fn fill(
        &self,
        counts: &mut Refcounts<'_>,
        index: u64,
        block: &mut RefcountBlock,
    ) -> Result<()> {
        let first = self.new.first_cluster_of_refblock(index);
        let end = self.old_end();
        for n in 0..self.new.refblock_entries() {
            let cluster = first + ClusterCount::new(n);
            if cluster >= end {
                break;
            }
            block.set(n, counts.get(cluster)?);
        }
        Ok(())
    }

    /// Behind everything that the old table can count.
    fn old_end(&self) -> HostCluster {
        let blocks = u64::try_from(self.old_table.len()).unwrap_or(u64::MAX);
        self.old.first_cluster_of_refblock(blocks)
    }

    /// The old counts are not referred to any more: their room is free.
    pub(super) fn release_old(&self, storage: &dyn Storage) -> Result<()> {
        let mut releaser = Releaser::new(storage, self.new, self.growth.table(&[]));
        for entry in &self.old_table {
            if let Some(block) = entry.decode(self.old).map_err(FormatError::into_error)? {
                let cluster = self.old.host_cluster(block);
                releaser.release_run(cluster..cluster + ClusterCount::new(1))?;
            }
        }
        let start = self.old.host_cluster(self.old_place.offset);
        releaser.release_run(start..start + ClusterCount::new(self.old_place.count.into()))?;
        releaser.finish().map(drop)
    }
}

/// Refuses counts that a scan found and that another width has no room for.
pub(super) fn require_width(found: &ScanReport, old: Geometry, new: Geometry) -> Result<()> {
    let max = new.refcount_order().max_count();
    match found.ledger().iter().find(|(_, count)| *count > max) {
        Some((cluster, count)) => Err(does_not_fit(old, new, cluster, count)),
        None => Ok(()),
    }
}

fn does_not_fit(old: Geometry, new: Geometry, cluster: HostCluster, count: u64) -> Error {
    let bits = new.refcount_order().bits();
    let message = format!("{count} references to a cluster cannot be counted with {bits} bits");
    Error::new(ErrorKind::IncompatibleOptions, message).at_offset(old.host_offset(cluster).get())
}
