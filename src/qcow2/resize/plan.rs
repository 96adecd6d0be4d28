//! What a resize will write: pure, from what the [`Survey`] found.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Growth;
use super::survey::{Survey, Tail};
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::entry::{ClusterRef, L1Entry, L2Entry, Subclusters};
use crate::qcow2::feature::Autoclear;
use crate::qcow2::geometry::{ClusterCount, Geometry, GuestCluster, HostCluster, HostOffset};
use crate::qcow2::growth::RefcountGrowth;
use crate::qcow2::header::{Header, TableRef};
use crate::qcow2::table::L2Table;

/// A resize, ready to be carried out.
#[derive(Debug)]
pub(super) struct Plan {
    /// The header after the switch.
    pub(super) header: Header,
    /// New clusters and their counts.
    pub(super) growth: RefcountGrowth,
    /// The L1 table as it will be.
    pub(super) l1: Vec<L1Entry>,
    /// What of the L1 table must be written before the switch.
    pub(super) l1_write: L1Write,
    /// The table at the edge, written anew.
    pub(super) edge: Option<(HostCluster, L2Table)>,
    /// What becomes of the bytes behind the disk's end in its last cluster.
    pub(super) tail: TailWrite,
    /// L2 tables for what is added.
    pub(super) tables: Range<HostCluster>,
    /// The first guest cluster that the first of those maps.
    pub(super) tables_from: GuestCluster,
    /// What the new entries say.
    pub(super) fill: Fill,
    /// Host clusters for added guest clusters.
    pub(super) data: Range<HostCluster>,
    /// What nothing refers to after the switch.
    pub(super) released: Released,
}

/// What of the L1 table is written before the switch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum L1Write {
    /// Nothing: what stays is there already.
    Nothing,
    /// The entries from this one on, into room that the table's clusters have.
    InPlace(u64),
    /// The whole table, at a new place.
    Moved(HostCluster),
}

/// What is written for the disk's last cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TailWrite {
    /// Nothing.
    Nothing,
    /// Zeros in place, where the old disk and the new one do not reach.
    Zeros(HostOffset, u64),
    /// The whole cluster at a new place.
    Copy(HostCluster, Vec<u8>),
}

/// References that end with the switch; each takes one off a count.
#[derive(Debug, Default)]
pub(super) struct Released {
    /// Whole L2 tables and what they map.
    pub(super) tables: Vec<L1Entry>,
    /// Entries of the table at the edge.
    pub(super) entries: Vec<L2Entry>,
    /// Runs of metadata clusters.
    pub(super) metadata: Vec<Range<HostCluster>>,
}

/// What the L2 entries of added guest clusters say: first those with a host cluster, then those
/// that hide what is below, then nothing.
#[derive(Debug, Clone)]
pub(super) struct Fill {
    geometry: Geometry,
    first: GuestCluster,
    data_end: GuestCluster,
    zero_end: GuestCluster,
    /// The end of what needs tables.
    table_end: GuestCluster,
    data_start: HostCluster,
    /// Subclusters of clusters that have a host cluster.
    reserved: Subclusters,
}

impl Fill {
    fn new(survey: &Survey, new_end: GuestCluster, growth: Growth) -> Fill {
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
        let tables = growth.preallocation == crate::qcow2::options::Preallocation::Tables;
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

    fn nothing(survey: &Survey) -> Fill {
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

    fn data_clusters(&self) -> ClusterCount {
        self.data_end - self.first
    }

    /// The entry of an added guest cluster.
    pub(super) fn entry(&self, cluster: GuestCluster) -> L2Entry {
        if cluster < self.first {
            L2Entry::UNALLOCATED
        } else if cluster < self.data_end {
            let host = self.data_start + (cluster - self.first);
            let host = ClusterRef::sole(self.geometry.host_offset(host));
            L2Entry::reserved(host, self.reserved, self.geometry)
        } else if cluster < self.zero_end {
            L2Entry::zero(self.geometry)
        } else {
            L2Entry::UNALLOCATED
        }
    }

    /// The end of what entries are written for.
    pub(super) fn end(&self) -> GuestCluster {
        self.zero_end
    }
}

impl Plan {
    /// Plans the change to `new_size`; `growth` says how what is added is laid out.
    pub(super) fn new(survey: &Survey, new_size: u64, growth: Option<Growth>) -> Result<Plan> {
        let geometry = survey.header.geometry;
        let new_end = geometry.clusters_for(new_size);
        let new_end = GuestCluster::new(new_end.get());
        let mut fill =
            growth.map_or_else(|| Fill::nothing(survey), |g| Fill::new(survey, new_end, g));
        let edge_changes = survey.edge_loses_entries()
            || fill.table_end > survey.kept && survey.edge_has_room()
            || matches!(survey.tail, Tail::Copy(_));
        let first_table = survey.edge_index.saturating_add(1);
        let tables_end = geometry.l1_entries_for(geometry.guest_offset(fill.table_end).get());
        let new_tables = tables_end.saturating_sub(first_table);

        let l1_len = l1_len(survey, new_size);
        let l1_changes = edge_changes || survey.keeps_dropped_entries(l1_len, new_tables);
        let old_l1_len = u64::from(survey.header.l1.count);
        let fits = geometry.table_clusters(l1_len) <= geometry.table_clusters(old_l1_len);
        let moves = l1_changes || !fits;
        let l1_clusters = if moves { geometry.table_clusters(l1_len) } else { ClusterCount::ZERO };

        let one_if = |wanted: bool| ClusterCount::new(wanted.into());
        let copies_tail = matches!(survey.tail, Tail::Copy(_));
        let rest = l1_clusters
            + one_if(edge_changes)
            + one_if(copies_tail)
            + ClusterCount::new(new_tables)
            + fill.data_clusters();
        let refcounts = RefcountGrowth::plan(
            geometry,
            &survey.refcount_table,
            survey.end,
            rest,
            &BTreeSet::new(),
        )?;

        let l1_at = refcounts.rest();
        let edge_at = l1_at + l1_clusters;
        let tail_at = edge_at + one_if(edge_changes);
        let tables_at = tail_at + one_if(copies_tail);
        let data_at = tables_at + ClusterCount::new(new_tables);
        fill.data_start = data_at;

        let l1 = new_l1(survey, l1_len, edge_changes.then_some(edge_at), tables_at, new_tables);
        let l1_write = match (moves, l1_len > old_l1_len) {
            (true, _) => L1Write::Moved(l1_at),
            (false, true) => L1Write::InPlace(old_l1_len),
            (false, false) => L1Write::Nothing,
        };
        let edge = edge_changes
            .then(|| (edge_at, new_edge(survey, &fill, copies_tail.then_some(tail_at))));
        Ok(Plan {
            header: new_header(survey, new_size, &refcounts, l1_len, moves.then_some(l1_at))?,
            released: released(
                survey,
                edge_changes,
                &refcounts,
                geometry.table_clusters(l1_len) - l1_clusters,
            ),
            growth: refcounts,
            l1,
            l1_write,
            edge,
            tail: match &survey.tail {
                Tail::Clean => TailWrite::Nothing,
                Tail::InPlace(at, len) => TailWrite::Zeros(*at, *len),
                Tail::Copy(cluster) => TailWrite::Copy(tail_at, cluster.clone()),
            },
            tables: tables_at..data_at,
            tables_from: geometry.first_cluster_of_table(first_table),
            data: data_at..data_at + fill.data_clusters(),
            fill,
        })
    }
}

/// The number of L1 entries: as needed, unless the image keeps room in reserve.
fn l1_len(survey: &Survey, new_size: u64) -> u64 {
    let geometry = survey.header.geometry;
    let old = u64::from(survey.header.l1.count);
    let needed = geometry.l1_entries_for(new_size);
    let keeps_reserve = old > geometry.l1_entries_for(survey.header.virtual_size);
    if keeps_reserve { old.max(needed) } else { needed }
}

fn new_l1(
    survey: &Survey,
    len: u64,
    edge: Option<HostCluster>,
    tables_at: HostCluster,
    new_tables: u64,
) -> Vec<L1Entry> {
    let geometry = survey.header.geometry;
    let entry = |table| L1Entry::encode(ClusterRef::sole(geometry.host_offset(table)));
    (0..len)
        .map(|index| match index.checked_sub(survey.edge_index) {
            None => survey.l1_entry(index),
            Some(0) => edge.map_or_else(|| survey.l1_entry(index), entry),
            Some(behind) if behind <= new_tables => {
                entry(tables_at + ClusterCount::new(behind.saturating_sub(1)))
            }
            Some(_) => L1Entry::EMPTY,
        })
        .collect()
}

/// The edge's table: kept entries as they are, the last one at its copy, then what is added.
fn new_edge(survey: &Survey, fill: &Fill, tail: Option<HostCluster>) -> L2Table {
    let geometry = survey.header.geometry;
    let mut table = survey.edge.clone().unwrap_or_else(|| L2Table::empty(geometry));
    if let Some(tail) = tail {
        let host = ClusterRef::sole(geometry.host_offset(tail));
        table.set(survey.edge_kept.saturating_sub(1), L2Entry::data(host, geometry));
    }
    let first = geometry.first_cluster_of_table(survey.edge_index);
    for index in survey.edge_kept..geometry.l2_entries() {
        table.set(index, fill.entry(first + ClusterCount::new(index)));
    }
    table
}

fn new_header(
    survey: &Survey,
    new_size: u64,
    refcounts: &RefcountGrowth,
    l1_len: u64,
    moved_l1: Option<HostCluster>,
) -> Result<Header> {
    let old = &survey.header;
    let too_large = || Error::new(ErrorKind::BadSize, "the L1 table would exceed its limit");
    Ok(Header {
        virtual_size: new_size,
        l1: TableRef {
            offset: moved_l1.map_or(old.l1.offset, |at| old.geometry.host_offset(at)),
            count: u32::try_from(l1_len).map_err(|_| too_large())?,
        },
        refcount_table: refcounts.table_ref().unwrap_or(old.refcount_table),
        // A writer clears what it does not keep true.
        autoclear: Autoclear::default(),
        ..old.clone()
    })
}

/// What the switch makes unused: the edge's table if it is written anew, the L1 table's clusters
/// behind the `kept_l1` that stay in use, the old refcount table if there is a new one.
fn released(
    survey: &Survey,
    edge: bool,
    refcounts: &RefcountGrowth,
    kept_l1: ClusterCount,
) -> Released {
    let geometry = survey.header.geometry;
    let mut released =
        Released { tables: survey.dropped_tables().collect(), ..Released::default() };
    if edge {
        released.entries.extend(survey.edge_dropped_entries());
        released.entries.extend(survey.replaced_tail());
        let table = survey.edge_table_cluster();
        released.metadata.extend(table.map(|at| at..at + ClusterCount::new(1)));
    }
    let l1 = survey.header.l1;
    let start = geometry.host_cluster(l1.offset);
    let old_l1 = geometry.table_clusters(u64::from(l1.count));
    released.metadata.push(start + kept_l1..start + old_l1);
    if refcounts.table_ref().is_some() {
        let table = survey.header.refcount_table;
        let start = geometry.host_cluster(table.offset);
        released.metadata.push(start..start + ClusterCount::new(u64::from(table.count)));
    }
    released.metadata.retain(|run| run.start < run.end);
    released
}
