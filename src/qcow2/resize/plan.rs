//! What a resize will write: pure, from what the [`Survey`] found.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Growth;
use super::fill::Fill;
use super::rewrite::Rewrites;
use super::shadow::{Shadow, ShadowNeeds};
use super::survey::{Survey, Tail};
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::entry::{ClusterRef, L1Entry, L2Entry, RefcountTableEntry};
use crate::qcow2::feature::Autoclear;
use crate::qcow2::geometry::{ClusterCount, GuestCluster, HostCluster, HostOffset};
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
    /// The refcount table before the switch.
    pub(super) refcount_table: Vec<RefcountTableEntry>,
    /// The L1 table as it will be.
    pub(super) l1: Vec<L1Entry>,
    /// What of the L1 table must be written before the switch.
    pub(super) l1_write: L1Write,
    /// What of the table at the edge is written.
    pub(super) edge: EdgeWrite,
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
    /// Guest data that changes.
    pub(super) shadow: Shadow,
    /// What nothing refers to after the switch.
    pub(super) released: Released,
    /// The file is never cut before this cluster.
    pub(super) kept_end: HostCluster,
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

/// What is written of the table at the edge.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EdgeWrite {
    /// Nothing.
    Nothing,
    /// The whole table, at a new place.
    Moved(HostCluster, L2Table),
    /// The table without what the smaller disk no longer shows, at its old place: after the switch.
    Trimmed(HostOffset, L2Table),
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
    /// Words of entries of the table at the edge.
    pub(super) entries: Vec<u64>,
    /// Runs of metadata clusters.
    pub(super) metadata: Vec<Range<HostCluster>>,
}

impl Plan {
    /// Tells how large it is.
    pub(super) fn log(&self, old_size: u64) {
        let added = self.growth.added();
        log::info!(
            "plan: {old_size} -> {} bytes, {} new clusters, {} of them for guest data that changes",
            self.header.virtual_size,
            (added.end - added.start).get(),
            self.shadow.data.len()
        );
    }

    /// Plans the change to `new_size`; `growth` says how what is added is laid out, `rewrites` what
    /// becomes of guest data, `kept_end` where what stays ends.
    pub(super) fn new(
        mut survey: Survey,
        new_size: u64,
        growth: Option<Growth>,
        rewrites: &Rewrites<'_>,
        kept_end: HostCluster,
    ) -> Result<Plan> {
        let geometry = survey.header.geometry;
        let new_end = GuestCluster::new(geometry.clusters_for(new_size).get());
        let mut fill =
            growth.map_or_else(|| Fill::nothing(&survey), |g| Fill::new(&survey, new_end, g));
        let l1_len = l1_len(&survey, new_size);
        let trims_edge = growth.is_none() && survey.edge_loses_entries();
        let trims_edge = survey.edge_in_place.filter(|_| trims_edge);
        let needs = Needs::new(&survey, &fill, l1_len, rewrites, trims_edge.is_some());
        let places = Places::new(&survey, &needs)?;
        fill.data_start = places.data.start;
        let kept_l1 = geometry.table_clusters(l1_len) - needs.l1;
        let old_l1_len = u64::from(survey.header.l1.count);
        let header = new_header(&survey, new_size, l1_len, &places)?;
        let mut released = released(&survey, &needs, &places.growth, kept_l1);
        let mut shadow =
            Shadow::new(&mut survey, &fill, &needs.shadow, places.shadow, places.tables.start);
        let l1 = new_l1(&survey, l1_len, &needs, &places, &shadow);
        let tail = match std::mem::replace(&mut survey.tail, Tail::Clean) {
            Tail::Clean => TailWrite::Nothing,
            Tail::InPlace(at, len) => TailWrite::Zeros(at, len),
            Tail::Copy(cluster) => TailWrite::Copy(places.tail, cluster),
        };
        let edge = match (needs.edge, trims_edge) {
            (true, _) => {
                let mut table = new_edge(&mut survey, &fill, &tail);
                shadow.put_into(&mut table, survey.edge_index, &survey);
                EdgeWrite::Moved(places.edge, table)
            }
            (false, Some(at)) => EdgeWrite::Trimmed(at, new_edge(&mut survey, &fill, &tail)),
            (false, None) => EdgeWrite::Nothing,
        };
        released.entries.extend(shadow.replaced.iter().map(|entry| entry.word));
        Ok(Plan {
            header,
            l1,
            l1_write: match places.moved_l1 {
                Some(to) => L1Write::Moved(to),
                None if l1_len > old_l1_len => L1Write::InPlace(old_l1_len),
                None => L1Write::Nothing,
            },
            edge,
            tail,
            growth: places.growth,
            refcount_table: survey.refcount_table,
            tables: places.tables,
            tables_from: geometry.first_cluster_of_table(survey.edge_index.saturating_add(1)),
            data: places.data,
            fill,
            shadow,
            released,
            kept_end,
        })
    }
}

/// What must be written anew, and so needs clusters.
struct Needs {
    /// Clusters of an L1 table at a new place.
    l1: ClusterCount,
    /// Whether the edge's table changes.
    edge: bool,
    /// Whether the disk's last cluster is copied.
    tail: bool,
    /// L2 tables behind the edge.
    tables: u64,
    /// Host clusters for guest data.
    data: ClusterCount,
    /// What guest data that changes needs.
    shadow: ShadowNeeds,
}

impl Needs {
    fn new(
        survey: &Survey,
        fill: &Fill,
        l1_len: u64,
        rewrites: &Rewrites<'_>,
        trims_edge: bool,
    ) -> Needs {
        let geometry = survey.header.geometry;
        let tail = matches!(survey.tail, Tail::Copy(_));
        let fills_edge = fill.table_end > survey.kept && survey.edge_has_room();
        let tables_end = geometry.l1_entries_for(geometry.guest_offset(fill.table_end).get());
        let behind = survey.edge_index.saturating_add(1);
        let tables = tables_end.saturating_sub(behind);
        let shadow = ShadowNeeds::new(survey, fill, rewrites, &(behind..tables_end));
        let loses = survey.edge_loses_entries() && !trims_edge;
        let edge = loses || fills_edge || tail || shadow.edge;
        let l1_clusters = geometry.table_clusters(l1_len);
        let fits = l1_clusters <= geometry.table_clusters(u64::from(survey.header.l1.count));
        let moves =
            edge || !fits || !rewrites.is_empty() || survey.keeps_dropped_entries(l1_len, tables);
        let l1 = if moves { l1_clusters } else { ClusterCount::ZERO };
        Needs { l1, edge, tail, tables, data: fill.data_clusters(), shadow }
    }
}

/// Where everything new goes: behind all that the file has.
struct Places {
    growth: RefcountGrowth,
    moved_l1: Option<HostCluster>,
    edge: HostCluster,
    tail: HostCluster,
    tables: Range<HostCluster>,
    data: Range<HostCluster>,
    /// Where tables and data begin for guest data that changes.
    shadow: (HostCluster, HostCluster),
}

impl Places {
    fn new(survey: &Survey, needs: &Needs) -> Result<Places> {
        let one_if = |wanted: bool| ClusterCount::new(wanted.into());
        let tables = ClusterCount::new(needs.tables);
        let shadow = needs.shadow.table_clusters() + needs.shadow.data_clusters();
        let rest =
            needs.l1 + one_if(needs.edge) + one_if(needs.tail) + tables + needs.data + shadow;
        let growth = RefcountGrowth::plan(
            survey.header.geometry,
            &survey.refcount_table,
            survey.end,
            rest,
            &BTreeSet::new(),
        )?;
        let l1 = growth.rest();
        let edge = l1 + needs.l1;
        let tail = edge + one_if(needs.edge);
        let tables_start = tail + one_if(needs.tail);
        let data = tables_start + tables;
        Ok(Places {
            growth,
            moved_l1: (needs.l1 != ClusterCount::ZERO).then_some(l1),
            edge,
            tail,
            tables: tables_start..data,
            data: data..data + needs.data,
            shadow: (data + needs.data, data + needs.data + needs.shadow.table_clusters()),
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
    needs: &Needs,
    places: &Places,
    shadow: &Shadow,
) -> Vec<L1Entry> {
    let geometry = survey.header.geometry;
    let entry = |table| L1Entry::encode(ClusterRef::sole(geometry.host_offset(table)));
    (0..len)
        .map(|index| match index.checked_sub(survey.edge_index) {
            _ if shadow.places.contains_key(&index) => {
                shadow.places.get(&index).map_or(L1Entry::EMPTY, |place| entry(*place))
            }
            Some(0) if needs.edge => entry(places.edge),
            None | Some(0) => survey.l1_entry(index),
            Some(behind) if behind <= needs.tables => {
                entry(places.tables.start + ClusterCount::new(behind.saturating_sub(1)))
            }
            Some(_) => L1Entry::EMPTY,
        })
        .collect()
}

/// The edge's table: kept entries as they are, the last one at its copy, then what is added.
fn new_edge(survey: &mut Survey, fill: &Fill, tail: &TailWrite) -> L2Table {
    let geometry = survey.header.geometry;
    let mut table = survey.edge.take().unwrap_or_else(|| L2Table::empty(geometry));
    if let TailWrite::Copy(at, _) = tail {
        let host = ClusterRef::sole(geometry.host_offset(*at));
        table.set(survey.edge_kept.saturating_sub(1), L2Entry::data(host, geometry));
    }
    let first = geometry.first_cluster_of_table(survey.edge_index);
    for index in survey.edge_kept..geometry.l2_entries() {
        table.set(index, fill.entry(first + ClusterCount::new(index)));
    }
    table
}

fn new_header(survey: &Survey, new_size: u64, l1_len: u64, places: &Places) -> Result<Header> {
    let old = &survey.header;
    let too_large = || Error::new(ErrorKind::BadSize, "the L1 table would exceed its limit");
    Ok(Header {
        virtual_size: new_size,
        l1: TableRef {
            offset: places.moved_l1.map_or(old.l1.offset, |at| old.geometry.host_offset(at)),
            count: u32::try_from(l1_len).map_err(|_| too_large())?,
        },
        refcount_table: places.growth.table_ref().unwrap_or(old.refcount_table),
        // A writer clears what it does not keep true.
        autoclear: Autoclear::default(),
        ..old.clone()
    })
}

/// What the switch makes unused: the edge's table if it is written anew, the L1 table's clusters
/// behind the `kept_l1` that stay in use, the old refcount table if there is a new one.
fn released(
    survey: &Survey,
    needs: &Needs,
    refcounts: &RefcountGrowth,
    kept_l1: ClusterCount,
) -> Released {
    let geometry = survey.header.geometry;
    let mut released =
        Released { tables: survey.dropped_tables().collect(), ..Released::default() };
    released.entries.extend(survey.edge_dropped_entries().map(|entry| entry.word));
    let shadowed = survey.shadowed.keys().map(|index| survey.l1_entry(*index).decode(geometry));
    for at in shadowed.filter_map(|at| at.ok().flatten()) {
        let table = geometry.host_cluster(at.offset);
        released.metadata.push(table..table + ClusterCount::new(1));
    }
    if needs.edge {
        released.entries.extend(survey.replaced_tail().map(|entry| entry.word));
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
