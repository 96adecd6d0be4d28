//! Where new clusters go: into room that nobody uses, so that a file does not become longer with
//! each change, else behind all that is used.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::host::storage::Storage;
use crate::qcow2::entry::RefcountTableEntry;
use crate::qcow2::geometry::{ClusterCount, Geometry, HostCluster};
use crate::qcow2::growth::{RefcountGrowth, free_end};
use crate::qcow2::refcounts::Refcounts;

/// Room for clusters that lie in a row.
pub(super) struct Place {
    pub(super) growth: RefcountGrowth,
    /// Whether it lies behind all that the file has.
    pub(super) is_behind: bool,
}

/// Finds room for `len` clusters in an image that was found sound, whose use ends at `end`.
pub(super) fn find(
    storage: &dyn Storage,
    geometry: Geometry,
    table: &[RefcountTableEntry],
    end: HostCluster,
    len: ClusterCount,
) -> Result<Place> {
    let plan = |start| RefcountGrowth::plan(geometry, table, start, len, &BTreeSet::new());
    let inside = end.max(geometry.host_cluster_after(storage.len()?));
    if let Some(start) = free_run(storage, geometry, table, inside, len)? {
        return Ok(Place { growth: plan(start)?, is_behind: false });
    }
    let growth = plan(free_end(storage, geometry, end)?)?;
    growth.require_room(storage)?;
    Ok(Place { growth, is_behind: true })
}

/// The first row of so many clusters before `end` that are counted by blocks and not used.
fn free_run(
    storage: &dyn Storage,
    geometry: Geometry,
    table: &[RefcountTableEntry],
    end: HostCluster,
    len: ClusterCount,
) -> Result<Option<HostCluster>> {
    let one = ClusterCount::new(1);
    let (mut run, mut found) = (HostCluster::ZERO..HostCluster::ZERO, None);
    Refcounts::new(storage, geometry, table).each_block(|index, _, block| {
        let first = geometry.first_cluster_of_refblock(index);
        if first >= end || found.is_some() {
            return Ok(());
        }
        for place in 0..geometry.refblock_entries() {
            let cluster = first + ClusterCount::new(place);
            if cluster >= end {
                break;
            }
            if block.get(place) != 0 {
                continue;
            }
            let start = if run.end == cluster { run.start } else { cluster };
            run = start..cluster + one;
            if run.end - run.start >= len {
                found = Some(run.start);
                break;
            }
        }
        Ok(())
    })?;
    Ok(found.filter(|_| len > ClusterCount::ZERO))
}
