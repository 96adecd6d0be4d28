//! Compressed data: byte ranges, several in a cluster, that move one by one and lie side by side
//! again.

use super::Mover;
use crate::error::Result;
use crate::qcow2::entry::{CompressedRange, L2Entry};
use crate::qcow2::geometry::{ClusterCount, HostCluster, HostOffset};
use crate::qcow2::refcounts::Refcounts;

/// Ranges say how many sectors of this many bytes they touch.
const SECTOR: u64 = 512;

/// Where the next range may begin.
#[derive(Debug, Default)]
pub(super) struct Packing {
    /// Behind the last range that moved.
    end: Option<HostOffset>,
    /// How often the cluster there is referred to.
    count: u64,
}

impl Mover<'_> {
    /// Plans that a range which reaches behind the mark moves. `table` is where the L2 table is that
    /// leads to it. Returns the entry that leads to its new place; nothing where it stays.
    pub(super) fn relocate_packed(
        &mut self,
        range: CompressedRange,
        table: HostOffset,
    ) -> Result<Option<L2Entry>> {
        let (first, clusters) = self.touched(range.offset, range.len);
        if first + clusters <= self.mark {
            return Ok(None);
        }
        // As often as there are L1 tables that lead to the entry.
        let times = self.count_of(self.geometry.host_cluster(table))?;
        let Some(to) = self.place_packed(range, times)? else { return Ok(None) };
        let Some(entry) = L2Entry::compressed(to, range.len, self.geometry) else {
            return Ok(None);
        };
        self.batch.copy_bytes(range.offset, to, range.len);
        let (new, new_clusters) = self.touched(to, range.len);
        for n in 0..new_clusters.get() {
            self.batch.count(new + ClusterCount::new(n), times);
        }
        for n in 0..clusters.get() {
            self.batch.give_up(first + ClusterCount::new(n), times);
        }
        let end = to.plus_bytes(range.len);
        let goes_on = new_clusters == ClusterCount::new(1) && self.packing.end.is_some();
        self.packing.count = if goes_on { self.packing.count.saturating_add(times) } else { times };
        self.packing.end = (!self.geometry.is_aligned(end)).then_some(end);
        self.moved_bytes = self.moved_bytes.saturating_add(range.len);
        Ok(Some(entry))
    }

    /// Free room for a range, at the same place within a sector, so that it touches no more of them.
    fn place_packed(&mut self, range: CompressedRange, times: u64) -> Result<Option<HostOffset>> {
        let within = range.offset.get() % SECTOR;
        let max = self.geometry.refcount_order().max_count();
        if times > max {
            return Ok(None);
        }
        if let Some(end) =
            self.packing.end.filter(|_| self.packing.count.saturating_add(times) <= max)
        {
            let start = behind(end, within);
            let open = self.geometry.host_cluster(end);
            if self.geometry.host_cluster(start) == open
                && self.take_behind(open, start, range.len)?
            {
                return Ok(Some(start));
            }
        }
        self.packing.end = None;
        loop {
            let counts = &mut Refcounts::new(self.storage, self.geometry, &self.counts);
            let Some(cluster) = self.free.take_next(counts)? else { return Ok(None) };
            let start = self.geometry.host_offset(cluster).plus_bytes(within);
            if self.take_behind(cluster, start, range.len)? {
                return Ok(Some(start));
            }
            self.free.put_back(cluster);
        }
    }

    /// Takes the clusters behind `open` that a range from `start` on reaches into.
    fn take_behind(&mut self, open: HostCluster, start: HostOffset, len: u64) -> Result<bool> {
        let (_, clusters) = self.touched(start, len);
        let first = open + ClusterCount::new(1);
        let counts = &mut Refcounts::new(self.storage, self.geometry, &self.counts);
        self.free.take_these(first..open + clusters, counts)
    }
}

/// The first place from `end` on that lies like this within its sector.
fn behind(end: HostOffset, within: u64) -> HostOffset {
    let over = end.get() % SECTOR;
    let ahead = within.saturating_add(SECTOR).saturating_sub(over) % SECTOR;
    end.plus_bytes(ahead)
}
