//! Tables of 64-bit big-endian words: the L1 table, the refcount table, and L2 tables.

use std::ops::Range;

use super::entry::{L1Entry, L2Entry, RefcountTableEntry};
use super::geometry::{ClusterCount, ENTRY_SIZE, Geometry, HostOffset};
use super::header::Header;
use super::lengths::index;
use crate::error::Result;
use crate::host::storage::{Storage, read_exact_at, read_padded_at};

/// Reads the active L1 table. Its length was checked with the header.
pub(super) fn read_l1(storage: &dyn Storage, header: &Header) -> Result<Vec<L1Entry>> {
    let words = read_words(storage, header.l1.offset, u64::from(header.l1.count))?;
    Ok(words.into_iter().map(L1Entry::from_word).collect())
}

/// Shows every entry of the active L1 table to `visit`, with little of it in memory at a time.
pub(super) fn each_l1_entry(
    storage: &dyn Storage,
    header: &Header,
    mut visit: impl FnMut(L1Entry) -> Result<()>,
) -> Result<()> {
    const PIECE: u64 = 8192;
    let (mut at, mut left) = (header.l1.offset, u64::from(header.l1.count));
    while left > 0 {
        let count = left.min(PIECE);
        let words = read_words(storage, at, count)?;
        words.into_iter().try_for_each(|word| visit(L1Entry::from_word(word)))?;
        at = at.plus_bytes(count.saturating_mul(ENTRY_SIZE));
        left = left.saturating_sub(count);
    }
    Ok(())
}

/// Reads the refcount table. Its length was checked with the header.
pub(super) fn read_refcount_table(
    storage: &dyn Storage,
    header: &Header,
) -> Result<Vec<RefcountTableEntry>> {
    let entries = u64::from(header.refcount_table.count)
        .saturating_mul(header.geometry.cluster_size() / ENTRY_SIZE);
    let words = read_words(storage, header.refcount_table.offset, entries)?;
    Ok(words.into_iter().map(RefcountTableEntry::from_word).collect())
}

/// The words as they are stored.
pub(super) fn encode_words(words: impl IntoIterator<Item = u64>) -> Vec<u8> {
    words.into_iter().flat_map(u64::to_be_bytes).collect()
}

/// One L2 table: the cluster as stored, so that a table of 2 MiB takes no more than that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct L2Table {
    bytes: Vec<u8>,
    entry_size: usize,
}

/// Entries of an L2 table that are alike, each with the cluster behind that of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryRun {
    /// The first of them.
    pub(super) entry: L2Entry,
    /// How many there are.
    pub(super) clusters: u64,
}

impl EntryRun {
    /// The entry at `index` of the run.
    pub(super) fn get(self, index: u64, geometry: Geometry) -> L2Entry {
        let ahead = geometry.bytes_of(ClusterCount::new(index));
        L2Entry { word: self.entry.word.wrapping_add(ahead), ..self.entry }
    }

    /// Its entries, one by one.
    pub(super) fn entries(self, geometry: Geometry) -> impl Iterator<Item = L2Entry> {
        (0..self.clusters).map(move |index| self.get(index, geometry))
    }
}

impl L2Table {
    /// The entries that are not empty, in runs, each with its place in the table.
    pub(super) fn runs(&self, geometry: Geometry) -> impl Iterator<Item = (u64, EntryRun)> {
        let mut entries = (0..).zip(self.entries()).peekable();
        std::iter::from_fn(move || {
            let (index, entry) = entries.find(|(_, entry)| !entry.is_empty())?;
            let mut run = EntryRun { entry, clusters: 1 };
            while entries.next_if(|(_, next)| *next == run.get(run.clusters, geometry)).is_some() {
                run.clusters = run.clusters.saturating_add(1);
            }
            Some((index, run))
        })
    }

    pub(super) fn empty(geometry: Geometry) -> Self {
        Self::of(vec![0; geometry.cluster_len()], geometry)
    }

    pub(super) fn read(
        storage: &dyn Storage,
        offset: HostOffset,
        geometry: Geometry,
    ) -> Result<Self> {
        let mut bytes = vec![0; geometry.cluster_len()];
        read_exact_at(storage, offset.get(), &mut bytes)?;
        Ok(Self::of(bytes, geometry))
    }

    /// As [`read`](Self::read), with zeros where the file has ended.
    pub(super) fn read_padded(
        storage: &dyn Storage,
        offset: HostOffset,
        geometry: Geometry,
    ) -> Result<Self> {
        let mut bytes = vec![0; geometry.cluster_len()];
        read_padded_at(storage, offset.get(), &mut bytes)?;
        Ok(Self::of(bytes, geometry))
    }

    fn of(bytes: Vec<u8>, geometry: Geometry) -> Self {
        // OK to default: an entry has 8 bytes or 16.
        L2Table { bytes, entry_size: usize::try_from(geometry.l2_entry_size()).unwrap_or(8) }
    }

    /// The cluster as stored.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Every entry, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = L2Entry> {
        self.bytes.chunks_exact(self.entry_size.max(1)).map(stored_entry)
    }

    /// The entry at `index`; unallocated beyond the table.
    pub(super) fn get(&self, index: u64) -> L2Entry {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let stored = self.bytes.chunks_exact(self.entry_size.max(1)).nth(index);
        stored.map(stored_entry).unwrap_or_default()
    }

    /// Replaces the entry at `index`; does nothing beyond the table.
    pub(super) fn set(&mut self, index: u64, entry: L2Entry) {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let stored = self.bytes.chunks_exact_mut(self.entry_size.max(1)).nth(index);
        let words = stored.into_iter().flat_map(|stored| stored.chunks_exact_mut(8));
        words.zip([entry.word, entry.bitmap]).for_each(|(to, from)| put_word(to, from));
    }
}

impl L2Table {
    /// Sets or clears the COPIED flag of the entries in these places; set, each must have a host
    /// cluster.
    pub(super) fn set_copied(&mut self, places: Range<u64>, copied: bool) {
        let entry_size = self.entry_size.max(1);
        let byte = |place: u64| index(place).saturating_mul(entry_size).min(self.bytes.len());
        let range = byte(places.start)..byte(places.end);
        for stored in self.bytes.get_mut(range).unwrap_or_default().chunks_exact_mut(entry_size) {
            if let Some(first) = stored.first_mut() {
                *first = *first & 0x7f | u8::from(copied) << 7;
            }
        }
    }
}

/// The L2 entry that is stored like this, in 8 bytes or 16.
pub(super) fn stored_entry(stored: &[u8]) -> L2Entry {
    let bitmap = stored.get(8..).and_then(first_word).unwrap_or_default();
    L2Entry { word: first_word(stored).unwrap_or_default(), bitmap }
}

/// The big-endian word that bytes begin with.
pub(super) fn first_word(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|word| u64::from_be_bytes(*word))
}

/// Replaces that word.
pub(super) fn put_word(stored: &mut [u8], word: u64) {
    if let Some(place) = stored.first_chunk_mut() {
        *place = word.to_be_bytes();
    }
}

/// Reads `count` words, zeros where the file has ended: a table may end in a cluster that was
/// never wholly written. The caller bounds `count`.
pub(super) fn read_words(
    storage: &dyn Storage,
    offset: HostOffset,
    count: u64,
) -> Result<Vec<u64>> {
    // OK to default: tables are limited to 32 MiB where they are checked.
    let len = usize::try_from(count.saturating_mul(ENTRY_SIZE)).unwrap_or_default();
    let mut bytes = vec![0; len];
    read_padded_at(storage, offset.get(), &mut bytes)?;
    Ok(bytes.chunks_exact(8).filter_map(first_word).collect())
}
