//! Where the file could end, and the free clusters before that.

use std::collections::VecDeque;
use std::ops::Range;

use crate::error::Result;
use crate::qcow2::geometry::{ClusterCount, Geometry, HostCluster};
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

    /// These alone, ascending.
    pub(super) fn in_rows(rows: Vec<Range<HostCluster>>, geometry: Geometry) -> FreeClusters {
        let end = rows.last().map_or(HostCluster::ZERO, |row| row.end);
        let next_block = geometry.refblock_index(end).saturating_add(1);
        FreeClusters { next_block, end, runs: rows.into(), ..FreeClusters::default() }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::storage::{MemoryStorage, Storage};
    use crate::qcow2::entry::RefcountTableEntry;
    use crate::qcow2::geometry::{ClusterBits, HostOffset, RefcountOrder};

    /// Blocks of 256 counts each.
    const PLACES: usize = 256;

    /// An image of which nothing is there but refcount blocks; `None` where there is no block.
    fn image(blocks: &[Option<Vec<bool>>]) -> (MemoryStorage, Geometry, Vec<RefcountTableEntry>) {
        let bits = ClusterBits::new(9).unwrap();
        let geometry = Geometry::new(bits, RefcountOrder::DEFAULT, false).unwrap();
        let storage = MemoryStorage::new(vec![0; (blocks.len() + 1) * 512]);
        let mut table = Vec::new();
        for (at, block) in (1u64..).zip(blocks) {
            let Some(block) = block else {
                table.push(RefcountTableEntry::EMPTY);
                continue;
            };
            let bytes: Vec<u8> = block.iter().flat_map(|&used| [0, u8::from(used)]).collect();
            storage.write_at(at * 512, &bytes).unwrap();
            table.push(RefcountTableEntry::encode(HostOffset::new(at * 512)));
        }
        (storage, geometry, table)
    }

    fn blocks() -> impl Strategy<Value = Vec<Option<Vec<bool>>>> {
        // Long runs, so that there are some across blocks.
        let runs = proptest::collection::vec((any::<bool>(), 1usize..120), 1..12);
        let block = runs.prop_map(|runs| {
            let all = runs.into_iter().flat_map(|(used, len)| std::iter::repeat_n(used, len));
            all.chain(std::iter::repeat(false)).take(PLACES).collect()
        });
        proptest::collection::vec(proptest::option::weighted(0.8, block), 1..5)
    }

    /// The free clusters before `end`, one by one.
    fn free_in(blocks: &[Option<Vec<bool>>], end: u64) -> Vec<u64> {
        let all = blocks.iter().flat_map(|block| block.clone().unwrap_or(vec![true; PLACES]));
        (0..end).zip(all).filter(|(_, used)| !used).map(|(cluster, _)| cluster).collect()
    }

    proptest! {
        /// Whatever is asked for in whatever order: free clusters only, before the end, each once, in
        /// order but for those that were put back.
        #[test]
        fn free_clusters_are_handed_out_once(
            blocks in blocks(),
            end in 0u64..1100,
            asks in proptest::collection::vec((0u8..4, 1u64..20), 0..300),
        ) {
            let (storage, geometry, table) = image(&blocks);
            let mut counts = Refcounts::new(&storage, geometry, &table);
            let mut free = FreeClusters::before(HostCluster::new(end));
            let mut left = std::collections::VecDeque::from(free_in(&blocks, end));
            let mut single = Vec::new();
            for (ask, len) in asks {
                match ask {
                    0 => {
                        let taken = free.take(&mut counts).unwrap().map(HostCluster::get);
                        prop_assert_eq!(taken, left.pop_front().or_else(|| single.pop()));
                    }
                    1 => {
                        let taken = free.take_next(&mut counts).unwrap();
                        prop_assert_eq!(taken.map(HostCluster::get), left.pop_front());
                        if let Some(cluster) = taken.filter(|_| len % 2 == 0) {
                            free.put_back(cluster);
                            single.push(cluster.get());
                        }
                    }
                    2 => {
                        let run = free.take_run(&mut counts).unwrap().unwrap_or_default();
                        for cluster in run.start.get()..run.end.get() {
                            prop_assert_eq!(left.pop_front(), Some(cluster));
                        }
                        prop_assert!(!run.is_empty() || left.is_empty());
                    }
                    _ => {
                        let start = left.front().map_or(0, |first| first + u64::from(len == 19));
                        let these = HostCluster::new(start)..HostCluster::new(start + len);
                        // A run ends where its block does.
                        let within = (start + len - 1) / 256 == start / 256;
                        let are_next = (start..start + len).zip(&left).filter(|(a, b)| a == *b).count();
                        let taken = free.take_these(these, &mut counts).unwrap();
                        prop_assert_eq!(taken, within && are_next as u64 == len);
                        left.drain(..if taken { len as usize } else { 0 });
                    }
                }
            }
        }

        /// The first run that is long enough, across blocks as well.
        #[test]
        fn the_first_run_is_found(blocks in blocks(), len in 1u64..300, end in 0u64..1100) {
            let (storage, geometry, table) = image(&blocks);
            let mut counts = Refcounts::new(&storage, geometry, &table);
            let free = free_in(&blocks, end);
            let is_run = |window: &&[u64]| window[0] + len - 1 == window[window.len() - 1];
            let expected = free.windows(len as usize).find(is_run).map(|window| window[0]);
            let (len, end) = (ClusterCount::new(len), HostCluster::new(end));
            let found = first_run(&mut counts, len, end).unwrap();
            prop_assert_eq!(found.map(HostCluster::get), expected);
        }
    }
}
