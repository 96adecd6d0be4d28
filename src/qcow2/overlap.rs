//! Where the image's own structures are, so that guest data is never written over one and none is
//! handed out as a free cluster, whatever entries and counts claim.

use std::ops::Range;

use super::entry::{L1Entry, RefcountTableEntry};
use super::error::Problem;
use super::geometry::{ClusterCount, Geometry, HostCluster, HostOffset};
use super::header::Header;
use super::snapshot::SnapshotReader;
use crate::error::Result;
use crate::host::storage::Storage;

/// The most L2 tables that are remembered: those of 8 TiB in clusters of 64 KiB four times over.
/// They take 1 MiB.
const MAX_TABLES: usize = 1 << 16;

/// The clusters of an image's structures.
#[derive(Debug, Default)]
pub(super) struct Structures {
    /// Header, L1 tables, refcount table and blocks, snapshot table, bitmap directory.
    fixed: Runs,
    /// L2 tables of the active disk, the first [`MAX_TABLES`] of them.
    tables: Runs,
}

impl Structures {
    /// Those that the header and the tables refer to.
    pub(super) fn find(
        storage: &dyn Storage,
        header: &Header,
        blocks: &[RefcountTableEntry],
        l1: &[L1Entry],
    ) -> Structures {
        let geometry = header.geometry;
        let mut found = Structures::default();
        let snapshots = SnapshotReader::new(storage, header);
        // An entry that makes no sense refers to nothing: whoever needs it reports it.
        for snapshot in snapshots.map_while(Result::ok) {
            let clusters = geometry.table_clusters(snapshot.l1.count.into());
            found.add_at(geometry, snapshot.l1.offset, clusters);
        }
        if header.snapshots.count > 0 {
            found.add_at(geometry, header.snapshots.offset, ClusterCount::new(1));
        }
        if let Some(bitmaps) = header.bitmaps() {
            let clusters = geometry.clusters_for(bitmaps.size_bytes);
            found.add_at(geometry, HostOffset::new(bitmaps.offset), clusters);
        }
        found.add(HostCluster::ZERO..HostCluster::new(1));
        let l1_clusters = geometry.table_clusters(header.l1.count.into());
        found.add_at(geometry, header.l1.offset, l1_clusters);
        let table = header.refcount_table;
        found.add_at(geometry, table.offset, ClusterCount::new(table.count.into()));
        for block in blocks.iter().filter_map(|entry| entry.decode(geometry).ok().flatten()) {
            found.add_at(geometry, block, ClusterCount::new(1));
        }
        for table in l1.iter().filter_map(|entry| entry.decode(geometry).ok().flatten()) {
            found.add_table(geometry.host_cluster(table.offset));
        }
        found
    }

    /// Remembers clusters that a structure takes.
    pub(super) fn add(&mut self, run: Range<HostCluster>) {
        self.fixed.add(run);
    }

    fn add_at(&mut self, geometry: Geometry, offset: HostOffset, clusters: ClusterCount) {
        let first = geometry.host_cluster(offset);
        self.fixed.add(first..first + clusters);
    }

    /// Remembers an L2 table.
    pub(super) fn add_table(&mut self, cluster: HostCluster) {
        if self.tables.0.len() < MAX_TABLES {
            self.tables.add(cluster..cluster + ClusterCount::new(1));
        }
    }

    /// Forgets clusters that are free now.
    pub(super) fn remove(&mut self, run: &Range<HostCluster>) {
        self.fixed.remove(run);
        self.tables.remove(run);
    }

    /// Whether a structure is in this cluster.
    pub(super) fn holds(&self, cluster: HostCluster) -> bool {
        self.fixed.holds(cluster) || self.tables.holds(cluster)
    }

    /// Refuses an L2 table where another structure is.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt).
    pub(super) fn require_table(&self, geometry: Geometry, offset: HostOffset) -> Result<()> {
        match self.fixed.holds(geometry.host_cluster(offset)) {
            true => {
                Err(Problem::UsedTwice { offset: offset.get(), owner: "L2 table" }.into_error())
            }
            false => Ok(()),
        }
    }

    /// Refuses guest data in `len` bytes at `offset` where a structure is.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt).
    pub(super) fn require_data(
        &self,
        geometry: Geometry,
        offset: HostOffset,
        len: u64,
    ) -> Result<()> {
        let last = offset.plus_bytes(len.saturating_sub(1));
        let run = geometry.host_cluster(offset)..geometry.host_cluster(last) + ClusterCount::new(1);
        if self.fixed.meets(&run) || self.tables.meets(&run) {
            let offset = offset.get();
            return Err(Problem::UsedTwice { offset, owner: "guest data" }.into_error());
        }
        Ok(())
    }
}

/// Runs of clusters in order, none of which touch.
#[derive(Debug, Default)]
struct Runs(Vec<Range<HostCluster>>);

impl Runs {
    fn meets(&self, run: &Range<HostCluster>) -> bool {
        let behind = self.0.partition_point(|other| other.end <= run.start);
        self.0.get(behind).is_some_and(|other| other.start < run.end)
    }

    fn holds(&self, cluster: HostCluster) -> bool {
        self.meets(&(cluster..cluster + ClusterCount::new(1)))
    }

    fn add(&mut self, mut run: Range<HostCluster>) {
        if run.is_empty() {
            return;
        }
        let first = self.0.partition_point(|other| other.end < run.start);
        let end = self.0.partition_point(|other| other.start <= run.end);
        for other in self.0.get(first..end).unwrap_or_default() {
            run = run.start.min(other.start)..run.end.max(other.end);
        }
        self.0.splice(first..end.max(first), [run]);
    }

    fn remove(&mut self, gone: &Range<HostCluster>) {
        let first = self.0.partition_point(|run| run.end <= gone.start);
        let end = self.0.partition_point(|run| run.start < gone.end);
        if first >= end || gone.is_empty() {
            return;
        }
        let cut = self.0.get(first..end).unwrap_or_default();
        let before = cut.first().map(|run| run.start..gone.start);
        let after = cut.last().map(|run| gone.end..run.end);
        let left = before.into_iter().chain(after).filter(|run| !run.is_empty());
        let left: Vec<_> = left.collect();
        self.0.splice(first..end, left);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Runs hold what was added and not removed, and stay in order and apart.
        #[test]
        fn runs_are_sets(steps in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..9), 1..40)) {
            let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
            for (adds, start, len) in steps {
                let run = HostCluster::new(start)..HostCluster::new(start + len);
                if adds {
                    runs.add(run);
                    model.extend(start..start + len);
                } else {
                    runs.remove(&run);
                    model.retain(|cluster| !(start..start + len).contains(cluster));
                }
                for cluster in 0..50 {
                    prop_assert_eq!(runs.holds(HostCluster::new(cluster)), model.contains(&cluster));
                }
                prop_assert!(runs.0.iter().all(|run| !run.is_empty()));
                prop_assert!(runs.0.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
        }
    }
}
