//! Releasing clusters after a switch: counts go down, their room goes back to the host, and the
//! file ends where the last used cluster does. A crash in here leaves leaks at most.

use std::ops::Range;

use super::entry::{L1Entry, L2Entry, Mapping, RefcountTableEntry};
use super::error::FormatError;
use super::geometry::{ClusterCount, Geometry, HostCluster};
use super::header::Header;
use super::refcounts::Refcounts;
use super::runs;
use super::table::{L2Table, encode_words};
use crate::error::Result;
use crate::host::storage::Storage;

/// Gives the room of clusters that nobody uses back, as far as they are inside the file.
pub(super) fn give_back(
    storage: &dyn Storage,
    geometry: Geometry,
    run: Range<HostCluster>,
) -> Result<()> {
    let offset = geometry.host_offset(run.start).get();
    let len = geometry.bytes_of(run.end - run.start);
    let inside = storage.len()?.saturating_sub(offset).min(len);
    if inside > 0 { storage.punch_hole(offset, inside) } else { Ok(()) }
}

/// Takes references away and gathers what becomes free.
pub(super) struct Releaser<'a> {
    storage: &'a dyn Storage,
    geometry: Geometry,
    table: Vec<RefcountTableEntry>,
    /// Runs whose counts go down, oldest first; bounded by what was gathered since the last pass.
    pending: Vec<Range<HostCluster>>,
    freed: ClusterCount,
}

impl<'a> Releaser<'a> {
    /// For the image in `storage`, with its refcount table as it is after the switch.
    pub(super) fn new(
        storage: &'a dyn Storage,
        geometry: Geometry,
        table: Vec<RefcountTableEntry>,
    ) -> Self {
        Releaser { storage, geometry, table, pending: Vec::new(), freed: ClusterCount::ZERO }
    }

    /// A run of clusters loses one reference each.
    pub(super) fn release_run(&mut self, run: Range<HostCluster>) -> Result<()> {
        runs::push(&mut self.pending, run);
        if self.pending.len() >= 4096 { self.lower_counts() } else { Ok(()) }
    }

    /// What an L2 entry refers to loses one reference; its subclusters do not matter.
    pub(super) fn release_entry(&mut self, entry: L2Entry) -> Result<()> {
        let mapping = entry.decode(self.geometry).map_err(FormatError::into_error)?;
        if let Mapping::Compressed(range) = mapping {
            // Counted by the clusters that the range touches.
            let last = range.offset.plus_bytes(range.len.saturating_sub(1));
            let end = self.geometry.host_cluster(last) + ClusterCount::new(1);
            return self.release_run(self.geometry.host_cluster(range.offset)..end);
        }
        match mapping.host_cluster() {
            None => Ok(()),
            Some(host) => {
                let cluster = self.geometry.host_cluster(host.offset);
                self.release_run(cluster..cluster + ClusterCount::new(1))
            }
        }
    }

    /// An L2 table and everything that it maps lose one reference.
    pub(super) fn release_table(&mut self, table: L1Entry) -> Result<()> {
        let at = table.decode(self.geometry).map_err(FormatError::into_error)?;
        let Some(at) = at else { return Ok(()) };
        let entries = L2Table::read(self.storage, at.offset, self.geometry)?;
        for entry in entries.entries() {
            self.release_entry(entry)?;
        }
        let cluster = self.geometry.host_cluster(at.offset);
        self.release_run(cluster..cluster + ClusterCount::new(1))
    }

    /// Lowers the counts that are still pending. Returns the bytes freed. Does not sync: what is
    /// not on the medium then is leaked at worst.
    pub(super) fn finish(mut self) -> Result<u64> {
        self.lower_counts()?;
        let freed_bytes = self.geometry.bytes_of(self.freed);
        if freed_bytes > 0 {
            log::debug!("released what nothing refers to any more: {freed_bytes} bytes");
        }
        Ok(freed_bytes)
    }

    /// As [`finish`](Self::finish), and drops refcount blocks that count nothing, and cuts the file
    /// behind its last used cluster, but not before `kept_end`.
    pub(super) fn finish_and_cut(mut self, header: &Header, kept_end: HostCluster) -> Result<u64> {
        self.lower_counts()?;
        self.drop_idle_blocks(header)?;
        self.cut_file(kept_end)?;
        self.finish()
    }

    fn lower_counts(&mut self) -> Result<()> {
        let mut refcounts = Refcounts::new(self.storage, self.geometry, &self.table);
        let mut free = Vec::new();
        for cluster in std::mem::take(&mut self.pending).into_iter().flat_map(runs::clusters) {
            if refcounts.release(cluster)? == 0 {
                runs::push(&mut free, cluster..cluster + ClusterCount::new(1));
            }
        }
        refcounts.flush()?;
        free.into_iter().try_for_each(|run| self.give_back(run))
    }

    /// A run that nobody uses any more.
    fn give_back(&mut self, run: Range<HostCluster>) -> Result<()> {
        self.freed = self.freed + (run.end - run.start);
        give_back(self.storage, self.geometry, run)
    }

    /// Takes refcount blocks out of use that count nothing but themselves, so that they do not
    /// keep the file long. The entry goes first: it is the reference.
    fn drop_idle_blocks(&mut self, header: &Header) -> Result<()> {
        let geometry = self.geometry;
        let mut idle = Vec::new();
        Refcounts::new(self.storage, geometry, &self.table).each_block(
            |index, offset, block| {
                let own = geometry.host_cluster(offset);
                let mut others = block.clone();
                if geometry.refblock_index(own) == index
                    && block.get(geometry.index_in_refblock(own)) == 1
                {
                    others.set(geometry.index_in_refblock(own), 0);
                }
                if others.is_zero() {
                    idle.push((index, own));
                }
                Ok(())
            },
        )?;
        // Counts of a block's own cluster that lie in another block are lowered afterwards.
        let counted_elsewhere =
            |(index, own): &(u64, HostCluster)| geometry.refblock_index(*own) != *index;
        if idle.is_empty() {
            return Ok(());
        }
        for (index, _) in &idle {
            let entry = usize::try_from(*index).ok().and_then(|index| self.table.get_mut(index));
            if let Some(entry) = entry {
                *entry = RefcountTableEntry::EMPTY;
            }
        }
        self.storage.sync()?;
        let words = encode_words(self.table.iter().map(|entry| entry.word()));
        self.storage.write_at(header.refcount_table.offset.get(), &words)?;
        self.storage.sync()?;
        let one = ClusterCount::new(1);
        for block in idle {
            let run = block.1..block.1 + one;
            if counted_elsewhere(&block) {
                self.release_run(run)?;
            } else {
                // Its count went with it.
                self.give_back(run)?;
            }
        }
        self.lower_counts()
    }

    fn cut_file(&mut self, kept_end: HostCluster) -> Result<()> {
        let mut refcounts = Refcounts::new(self.storage, self.geometry, &self.table);
        let end = refcounts.end_of_use(HostCluster::ZERO)?.max(kept_end);
        let end = self.geometry.host_offset(end).get();
        let shortens = end > 0 && self.storage.can_grow() && end < self.storage.len()?;
        if shortens { self.storage.set_len(end) } else { Ok(()) }
    }
}
