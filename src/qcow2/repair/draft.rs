//! A draft of the image: reads see what was written to it, and nothing reaches the file below. A
//! repair is tried and judged here before a byte of the image changes.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::Result;
use crate::host::storage::{Allocation, Storage, read_padded_at};

/// What a medium writes whole or not at all, in bytes.
const SECTOR: u64 = 512;
const SECTOR_LEN: usize = 512;

/// A storage above another that stays as it is.
pub(super) struct Draft<'a> {
    below: &'a dyn Storage,
    state: RwLock<State>,
}

struct State {
    len: u64,
    /// What of the file below is seen.
    seen: u64,
    sectors: BTreeMap<u64, [u8; SECTOR_LEN]>,
    writes: u64,
}

/// Bytes that are to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where, in bytes from the beginning of the file; a multiple of 512.
    pub offset: u64,
    /// What is there now; shorter than `new` where the file ends before.
    pub old: Vec<u8>,
    /// What is to be there.
    pub new: Vec<u8>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(below: &'a dyn Storage) -> Result<Self> {
        let len = below.len()?;
        let state = State { len, seen: len, sectors: BTreeMap::new(), writes: 0 };
        Ok(Draft { below, state: RwLock::new(state) })
    }

    /// What differs from the file below, ascending; no change reaches from one piece of `split`
    /// bytes, a power of two, into the next.
    pub(super) fn changes(&self, split: u64) -> Result<Vec<Change>> {
        let state = self.state();
        let mut changes: Vec<Change> = Vec::new();
        for (&sector, new) in &state.sectors {
            let offset = sector.saturating_mul(SECTOR);
            let mut old = [0; SECTOR_LEN];
            let found = self.below.read_at(offset, &mut old)?;
            let len = usize::try_from(state.len.saturating_sub(offset)).unwrap_or(usize::MAX);
            let new = new.get(..len).unwrap_or(new);
            if found >= new.len() && old.get(..new.len()) == Some(new) {
                continue;
            }
            let old = old.get(..found.min(new.len())).unwrap_or_default();
            match changes.last_mut() {
                Some(last)
                    if last.end() == offset
                        && last.old.len() == last.new.len()
                        && offset & split.wrapping_sub(1) != 0 =>
                {
                    last.old.extend_from_slice(old);
                    last.new.extend_from_slice(new);
                }
                _ => changes.push(Change { offset, old: old.to_vec(), new: new.to_vec() }),
            }
        }
        Ok(changes)
    }

    /// The file as it is.
    pub(super) const fn below(&self) -> &'a dyn Storage {
        self.below
    }

    /// How often it was written to.
    pub(super) fn writes(&self) -> u64 {
        self.state().writes
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        // OK to ignore poison: a draft that is half changed is thrown away.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Change {
    /// The byte behind it.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(u64::try_from(self.new.len()).unwrap_or(u64::MAX))
    }
}

impl State {
    /// Makes the file at least so long. What was cut off before does not come back.
    fn grow(&mut self, below: &dyn Storage, len: u64) -> Result<()> {
        let hidden = below.len()?.min(len);
        if len > self.len && self.seen < hidden {
            for sector in self.len / SECTOR..hidden.div_ceil(SECTOR) {
                let bytes = self.sector(below, sector)?;
                self.sectors.insert(sector, bytes);
            }
        }
        self.len = self.len.max(len);
        Ok(())
    }

    /// The sector as it is now.
    fn sector(&self, below: &dyn Storage, sector: u64) -> Result<[u8; SECTOR_LEN]> {
        if let Some(bytes) = self.sectors.get(&sector) {
            return Ok(*bytes);
        }
        let mut bytes = [0; SECTOR_LEN];
        let offset = sector.saturating_mul(SECTOR);
        let seen = usize::try_from(self.seen.saturating_sub(offset)).unwrap_or(SECTOR_LEN);
        if let Some(bytes) = bytes.get_mut(..seen.min(SECTOR_LEN)).filter(|bytes| !bytes.is_empty())
        {
            read_padded_at(below, offset, bytes)?;
        }
        Ok(bytes)
    }
}

impl Storage for Draft<'_> {
    fn len(&self) -> Result<u64> {
        Ok(self.state().len)
    }

    fn can_grow(&self) -> bool {
        self.below.can_grow()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let state = self.state();
        let left = usize::try_from(state.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = left.min(buf.len());
        let buf = buf.get_mut(..len).unwrap_or_default();
        let seen = usize::try_from(state.seen.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (from_below, behind) = buf.split_at_mut(seen.min(len));
        read_padded_at(self.below, offset, from_below)?;
        behind.fill(0);
        let end = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        for (&sector, bytes) in state.sectors.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let (to, from) = overlap(sector, offset, len);
            if let (Some(to), Some(from)) = (buf.get_mut(to), bytes.get(from)) {
                to.copy_from_slice(from);
            }
        }
        Ok(len)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut state = self.state_mut();
        let end = offset.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        state.grow(self.below, end)?;
        state.writes = state.writes.saturating_add(1);
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let mut bytes = state.sector(self.below, sector)?;
            let (from, to) = overlap(sector, offset, data.len());
            if let (Some(to), Some(from)) = (bytes.get_mut(to), data.get(from)) {
                to.copy_from_slice(from);
            }
            state.sectors.insert(sector, bytes);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut state = self.state_mut();
        if len > state.len {
            return state.grow(self.below, len);
        }
        if len < state.len {
            state.seen = state.seen.min(len);
            state.sectors.split_off(&len.div_ceil(SECTOR));
            let within = usize::try_from(len % SECTOR).unwrap_or_default();
            if let Some(bytes) = state.sectors.get_mut(&(len / SECTOR)) {
                bytes.iter_mut().skip(within).for_each(|byte| *byte = 0);
            }
        }
        state.len = len;
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64, _: Allocation) -> Result<()> {
        self.state_mut().grow(self.below, offset.saturating_add(len))
    }

    fn punch_hole(&self, _: u64, _: u64) -> Result<()> {
        // Advice: what is free reads as before.
        Ok(())
    }

    fn zero_range(&self, offset: u64, len: u64) -> Result<()> {
        let mut done = 0;
        while done < len {
            let piece = len.saturating_sub(done).min(SECTOR);
            let zeros = [0; SECTOR_LEN];
            let zeros = zeros.get(..usize::try_from(piece).unwrap_or_default()).unwrap_or_default();
            self.write_at(offset.saturating_add(done), zeros)?;
            done = done.saturating_add(piece);
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// Where a sector and `len` bytes at `offset` meet: in the bytes, and in the sector.
fn overlap(
    sector: u64,
    offset: u64,
    len: usize,
) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let start = sector.saturating_mul(SECTOR);
    let in_bytes = usize::try_from(start.saturating_sub(offset)).unwrap_or(usize::MAX);
    let in_sector = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
    let room = SECTOR_LEN.saturating_sub(in_sector).min(len.saturating_sub(in_bytes));
    (in_bytes..in_bytes.saturating_add(room), in_sector..in_sector.saturating_add(room))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::storage::MemoryStorage;

    proptest! {
        /// A draft reads as a file that was written, the file below stays as it was, and the
        /// changes make the one of the other.
        #[test]
        fn it_is_a_file_above_a_file(
            len in 0usize..5000,
            steps in prop::collection::vec((0u64..6000, 1usize..1500, 1u8..255, 0u8..8), 0..12),
        ) {
            let start: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let (below, model) = (MemoryStorage::new(start.clone()), MemoryStorage::new(start.clone()));
            let draft = Draft::new(&below).unwrap();
            for (offset, len, value, what) in steps {
                for storage in [&draft as &dyn Storage, &model] {
                    match what {
                        0 => storage.set_len(offset).unwrap(),
                        1 => storage.zero_range(offset, len as u64).unwrap(),
                        _ => storage.write_at(offset, &vec![value; len]).unwrap(),
                    }
                }
                let mut found = vec![1; 8000];
                let expected = model.contents();
                prop_assert_eq!(draft.read_at(0, &mut found).unwrap(), expected.len());
                prop_assert_eq!(&found[..expected.len()], &expected[..]);
                let at = (offset as usize).min(expected.len());
                let count = draft.read_at(at as u64, &mut found[..700]).unwrap();
                prop_assert_eq!(&found[..count], &expected[at..expected.len().min(at + 700)]);
            }
            prop_assert_eq!(below.contents(), start);
            let changes = draft.changes(1024).unwrap();
            below.set_len(draft.len().unwrap()).unwrap();
            for change in changes {
                prop_assert!(change.new.len() <= 1024 && change.offset / 1024 == (change.end() - 1) / 1024);
                below.write_at(change.offset, &change.new).unwrap();
            }
            prop_assert_eq!(below.contents(), model.contents());
        }
    }
}
