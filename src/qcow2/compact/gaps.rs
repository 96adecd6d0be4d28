//! Clusters of compressed data of which parts are not needed any more: what is left in them moves out,
//! side by side, where that takes fewer clusters.

use std::ops::Range;

use super::packed::{SECTOR, touched};
use super::room::{FreeClusters, first_run};
use super::{Mover, Pass};
use crate::error::Result;
use crate::qcow2::entry::CompressedRange;
use crate::qcow2::geometry::{ClusterCount, Geometry, HostCluster};
use crate::qcow2::lengths::index;
use crate::qcow2::runs;

/// So many times it is tried again: what moved out of some clusters leaves gaps in their neighbours.
const ROUNDS: u32 = 8;
/// It is done to become shorter by this part of the file.
const LEAST_GAIN: u64 = 32;
/// A cluster is given up for gaps that are this part of it.
const LEAST_GAP: u64 = 16;

/// Which parts of a file hold compressed data.
#[derive(Debug)]
pub(super) struct Gaps {
    geometry: Geometry,
    /// A part has so many bytes, as a power of two.
    part_bits: u32,
    /// A bit a part.
    held: Vec<u64>,
}

impl Gaps {
    /// For a file of so many clusters; nothing where what would be known of it is too little.
    fn new(geometry: Geometry, end: HostCluster) -> Option<Gaps> {
        /// They take 32 MiB.
        const MAX_PARTS: u64 = 1 << 28;
        let cluster_bits = geometry.cluster_bits().get();
        let sector = SECTOR.trailing_zeros();
        let parts = |bits: u32| end.get().saturating_mul(1 << cluster_bits.saturating_sub(bits));
        let part_bits = (sector..cluster_bits).find(|bits| parts(*bits) <= MAX_PARTS)?;
        let held = vec![0; index(parts(part_bits).div_ceil(64))];
        Some(Gaps { geometry, part_bits, held })
    }

    fn hold(&mut self, range: CompressedRange) {
        let start = range.offset.get();
        let end = start.saturating_add(range.len.max(1)).saturating_sub(1) >> self.part_bits;
        for (word, mask) in masks(start >> self.part_bits..end.saturating_add(1)) {
            if let Some(word) = self.held.get_mut(word) {
                *word |= mask;
            }
        }
    }

    /// How many parts of a cluster hold something, where it has gaps beside that.
    fn held_beside_gaps(&self, cluster: HostCluster) -> Option<u64> {
        let bits = self.geometry.cluster_bits().get().saturating_sub(self.part_bits);
        let (start, all) = (cluster.get() << bits, 1u64 << bits);
        let held = masks(start..start.saturating_add(all)).map(|(word, mask)| {
            u64::from((self.held.get(word).copied().unwrap_or_default() & mask).count_ones())
        });
        let held = held.fold(0u64, u64::saturating_add);
        let gaps = all.saturating_sub(held).saturating_mul(LEAST_GAP);
        (held > 0 && gaps >= all).then_some(held)
    }

    /// Whether one of these clusters has some.
    pub(super) fn are_in(&self, clusters: Range<HostCluster>) -> bool {
        runs::clusters(clusters).any(|cluster| self.held_beside_gaps(cluster).is_some())
    }
}

/// The words that have these bits, and which of each.
fn masks(bits: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let below = |bit: u64, first: u64| {
        let bits = u32::try_from(bit.saturating_sub(first).min(64)).unwrap_or(64);
        u64::MAX.checked_shr(64_u32.saturating_sub(bits)).unwrap_or(0)
    };
    (bits.start / 64..bits.end.div_ceil(64)).map(move |word| {
        let first = word.saturating_mul(64);
        (index(word), below(bits.end, first) & !below(bits.start, first))
    })
}

/// What moves out of clusters with gaps.
#[derive(Debug, Default)]
struct Rest {
    /// Its length, where all of it lies in a row.
    bytes: u64,
    /// So many clusters it takes where no range reaches from one to the next.
    clusters: u64,
    /// How much of the last of those is taken.
    filled: u64,
    last: Option<CompressedRange>,
}

impl Rest {
    fn add(&mut self, range: CompressedRange, cluster_size: u64) {
        let end = |range: CompressedRange| range.offset.get().saturating_add(range.len);
        let common = self.last.and_then(|last| end(last).checked_sub(range.offset.get()));
        let is_beside = common.is_some_and(|common| common < SECTOR);
        let sectors =
            range.len.div_ceil(SECTOR).saturating_sub(u64::from(is_beside && common != Some(0)));
        let bytes = sectors.saturating_mul(SECTOR);
        self.bytes = self.bytes.saturating_add(bytes);
        self.filled = self.filled.saturating_add(bytes);
        if self.clusters == 0 || self.filled > cluster_size {
            self.clusters = self.clusters.saturating_add(1);
            self.filled = range.len.div_ceil(SECTOR).saturating_mul(SECTOR);
        }
        self.last = Some(range);
    }
}

impl Mover<'_> {
    /// Moves compressed data out of clusters with gaps, as long as that is worth it.
    pub(super) fn close_gaps(&mut self) -> Result<()> {
        for _ in 0..ROUNDS {
            let Some(pass) = self.worth_closing()? else { return Ok(()) };
            self.pass = pass;
            let moved = self.progress.moved_bytes;
            self.move_data()?;
            self.pass = Pass::default();
            if self.progress.moved_bytes == moved {
                break;
            }
        }
        Ok(())
    }

    /// The pass that closes gaps, if the file becomes shorter by it.
    fn worth_closing(&mut self) -> Result<Option<Pass>> {
        let end = self.end_of_use()?;
        let gaps = if self.has_packed { Gaps::new(self.geometry, end) } else { None };
        let Some(mut gaps) = gaps else { return Ok(None) };
        self.each_packed(|_, range| gaps.hold(range))?;
        let parts = runs::clusters(HostCluster::ZERO..end)
            .filter_map(|cluster| gaps.held_beside_gaps(cluster));
        let (given_up, parts) = parts.fold((0u64, 0u64), |(clusters, sum), parts| {
            (clusters.saturating_add(1), sum.saturating_add(parts))
        });
        let least_gain = (end.get() / LEAST_GAIN).max(1);
        let at_best = self.geometry.clusters_for(parts << gaps.part_bits).get();
        if given_up.saturating_sub(at_best) < least_gain {
            return Ok(None);
        }
        let mut rest = Rest::default();
        self.each_packed(|_, range| {
            let (first, clusters) = touched(self.geometry, range);
            if gaps.are_in(first..first + clusters) {
                rest.add(range, self.geometry.cluster_size());
            }
        })?;
        let in_a_row = self.geometry.clusters_for(rest.bytes) + ClusterCount::new(1);
        let row = first_run(&mut self.stored_counts(), in_a_row, end)?;
        let taken = if row.is_some() { in_a_row.get() } else { rest.clusters };
        eprintln!(
            "{given_up} clusters of {end} have gaps; what is in them takes {taken}, row {row:?}"
        );
        log::debug!("{given_up} clusters have gaps; what is in them takes {taken}");
        if given_up.saturating_sub(taken) < least_gain {
            return Ok(None);
        }
        self.progress.expect(rest.bytes);
        let free = match row {
            Some(start) => FreeClusters::in_row(start..start + in_a_row, self.geometry),
            None => FreeClusters::before(self.end_of_room(end)?),
        };
        // What has no gaps stays.
        let mark = HostCluster::new(u64::MAX);
        Ok(Some(Pass { mark, free, gaps: Some(gaps), ..Pass::default() }))
    }

    /// Where the room ends that may be taken without any before the end of use: a little of what is
    /// behind that, for what becomes free goes back to the host as fast.
    fn end_of_room(&self, end: HostCluster) -> Result<HostCluster> {
        let end = end + ClusterCount::new((end.get() / LEAST_GAIN).max(8));
        let end = end.min(self.counted_end());
        if self.storage.can_grow() {
            return Ok(end);
        }
        let inside = self.storage.len()? >> self.geometry.cluster_bits().get();
        Ok(end.min(HostCluster::new(inside)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::qcow2::geometry::{ClusterBits, HostOffset, RefcountOrder};

    fn geometry(bits: u32) -> Geometry {
        Geometry::new(ClusterBits::new(bits).unwrap(), RefcountOrder::DEFAULT, false).unwrap()
    }

    proptest! {
        /// A cluster has gaps where some sectors of it are in a range, and a sixteenth is in none.
        #[test]
        fn gaps_are_what_no_range_touches(
            bits in 9u32..16,
            ranges in proptest::collection::vec((0u64..1 << 19, 1u64..40_000), 0..40),
        ) {
            let (end, size) = (HostCluster::new((1 << 20) >> bits), 1u64 << bits);
            let Some(mut gaps) = Gaps::new(geometry(bits), end) else {
                prop_assert_eq!(bits, 9);
                return Ok(());
            };
            let mut held = vec![false; 1 << 20];
            for (offset, len) in ranges {
                gaps.hold(CompressedRange { offset: HostOffset::new(offset), len });
                held[offset as usize / 512 * 512..(offset + len).div_ceil(512) as usize * 512].fill(true);
            }
            for (cluster, bytes) in (0u64..).zip(held.chunks(size as usize)) {
                let count = bytes.iter().filter(|&&held| held).count() as u64;
                let expected = (count > 0 && (size - count) * LEAST_GAP >= size).then_some(count / 512);
                prop_assert_eq!(gaps.held_beside_gaps(HostCluster::new(cluster)), expected);
            }
        }
    }

    /// Of a large file, less is known than of a small one, and it takes no more memory.
    #[test]
    fn memory_is_bounded() {
        for tib in [1u64, 8, 256] {
            let gaps = Gaps::new(geometry(16), HostCluster::new(tib << 24));
            assert!(gaps.is_none_or(|gaps| gaps.held.len() <= 4 << 20), "{tib} TiB");
        }
        let mut gaps = Gaps::new(geometry(16), HostCluster::new(1 << 24)).unwrap();
        gaps.hold(CompressedRange { offset: HostOffset::new(0x1_2345), len: 1 });
        assert_eq!(gaps.held_beside_gaps(HostCluster::new(1)), Some(1));
        assert_eq!(gaps.held_beside_gaps(HostCluster::new(2)), None);
    }
}
