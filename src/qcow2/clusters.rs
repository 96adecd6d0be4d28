//! Which host clusters something refers to, so that no two things claim one.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use super::entry::{L1Entry, RefcountTableEntry};
use super::error::{FormatError, Problem};
use super::geometry::{ClusterCount, Geometry, HostCluster, HostOffset};
use super::header::Header;
use crate::error::Result;

/// Host clusters that something refers to. Memory follows what is marked, not the file's length:
/// a sparse file can claim any length.
#[derive(Debug)]
pub(super) struct UsedClusters {
    geometry: Geometry,
    file_len: u64,
    /// Bits of 4096 clusters each, by the number of the group.
    groups: BTreeMap<u64, Box<[u64; 64]>>,
}

impl UsedClusters {
    pub(super) fn new(geometry: Geometry, file_len: u64) -> Self {
        UsedClusters { geometry, file_len, groups: BTreeMap::new() }
    }

    /// Marks a run that begins at `offset`; every cluster of it must begin inside the file and be
    /// marked for the first time.
    pub(super) fn mark(
        &mut self,
        owner: &'static str,
        offset: HostOffset,
        count: ClusterCount,
    ) -> Result<()> {
        let start = self.geometry.host_cluster(offset);
        for cluster in start.get()..(start + count).get() {
            let offset = self.geometry.host_offset(HostCluster::new(cluster)).get();
            if offset >= self.file_len {
                let (file_len, len) = (self.file_len, self.geometry.cluster_size());
                return Err(Problem::BeyondFile { what: owner, offset, len, file_len }.into_error());
            }
            self.add(owner, HostCluster::new(cluster))?;
        }
        Ok(())
    }

    /// Marks one cluster, for the first time, wherever it lies: guest data that was never written
    /// may lie behind the file's end.
    pub(super) fn add(&mut self, owner: &'static str, cluster: HostCluster) -> Result<()> {
        let group = self.groups.entry(cluster.get() >> 12).or_insert_with(|| Box::new([0; 64]));
        let (word, bit) = place(cluster.get());
        let Some(word) = group.get_mut(word) else { return Ok(()) };
        if *word & bit != 0 {
            let offset = self.geometry.host_offset(cluster).get();
            return Err(Problem::UsedTwice { offset, owner }.into_error());
        }
        *word |= bit;
        Ok(())
    }

    /// Marks the clusters of a run, each for the first time, wherever they lie.
    pub(super) fn add_run(&mut self, owner: &'static str, run: Range<HostCluster>) -> Result<()> {
        let mut at = run.start.get();
        while at < run.end.get() {
            // As far as one word of bits goes.
            let end = (at | 63).saturating_add(1).min(run.end.get());
            let bits = u64::MAX >> 64u64.saturating_sub(end.saturating_sub(at)).min(63);
            let group = self.groups.entry(at >> 12).or_insert_with(|| Box::new([0; 64]));
            let (word, first) = place(at);
            let bits = bits << first.trailing_zeros();
            match group.get_mut(word) {
                Some(word) if *word & bits == 0 => *word |= bits,
                // One of them is somebody's: that one is told.
                _ => {
                    (at..end).try_for_each(|cluster| self.add(owner, HostCluster::new(cluster)))?
                }
            }
            at = end;
        }
        Ok(())
    }

    /// Every marked cluster, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = HostCluster> {
        self.used(0..=u64::MAX).map(HostCluster::new)
    }

    /// The first cluster behind all that are marked.
    pub(super) fn end(&self) -> HostCluster {
        let last = self.groups.last_key_value().map_or(0, |(group, _)| group << 12);
        let last = self.used(last..=u64::MAX).last();
        last.map_or(HostCluster::ZERO, |last| HostCluster::new(last.saturating_add(1)))
    }

    /// Marks the header, both tables, every refcount block and every active L2 table: what an
    /// image is made of besides guest data. No two of them may meet.
    pub(super) fn mark_metadata(
        &mut self,
        header: &Header,
        l1: &[L1Entry],
        table: &[RefcountTableEntry],
    ) -> Result<()> {
        let geometry = self.geometry;
        let one = ClusterCount::new(1);
        self.mark("header", HostOffset::ZERO, one)?;
        let l1_clusters = geometry.table_clusters(u64::from(header.l1.count));
        self.mark("L1 table", header.l1.offset, l1_clusters)?;
        let table_clusters = ClusterCount::new(u64::from(header.refcount_table.count));
        self.mark("refcount table", header.refcount_table.offset, table_clusters)?;
        for entry in table {
            if let Some(block) = entry.decode(geometry).map_err(FormatError::into_error)? {
                self.mark("refcount block", block, one)?;
            }
        }
        for entry in l1 {
            if let Some(table) = entry.decode(geometry).map_err(FormatError::into_error)? {
                self.mark("L2 table", table.offset, one)?;
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
}

/// The word and the bit of a cluster within its group.
fn place(cluster: u64) -> (usize, u64) {
    let word = usize::try_from(cluster >> 6 & 63).unwrap_or_default();
    (word, 1u64 << (cluster & 63))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::qcow2::geometry::{ClusterBits, RefcountOrder};

    proptest! {
        /// A run is its clusters, and one that is somebody's already is told, whichever it is.
        #[test]
        fn runs_are_their_clusters(runs in prop::collection::vec((0u64..9000, 0u64..5000), 1..6)) {
            let (bits, order) = (ClusterBits::new(16).unwrap(), RefcountOrder::new(4).unwrap());
            let geometry = Geometry::new(bits, order, false).unwrap();
            let (mut at_once, mut singly) =
                (UsedClusters::new(geometry, 0), UsedClusters::new(geometry, 0));
            for (start, len) in runs {
                let run = HostCluster::new(start)..HostCluster::new(start + len);
                let one_by_one = (start..start + len)
                    .try_for_each(|cluster| singly.add("data", HostCluster::new(cluster)));
                let added = at_once.add_run("data", run);
                let told = |result: Result<()>| result.map_err(|error| error.to_string());
                let failed = one_by_one.is_err();
                prop_assert_eq!(told(added), told(one_by_one));
                if failed { break }
                prop_assert!(at_once.iter().eq(singly.iter()));
            }
        }
    }
}
