//! Reading a file past what its medium does not give back.

use std::ops::Range;

use super::{Run, Storage};
use crate::error::{ErrorKind, Result};

/// So much is read at once.
const PIECE: u64 = 1 << 20;
/// So much is given up where that fails: a sector of any medium.
const SECTOR: u64 = 4096;

/// What is in a part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    /// These bytes.
    Data(&'a [u8]),
    /// So many bytes that the medium does not give back.
    Unreadable(u64),
    /// So many bytes that lie behind the end of the file.
    BeyondFile(u64),
}

/// Shows every part of a range to `visit`, with where it is in the file; what it is not shown are
/// holes, which read as zeros.
///
/// # Errors
/// What `visit` says, and failures of the system that are not the medium's.
pub fn read_past_errors(
    storage: &dyn Storage,
    range: Range<u64>,
    mut visit: impl FnMut(u64, Found<'_>) -> Result<()>,
) -> Result<()> {
    let end = range.end.min(storage.len()?);
    let mut at = range.start;
    let mut buffer = Vec::new();
    while at < end {
        // Where nobody can tell, it is read.
        let run = storage.run(at, end).unwrap_or(Run { is_hole: false, end });
        let run_end = run.end.clamp(at + 1, end);
        if run.is_hole {
            at = run_end;
            continue;
        }
        let piece = at..run_end.min(at + PIECE);
        // OK to default: a piece fits in every usize.
        buffer.resize(usize::try_from(piece.end - piece.start).unwrap_or_default(), 0);
        at = piece.end;
        read_piece(storage, piece.start, &mut buffer, &mut visit)?;
    }
    match range.end.saturating_sub(at) {
        0 => Ok(()),
        missing => visit(at, Found::BeyondFile(missing)),
    }
}

fn read_piece(
    storage: &dyn Storage,
    offset: u64,
    buffer: &mut [u8],
    visit: &mut impl FnMut(u64, Found<'_>) -> Result<()>,
) -> Result<()> {
    if let Some(found) = read(storage, offset, buffer)? {
        return give(offset, buffer, found, visit);
    }
    let (mut at, mut rest) = (offset, buffer);
    while !rest.is_empty() {
        let to_boundary = usize::try_from(SECTOR - at % SECTOR).unwrap_or(usize::MAX);
        let (sector, behind) = rest.split_at_mut(to_boundary.min(rest.len()));
        let len = sector.len() as u64;
        match read(storage, at, sector)? {
            Some(found) => give(at, sector, found, visit)?,
            None => visit(at, Found::Unreadable(len))?,
        }
        (at, rest) = (at + len, behind);
    }
    Ok(())
}

/// Reads; nothing where the medium does not give it back.
fn read(storage: &dyn Storage, offset: u64, buffer: &mut [u8]) -> Result<Option<usize>> {
    match storage.read_at(offset, buffer) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::Io => Ok(None),
        Err(error) => Err(error),
    }
}

fn give(
    offset: u64,
    buffer: &[u8],
    found: usize,
    visit: &mut impl FnMut(u64, Found<'_>) -> Result<()>,
) -> Result<()> {
    let (data, missing) = buffer.split_at(found.min(buffer.len()));
    if !data.is_empty() {
        visit(offset, Found::Data(data))?;
    }
    match missing.len() as u64 {
        0 => Ok(()),
        len => visit(offset + data.len() as u64, Found::BeyondFile(len)),
    }
}

/// How many bytes of the file are no holes, as far as anybody can tell.
///
/// # Errors
/// What the system says of the length.
pub fn data_bytes(storage: &dyn Storage) -> Result<u64> {
    let (mut at, end, mut sum) = (0, storage.len()?, 0);
    while at < end {
        let run = storage.run(at, end).unwrap_or(Run { is_hole: false, end });
        let run_end = run.end.clamp(at + 1, end);
        sum += if run.is_hole { 0 } else { run_end - at };
        at = run_end;
    }
    Ok(sum)
}
