//! Compressed data: byte ranges, several in a cluster, that move one by one and lie side by side
//! again.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Mover, Packed, Pass};
use crate::error::Result;
use crate::host::storage::{Storage, read_padded_at};
use crate::qcow2::compress::{Codec, Unpacker};
use crate::qcow2::entry::{COMPRESSED_SECTOR, CompressedRange, L2Entry};
use crate::qcow2::geometry::{ClusterCount, Geometry, HostCluster, HostOffset};
use crate::qcow2::header::Header;
use crate::qcow2::lengths::index;
use crate::qcow2::refcounts::Refcounts;
use crate::qcow2::runs;

/// Where the next range may begin.
#[derive(Debug, Default)]
pub(super) struct Packing {
    /// Where the last range moved to.
    last: Option<CompressedRange>,
    /// Where ranges went that others may refer to as well.
    moved: BTreeMap<(u64, u64), CompressedRange>,
}

/// Finds out how long packed data is.
pub(super) struct Measure {
    unpacker: Unpacker,
    cluster: Vec<u8>,
}

impl Measure {
    pub(super) fn new(header: &Header) -> Measure {
        let len = header.geometry.cluster_len();
        let unpacker = Codec::new(header.compression, len).unpacker();
        Measure { unpacker, cluster: vec![0; len] }
    }

    /// The range without what is not the stream's, if it can be unpacked and says where it ends.
    pub(super) fn exact(
        &mut self,
        storage: &dyn Storage,
        range: CompressedRange,
    ) -> Result<Option<CompressedRange>> {
        self.unpacker.packed.resize(index(range.len), 0);
        read_padded_at(storage, range.offset.get(), &mut self.unpacker.packed)?;
        let len = self.unpacker.unpack(&mut self.cluster).ok().flatten();
        Ok(len.and_then(|len| u64::try_from(len).ok()).map(|len| CompressedRange { len, ..range }))
    }
}

impl Mover<'_> {
    /// Plans that a range moves which reaches behind the mark, or any if all do. So many L1 tables lead
    /// to the entry. Returns the one that leads to its new place; nothing where it stays.
    pub(super) fn relocate_packed(
        &mut self,
        range: CompressedRange,
        times: u64,
    ) -> Result<Option<L2Entry>> {
        let clusters = touched(self.geometry, range);
        let moves = match &self.pass.packed {
            Packed::Moves => clusters.end > self.pass.mark,
            Packed::All => true,
            Packed::WithGaps(held) => held.has_gaps_in(clusters.clone()),
            Packed::Stays => false,
        };
        if !moves {
            return Ok(None);
        }
        let Some((to, is_new)) = self.packed_place(range, times)? else { return Ok(None) };
        let Some(entry) = L2Entry::compressed(to.offset, to.len, self.geometry) else {
            return Ok(None);
        };
        if is_new {
            self.batch.copy_bytes(range.offset, to.offset, to.len);
            self.progress.moved(to.len);
        }
        self.count_more(touched(self.geometry, to), times);
        for cluster in runs::clusters(clusters) {
            self.batch.give_up(cluster, times);
        }
        Ok(Some(entry))
    }

    /// Whether the cluster before `end`, the last in use, would be free if what is packed in it moved:
    /// where some of that finds no room, nothing has to move at all.
    pub(super) fn can_end_before(&mut self, end: HostCluster) -> Result<bool> {
        if !self.has_packed {
            return Ok(true);
        }
        /// A cluster that more refer to, which no program makes, stays.
        const MAX_REFERENCES: usize = 1 << 17;
        let last = HostCluster::new(end.get().saturating_sub(1));
        let mut in_last = Vec::new();
        self.each_packed(|times, range| {
            if touched(self.geometry, range).end > last && in_last.len() <= MAX_REFERENCES {
                in_last.push((times, range));
            }
        })?;
        if in_last.len() > MAX_REFERENCES {
            return Ok(false);
        }
        self.pass = Pass::behind(last);
        let mut all = true;
        for (times, range) in in_last {
            self.task.check()?;
            all = all && self.packed_place(range, times)?.is_some();
        }
        self.pass = Pass::default();
        Ok(all)
    }

    /// Where a range goes: to where it went before, or to free room; whether it is that, which it is to
    /// be copied to.
    fn packed_place(
        &mut self,
        range: CompressedRange,
        times: u64,
    ) -> Result<Option<(CompressedRange, bool)>> {
        /// So many ranges are remembered; they take 16 MiB.
        const MAX_MOVED: usize = 1 << 18;
        let key = (range.offset.get(), range.len);
        if let Some(to) = self.pass.packing.moved.get(&key).copied()
            && self.may_count(touched(self.geometry, to), times)?
        {
            return Ok(Some((to, false)));
        }
        if self.is_shared && self.pass.packing.moved.len() >= MAX_MOVED {
            return Ok(None);
        }
        let exact = self.measure.exact(self.storage, range)?;
        // Longer ones could touch more sectors than an entry can say.
        let exact = exact.filter(|exact| exact.len <= self.geometry.cluster_size());
        let (bytes, align) = match exact {
            Some(exact) => (exact, 1),
            // It touches no more sectors where it lies in them like this.
            None => (range, COMPRESSED_SECTOR),
        };
        let Some(offset) = self.place_packed(bytes, align, times)? else { return Ok(None) };
        let to = CompressedRange { offset, ..bytes };
        let packing = &mut self.pass.packing;
        packing.last = Some(to);
        if self.is_shared {
            packing.moved.insert(key, to);
        }
        Ok(Some((to, true)))
    }

    /// Whether clusters can be referred to so often more.
    pub(super) fn may_count(&mut self, clusters: Range<HostCluster>, times: u64) -> Result<bool> {
        for cluster in runs::clusters(clusters) {
            if self.counts_with(cluster, times)? > self.geometry.refcount_order().max_count() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Clusters are referred to so often more.
    pub(super) fn count_more(&mut self, clusters: Range<HostCluster>, times: u64) {
        runs::clusters(clusters).for_each(|cluster| self.batch.count(cluster, times));
    }

    /// The count of a cluster once it is referred to so often more.
    fn counts_with(&mut self, cluster: HostCluster, times: u64) -> Result<u64> {
        let count = self.count_of(cluster)?.saturating_add(self.batch.counted(cluster));
        Ok(count.saturating_add(times))
    }

    /// Free room for a range, which lies like this in what it is aligned to.
    fn place_packed(
        &mut self,
        range: CompressedRange,
        align: u64,
        times: u64,
    ) -> Result<Option<HostOffset>> {
        let max = self.geometry.refcount_order().max_count();
        if times > max {
            return Ok(None);
        }
        let within = range.offset.get().checked_rem(align).unwrap_or_default();
        if let Some(last) = self.pass.packing.last {
            let end = last.offset.get().saturating_add(last.len);
            let start = HostOffset::new(end.next_multiple_of(align).saturating_add(within));
            let open = last_touched(self.geometry, last);
            if self.geometry.host_cluster(start) == open
                && self.counts_with(open, times)? <= max
                && self.take_behind(open, CompressedRange { offset: start, ..range })?
            {
                return Ok(Some(start));
            }
        }
        loop {
            let counts = &mut Refcounts::new(self.storage, self.geometry, &self.counts);
            let Some(cluster) = self.pass.free.take_next(counts)? else { return Ok(None) };
            let start = self.geometry.host_offset(cluster).plus_bytes(within);
            if self.take_behind(cluster, CompressedRange { offset: start, ..range })? {
                return Ok(Some(start));
            }
            self.pass.free.put_back(cluster);
        }
    }

    /// Takes the clusters behind `open` that a range reaches into which begins there.
    fn take_behind(&mut self, open: HostCluster, range: CompressedRange) -> Result<bool> {
        let behind = open + ClusterCount::new(1)..touched(self.geometry, range).end;
        let counts = &mut Refcounts::new(self.storage, self.geometry, &self.counts);
        self.pass.free.take_these(behind, counts)
    }
}

/// The clusters that a range touches.
pub(super) fn touched(geometry: Geometry, range: CompressedRange) -> Range<HostCluster> {
    let last = last_touched(geometry, range);
    geometry.host_cluster(range.offset)..last + ClusterCount::new(1)
}

fn last_touched(geometry: Geometry, range: CompressedRange) -> HostCluster {
    geometry.host_cluster(range.offset.plus_bytes(range.len.saturating_sub(1)))
}
