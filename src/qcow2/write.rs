//! Writing guest data: in place where a cluster is there and nobody else's, else into a new one.

use std::sync::atomic::Ordering;

use super::cache::Rank;
use super::entry::{ClusterRef, L1Entry, L2Entry, Mapping, Subclusters};
use super::error::FormatError;
use super::geometry::{ClusterCount, GuestCluster, GuestOffset, HostOffset};
use super::live::Live;
use super::open::Qcow2;
use super::table::{L2Table, first_word, put_word};
use crate::error::Result;

/// A host cluster to be written.
struct Target {
    offset: HostOffset,
    /// What of it holds guest data already.
    subclusters: Subclusters,
    /// Nothing refers to it yet.
    is_new: bool,
    /// It reads as zeros.
    is_blank: bool,
    /// All of it is to be written.
    whole: bool,
}

impl Qcow2 {
    /// Writes guest data at any offset and of any length.
    pub(super) fn write_mapped(&self, mut offset: GuestOffset, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let written = match self.write_in_place(offset, data) {
                Ok(0) => self.write_anew(offset, data),
                written => written,
            };
            let written = written.map_err(|error| error.at_guest_offset(offset.get()))?;
            offset = offset.plus_bytes(u64::try_from(written).unwrap_or(u64::MAX));
            data = data.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Writes as much as lies in clusters that are there and nobody else's: no table changes, so
    /// any number of threads may do this at once. Returns how much that was.
    fn write_in_place(&self, offset: GuestOffset, data: &[u8]) -> Result<usize> {
        let (live, run) = self.run_for(offset, data.len())?;
        let Mapping::Data(host) = run.mapping else { return Ok(0) };
        if !live.ready || !host.copied || self.header.snapshots.count > 0 {
            return Ok(0);
        }
        self.require_data(&live, run)?;
        let len = self.room_in(run, offset).min(data.len());
        let within = self.header.geometry.within_cluster(offset);
        let at = host.offset.plus_bytes(within).get();
        self.data().write_at(at, data.get(..len).unwrap_or_default())?;
        Ok(len)
    }

    /// Writes what of `data` lies in the first cluster, changing tables as needed.
    fn write_anew(&self, offset: GuestOffset, data: &[u8]) -> Result<usize> {
        let geometry = self.header.geometry;
        let room = geometry.cluster_size().saturating_sub(geometry.within_cluster(offset));
        let len = usize::try_from(room).unwrap_or(usize::MAX).min(data.len());
        let data = data.get(..len).unwrap_or_default();
        self.changing(|live| self.place(live, offset, data))?;
        Ok(len)
    }

    /// Runs `change` on the image's state, once it is ready for that.
    pub(super) fn changing<T>(&self, change: impl FnOnce(&mut Live) -> Result<T>) -> Result<T> {
        let order = self.order()?;
        let mut live = self.live_mut();
        self.get_ready(&mut live)?;
        let done = change(&mut live)?;
        let crowded = live.is_crowded();
        drop(live);
        if crowded {
            self.write_back(&order)?;
        }
        Ok(done)
    }

    /// Writes `data`, which lies in one cluster, wherever the cluster's data is to be.
    pub(super) fn place(&self, live: &mut Live, offset: GuestOffset, data: &[u8]) -> Result<()> {
        let geometry = self.header.geometry;
        let cluster = geometry.guest_cluster(offset);
        let mapping = self.mapping_now(live, cluster)?;
        let table = self.own_table(live, cluster)?;
        let target = self.target(live, cluster, mapping)?;
        let host = ClusterRef::sole(target.offset);
        let placed = self.fill(&target, mapping, offset, data).and_then(|subclusters| {
            let entry = L2Entry::of(Some(host), subclusters, geometry);
            self.set_entry(live, table, cluster, entry)
        });
        placed.inspect_err(|_| {
            // Nothing refers to it: it must not stay taken.
            if target.is_new {
                self.give_up(live, host);
            }
        })?;
        if target.is_new {
            self.release(live, mapping);
        }
        Ok(())
    }

    /// The cluster that a guest cluster's data goes to: the one that it has, if that is nobody
    /// else's, or a new one.
    fn target(&self, live: &mut Live, cluster: GuestCluster, mapping: Mapping) -> Result<Target> {
        let geometry = self.header.geometry;
        let subclusters = mapping.subclusters();
        if let Some(host) = mapping.host_cluster()
            && self.is_sole(live, host)?
        {
            let offset = host.offset;
            return Ok(Target {
                offset,
                subclusters,
                is_new: false,
                is_blank: false,
                whole: false,
            });
        }
        // Only what says zero of itself goes along: a new cluster holds nothing yet.
        let subclusters = Subclusters { allocated: 0, ..subclusters };
        // What is packed, or somebody else's too, is copied whole.
        let whole = mapping.host_cluster().is_some() || matches!(mapping, Mapping::Compressed(_));
        if self.data_file.is_some() {
            let offset = HostOffset::new(geometry.guest_offset(cluster).get());
            return Ok(Target { offset, subclusters, is_new: true, is_blank: false, whole });
        }
        let end = live.end;
        let host = self.allocate(live)?;
        let offset = geometry.host_offset(host);
        let is_blank = host >= end && self.storage.can_grow();
        Ok(Target { offset, subclusters, is_new: true, is_blank, whole })
    }

    /// Writes `data` into its cluster, with what must be copied around it. Returns what of the
    /// cluster holds guest data then.
    fn fill(
        &self,
        target: &Target,
        mapping: Mapping,
        offset: GuestOffset,
        data: &[u8],
    ) -> Result<Subclusters> {
        let geometry = self.header.geometry;
        let within = geometry.within_cluster(offset);
        let end = within.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        let unit = geometry.subcluster_size();
        let (mut from, mut to) = (within, end);
        if target.whole {
            (from, to) = (0, geometry.cluster_size());
        } else if !(target.is_blank && self.reads_as_zeros(mapping)) {
            if !target.subclusters.has_data(geometry.subcluster(within)) {
                from = geometry.subcluster_start(within);
            }
            if !target.subclusters.has_data(geometry.subcluster(end.saturating_sub(1))) {
                to = end.checked_next_multiple_of(unit).unwrap_or(end);
            }
        }
        let at = target.offset.plus_bytes(from).get();
        if (from, to) == (within, end) {
            self.data().write_at(at, data)?;
        } else {
            let start = GuestOffset::new(offset.get().saturating_sub(within.saturating_sub(from)));
            let bytes = self.around(mapping, start, to.saturating_sub(from), offset, data)?;
            self.data().write_at(at, &bytes)?;
        }
        Ok(match target.whole {
            true => Subclusters::ALLOCATED,
            false => target.subclusters.with_data(self.subclusters_of(within, end)),
        })
    }

    /// `len` bytes from `start`, which lie in one cluster, as they are with `data` at `offset`.
    fn around(
        &self,
        mapping: Mapping,
        start: GuestOffset,
        len: u64,
        offset: GuestOffset,
        data: &[u8],
    ) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        let before = offset.get().saturating_sub(start.get());
        let before = usize::try_from(before).unwrap_or(usize::MAX);
        let after = before.saturating_add(data.len());
        if let Some(head) = bytes.get_mut(..before).filter(|head| !head.is_empty()) {
            self.read_as(mapping, start, head)?;
        }
        if let Some(tail) = bytes.get_mut(after..).filter(|tail| !tail.is_empty()) {
            let end = offset.plus_bytes(u64::try_from(data.len()).unwrap_or(u64::MAX));
            self.read_as(mapping, end, tail)?;
        }
        if let Some(middle) = bytes.get_mut(before..after) {
            middle.copy_from_slice(data);
        }
        Ok(bytes)
    }

    /// The L2 table of a guest cluster, made, or made our own, if it must be.
    pub(super) fn own_table(&self, live: &mut Live, cluster: GuestCluster) -> Result<ClusterRef> {
        let geometry = self.header.geometry;
        let at = self.l1_offset(geometry.l1_index(cluster));
        live.tables.load(&*self.storage, at, Rank::Root)?;
        let word = live.tables.get(at).and_then(first_word).unwrap_or_default();
        let old = L1Entry::from_word(word).decode(geometry).map_err(FormatError::into_error)?;
        if let Some(table) = old {
            live.structures.require_table(geometry, table.offset)?;
        }
        let contents = match old {
            Some(table) if self.is_sole_table(live, table)? => {
                if !table.copied {
                    self.set_l1(live, at, ClusterRef::sole(table.offset))?;
                }
                return Ok(ClusterRef::sole(table.offset));
            }
            // Nobody changes a table that is shared: what is in the file is what it says.
            Some(table) => L2Table::read(&*self.storage, table.offset, geometry)?,
            None => L2Table::empty(geometry),
        };
        let table = ClusterRef::sole(geometry.host_offset(self.allocate(live)?));
        self.storage.write_at(table.offset.get(), contents.bytes())?;
        live.tables.forget(table.offset, geometry.cluster_size());
        live.structures.add_table(geometry.host_cluster(table.offset));
        self.set_l1(live, at, table)?;
        if let Some(old) = old {
            let first = geometry.host_cluster(old.offset);
            live.quarantine(first..first + ClusterCount::new(1));
        }
        Ok(table)
    }

    fn set_l1(&self, live: &mut Live, at: HostOffset, table: ClusterRef) -> Result<()> {
        let stored = live.tables.change(&*self.storage, at, Rank::Root)?;
        put_word(stored, L1Entry::encode(table).word());
        Ok(())
    }

    /// Changes the entry of a guest cluster in its table.
    pub(super) fn set_entry(
        &self,
        live: &mut Live,
        table: ClusterRef,
        cluster: GuestCluster,
        entry: L2Entry,
    ) -> Result<()> {
        let at = self.l2_offset(table, cluster);
        live.tables.load(&*self.storage, at, Rank::Leaf)?;
        if live
            .tables
            .get(at)
            .is_some_and(|stored| holds(stored, entry, self.header.geometry.extended_l2()))
        {
            return Ok(());
        }
        self.entries_changed.fetch_add(1, Ordering::Relaxed);
        let stored = live.tables.change(&*self.storage, at, Rank::Leaf)?;
        put_word(stored, entry.word);
        if self.header.geometry.extended_l2() {
            put_word(stored.get_mut(8..).unwrap_or_default(), entry.bitmap);
        }
        Ok(())
    }

    /// What a mapping refers to loses a reference.
    pub(super) fn release(&self, live: &mut Live, mapping: Mapping) {
        match mapping {
            Mapping::Compressed(range) => self.give_up_packed(live, range),
            mapping => {
                if let Some(host) = mapping.host_cluster() {
                    self.give_up(live, host);
                }
            }
        }
    }

    /// Whether a cluster that is mapped like this reads as zeros, as far as that is easily told.
    pub(super) fn reads_as_zeros(&self, mapping: Mapping) -> bool {
        match mapping {
            Mapping::Zero(_) => true,
            Mapping::Unallocated => self.backing.is_none() && self.header.backing.is_none(),
            _ => false,
        }
    }

    /// The subclusters that the bytes `from..to` of a cluster lie in, as bits; all of them where
    /// clusters have none.
    pub(super) fn subclusters_of(&self, from: u64, to: u64) -> u32 {
        let geometry = self.header.geometry;
        if !geometry.extended_l2() {
            return u32::MAX;
        }
        let first = geometry.subcluster(from);
        let end = geometry.subcluster(to.saturating_sub(1)).saturating_add(1);
        let below = |bit: u64| {
            1u64.checked_shl(u32::try_from(bit).unwrap_or(64))
                .map_or(u64::MAX, |bit| bit.wrapping_sub(1))
        };
        u32::try_from(below(end) & !below(first) & u64::from(u32::MAX)).unwrap_or(u32::MAX)
    }
}

fn holds(stored: &[u8], entry: L2Entry, extended: bool) -> bool {
    first_word(stored) == Some(entry.word)
        && (!extended || stored.get(8..).and_then(first_word) == Some(entry.bitmap))
}
