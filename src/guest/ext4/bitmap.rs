//! Block bitmaps, a bit a block: set for what is used, and behind the last block of the group.

use std::ops::Range;

use super::Refusal;
use super::checksum::Checksums;
use super::descriptor::Descriptor;
use super::geometry::Geometry;
use super::metadata::Metadata;
use super::refusal::Stop;
use crate::block::BlockDevice;

/// A bitmap, as long as a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bitmap(Vec<u8>);

impl Bitmap {
    /// That of something with `len` bits of which the first `used` are set.
    pub(super) fn begun(geometry: &Geometry, used: u64, len: u64) -> Bitmap {
        let mut bitmap = Bitmap(vec![0; usize::try_from(geometry.block_bytes).unwrap_or(0)]);
        bitmap.set(0..used, true);
        bitmap.set(len..geometry.offset(8), true);
        bitmap
    }

    /// Reads the block bitmap of a group, and holds it against its descriptor.
    pub(super) fn read(
        device: &dyn BlockDevice,
        geometry: &Geometry,
        (group, descriptor): (u32, &Descriptor),
        checksums: Checksums,
    ) -> Result<Bitmap, Stop> {
        let mut bitmap = Bitmap::begun(geometry, 0, 0);
        device.read_at(geometry.offset(descriptor.block_bitmap()), &mut bitmap.0)?;
        let sound = bitmap
            .checksum(geometry, checksums)
            .is_none_or(|sum| descriptor.has_block_bitmap_checksum(geometry, sum));
        if sound { Ok(bitmap) } else { Err(Refusal::BitmapChecksum { group }.into()) }
    }

    /// Holds it against what else is known of the group.
    pub(super) fn check(
        &self,
        geometry: &Geometry,
        (group, descriptor): (u32, &Descriptor),
        metadata: &Metadata,
    ) -> Result<(), Refusal> {
        let start = geometry.group_start(group);
        let len = geometry.group_len(group);
        let missing = metadata.within(start..start.saturating_add(len)).any(|range| {
            let inside = range.start.saturating_sub(start)..range.end.saturating_sub(start);
            self.free(inside) > 0
        });
        match () {
            () if missing => Err(Refusal::BitmapDamaged { group, what: "metadata counts as free" }),
            () if self.free(0..len) != u64::from(descriptor.free_blocks()) => {
                let what = "it has not as many free blocks as the descriptor says";
                Err(Refusal::BitmapDamaged { group, what })
            }
            () => Ok(()),
        }
    }

    /// How many bits of these are not set.
    fn free(&self, range: Range<u64>) -> u64 {
        let zeros = |index, byte: &u8| u64::from((!byte & mask(index, &range)).count_ones());
        let (first, bytes) = touched(&range);
        let bytes = self.0.get(bytes.start..bytes.end.min(self.0.len())).unwrap_or_default();
        let last = last(first, bytes);
        match bytes {
            [] => 0,
            [byte] => zeros(first, byte),
            // Most are whole.
            [head, whole @ .., tail] => {
                let (words, rest) = whole.as_chunks::<8>();
                let words = words.iter().map(|word| u64::from_le_bytes(*word).count_zeros());
                let rest = rest.iter().map(|byte| byte.count_zeros());
                let between: u64 = words.chain(rest).map(u64::from).sum();
                let ends = zeros(first, head).saturating_add(zeros(last, tail));
                between.saturating_add(ends)
            }
        }
    }

    /// The runs of the first `len` bits that are not set.
    pub(super) fn free_runs(&self, len: u64) -> impl Iterator<Item = Range<u64>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next(at, len, false)?;
            at = self.next(start, len, true).unwrap_or(len);
            Some(start..at)
        })
    }

    /// The first of the first `len` bits, from `at` on, that is set, or is not.
    fn next(&self, mut at: u64, len: u64, set: bool) -> Option<u64> {
        // A byte that has none of them.
        let none = if set { 0 } else { u8::MAX };
        while at < len {
            let byte = usize::try_from(at / 8).ok().and_then(|index| self.0.get(index));
            let byte = byte.copied().unwrap_or(u8::MAX);
            let bit = at % 8;
            if bit == 0 && byte == none {
                let rest = usize::try_from(at / 8).ok().and_then(|index| self.0.get(index..));
                let bytes = rest.unwrap_or_default().iter().take_while(|byte| **byte == none);
                let bits = u64::try_from(bytes.count()).unwrap_or(u64::MAX).max(1);
                at = at.saturating_add(bits.saturating_mul(8));
            } else if (byte.rotate_right(u32::try_from(bit).unwrap_or(0)) & 1 == 1) == set {
                return Some(at);
            } else {
                at = at.saturating_add(1);
            }
        }
        None
    }

    /// Sets or clears these bits.
    pub(super) fn set(&mut self, range: Range<u64>, used: bool) {
        let ((first, bytes), len) = (touched(&range), self.0.len());
        let bytes = self.0.get_mut(bytes.start..bytes.end.min(len)).unwrap_or_default();
        let last = last(first, bytes);
        let put = |index, byte: &mut u8| {
            let mask = mask(index, &range);
            *byte = if used { *byte | mask } else { *byte & !mask };
        };
        match bytes {
            [] => {}
            [byte] => put(first, byte),
            [head, whole @ .., tail] => {
                put(first, head);
                whole.fill(if used { u8::MAX } else { 0 });
                put(last, tail);
            }
        }
    }

    /// The checksum that the group's descriptor has of it.
    pub(super) fn checksum(&self, geometry: &Geometry, checksums: Checksums) -> Option<u32> {
        let len = usize::try_from(geometry.group_blocks / 8).unwrap_or(usize::MAX);
        checksums.of_bitmap(self.0.get(..len).unwrap_or(&self.0))
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// The bytes that have these bits, and the index of the first.
fn touched(range: &Range<u64>) -> (u64, Range<usize>) {
    let (first, end) = (range.start / 8, range.end.div_ceil(8));
    let place = |index| usize::try_from(index).unwrap_or(usize::MAX);
    (first, place(first)..place(end))
}

/// The index of the last of these bytes, of which there are some.
fn last(first: u64, bytes: &[u8]) -> u64 {
    first.saturating_add(u64::try_from(bytes.len()).unwrap_or(0)).saturating_sub(1)
}

/// Which bits of this byte are among these bits of all.
fn mask(index: u64, range: &Range<u64>) -> u8 {
    let first = index.saturating_mul(8);
    if range.start <= first && first.saturating_add(8) <= range.end {
        return u8::MAX;
    }
    let below = |bit: u64| {
        let bits = u32::try_from(bit.saturating_sub(first).min(8)).unwrap_or(8);
        u8::MAX.checked_shr(8_u32.saturating_sub(bits)).unwrap_or(0)
    };
    below(range.end) & !below(range.start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Bitmap;

    proptest! {
        /// A bitmap is what a row of bits is.
        #[test]
        fn bits_are_what_was_set(
            changes in proptest::collection::vec((0u64..600, 0u64..600, any::<bool>()), 0..30),
            len in 0u64..=512,
            (from, to) in (0u64..600, 0u64..600),
        ) {
            let (mut bitmap, mut bits) = (Bitmap(vec![0; 64]), [false; 512]);
            for (start, end, used) in changes {
                bitmap.set(start..end, used);
                for bit in start..end.min(512) {
                    bits[bit as usize] = used;
                }
            }
            let mut runs = Vec::new();
            for bit in (0..len).filter(|&bit| !bits[bit as usize]) {
                match runs.last_mut() {
                    Some((_, end)) if *end == bit => *end = bit + 1,
                    _ => runs.push((bit, bit + 1)),
                }
            }
            let found: Vec<_> = bitmap.free_runs(len).map(|run| (run.start, run.end)).collect();
            prop_assert_eq!(found, runs);
            let free = (from..to.min(512)).filter(|&bit| !bits[bit as usize]).count();
            prop_assert_eq!(bitmap.free(from..to), free as u64);
        }
    }
}
