//! Which L1 entries refer to an L2 table that more than one may have.

use std::collections::BTreeMap;

use crate::error::{ErrorKind, Result};
use crate::host::storage::Storage;
use crate::qcow2::check::{Finding, Reference, Structure};
use crate::qcow2::entry::L1Entry;
use crate::qcow2::geometry::{ENTRY_SIZE, GuestOffset, HostOffset, MAX_L1_BYTES};
use crate::qcow2::header::{Header, TableRef};
use crate::qcow2::snapshot::SnapshotReader;
use crate::qcow2::table::read_words;

/// Where an L1 entry is, and the guest byte that it leads to, if it is an active one.
pub(super) type Owner = (HostOffset, Option<GuestOffset>);

/// The L1 entries of the L2 tables that findings are about, snapshots' included.
#[derive(Default)]
pub(super) struct Owners {
    by_table: BTreeMap<HostOffset, Vec<Owner>>,
    /// The L1 tables that were looked through: where they begin, and end.
    seen: BTreeMap<HostOffset, HostOffset>,
}

impl Owners {
    /// Looks for them in every L1 table that a scan walks. The others are not believed here
    /// either: many snapshots could claim one long table.
    pub(super) fn find(
        storage: &dyn Storage,
        header: &Header,
        findings: &[Finding],
    ) -> Result<Owners> {
        let shared = |to: &Reference| to.what == Structure::L2Table && to.entry.is_none();
        let tables = findings.iter().filter_map(Finding::reference).filter(shared);
        let by_table = tables.map(|to| (to.host, Vec::new())).collect();
        let mut owners = Owners { by_table, ..Owners::default() };
        if owners.by_table.is_empty() {
            return Ok(owners);
        }
        owners.look_through(storage, header, header.l1, true)?;
        for snapshot in SnapshotReader::new(storage, header) {
            match snapshot {
                Ok(snapshot) => owners.look_through(storage, header, snapshot.l1, false)?,
                Err(error) if error.kind() == ErrorKind::Corrupt => break,
                Err(error) => return Err(error),
            }
        }
        Ok(owners)
    }

    fn look_through(
        &mut self,
        storage: &dyn Storage,
        header: &Header,
        l1: TableRef,
        is_active: bool,
    ) -> Result<()> {
        let (geometry, count) = (header.geometry, u64::from(l1.count));
        let end = l1.offset.plus_bytes(count.saturating_mul(ENTRY_SIZE));
        let before = self.seen.range(..end).next_back();
        let meets = before.is_some_and(|(_, before_ends)| *before_ends > l1.offset);
        let believed = count <= MAX_L1_BYTES / ENTRY_SIZE && geometry.is_aligned(l1.offset);
        if meets || !believed {
            return Ok(());
        }
        self.seen.insert(l1.offset, end);
        for (index, word) in (0u64..).zip(read_words(storage, l1.offset, count)?) {
            if let Some(owners) = self.by_table.get_mut(&L1Entry::from_word(word).offset_bits()) {
                let at = l1.offset.plus_bytes(index.saturating_mul(ENTRY_SIZE));
                let guest = geometry.guest_offset(geometry.first_cluster_of_table(index));
                owners.push((at, is_active.then_some(guest)));
            }
        }
        Ok(())
    }

    /// The entry that a reference names, or all that refer to the same table.
    pub(super) fn of(&self, to: Reference) -> Vec<Owner> {
        match to.entry {
            Some(at) => vec![(at, to.guest)],
            None => self.by_table.get(&to.host).cloned().unwrap_or_default(),
        }
    }
}
