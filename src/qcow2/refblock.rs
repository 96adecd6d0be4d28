//! A refcount block: the reference counts of a run of host clusters, of any width from 1 to 64
//! bits, big-endian, the least significant bits of a byte first where several share it.

use std::ops::Range;

use super::geometry::Geometry;
use super::lengths::index;
use crate::block::is_zero;

/// One cluster full of reference counts, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RefcountBlock {
    bytes: Vec<u8>,
    bits: u64,
}

impl RefcountBlock {
    /// A block in which every count is zero.
    pub(super) fn zeroed(geometry: Geometry) -> Self {
        Self::from_bytes(vec![0; geometry.cluster_len()], geometry)
    }

    /// A block as read from the image; must be one cluster long.
    pub(super) fn from_bytes(bytes: Vec<u8>, geometry: Geometry) -> Self {
        RefcountBlock { bytes, bits: geometry.refcount_order().bits() }
    }

    /// The block as stored.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The count at `index`; zero beyond the block.
    pub(super) fn get(&self, index: u64) -> u64 {
        get(&self.bytes, self.bits, index)
    }

    /// Sets the count at `index`, which must fit the width; does nothing beyond the block.
    pub(super) fn set(&mut self, index: u64, count: u64) {
        set(&mut self.bytes, self.bits, index, count);
    }

    /// Sets the counts from `first` up to but not including `end` to one.
    pub(super) fn fill_ones(&mut self, first: u64, end: u64) {
        let mut index = first;
        // Counts that share bytes with others, one by one; whole bytes at once.
        while index < end && (self.bits < 8 && !index.is_multiple_of(8)) {
            self.set(index, 1);
            index = index.saturating_add(1);
        }
        let whole = if self.bits < 8 { end & !7 } else { end };
        if index < whole {
            self.fill_ones_bytewise(index, whole);
            index = whole;
        }
        while index < end {
            self.set(index, 1);
            index = index.saturating_add(1);
        }
    }

    fn fill_ones_bytewise(&mut self, first: u64, end: u64) {
        let (Some((start, _)), bits) = (position(&self.bytes, self.bits, first), self.bits) else {
            return;
        };
        let len = end.saturating_sub(first).saturating_mul(bits) >> 3;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let stop = start.saturating_add(len).min(self.bytes.len());
        let Some(range) = self.bytes.get_mut(start..stop) else { return };
        match bits {
            1 => range.fill(0xff),
            2 => range.fill(0x55),
            4 => range.fill(0x11),
            8 => range.fill(1),
            _ => {
                range.fill(0);
                let width = usize::try_from(bits >> 3).unwrap_or(8);
                for count in range.chunks_exact_mut(width) {
                    if let Some(last) = count.last_mut() {
                        *last = 1;
                    }
                }
            }
        }
    }

    /// Whether all these counts are one.
    pub(super) fn are_ones(&self, places: Range<u64>) -> bool {
        let width = usize::try_from(self.bits >> 3).unwrap_or_default();
        let bytes = |place: u64| usize::try_from(place.saturating_mul(self.bits) >> 3).ok();
        let stored = bytes(places.start).zip(bytes(places.end));
        let stored = stored.and_then(|(start, end)| self.bytes.get(start..end));
        match (width, stored) {
            // By far the most common, and compared many at a time.
            (2, Some(counts)) => {
                counts.chunks_exact(2).fold(true, |all, count| all & (count == [0, 1]))
            }
            (1.., Some(counts)) => counts.chunks_exact(width).all(|count| {
                count
                    .split_last()
                    .is_some_and(|(low, high)| *low == 1 && high.iter().all(|&byte| byte == 0))
            }),
            _ => places.into_iter().all(|place| self.get(place) == 1),
        }
    }

    /// Whether none of these counts is one.
    pub(super) fn has_no_one(&self, mut places: Range<u64>) -> bool {
        if self.bits == 16 {
            let (counts, _) = self.bytes.as_chunks::<2>();
            let range = index(places.start)..index(places.end);
            let counts = counts.get(range).unwrap_or_default();
            return counts.iter().fold(true, |none, count| none & (*count != [0, 1]));
        }
        places.all(|place| self.get(place) != 1)
    }

    /// The places of the counts that differ from those of a block of the same kind, ascending, and
    /// now and then one beside them that does not.
    pub(super) fn differences(&self, other: &RefcountBlock) -> impl Iterator<Item = u64> {
        let in_a_word = (8u64 << 3).checked_div(self.bits).unwrap_or_default();
        let words = self.bytes.chunks(8).zip(other.bytes.chunks(8));
        let differing = (0u64..).zip(words).filter(|(_, (ours, others))| ours != others);
        differing.flat_map(move |(word, _)| {
            let first = word.saturating_mul(in_a_word);
            first..first.saturating_add(in_a_word)
        })
    }

    /// The place of the last count that is not zero.
    pub(super) fn last_used(&self) -> Option<u64> {
        if self.is_zero() {
            return None;
        }
        let byte = self.bytes.iter().rposition(|&byte| byte != 0)?;
        let bit = u64::try_from(byte).ok()?.saturating_mul(8);
        // Where several counts share the byte, the last of them may be zero.
        let (first, last) =
            (bit.checked_div(self.bits)?, bit.saturating_add(7).checked_div(self.bits)?);
        (first..=last).rev().find(|&index| self.get(index) != 0)
    }

    /// Adds the counts of one block of the same kind and takes away those of another, each in its
    /// place. Fails with the first place where what comes of that is no count of this width.
    pub(super) fn shift(&mut self, more: &RefcountBlock, less: &RefcountBlock) -> Result<(), u64> {
        if self.bits == 16 {
            return self.shift_words(more, less);
        }
        let max =
            u64::MAX.checked_shr(64u32.saturating_sub(u32::try_from(self.bits).unwrap_or(64)));
        let max = u128::from(max.unwrap_or(u64::MAX));
        for place in 0..len(&self.bytes, self.bits) {
            let (more, less) = (u128::from(more.get(place)), u128::from(less.get(place)));
            if more == 0 && less == 0 {
                continue;
            }
            let sum = u128::from(self.get(place)).saturating_add(more).checked_sub(less);
            let sum = sum.filter(|sum| *sum <= max).and_then(|sum| u64::try_from(sum).ok());
            self.set(place, sum.ok_or(place)?);
        }
        Ok(())
    }

    /// The same of the width that by far the most images have.
    fn shift_words(&mut self, more: &RefcountBlock, less: &RefcountBlock) -> Result<(), u64> {
        let word = |bytes: &[u8; 2]| u32::from(u16::from_be_bytes(*bytes));
        let (counts, _) = self.bytes.as_chunks_mut::<2>();
        let ((more, _), (less, _)) = (more.bytes.as_chunks::<2>(), less.bytes.as_chunks::<2>());
        for (place, (count, (more, less))) in
            (0u64..).zip(counts.iter_mut().zip(more.iter().zip(less)))
        {
            let sum = word(count).saturating_add(word(more)).checked_sub(word(less));
            let sum = sum.and_then(|sum| u16::try_from(sum).ok()).ok_or(place)?;
            *count = sum.to_be_bytes();
        }
        Ok(())
    }

    /// The runs of places that are counted here and not in `other`, a block of the same kind.
    pub(super) fn lost_in(&self, other: &RefcountBlock) -> Vec<Range<u64>> {
        let mut lost: Vec<Range<u64>> = Vec::new();
        if self.bits == 16 {
            let ((ours, _), (others, _)) =
                (self.bytes.as_chunks::<2>(), other.bytes.as_chunks::<2>());
            let gone = |(ours, other): (&[u8; 2], &[u8; 2])| *ours != [0, 0] && *other == [0, 0];
            if !ours.iter().zip(others).fold(false, |any, pair| any | gone(pair)) {
                return lost;
            }
        }
        for place in self.differences(other) {
            if self.get(place) == 0 || other.get(place) != 0 {
                continue;
            }
            match lost.last_mut() {
                Some(last) if last.end == place => last.end = place.saturating_add(1),
                _ => lost.push(place..place.saturating_add(1)),
            }
        }
        lost
    }

    /// How many counts are not zero, and the same in `other`, a block of the same kind.
    pub(super) fn alike(&self, other: &RefcountBlock) -> u64 {
        let places = 0..len(&self.bytes, self.bits);
        let alike = places.filter(|&at| self.get(at) != 0 && self.get(at) == other.get(at));
        u64::try_from(alike.count()).unwrap_or(u64::MAX)
    }

    /// The runs of places before `end` whose counts are zero.
    pub(super) fn free_runs(&self, end: u64) -> impl Iterator<Item = Range<u64>> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = first_free(&self.bytes, self.bits, next).filter(|&start| start < end)?;
            let used = (start..end).find(|&place| self.get(place) != 0);
            next = used.unwrap_or(end);
            Some(start..next)
        })
    }

    /// Whether every count is zero.
    pub(super) fn is_zero(&self) -> bool {
        is_zero(&self.bytes)
    }
}

/// The count at `index` of a run of counts of `bits` bits each; zero beyond them.
pub(super) fn get(counts: &[u8], bits: u64, index: u64) -> u64 {
    let Some((byte, shift)) = position(counts, bits, index) else { return 0 };
    if bits < 8 {
        let byte = counts.get(byte).copied().unwrap_or_default();
        return u64::from(byte >> shift & mask(bits));
    }
    let stored = counts.get(byte..).unwrap_or_default().iter().take(width(bits));
    stored.fold(0, |count, &byte| count << 8 | u64::from(byte))
}

/// How many counts of `bits` bits each these are.
pub(super) fn len(counts: &[u8], bits: u64) -> u64 {
    let stored = u64::try_from(counts.len()).unwrap_or(u64::MAX).saturating_mul(8);
    stored.checked_div(bits).unwrap_or_default()
}

/// The first count from `index` on that is zero.
pub(super) fn first_free(counts: &[u8], bits: u64, index: u64) -> Option<u64> {
    if bits == 16 {
        let (counts, _) = counts.as_chunks::<2>();
        let free = counts.iter().skip(usize::try_from(index).ok()?).position(|c| *c == [0, 0])?;
        return Some(index.saturating_add(u64::try_from(free).ok()?));
    }
    (index..len(counts, bits)).find(|&index| get(counts, bits, index) == 0)
}

/// Sets the count at `index`, which must fit `bits`; does nothing beyond the counts.
pub(super) fn set(counts: &mut [u8], bits: u64, index: u64, count: u64) {
    debug_assert!(bits == 64 || count >> bits == 0, "{count} fits {bits} bits");
    let Some((at, shift)) = position(counts, bits, index) else { return };
    let [.., low] = count.to_be_bytes();
    let Some(stored) = counts.get_mut(at..) else { return };
    if bits < 8 {
        if let Some(byte) = stored.first_mut() {
            *byte = *byte & !(mask(bits) << shift) | (low & mask(bits)) << shift;
        }
        return;
    }
    for (to, from) in
        stored.iter_mut().take(width(bits)).rev().zip(count.to_be_bytes().iter().rev())
    {
        *to = *from;
    }
}

/// Raises each count to the one in its place in `floor`, as far as that goes.
pub(super) fn raise(counts: &mut [u8], floor: &[u8], bits: u64) {
    for index in 0..len(floor, bits).min(len(counts, bits)) {
        let count = get(floor, bits, index);
        if count > get(counts, bits, index) {
            set(counts, bits, index, count);
        }
    }
}

/// The byte that the count begins in, and the shift within it.
fn position(counts: &[u8], bits: u64, index: u64) -> Option<(usize, u32)> {
    let bit = index.checked_mul(bits)?;
    let byte = usize::try_from(bit >> 3).ok().filter(|&byte| byte < counts.len())?;
    Some((byte, u32::try_from(bit & 7).ok()?))
}

/// The low bits of a byte that one count of less than a byte takes.
fn mask(bits: u64) -> u8 {
    match bits {
        1 => 0b1,
        2 => 0b11,
        4 => 0b1111,
        _ => u8::MAX,
    }
}

/// Bytes that one count of at least a byte takes.
fn width(bits: u64) -> usize {
    usize::try_from(bits >> 3).unwrap_or(8)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::qcow2::geometry::{ClusterBits, RefcountOrder};

    fn geometry(order: u32) -> Geometry {
        let bits = ClusterBits::new(9).unwrap();
        Geometry::new(bits, RefcountOrder::new(order).unwrap(), false).unwrap()
    }

    proptest! {
        #[test]
        fn counts_come_back_whatever_their_width(
            order in 0u32..=6,
            sets in prop::collection::vec((0u64..4096, any::<u64>()), 1..40),
        ) {
            let geometry = geometry(order);
            let mut block = RefcountBlock::zeroed(geometry);
            let mut model = BTreeMap::new();
            for (index, count) in sets {
                let index = index % geometry.refblock_entries();
                let count = count & geometry.refcount_order().max_count();
                block.set(index, count);
                model.insert(index, count);
            }
            for index in 0..geometry.refblock_entries() {
                prop_assert_eq!(block.get(index), model.get(&index).copied().unwrap_or(0));
            }
        }

        #[test]
        fn filling_is_setting_one_by_one(order in 0u32..=6, a in 0u64..4096, b in 0u64..4096) {
            let geometry = geometry(order);
            let (a, b) = (a % geometry.refblock_entries(), b % geometry.refblock_entries());
            let (first, end) = (a.min(b), a.max(b));
            let (mut filled, mut set) = (RefcountBlock::zeroed(geometry), RefcountBlock::zeroed(geometry));
            filled.fill_ones(first, end);
            (first..end).for_each(|index| set.set(index, 1));
            prop_assert!(filled.are_ones(first..end));
            prop_assert!(!filled.are_ones(first..end + 1));
            prop_assert!(filled.has_no_one(0..first) && filled.has_no_one(first..end) == (first == end));
            prop_assert_eq!(filled.last_used(), end.checked_sub(1).filter(|_| first < end));
            prop_assert_eq!(filled, set);
        }

        #[test]
        fn shifting_is_arithmetic(
            order in 0u32..=6,
            counts in prop::collection::vec((0u64..4096, 0u64..4, 0u64..4, 0u64..4), 1..40),
        ) {
            let geometry = geometry(order);
            let mut blocks = [0, 1, 2].map(|_| RefcountBlock::zeroed(geometry));
            let max = geometry.refcount_order().max_count();
            for (place, stored, more, less) in counts {
                let place = place % geometry.refblock_entries();
                for (block, count) in blocks.iter_mut().zip([stored, more, less]) {
                    block.set(place, count.min(max));
                }
            }
            let [stored, more, less] = &blocks;
            let sum = |place| {
                let sum = stored.get(place) as i128 + more.get(place) as i128 - less.get(place) as i128;
                (0..=max as i128).contains(&sum).then_some(sum as u64)
            };
            let mut shifted = stored.clone();
            let places = 0..geometry.refblock_entries();
            match shifted.shift(more, less) {
                Err(place) => prop_assert_eq!(places.clone().find(|&place| sum(place).is_none()), Some(place)),
                Ok(()) => {
                    for place in places.clone() {
                        prop_assert_eq!(Some(shifted.get(place)), sum(place));
                    }
                    let lost = places.clone().filter(|&at| stored.get(at) > 0 && shifted.get(at) == 0);
                    prop_assert!(lost.eq(stored.lost_in(&shifted).into_iter().flatten()));
                }
            }
            let end = geometry.refblock_entries() / 3;
            let free = (0..end).filter(|&place| stored.get(place) == 0);
            prop_assert!(free.eq(stored.free_runs(end).flatten()));
        }
    }

    #[test]
    fn sub_byte_counts_begin_at_the_low_bits() {
        let mut block = RefcountBlock::zeroed(geometry(1));
        block.set(0, 1);
        block.set(3, 2);
        assert_eq!(block.bytes()[0], 0b1000_0001);
    }
}
