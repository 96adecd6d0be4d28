//! Bitmaps: the directory, and each bitmap's table and data.
//!
//! Layout: `docs/interop/qcow2`, section "Bitmaps".

use super::finding::{Reference, Structure};
use super::scan::Scan;
use crate::error::Result;
use crate::qcow2::bitmap::{
    BEHIND_THE_LAST, MAX_BITMAPS, MAX_DIRECTORY, MAX_TABLE_ENTRIES, RawEntry, is_plausible,
};
use crate::qcow2::error::Problem;
use crate::qcow2::extension::BitmapDirectory;
use crate::qcow2::geometry::{ENTRY_SIZE, HostOffset};
use crate::qcow2::header::TableRef;
use crate::qcow2::table::read_words;

/// Entries that are read at a time.
const PIECE: u64 = 1 << 16;
const RESERVED: u64 = 0xff00_0000_0000_01fe;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const ALL_ONES: u64 = 1;

impl Scan<'_> {
    /// Counts what bitmaps take. Where the image does not vouch for them, nothing does: their
    /// clusters may be in use for something else since.
    pub(super) fn bitmaps(&mut self) -> Result<()> {
        let Some(directory) = self.header.vouched_bitmaps() else { return Ok(()) };
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
            let read = RawEntry::read(self.storage, at);
            let Some(raw) = self.readable(to, read)? else { return Ok(tables) };
            tables.push(raw.table());
            let Some(rest) = left.checked_sub(raw.len()) else {
                self.malformed(to, Problem::Bitmaps("entry beyond the directory's end"));
                return Ok(tables);
            };
            let name = raw.read_name(self.storage, at);
            let Some(name) = self.readable(to, name)? else { return Ok(tables) };
            if !raw.makes_sense(self.header) || !is_plausible(&name) {
                self.malformed(to, Problem::Bitmaps("an entry of the directory makes no sense"));
            }
            (at, left) = (at.saturating_add(raw.len()), rest);
        }
        if left > 0 {
            self.malformed(to, Problem::Bitmaps(BEHIND_THE_LAST));
        }
        Ok(tables)
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
