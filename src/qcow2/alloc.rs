//! Finding free clusters, counting references, and giving clusters up.

use std::ops::Range;

use super::cache::Rank;
use super::entry::{ClusterRef, CompressedRange};
use super::error::{FormatError, Problem};
use super::geometry::{ClusterCount, HostCluster, HostOffset};
use super::growth::{RefcountGrowth, require_room};
use super::live::Live;
use super::open::Qcow2;
use super::refblock;
use super::runs;
use crate::error::Result;

impl Qcow2 {
    /// Takes a free cluster; its count is one. What is in it is whatever was there: zeros at or
    /// behind [`Live::end`] as it was before, if the storage can grow.
    ///
    /// # Errors
    /// [`NoSpace`](crate::ErrorKind::NoSpace), with nothing changed, where the storage cannot grow
    /// and has no room.
    pub(super) fn allocate(&self, live: &mut Live) -> Result<HostCluster> {
        loop {
            let first = live.next_free;
            let Some((at, index)) = self.count_place(live, first)? else {
                self.grow_counts(live, first)?;
                continue;
            };
            live.counts.load(&*self.storage, at, Rank::Leaf)?;
            let bits = self.header.geometry.refcount_order().bits();
            let counts = live.counts.get(at).unwrap_or_default();
            let free = refblock::first_free(counts, bits, index);
            let behind = free.unwrap_or_else(|| refblock::len(counts, bits));
            let cluster = first + ClusterCount::new(behind.saturating_sub(index));
            live.next_free = cluster;
            if free.is_none() {
                continue;
            }
            let next = cluster + ClusterCount::new(1);
            // A count that lies must not cost the image.
            if !live.structures.holds(cluster) {
                require_room(&*self.storage, self.header.geometry, next)?;
                self.set_count(live, cluster, 1)?;
                live.next_free = next;
                live.end = live.end.max(next);
                return Ok(cluster);
            }
            live.next_free = next;
        }
    }

    /// Whether nothing else refers to a cluster of guest data, so that it may be written in place.
    pub(super) fn is_sole(&self, live: &mut Live, host: ClusterRef) -> Result<bool> {
        // Nothing in an external data file is shared, or counted.
        Ok(self.data_file.is_some() || self.is_sole_table(live, host)?)
    }

    /// Whether nothing else refers to a cluster of the image's own file. The flag is believed only
    /// where there are no snapshots for it to be wrong about.
    pub(super) fn is_sole_table(&self, live: &mut Live, host: ClusterRef) -> Result<bool> {
        if self.header.snapshots.count == 0 && host.copied {
            return Ok(true);
        }
        let cluster = self.header.geometry.host_cluster(host.offset);
        match self.count_of(live, cluster)? {
            Some(1) => Ok(true),
            Some(count) if count > 1 => Ok(false),
            // Somebody refers to it and it is free: the next allocation would hand it out.
            _ => {
                let offset = host.offset.get();
                Err(Problem::ImpossibleCount { offset, count: 0 }.into_error())
            }
        }
    }

    /// The count of a cluster; `None` where no refcount block is.
    pub(super) fn count_of(&self, live: &mut Live, cluster: HostCluster) -> Result<Option<u64>> {
        let Some((at, index)) = self.count_place(live, cluster)? else { return Ok(None) };
        live.counts.load(&*self.storage, at, Rank::Leaf)?;
        let bits = self.header.geometry.refcount_order().bits();
        Ok(live.counts.get(at).map(|bytes| refblock::get(bytes, bits, index)))
    }

    /// Sets the count of a cluster, which has a refcount block.
    pub(super) fn set_count(
        &self,
        live: &mut Live,
        cluster: HostCluster,
        count: u64,
    ) -> Result<()> {
        let Some((at, index)) = self.count_place(live, cluster)? else {
            let offset = self.header.geometry.host_offset(cluster).get();
            return Err(Problem::ImpossibleCount { offset, count: 0 }.into_error());
        };
        let bytes = live.counts.change(&*self.storage, at, Rank::Leaf)?;
        refblock::set(bytes, self.header.geometry.refcount_order().bits(), index, count);
        Ok(())
    }

    /// The byte that a count begins in, and its index among those that begin there.
    fn count_place(&self, live: &Live, cluster: HostCluster) -> Result<Option<(HostOffset, u64)>> {
        let geometry = self.header.geometry;
        let index = usize::try_from(geometry.refblock_index(cluster)).ok();
        let entry = index.and_then(|index| live.refcount_table.get(index)).copied();
        let block = entry.unwrap_or_default().decode(geometry).map_err(FormatError::into_error)?;
        let bits = geometry.refcount_order().bits();
        let bit = geometry.index_in_refblock(cluster).saturating_mul(bits);
        let in_byte = (bit & 7).checked_div(bits).unwrap_or_default();
        Ok(block.map(|block| (block.plus_bytes(bit >> 3), in_byte)))
    }

    /// Adds refcount blocks, so that `cluster` and what comes next can be counted.
    fn grow_counts(&self, live: &mut Live, cluster: HostCluster) -> Result<()> {
        let geometry = self.header.geometry;
        let index = geometry.refblock_index(cluster);
        // An eighth more at a time: each growth writes the table anew and syncs twice.
        let ahead = index / 8;
        let plan = |last: u64| {
            let needed = (index..=last).collect();
            let (table, start) = (&live.refcount_table, live.end);
            let growth = RefcountGrowth::plan(geometry, table, start, ClusterCount::ZERO, &needed)?;
            growth.require_room(&*self.storage)?;
            Ok(growth)
        };
        let growth = plan(index.saturating_add(ahead)).or_else(|_| plan(index))?;
        self.switch_counts(live, &growth)
    }

    /// A cluster loses a reference.
    pub(super) fn give_up(&self, live: &mut Live, host: ClusterRef) {
        if self.data_file.is_none() {
            let cluster = self.header.geometry.host_cluster(host.offset);
            live.quarantine(cluster..cluster + ClusterCount::new(1));
        }
    }

    /// The clusters that compressed data touches lose a reference each.
    pub(super) fn give_up_packed(&self, live: &mut Live, range: CompressedRange) {
        let geometry = self.header.geometry;
        let last = range.offset.plus_bytes(range.len.saturating_sub(1));
        let end = geometry.host_cluster(last) + ClusterCount::new(1);
        live.quarantine(geometry.host_cluster(range.offset)..end);
    }

    /// Lowers the counts of what was given up, once nothing on the medium refers to it. Returns
    /// the runs that nobody uses any more. Where it fails, what is left goes on waiting.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt), at the end, where something had no count to lower.
    pub(super) fn leave_quarantine(&self, live: &mut Live) -> Result<Vec<Range<HostCluster>>> {
        let (mut free, mut uncounted) = (Vec::new(), None);
        let mut waiting = std::mem::take(&mut live.quarantine).into_iter();
        while let Some(run) = waiting.next() {
            for cluster in runs::clusters(run.clone()) {
                match self.lower_count(live, cluster) {
                    Ok(Some(0)) => runs::push(&mut free, cluster..cluster + ClusterCount::new(1)),
                    Ok(Some(_)) => {}
                    Ok(None) => uncounted = uncounted.or(Some(cluster)),
                    Err(error) => {
                        live.quarantine(cluster..run.end);
                        live.quarantine.extend(waiting);
                        return Err(error);
                    }
                }
            }
        }
        match uncounted {
            None => Ok(free),
            Some(cluster) => {
                let offset = self.header.geometry.host_offset(cluster).get();
                Err(Problem::ImpossibleCount { offset, count: 0 }.into_error())
            }
        }
    }

    /// Takes a reference away. Returns how many are left; nothing where there was none.
    fn lower_count(&self, live: &mut Live, cluster: HostCluster) -> Result<Option<u64>> {
        let count = self.count_of(live, cluster)?.unwrap_or_default();
        let Some(left) = count.checked_sub(1) else { return Ok(None) };
        self.set_count(live, cluster, left)?;
        if left == 0 {
            live.freed(cluster, self.header.geometry);
        }
        Ok(Some(left))
    }
}
