//! Where pieces come from: a disk, of which what is known to be zeros is passed over, or a stream.

use std::io::{self, Read};
use std::path::Path;

use super::super::compare::zeros_of;
use super::Base;
use super::piece::{Desk, Piece, Recipe};
use crate::block::{BlockDevice, ExtentKind};
use crate::error::{Error, Result};

/// Pieces in the order of the disk. All but the last are as long as the recipe says, and begin at a
/// multiple of that.
pub(super) trait Source<'a> {
    /// The disk, where a piece is read when it is worked on, and not before.
    fn device(&self) -> Option<&'a dyn BlockDevice>;

    /// Bytes in all, where that is known.
    fn total(&self) -> u64;

    /// The next piece.
    fn next(&mut self, desk: &mut Desk) -> Result<Option<Piece>>;
}

/// A disk.
pub(super) struct DeviceSource<'a> {
    device: &'a dyn BlockDevice,
    base: Option<Base<'a>>,
    at: u64,
    end: u64,
    piece_len: u64,
}

impl<'a> DeviceSource<'a> {
    /// The bytes of `device` up to `end`, which may lie behind its own.
    pub(super) fn new(device: &'a dyn BlockDevice, end: u64, recipe: &Recipe<'a>) -> Self {
        let piece_len = recipe.piece_len as u64;
        DeviceSource { device, base: recipe.base, at: 0, end, piece_len }
    }

    /// Where that ends, from the next piece on, of which the target needs nothing.
    fn passed_over(&self) -> Result<u64> {
        let (at, end) = (self.at, self.end);
        let zeros = zeros_of(self.device, at, end)?;
        let Some(base) = self.base else { return Ok(zeros) };
        if base.is_below_source && at < self.device.size() {
            let extent = self.device.extent(at, end.min(self.device.size()))?;
            if extent.kind == ExtentKind::Unallocated {
                return Ok(at + extent.len);
            }
        }
        Ok(zeros.min(zeros_of(base.disk, at, end)?))
    }
}

impl<'a> Source<'a> for DeviceSource<'a> {
    fn device(&self) -> Option<&'a dyn BlockDevice> {
        Some(self.device)
    }

    fn total(&self) -> u64 {
        self.end
    }

    fn next(&mut self, _: &mut Desk) -> Result<Option<Piece>> {
        while self.at < self.end {
            let passed = self.passed_over()?;
            if passed < self.end && passed / self.piece_len == self.at / self.piece_len {
                break;
            }
            self.at =
                if passed < self.end { passed / self.piece_len * self.piece_len } else { passed };
        }
        let offset = self.at;
        self.at = self.end.min(offset.saturating_add(self.piece_len));
        // OK: a piece fits in memory.
        let len = (self.at - offset) as usize;
        Ok((len > 0).then_some(Piece { offset, len }))
    }
}

/// A stream, which ends when it ends.
pub(super) struct StreamSource<'a> {
    stream: &'a mut (dyn Read + Send),
    at: u64,
    piece_len: usize,
}

impl<'a> StreamSource<'a> {
    pub(super) fn new(stream: &'a mut (dyn Read + Send), recipe: &Recipe<'_>) -> Self {
        StreamSource { stream, at: 0, piece_len: recipe.piece_len }
    }

    /// How many bytes have come.
    pub(super) fn len(&self) -> u64 {
        self.at
    }
}

impl<'a> Source<'a> for &mut StreamSource<'_> {
    fn device(&self) -> Option<&'a dyn BlockDevice> {
        None
    }

    fn total(&self) -> u64 {
        self.at
    }

    fn next(&mut self, desk: &mut Desk) -> Result<Option<Piece>> {
        desk.data.resize(self.piece_len, 0);
        let (offset, mut len) = (self.at, 0);
        while len < self.piece_len {
            match self.stream.read(&mut desk.data[len..]) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Error::io("cannot read", Path::new("standard input"), error));
                }
            }
        }
        self.at += len as u64;
        Ok((len > 0).then_some(Piece { offset, len }))
    }
}
