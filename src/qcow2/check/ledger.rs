//! How often each host cluster is referred to, and as what.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::qcow2::geometry::HostCluster;

/// What a cluster is referred to as, as far as it decides what else may refer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Metadata: nothing else may.
    Metadata,
    /// Guest data of the active disk: snapshots may refer to it too.
    Active,
    /// Guest data that only snapshots have.
    Inactive,
    /// Compressed data: other compressed data may lie beside it.
    Compressed,
}

/// What a new reference is to those that came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meeting {
    /// It may be there.
    Fine,
    /// Data meets data in a way that snapshots do not explain.
    Shared,
    /// Metadata meets something.
    Overlap,
}

/// Sixty-four clusters in a row. A count of `u16::MAX` is found among the large ones.
#[derive(Debug)]
struct Group {
    counts: [u16; 64],
    metadata: u64,
    active: u64,
    inactive: u64,
    compressed: u64,
}

const EMPTY: Group = Group { counts: [0; 64], metadata: 0, active: 0, inactive: 0, compressed: 0 };

/// The references to every cluster. Memory follows what is referred to, not the file's length: a
/// sparse file can claim any length.
#[derive(Debug, Default)]
pub(in crate::qcow2) struct Ledger {
    groups: BTreeMap<u64, Group>,
    /// Counts that need more than 16 bits, by cluster.
    large: BTreeMap<u64, u64>,
}

impl Ledger {
    /// Counts `times` more references to a cluster.
    pub(super) fn refer(&mut self, cluster: HostCluster, role: Role, times: u64) -> Meeting {
        let group = self.groups.entry(cluster.get() >> 6).or_insert(EMPTY);
        let bit = 1u64 << (cluster.get() & 63);
        let meeting = group.meet(role, bit);
        match role {
            Role::Metadata => group.metadata |= bit,
            Role::Active => group.active |= bit,
            Role::Inactive => group.inactive |= bit,
            Role::Compressed => group.compressed |= bit,
        }
        let Some(count) = group.counts.get_mut(place(cluster.get())) else { return meeting };
        let before = match *count {
            u16::MAX => self.large.get(&cluster.get()).copied().unwrap_or_default(),
            small => u64::from(small),
        };
        let sum = before.saturating_add(times);
        *count = u16::try_from(sum).unwrap_or(u16::MAX);
        if *count == u16::MAX {
            self.large.insert(cluster.get(), sum);
        }
        meeting
    }

    /// How often a cluster is referred to.
    pub(in crate::qcow2) fn get(&self, cluster: HostCluster) -> u64 {
        let group = self.groups.get(&(cluster.get() >> 6));
        let count = group.and_then(|group| group.counts.get(place(cluster.get())));
        self.whole(cluster.get(), count.copied().unwrap_or_default())
    }

    /// Every cluster in `range` that is referred to, ascending, and how often.
    pub(in crate::qcow2) fn range(
        &self,
        range: RangeInclusive<u64>,
    ) -> impl Iterator<Item = (HostCluster, u64)> {
        let groups = self.groups.range(range.start() >> 6..=range.end() >> 6);
        let counts = groups.flat_map(|(group, entries)| {
            (0..).zip(entries.counts).map(move |(place, count)| (group << 6 | place, count))
        });
        let used = counts.filter(move |(cluster, count)| *count > 0 && range.contains(cluster));
        used.map(|(cluster, count)| (HostCluster::new(cluster), self.whole(cluster, count)))
    }

    /// Every cluster that is referred to, ascending, and how often.
    pub(in crate::qcow2) fn iter(&self) -> impl Iterator<Item = (HostCluster, u64)> {
        self.range(0..=u64::MAX)
    }

    fn whole(&self, cluster: u64, count: u16) -> u64 {
        match count {
            u16::MAX => self.large.get(&cluster).copied().unwrap_or_default(),
            small => u64::from(small),
        }
    }
}

impl Group {
    /// What a reference in this role is to what the cluster with this bit serves as already.
    const fn meet(&self, role: Role, bit: u64) -> Meeting {
        let data = self.active | self.inactive | self.compressed;
        let clashes = match role {
            Role::Metadata => data,
            Role::Active => self.active | self.compressed,
            Role::Inactive => self.compressed,
            Role::Compressed => self.active | self.inactive,
        };
        if self.metadata & bit != 0 {
            return Meeting::Overlap;
        }
        match (role, clashes & bit != 0) {
            (_, false) => Meeting::Fine,
            (Role::Metadata, true) => Meeting::Overlap,
            (_, true) => Meeting::Shared,
        }
    }
}

fn place(cluster: u64) -> usize {
    usize::try_from(cluster & 63).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_beyond_sixteen_bits() {
        let (mut ledger, cluster) = (Ledger::default(), HostCluster::new(70));
        for (times, sum) in [(1, 1), (65533, 65534), (1, 65535), (1, 65536), (1 << 40, 1 << 40)] {
            ledger.refer(cluster, Role::Inactive, times);
            assert_eq!(ledger.get(cluster), sum + if times > 65536 { 65536 } else { 0 });
        }
        assert_eq!(ledger.iter().collect::<Vec<_>>(), [(cluster, (1 << 40) + 65536)]);
        assert_eq!(ledger.range(71..=200).count() + ledger.range(0..=69).count(), 0);
    }

    #[test]
    fn only_metadata_and_one_disk_s_data_stand_alone() {
        use Meeting::{Fine, Overlap, Shared};
        use Role::{Active, Compressed, Inactive, Metadata};
        let table = [
            (Metadata, Metadata, Overlap),
            (Metadata, Active, Overlap),
            (Metadata, Compressed, Overlap),
            (Inactive, Metadata, Overlap),
            (Active, Active, Shared),
            (Active, Inactive, Fine),
            (Inactive, Inactive, Fine),
            (Active, Compressed, Shared),
            (Compressed, Inactive, Shared),
            (Compressed, Compressed, Fine),
        ];
        for (first, second, meeting) in table {
            let mut ledger = Ledger::default();
            assert_eq!(ledger.refer(HostCluster::new(3), first, 1), Fine);
            assert_eq!(
                ledger.refer(HostCluster::new(3), second, 1),
                meeting,
                "{first:?} {second:?}"
            );
            assert_eq!(ledger.refer(HostCluster::new(4), second, 1), Fine);
        }
    }
}
