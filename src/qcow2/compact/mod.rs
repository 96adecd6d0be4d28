//! Making the file of an image as short as what is in it: tables that map nothing go, and what lies
//! behind the place where the file could end moves into the clusters before it that are free.
//!
//! A cluster keeps its count and its contents when it moves, so that whoever refers to it sees the
//! same, whether its entry is switched already or not: guest data, the disks of snapshots, bitmaps,
//! and all tables. `batch.rs` alone knows the order: the new place is counted and written, a sync,
//! the references are switched, each in one sector, a sync, and only then the old place is given
//! up. What several refer to is given up when all of them are switched. A crash leaves the image
//! as it was, with leaked clusters at worst, and doing it again finishes the work: `rejoin.rs` first
//! brings those back together of whom some were switched and some were not.
//!
//! - `room.rs` says where the file could end, and which clusters before that are free.
//! - `data.rs` moves what L2 tables and bitmap tables lead to, `packed.rs` what of that is
//!   compressed; `gaps.rs` decides when all of that moves, for what is missing between; `tables.rs`
//!   the tables themselves, `counts.rs` refcount blocks and table.

mod batch;
mod counts;
#[cfg(test)]
mod crash_tests;
mod data;
mod gaps;
mod packed;
mod rejoin;
mod room;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use self::batch::{Batch, Pace};
use self::gaps::Held;
use self::packed::{Measure, Packing};
use self::room::FreeClusters;
use super::check::scan;
use super::entry::RefcountTableEntry;
use super::feature::Incompatible;
use super::flush::switch_header;
use super::geometry::{ClusterCount, Geometry, HostCluster, HostOffset};
use super::header::{Header, TableRef};
use super::open::Qcow2;
use super::refblock::RefcountBlock;
use super::refcounts::Refcounts;
use super::release::Releaser;
use super::snapshot::read_snapshots;
use super::table::read_refcount_table;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, refuse_read_only};
use crate::task::Task;

/// What compacting an image's file did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Compacted {
    /// Bytes of clusters that were counted and that nothing referred to.
    pub leaked_bytes: u64,
    /// Bytes that moved towards the beginning of the file.
    pub moved_bytes: u64,
    /// Whether anything was written but the room of free clusters given back.
    pub changed: bool,
    /// Whether the image was dirty, and its reference counts were made true first.
    pub rebuilt: bool,
}

/// That an image was found sound, but for leaked clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sound {
    /// Counts that are to be lowered, those of clusters behind the end of the file included: who makes
    /// it longer would leak these.
    wrong_counts: u64,
    leaked_bytes: u64,
    has_packed: bool,
}

impl Sound {
    /// Bytes of clusters that are counted and that nothing refers to.
    pub const fn leaked_bytes(&self) -> u64 {
        self.leaked_bytes
    }
}

impl Qcow2 {
    /// Looks whether everything that the image refers to is where it should be, and counted. Writes
    /// nothing but what was written before.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt), naming what is wrong, and as
    /// [`scan`](crate::qcow2::check::scan()).
    pub fn require_sound(&self, task: Task<'_>) -> Result<Sound> {
        self.header.require_not_corrupt()?;
        self.write_back(&self.order()?)?;
        sound(&*self.storage, &self.header, task)
    }

    /// Frees leaked clusters and tables that map nothing, moves what lies at the end of the file into
    /// free clusters, and cuts the file. The guest's disk, snapshots and bitmaps stay as they are. The
    /// reference counts of a dirty image are rebuilt first. The caller must hold the image's lock. It is
    /// on the medium afterwards. An encryption header stays where it is, and so does what needs more
    /// free clusters in a row than there are.
    ///
    /// `sound` is what [`require_sound`](Self::require_sound) said, if the image was locked since and
    /// changed by nobody else; it is looked at again otherwise.
    ///
    /// A crash leaves the image as it was, with leaked clusters at worst; so does a failure or a wish
    /// to stop, after which nothing more is written and the image must be opened again, if the error
    /// is [`changed`](Error::changed). Memory: that of a scan, and a few batches.
    ///
    /// # Errors
    /// Before anything is changed: [`Permission`](ErrorKind::Permission) for a storage that cannot be
    /// written, [`Corrupt`](ErrorKind::Corrupt) for an image that a
    /// [scan](crate::qcow2::check::scan()) finds damaged. Afterwards what the storage says, and
    /// [`Cancelled`](ErrorKind::Cancelled).
    pub fn compact(&mut self, sound: Option<Sound>, task: Task<'_>) -> Result<Compacted> {
        refuse_read_only(&*self.storage)?;
        self.header.require_not_corrupt()?;
        self.settle()?;
        let rebuilt = self.header.incompatible.contains(Incompatible::DIRTY);
        if rebuilt {
            self.rebuild_refcounts(task)?;
        }
        let done = self.change_whole(|image| {
            let compacted = image.compact_clean(sound.filter(|_| !rebuilt), task);
            compacted.map_err(|error| error.after_changes_if(rebuilt))
        })?;
        Ok(Compacted { rebuilt, changed: rebuilt || done.changed, ..done })
    }

    fn compact_clean(&self, known: Option<Sound>, task: Task<'_>) -> Result<(Header, Compacted)> {
        let storage = &*self.storage;
        let sound = known.map_or_else(|| sound(storage, &self.header, task), Ok)?;
        let mut mover = Mover::new(storage, self.header.clone(), sound.has_packed, task)?;
        let taken_up = if sound.wrong_counts > 0 { mover.take_up() } else { Ok(0) };
        let done = taken_up.and_then(|leaked_bytes| mover.run().map(|()| leaked_bytes));
        let leaked_bytes = done.map_err(|error| error.after_changes_if(mover.has_written))?;
        let Mover { progress: Moved { moved_bytes, .. }, header, has_written: changed, .. } = mover;
        Ok((header, Compacted { leaked_bytes, moved_bytes, changed, rebuilt: false }))
    }
}

fn sound(storage: &dyn Storage, header: &Header, task: Task<'_>) -> Result<Sound> {
    let report = scan(storage, header, task)?;
    if report.damage().is_none()
        && report.corruptions > 0
        && header.incompatible.contains(Incompatible::DIRTY)
    {
        let message = "the image is dirty: its reference counts are to be rebuilt first";
        return Err(Error::new(ErrorKind::Dirty, message));
    }
    report.require_sound()?;
    let leaked_bytes = header.geometry.bytes_of(ClusterCount::new(report.leaks));
    let wrong_counts = report.leaks.saturating_add(report.counted_beyond_file);
    let has_packed = report.has_compressed;
    Ok(Sound { wrong_counts, leaked_bytes, has_packed })
}

/// An image whose clusters move.
struct Mover<'a> {
    storage: &'a dyn Storage,
    geometry: Geometry,
    /// As it is on the medium.
    header: Header,
    /// The refcount table as it is on the medium.
    counts: Vec<RefcountTableEntry>,
    task: Task<'a>,
    pass: Pass,
    batch: Batch,
    pace: Pace,
    /// What moves and several refer to, of whom some are not switched yet.
    shared: BTreeMap<HostCluster, Shared>,
    /// The refcount block that was looked at last, and its index.
    recent: Option<(u64, RefcountBlock)>,
    progress: Moved,
    measure: Measure,
    /// Whether the disk has compressed clusters.
    has_packed: bool,
    /// Whether there are snapshots, whose tables may lead to what those of others do.
    is_shared: bool,
    has_written: bool,
}

/// So many shared clusters are remembered; they take 12 MiB.
const MAX_SHARED: usize = 1 << 18;

/// A cluster that several refer to.
#[derive(Debug, Clone, Copy)]
struct Shared {
    to: HostCluster,
    /// How many refer to it.
    count: u64,
    /// How many of those are not switched yet.
    left: u64,
}

/// One walk over everything that may move.
#[derive(Debug, Default)]
struct Pass {
    /// What lies behind it moves.
    mark: HostCluster,
    /// Where to.
    free: FreeClusters,
    packing: Packing,
    packed: Packed,
    /// Whether shared clusters stay from now on: some did that others lead to as well, who come later.
    keeps_shared: bool,
}

/// What compressed data does in a walk.
#[derive(Debug, Default)]
enum Packed {
    /// It moves where it lies behind the mark.
    #[default]
    Moves,
    /// All of it moves.
    All,
    /// It moves where there are gaps beside it.
    WithGaps(Held),
    /// It stays where it is.
    Stays,
}

impl Pass {
    fn behind(mark: HostCluster) -> Pass {
        Pass { mark, free: FreeClusters::before(mark), ..Pass::default() }
    }
}

/// How much moved, of what may have to, in bytes.
#[derive(Debug, Default)]
struct Moved {
    moved_bytes: u64,
    expected_bytes: u64,
}

impl Moved {
    fn moved(&mut self, bytes: u64) {
        self.moved_bytes = self.moved_bytes.saturating_add(bytes);
    }

    /// So many more bytes may have to move.
    fn expect(&mut self, bytes: u64) {
        self.expected_bytes = self.moved_bytes.saturating_add(bytes);
    }

    fn all_bytes(&self) -> u64 {
        self.expected_bytes.max(self.moved_bytes)
    }
}

impl<'a> Mover<'a> {
    fn new(
        storage: &'a dyn Storage,
        header: Header,
        has_packed: bool,
        task: Task<'a>,
    ) -> Result<Self> {
        let counts = read_refcount_table(storage, &header)?;
        let is_shared = header.snapshots.count > 0;
        let measure = Measure::new(&header);
        Ok(Mover {
            measure,
            storage,
            geometry: header.geometry,
            header,
            counts,
            task,
            pass: Pass::default(),
            batch: Batch::default(),
            pace: Pace::default(),
            shared: BTreeMap::new(),
            recent: None,
            progress: Moved::default(),
            has_packed,
            is_shared,
            has_written: false,
        })
    }

    fn run(&mut self) -> Result<()> {
        /// A bound for what is done again as long as something moves.
        const MAX_ROUNDS: u32 = 8;
        let counted_end = self.counted_end();
        self.drop_empty_tables()?;
        // Packed data lies differently where it moved to: there may be more to gain then.
        for _ in 0..MAX_ROUNDS {
            let before = self.end_of_use()?;
            self.close_gaps()?;
            let target = room::mark(&mut self.stored_counts())?;
            let end = self.end_of_use()?;
            log::info!("plan: of {end} clusters, those from {target} on move to the front");
            self.progress.expect(self.geometry.bytes_of(end - target));
            self.move_to(target, end)?;
            if !self.has_packed || self.end_of_use()? >= before {
                break;
            }
        }
        self.cut()?;
        self.give_back_free(counted_end)?;
        self.storage.sync()
    }

    /// Moves what lies behind the target, of which the file's end is the last that is in use.
    fn move_to(&mut self, target: HostCluster, first: HostCluster) -> Result<()> {
        /// A bound for what is done again and again.
        const MAX_PASSES: u32 = 64;
        // Packed data may lie less close where it moves to, so that there may not be room for all of it:
        // what lies last goes first.
        let steps = if self.has_packed { 8 } else { 1 };
        let ahead = (first - target).get();
        for step in 1..=steps {
            if !self.can_end_before(self.end_of_use()?)? {
                return Ok(());
            }
            let ahead = ahead.saturating_mul(step).checked_div(steps).unwrap_or_default();
            self.move_behind(HostCluster::new(first.get().saturating_sub(ahead)))?;
        }
        // Refcount blocks that count nothing any more leave their places to what found none before; and
        // where not all of what is packed finds room, what lies last may still.
        let (mut last, mut only_last) = (first, false);
        for _ in 0..MAX_PASSES {
            let end = self.end_of_use()?;
            if end <= target || end >= last && (only_last || !self.has_packed) {
                break;
            }
            if !self.can_end_before(end)? {
                break;
            }
            only_last = end >= last;
            let ahead = match self.has_packed {
                true if only_last => 1,
                true => (end - target).get().div_ceil(steps),
                false => (end - target).get(),
            };
            self.move_behind(HostCluster::new(end.get().saturating_sub(ahead)))?;
            last = end;
        }
        Ok(())
    }

    /// The end of what refcount blocks count, used or not.
    fn counted_end(&self) -> HostCluster {
        let blocks = self.counts.iter().rposition(|entry| *entry != RefcountTableEntry::EMPTY);
        let blocks =
            blocks.map_or(0, |last| u64::try_from(last).unwrap_or(u64::MAX).saturating_add(1));
        self.geometry.first_cluster_of_refblock(blocks)
    }

    /// Gives the room of clusters back that are free and that nothing moved to. A device is not cut:
    /// what was counted there and lies behind the end is given back, too.
    fn give_back_free(&self, counted_end: HostCluster) -> Result<()> {
        let end = self.end_of_use()?;
        let (mut free, mut counts) = (FreeClusters::before(end), self.stored_counts());
        let mut behind = (end < counted_end).then_some(end..counted_end);
        while let Some(run) = free.take_run(&mut counts)?.or_else(|| behind.take()) {
            self.give_back(run);
        }
        Ok(())
    }

    /// Moves what lies behind a cluster, as far as there is room before it.
    fn move_behind(&mut self, mark: HostCluster) -> Result<()> {
        if self.end_of_use()? <= mark {
            return Ok(());
        }
        self.move_all(Pass::behind(mark))
    }

    fn move_all(&mut self, pass: Pass) -> Result<()> {
        self.pass = pass;
        self.move_data()?;
        self.move_bitmap_data()?;
        self.move_tables()?;
        self.cut()?;
        self.move_structures()?;
        self.move_counts()?;
        self.cut()
    }

    fn end_of_use(&self) -> Result<HostCluster> {
        self.stored_counts().end_of_use(HostCluster::ZERO)
    }

    /// Once anything changes, what other programs vouch for is not known to be true any more.
    fn begin_writing(&mut self) -> Result<()> {
        let was_written = std::mem::replace(&mut self.has_written, true);
        let autoclear = self.header.autoclear.known();
        if was_written || autoclear == self.header.autoclear {
            return Ok(());
        }
        self.switch(Header { autoclear, ..self.header.clone() })
    }

    fn switch(&mut self, header: Header) -> Result<()> {
        switch_header(self.storage, &header)?;
        self.header = header;
        Ok(())
    }

    fn stored_counts(&self) -> Refcounts<'_> {
        Refcounts::new(self.storage, self.geometry, &self.counts)
    }

    /// The L1 tables of the disk and of all snapshots.
    fn l1_tables(&self) -> Result<Vec<TableRef>> {
        let snapshots = read_snapshots(self.storage, &self.header)?;
        let all = [self.header.l1].into_iter().chain(snapshots.iter().map(|snapshot| snapshot.l1));
        let mut seen = BTreeSet::new();
        Ok(all.filter(|table| table.count > 0 && seen.insert(table.offset.get())).collect())
    }

    /// Plans that a cluster behind the mark moves: where to, or nothing where it stays. The caller
    /// switches what refers to it, which counts so many times, in the same batch.
    fn relocate(&mut self, from: HostOffset, times: u64) -> Result<Option<HostOffset>> {
        let cluster = self.geometry.host_cluster(from);
        if cluster < self.pass.mark {
            return Ok(None);
        }
        let shared = match self.shared.remove(&cluster) {
            Some(shared) => shared,
            None => {
                let count = self.count_of(cluster)?;
                self.pass.keeps_shared |= count > times && self.shared.len() >= MAX_SHARED;
                if count > times && self.pass.keeps_shared {
                    return Ok(None);
                }
                let mut counts = Refcounts::new(self.storage, self.geometry, &self.counts);
                let Some(to) = self.pass.free.take(&mut counts)? else { return Ok(None) };
                self.batch.copy(cluster, to, count);
                self.progress.moved(self.geometry.cluster_size());
                Shared { to, count, left: count }
            }
        };
        // Whoever is left knows by their flags that the old place is not theirs alone.
        match shared.left.saturating_sub(times) {
            0 => self.batch.give_up(cluster, shared.count),
            left => _ = self.shared.insert(cluster, Shared { left, ..shared }),
        }
        Ok(Some(self.geometry.host_offset(shared.to)))
    }

    /// Gives up what several referred to, all of whom are switched.
    fn give_up_shared(&mut self) -> Result<()> {
        self.carry_out()?;
        for (cluster, Shared { count, .. }) in std::mem::take(&mut self.shared) {
            self.batch.give_up(cluster, count);
        }
        self.carry_out()
    }

    /// The stored count of a cluster.
    fn count_of(&mut self, cluster: HostCluster) -> Result<u64> {
        let index = self.geometry.refblock_index(cluster);
        if self.recent.as_ref().is_none_or(|(recent, _)| *recent != index) {
            let block = self.stored_counts().block(index)?;
            self.recent = Some((index, block.unwrap_or(RefcountBlock::zeroed(self.geometry))));
        }
        let place = self.geometry.index_in_refblock(cluster);
        Ok(self.recent.as_ref().map_or(0, |(_, block)| block.get(place)))
    }

    /// Drops refcount blocks that count nothing, and cuts the file behind its last used cluster.
    fn cut(&mut self) -> Result<()> {
        self.carry_out()?;
        if self.header.autoclear != self.header.autoclear.known() {
            self.begin_writing()?;
        }
        let releaser = Releaser::new(self.storage, self.geometry, self.counts.clone());
        let len = self.storage.len()?;
        let cut = releaser.finish_and_cut(&self.header, HostCluster::ZERO);
        cut.map_err(Error::after_changes)?;
        let counts = read_refcount_table(self.storage, &self.header)?;
        self.has_written |= counts != self.counts || self.storage.len()? != len;
        (self.counts, self.recent) = (counts, None);
        Ok(())
    }
}
