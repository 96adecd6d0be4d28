//! Chance that a seed repeats.

/// A sequence of numbers (SplitMix64).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// The next number.
    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`; 0 where there is none.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next().checked_rem(end).unwrap_or_default()
    }

    /// An index below `len`; 0 where there is none.
    pub(super) fn index(&mut self, len: usize) -> usize {
        // OK to default: an index fits both.
        let index = self.below(u64::try_from(len).unwrap_or(u64::MAX));
        usize::try_from(index).unwrap_or_default()
    }

    /// One of these, if there are any.
    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        of.get(self.index(of.len())).copied()
    }

    /// How far a word can be shifted.
    pub(super) fn shift(&mut self) -> u32 {
        u32::try_from(self.below(u64::from(u64::BITS))).unwrap_or_default()
    }

    /// A byte with one bit set.
    pub(super) fn bit(&mut self) -> u8 {
        [1, 2, 4, 8, 16, 32, 64, 128].get(self.index(8)).copied().unwrap_or(1)
    }
}
