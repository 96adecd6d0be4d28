//! The table of internal snapshots.
//!
//! Entry layout: `docs/interop/qcow2`, section "Snapshots".

use super::error::Problem;
use super::header::Header;
use crate::error::Result;
use crate::host::storage::{Storage, read_exact_at};

/// Bytes of an entry before its extra data.
const FIXED: usize = 40;
/// The most extra data that QEMU accepts in an entry, in bytes.
const MAX_EXTRA: u32 = 1024;
/// The longest id or name that is believed, in bytes: QEMU's have at most 255.
const MAX_TEXT: usize = 1023;
/// The largest table that QEMU accepts, in bytes.
const MAX_TABLE: u64 = 64 << 20;

/// One internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id, a short text.
    pub id: Vec<u8>,
    /// Its name. Not trusted to be UTF-8.
    pub name: Vec<u8>,
    /// When it was taken, in seconds since 1970.
    pub date_seconds: u32,
    /// The size of the machine state saved with it, in bytes.
    pub vm_state_bytes: u64,
    /// The size of the disk when it was taken; not recorded by old programs.
    pub disk_size_bytes: Option<u64>,
}

/// Reads the whole table, entry by entry: no claim decides how much is allocated.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) for an entry beyond the format's limits or the file's end.
pub fn read_snapshots(storage: &dyn Storage, header: &Header) -> Result<Vec<Snapshot>> {
    let start = header.snapshots.offset.get();
    let mut at = start;
    let mut snapshots = Vec::new();
    for _ in 0..header.snapshots.count {
        let (snapshot, len) = read_one(storage, at)?;
        snapshots.push(snapshot);
        at = at.saturating_add(len).next_multiple_of(8);
        if at.saturating_sub(start) > MAX_TABLE {
            let count = header.snapshots.count;
            return Err(Problem::TooManySnapshots { count }.into_error());
        }
    }
    Ok(snapshots)
}

fn read_one(storage: &dyn Storage, at: u64) -> Result<(Snapshot, u64)> {
    let mut fixed = [0; FIXED];
    read_exact_at(storage, at, &mut fixed)?;
    let id_len = usize::from(be16(&fixed, 12));
    let name_len = usize::from(be16(&fixed, 14));
    let extra_len = be32(&fixed, 36);
    if extra_len > MAX_EXTRA {
        return Err(Problem::SnapshotExtra { len: extra_len }.into_error().at_offset(at));
    }
    let extra_len = usize::try_from(extra_len).unwrap_or_default();
    let len = FIXED.saturating_add(extra_len).saturating_add(id_len).saturating_add(name_len);
    if id_len > MAX_TEXT || name_len > MAX_TEXT {
        return Err(Problem::SnapshotName { id_len, name_len }.into_error().at_offset(at));
    }
    let mut rest = vec![0; len.saturating_sub(FIXED)];
    read_exact_at(storage, at.saturating_add(40), &mut rest)?;
    let (extra, names) = rest.split_at_checked(extra_len).unwrap_or_default();
    let (id, name) = names.split_at_checked(id_len).unwrap_or_default();
    let large_state = extra.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    let disk_size = extra.get(8..).and_then(|extra| extra.first_chunk());
    let snapshot = Snapshot {
        id: id.to_vec(),
        name: name.to_vec(),
        date_seconds: be32(&fixed, 16),
        vm_state_bytes: large_state.unwrap_or_else(|| u64::from(be32(&fixed, 32))),
        disk_size_bytes: disk_size.map(|bytes| u64::from_be_bytes(*bytes)),
    };
    Ok((snapshot, u64::try_from(len).unwrap_or(u64::MAX)))
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
