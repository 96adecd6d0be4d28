//! Compressed data with gaps in it, because parts were given up: all of it moves side by side, where
//! the file becomes shorter by that.

use std::ops::Range;

use super::packed::touched;
use super::room::{self, FreeClusters};
use super::{Mover, Packed, Pass};
use crate::error::Result;
use crate::qcow2::entry::{COMPRESSED_SECTOR, CompressedRange, RefcountTableEntry};
use crate::qcow2::geometry::{ClusterCount, Geometry, HostCluster};
use crate::qcow2::lengths::index;
use crate::qcow2::runs;

/// It is done to become shorter by this part of the file.
const LEAST_GAIN: u64 = 32;

/// A cluster has gaps where this part of it is missing.
const LEAST_GAP: u64 = 16;

/// Which parts of a file hold compressed data.
#[derive(Debug)]
pub(super) struct Held {
    geometry: Geometry,
    /// A part has so many bytes, as a power of two.
    part_bits: u32,
    /// A bit a part.
    parts: Vec<u64>,
}

impl Held {
    /// For a file of so many clusters; nothing where what would be known of it is too little.
    fn new(geometry: Geometry, end: HostCluster) -> Option<Held> {
        /// They take 32 MiB.
        const MAX_PARTS: u64 = 1 << 28;
        let cluster_bits = geometry.cluster_bits().get();
        let sector = COMPRESSED_SECTOR.trailing_zeros();
        let parts = |bits: u32| end.get().saturating_mul(1 << cluster_bits.saturating_sub(bits));
        let part_bits = (sector..cluster_bits).find(|bits| parts(*bits) <= MAX_PARTS)?;
        let parts = vec![0; index(parts(part_bits).div_ceil(64))];
        Some(Held { geometry, part_bits, parts })
    }

    fn hold(&mut self, range: CompressedRange) {
        let start = range.offset.get();
        let end = start.saturating_add(range.len.max(1)).saturating_sub(1) >> self.part_bits;
        for (word, mask) in masks(start >> self.part_bits..end.saturating_add(1)) {
            if let Some(word) = self.parts.get_mut(word) {
                *word |= mask;
            }
        }
    }

    /// How many bytes of a cluster hold something.
    fn bytes_in(&self, cluster: HostCluster) -> u64 {
        let bits = self.geometry.cluster_bits().get().saturating_sub(self.part_bits);
        let (start, all) = (cluster.get() << bits, 1u64 << bits);
        let held = masks(start..start.saturating_add(all)).map(|(word, mask)| {
            u64::from((self.parts.get(word).copied().unwrap_or_default() & mask).count_ones())
        });
        held.fold(0u64, u64::saturating_add) << self.part_bits
    }

    /// Whether one of these clusters has gaps beside what it holds.
    pub(super) fn has_gaps_in(&self, clusters: Range<HostCluster>) -> bool {
        let size = self.geometry.cluster_size();
        runs::clusters(clusters)
            .map(|cluster| self.bytes_in(cluster))
            .any(|bytes| bytes > 0 && size.saturating_sub(bytes).saturating_mul(LEAST_GAP) >= size)
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

/// What compressed data takes.
struct Taken {
    held: Held,
    /// Clusters that hold some.
    clusters: u64,
    /// How many of those have gaps.
    with_gaps: u64,
    /// How many it would be side by side.
    at_best: u64,
    /// Its bytes, in whole sectors.
    bytes: u64,
}

impl Mover<'_> {
    /// Moves compressed data side by side, if that is worth it: away from the front, which what takes
    /// whole clusters fills then, and back behind that. In holes between others, one cluster long, it
    /// would leave gaps again.
    pub(super) fn close_gaps(&mut self) -> Result<()> {
        let end = self.end_of_use()?;
        let Some(taken) = self.taken(end)? else { return Ok(()) };
        let gain = taken.clusters.saturating_sub(taken.at_best);
        if gain < (end.get() / LEAST_GAIN).max(1) {
            return Ok(());
        }
        let mut room = self.room_behind(end, taken.clusters)?;
        let packed = if room.clusters >= taken.clusters {
            self.add_counts(&room.uncounted)?;
            Packed::All
        } else {
            // As much as there is room for, and the next time other gaps.
            room = self.room_behind(end, 0)?;
            if room.clusters < taken.with_gaps {
                return Ok(());
            }
            Packed::WithGaps(taken.held)
        };
        log::info!("compressed data has gaps: of {} clusters, {gain} can be had", taken.clusters);
        self.progress.expect(taken.bytes.saturating_mul(2));
        let free = FreeClusters::in_rows(room.rows, self.geometry);
        // Nothing else lies behind this mark.
        let mark = HostCluster::new(u64::MAX);
        self.pass = Pass { mark, free, packed, ..Pass::default() };
        self.move_data()?;
        let moved_end = self.end_of_use()?;
        let Some(taken) = self.taken(moved_end)? else { return Ok(()) };
        let used = self.stored_counts().used(moved_end, u64::MAX)?.unwrap_or_default();
        let whole = HostCluster::new(used.saturating_sub(taken.clusters));
        self.move_all(Pass { packed: Packed::Stays, ..Pass::behind(whole) })?;
        self.move_behind(room::mark(&mut self.stored_counts())?)
    }

    /// What compressed data takes in a file that ends there, if there is any and that can be known.
    fn taken(&self, end: HostCluster) -> Result<Option<Taken>> {
        let held = if self.has_packed { Held::new(self.geometry, end) } else { None };
        let Some(mut held) = held else { return Ok(None) };
        let mut references = 0u64;
        self.each_packed(|_, range| {
            held.hold(range);
            let clusters = touched(self.geometry, range);
            references = references.saturating_add((clusters.end - clusters.start).get());
        })?;
        let each = runs::clusters(HostCluster::ZERO..end).map(|cluster| held.bytes_in(cluster));
        let (clusters, bytes) = each.filter(|bytes| *bytes > 0).fold((0u64, 0u64), |sum, bytes| {
            (sum.0.saturating_add(1), sum.1.saturating_add(bytes))
        });
        let with_gaps = runs::clusters(HostCluster::ZERO..end)
            .filter(|cluster| held.has_gaps_in(*cluster..*cluster + ClusterCount::new(1)));
        let with_gaps = u64::try_from(with_gaps.count()).unwrap_or(u64::MAX);
        // Where counts are narrow, a cluster holds few; most may reach into two.
        let few = self.geometry.refcount_order().max_count().saturating_sub(1).max(1);
        let at_best = self.geometry.clusters_for(bytes).get().max(references.div_ceil(few));
        Ok(Some(Taken { held, clusters, with_gaps, at_best, bytes }))
    }

    /// What is free behind all that is used, for at least so many clusters, as far as the refcount table
    /// goes; for none, what is counted already.
    fn room_behind(&self, end: HostCluster, wanted: u64) -> Result<Room> {
        let limit = match self.storage.can_grow() {
            true => HostCluster::new(u64::MAX),
            false => HostCluster::new(self.storage.len()? >> self.geometry.cluster_bits().get()),
        };
        let mut room = Room::default();
        let first = self.geometry.refblock_index(end);
        for (block, entry) in (first..).zip(self.counts.get(index(first)..).unwrap_or_default()) {
            let is_counted = *entry != RefcountTableEntry::EMPTY;
            if !is_counted && room.clusters >= wanted {
                break;
            }
            let mut start = self.geometry.first_cluster_of_refblock(block).max(end);
            let stop = self.geometry.first_cluster_of_refblock(block.saturating_add(1)).min(limit);
            if !is_counted && start < stop {
                room.uncounted.push(block);
                // Where that will be.
                start = start + ClusterCount::new(1);
            }
            if start >= stop {
                break;
            }
            room.clusters = room.clusters.saturating_add((stop - start).get());
            room.rows.push(start..stop);
        }
        Ok(room)
    }
}

/// Free clusters behind all that is used.
#[derive(Debug, Default)]
struct Room {
    rows: Vec<Range<HostCluster>>,
    clusters: u64,
    /// The refcount blocks that are missing for some of them.
    uncounted: Vec<u64>,
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
        /// Held is what is in a sector that a range touches.
        #[test]
        fn sectors_are_held_that_a_range_touches(
            bits in 9u32..16,
            ranges in proptest::collection::vec((0u64..1 << 19, 1u64..40_000), 0..40),
        ) {
            let (end, size) = (HostCluster::new((1 << 20) >> bits), 1u64 << bits);
            let Some(mut known) = Held::new(geometry(bits), end) else {
                prop_assert_eq!(bits, 9);
                return Ok(());
            };
            let mut held = vec![false; 1 << 20];
            for (offset, len) in ranges {
                known.hold(CompressedRange { offset: HostOffset::new(offset), len });
                held[offset as usize / 512 * 512..(offset + len).div_ceil(512) as usize * 512].fill(true);
            }
            for (cluster, bytes) in (0u64..).zip(held.chunks(size as usize)) {
                let count = bytes.iter().filter(|&&held| held).count() as u64;
                let (first, next) = (HostCluster::new(cluster), HostCluster::new(cluster + 1));
                prop_assert_eq!(known.bytes_in(first), count);
                let gaps = count > 0 && size - count >= size / LEAST_GAP;
                prop_assert_eq!(known.has_gaps_in(first..next), gaps);
            }
        }
    }

    /// Of a large file, less is known than of a small one, and it takes no more memory.
    #[test]
    fn memory_is_bounded() {
        for tib in [1u64, 8, 256] {
            let held = Held::new(geometry(16), HostCluster::new(tib << 24));
            assert!(held.is_none_or(|held| held.parts.len() <= 4 << 20), "{tib} TiB");
        }
        let mut held = Held::new(geometry(16), HostCluster::new(1 << 24)).unwrap();
        held.hold(CompressedRange { offset: HostOffset::new(0x1_2345), len: 1 });
        assert_eq!(held.bytes_in(HostCluster::new(1)), 4096);
        assert_eq!(held.bytes_in(HostCluster::new(2)), 0);
    }
}
