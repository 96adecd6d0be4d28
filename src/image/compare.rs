//! Whether two disks read the same. What both are known to have as zeros is not read.

use std::ops::ControlFlow;

use super::in_order::{Steps, in_order, workers};
use super::map::{ChainMap, MapRun};
use crate::block::{BlockDevice, Content};
use crate::error::Result;
use crate::task::Task;

/// Bytes that are compared in one piece.
const PIECE: u64 = 1 << 20;
/// The memory for all pieces, in bytes.
const BUDGET: usize = 32 << 20;

/// What two disks are to each other, the end of the shorter one continued with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Every byte is the same.
    Same,
    /// They differ in the byte at this offset, and in none before it.
    Differ {
        /// In bytes from the beginning.
        offset: u64,
    },
}

/// A piece of both disks.
#[derive(Default)]
struct Desk {
    ours: Vec<u8>,
    theirs: Vec<u8>,
    differs_at: Option<u64>,
}

/// Compares two disks, with all cores.
///
/// # Errors
/// What reading them says; [`Cancelled`](crate::ErrorKind::Cancelled).
pub fn compare(
    ours: &dyn BlockDevice,
    theirs: &dyn BlockDevice,
    task: Task<'_>,
) -> Result<Comparison> {
    let size = ours.size().max(theirs.size());
    let mut at = 0;
    let mut found = Comparison::Same;
    let steps = Steps {
        next: |_: &mut Desk| {
            while at < size {
                task.check()?;
                let zeros = zeros_of(ours, at, size)?.min(zeros_of(theirs, at, size)?);
                if zeros == at {
                    break;
                }
                at = zeros;
            }
            let offset = at;
            at = size.min((offset / PIECE + 1) * PIECE);
            Ok((offset < size).then_some((offset, at)))
        },
        prepare: |desk: &mut Desk, &(offset, end): &(u64, u64)| {
            // OK: a piece fits in memory.
            let len = (end - offset) as usize;
            read_padded(ours, offset, len, &mut desk.ours)?;
            read_padded(theirs, offset, len, &mut desk.theirs)?;
            desk.differs_at = first_difference(&desk.ours, &desk.theirs).map(|at| offset + at);
            Ok(())
        },
        deliver: |desk: &mut Desk, (_, end)| {
            task.step("compare", end, size)?;
            if let Some(offset) = desk.differs_at {
                found = Comparison::Differ { offset };
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        },
    };
    in_order(workers(2 * PIECE as usize, BUDGET), Desk::default, steps)?;
    task.step("compare", size, size)?;
    Ok(found)
}

/// Where zeros end that begin at `offset` and are known without reading them: at `offset`, where
/// there are none.
pub(super) fn zeros_of(disk: &dyn BlockDevice, offset: u64, end: u64) -> Result<u64> {
    if offset >= disk.size() {
        return Ok(end);
    }
    let Content { is_zero, end: zeros } = disk.content(offset, end.min(disk.size()))?;
    Ok(match is_zero {
        true if zeros >= disk.size() => end,
        true => zeros,
        false => offset,
    })
}

/// Reads `len` bytes; zeros beyond the disk's end.
pub(super) fn read_padded(
    disk: &dyn BlockDevice,
    offset: u64,
    len: usize,
    buf: &mut Vec<u8>,
) -> Result<()> {
    buf.resize(len, 0);
    // OK: no more than what is in memory.
    let there = disk.size().saturating_sub(offset).min(len as u64) as usize;
    buf[there..].fill(0);
    match there {
        0 => Ok(()),
        _ => disk.read_at(offset, &mut buf[..there]),
    }
}

/// The first place in which two pieces of a length differ.
fn first_difference(ours: &[u8], theirs: &[u8]) -> Option<u64> {
    const STRIDE: usize = 4096;
    if ours == theirs {
        return None;
    }
    let mut blocks = ours.chunks(STRIDE).zip(theirs.chunks(STRIDE));
    let block = blocks.position(|(ours, theirs)| ours != theirs)? * STRIDE;
    let mut bytes = ours[block..].iter().zip(&theirs[block..]);
    bytes.position(|(ours, theirs)| ours != theirs).map(|byte| (block + byte) as u64)
}

/// Where one of two disks is first mapped in another way than the other: as data, zeros or nothing,
/// compressed or not, with a place in a file or without. What lies behind the end of the shorter one
/// does not count.
///
/// # Errors
/// As [`compare`].
pub fn compare_allocation(
    ours: &ChainMap,
    theirs: &ChainMap,
    task: Task<'_>,
) -> Result<Option<u64>> {
    let size = ours.size().min(theirs.size());
    let how = |run: &MapRun| {
        (run.is_present, run.is_zero, run.is_data, run.is_compressed, run.offset.is_some())
    };
    let end = |run: &MapRun| run.start.saturating_add(run.len);
    let (mut ours, mut theirs) = (ours.runs(0..size), theirs.runs(0..size));
    let (mut our, mut their) = (ours.next().transpose()?, theirs.next().transpose()?);
    while let (Some(a), Some(b)) = (our, their) {
        task.check()?;
        if how(&a) != how(&b) {
            return Ok(Some(a.start.max(b.start)));
        }
        if end(&a) <= end(&b) {
            our = ours.next().transpose()?;
        }
        if end(&b) <= end(&a) {
            their = theirs.next().transpose()?;
        }
    }
    Ok(None)
}
