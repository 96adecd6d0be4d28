//! From a guest offset to what its L2 entry says, by way of the tables in memory.

use std::sync::{MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use super::cache::{Rank, Words};
use super::entry::{ClusterRef, L1Entry, L2Entry, Mapping};
use super::error::{FormatError, Problem};
use super::geometry::{
    ClusterCount, ENTRY_SIZE, GuestCluster, GuestOffset, HostOffset, MAX_HOST_OFFSET,
};
use super::live::Live;
use super::open::Qcow2;
use super::table::{first_word, stored_entry};
use crate::error::{Error, ErrorKind, Result};

/// Guest clusters one after the other that are mapped alike.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// What the first is mapped to; the data of the others follows on its data.
    pub(super) mapping: Mapping,
    /// How many there are; at least one.
    pub(super) clusters: u64,
}

/// A slice of a table that is needed and not in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing(HostOffset, Rank);

impl Qcow2 {
    /// The image's state, to be looked at.
    pub(super) fn live(&self) -> RwLockReadGuard<'_, Live> {
        // OK to ignore poison: what a change that did not come to its end has left is never written.
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image's state, to be changed.
    pub(super) fn live_mut(&self) -> RwLockWriteGuard<'_, Live> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to change tables: one has it at a time, from before a change to its end, and a
    /// flush from its first step to its last.
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal) after a change that did not come to its end.
    pub(super) fn order(&self) -> Result<MutexGuard<'_, ()>> {
        self.order.lock().map_err(|_| {
            Error::new(ErrorKind::Internal, "an earlier change did not come to its end")
        })
    }

    /// The run that begins with `cluster`, up to `most` clusters, and the state that says so: as
    /// long as that is held, what the run refers to stays where it is.
    pub(super) fn run(
        &self,
        cluster: GuestCluster,
        most: u64,
    ) -> Result<(RwLockReadGuard<'_, Live>, Run)> {
        loop {
            let live = self.live();
            match self.run_in(&live, cluster, most)? {
                Ok(run) => return Ok((live, run)),
                Err(Missing(offset, rank)) => {
                    drop(live);
                    self.live_mut().tables.load(&*self.storage, offset, rank)?;
                }
            }
        }
    }

    /// The run that `len` bytes at `offset` begin in, as far as they need it.
    pub(super) fn run_for(
        &self,
        offset: GuestOffset,
        len: usize,
    ) -> Result<(RwLockReadGuard<'_, Live>, Run)> {
        let geometry = self.header.geometry;
        let end = offset.plus_bytes(u64::try_from(len).unwrap_or(u64::MAX));
        let first = geometry.guest_cluster(offset);
        self.run(first, geometry.guest_cluster_after(end).get().saturating_sub(first.get()))
    }

    /// The bytes of a run from `offset`, which lies in its first cluster, to its end.
    pub(super) fn room_in(&self, run: Run, offset: GuestOffset) -> usize {
        let geometry = self.header.geometry;
        let bytes = run.clusters.saturating_mul(geometry.cluster_size());
        let room = bytes.saturating_sub(geometry.within_cluster(offset));
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// What a guest cluster is mapped to, to be changed; its tables are brought into memory.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) also where it is mapped to the image's own structures,
    /// or to nothing that the image uses.
    pub(super) fn mapping_now(&self, live: &mut Live, cluster: GuestCluster) -> Result<Mapping> {
        loop {
            match self.run_in(live, cluster, 1)? {
                Ok(run) => {
                    self.require_data(live, run)?;
                    return Ok(run.mapping);
                }
                Err(Missing(offset, rank)) => live.tables.load(&*self.storage, offset, rank)?,
            }
        }
    }

    /// Refuses to change guest data that lies where the image's own structures are, or behind
    /// everything that the image uses: it reads as zeros there, and written it would make the file
    /// as long as an entry says.
    pub(super) fn require_data(&self, live: &Live, run: Run) -> Result<()> {
        if self.data_file.is_some() {
            return Ok(());
        }
        let geometry = self.header.geometry;
        let (offset, len) = match run.mapping {
            Mapping::Compressed(range) => (range.offset, range.len),
            mapping => match mapping.host_cluster() {
                Some(host) => (host.offset, geometry.bytes_of(ClusterCount::new(run.clusters))),
                None => return Ok(()),
            },
        };
        let end = geometry.host_offset(live.end);
        if offset.plus_bytes(len) > end {
            let (what, offset, file_len) = ("guest data", offset.get(), end.get());
            return Err(Problem::BeyondFile { what, offset, len, file_len }.into_error());
        }
        live.structures.require_data(geometry, offset, len)
    }

    /// The run that begins with `cluster`, as far as the tables are in memory: no further than a
    /// slice of its L2 table goes.
    fn run_in(
        &self,
        live: &Live,
        cluster: GuestCluster,
        most: u64,
    ) -> Result<Result<Run, Missing>> {
        let geometry = self.header.geometry;
        let index = geometry.l1_index(cluster);
        let at = self.l1_offset(index);
        let mut table = None;
        if index < u64::from(self.header.l1.count) {
            let Some(word) = live.tables.get(at).and_then(first_word) else {
                return Ok(Err(Missing(at, Rank::Root)));
            };
            table = L1Entry::from_word(word).decode(geometry).map_err(FormatError::into_error)?;
        }
        let Some(table) = table else {
            let next = geometry.first_cluster_of_table(index.saturating_add(1));
            let clusters = next.get().saturating_sub(cluster.get()).min(most);
            return Ok(Ok(Run { mapping: Mapping::Unallocated, clusters }));
        };
        let at = self.l2_offset(table, cluster);
        match live.tables.words(at) {
            Some(Words::Series { first, count }) => {
                self.run_in_series(first, count.min(most)).map(Ok)
            }
            Some(Words::Bytes(stored)) => self.run_of(stored, most).map(Ok),
            None => Ok(Err(Missing(at, Rank::Leaf))),
        }
    }

    /// The run that begins with this entry, whose successors lead to one cluster after the other.
    fn run_in_series(&self, word: u64, count: u64) -> Result<Run> {
        let mapping = self.decode(L2Entry { word, bitmap: 0 })?;
        let clusters = if matches!(mapping, Mapping::Data(_)) { count } else { 1 };
        Ok(Run { mapping, clusters })
    }

    /// The run that these entries begin with.
    pub(super) fn run_of(&self, stored: &[u8], most: u64) -> Result<Run> {
        let geometry = self.header.geometry;
        // OK to default: an entry has 8 bytes or 16.
        let entry_len = usize::try_from(geometry.l2_entry_size()).unwrap_or(8);
        let first = stored_entry(stored.get(..entry_len).unwrap_or_default());
        let mapping = self.decode(first)?;
        let (step, most) = match mapping {
            Mapping::Unallocated | Mapping::Zero(None) => (0, most),
            Mapping::Data(host) | Mapping::Zero(Some(host)) => {
                // No further than offsets go: behind that begin the bits that are reserved.
                let room = MAX_HOST_OFFSET.saturating_sub(host.offset.get());
                (geometry.cluster_size(), most.min(room >> geometry.cluster_bits().get()))
            }
            Mapping::Mixed(..) | Mapping::Compressed(_) => (0, 1),
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
        let stored = stored.get(..most.saturating_mul(entry_len)).unwrap_or(stored);
        let alike = match geometry.extended_l2() {
            false => alike(stored.as_chunks::<8>().0, first, step),
            true => alike(stored.as_chunks::<16>().0, first, step),
        };
        Ok(Run { mapping, clusters: u64::try_from(alike).unwrap_or(u64::MAX).max(1) })
    }

    /// What an L2 entry of this image says.
    fn decode(&self, entry: L2Entry) -> Result<Mapping> {
        match self.header.mapping(entry).map_err(FormatError::into_error)? {
            Mapping::Compressed(_) if self.data_file.is_some() => {
                Err(Problem::CompressedExternally.into_error())
            }
            mapping => Ok(mapping),
        }
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

/// How many entries from the first on are like it, but for an offset that is `step` bytes more with
/// each. All tables of an image go through here when it is looked at as a whole.
fn alike<const ENTRY: usize>(entries: &[[u8; ENTRY]], first: L2Entry, step: u64) -> usize {
    const TOGETHER: usize = 8;
    let differs = |entry: &[u8; ENTRY], expected: u64| {
        let entry = stored_entry(entry);
        (entry.word ^ expected) | (entry.bitmap ^ first.bitmap)
    };
    let mut expected = first.word;
    let mut alike = 0usize;
    // Several at a time, which the processor compares without a branch between them.
    for block in entries.as_chunks::<TOGETHER>().0 {
        let mut ahead = expected;
        let mut differ = 0;
        for entry in block {
            differ |= differs(entry, ahead);
            ahead = ahead.wrapping_add(step);
        }
        if differ != 0 {
            break;
        }
        expected = ahead;
        alike = alike.saturating_add(TOGETHER);
    }
    for entry in entries.get(alike..).unwrap_or_default() {
        if differs(entry, expected) != 0 {
            break;
        }
        expected = expected.wrapping_add(step);
        alike = alike.saturating_add(1);
    }
    alike
}
