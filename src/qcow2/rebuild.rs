//! Making the reference counts of a dirty image true again, from what its tables refer to.
//!
//! The dirty bit stays set until the counts are on the medium, so a crash in here changes nothing
//! about the image being rebuilt the next time. An image with nothing but active tables has no
//! count above one: a cluster that is referred to twice is damage, and is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::entry::{L1Entry, L2Entry, Mapping, RefcountTableEntry};
use super::error::{FormatError, Problem};
use super::feature::{Autoclear, Compatible, Incompatible};
use super::flush::switch_header;
use super::geometry::{ClusterCount, Geometry, HostCluster, HostOffset};
use super::growth::RefcountGrowth;
use super::header::Header;
use super::open::Qcow2;
use super::raw_header::V3_MIN_HEADER_LEN;
use super::refblock::RefcountBlock;
use super::refcounts::Refcounts;
use super::release::Releaser;
use super::table::{L2Table, encode_words, read_refcount_table};
use crate::error::{Error, ErrorKind, Result};

/// What the tables refer to.
struct Scan {
    used: UsedClusters,
    /// L1 entries, by index, that lack the COPIED flag or lead to a table with entries that do.
    without_copied: Vec<u64>,
}

impl Qcow2 {
    /// Rebuilds the counts and, unless the image is of the kind that never keeps them (lazy, with
    /// a header of 104 bytes), clears the dirty bit.
    ///
    /// # Errors
    /// [`Dirty`](ErrorKind::Dirty) with snapshots, bitmaps or compressed clusters, and
    /// [`Corrupt`](ErrorKind::Corrupt) where two references meet, both before anything is written.
    pub(super) fn rebuild_refcounts(&mut self) -> Result<()> {
        let header = &self.header;
        if header.snapshots.count > 0 || header.bitmaps().is_some() {
            let message = "the image is dirty, and its reference counts cannot be rebuilt by this \
                           version because it has snapshots or bitmaps";
            return Err(Error::new(ErrorKind::Dirty, message));
        }
        let table = read_refcount_table(&*self.storage, header)?;
        let scan = self.scan(&table)?;
        self.write_counts(&table, &scan).map_err(Error::after_changes)
    }

    fn scan(&self, table: &[RefcountTableEntry]) -> Result<Scan> {
        let (header, geometry) = (&self.header, self.header.geometry);
        let mut used = UsedClusters::new(geometry, self.storage.len()?);
        let one = ClusterCount::new(1);
        used.mark("header", HostOffset::ZERO, one)?;
        let l1_clusters = geometry.table_clusters(u64::from(header.l1.count));
        used.mark("L1 table", header.l1.offset, l1_clusters)?;
        let table_clusters = ClusterCount::new(u64::from(header.refcount_table.count));
        used.mark("refcount table", header.refcount_table.offset, table_clusters)?;
        for entry in table {
            if let Some(block) = entry.decode(geometry).map_err(FormatError::into_error)? {
                used.mark("refcount block", block, one)?;
            }
        }
        let mut without_copied = Vec::new();
        for (index, entry) in (0..).zip(&self.l1) {
            let Some(at) = entry.decode(geometry).map_err(FormatError::into_error)? else {
                continue;
            };
            used.mark("L2 table", at.offset, one)?;
            let mut copied = at.copied;
            let table = L2Table::read(&*self.storage, at.offset, geometry)?;
            for entry in table.entries().filter(|entry| !entry.is_empty()) {
                match entry.decode(geometry).map_err(FormatError::into_error)? {
                    Mapping::Compressed(_) => {
                        let message = "the image is dirty, and its reference counts cannot be \
                                       rebuilt by this version because it has compressed clusters";
                        return Err(Error::new(ErrorKind::Dirty, message));
                    }
                    mapping => {
                        if let Some(host) = mapping.host_cluster() {
                            used.mark("data cluster", host.offset, one)?;
                            copied &= host.copied;
                        }
                    }
                }
            }
            if !copied {
                without_copied.push(index);
            }
        }
        Ok(Scan { used, without_copied })
    }

    fn write_counts(&mut self, table: &[RefcountTableEntry], scan: &Scan) -> Result<()> {
        let geometry = self.header.geometry;
        let storage = &*self.storage;
        let mut missing: BTreeSet<u64> = scan.used.blocks();
        Refcounts::new(storage, geometry, table).each_block(|index, offset, stored| {
            missing.remove(&index);
            let mut expected = RefcountBlock::zeroed(geometry);
            scan.used.count(index, &mut expected);
            if expected == *stored {
                Ok(())
            } else {
                storage.write_at(offset.get(), expected.bytes())
            }
        })?;
        let end = geometry.host_cluster_after(storage.len()?);
        let growth = RefcountGrowth::plan(geometry, table, end, ClusterCount::ZERO, &missing)?;
        if !growth.added().is_empty() {
            storage.set_len(geometry.host_offset(growth.added().end).get())?;
            growth.write_added(storage, table, |index, block| scan.used.count(index, block))?;
            growth.raise_existing(storage, table)?;
        }
        storage.sync()?;
        self.set_copied(&scan.without_copied)?;

        let old = self.header.clone();
        let never_counts = old.compatible.contains(Compatible::LAZY_REFCOUNTS)
            && old.header_length == V3_MIN_HEADER_LEN;
        let clean = old.incompatible.without(Incompatible::DIRTY);
        let header = Header {
            incompatible: if never_counts { old.incompatible } else { clean },
            autoclear: Autoclear::default(),
            refcount_table: growth.table_ref().unwrap_or(old.refcount_table),
            ..old.clone()
        };
        switch_header(&*self.storage, &header)?;
        if growth.table_ref().is_some() {
            let start = geometry.host_cluster(old.refcount_table.offset);
            let clusters = ClusterCount::new(u64::from(old.refcount_table.count));
            let mut releaser = Releaser::new(&*self.storage, geometry, growth.table(table));
            releaser.release_run(start..start + clusters)?;
            releaser.finish()?;
        }
        self.header = header;
        Ok(())
    }

    /// Every count is one and on the medium: now the references may say so.
    fn set_copied(&mut self, l1_indexes: &[u64]) -> Result<()> {
        let geometry = self.header.geometry;
        for index in l1_indexes {
            let index = usize::try_from(*index).unwrap_or(usize::MAX);
            let Some(entry) = self.l1.get_mut(index) else { continue };
            let Some(mut at) = entry.decode(geometry).map_err(FormatError::into_error)? else {
                continue;
            };
            at.copied = true;
            *entry = L1Entry::encode(at);
            let mut table = L2Table::read(&*self.storage, at.offset, geometry)?;
            for index in 0..geometry.l2_entries() {
                let entry = table.get(index);
                let mapping = entry.decode(geometry).map_err(FormatError::into_error)?;
                if mapping.host_cluster().is_some() {
                    table.set(index, L2Entry::with_copied(entry));
                }
            }
            self.storage.write_at(at.offset.get(), table.bytes())?;
        }
        if !l1_indexes.is_empty() {
            let words = encode_words(self.l1.iter().map(|entry| entry.word()));
            self.storage.write_at(self.header.l1.offset.get(), &words)?;
        }
        self.recent_table = Default::default();
        Ok(())
    }
}

/// Host clusters that something refers to. Memory follows what is marked, not the file's length:
/// a sparse file can claim any length.
struct UsedClusters {
    geometry: Geometry,
    file_len: u64,
    /// Bits of 4096 clusters each, by the number of the group.
    groups: BTreeMap<u64, Box<[u64; 64]>>,
}

impl UsedClusters {
    fn new(geometry: Geometry, file_len: u64) -> Self {
        UsedClusters { geometry, file_len, groups: BTreeMap::new() }
    }

    /// Marks a run that begins at `offset`; every cluster of it must begin inside the file and be
    /// marked for the first time.
    fn mark(&mut self, owner: &'static str, offset: HostOffset, count: ClusterCount) -> Result<()> {
        let start = self.geometry.host_cluster(offset);
        for cluster in start.get()..(start + count).get() {
            let offset = self.geometry.host_offset(HostCluster::new(cluster)).get();
            if offset >= self.file_len {
                let (file_len, len) = (self.file_len, self.geometry.cluster_size());
                return Err(Problem::BeyondFile { what: owner, offset, len, file_len }.into_error());
            }
            let group = self.groups.entry(cluster >> 12).or_insert_with(|| Box::new([0; 64]));
            let (word, bit) = place(cluster);
            if let Some(word) = group.get_mut(word) {
                if *word & bit != 0 {
                    return Err(Problem::UsedTwice { offset, owner }.into_error());
                }
                *word |= bit;
            }
        }
        Ok(())
    }

    /// Every used cluster of the groups that reach into `range`, ascending.
    fn used(&self, range: RangeInclusive<u64>) -> impl Iterator<Item = u64> {
        let groups = self.groups.range(range.start() >> 12..=range.end() >> 12);
        let words = groups.flat_map(|(group, words)| {
            (0..).zip(words.iter()).map(move |(place, word)| (group << 12 | place << 6, *word))
        });
        let clusters = words.filter(|(_, word)| *word != 0).flat_map(|(first, word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first | bit)
        });
        clusters.filter(move |cluster| range.contains(cluster))
    }

    /// Indexes of the refcount blocks that count something.
    fn blocks(&self) -> BTreeSet<u64> {
        let clusters = self.used(0..=u64::MAX).map(HostCluster::new);
        clusters.map(|cluster| self.geometry.refblock_index(cluster)).collect()
    }

    /// Sets the counts of the block with this index.
    fn count(&self, index: u64, block: &mut RefcountBlock) {
        let first = self.geometry.first_cluster_of_refblock(index).get();
        let last = first.saturating_add(self.geometry.refblock_entries()).saturating_sub(1);
        for cluster in self.used(first..=last) {
            block.set(cluster.saturating_sub(first), 1);
        }
    }
}

/// The word and the bit of a cluster within its group.
fn place(cluster: u64) -> (usize, u64) {
    let word = usize::try_from(cluster >> 6 & 63).unwrap_or_default();
    (word, 1u64 << (cluster & 63))
}
