//! Making the reference counts of a dirty image true again, from what its tables refer to.
//!
//! The dirty bit stays set until the counts are on the medium, so a crash in here changes nothing
//! about the image being rebuilt the next time. An image with nothing but active tables has no
//! count above one: a cluster that is referred to twice is damage, and is refused.

use std::collections::BTreeSet;

use super::clusters::UsedClusters;
use super::entry::{L1Entry, L2Entry, Mapping, RefcountTableEntry};
use super::error::FormatError;
use super::feature::{Autoclear, Incompatible};
use super::flush::switch_header;
use super::geometry::ClusterCount;
use super::growth::RefcountGrowth;
use super::header::Header;
use super::open::Qcow2;
use super::refblock::RefcountBlock;
use super::refcounts::Refcounts;
use super::release::Releaser;
use super::table::{L2Table, encode_words, read_refcount_table};
use crate::error::{Error, ErrorKind, Result};

/// What the tables refer to.
struct Scan {
    used: UsedClusters,
    /// L1 entries, by index, that lack the COPIED flag or lead to a table with entries that do.
    without_copied: Vec<u64>,
    l1: Vec<L1Entry>,
}

impl Qcow2 {
    /// Rebuilds the counts and, unless the image is of the kind that never keeps them (lazy, with
    /// a header of 104 bytes), clears the dirty bit.
    ///
    /// # Errors
    /// [`Dirty`](ErrorKind::Dirty) with snapshots, bitmaps or compressed clusters, and
    /// [`Corrupt`](ErrorKind::Corrupt) where two references meet, both before anything is written.
    pub(super) fn rebuild_refcounts(&mut self) -> Result<()> {
        let header = &self.header;
        if header.snapshots.count > 0 || header.bitmaps().is_some() {
            let message = "the image is dirty, and its reference counts cannot be rebuilt by this \
                           version because it has snapshots or bitmaps";
            return Err(Error::new(ErrorKind::Dirty, message));
        }
        let table = read_refcount_table(&*self.storage, header)?;
        let scan = self.scan(&table)?;
        self.write_counts(&table, scan).map_err(Error::after_changes)
    }

    fn scan(&self, table: &[RefcountTableEntry]) -> Result<Scan> {
        let (header, geometry) = (&self.header, self.header.geometry);
        let mut used = UsedClusters::new(geometry, self.storage.len()?);
        let l1 = self.l1()?;
        used.mark_metadata(header, &l1, table)?;
        let one = ClusterCount::new(1);
        let mut without_copied = Vec::new();
        for (index, entry) in (0..).zip(&l1) {
            let Some(at) = entry.decode(geometry).map_err(FormatError::into_error)? else {
                continue;
            };
            let mut copied = at.copied;
            let table = L2Table::read(&*self.storage, at.offset, geometry)?;
            for entry in table.entries().filter(|entry| !entry.is_empty()) {
                match entry.decode(geometry).map_err(FormatError::into_error)? {
                    Mapping::Compressed(_) => {
                        let message = "the image is dirty, and its reference counts cannot be \
                                       rebuilt by this version because it has compressed clusters";
                        return Err(Error::new(ErrorKind::Dirty, message));
                    }
                    mapping => {
                        if let Some(host) = mapping.host_cluster() {
                            used.mark("data cluster", host.offset, one)?;
                            copied &= host.copied;
                        }
                    }
                }
            }
            if !copied {
                without_copied.push(index);
            }
        }
        Ok(Scan { used, without_copied, l1 })
    }

    fn write_counts(&mut self, table: &[RefcountTableEntry], scan: Scan) -> Result<()> {
        let geometry = self.header.geometry;
        let storage = &*self.storage;
        let mut missing: BTreeSet<u64> = scan.used.blocks();
        Refcounts::new(storage, geometry, table).each_block(|index, offset, stored| {
            missing.remove(&index);
            let mut expected = RefcountBlock::zeroed(geometry);
            scan.used.count(index, &mut expected);
            if expected == *stored {
                Ok(())
            } else {
                storage.write_at(offset.get(), expected.bytes())
            }
        })?;
        let end = geometry.host_cluster_after(storage.len()?);
        let growth = RefcountGrowth::plan(geometry, table, end, ClusterCount::ZERO, &missing)?;
        if !growth.added().is_empty() {
            storage.set_len(geometry.host_offset(growth.added().end).get())?;
            growth.write_added(storage, table, |index, block| scan.used.count(index, block))?;
            growth.raise_existing(storage, table)?;
        }
        storage.sync()?;
        self.set_copied(&scan.without_copied, scan.l1)?;

        let old = self.header.clone();
        let never_counts = old.is_for_hyperkit();
        let clean = old.incompatible.without(Incompatible::DIRTY);
        let header = Header {
            incompatible: if never_counts { old.incompatible } else { clean },
            autoclear: Autoclear::default(),
            refcount_table: growth.table_ref().unwrap_or(old.refcount_table),
            ..old.clone()
        };
        switch_header(&*self.storage, &header)?;
        if growth.table_ref().is_some() {
            let start = geometry.host_cluster(old.refcount_table.offset);
            let clusters = ClusterCount::new(u64::from(old.refcount_table.count));
            let mut releaser = Releaser::new(&*self.storage, geometry, growth.table(table));
            releaser.release_run(start..start + clusters)?;
            releaser.finish()?;
        }
        self.header = header;
        Ok(())
    }

    /// Every count is one and on the medium: now the references may say so.
    fn set_copied(&mut self, l1_indexes: &[u64], mut l1: Vec<L1Entry>) -> Result<()> {
        let geometry = self.header.geometry;
        for index in l1_indexes {
            let index = usize::try_from(*index).unwrap_or(usize::MAX);
            let Some(entry) = l1.get_mut(index) else { continue };
            let Some(mut at) = entry.decode(geometry).map_err(FormatError::into_error)? else {
                continue;
            };
            at.copied = true;
            *entry = L1Entry::encode(at);
            let mut table = L2Table::read(&*self.storage, at.offset, geometry)?;
            for index in 0..geometry.l2_entries() {
                let entry = table.get(index);
                let mapping = entry.decode(geometry).map_err(FormatError::into_error)?;
                if mapping.host_cluster().is_some() {
                    table.set(index, L2Entry::with_copied(entry));
                }
            }
            self.storage.write_at(at.offset.get(), table.bytes())?;
        }
        if !l1_indexes.is_empty() {
            let words = encode_words(l1.iter().map(|entry| entry.word()));
            self.storage.write_at(self.header.l1.offset.get(), &words)?;
        }
        self.recent_table = Default::default();
        Ok(())
    }
}
