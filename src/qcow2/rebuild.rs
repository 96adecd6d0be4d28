//! Making the reference counts of a dirty image true again, from what its tables refer to.
//!
//! The dirty bit stays set until the counts are on the medium, so a crash in here changes nothing
//! about the image being rebuilt the next time. The counts are those of a scan; where it finds a
//! reference that is wrong, counting would hide the damage, and nothing is written.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use super::check::{Ledger, scan};
use super::entry::{L1Entry, L2Entry, Mapping, RefcountTableEntry};
use super::error::FormatError;
use super::feature::{Autoclear, Incompatible};
use super::flush::switch_header;
use super::geometry::{ClusterCount, Geometry, HostCluster, HostOffset};
use super::growth::{RefcountGrowth, free_end};
use super::header::{Header, TableRef};
use super::open::Qcow2;
use super::refcounts::Refcounts;
use super::release::Releaser;
use super::table::{L2Table, encode_words, read_l1, read_refcount_table};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, refuse_read_only};
use crate::task::Task;

impl Qcow2 {
    /// Makes every reference count and every COPIED flag of the active tables true, and, unless
    /// the image is of the kind that never keeps them (lazy, with a header of 104 bytes), clears
    /// the dirty bit. Guest data, snapshots and bitmaps stay as they are. Bitmaps are vouched for
    /// afterwards if they were before; other autoclear bits are cleared. What was written before is
    /// on the medium afterwards. The caller must hold the image's lock. Stops on request as long as
    /// nothing was written.
    ///
    /// # Errors
    /// Before any count is written: [`Permission`](ErrorKind::Permission) for a storage that cannot
    /// be written, whatever the image was opened for; [`Corrupt`](ErrorKind::Corrupt) where a reference is wrong, or
    /// two guest clusters of the active disk have the same host cluster; [`Dirty`](ErrorKind::Dirty) where
    /// a count does not fit the width that the image has for it; [`NoSpace`](ErrorKind::NoSpace)
    /// where new blocks do not fit on a block device. Afterwards
    /// ([`changed`](Error::changed) is set) what the storage says; nothing more is written to the
    /// image then, and it must be opened again.
    pub fn rebuild_refcounts(&mut self, task: Task<'_>) -> Result<()> {
        refuse_read_only(&*self.storage)?;
        self.settle()?;
        let report = scan(&*self.storage, &self.header, task)?;
        if let Some(damage) = report.damage() {
            return Err(damage.to_error());
        }
        self.refuse_counts(report.ledger())?;
        let counts =
            TrueCounts::plan(&*self.storage, &self.header, report.ledger(), HostCluster::ZERO)?;
        log::info!("rebuilding the reference counts, in which {} are wrong", report.corruptions);
        self.change_whole(|image| {
            let written = image.make_true(&counts);
            written.map(|header| (header, ())).map_err(Error::after_changes)
        })
    }

    /// A count that the image has no room for cannot be made true.
    fn refuse_counts(&self, ledger: &Ledger) -> Result<()> {
        let width = self.header.geometry.refcount_order();
        match ledger.iter().find(|(_, count)| *count > width.max_count()) {
            None => Ok(()),
            Some((cluster, count)) => {
                let bits = width.bits();
                let message = format!(
                    "the image is dirty, and the {count} references to a cluster cannot be \
                     counted with {bits} bits"
                );
                let offset = self.header.geometry.host_offset(cluster).get();
                Err(Error::new(ErrorKind::Dirty, message).at_offset(offset))
            }
        }
    }

    /// Returns the header after the switch.
    fn make_true(&self, counts: &TrueCounts<'_>) -> Result<Header> {
        let geometry = self.header.geometry;
        counts.write(&*self.storage)?;
        self.storage.sync()?;
        counts.write_flags(&*self.storage, &self.header)?;

        let old = self.header.clone();
        let never_counts = old.is_for_hyperkit();
        let clean = old.incompatible.without(Incompatible::DIRTY);
        // The bitmaps are as they were: what the image said about them is as true as before.
        let bitmaps = old.bitmaps().is_some() && old.autoclear.contains(Autoclear::BITMAPS);
        let raw_data = old.autoclear.contains(Autoclear::RAW_EXTERNAL_DATA);
        let header = Header {
            incompatible: if never_counts { old.incompatible } else { clean },
            autoclear: Autoclear::default()
                .with_if(bitmaps, Autoclear::BITMAPS)
                .with_if(raw_data, Autoclear::RAW_EXTERNAL_DATA),
            refcount_table: counts.growth.table_ref().unwrap_or(old.refcount_table),
            ..old.clone()
        };
        switch_header(&*self.storage, &header)?;
        if counts.growth.table_ref().is_some() {
            let start = geometry.host_cluster(old.refcount_table.offset);
            let clusters = ClusterCount::new(u64::from(old.refcount_table.count));
            let table = counts.growth.table(&counts.table);
            let mut releaser = Releaser::new(&*self.storage, geometry, table);
            releaser.release_run(start..start + clusters)?;
            releaser.finish()?;
        }
        Ok(header)
    }
}

/// The counts of an image as its references say that they must be.
pub(super) struct TrueCounts<'a> {
    geometry: Geometry,
    ledger: &'a Ledger,
    /// The refcount table as it is.
    table: Vec<RefcountTableEntry>,
    /// The blocks that are missing.
    growth: RefcountGrowth,
}

impl<'a> TrueCounts<'a> {
    /// For the image in `storage`, whose counts must all fit; blocks are added behind everything in
    /// use, and not before `from`. Nothing is written.
    pub(super) fn plan(
        storage: &dyn Storage,
        header: &Header,
        ledger: &'a Ledger,
        from: HostCluster,
    ) -> Result<TrueCounts<'a>> {
        let geometry = header.geometry;
        let table = read_refcount_table(storage, header)?;
        let clusters = || ledger.iter().map(|(cluster, _)| cluster);
        let blocks: BTreeSet<u64> = clusters().map(|c| geometry.refblock_index(c)).collect();
        let used = clusters().last().map_or(HostCluster::ZERO, |last| last + ClusterCount::new(1));
        let start = free_end(storage, geometry, used.max(from))?;
        let growth = RefcountGrowth::plan(geometry, &table, start, ClusterCount::ZERO, &blocks)?;
        growth.require_room(storage)?;
        Ok(TrueCounts { geometry, ledger, table, growth })
    }

    /// Where the refcount table is once it has grown, if it must.
    pub(super) fn table_ref(&self) -> Option<TableRef> {
        self.growth.table_ref()
    }

    /// Writes the counts that are not true, and blocks and table that nothing refers to yet.
    pub(super) fn write(&self, storage: &dyn Storage) -> Result<()> {
        let (geometry, ledger) = (self.geometry, self.ledger);
        Refcounts::new(storage, geometry, &self.table).each_block(|index, offset, stored| {
            match ledger.block(geometry, index).filter(|expected| expected != stored) {
                Some(expected) => storage.write_at(offset.get(), expected.bytes()),
                None => Ok(()),
            }
        })?;
        if !self.growth.added().is_empty() {
            self.growth.write_added(storage, &self.table, |index, block| {
                ledger.block(geometry, index).into_iter().for_each(|counted| *block = counted);
            })?;
            self.growth.raise_existing(storage, &self.table)?;
        }
        Ok(())
    }

    /// The counts are on the medium: now the active references may say whether they are one. What
    /// only snapshots refer to keeps its flags, which mean nothing there.
    pub(super) fn write_flags(&self, storage: &dyn Storage, header: &Header) -> Result<()> {
        let mut l1 = read_l1(storage, header)?;
        let mut changed = false;
        for entry in &mut l1 {
            let Some(mut at) = entry.decode(self.geometry).map_err(FormatError::into_error)? else {
                continue;
            };
            if at.copied != self.is_sole(at.offset) {
                at.copied = !at.copied;
                *entry = L1Entry::encode(at);
                changed = true;
            }
            self.write_flags_in(storage, header, at.offset)?;
        }
        if changed {
            let words = encode_words(l1.iter().map(|entry| entry.word()));
            storage.write_at(header.l1.offset.get(), &words)?;
        }
        Ok(())
    }

    fn write_flags_in(&self, storage: &dyn Storage, header: &Header, at: HostOffset) -> Result<()> {
        let mut table = L2Table::read_padded(storage, at, self.geometry)?;
        let mut corrected = Vec::new();
        for (index, entry) in (0..).zip(table.entries()).filter(|(_, entry)| !entry.is_empty()) {
            let mapping = header.mapping(entry).map_err(FormatError::into_error)?;
            let copied = match (mapping, mapping.host_cluster()) {
                (Mapping::Compressed(_), _) => false,
                // Nothing in an external data file is shared, or counted.
                (_, Some(host)) => header.has_external_data() || self.is_sole(host.offset),
                (_, None) => continue,
            };
            if entry.is_copied() != copied {
                corrected.push((index, L2Entry::with_copied(entry, copied)));
            }
        }
        if corrected.is_empty() {
            return Ok(());
        }
        corrected.into_iter().for_each(|(index, entry)| table.set(index, entry));
        storage.write_at(at.get(), table.bytes())
    }

    fn is_sole(&self, offset: HostOffset) -> bool {
        self.ledger.get(self.geometry.host_cluster(offset)) == 1
    }
}
