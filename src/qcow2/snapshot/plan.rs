//! What a change of the snapshots writes.

use std::ops::Range;

use super::change::Change;
use super::counts::NewCounts;
use super::references::{cluster_at, count_data, each_table, host_run, snapshot_l1};
use super::room::Room;
use super::table::{MAX_TABLE, Snapshot};
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::entry::{ClusterRef, L1Entry, L2Entry};
use crate::qcow2::feature::Autoclear;
use crate::qcow2::geometry::{ClusterCount, Geometry, HostCluster, HostOffset};
use crate::qcow2::header::{Header, TableRef};
use crate::qcow2::open::Qcow2;
use crate::qcow2::runs;
use crate::qcow2::table::{EntryRun, L2Table};
use crate::task::Task;

/// A change of the snapshots, ready to be carried out.
pub(super) struct Plan<'a> {
    /// The header after the switch.
    pub(super) header: Header,
    pub(super) counts: NewCounts<'a>,
    pub(super) room: Room,
    /// L2 tables whose flags change; they lie one behind the other, where the caller's room begins.
    pub(super) tables: Vec<NewTable>,
    /// The active L1 table, if it is written anew.
    pub(super) l1: Option<Vec<L1Entry>>,
    /// The L1 table of a new snapshot.
    pub(super) snapshot_l1: Vec<L1Entry>,
    /// The entries of the snapshot table, if it is written anew.
    pub(super) entries: Option<Vec<Entry>>,
    /// Where the last cluster ended that was in use.
    pub(super) used: HostCluster,
}

/// An L2 table at a new place.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewTable {
    /// The L1 entries that lead to it have this index.
    index: usize,
    pub(super) from: HostOffset,
    pub(super) flags: Flags,
    /// Whether it is the active disk's alone.
    sole: bool,
}

/// What the COPIED flags of a table become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flags {
    Clear,
    /// What the new counts say.
    AsCounted,
}

/// An entry of the snapshot table.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    /// It stays as it is, byte for byte: where it is, and how many bytes it has.
    Kept(u64, u64),
    New(Box<Snapshot>),
}

/// What refers to what, before anything has a place.
struct Draft<'a> {
    counts: NewCounts<'a>,
    virtual_size: u64,
    /// The active L1 table; its entries lead to the old places.
    l1: Vec<L1Entry>,
    tables: Vec<NewTable>,
    /// So many of its entries are the new snapshot's too.
    snapshot_entries: usize,
    entries: Option<Vec<Entry>>,
}

impl Qcow2 {
    /// Plans a change. What is stored was held against what is referred to; `used` is where the
    /// last cluster ends that is in use.
    pub(super) fn plan_snapshots<'a>(
        &'a self,
        change: &Change<'_>,
        mut counts: NewCounts<'a>,
        used: HostCluster,
        task: Task<'_>,
    ) -> Result<Plan<'a>> {
        let active = self.l1()?;
        let old_table = self.snapshot_table_clusters(change);
        let draft = match change {
            Change::Create { snapshot, places, .. } => {
                let draft = self.draft_create(active.clone(), counts, task)?;
                let kept = places.iter().map(|(at, len)| Entry::Kept(*at, *len));
                let new = Entry::New(Box::new((*snapshot).clone()));
                Draft { entries: Some(kept.chain([new]).collect()), ..draft }
            }
            Change::Apply { snapshot } => self.draft_apply(&active, snapshot, counts, task)?,
            Change::Delete { snapshot, place, places } => {
                counts.less().add(self.table_run(snapshot.l1.offset, snapshot.l1.count));
                let draft = self.draft_delete(active.clone(), snapshot, counts, task)?;
                let kept = (0..).zip(places.iter()).filter(|(other, _)| other != place);
                let kept = kept.map(|(_, (at, len))| Entry::Kept(*at, *len));
                Draft { entries: Some(kept.collect()), ..draft }
            }
        };
        self.give_places(draft, &active, old_table, used)
    }

    /// The active disk's tables get a second owner.
    fn draft_create<'a>(
        &self,
        mut l1: Vec<L1Entry>,
        mut counts: NewCounts<'a>,
        task: Task<'_>,
    ) -> Result<Draft<'a>> {
        let (geometry, mut tables) = (self.header.geometry, Vec::new());
        // What lies behind the disk's end is the state of a machine, which is left to it.
        let entries = index(geometry.l1_entries_for(self.header.virtual_size)).min(l1.len());
        let disk = l1.get(..entries).unwrap_or_default();
        each_table(&*self.storage, geometry, disk, task, |index, at, table| {
            count_data(&self.header, table, counts.more())?;
            if table.entries().any(L2Entry::is_copied) {
                tables.push(NewTable { index, from: at.offset, flags: Flags::Clear, sole: false });
            } else {
                counts.more().add(cluster_at(geometry, at.offset));
            }
            Ok(())
        })?;
        l1.iter_mut().take(entries).for_each(|entry| *entry = entry.shared());
        let virtual_size = self.header.virtual_size;
        Ok(Draft { counts, virtual_size, l1, tables, snapshot_entries: entries, entries: None })
    }

    /// The active disk's tables are given up for those of a snapshot.
    fn draft_apply<'a>(
        &self,
        active: &[L1Entry],
        snapshot: &Snapshot,
        mut counts: NewCounts<'a>,
        task: Task<'_>,
    ) -> Result<Draft<'a>> {
        let (geometry, mut tables) = (self.header.geometry, Vec::new());
        let virtual_size = snapshot.disk_size(&self.header);
        let mut l1 = snapshot_l1(&*self.storage, snapshot.l1)?;
        // Behind the disk's end is the state of the machine: it is left to the snapshot.
        l1.resize(index(geometry.l1_entries_for(virtual_size)).max(1), L1Entry::EMPTY);
        each_table(&*self.storage, geometry, &l1, task, |index, at, table| {
            count_data(&self.header, table, counts.more())?;
            // Flags mean nothing where a snapshot alone has a table: they may be there.
            if table.entries().any(L2Entry::is_copied) {
                tables.push(NewTable { index, from: at.offset, flags: Flags::Clear, sole: true });
            } else {
                counts.more().add(cluster_at(geometry, at.offset));
            }
            Ok(())
        })?;
        l1.iter_mut().for_each(|entry| *entry = entry.shared());
        each_table(&*self.storage, geometry, active, task, |_, at, table| {
            counts.less().add(cluster_at(geometry, at.offset));
            count_data(&self.header, table, counts.less())
        })?;
        Ok(Draft { counts, virtual_size, l1, tables, snapshot_entries: 0, entries: None })
    }

    /// A snapshot's tables are given up; what the active disk has for itself then says so.
    fn draft_delete<'a>(
        &self,
        mut l1: Vec<L1Entry>,
        snapshot: &Snapshot,
        mut counts: NewCounts<'a>,
        task: Task<'_>,
    ) -> Result<Draft<'a>> {
        let (storage, geometry) = (&*self.storage, self.header.geometry);
        let given_up = snapshot_l1(storage, snapshot.l1)?;
        each_table(storage, geometry, &given_up, task, |_, at, table| {
            counts.less().add(cluster_at(geometry, at.offset));
            count_data(&self.header, table, counts.less())
        })?;
        let (mut tables, mut own) = (Vec::new(), Vec::new());
        each_table(storage, geometry, &l1, task, |index, at, table| {
            if counts.get(geometry.host_cluster(at.offset))? != 1 {
                return Ok(());
            }
            if flags_differ(&self.header, table, &mut counts)? {
                tables.push(NewTable {
                    index,
                    from: at.offset,
                    flags: Flags::AsCounted,
                    sole: true,
                });
            } else if !at.copied {
                own.push((index, at.offset));
            }
            Ok(())
        })?;
        for (index, at) in own {
            set(&mut l1, index, ClusterRef::sole(at));
        }
        let virtual_size = self.header.virtual_size;
        Ok(Draft { counts, virtual_size, l1, tables, snapshot_entries: 0, entries: None })
    }

    /// Gives everything that is new its place.
    fn give_places<'a>(
        &self,
        mut draft: Draft<'a>,
        active: &[L1Entry],
        old_snapshot_table: ClusterCount,
        used: HostCluster,
    ) -> Result<Plan<'a>> {
        let (storage, geometry) = (&*self.storage, self.header.geometry);
        let moves_l1 = !draft.tables.is_empty() || draft.l1 != active;
        let needs = draft.needs(geometry, moves_l1)?;
        let counts = &mut draft.counts;
        // What is not needed any more.
        draft.tables.iter().for_each(|table| table.drop_from(counts, geometry));
        if moves_l1 {
            counts.less().add(self.table_run(self.header.l1.offset, self.header.l1.count));
        }
        if draft.entries.is_some() {
            let start = geometry.host_cluster(self.header.snapshots.offset);
            counts.less().add(start..start + old_snapshot_table);
        }
        let (rest, changed) = (needs.all(), counts.changed());
        let room = Room::find(storage, &self.header, counts.table(), changed, rest, used)?;
        counts.more().add(room.added());
        room.replaced().iter().for_each(|run| counts.less().add(run.clone()));
        draft.place_tables(geometry, room.rest());
        let counts = &mut draft.counts;
        // Counts that do not fit are refused before anything is written.
        for index in room.blocks() {
            counts.block(*index)?;
        }
        let l1_at = room.rest() + needs.tables;
        let snapshot_l1_at = l1_at + needs.l1;
        let table_at = snapshot_l1_at + needs.snapshot_l1;
        let snapshot_l1 = draft.l1.get(..draft.snapshot_entries).unwrap_or_default().to_vec();
        let table_ref = |at, entries: usize| TableRef {
            offset: geometry.host_offset(at),
            // OK to default: both are limited to much less.
            count: u32::try_from(entries).unwrap_or(u32::MAX),
        };
        if let Some(Entry::New(snapshot)) = draft.entries.iter_mut().flatten().last() {
            snapshot.l1 = table_ref(snapshot_l1_at, snapshot_l1.len());
        }
        let (old, entries) = (&self.header, draft.entries.as_deref());
        let header = Header {
            virtual_size: draft.virtual_size,
            l1: if moves_l1 { table_ref(l1_at, draft.l1.len()) } else { old.l1 },
            refcount_table: room.table_ref(),
            snapshots: match entries {
                None => old.snapshots,
                Some([]) => TableRef { offset: HostOffset::ZERO, count: 0 },
                Some(entries) => table_ref(table_at, entries.len()),
            },
            autoclear: old.autoclear_kept(),
            ..old.clone()
        };
        Ok(Plan {
            header,
            counts: draft.counts,
            room,
            tables: draft.tables,
            l1: moves_l1.then_some(draft.l1),
            snapshot_l1,
            entries: draft.entries,
            used,
        })
    }

    /// The clusters of an L1 table.
    fn table_run(&self, offset: HostOffset, entries: u32) -> Range<HostCluster> {
        let geometry = self.header.geometry;
        let start = geometry.host_cluster(offset);
        start..start + geometry.table_clusters(u64::from(entries))
    }

    /// How many clusters the snapshot table has now.
    fn snapshot_table_clusters(&self, change: &Change<'_>) -> ClusterCount {
        let last = change.places().last();
        let end = last.map_or(0, |(at, len)| at.saturating_add(*len));
        self.header.geometry.clusters_for(end.saturating_sub(self.header.snapshots.offset.get()))
    }
}

/// How many clusters everything new takes, beside refcount structures.
struct Needs {
    tables: ClusterCount,
    l1: ClusterCount,
    snapshot_l1: ClusterCount,
    snapshot_table: ClusterCount,
}

impl Needs {
    fn all(&self) -> ClusterCount {
        self.tables + self.l1 + self.snapshot_l1 + self.snapshot_table
    }
}

impl Draft<'_> {
    /// Puts the new L2 tables one behind the other from `first` on.
    fn place_tables(&mut self, geometry: Geometry, first: HostCluster) {
        for (place, table) in (0..).zip(&self.tables) {
            let at = first + ClusterCount::new(place);
            if !table.sole {
                self.counts.more().add(at..at + ClusterCount::new(1));
            }
            let at = ClusterRef { offset: geometry.host_offset(at), copied: table.sole };
            set(&mut self.l1, table.index, at);
        }
    }

    fn needs(&self, geometry: Geometry, moves_l1: bool) -> Result<Needs> {
        let count = |entries: usize| u64::try_from(entries).unwrap_or(u64::MAX);
        let table_len = self.entries.as_deref().map_or(Ok(0), table_len)?;
        Ok(Needs {
            tables: ClusterCount::new(count(self.tables.len())),
            l1: geometry.table_clusters(if moves_l1 { count(self.l1.len()) } else { 0 }),
            snapshot_l1: geometry.table_clusters(count(self.snapshot_entries)),
            snapshot_table: geometry.clusters_for(table_len),
        })
    }
}

impl NewTable {
    /// The old place loses the references that the new one gets.
    fn drop_from(&self, counts: &mut NewCounts<'_>, geometry: Geometry) {
        // A snapshot keeps the table that the active disk gets a copy of, and nobody was counted yet.
        if !(self.sole && self.flags == Flags::Clear) {
            counts.less().add(cluster_at(geometry, self.from));
        }
    }
}

/// Whether a table has flags that the new counts contradict.
fn flags_differ(header: &Header, table: &L2Table, counts: &mut NewCounts<'_>) -> Result<bool> {
    let geometry = header.geometry;
    for (_, run) in table.runs(geometry) {
        let Some(hosts) = changing_hosts(header, run, counts) else { continue };
        let copied = run.entry.is_copied();
        if counts.are_ones(&hosts)? {
            if copied {
                continue;
            }
            return Ok(true);
        }
        for cluster in runs::clusters(hosts) {
            if (counts.get(cluster)? == 1) != copied {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Makes the flags of a table those that the new counts ask for.
pub(super) fn set_counted_flags(
    header: &Header,
    table: &mut L2Table,
    counts: &mut NewCounts<'_>,
) -> Result<()> {
    let runs: Vec<(u64, EntryRun)> = table.runs(header.geometry).collect();
    for (first, run) in runs {
        let Some(hosts) = changing_hosts(header, run, counts) else { continue };
        if counts.are_ones(&hosts)? {
            table.set_copied(first..first.saturating_add(run.clusters), true);
            continue;
        }
        for (index, cluster) in (first..).zip(runs::clusters(hosts)) {
            let sole = counts.get(cluster)? == 1;
            table.set_copied(index..index.saturating_add(1), sole);
        }
    }
    Ok(())
}

/// The clusters of a run of entries, one for each, if any of them loses a reference; what loses none
/// keeps its flag, which was right.
fn changing_hosts(
    header: &Header,
    run: EntryRun,
    counts: &NewCounts<'_>,
) -> Option<Range<HostCluster>> {
    host_run(header, run).filter(|hosts| counts.loses(hosts))
}

/// How many bytes a table of these entries has: each begins at a multiple of eight.
fn table_len(entries: &[Entry]) -> Result<u64> {
    let len = entries.iter().fold(0u64, |len, entry| {
        let entry = match entry {
            Entry::Kept(_, len) => *len,
            Entry::New(snapshot) => u64::try_from(snapshot.encode().len()).unwrap_or(u64::MAX),
        };
        len.next_multiple_of(8).saturating_add(entry)
    });
    if len > MAX_TABLE {
        let message =
            format!("the snapshot table would have {len} bytes: the limit is {MAX_TABLE}");
        return Err(Error::new(ErrorKind::HasSnapshots, message));
    }
    Ok(len)
}

fn set(l1: &mut [L1Entry], index: usize, table: ClusterRef) {
    if let Some(entry) = l1.get_mut(index) {
        *entry = L1Entry::encode(table);
    }
}

fn index(entries: u64) -> usize {
    crate::qcow2::lengths::index(entries)
}

impl Header {
    /// The autoclear bits that stay true where no guest data changes: those of what is not known
    /// here go.
    fn autoclear_kept(&self) -> Autoclear {
        let bitmaps = self.bitmaps().is_some() && self.autoclear.contains(Autoclear::BITMAPS);
        Autoclear::default().with_if(bitmaps, Autoclear::BITMAPS)
    }
}
