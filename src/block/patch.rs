//! New bytes for ranges of a disk, to become true together.

use crate::error::{Error, ErrorKind, Result};

/// A range of a disk, and what it is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch<'a> {
    /// Where, in bytes from the beginning of the disk.
    pub offset: u64,
    /// What.
    pub content: PatchContent<'a>,
}

/// What a range is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchContent<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// So many zeros.
    Zeros(u64),
}

impl<'a> Patch<'a> {
    /// Those that change something, in the order of the disk.
    ///
    /// # Errors
    /// [`BadRequest`](ErrorKind::BadRequest) for patches that meet, or reach behind the end of a
    /// disk of `size` bytes.
    pub fn in_order(patches: impl Iterator<Item = Patch<'a>>, size: u64) -> Result<Vec<Patch<'a>>> {
        let mut patches: Vec<_> = patches.filter(|patch| !patch.is_empty()).collect();
        patches.sort_unstable_by_key(|patch| patch.offset);
        let meet = patches.iter().zip(patches.iter().skip(1)).any(|(a, b)| a.end() > b.offset);
        if meet || patches.last().is_some_and(|last| last.end() > size) {
            let message = "what is to be written meets itself, or the end of the disk";
            return Err(Error::new(ErrorKind::BadRequest, message));
        }
        Ok(patches)
    }

    /// Its length, in bytes.
    pub fn len(&self) -> u64 {
        match self.content {
            PatchContent::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            PatchContent::Zeros(len) => len,
        }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it ends, in bytes from the beginning of the disk.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len())
    }

    /// Puts the part that lies there over `bytes`, which begin at `offset` of the disk.
    pub fn put_over(&self, offset: u64, bytes: &mut [u8]) {
        let to = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (from, until) = (to(self.offset), to(self.end()).min(bytes.len()));
        let Some(part) = bytes.get_mut(from..until) else { return };
        match self.content {
            PatchContent::Zeros(_) => part.fill(0),
            PatchContent::Bytes(new) => {
                let skipped = offset.saturating_sub(self.offset);
                let new = new.get(usize::try_from(skipped).unwrap_or(usize::MAX)..);
                let new = new.unwrap_or_default().iter();
                part.iter_mut().zip(new).for_each(|(byte, new)| *byte = *new);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_lies_there_is_put_over() {
        for (at, base, expected) in [
            (0, 0, [1, 2, 3, 9, 9]),
            (2, 0, [9, 9, 1, 2, 3]),
            (4, 0, [9, 9, 9, 9, 1]),
            (5, 0, [9; 5]),
            (10, 11, [2, 3, 9, 9, 9]),
            (10, 13, [9; 5]),
        ] {
            let mut bytes = [9; 5];
            let patch = Patch { offset: at, content: PatchContent::Bytes(&[1, 2, 3]) };
            patch.put_over(base, &mut bytes);
            assert_eq!(bytes, expected, "{at} {base}");
            let mut bytes = [9; 5];
            Patch { content: PatchContent::Zeros(3), ..patch }.put_over(base, &mut bytes);
            assert_eq!(bytes, expected.map(|byte| if byte < 9 { 0 } else { 9 }));
        }
    }
}
