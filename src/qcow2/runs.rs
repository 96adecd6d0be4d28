//! Runs of host clusters.

use std::ops::Range;

use super::geometry::{ClusterCount, HostCluster};

/// The clusters of a run, one by one.
pub(super) fn clusters(run: Range<HostCluster>) -> impl Iterator<Item = HostCluster> {
    (run.start.get()..run.end.get()).map(HostCluster::new)
}

/// Puts a run behind others, as one with the last if it goes on where that ends.
pub(super) fn push(runs: &mut Vec<Range<HostCluster>>, run: Range<HostCluster>) {
    match runs.last_mut() {
        Some(last) if last.end == run.start => last.end = run.end,
        _ => runs.push(run),
    }
}

/// Runs of clusters in order, none of which touch.
#[derive(Debug, Default)]
pub(super) struct Runs(Vec<Range<HostCluster>>);

impl Runs {
    /// These, in any order.
    pub(super) fn of(mut runs: Vec<Range<HostCluster>>) -> Runs {
        runs.retain(|run| !run.is_empty());
        runs.sort_unstable_by_key(|run| run.start);
        runs.dedup_by(|next, run| {
            let touches = next.start <= run.end;
            if touches {
                run.end = run.end.max(next.end);
            }
            touches
        });
        Runs(runs)
    }

    /// How many runs there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The first cluster behind all of them.
    pub(super) fn end(&self) -> HostCluster {
        self.0.last().map_or(HostCluster::ZERO, |run| run.end)
    }

    /// Whether one of them and this have a cluster in common.
    pub(super) fn meets(&self, run: &Range<HostCluster>) -> bool {
        let behind = self.0.partition_point(|other| other.end <= run.start);
        self.0.get(behind).is_some_and(|other| other.start < run.end)
    }

    /// Whether a cluster is in one of them.
    pub(super) fn holds(&self, cluster: HostCluster) -> bool {
        self.meets(&(cluster..cluster + ClusterCount::new(1)))
    }

    /// Adds a run, whatever of it is there already.
    pub(super) fn add(&mut self, mut run: Range<HostCluster>) {
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

    /// Removes a run, whatever of it is there.
    pub(super) fn remove(&mut self, gone: &Range<HostCluster>) {
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
                let again = Runs::of(runs.0.iter().rev().chain(&runs.0).cloned().collect());
                prop_assert_eq!(&again.0, &runs.0);
                for cluster in 0..50 {
                    prop_assert_eq!(runs.holds(HostCluster::new(cluster)), model.contains(&cluster));
                }
                prop_assert!(runs.0.iter().all(|run| !run.is_empty()));
                prop_assert!(runs.0.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
        }
    }
}
