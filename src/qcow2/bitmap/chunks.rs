//! The bits of a bitmap, chunk by chunk.

use std::ops::Range;

use super::announce::DirtyRanges;
use super::directory::{Bitmap, Coverage};
use crate::error::Result;
use crate::host::storage::{Storage, read_padded_at};
use crate::qcow2::error::{FormatError, Problem};
use crate::qcow2::geometry::{ENTRY_SIZE, Geometry, HostOffset};
use crate::qcow2::header::{Header, TableRef};
use crate::qcow2::lengths::index;
use crate::qcow2::table::read_words;
use crate::task::Task;

const RESERVED: u64 = 0xff00_0000_0000_01fe;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const ALL_ONES: u64 = 1;

/// Where the bits of a chunk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkEntry {
    /// All are clear.
    Zeros,
    /// All are set.
    Ones,
    /// In this cluster.
    Data(HostOffset),
}

impl ChunkEntry {
    fn decode(word: u64, geometry: Geometry) -> Result<ChunkEntry, FormatError> {
        let host = HostOffset::new(word & OFFSET_MASK);
        let in_file = host != HostOffset::ZERO;
        if word & if in_file { RESERVED | ALL_ONES } else { RESERVED } != 0 {
            return Err(Problem::ReservedBits { what: "bitmap table", value: word }.into());
        }
        if !geometry.is_aligned(host) {
            return Err(Problem::Unaligned { what: "bitmap data", offset: host.get() }.into());
        }
        Ok(match (in_file, word & ALL_ONES) {
            (true, _) => ChunkEntry::Data(host),
            (false, 0) => ChunkEntry::Zeros,
            (false, _) => ChunkEntry::Ones,
        })
    }

    pub(super) const fn word(self) -> u64 {
        match self {
            ChunkEntry::Zeros => 0,
            ChunkEntry::Ones => ALL_ONES,
            ChunkEntry::Data(host) => host.get(),
        }
    }
}

/// Shows the entries of a bitmap's table, which may claim no more than the file holds, a piece at a
/// time: a table of nothing may be long.
pub(super) fn each_entry(
    storage: &dyn Storage,
    geometry: Geometry,
    table: TableRef,
    mut visit: impl FnMut(ChunkEntry),
) -> Result<()> {
    /// Entries that are read at a time.
    const PIECE: u64 = 1 << 15;
    let len = u64::from(table.count).saturating_mul(ENTRY_SIZE);
    let inside = table.offset.plus_bytes(len).get() <= storage.len()?.next_multiple_of(512);
    if !inside || table.offset == HostOffset::ZERO || !geometry.is_aligned(table.offset) {
        let problem = Problem::Bitmaps("table beyond the file, or unaligned");
        return Err(problem.into_error().at_offset(table.offset.get()));
    }
    let (mut at, mut left) = (table.offset, u64::from(table.count));
    while left > 0 {
        let count = left.min(PIECE);
        for word in read_words(storage, at, count)? {
            let entry = ChunkEntry::decode(word, geometry);
            visit(entry.map_err(|error| error.into_error().at_offset(table.offset.get()))?);
        }
        at = at.plus_bytes(count.saturating_mul(ENTRY_SIZE));
        left = left.saturating_sub(count);
    }
    Ok(())
}

/// The clusters that hold bits of a bitmap, each with the place of the word that leads to it.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) for a table that makes no sense.
pub(in crate::qcow2) fn data_words(
    storage: &dyn Storage,
    header: &Header,
    bitmap: &Bitmap,
) -> Result<Vec<(HostOffset, HostOffset)>> {
    let (mut at, mut words) = (bitmap.table.offset, Vec::new());
    each_entry(storage, header.geometry, bitmap.table, |entry| {
        if let ChunkEntry::Data(host) = entry {
            words.push((at, host));
        }
        at = at.plus_bytes(ENTRY_SIZE);
    })?;
    Ok(words)
}

/// The bits of one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chunk {
    /// All are clear.
    Zeros,
    /// All are set.
    Ones,
    /// A cluster, from the lowest bit of its first byte on.
    Bits(Vec<u8>),
}

/// A bitmap that is read.
pub(super) struct BitmapReader<'a> {
    storage: &'a dyn Storage,
    geometry: Geometry,
    pub(super) coverage: Coverage,
    pub(super) entries: Vec<ChunkEntry>,
    /// The chunk that was read last.
    last: Option<(u64, Vec<u8>)>,
}

impl<'a> BitmapReader<'a> {
    /// Reads the table of a bitmap that is not in use.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) for a table that does not cover the disk.
    pub(super) fn new(storage: &'a dyn Storage, header: &Header, bitmap: &Bitmap) -> Result<Self> {
        let coverage = Coverage::of(header, bitmap.granularity);
        if !coverage.is_allowed() || u64::from(bitmap.table.count) != coverage.chunks() {
            let problem = Problem::Bitmaps("table that does not cover the disk");
            return Err(problem.into_error().at_offset(bitmap.table.offset.get()));
        }
        let geometry = header.geometry;
        let mut entries = Vec::new();
        each_entry(storage, geometry, bitmap.table, |entry| entries.push(entry))?;
        Ok(BitmapReader { storage, geometry, coverage, entries, last: None })
    }

    pub(super) fn entry(&self, chunk: u64) -> ChunkEntry {
        self.entries.get(index(chunk)).copied().unwrap_or(ChunkEntry::Zeros)
    }

    /// The cluster of a chunk, with nothing behind the bits that stand for something.
    pub(super) fn bits(&mut self, chunk: u64, host: HostOffset) -> Result<&[u8]> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != chunk) {
            let mut bytes = vec![0; self.geometry.cluster_len()];
            read_padded_at(self.storage, host.get(), &mut bytes)?;
            keep_first(&mut bytes, self.coverage.bits_in(chunk));
            self.last = Some((chunk, bytes));
        }
        Ok(self.last.as_ref().map_or(&[][..], |(_, bytes)| bytes))
    }

    /// Shows the parts of `range`, bytes of the disk, that the bitmap has as dirty; those that touch
    /// may come in pieces.
    pub(super) fn each_dirty(
        &mut self,
        range: &Range<u64>,
        mut visit: impl FnMut(Range<u64>),
    ) -> Result<()> {
        let unit = self.coverage.granularity.bytes();
        let chunk_bits = self.coverage.bits_per_chunk();
        let end = range.end.min(self.coverage.virtual_size);
        let last = end.div_ceil(unit).div_ceil(chunk_bits);
        let first = range.start.checked_div(unit).unwrap_or_default();
        for chunk in first.checked_div(chunk_bits).unwrap_or_default()..last {
            let before = chunk.saturating_mul(chunk_bits);
            let mut show = |bits: Range<u64>| {
                let at = |bit: u64| before.saturating_add(bit).saturating_mul(unit);
                let dirty = at(bits.start).max(range.start)..at(bits.end).min(end);
                if dirty.start < dirty.end {
                    visit(dirty);
                }
            };
            match self.entry(chunk) {
                ChunkEntry::Zeros => {}
                ChunkEntry::Ones => show(0..self.coverage.bits_in(chunk)),
                ChunkEntry::Data(host) => runs_of_ones(self.bits(chunk, host)?, show),
            }
        }
        Ok(())
    }
}

/// How many bytes of the disk a bitmap has as dirty.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) for a table that makes no sense,
/// [`Cancelled`](crate::ErrorKind::Cancelled), what the storage says.
pub fn dirty_bytes(
    storage: &dyn Storage,
    header: &Header,
    bitmap: &Bitmap,
    task: Task<'_>,
) -> Result<u64> {
    let mut reader = BitmapReader::new(storage, header, bitmap)?;
    let coverage = reader.coverage;
    let per_chunk = coverage.bits_per_chunk().saturating_mul(coverage.granularity.bytes());
    let mut dirty = 0u64;
    for chunk in 0..coverage.chunks() {
        let start = chunk.saturating_mul(per_chunk);
        let range = start..start.saturating_add(per_chunk).min(coverage.virtual_size);
        task.step("bitmaps", start, coverage.virtual_size)?;
        reader.each_dirty(&range, |run| {
            dirty = dirty.saturating_add(run.end.saturating_sub(run.start));
        })?;
    }
    Ok(dirty)
}

/// Clears all but the first bits.
fn keep_first(bytes: &mut [u8], bits: u64) {
    let whole = index(bits / 8);
    let rest = bytes.get_mut(whole..).unwrap_or_default();
    if let Some((first, behind)) = rest.split_first_mut() {
        *first &= low_bits(bits % 8);
        behind.fill(0);
    }
}

/// A byte with so many of its low bits set.
fn low_bits(count: u64) -> u8 {
    (0..count.min(8)).fold(0, |byte, _| byte << 1 | 1)
}

/// Shows the runs of bits that are set.
pub(super) fn runs_of_ones(bytes: &[u8], mut visit: impl FnMut(Range<u64>)) {
    let mut start = None;
    let mut at = 0u64;
    for &byte in bytes {
        let next = at.saturating_add(8);
        match (byte, start) {
            (0, None) | (0xff, Some(_)) => {}
            (0, Some(first)) => {
                visit(first..at);
                start = None;
            }
            (0xff, None) => start = Some(at),
            _ => {
                for (bit, at) in (0..8).zip(at..next) {
                    match (byte >> bit & 1, start) {
                        (1, None) => start = Some(at),
                        (0, Some(first)) => {
                            visit(first..at);
                            start = None;
                        }
                        _ => {}
                    }
                }
            }
        }
        at = next;
    }
    if let Some(first) = start {
        visit(first..at);
    }
}

/// Sets a run of bits; does nothing beyond the bytes.
pub(super) fn set_bits(bytes: &mut [u8], run: Range<u64>) {
    let (first, last) = (run.start.div_ceil(8), run.end / 8);
    let mut or = |byte: u64, mask: u8| {
        if let Some(byte) = bytes.get_mut(index(byte)) {
            *byte |= mask;
        }
    };
    let (low, high) = (run.start % 8, run.end % 8);
    if first > last {
        return or(last, low_bits(high) & !low_bits(low));
    }
    if low > 0 {
        or(first.saturating_sub(1), !low_bits(low));
    }
    if high > 0 {
        or(last, low_bits(high));
    }
    bytes.get_mut(index(first)..index(last)).unwrap_or_default().fill(0xff);
}

/// What is taken over as dirty.
pub(super) enum Dirty<'a> {
    Bitmap(BitmapReader<'a>),
    Ranges(&'a dyn DirtyRanges),
}

impl Dirty<'_> {
    fn each(&mut self, range: &Range<u64>, mut visit: impl FnMut(Range<u64>)) -> Result<()> {
        match self {
            Dirty::Bitmap(reader) => reader.each_dirty(range, visit),
            Dirty::Ranges(ranges) => ranges.each(range.clone(), &mut visit),
        }
    }
}

/// A chunk of the `target` with what the `sources` have as dirty as well.
pub(super) fn merged(
    target: &mut BitmapReader<'_>,
    sources: &mut [Dirty<'_>],
    chunk: u64,
) -> Result<Chunk> {
    let coverage = target.coverage;
    let (unit, per_chunk) = (coverage.granularity.bytes(), coverage.bits_per_chunk());
    let mut bytes = match target.entry(chunk) {
        ChunkEntry::Ones => return Ok(Chunk::Ones),
        ChunkEntry::Zeros => vec![0; target.geometry.cluster_len()],
        ChunkEntry::Data(host) => target.bits(chunk, host)?.to_vec(),
    };
    let before = chunk.saturating_mul(per_chunk);
    let start = before.saturating_mul(unit);
    let range = start..start.saturating_add(per_chunk.saturating_mul(unit));
    for source in sources {
        source.each(&range, |dirty| {
            let first = dirty.start.checked_div(unit).unwrap_or_default();
            let end = dirty.end.div_ceil(unit);
            set_bits(&mut bytes, first.saturating_sub(before)..end.saturating_sub(before));
        })?;
    }
    let used = coverage.bits_in(chunk);
    let all = |value: u8| bytes.iter().all(|&byte| byte == value);
    Ok(match used == per_chunk {
        _ if all(0) => Chunk::Zeros,
        true if all(0xff) => Chunk::Ones,
        _ => Chunk::Bits(bytes),
    })
}
