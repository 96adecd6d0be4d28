//! The order of writes, in one place: what is new reaches the medium before anything refers to
//! it, and nothing old is released before nothing refers to it any more.

use std::sync::MutexGuard;

use super::cache::{Rank, SliceCache};
use super::feature::{Autoclear, Compatible, Incompatible};
use super::geometry::ClusterCount;
use super::growth::{RefcountGrowth, free_end};
use super::header::Header;
use super::live::Live;
use super::open::Qcow2;
use super::overlap::Structures;
use super::refcounts::Refcounts;
use super::release::give_back;
use super::table::read_refcount_table;
use crate::block::Discard;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;

/// Makes `header` true: syncs everything written before, changes the header's fixed part with one
/// write inside the first sector, and syncs that.
pub(super) fn switch_header(storage: &dyn Storage, header: &Header) -> Result<()> {
    storage.sync()?;
    let (offset, bytes) = header.encode_switch();
    storage.write_at(offset, &bytes)?;
    storage.sync()?;
    log::debug!(
        "the switch is done: a disk of {} bytes, L1 table at {}, refcount table at {}",
        header.virtual_size,
        header.l1.offset,
        header.refcount_table.offset
    );
    Ok(())
}

impl Qcow2 {
    /// The header as it is to be now.
    pub(super) fn header_now(&self, live: &Live) -> Header {
        Header {
            incompatible: live.incompatible,
            autoclear: live.autoclear,
            refcount_table: live.refcount_table_ref,
            ..self.header.clone()
        }
    }

    /// Before the first change: learns where the image's structures and free clusters are, takes
    /// back what other programs could not know to be stale now, and announces late counts.
    ///
    /// # Errors
    /// Before anything is written, [`Corrupt`](ErrorKind::Corrupt) where two structures meet.
    pub(super) fn get_ready(&self, live: &mut Live) -> Result<()> {
        if live.ready {
            return Ok(());
        }
        if !self.options.writable {
            return Err(Error::new(ErrorKind::Permission, "the image was opened to be read"));
        }
        let geometry = self.header.geometry;
        live.refcount_table_ref = self.header.refcount_table;
        live.refcount_table = read_refcount_table(&*self.storage, &self.header)?;
        let (storage, blocks) = (&*self.storage, &live.refcount_table);
        live.structures = Structures::find(storage, &self.header, blocks)?;
        let mut counts = Refcounts::new(storage, geometry, blocks);
        let used = counts.end_of_use(live.structures.end())?;
        live.end = free_end(storage, geometry, used)?;
        let bitmaps = if self.options.keeps_contents { Some(Autoclear::BITMAPS) } else { None };
        let kept = [Autoclear::RAW_EXTERNAL_DATA].into_iter().chain(bitmaps);
        let kept = kept.filter(|bit| self.header.autoclear.contains(*bit));
        live.autoclear = kept.fold(Autoclear::default(), |kept, bit| kept.with_if(true, bit));
        live.incompatible =
            self.header.incompatible.with_if(self.counts_lazily(), Incompatible::DIRTY);
        let changed = (live.autoclear, live.incompatible)
            != (self.header.autoclear, self.header.incompatible);
        if changed {
            switch_header(&*self.storage, &self.header_now(live))?;
        }
        live.ready = true;
        Ok(())
    }

    /// Whether counts may lag behind, since the dirty bit says so.
    fn counts_lazily(&self) -> bool {
        self.header.compatible.contains(Compatible::LAZY_REFCOUNTS)
    }

    /// Adds refcount blocks. What is in memory of those that exist goes first, for their counts
    /// change in the file; the new ones become true with the table that refers to them, and the
    /// old table is given up.
    pub(super) fn switch_counts(&self, live: &mut Live, growth: &RefcountGrowth) -> Result<()> {
        let (storage, geometry) = (&*self.storage, self.header.geometry);
        live.counts.write(storage, Rank::Leaf)?;
        live.counts.clear();
        // Also where this fails half-way: what lies there is not blank any more.
        live.end = live.end.max(growth.added().end);
        growth.write_added(storage, &live.refcount_table, |_, _| {})?;
        growth.raise_existing(storage, &live.refcount_table)?;
        let old = live.refcount_table_ref;
        live.refcount_table = growth.table(&live.refcount_table);
        live.refcount_table_ref = growth.table_ref().unwrap_or(old);
        switch_header(storage, &self.header_now(live))?;
        let first = geometry.host_cluster(old.offset);
        live.quarantine(first..first + ClusterCount::new(old.count.into()));
        live.structures.add(growth.added());
        Ok(())
    }

    /// Writes everything that was changed in memory, and returns when it is on the medium. `_order`
    /// keeps all others from changing tables until the end; reading and writing in place go on
    /// between the steps, while the medium is waited for.
    ///
    /// Guest data was written before its entry was changed in memory, and freed clusters are not
    /// taken again before they leave the quarantine; so at each point between two syncs the medium
    /// holds an image in which some clusters are counted too often at worst, or one that is marked
    /// dirty because its counts are late.
    pub(super) fn write_back(&self, _order: &MutexGuard<'_, ()>) -> Result<()> {
        let storage = &*self.storage;
        if !self.live().ready {
            return Ok(());
        }
        if let Some(data_file) = &self.data_file {
            data_file.sync()?;
        }
        self.write_counts_unless(|counts| self.counts_lazily() && !counts.is_crowded())?;
        // Data, counts and new L2 tables as they begin, before the entries that refer to them. An
        // L1 entry that arrives before what changed in its table since shows what was there before.
        storage.sync()?;
        let mut live = self.live_mut();
        let changed = live.tables.is_dirty(Rank::Leaf) || live.tables.is_dirty(Rank::Root);
        live.tables.write(storage, Rank::Leaf)?;
        live.tables.write(storage, Rank::Root)?;
        drop(live);
        if changed {
            storage.sync()?;
            log::debug!("data, counts and tables are on the medium");
        }
        // Nothing on the medium refers to these any more.
        let free = self.leave_quarantine(&mut self.live_mut())?;
        if self.options.discard == Discard::Unmap {
            for run in free {
                // Room that the file system keeps is no reason to fail: nothing is lost.
                let _ = give_back(storage, self.header.geometry, run);
            }
        }
        // On its way, so that an end without a close leaves no leaks; a power cut may.
        self.write_counts_unless(|_| self.counts_lazily())
    }

    fn write_counts_unless(&self, late: impl Fn(&SliceCache) -> bool) -> Result<()> {
        let mut live = self.live_mut();
        if late(&live.counts) {
            return Ok(());
        }
        live.counts.write(&*self.storage, Rank::Leaf)
    }

    /// Writes everything, the counts of freed clusters included, and takes the announcement of
    /// late counts back. Afterwards the image is as if it had just been opened.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.write_back(&self.order()?)?;
        let mut live = self.live_mut();
        if !live.ready {
            return Ok(());
        }
        live.counts.write(&*self.storage, Rank::Leaf)?;
        self.storage.sync()?;
        let announced = live.incompatible != self.header.incompatible;
        live.incompatible = self.header.incompatible;
        let header = self.header_now(&live);
        if announced {
            switch_header(&*self.storage, &header)?;
        }
        drop(live);
        self.go_on_with(header);
        Ok(())
    }
}
