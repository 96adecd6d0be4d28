//! What must be true of an image before a resize gives any of its clusters away: on a damaged
//! image, a cluster that seems free may hold the only copy of something.

use super::rewrite::Rewrites;
use super::survey::Survey;
use crate::error::Result;
use crate::qcow2::entry::{L1Entry, L2Entry, Mapping};
use crate::qcow2::error::{FormatError, Problem};
use crate::qcow2::geometry::{ClusterCount, HostCluster};
use crate::qcow2::open::Qcow2;
use crate::qcow2::refcounts::Refcounts;
use crate::qcow2::table::{EntryRun, L2Table};
use crate::task::Task;

impl Qcow2 {
    /// Checks that all metadata is counted, and adds nothing before the end of what is. Where
    /// something is dropped, or what is added does not go behind the end of a file, checks also that
    /// every cluster which stays is counted, and that nothing which goes is used by what stays.
    /// Returns the end of what stays, if that was looked at. Reads the L2 tables then, and writes
    /// nothing.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt), naming the cluster.
    pub(super) fn verify(
        &self,
        survey: &mut Survey,
        rewrites: &Rewrites<'_>,
        task: Task<'_>,
    ) -> Result<HostCluster> {
        let geometry = self.header.geometry;
        let table = survey.refcount_table.clone();
        let mut refcounts = Refcounts::new(&*self.storage, geometry, &table);
        survey.end = refcounts.end_of_use(survey.end)?;
        for cluster in survey.claimed.iter() {
            counted(&mut refcounts, survey, cluster)?;
        }
        let dropped: Vec<_> = survey.dropped_tables().collect();
        let drops = !dropped.is_empty() || survey.edge_loses_entries() || !rewrites.is_empty();
        if !drops && self.storage.can_grow() {
            return Ok(HostCluster::ZERO);
        }
        let kept: Vec<_> = survey.kept_tables().collect();
        for entry in kept {
            task.check()?;
            for (_, run) in self.table_of(entry)?.runs(geometry) {
                claim_run(&mut refcounts, survey, run)?;
            }
        }
        let edge = survey.edge.take();
        let kept = usize::try_from(survey.edge_kept).unwrap_or(usize::MAX);
        let edge_entries = || edge.iter().flat_map(|table| table.entries());
        edge_entries().take(kept).try_for_each(|e| claim(&mut refcounts, survey, e))?;
        let end = survey.claimed.end();
        edge_entries().skip(kept).try_for_each(|e| claim(&mut refcounts, survey, e))?;
        survey.edge = edge;
        for entry in dropped {
            task.check()?;
            for (_, run) in self.table_of(entry)?.runs(geometry) {
                claim_run(&mut refcounts, survey, run)?;
            }
        }
        Ok(end)
    }

    fn table_of(&self, entry: L1Entry) -> Result<L2Table> {
        let geometry = self.header.geometry;
        match entry.decode(geometry).map_err(FormatError::into_error)? {
            Some(at) => L2Table::read(&*self.storage, at.offset, geometry),
            None => Ok(L2Table::empty(geometry)),
        }
    }
}

/// The same of entries whose clusters lie in a row, by far the most of a disk that was laid out at
/// once: at once, where nothing is unusual about them.
fn claim_run(refcounts: &mut Refcounts<'_>, survey: &mut Survey, run: EntryRun) -> Result<()> {
    let geometry = survey.header.geometry;
    let last = run.get(run.clusters.saturating_sub(1), geometry);
    let host = |entry| survey.header.mapping(entry).ok().and_then(Mapping::host_cluster);
    if let (Some(first), Some(last)) = (host(run.entry), host(last)) {
        let end = geometry.host_cluster(last.offset) + ClusterCount::new(1);
        let clusters = geometry.host_cluster(first.offset)..end;
        if refcounts.are_ones(&clusters)? {
            return survey.claimed.add_run("data cluster", clusters);
        }
    }
    run.entries(geometry).try_for_each(|entry| claim(refcounts, survey, entry))
}

/// What the entry refers to must be counted, and nobody else's.
fn claim(refcounts: &mut Refcounts<'_>, survey: &mut Survey, entry: L2Entry) -> Result<()> {
    let geometry = survey.header.geometry;
    match survey.header.mapping(entry).map_err(FormatError::into_error)? {
        // Compressed clusters may share host clusters, which are then counted more than once.
        Mapping::Compressed(range) => {
            let last = range.offset.plus_bytes(range.len.saturating_sub(1));
            let mut cluster = geometry.host_cluster(range.offset);
            while cluster <= geometry.host_cluster(last) {
                counted(refcounts, survey, cluster)?;
                cluster = cluster + ClusterCount::new(1);
            }
            Ok(())
        }
        mapping => {
            let Some(host) = mapping.host_cluster() else { return Ok(()) };
            let cluster = geometry.host_cluster(host.offset);
            survey.claimed.add("data cluster", cluster)?;
            counted(refcounts, survey, cluster)
        }
    }
}

fn counted(refcounts: &mut Refcounts<'_>, survey: &Survey, cluster: HostCluster) -> Result<()> {
    if refcounts.get(cluster)? == 0 {
        let offset = survey.header.geometry.host_offset(cluster).get();
        return Err(Problem::ImpossibleCount { offset, count: 0 }.into_error());
    }
    Ok(())
}
