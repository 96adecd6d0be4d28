//! Bitmaps: the directory, and each bitmap's table and data.
//!
//! Layout: `docs/interop/qcow2`, section "Bitmaps".

use std::ops::RangeInclusive;

use super::finding::{Reference, Structure};
use super::scan::Scan;
use crate::error::Result;
use crate::host::storage::read_exact_at;
use crate::qcow2::error::Problem;
use crate::qcow2::extension::BitmapDirectory;
use crate::qcow2::feature::Autoclear;
use crate::qcow2::geometry::{ENTRY_SIZE, HostOffset};
use crate::qcow2::header::TableRef;
use crate::qcow2::table::read_words;

const MAX_BITMAPS: u32 = 65_535;
/// The largest directory that QEMU accepts, in bytes.
const MAX_DIRECTORY: u64 = 64 << 20;
/// The longest table that QEMU accepts, in entries.
const MAX_TABLE_ENTRIES: u32 = 0x800_0000;
/// The type of every bitmap that is known.
const DIRTY_TRACKING: u8 = 1;
/// Logarithms of bytes a bit.
const GRANULARITY: RangeInclusive<u8> = 9..=31;
/// Bytes of a name.
const NAME_LEN: RangeInclusive<u64> = 1..=1023;
const IN_USE: u32 = 1;
/// Flags that QEMU does not know.
const RESERVED_FLAGS: u32 = !3;
/// Entries that are read at a time.
const PIECE: u64 = 1 << 16;
/// Bytes of a directory entry before its extra data.
const FIXED: u64 = 24;
const RESERVED: u64 = 0xff00_0000_0000_01fe;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const ALL_ONES: u64 = 1;

impl Scan<'_> {
    /// Counts what bitmaps take. Where the image does not vouch for them, nothing does: their
    /// clusters may be in use for something else since.
    pub(super) fn bitmaps(&mut self) -> Result<()> {
        let vouched = self.header.autoclear.contains(Autoclear::BITMAPS);
        let Some(directory) = self.header.bitmaps().filter(|_| vouched) else { return Ok(()) };
        let offset = HostOffset::new(directory.offset);
        let to = Reference::to(Structure::BitmapDirectory, offset);
        let fits = (1..=MAX_BITMAPS).contains(&directory.count)
            && (1..=MAX_DIRECTORY).contains(&directory.size_bytes)
            && self.geometry.is_aligned(offset);
        if !fits {
            self.malformed(to, Problem::Bitmaps("directory beyond the format's limits"));
            return Ok(());
        }
        if !self.claim(to, directory.size_bytes) {
            return Ok(());
        }
        for table in self.bitmap_tables(to, directory)? {
            self.bitmap(table)?;
        }
        Ok(())
    }

    /// Where the bitmaps' tables are, up to the first entry that makes no sense.
    fn bitmap_tables(
        &mut self,
        to: Reference,
        directory: BitmapDirectory,
    ) -> Result<Vec<TableRef>> {
        let (mut at, mut left) = (directory.offset, directory.size_bytes);
        let mut tables = Vec::new();
        for _ in 0..directory.count {
            let mut fixed = [0; 24];
            let read = read_exact_at(self.storage, at, &mut fixed);
            if self.readable(to, read)?.is_none() {
                return Ok(tables);
            }
            let words = fixed.chunks_exact(8).filter_map(|word| word.first_chunk());
            let mut words = words.map(|word| u64::from_be_bytes(*word));
            let mut next = || words.next().unwrap_or_default();
            let (offset, size_and_flags, lengths) = (next(), next(), next());
            // OK to default: both halves have 32 bits.
            let half = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default();
            let count = half(size_and_flags >> 32);
            tables.push(TableRef { offset: HostOffset::new(offset), count });
            self.require_sense(to, count, half(size_and_flags), lengths);
            let name = lengths >> 32 & 0xffff;
            let len = FIXED.saturating_add(u64::from(half(lengths))).saturating_add(name);
            let len = len.next_multiple_of(8);
            let Some(rest) = left.checked_sub(len) else {
                self.malformed(to, Problem::Bitmaps("entry beyond the directory's end"));
                return Ok(tables);
            };
            (at, left) = (at.saturating_add(len), rest);
        }
        Ok(tables)
    }

    /// What an entry of the directory says beside where its table is: that of `count` entries, with
    /// these flags; `lengths` has type, granularity and the lengths of the name and of extra data,
    /// in their order. No extra data is defined, so QEMU opens no image with any.
    fn require_sense(&mut self, to: Reference, count: u32, flags: u32, lengths: u64) {
        let [kind, granularity, ..] = lengths.to_be_bytes();
        let name_len = lengths >> 32 & 0xffff;
        // As QEMU does it: a bit each, in whole words, in whole clusters.
        let granule = 1u64.checked_shl(u32::from(granularity)).unwrap_or(u64::MAX);
        let words = self.header.virtual_size.div_ceil(granule).div_ceil(u64::from(u64::BITS));
        let clusters = words.saturating_mul(8).div_ceil(self.geometry.cluster_size());
        // One that nobody closed is not read.
        let covers = flags & IN_USE != 0 || u64::from(count) == clusters;
        let extra = lengths & u64::from(u32::MAX);
        let known = kind == DIRTY_TRACKING
            && extra == 0
            && GRANULARITY.contains(&granularity)
            && NAME_LEN.contains(&name_len)
            && flags & RESERVED_FLAGS == 0;
        if !known || !covers {
            self.malformed(to, Problem::Bitmaps("an entry of the directory makes no sense"));
        }
    }

    fn bitmap(&mut self, table: TableRef) -> Result<()> {
        let to = Reference::to(Structure::BitmapTable, table.offset);
        let fits = (1..=MAX_TABLE_ENTRIES).contains(&table.count)
            && table.offset != HostOffset::ZERO
            && self.geometry.is_aligned(table.offset);
        if !fits {
            self.malformed(to, Problem::Bitmaps("table beyond the format's limits"));
            return Ok(());
        }
        // What is something else too is not walked: many bitmaps could claim one long table.
        if !self.claim(to, u64::from(table.count).saturating_mul(ENTRY_SIZE)) {
            return Ok(());
        }
        let (mut at, mut left) = (table.offset, u64::from(table.count));
        while left > 0 {
            self.task.check()?;
            let count = left.min(PIECE);
            let words = read_words(self.storage, at, count);
            let Some(words) = self.readable(to, words)? else { return Ok(()) };
            words.into_iter().for_each(|word| self.bitmap_entry(word));
            at = at.plus_bytes(count.saturating_mul(ENTRY_SIZE));
            left = left.saturating_sub(count);
        }
        Ok(())
    }

    fn bitmap_entry(&mut self, word: u64) {
        let host = HostOffset::new(word & OFFSET_MASK);
        let to = Reference::to(Structure::BitmapData, host);
        let in_file = host != HostOffset::ZERO;
        let reserved = if in_file { RESERVED | ALL_ONES } else { RESERVED };
        if word & reserved != 0 {
            self.malformed(to, Problem::ReservedBits { what: "bitmap table", value: word });
        } else if !self.geometry.is_aligned(host) {
            self.malformed(to, Problem::Unaligned { what: to.what.name(), offset: host.get() });
        }
        if in_file {
            self.claim(to, self.geometry.cluster_size());
        }
    }
}
