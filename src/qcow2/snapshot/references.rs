//! What an L1 table leads to, counted once for each way that leads there.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::error::Result;
use crate::host::storage::Storage;
use crate::qcow2::check::Ledger;
use crate::qcow2::entry::{ClusterRef, L1Entry, L2Entry, Mapping};
use crate::qcow2::error::{FormatError, Problem};
use crate::qcow2::geometry::{ClusterCount, Geometry, HostCluster, HostOffset};
use crate::qcow2::header::{Header, TableRef};
use crate::qcow2::table::{EntryRun, L2Table, read_words};
use crate::task::Task;

/// The entries of a snapshot's L1 table, whose bounds were checked.
pub(super) fn snapshot_l1(storage: &dyn Storage, l1: TableRef) -> Result<Vec<L1Entry>> {
    let words = read_words(storage, l1.offset, u64::from(l1.count))?;
    Ok(words.into_iter().map(L1Entry::from_word).collect())
}

/// Shows every L2 table that these entries lead to, with the place of its entry.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) also where two lead to one table: time is bounded by what
/// the file holds.
pub(super) fn each_table(
    storage: &dyn Storage,
    geometry: Geometry,
    l1: &[L1Entry],
    task: Task<'_>,
    mut visit: impl FnMut(usize, ClusterRef, &L2Table) -> Result<()>,
) -> Result<()> {
    let mut seen = BTreeSet::new();
    for (index, entry) in l1.iter().enumerate() {
        let at = entry.decode(geometry).map_err(FormatError::into_error)?;
        let Some(at) = at else { continue };
        task.check()?;
        if !seen.insert(geometry.host_cluster(at.offset)) {
            let offset = at.offset.get();
            return Err(Problem::UsedTwice { offset, owner: "L2 table" }.into_error());
        }
        visit(index, at, &L2Table::read_padded(storage, at.offset, geometry)?)?;
    }
    Ok(())
}

/// The cluster that begins at `offset`.
pub(super) fn cluster_at(geometry: Geometry, offset: HostOffset) -> Range<HostCluster> {
    let cluster = geometry.host_cluster(offset);
    cluster..cluster + ClusterCount::new(1)
}

/// Counts what the entries of an L2 table refer to.
pub(super) fn count_data(header: &Header, table: &L2Table, ledger: &mut Ledger) -> Result<()> {
    let geometry = header.geometry;
    for (_, run) in table.runs(geometry) {
        match host_run(header, run) {
            Some(run) => ledger.add(run),
            None => run
                .entries(geometry)
                .try_for_each(|entry| touched(header, entry).map(|run| ledger.add(run)))?,
        }
    }
    Ok(())
}

/// The host clusters of a run, if it has one for each entry.
pub(super) fn host_run(header: &Header, run: EntryRun) -> Option<Range<HostCluster>> {
    let geometry = header.geometry;
    let last = run.get(run.clusters.saturating_sub(1), geometry);
    let host = |entry| header.mapping(entry).ok().and_then(Mapping::host_cluster);
    let (first, last) = (host(run.entry)?, host(last)?);
    Some(geometry.host_cluster(first.offset)..cluster_at(geometry, last.offset).end)
}

/// The clusters that what an entry refers to lies in; an empty run where it refers to nothing.
fn touched(header: &Header, entry: L2Entry) -> Result<Range<HostCluster>> {
    let geometry = header.geometry;
    let mapping = header.mapping(entry).map_err(FormatError::into_error)?;
    if let Mapping::Compressed(range) = mapping {
        let last = range.offset.plus_bytes(range.len.saturating_sub(1));
        return Ok(geometry.host_cluster(range.offset)..cluster_at(geometry, last).end);
    }
    let host = mapping.host_cluster();
    Ok(host.map_or(HostCluster::ZERO..HostCluster::ZERO, |host| cluster_at(geometry, host.offset)))
}
