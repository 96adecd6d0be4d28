//! Where guest data goes that changes with the size: into clusters of its own, with tables that
//! lead there. Nothing of it is seen before the switch.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::fill::Fill;
use super::rewrite::{Becomes, Rewrites};
use super::survey::Survey;
use crate::qcow2::entry::{ClusterRef, L2Entry};
use crate::qcow2::geometry::{ClusterCount, GuestCluster, HostCluster};
use crate::qcow2::table::L2Table;

/// What that needs.
#[derive(Debug, Default)]
pub(super) struct ShadowNeeds {
    /// Guest clusters that get a host cluster.
    data: Vec<GuestCluster>,
    /// Guest clusters that have a new one already: it was added with the size.
    own: Vec<GuestCluster>,
    /// Guest clusters whose entry says zero.
    zeros: Vec<GuestCluster>,
    /// L2 tables, by their L1 index, that get a cluster: not the edge's, and none that is added.
    tables: BTreeSet<u64>,
    /// Those that are added, and say something else than what is added.
    added: BTreeSet<u64>,
    /// Whether the edge's table changes.
    pub(super) edge: bool,
}

impl ShadowNeeds {
    /// `added` are the L1 indexes of the tables that are added with the size.
    pub(super) fn new(
        survey: &Survey,
        fill: &Fill,
        rewrites: &Rewrites<'_>,
        added: &Range<u64>,
    ) -> ShadowNeeds {
        let (geometry, mut needs) = (survey.header.geometry, ShadowNeeds::default());
        for (cluster, becomes) in rewrites.iter() {
            let has_own = fill.has_host(cluster);
            match becomes {
                Becomes::Zero if has_own => continue,
                Becomes::Zero => needs.zeros.push(cluster),
                Becomes::Data if has_own => needs.own.push(cluster),
                Becomes::Data => needs.data.push(cluster),
            }
            // Subclusters apart, the entry leads there already.
            if has_own && !geometry.extended_l2() {
                continue;
            }
            let index = geometry.l1_index(cluster);
            if index == survey.edge_index {
                needs.edge = true;
            } else if added.contains(&index) {
                needs.added.insert(index);
            } else {
                needs.tables.insert(index);
            }
        }
        needs
    }

    pub(super) fn data_clusters(&self) -> ClusterCount {
        ClusterCount::new(u64::try_from(self.data.len()).unwrap_or(u64::MAX))
    }

    pub(super) fn table_clusters(&self) -> ClusterCount {
        ClusterCount::new(u64::try_from(self.tables.len()).unwrap_or(u64::MAX))
    }
}

/// What is written of it.
#[derive(Debug, Default)]
pub(super) struct Shadow {
    /// Guest clusters, and where what they hold goes.
    pub(super) data: Vec<(GuestCluster, HostCluster)>,
    /// L2 tables that get a cluster, by their L1 index, and where they go.
    pub(super) places: BTreeMap<u64, HostCluster>,
    /// L2 tables and where they go; not the edge's.
    pub(super) tables: Vec<(HostCluster, L2Table)>,
    /// What their entries say.
    entries: BTreeMap<GuestCluster, L2Entry>,
    /// Entries of the old disk that they replace.
    pub(super) replaced: Vec<L2Entry>,
}

impl Shadow {
    /// Puts it into clusters from these on; the tables that are added begin at `added`.
    pub(super) fn new(
        survey: &mut Survey,
        fill: &Fill,
        needs: &ShadowNeeds,
        (tables_from, data_from): (HostCluster, HostCluster),
        added: HostCluster,
    ) -> Shadow {
        let geometry = survey.header.geometry;
        let at = |from: HostCluster, place: u64| from + ClusterCount::new(place);
        let data = (0..).zip(&needs.data).map(|(place, cluster)| (*cluster, at(data_from, place)));
        let own = needs.own.iter().map(|cluster| (*cluster, fill.host(*cluster)));
        let mut shadow = Shadow { data: data.chain(own).collect(), ..Shadow::default() };
        for (cluster, host) in &shadow.data {
            let host = ClusterRef::sole(geometry.host_offset(*host));
            shadow.entries.insert(*cluster, L2Entry::data(host, geometry));
        }
        let zeros = needs.zeros.iter().map(|cluster| (*cluster, L2Entry::zero(geometry)));
        shadow.entries.extend(zeros);
        shadow.places =
            (0..).zip(&needs.tables).map(|(n, index)| (*index, at(tables_from, n))).collect();
        let behind = |index: u64| index.saturating_sub(survey.edge_index).saturating_sub(1);
        let of_added = needs.added.iter().map(|index| (*index, at(added, behind(*index))));
        let places: Vec<_> =
            shadow.places.iter().map(|(i, at)| (*i, *at)).chain(of_added).collect();
        for (index, place) in places {
            let mut table = survey.shadowed.remove(&index).unwrap_or_else(|| {
                let first = geometry.first_cluster_of_table(index);
                let mut table = L2Table::empty(geometry);
                (0..geometry.l2_entries())
                    .for_each(|n| table.set(n, fill.entry(first + ClusterCount::new(n))));
                table
            });
            shadow.put_into(&mut table, index, survey);
            shadow.tables.push((place, table));
        }
        shadow
    }

    /// Makes a table say what is new, and notes what it said.
    pub(super) fn put_into(&mut self, table: &mut L2Table, index: u64, survey: &Survey) {
        let geometry = survey.header.geometry;
        let first = geometry.first_cluster_of_table(index);
        let behind = first + ClusterCount::new(geometry.l2_entries());
        for (cluster, entry) in self.entries.range(first..behind) {
            let place = geometry.l2_index(*cluster);
            let old = table.get(place);
            if *cluster < survey.kept && !old.is_empty() {
                self.replaced.push(old);
            }
            table.set(place, *entry);
        }
    }
}
