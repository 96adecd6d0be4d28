//! What the L2 entries of added guest clusters say.

use super::Growth;
use super::survey::Survey;
use crate::qcow2::entry::{ClusterRef, L2Entry, Subclusters};
use crate::qcow2::geometry::{ClusterCount, Geometry, GuestCluster, HostCluster};
use crate::qcow2::options::Preallocation;
use crate::qcow2::stream::EntryRun;

/// What the L2 entries of added guest clusters say: first those with a host cluster, then those
/// that hide what is below, then nothing.
#[derive(Debug, Clone)]
pub(super) struct Fill {
    geometry: Geometry,
    first: GuestCluster,
    data_end: GuestCluster,
    zero_end: GuestCluster,
    /// The end of what needs tables.
    pub(super) table_end: GuestCluster,
    /// Where the host clusters begin.
    pub(super) data_start: HostCluster,
    /// Subclusters of clusters that have a host cluster.
    reserved: Subclusters,
}

impl Fill {
    pub(super) fn new(survey: &Survey, new_end: GuestCluster, growth: Growth) -> Fill {
        let geometry = survey.header.geometry;
        let first = survey.kept;
        // What is below shows through where it is longer than the old disk, unless hidden.
        let covered = growth.below_end.map_or(new_end, |below_end| {
            geometry.guest_cluster_after(below_end).clamp(first, new_end)
        });
        let all = growth.preallocation.maps_data();
        let v2_hides = !survey.is_v3();
        let data_end = if all {
            new_end
        } else if v2_hides {
            covered
        } else {
            first
        };
        let tables = growth.preallocation == Preallocation::Tables;
        Fill {
            geometry,
            first,
            data_end,
            zero_end: covered.max(data_end),
            table_end: if tables { new_end } else { covered.max(data_end) },
            data_start: HostCluster::ZERO,
            reserved: if covered > first { Subclusters::ZERO } else { Subclusters::UNALLOCATED },
        }
    }

    pub(super) fn nothing(survey: &Survey) -> Fill {
        let first = survey.kept;
        Fill {
            geometry: survey.header.geometry,
            first,
            data_end: first,
            zero_end: first,
            table_end: first,
            data_start: HostCluster::ZERO,
            reserved: Subclusters::UNALLOCATED,
        }
    }

    pub(super) fn data_clusters(&self) -> ClusterCount {
        self.data_end - self.first
    }

    /// Whether an added guest cluster has a host cluster.
    pub(super) fn has_host(&self, cluster: GuestCluster) -> bool {
        (self.first..self.data_end).contains(&cluster)
    }

    /// The host cluster of an added guest cluster that has one.
    pub(super) fn host(&self, cluster: GuestCluster) -> HostCluster {
        self.data_start + (cluster - self.first)
    }

    /// The entry of an added guest cluster.
    pub(super) fn entry(&self, cluster: GuestCluster) -> L2Entry {
        if cluster < self.first {
            L2Entry::UNALLOCATED
        } else if cluster < self.data_end {
            let host = ClusterRef::sole(self.geometry.host_offset(self.host(cluster)));
            L2Entry::reserved(host, self.reserved, self.geometry)
        } else if cluster < self.zero_end {
            L2Entry::zero(self.geometry)
        } else {
            L2Entry::UNALLOCATED
        }
    }

    /// The entries of added guest clusters from `cluster` on, as far as they are of one kind.
    pub(super) fn run(&self, cluster: GuestCluster) -> EntryRun {
        let (end, step) = if cluster < self.data_end {
            (self.data_end, self.geometry.cluster_size())
        } else {
            (self.zero_end, 0)
        };
        let count = (end - cluster).min(EntryRun::MAX);
        EntryRun { first: self.entry(cluster), step, count }
    }

    /// The end of what entries are written for.
    pub(super) fn end(&self) -> GuestCluster {
        self.zero_end
    }
}
