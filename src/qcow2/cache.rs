//! Pieces of the image's tables in memory, up to a budget.
//!
//! A piece is a slice of at most 4 KiB: one entry of a table of 2 MiB takes no more memory than
//! that. Changed slices stay until they are written, in the order that `flush` decides.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};

use super::geometry::{ENTRY_SIZE, Geometry, HostOffset};
use super::table::first_word;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, read_exact_at, read_padded_at};

/// The most bytes of a slice.
const SLICE_LEN: u64 = 4096;
/// The fewest slices: a walk down the tables needs two, and threads must not take them from one
/// another all the time.
const MIN_SLICES: u64 = 16;

/// What a slice belongs to: those of the first rank are written before those of the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rank {
    /// An L2 table, or a refcount block.
    Leaf,
    /// The L1 table, which refers to L2 tables.
    Root,
}

#[derive(Debug)]
struct Slot {
    offset: u64,
    bytes: Box<[u8]>,
    /// Its first word, where each is a step above the one before.
    series: Option<u64>,
    /// Changed since it was read, or last written.
    dirty: Option<Rank>,
    /// Looked at since the hand came by.
    used: AtomicBool,
}

/// Spreads the offsets of slices over the map, which is asked twice for every request: the usual
/// hash takes as long as the rest of the way down the tables. An image that was made to have them
/// collide is read slowly; how slowly, the size of the cache bounds.
#[derive(Debug, Default)]
struct OffsetHasher(u64);

impl Hasher for OffsetHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, word: u64) {
        // The upper half of a product depends on all bits; the map looks at the lower one first.
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Words of a slice.
#[derive(Debug, Clone, Copy)]
pub(super) enum Words<'a> {
    /// As they are stored.
    Bytes(&'a [u8]),
    /// Each is that of the next cluster of one run: `first`, and so on upwards.
    Series {
        /// The first of them.
        first: u64,
        /// How many there are.
        count: u64,
    },
}

/// The first of words that are each a step above the one before, up to the bits that are no part of
/// an offset. Tables that were laid out in advance are full of these; whoever asks for one of them
/// need not wait until the memory that it lies in is there, which takes as long as everything else.
fn series(bytes: &[u8], step: u64) -> Option<u64> {
    let first = first_word(bytes)?;
    let mut words = bytes.chunks_exact(8).filter_map(first_word);
    let mut last = first;
    let follows = |word| word == std::mem::replace(&mut last, word).wrapping_add(step);
    words.by_ref().skip(1).all(follows).then_some(first).filter(|first| (first ^ last) >> 56 == 0)
}

/// Slices of tables by their host offset.
#[derive(Debug)]
pub(super) struct SliceCache {
    slice_len: u64,
    /// From the L2 entry of a cluster to that of the next, where their data lies in one run; entries
    /// of two words have none.
    step: Option<u64>,
    capacity: usize,
    slots: Vec<Slot>,
    places: HashMap<u64, usize, BuildHasherDefault<OffsetHasher>>,
    /// Where the search for a slice to give up goes on.
    hand: usize,
    dirty: usize,
}

impl SliceCache {
    /// For an image of this geometry, with so many bytes to spend.
    pub(super) fn new(geometry: Geometry, budget: u64) -> Self {
        let slice_len = geometry.cluster_size().min(SLICE_LEN);
        let capacity = budget.checked_div(slice_len).unwrap_or_default().max(MIN_SLICES);
        SliceCache {
            slice_len,
            step: (!geometry.extended_l2()).then_some(geometry.cluster_size()),
            capacity: usize::try_from(capacity).unwrap_or(usize::MAX),
            slots: Vec::new(),
            places: HashMap::default(),
            hand: 0,
            dirty: 0,
        }
    }

    /// The bytes from `offset` to the end of its slice, if they are in memory.
    pub(super) fn get(&self, offset: HostOffset) -> Option<&[u8]> {
        let (slot, within) = self.slot(offset)?;
        slot.bytes.get(within..)
    }

    /// The words from `offset`, where one begins, to the end of its slice, if they are in memory.
    pub(super) fn words(&self, offset: HostOffset) -> Option<Words<'_>> {
        let (slot, within) = self.slot(offset)?;
        let (Some(first), Some(step)) = (slot.series, self.step) else {
            return slot.bytes.get(within..).map(Words::Bytes);
        };
        let within = u64::try_from(within).unwrap_or_default();
        let before = within / ENTRY_SIZE;
        Some(Words::Series {
            first: first.wrapping_add(before.wrapping_mul(step)),
            count: self.slice_len.saturating_sub(within) / ENTRY_SIZE,
        })
    }

    /// The slice of `offset`, and how far into it that lies.
    fn slot(&self, offset: HostOffset) -> Option<(&Slot, usize)> {
        let (start, within) = self.split(offset);
        let slot = self.slots.get(*self.places.get(&start)?)?;
        // A plain load first: a store by every reader would have the cores fight over the line.
        if !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        Some((slot, within))
    }

    /// Brings the slice of `offset` into memory. An L1 table may end where the file does.
    pub(super) fn load(
        &mut self,
        storage: &dyn Storage,
        offset: HostOffset,
        rank: Rank,
    ) -> Result<()> {
        let (start, _) = self.split(offset);
        if self.places.contains_key(&start) {
            return Ok(());
        }
        let mut bytes = vec![0; usize::try_from(self.slice_len).unwrap_or_default()];
        match rank {
            Rank::Leaf => read_exact_at(storage, start, &mut bytes)?,
            Rank::Root => read_padded_at(storage, start, &mut bytes)?,
        }
        self.put(Slot {
            offset: start,
            series: self.step.and_then(|step| series(&bytes, step)),
            bytes: bytes.into(),
            dirty: None,
            used: AtomicBool::new(true),
        });
        Ok(())
    }

    /// The bytes from `offset` to the end of its slice, to be changed: they are brought into
    /// memory, and written when their rank is.
    pub(super) fn change(
        &mut self,
        storage: &dyn Storage,
        offset: HostOffset,
        rank: Rank,
    ) -> Result<&mut [u8]> {
        self.load(storage, offset, rank)?;
        let (start, within) = self.split(offset);
        let slot = self.places.get(&start).and_then(|place| self.slots.get_mut(*place));
        let lost = || Error::new(ErrorKind::Internal, "a slice that was loaded is not there");
        let slot = slot.ok_or_else(lost)?;
        slot.series = None;
        if slot.dirty.replace(rank).is_none() {
            self.dirty = self.dirty.saturating_add(1);
        }
        slot.bytes.get_mut(within..).ok_or_else(lost)
    }

    /// Whether so much was changed that it should be written, to make room.
    pub(super) fn is_crowded(&self) -> bool {
        self.dirty > self.capacity / 2
    }

    /// Whether anything of this rank was changed.
    pub(super) fn is_dirty(&self, rank: Rank) -> bool {
        self.dirty > 0 && self.slots.iter().any(|slot| slot.dirty == Some(rank))
    }

    /// Writes what was changed of this rank, in the order of the file. Does not sync.
    pub(super) fn write(&mut self, storage: &dyn Storage, rank: Rank) -> Result<()> {
        let changed = self.slots.iter_mut().filter(|slot| slot.dirty == Some(rank));
        let mut changed: Vec<_> = changed.collect();
        changed.sort_unstable_by_key(|slot| slot.offset);
        for slot in changed {
            storage.write_at(slot.offset, &slot.bytes)?;
            slot.dirty = None;
            self.dirty = self.dirty.saturating_sub(1);
        }
        Ok(())
    }

    /// Forgets the slices of a range, changed or not: what lies there is no table any more, or was
    /// changed in the file.
    pub(super) fn forget(&mut self, offset: HostOffset, len: u64) {
        let range = offset.get()..offset.get().saturating_add(len);
        let mut place = 0;
        while let Some(slot) = self.slots.get(place) {
            if range.contains(&slot.offset) {
                self.remove(place);
            } else {
                place = place.saturating_add(1);
            }
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.places.clear();
        self.dirty = 0;
    }

    fn split(&self, offset: HostOffset) -> (u64, usize) {
        let within = offset.get() & self.slice_len.wrapping_sub(1);
        // OK to default: a slice has 4 KiB.
        (offset.get().saturating_sub(within), usize::try_from(within).unwrap_or_default())
    }

    fn put(&mut self, slot: Slot) {
        while self.slots.len() >= self.capacity {
            let Some(victim) = self.victim() else { break };
            self.remove(victim);
        }
        self.places.insert(slot.offset, self.slots.len());
        self.slots.push(slot);
    }

    /// A slice that was not looked at for a while and is as in the file. There is none when all
    /// are changed: then the budget is exceeded by what one operation changes.
    fn victim(&mut self) -> Option<usize> {
        for _ in 0..self.slots.len().saturating_mul(2) {
            let place = self.hand;
            self.hand = place.saturating_add(1);
            let Some(slot) = self.slots.get(place) else {
                self.hand = 0;
                continue;
            };
            if slot.dirty.is_none() && !slot.used.swap(false, Ordering::Relaxed) {
                return Some(place);
            }
        }
        None
    }

    fn remove(&mut self, place: usize) {
        let slot = self.slots.swap_remove(place);
        self.places.remove(&slot.offset);
        self.dirty = self.dirty.saturating_sub(usize::from(slot.dirty.is_some()));
        if let Some(moved) = self.slots.get(place) {
            self.places.insert(moved.offset, place);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::storage::MemoryStorage;
    use crate::qcow2::geometry::{ClusterBits, RefcountOrder};

    fn geometry() -> Geometry {
        Geometry::new(ClusterBits::new(9).unwrap(), RefcountOrder::DEFAULT, false).unwrap()
    }

    proptest! {
        /// Whatever is read, changed, written and forgotten: the cache shows what was put there
        /// last, keeps to its budget unless everything is changed, and loses no change.
        #[test]
        fn it_shows_what_was_put_there(
            steps in prop::collection::vec((0u64..40, 0u8..4, any::<u8>()), 1..160),
        ) {
            let storage = MemoryStorage::new(vec![0; 40 * 512]);
            let mut cache = SliceCache::new(geometry(), 0);
            let mut model = [0u8; 40];
            for (slice, what, value) in steps {
                let offset = HostOffset::new(slice * 512 + 7);
                match what {
                    0 => cache.load(&storage, offset, Rank::Leaf).unwrap(),
                    1 => {
                        let rank = if value % 2 == 0 { Rank::Leaf } else { Rank::Root };
                        cache.change(&storage, offset, rank).unwrap()[0] = value;
                        model[slice as usize] = value;
                    }
                    2 => cache.write(&storage, Rank::Leaf).unwrap(),
                    _ => {
                        cache.write(&storage, Rank::Leaf).unwrap();
                        cache.write(&storage, Rank::Root).unwrap();
                        cache.forget(HostOffset::new(slice * 512), 512);
                        prop_assert!(cache.get(offset).is_none());
                        prop_assert_eq!(cache.dirty, 0);
                    }
                }
                prop_assert!(cache.slots.len() <= 16.max(cache.dirty + 1));
                for (slice, value) in (0u64..).zip(model) {
                    let offset = HostOffset::new(slice * 512 + 7);
                    cache.load(&storage, offset, Rank::Leaf).unwrap();
                    prop_assert_eq!(cache.get(offset).unwrap()[0], value);
                }
            }
        }
    }

    proptest! {
        /// Words that are told as a series are those that are stored, from wherever one asks, and
        /// a change ends it.
        #[test]
        fn a_series_is_what_is_stored(
            first in prop_oneof![Just(1u64 << 63 | 0x1_0000), Just((1 << 56) - 512), any::<u64>()],
            other in prop::option::of((0usize..64, any::<u64>())),
            at in 0u64..64,
        ) {
            let mut words: Vec<u64> = (0..64).map(|index| first.wrapping_add(index * 512)).collect();
            if let Some((place, word)) = other {
                words[place] = word;
            }
            let storage = MemoryStorage::new(words.iter().flat_map(|w| w.to_be_bytes()).collect());
            let mut cache = SliceCache::new(geometry(), 0);
            cache.load(&storage, HostOffset::ZERO, Rank::Leaf).unwrap();
            let at = HostOffset::new(at * 8);
            let whole = words.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(512))
                && words[0] >> 56 == words[63] >> 56;
            match cache.words(at).unwrap() {
                Words::Bytes(bytes) => {
                    prop_assert!(!whole);
                    prop_assert_eq!(bytes, cache.get(at).unwrap());
                }
                Words::Series { first, count } => {
                    prop_assert!(whole);
                    let told: Vec<_> = (0..count).map(|index| first + index * 512).collect();
                    prop_assert_eq!(told, &words[at.get() as usize / 8..]);
                }
            }
            cache.change(&storage, at, Rank::Leaf).unwrap()[0] = 1;
            let changed = cache.words(at).unwrap();
            prop_assert!(matches!(changed, Words::Bytes([1, ..])), "{:?}", changed);
        }
    }

    /// After more was changed than the budget holds, it is kept to again.
    #[test]
    fn a_burst_of_changes_is_given_back() {
        let storage = MemoryStorage::new(vec![0; 400 * 512]);
        let mut cache = SliceCache::new(geometry(), 0);
        for slice in 0..300 {
            cache.change(&storage, HostOffset::new(slice * 512), Rank::Leaf).unwrap()[0] = 1;
        }
        cache.write(&storage, Rank::Leaf).unwrap();
        cache.load(&storage, HostOffset::new(399 * 512), Rank::Leaf).unwrap();
        assert_eq!(cache.slots.len(), 16);
    }
}
