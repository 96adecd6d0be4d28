//! A piece of a table, as far as the medium gives it back.

use std::ops::Range;

use crate::block::salvage::LossReason;
use crate::error::Result;
use crate::host::storage::{Found, Storage, read_past_errors};
use crate::qcow2::geometry::HostOffset;
use crate::qcow2::lengths::{index, len_of};

/// Bytes of a table, with what of them is missing.
pub(super) struct TablePiece {
    at: HostOffset,
    bytes: Vec<u8>,
    /// What the medium does not give back, or the file does not have.
    missing: Vec<(Range<usize>, LossReason)>,
    /// Whether it is nothing but a hole.
    is_hole: bool,
}

impl TablePiece {
    /// Reads `len` bytes of a table at `at`.
    pub(super) fn read(storage: &dyn Storage, at: HostOffset, len: usize) -> Result<TablePiece> {
        let (mut bytes, mut missing, mut is_hole) = (vec![0; len], Vec::new(), true);
        let range = at.get()..at.plus_bytes(len_of(&bytes)).get();
        read_past_errors(storage, range, |offset, found| {
            is_hole = false;
            let start = index(offset.saturating_sub(at.get()));
            let (len, reason) = match found {
                Found::Data(data) => {
                    let place = bytes.get_mut(start..start.saturating_add(data.len()));
                    place.into_iter().for_each(|place| place.copy_from_slice(data));
                    return Ok(());
                }
                Found::Unreadable(len) => (len, LossReason::Unreadable),
                Found::BeyondFile(len) => (len, LossReason::BeyondFile),
            };
            missing.push((start..start.saturating_add(index(len)), reason));
            Ok(())
        })?;
        Ok(TablePiece { at, bytes, missing, is_hole })
    }

    /// Where it begins.
    pub(super) fn at(&self) -> HostOffset {
        self.at
    }

    /// Whether the file has nothing there, so that every entry is empty.
    pub(super) fn is_hole(&self) -> bool {
        self.is_hole
    }

    /// The entry of `len` bytes that begins `from` bytes into the piece.
    pub(super) fn entry(&self, from: u64, len: u64) -> Result<&[u8], LossReason> {
        let range = index(from)..index(from.saturating_add(len));
        let meets =
            |(gap, _): &&(Range<usize>, LossReason)| gap.start < range.end && range.start < gap.end;
        if let Some((_, reason)) = self.missing.iter().find(meets) {
            return Err(*reason);
        }
        self.bytes.get(range).ok_or(LossReason::BeyondFile)
    }
}
