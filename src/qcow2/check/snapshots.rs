//! The snapshot table, and the L1 table of each snapshot.

use super::finding::{Reference, Structure};
use super::scan::Scan;
use crate::error::{ErrorKind, Result};
use crate::qcow2::entry::L1Entry;
use crate::qcow2::error::Problem;
use crate::qcow2::geometry::{ENTRY_SIZE, MAX_L1_BYTES};
use crate::qcow2::header::{TableRef, Version};
use crate::qcow2::snapshot::SnapshotReader;
use crate::qcow2::table::read_words;

impl Scan<'_> {
    /// Counts the table and what every snapshot refers to. An entry that cannot be understood ends
    /// the table: where the next one begins is unknown.
    pub(super) fn snapshots(&mut self) -> Result<()> {
        if self.header.snapshots.count == 0 {
            return Ok(());
        }
        let to = Reference::to(Structure::SnapshotTable, self.header.snapshots.offset);
        let mut reader = SnapshotReader::new(self.storage, self.header);
        let mut l1_tables = Vec::new();
        for snapshot in reader.by_ref() {
            self.task.check()?;
            match snapshot {
                Ok(snapshot) => {
                    // Version 3 asks for the sizes of disk and machine state.
                    if self.header.version == Version::V3 && snapshot.disk_size_bytes.is_none() {
                        self.malformed(to, Problem::SnapshotIncomplete);
                    }
                    l1_tables.push(snapshot.l1);
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.malformed(to, Problem::SnapshotTable);
                    break;
                }
                Err(error) => {
                    self.unreadable(to, &error)?;
                    break;
                }
            }
        }
        self.claim(to, reader.len());
        l1_tables.into_iter().try_for_each(|l1| self.snapshot(l1))
    }

    /// The snapshot's own L1 table: its size need not be the active one's.
    fn snapshot(&mut self, table: TableRef) -> Result<()> {
        self.task.check()?;
        let to = Reference::to(Structure::SnapshotL1Table, table.offset);
        let max = MAX_L1_BYTES / ENTRY_SIZE;
        if u64::from(table.count) > max {
            self.malformed(to, Problem::L1Size { entries: table.count, needed: 0, max });
            return Ok(());
        }
        if !self.geometry.is_aligned(table.offset) {
            let offset = table.offset.get();
            self.malformed(to, Problem::Unaligned { what: to.what.name(), offset });
            return Ok(());
        }
        // What is something else too is not walked: many snapshots could claim one long table.
        if !self.claim(to, u64::from(table.count).saturating_mul(ENTRY_SIZE)) {
            return Ok(());
        }
        let words = read_words(self.storage, table.offset, u64::from(table.count));
        if let Some(words) = self.readable(to, words)? {
            let l1: Vec<_> = words.into_iter().map(L1Entry::from_word).collect();
            self.count_tables(table.offset, &l1, false);
        }
        Ok(())
    }
}
