//! How often each host cluster is referred to, and as what.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};

use crate::qcow2::geometry::{ClusterCount, Geometry, HostCluster};
use crate::qcow2::refblock::RefcountBlock;

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

/// What a new reference is to those that came before, where it must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meeting {
    /// Data meets data in a way that snapshots do not explain.
    Shared,
    /// Metadata meets something.
    Overlap,
}

/// So many clusters in a row share a place in the map.
const GROUP: u64 = 1 << GROUP_BITS;
const GROUP_BITS: u32 = 9;
/// So many bits has a word of their roles.
const WORD_BITS: u32 = 6;
const WORD_MASK: u64 = (1 << WORD_BITS) - 1;
const WORDS: usize = 8;

/// The references to every cluster. Memory follows what is referred to, not the file's length: a
/// sparse file can claim any length. A long run of data takes next to none, scattered data half a
/// byte a cluster, and what is referred to more than once two bytes more.
#[derive(Debug, Default)]
pub(in crate::qcow2) struct Ledger {
    groups: BTreeMap<u64, Group>,
    /// Counts that need more than 16 bits, by cluster.
    large: BTreeMap<u64, u64>,
}

#[derive(Debug)]
enum Group {
    /// Every cluster is referred to once, in this role.
    Whole(Role),
    Mixed(Box<Mixed>),
}

/// Clusters that differ.
#[derive(Debug, Default)]
struct Mixed {
    words: [Word; WORDS],
    /// How often each is referred to, where that is not once. A count of `u16::MAX` is found among
    /// the large ones.
    counts: Option<Box<[u16]>>,
}

/// The roles of clusters in a row, a bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Word {
    metadata: u64,
    active: u64,
    inactive: u64,
    compressed: u64,
}

impl Ledger {
    /// Counts `times` more references to every cluster of a run. Returns the first of them that
    /// must not be referred to like this.
    pub(super) fn refer(
        &mut self,
        run: Range<HostCluster>,
        role: Role,
        times: u64,
    ) -> Option<(Meeting, HostCluster)> {
        let mut first_meeting = None;
        for (index, places) in groups_of(run) {
            if times == 1 && places == (0..GROUP) && !self.groups.contains_key(&index) {
                self.groups.insert(index, Group::Whole(role));
                continue;
            }
            let group = self.groups.entry(index).or_insert_with(|| Group::Mixed(Box::default()));
            if let Group::Whole(role) = *group {
                *group = Group::Mixed(Box::new(Mixed::all(role)));
            }
            let Group::Mixed(mixed) = group else { continue };
            let meeting = mixed.meeting(&places, role);
            mixed.refer(index, &places, role, times, &mut self.large);
            if let Some(role) = mixed.whole() {
                *group = Group::Whole(role);
            }
            first_meeting = first_meeting.or_else(|| {
                let (meeting, place) = meeting?;
                Some((meeting, HostCluster::new(cluster_at(index, place))))
            });
        }
        first_meeting
    }

    /// Counts one more reference to every cluster of a run, as nothing in particular.
    pub(in crate::qcow2) fn add(&mut self, run: Range<HostCluster>) {
        self.refer(run, Role::Inactive, 1);
    }

    /// The indexes of the refcount blocks that count any of these references.
    pub(in crate::qcow2) fn blocks(&self, geometry: Geometry) -> BTreeSet<u64> {
        let mut blocks = BTreeSet::new();
        for (&index, group) in &self.groups {
            let block = |place| geometry.refblock_index(HostCluster::new(cluster_at(index, place)));
            match group {
                Group::Whole(_) => blocks.extend(block(0)..=block(GROUP - 1)),
                Group::Mixed(mixed) => {
                    // Most lie in one block.
                    let mut known = None;
                    for place in (0..GROUP).filter(|&place| mixed.count(place) > 0) {
                        if known != Some(block(place)) {
                            known = Some(block(place));
                            blocks.insert(block(place));
                        }
                    }
                }
            }
        }
        blocks
    }

    /// Whether any of these clusters is referred to.
    pub(in crate::qcow2) fn meets(&self, run: &Range<HostCluster>) -> bool {
        groups_of(run.clone()).any(|(index, mut places)| match self.groups.get(&index) {
            None => false,
            Some(Group::Whole(_)) => true,
            Some(Group::Mixed(mixed)) => places.any(|place| mixed.count(place) > 0),
        })
    }

    /// Whether every cluster of a run may be referred to like this.
    pub(super) fn admits(&self, run: Range<HostCluster>, role: Role) -> bool {
        groups_of(run).all(|(index, places)| match self.groups.get(&index) {
            None => true,
            Some(Group::Whole(found)) => Word::of(*found, 1).clash(role) == 0,
            Some(Group::Mixed(mixed)) => mixed.meeting(&places, role).is_none(),
        })
    }

    /// How often a cluster is referred to.
    pub(in crate::qcow2) fn get(&self, cluster: HostCluster) -> u64 {
        let place = cluster.get() & (GROUP - 1);
        match self.groups.get(&(cluster.get() >> GROUP_BITS)) {
            None => 0,
            Some(group) => self.whole(cluster.get(), group.count(place)),
        }
    }

    /// Every cluster in `range` that is referred to, ascending, and how often.
    pub(in crate::qcow2) fn range(
        &self,
        range: RangeInclusive<u64>,
    ) -> impl Iterator<Item = (HostCluster, u64)> {
        let groups = self.groups.range(range.start() >> GROUP_BITS..=range.end() >> GROUP_BITS);
        let counts = groups.flat_map(|(&index, group)| {
            (0..GROUP).map(move |place| (cluster_at(index, place), group.count(place)))
        });
        let used = counts.filter(move |(cluster, count)| *count > 0 && range.contains(cluster));
        used.map(|(cluster, count)| (HostCluster::new(cluster), self.whole(cluster, count)))
    }

    /// Every cluster that is referred to, ascending, and how often.
    pub(in crate::qcow2) fn iter(&self) -> impl Iterator<Item = (HostCluster, u64)> {
        self.range(0..=u64::MAX)
    }

    /// The refcount block with this index as it must be; nothing where a count does not fit.
    pub(in crate::qcow2) fn block(&self, geometry: Geometry, index: u64) -> Option<RefcountBlock> {
        let mut block = RefcountBlock::zeroed(geometry);
        let first = geometry.first_cluster_of_refblock(index);
        let end = first + ClusterCount::new(geometry.refblock_entries());
        let max = geometry.refcount_order().max_count();
        for (index, places) in groups_of(first..end) {
            let Some(group) = self.groups.get(&index) else { continue };
            let at = |place| cluster_at(index, place).saturating_sub(first.get());
            if let Group::Whole(_) = group {
                block.fill_ones(at(places.start), at(places.end));
                continue;
            }
            for place in places {
                let count = self.whole(cluster_at(index, place), group.count(place));
                if count > max {
                    return None;
                }
                if count > 0 {
                    block.set(at(place), count);
                }
            }
        }
        Some(block)
    }

    fn whole(&self, cluster: u64, count: u16) -> u64 {
        match count {
            u16::MAX => self.large.get(&cluster).copied().unwrap_or_default(),
            small => u64::from(small),
        }
    }
}

impl Group {
    fn count(&self, place: u64) -> u16 {
        match self {
            Group::Whole(_) => 1,
            Group::Mixed(mixed) => mixed.count(place),
        }
    }
}

impl Mixed {
    fn all(role: Role) -> Mixed {
        Mixed { words: [Word::of(role, u64::MAX); WORDS], counts: None }
    }

    /// The role of every cluster, if that is one and each is referred to once.
    fn whole(&self) -> Option<Role> {
        let all = |role| self.words.iter().all(|word| *word == Word::of(role, u64::MAX));
        let roles = [Role::Active, Role::Inactive, Role::Metadata, Role::Compressed];
        roles.into_iter().find(|&role| self.counts.is_none() && all(role))
    }

    fn count(&self, place: u64) -> u16 {
        match &self.counts {
            Some(counts) => counts.get(to_index(place)).copied().unwrap_or_default(),
            None => {
                let word = self.words.get(to_index(place >> WORD_BITS)).copied();
                u16::from(word.unwrap_or_default().used() >> (place & WORD_MASK) & 1 == 1)
            }
        }
    }

    /// The first of these clusters that must not be referred to like this.
    fn meeting(&self, places: &Range<u64>, role: Role) -> Option<(Meeting, u64)> {
        words_of(places).find_map(|(index, bits)| {
            let word = self.words.get(to_index(index)).copied().unwrap_or_default();
            let clash = word.clash(role) & bits;
            let first = clash & clash.wrapping_neg();
            let place = (index << WORD_BITS).saturating_add(u64::from(first.trailing_zeros()));
            let overlaps = role == Role::Metadata || word.metadata & first != 0;
            let meeting = if overlaps { Meeting::Overlap } else { Meeting::Shared };
            (clash != 0).then_some((meeting, place))
        })
    }

    /// Counts `times` more references to these clusters of the group with this index.
    fn refer(
        &mut self,
        group: u64,
        places: &Range<u64>,
        role: Role,
        times: u64,
        large: &mut BTreeMap<u64, u64>,
    ) {
        let again = words_of(places).any(|(index, bits)| {
            self.words.get(to_index(index)).is_some_and(|word| word.used() & bits != 0)
        });
        if (again || times != 1) && self.counts.is_none() {
            self.counts = Some((0..GROUP).map(|place| self.count(place)).collect());
        }
        for (index, bits) in words_of(places) {
            if let Some(word) = self.words.get_mut(to_index(index)) {
                word.add(role, bits);
            }
        }
        let Some(counts) = &mut self.counts else { return };
        for place in places.clone() {
            let Some(count) = counts.get_mut(to_index(place)) else { return };
            let cluster = cluster_at(group, place);
            let before = match *count {
                u16::MAX => large.get(&cluster).copied().unwrap_or_default(),
                small => u64::from(small),
            };
            let sum = before.saturating_add(times);
            *count = u16::try_from(sum).unwrap_or(u16::MAX);
            if *count == u16::MAX {
                large.insert(cluster, sum);
            }
        }
    }
}

impl Word {
    fn of(role: Role, bits: u64) -> Word {
        let mut word = Word::default();
        word.add(role, bits);
        word
    }

    const fn add(&mut self, role: Role, bits: u64) {
        match role {
            Role::Metadata => self.metadata |= bits,
            Role::Active => self.active |= bits,
            Role::Inactive => self.inactive |= bits,
            Role::Compressed => self.compressed |= bits,
        }
    }

    const fn used(self) -> u64 {
        self.metadata | self.active | self.inactive | self.compressed
    }

    /// The clusters that must not be referred to in this role.
    const fn clash(self, role: Role) -> u64 {
        self.metadata
            | match role {
                Role::Metadata => self.used(),
                Role::Active => self.active | self.compressed,
                Role::Inactive => self.compressed,
                Role::Compressed => self.active | self.inactive,
            }
    }
}

/// The groups that a run lies in, and the places in each.
fn groups_of(run: Range<HostCluster>) -> impl Iterator<Item = (u64, Range<u64>)> {
    pieces(run.start.get(), run.end.get(), GROUP_BITS)
}

/// The words that these places of a group lie in, and the bits of each.
fn words_of(places: &Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let below =
        |bit: u64| 1u64.checked_shl(u32::try_from(bit).ok()?).map(|bit| bit.wrapping_sub(1));
    pieces(places.start, places.end, WORD_BITS).map(move |(index, bits)| {
        (index, below(bits.end).unwrap_or(u64::MAX) & !below(bits.start).unwrap_or(u64::MAX))
    })
}

/// What of `start..end` lies in which piece of `1 << bits`.
fn pieces(start: u64, end: u64, bits: u32) -> impl Iterator<Item = (u64, Range<u64>)> {
    let last = if start < end { end.saturating_sub(1) >> bits } else { 0 };
    let indexes = (start < end).then_some(start >> bits..=last);
    indexes.into_iter().flatten().map(move |index| {
        let first = index << bits;
        let len = 1u64 << bits;
        (index, start.saturating_sub(first)..end.saturating_sub(first).min(len))
    })
}

const fn cluster_at(group: u64, place: u64) -> u64 {
    (group << GROUP_BITS).saturating_add(place)
}

fn to_index(place: u64) -> usize {
    // OK to default: a group has 512 places.
    usize::try_from(place).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::qcow2::geometry::{ClusterBits, RefcountOrder};

    const ROLES: [Role; 4] = [Role::Metadata, Role::Active, Role::Inactive, Role::Compressed];

    fn run(first: u64, len: u64) -> Range<HostCluster> {
        HostCluster::new(first)..HostCluster::new(first + len)
    }

    #[test]
    fn counts_are_exact_beyond_sixteen_bits() {
        let (mut ledger, cluster) = (Ledger::default(), HostCluster::new(70));
        for (times, sum) in [(1, 1), (65533, 65534), (1, 65535), (1, 65536), (1 << 40, 1 << 40)] {
            ledger.refer(run(70, 1), Role::Inactive, times);
            assert_eq!(ledger.get(cluster), sum + if times > 65536 { 65536 } else { 0 });
        }
        assert_eq!(ledger.iter().collect::<Vec<_>>(), [(cluster, (1 << 40) + 65536)]);
        assert_eq!(ledger.range(71..=200).count() + ledger.range(0..=69).count(), 0);
    }

    #[test]
    fn only_metadata_and_one_disk_s_data_stand_alone() {
        use Meeting::{Overlap, Shared};
        use Role::{Active, Compressed, Inactive, Metadata};
        let table = [
            (Metadata, Metadata, Some(Overlap)),
            (Metadata, Active, Some(Overlap)),
            (Metadata, Compressed, Some(Overlap)),
            (Inactive, Metadata, Some(Overlap)),
            (Active, Active, Some(Shared)),
            (Active, Inactive, None),
            (Inactive, Inactive, None),
            (Active, Compressed, Some(Shared)),
            (Compressed, Inactive, Some(Shared)),
            (Compressed, Compressed, None),
        ];
        for (first, second, meeting) in table {
            let mut ledger = Ledger::default();
            assert_eq!(ledger.refer(run(3, 1), first, 1), None);
            assert_eq!(ledger.admits(run(3, 1), second), meeting.is_none());
            let found = ledger.refer(run(2, 9), second, 1);
            assert_eq!(found, meeting.map(|meeting| (meeting, HostCluster::new(3))));
        }
    }

    proptest! {
        /// Runs are as good as their clusters one by one, however they are kept.
        #[test]
        fn runs_are_their_clusters(
            runs in prop::collection::vec((0u64..2000, 1u64..1300, 0usize..4, 1u64..3), 1..12),
        ) {
            let (mut by_runs, mut one_by_one) = (Ledger::default(), BTreeMap::<u64, Vec<Role>>::new());
            for (first, len, role, times) in runs {
                let role = ROLES[role];
                let clash = (first..first + len).find(|cluster| {
                    let found = one_by_one.get(cluster).into_iter().flatten();
                    found.into_iter().any(|&found| Word::of(found, 1).clash(role) != 0)
                });
                prop_assert_eq!(by_runs.admits(run(first, len), role), clash.is_none());
                let found = by_runs.refer(run(first, len), role, times);
                prop_assert_eq!(found.map(|(_, cluster)| cluster.get()), clash);
                for cluster in first..first + len {
                    let roles = one_by_one.entry(cluster).or_default();
                    roles.extend(std::iter::repeat_n(role, times as usize));
                }
            }
            let counts = one_by_one.iter().map(|(&cluster, roles)| (cluster, roles.len() as u64));
            let counts: Vec<_> = counts.collect();
            let found: Vec<_> = by_runs.iter().map(|(cluster, count)| (cluster.get(), count)).collect();
            prop_assert_eq!(&found, &counts);
            let geometry =
                Geometry::new(ClusterBits::new(9).unwrap(), RefcountOrder::new(2).unwrap(), false).unwrap();
            let mut expected = RefcountBlock::zeroed(geometry);
            let end = 2 * geometry.refblock_entries();
            let block = counts.iter().filter(|(cluster, _)| (end / 2..end).contains(cluster));
            let fits = block.clone().all(|(_, count)| *count < 16);
            for (cluster, count) in block.filter(|_| fits) {
                expected.set(cluster - end / 2, *count);
            }
            prop_assert_eq!(by_runs.block(geometry, 1), fits.then_some(expected));
        }
    }
}
