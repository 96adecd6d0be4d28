//! Where the file could end, and the free clusters before that.

use std::collections::VecDeque;
use std::ops::Range;

use crate::error::Result;
use crate::qcow2::geometry::{ClusterCount, HostCluster};
use crate::qcow2::refcounts::Refcounts;

/// Where the file would end without a free cluster in it. Refcount blocks that then count nothing do
/// not stay.
pub(super) fn mark(counts: &mut Refcounts<'_>) -> Result<HostCluster> {
    let geometry = counts.geometry();
    let (mut used, mut firsts) = (0u64, Vec::new());
    counts.each_block(|index, _, block| {
        let entries = geometry.refblock_entries();
        let free = block.free_runs(entries);
        let free =
            free.fold(0u64, |sum, run| sum.saturating_add(run.end.saturating_sub(run.start)));
        used = used.saturating_add(entries.saturating_sub(free));
        firsts.push(geometry.first_cluster_of_refblock(index).get());
        Ok(())
    })?;
    let mut mark = used;
    // Fewer blocks bring the mark down, which can only make more of them idle.
    for _ in 0..4 {
        let idle = firsts.iter().filter(|first| **first >= mark).count();
        mark = used.saturating_sub(u64::try_from(idle).unwrap_or(u64::MAX));
    }
    Ok(HostCluster::new(mark))
}

/// The free clusters before some place, ascending, each handed out once.
#[derive(Debug, Default)]
pub(super) struct FreeClusters {
    runs: VecDeque<Range<HostCluster>>,
    /// Those that were too short for something: for what needs one cluster alone.
    single: Vec<HostCluster>,
    /// The refcount block whose free clusters come next.
    next_block: u64,
    end: HostCluster,
}

impl FreeClusters {
    pub(super) fn before(end: HostCluster) -> FreeClusters {
        FreeClusters { end, ..FreeClusters::default() }
    }

    /// A free cluster, if there is one.
    pub(super) fn take(&mut self, counts: &mut Refcounts<'_>) -> Result<Option<HostCluster>> {
        let next = self.take_next(counts)?;
        Ok(next.or_else(|| self.single.pop()))
    }

    /// The next free cluster, if there is one.
    pub(super) fn take_next(&mut self, counts: &mut Refcounts<'_>) -> Result<Option<HostCluster>> {
        self.fill(counts)?;
        let Some(run) = self.runs.front_mut() else { return Ok(None) };
        let cluster = run.start;
        run.start = cluster + ClusterCount::new(1);
        if run.is_empty() {
            self.runs.pop_front();
        }
        Ok(Some(cluster))
    }

    /// The next free clusters, up to one that is not, if there are any.
    pub(super) fn take_run(
        &mut self,
        counts: &mut Refcounts<'_>,
    ) -> Result<Option<Range<HostCluster>>> {
        self.fill(counts)?;
        Ok(self.runs.pop_front())
    }

    /// Takes these clusters, if they are the next ones.
    pub(super) fn take_these(
        &mut self,
        these: Range<HostCluster>,
        counts: &mut Refcounts<'_>,
    ) -> Result<bool> {
        if these.is_empty() {
            return Ok(true);
        }
        self.fill(counts)?;
        let next = self.runs.front_mut();
        let next = next.filter(|run| run.start == these.start && these.end <= run.end);
        let Some(run) = next else { return Ok(false) };
        run.start = these.end;
        if run.is_empty() {
            self.runs.pop_front();
        }
        Ok(true)
    }

    /// Keeps a cluster that was taken, and has no other behind it, for something smaller.
    pub(super) fn put_back(&mut self, cluster: HostCluster) {
        self.single.push(cluster);
    }

    /// Looks for free clusters, block by block: clusters without a block cannot be counted.
    fn fill(&mut self, counts: &mut Refcounts<'_>) -> Result<()> {
        let geometry = counts.geometry();
        while self.runs.is_empty() {
            let first = geometry.first_cluster_of_refblock(self.next_block);
            if first >= self.end {
                return Ok(());
            }
            let end = (self.end - first).get().min(geometry.refblock_entries());
            let free = counts.free_runs_in(self.next_block, end)?;
            let at = |place| first + ClusterCount::new(place);
            self.runs.extend(free.into_iter().map(|run| at(run.start)..at(run.end)));
            self.next_block = self.next_block.saturating_add(1);
        }
        Ok(())
    }
}

/// The first run of so many free clusters that ends before `end`.
pub(super) fn first_run(
    counts: &mut Refcounts<'_>,
    len: ClusterCount,
    end: HostCluster,
) -> Result<Option<HostCluster>> {
    let mut free = FreeClusters::before(end);
    let mut run = HostCluster::ZERO..HostCluster::ZERO;
    loop {
        let Some(next) = free.take_run(counts)? else { return Ok(None) };
        run = if run.end == next.start { run.start..next.end } else { next };
        if run.end - run.start >= len {
            return Ok(Some(run.start));
        }
    }
}
