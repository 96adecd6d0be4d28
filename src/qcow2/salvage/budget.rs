//! How much of a disk a file can hold. In a sound image nothing is claimed twice; a hostile one of
//! a few bytes could claim more than anybody has time for.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::host::storage::{Storage, data_bytes};
use crate::qcow2::geometry::HostOffset;

/// What any file may claim, in bytes, and in tables that came before.
const BASE: u64 = 1 << 20;
const TABLES_AGAIN: u64 = 1 << 6;
/// No compressed cluster is smaller.
pub(super) const SMALLEST_PACKED: u64 = 8;

/// What was claimed so far.
#[derive(Debug, Default)]
pub(super) struct Budget {
    spent: u64,
    /// Looked up when it matters.
    limit: Option<u64>,
    tables: BTreeSet<HostOffset>,
    tables_again: u64,
}

impl Budget {
    /// Whether so many bytes more of the file can be claimed: up to twice what it has.
    pub(super) fn allows(&mut self, storage: &dyn Storage, bytes: u64) -> Result<bool> {
        self.spent = self.spent.saturating_add(bytes);
        if self.spent <= BASE {
            return Ok(true);
        }
        let limit = match self.limit {
            Some(limit) => limit,
            None => data_bytes(storage)?.saturating_mul(2).saturating_add(BASE),
        };
        self.limit = Some(limit);
        Ok(self.spent <= limit)
    }

    /// Whether this L2 table may be walked for one more L1 entry.
    pub(super) fn allows_table(&mut self, table: HostOffset) -> bool {
        if self.tables.contains(&table) {
            self.tables_again = self.tables_again.saturating_add(1);
            return self.tables_again <= TABLES_AGAIN;
        }
        true
    }

    /// This L2 table is walked.
    pub(super) fn walked(&mut self, table: HostOffset) {
        self.tables.insert(table);
    }
}
