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
use super::header::Header;
use super::open::Qcow2;
use super::refblock::RefcountBlock;
use super::refcounts::Refcounts;
use super::release::Releaser;
use super::table::{L2Table, encode_words, read_refcount_table};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::refuse_read_only;
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
        let table = read_refcount_table(&*self.storage, &self.header)?;
        let geometry = self.header.geometry;
        let clusters = || report.ledger().iter().map(|(cluster, _)| cluster);
        let blocks: BTreeSet<u64> = clusters().map(|c| geometry.refblock_index(c)).collect();
        let used = clusters().last().map_or(HostCluster::ZERO, |last| last + ClusterCount::new(1));
        let start = free_end(&*self.storage, geometry, used)?;
        let growth = RefcountGrowth::plan(geometry, &table, start, ClusterCount::ZERO, &blocks)?;
        growth.require_room(&*self.storage)?;
        self.change_whole(|image| {
            let written = image.write_counts(&table, growth, report.ledger());
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
    fn write_counts(
        &self,
        table: &[RefcountTableEntry],
        growth: RefcountGrowth,
        ledger: &Ledger,
    ) -> Result<Header> {
        let geometry = self.header.geometry;
        let storage = &*self.storage;
        Refcounts::new(storage, geometry, table).each_block(|index, offset, stored| {
            let expected = block_of(ledger, geometry, index);
            if expected == *stored {
                Ok(())
            } else {
                storage.write_at(offset.get(), expected.bytes())
            }
        })?;
        if !growth.added().is_empty() {
            growth.write_added(storage, table, |index, block| {
                *block = block_of(ledger, geometry, index);
            })?;
            growth.raise_existing(storage, table)?;
        }
        storage.sync()?;
        self.set_copied(ledger)?;

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
        Ok(header)
    }

    /// The counts are on the medium: now the active references may say whether they are one. What
    /// only snapshots refer to keeps its flags, which mean nothing there.
    fn set_copied(&self, ledger: &Ledger) -> Result<()> {
        let geometry = self.header.geometry;
        let sole = |offset: HostOffset| ledger.get(geometry.host_cluster(offset)) == 1;
        let mut l1 = self.l1()?;
        let mut changed = false;
        for entry in &mut l1 {
            let Some(mut at) = entry.decode(geometry).map_err(FormatError::into_error)? else {
                continue;
            };
            if at.copied != sole(at.offset) {
                at.copied = !at.copied;
                *entry = L1Entry::encode(at);
                changed = true;
            }
            self.set_copied_in(at.offset, &sole)?;
        }
        if changed {
            let words = encode_words(l1.iter().map(|entry| entry.word()));
            self.storage.write_at(self.header.l1.offset.get(), &words)?;
        }
        Ok(())
    }

    fn set_copied_in(&self, at: HostOffset, sole: &impl Fn(HostOffset) -> bool) -> Result<()> {
        let geometry = self.header.geometry;
        let mut table = L2Table::read_padded(&*self.storage, at, geometry)?;
        let mut corrected = Vec::new();
        for (index, entry) in (0..).zip(table.entries()).filter(|(_, entry)| !entry.is_empty()) {
            let mapping = self.header.mapping(entry).map_err(FormatError::into_error)?;
            let copied = match (mapping, mapping.host_cluster()) {
                (Mapping::Compressed(_), _) => false,
                // Nothing in an external data file is shared, or counted.
                (_, Some(host)) => self.header.has_external_data() || sole(host.offset),
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
        self.storage.write_at(at.get(), table.bytes())
    }
}

/// The block with this index as it must be.
fn block_of(ledger: &Ledger, geometry: Geometry, index: u64) -> RefcountBlock {
    let mut block = RefcountBlock::zeroed(geometry);
    let first = geometry.first_cluster_of_refblock(index);
    let last = first.get().saturating_add(geometry.refblock_entries()).saturating_sub(1);
    for (cluster, count) in ledger.range(first.get()..=last) {
        block.set((cluster - first).get(), count);
    }
    block
}
