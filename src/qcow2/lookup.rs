//! From a guest offset to what its L2 entry says, by way of the tables in memory.

use std::sync::PoisonError;
use std::sync::{RwLockReadGuard, RwLockWriteGuard};

use super::cache::Rank;
use super::entry::{ClusterRef, L1Entry, L2Entry, Mapping};
use super::error::FormatError;
use super::geometry::{ENTRY_SIZE, GuestCluster, HostOffset};
use super::live::Live;
use super::open::Qcow2;
use crate::error::Result;

/// Where a walk down the tables ended.
pub(super) enum Walk {
    /// At the cluster's entry.
    Entry(L2Entry),
    /// At an L1 entry that leads to no table.
    NoTable,
    /// At a slice that is not in memory.
    Missing(HostOffset, Rank),
}

impl Qcow2 {
    /// The image's state, to be looked at.
    pub(super) fn live(&self) -> RwLockReadGuard<'_, Live> {
        // OK to ignore poison: whoever changes it latches the image when it does not come to an end.
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image's state, to be changed.
    pub(super) fn live_mut(&self) -> RwLockWriteGuard<'_, Live> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `look` on the image's state once every slice that it asks for is in memory.
    pub(super) fn looking<T>(
        &self,
        look: impl Fn(&Live) -> Result<Result<T, (HostOffset, Rank)>>,
    ) -> Result<(RwLockReadGuard<'_, Live>, T)> {
        loop {
            let live = self.live();
            match look(&live)? {
                Ok(found) => return Ok((live, found)),
                Err((offset, rank)) => {
                    drop(live);
                    self.live_mut().tables.load(&*self.storage, offset, rank)?;
                }
            }
        }
    }

    /// Walks down to the entry of a guest cluster, as far as the tables are in memory.
    pub(super) fn walk(&self, live: &Live, cluster: GuestCluster) -> Result<Walk> {
        let geometry = self.header.geometry;
        let index = geometry.l1_index(cluster);
        if index >= u64::from(self.header.l1.count) {
            return Ok(Walk::NoTable);
        }
        let at = self.l1_offset(index);
        let Some(word) = live.tables.get(at).and_then(first_word) else {
            return Ok(Walk::Missing(at, Rank::Root));
        };
        let table = L1Entry::from_word(word).decode(geometry).map_err(FormatError::into_error)?;
        let Some(table) = table else { return Ok(Walk::NoTable) };
        let at = self.l2_offset(table, cluster);
        match live.tables.get(at).and_then(|bytes| entry(bytes, geometry.extended_l2())) {
            Some(entry) => Ok(Walk::Entry(entry)),
            None => Ok(Walk::Missing(at, Rank::Leaf)),
        }
    }

    /// What is known of a guest cluster from the tables in memory; else the slice that is missing.
    pub(super) fn mapping_in(
        &self,
        live: &Live,
        cluster: GuestCluster,
    ) -> Result<Result<Mapping, (HostOffset, Rank)>> {
        Ok(match self.walk(live, cluster)? {
            Walk::Entry(entry) => Ok(self.decode(entry)?),
            Walk::NoTable => Ok(Mapping::Unallocated),
            Walk::Missing(offset, rank) => Err((offset, rank)),
        })
    }

    /// What an L2 entry of this image says.
    pub(super) fn decode(&self, entry: L2Entry) -> Result<Mapping> {
        if self.data_file.is_some() && entry.is_at_zero() {
            return entry.decode_at_zero(self.header.geometry).map_err(FormatError::into_error);
        }
        entry.decode(self.header.geometry).map_err(FormatError::into_error)
    }

    /// What the L2 entry of a guest cluster says.
    pub(super) fn mapping(&self, cluster: GuestCluster) -> Result<Mapping> {
        self.looking(|live| self.mapping_in(live, cluster)).map(|(_, mapping)| mapping)
    }

    /// Where an L1 entry is.
    pub(super) fn l1_offset(&self, index: u64) -> HostOffset {
        self.header.l1.offset.plus_bytes(index.saturating_mul(ENTRY_SIZE))
    }

    /// Where the entry of a guest cluster is in its L2 table.
    pub(super) fn l2_offset(&self, table: ClusterRef, cluster: GuestCluster) -> HostOffset {
        let geometry = self.header.geometry;
        let within = geometry.l2_index(cluster).saturating_mul(geometry.l2_entry_size());
        table.offset.plus_bytes(within)
    }
}

/// The big-endian word that bytes begin with.
pub(super) fn first_word(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|word| u64::from_be_bytes(*word))
}

/// The L2 entry that bytes begin with.
fn entry(bytes: &[u8], extended: bool) -> Option<L2Entry> {
    let bitmap = if extended { first_word(bytes.get(8..)?)? } else { 0 };
    Some(L2Entry { word: first_word(bytes)?, bitmap })
}
