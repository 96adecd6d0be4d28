//! The table of internal snapshots.
//!
//! Entry layout: `docs/interop/qcow2`, section "Snapshots".

use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, read_exact_at};
use crate::qcow2::error::{FormatError, Problem};
use crate::qcow2::geometry::{ENTRY_SIZE, HostOffset, MAX_L1_BYTES};
use crate::qcow2::header::{Bounds, Header, TableRef};

/// Bytes of an entry before its extra data.
const FIXED: usize = 40;
/// The most extra data that QEMU accepts in an entry, in bytes.
const MAX_EXTRA: u32 = 1024;
/// The longest id or name that is believed, in bytes: QEMU's have at most 255.
const MAX_TEXT: usize = 1023;
/// The largest table that QEMU accepts, in bytes.
pub(super) const MAX_TABLE: u64 = 64 << 20;
/// Bytes of extra data that an entry of ours has: the size of the machine state, the size of the
/// disk, and how many instructions were executed.
const EXTRA: u32 = 24;

/// One internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its L1 table; the count is entries. Nothing about it was checked.
    pub l1: TableRef,
    /// Its id, a short text.
    pub id: Vec<u8>,
    /// Its name. Not trusted to be UTF-8.
    pub name: Vec<u8>,
    /// When it was taken, in seconds since 1970.
    pub date_seconds: u32,
    /// Nanoseconds since that second.
    pub date_nanoseconds: u32,
    /// How long the machine had run when it was taken, in nanoseconds.
    pub vm_clock_nanoseconds: u64,
    /// How many instructions the machine had executed, where that was counted.
    pub instructions: Option<u64>,
    /// The size of the machine state saved with it, in bytes.
    pub vm_state_bytes: u64,
    /// The size of the disk when it was taken; not recorded by old programs.
    pub disk_size_bytes: Option<u64>,
}

impl Snapshot {
    /// The size of its disk, in bytes: where it does not say, that of the image's own.
    pub(super) fn disk_size(&self, header: &Header) -> u64 {
        self.disk_size_bytes.unwrap_or(header.virtual_size)
    }

    /// Its entry, of a snapshot without machine state.
    pub(super) fn encode(&self) -> Vec<u8> {
        let len = |text: &[u8]| u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes();
        let mut entry = Vec::new();
        entry.extend(self.l1.offset.get().to_be_bytes());
        entry.extend(self.l1.count.to_be_bytes());
        entry.extend([len(&self.id), len(&self.name)].concat());
        entry.extend(self.date_seconds.to_be_bytes());
        entry.extend(self.date_nanoseconds.to_be_bytes());
        entry.extend(self.vm_clock_nanoseconds.to_be_bytes());
        entry.extend(0u32.to_be_bytes());
        entry.extend(EXTRA.to_be_bytes());
        entry.extend(self.vm_state_bytes.to_be_bytes());
        entry.extend(self.disk_size_bytes.unwrap_or_default().to_be_bytes());
        entry.extend(self.instructions.unwrap_or(u64::MAX).to_be_bytes());
        entry.extend(&self.id);
        entry.extend(&self.name);
        entry
    }

    /// Whether it is meant by an id or a name.
    pub(super) fn is_called(&self, id_or_name: &str) -> bool {
        let text = id_or_name.as_bytes();
        self.id == text || self.name == text
    }
}

/// The place of the snapshot that has this id or this name among those of an image; `id=1` is also the
/// one with the id `1`, and `name=1` the one with that name.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound); [`BadRequest`](ErrorKind::BadRequest) where it could be one of
/// several: QEMU lets several have one name, and one have the name that is another's id.
pub fn find_snapshot(snapshots: &[Snapshot], id_or_name: &str) -> Result<usize> {
    let is_meant = |it: &Snapshot| match id_or_name.split_once('=') {
        _ if it.is_called(id_or_name) => true,
        Some(("id", id)) => it.id == id.as_bytes(),
        Some(("name", name)) => it.name == name.as_bytes(),
        _ => false,
    };
    let mut found = (0..).zip(snapshots).filter(|(_, snapshot)| is_meant(snapshot));
    let Some((place, first)) = found.next() else {
        let message = match snapshots.is_empty() {
            true => format!("there is no snapshot '{id_or_name}': the image has none"),
            false => format!("there is no snapshot with the id or the name '{id_or_name}'"),
        };
        return Err(Error::new(ErrorKind::NotFound, message).in_field("snapshot"));
    };
    let Some((_, second)) = found.next() else { return Ok(place) };
    let (first, second) = (first.id.escape_ascii(), second.id.escape_ascii());
    let message = format!(
        "'{id_or_name}' could be the snapshot with the id '{first}' or that with the id '{second}': \
         say id={first} or id={second}"
    );
    Err(Error::new(ErrorKind::BadRequest, message).in_field("snapshot"))
}

impl Header {
    /// The header of an image that has the disk of a snapshot for its own: to read what that was
    /// like. Nothing may be written to such an image.
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) where guest data is in an external data
    /// file, which no snapshot keeps; [`Corrupt`](ErrorKind::Corrupt) where the snapshot's L1 table or
    /// its size cannot be.
    pub fn at_snapshot(&self, storage: &dyn Storage, snapshot: &Snapshot) -> Result<Header> {
        self.require_own_data()?;
        let (geometry, file_len) = (self.geometry, storage.len()?);
        snapshot
            .l1
            .verify_snapshot(Bounds { geometry, file_len })
            .map_err(FormatError::into_error)?;
        let (size, max) = (snapshot.disk_size(self), geometry.max_virtual_size());
        if size > max {
            return Err(Problem::VirtualSize { size, max }.into_error());
        }
        Ok(Header { virtual_size: size, l1: snapshot.l1, ..self.clone() })
    }
}

impl TableRef {
    /// Checks the bounds of a snapshot's L1 table. It may be shorter than the disk's size asks for:
    /// what it does not map was never written.
    fn verify_snapshot(self, inside: Bounds) -> Result<(), FormatError> {
        let (entries, max) = (self.count, MAX_L1_BYTES / ENTRY_SIZE);
        if u64::from(entries) > max {
            return Err(Problem::L1Size { entries, needed: 0, max }.into());
        }
        match entries {
            0 => Ok(()),
            _ => {
                let len = u64::from(entries).saturating_mul(ENTRY_SIZE);
                inside.check("snapshot's L1 table", self.offset, len)
            }
        }
    }
}

/// Reads the whole table, entry by entry: no claim decides how much is allocated.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) for an entry beyond the format's limits or the file's end.
pub fn read_snapshots(storage: &dyn Storage, header: &Header) -> Result<Vec<Snapshot>> {
    SnapshotReader::new(storage, header).collect()
}

/// Where an entry is in the file, and how many bytes it has.
pub(super) type Place = (u64, u64);

/// The snapshots of an image, and where the entry of each is and how many bytes it has.
pub(super) fn read_with_places(
    storage: &dyn Storage,
    header: &Header,
) -> Result<(Vec<Snapshot>, Vec<Place>)> {
    let mut reader = SnapshotReader::new(storage, header);
    let (mut snapshots, mut places) = (Vec::new(), Vec::new());
    while let Some(snapshot) = reader.next() {
        snapshots.push(snapshot?);
        places.push(reader.last);
    }
    Ok((snapshots, places))
}

/// The L1 table of each snapshot that has one, with the place of the word that leads to it: the first
/// of the entry.
pub(in crate::qcow2) fn l1_places(
    storage: &dyn Storage,
    header: &Header,
) -> Result<Vec<(HostOffset, TableRef)>> {
    let (snapshots, places) = read_with_places(storage, header)?;
    let all = places.iter().zip(snapshots).filter(|(_, snapshot)| snapshot.l1.count > 0);
    Ok(all.map(|((at, _), snapshot)| (HostOffset::new(*at), snapshot.l1)).collect())
}

/// How many bytes the snapshot table has.
pub(in crate::qcow2) fn table_bytes(storage: &dyn Storage, header: &Header) -> Result<u64> {
    let mut reader = SnapshotReader::new(storage, header);
    reader.by_ref().try_for_each(|snapshot| snapshot.map(drop))?;
    Ok(reader.len())
}

/// Reads the table entry by entry, and ends behind the first that cannot be read.
pub(in crate::qcow2) struct SnapshotReader<'a> {
    storage: &'a dyn Storage,
    count: u32,
    left: u32,
    start: u64,
    len: u64,
    /// Where the last entry that was read is.
    last: Place,
}

impl<'a> SnapshotReader<'a> {
    pub(in crate::qcow2) fn new(storage: &'a dyn Storage, header: &Header) -> Self {
        let TableRef { offset, count } = header.snapshots;
        SnapshotReader { storage, count, left: count, start: offset.get(), len: 0, last: (0, 0) }
    }

    /// The bytes of the entries that were read.
    pub(in crate::qcow2) const fn len(&self) -> u64 {
        self.len
    }

    fn read(&mut self) -> Result<Snapshot> {
        // Entries are aligned to eight bytes; the last one is not padded.
        let at = self.start.saturating_add(self.len).next_multiple_of(8);
        let (snapshot, len) = read_one(self.storage, at)?;
        self.last = (at, len);
        self.len = at.saturating_add(len).saturating_sub(self.start);
        if self.len > MAX_TABLE {
            return Err(Problem::TooManySnapshots { count: self.count }.into_error());
        }
        Ok(snapshot)
    }
}

impl Iterator for SnapshotReader<'_> {
    type Item = Result<Snapshot>;

    fn next(&mut self) -> Option<Result<Snapshot>> {
        self.left = self.left.checked_sub(1)?;
        let read = self.read();
        if read.is_err() {
            self.left = 0;
        }
        Some(read)
    }
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
    let instructions = extra.get(16..).and_then(|extra| extra.first_chunk());
    let instructions = instructions.map(|bytes| u64::from_be_bytes(*bytes));
    let l1_offset = fixed.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let snapshot = Snapshot {
        l1: TableRef { offset: HostOffset::new(l1_offset), count: be32(&fixed, 8) },
        id: id.to_vec(),
        name: name.to_vec(),
        date_seconds: be32(&fixed, 16),
        date_nanoseconds: be32(&fixed, 20),
        vm_clock_nanoseconds: be64(&fixed, 24),
        // QEMU's word for a machine that does not count them.
        instructions: instructions.filter(|&count| count != u64::MAX),
        vm_state_bytes: large_state.unwrap_or_else(|| u64::from(be32(&fixed, 32))),
        disk_size_bytes: disk_size.map(|bytes| u64::from_be_bytes(*bytes)),
    };
    Ok((snapshot, u64::try_from(len).unwrap_or(u64::MAX)))
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
