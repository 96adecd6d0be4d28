//! L1 and L2 tables.

use std::collections::BTreeSet;
use std::ops::Range;

use super::finding::{Finding, Reference, Structure};
use super::ledger::Role;
use super::scan::Scan;
use crate::error::Result;
use crate::qcow2::entry::{CompressedRange, L1Entry, L2Entry, Mapping};
use crate::qcow2::error::Problem;
use crate::qcow2::geometry::{
    ClusterCount, ENTRY_SIZE, GuestCluster, GuestOffset, HostCluster, HostOffset,
};
use crate::qcow2::table::{EntryRun, L2Table, read_l1};

impl Scan<'_> {
    /// The active L1 table, its entries counted.
    pub(super) fn active_l1(&mut self) -> Result<Vec<L1Entry>> {
        let to = Reference::to(Structure::L1Table, self.header.l1.offset);
        let l1 = self.readable(to, read_l1(self.storage, self.header))?.unwrap_or_default();
        self.count_tables(self.header.l1.offset, &l1, true);
        Ok(l1)
    }

    /// Counts what the L1 table at `at` refers to.
    pub(super) fn count_tables(&mut self, at: HostOffset, l1: &[L1Entry], active: bool) {
        let (geometry, mut seen) = (self.geometry, BTreeSet::new());
        for (index, entry) in (0..).zip(l1).filter(|(_, entry)| **entry != L1Entry::EMPTY) {
            let first = geometry.guest_offset(geometry.first_cluster_of_table(index));
            let host = entry.offset_bits();
            let to = Reference::to(Structure::L2Table, host)
                .by(entry_offset(at, index, ENTRY_SIZE))
                .of_guest(active.then_some(first));
            match entry.decode(geometry) {
                Err(problem) => self.malformed(to, problem),
                // Flags without a table: `qemu-img check` takes the header for one.
                Ok(None) => {
                    self.malformed(to, Problem::ReservedBits { what: "L1", value: entry.word() });
                }
                Ok(Some(_)) => {}
            }
            if host == HostOffset::ZERO {
                continue;
            }
            if !geometry.is_aligned(host) {
                // What it was meant to be is not called a leak.
                self.refer(to, geometry.cluster_size(), Role::Inactive, 1);
                continue;
            }
            let cluster = geometry.host_cluster(host);
            if !seen.insert(cluster) {
                self.record(Finding::Overlap { to, host });
            }
            let times = self.tables.entry(cluster).or_default();
            *times = times.saturating_add(1);
        }
    }

    /// Every L2 table and what it maps: the active ones in the guest's order, then the others.
    pub(super) fn l2_tables(&mut self, l1: &[L1Entry]) -> Result<()> {
        let geometry = self.geometry;
        self.claim_tables();
        for (index, entry) in (0..).zip(l1) {
            let host = entry.offset_bits();
            if host == HostOffset::ZERO || !geometry.is_aligned(host) {
                continue;
            }
            let first = geometry.first_cluster_of_table(index);
            let guest = Some(geometry.guest_offset(first));
            let copied = entry.is_copied();
            let entry = entry_offset(self.header.l1.offset, index, ENTRY_SIZE);
            self.flag(Reference::to(Structure::L2Table, host).by(entry).of_guest(guest), copied);
            if let Some(times) = self.tables.remove(&geometry.host_cluster(host)) {
                self.table(host, times, Some(first))?;
            }
        }
        while let Some((cluster, times)) = self.tables.pop_first() {
            self.table(geometry.host_offset(cluster), times, None)?;
        }
        Ok(())
    }

    /// Counts the tables themselves, before any data that might lie in one. Those behind the end of
    /// the file are not read.
    fn claim_tables(&mut self) {
        let (geometry, tables) = (self.geometry, std::mem::take(&mut self.tables));
        for (cluster, times) in &tables {
            let host = geometry.host_offset(*cluster);
            let to = Reference::to(Structure::L2Table, host);
            self.refer(to, geometry.cluster_size(), Role::Metadata, *times);
        }
        self.tables = tables;
        self.tables.retain(|cluster, _| geometry.host_offset(*cluster).get() < self.file_len);
        self.tables_in_all = u64::try_from(self.tables.len()).unwrap_or(u64::MAX);
    }

    /// One L2 table that is referred to so often; `first` is the guest cluster that an active one
    /// begins with.
    fn table(&mut self, at: HostOffset, times: u64, first: Option<GuestCluster>) -> Result<()> {
        let geometry = self.geometry;
        let left = u64::try_from(self.tables.len()).unwrap_or(u64::MAX);
        let (done, total) = (self.tables_in_all.saturating_sub(left), self.tables_in_all);
        let bytes = |tables| geometry.bytes_of(ClusterCount::new(tables));
        self.task.step("check", bytes(done), bytes(total))?;
        let guest = first.map(|first| geometry.guest_offset(first));
        let to = Reference::to(Structure::L2Table, at).of_guest(guest);
        let table = L2Table::read_padded(self.storage, at, geometry);
        let Some(table) = self.readable(to, table)? else { return Ok(()) };
        if at.plus_bytes(geometry.cluster_size()).get() > self.file_len {
            self.record(Finding::CutShort { to, file_len: self.file_len });
        }
        for (index, run) in table.runs(geometry) {
            let at = entry_offset(at, index, geometry.l2_entry_size());
            self.run(at, run, times, first.map(|first| first + ClusterCount::new(index)));
        }
        Ok(())
    }

    /// Entries whose clusters lie in a row; the first is at `at`, `first` is its guest cluster.
    fn run(&mut self, at: HostOffset, run: EntryRun, times: u64, first: Option<GuestCluster>) {
        if let Some(first) = first.filter(|_| run.entry.has_zero_flag()) {
            let guest = Some(self.geometry.guest_offset(first));
            let to = Reference::to(Structure::Data, run.entry.offset_bits()).by(at).of_guest(guest);
            self.report.census.zero.add(run.clusters, to);
        }
        if run.clusters > 1 && self.sound_run(run, times, first.is_some()) {
            return;
        }
        for index in 0..run.clusters {
            let cluster = first.map(|first| first + ClusterCount::new(index));
            let guest = cluster.map(|cluster| self.geometry.guest_offset(cluster));
            let at = entry_offset(at, index, self.geometry.l2_entry_size());
            self.entry(at, run.get(index, self.geometry), times, guest);
        }
    }

    /// Counts a run at once, if nothing of it is a finding; otherwise does nothing.
    fn sound_run(&mut self, run: EntryRun, times: u64, active: bool) -> bool {
        let geometry = self.geometry;
        let last = run.clusters.saturating_sub(1);
        let last = run.get(last, geometry);
        let (first, last) = (self.header.mapping(run.entry), self.header.mapping(last));
        let hosts = [first, last].map(|mapping| mapping.ok().and_then(Mapping::host_cluster));
        let [Some(first), Some(last)] = hosts else { return false };
        let after = geometry.host_cluster(last.offset) + ClusterCount::new(1);
        let run = geometry.host_cluster(first.offset)..after;
        let role = if active { Role::Active } else { Role::Inactive };
        let sound = !self.header.has_external_data()
            && geometry.host_offset(after).get() <= self.file_len
            && (!active || self.flag_fits(first.copied, &run))
            && self.report.ledger().admits(run.clone(), role);
        if sound {
            let clusters = if active { (run.end - run.start).get() } else { 0 };
            self.report.allocated_clusters =
                self.report.allocated_clusters.saturating_add(clusters);
            self.report.ledger_mut().refer(run, role, times);
        }
        sound
    }

    /// Whether the COPIED flag of a run says what is stored of each of its clusters.
    fn flag_fits(&mut self, copied: bool, run: &Range<HostCluster>) -> bool {
        if copied { self.stored.are_ones(run) } else { self.stored.have_no_one(run) }
    }

    fn entry(&mut self, at: HostOffset, entry: L2Entry, times: u64, guest: Option<GuestOffset>) {
        let to = Reference::to(Structure::Data, entry.offset_bits()).by(at).of_guest(guest);
        match self.header.mapping(entry) {
            Ok(Mapping::Compressed(range)) => {
                let to = Reference { what: Structure::Compressed, host: range.offset, ..to };
                self.compressed(to, entry, range, times);
            }
            Ok(mapping) => {
                let Some(host) = mapping.host_cluster() else { return };
                self.flag(to, host.copied);
                self.data(to, times);
            }
            Err(problem) => {
                self.malformed(to, problem);
                if to.host != HostOffset::ZERO {
                    // What it was meant to be is not called a leak.
                    self.data(to, times);
                }
            }
        }
    }

    fn data(&mut self, to: Reference, times: u64) {
        let active = u64::from(to.guest.is_some());
        self.report.allocated_clusters = self.report.allocated_clusters.saturating_add(active);
        if !self.header.has_external_data() {
            let role = if to.guest.is_some() { Role::Active } else { Role::Inactive };
            self.refer(to, self.geometry.cluster_size(), role, times);
        }
    }

    fn compressed(&mut self, to: Reference, entry: L2Entry, range: CompressedRange, times: u64) {
        if entry.bitmap != 0 {
            self.malformed(to, Problem::SubclusterBitmap(entry.bitmap));
        }
        if self.header.has_external_data() {
            self.malformed(to, Problem::CompressedExternally);
            return;
        }
        if entry.is_copied() {
            let stored = self.stored.get(self.geometry.host_cluster(range.offset));
            let stored = stored.unwrap_or_default();
            self.record(Finding::CopiedFlag { to, set: true, stored });
        }
        self.report.has_compressed = true;
        let active = u64::from(to.guest.is_some());
        self.report.allocated_clusters = self.report.allocated_clusters.saturating_add(active);
        if to.guest.is_some() {
            self.report.census.compressed.add(1, to);
        }
        self.refer(to, range.len, Role::Compressed, times);
    }

    /// The COPIED flag of an active entry must say whether the stored count is one. Clusters of an
    /// external data file have no count: they are the image's alone.
    fn flag(&mut self, to: Reference, set: bool) {
        if to.guest.is_none() {
            return;
        }
        let external = to.what == Structure::Data && self.header.has_external_data();
        let stored =
            if external { Some(1) } else { self.stored.get(self.geometry.host_cluster(to.host)) };
        if let Some(stored) = stored.filter(|&stored| (stored == 1) != set) {
            self.record(Finding::CopiedFlag { to, set, stored });
        }
    }
}

/// Where the entry at `index` of the table at `table` is.
fn entry_offset(table: HostOffset, index: u64, entry_size: u64) -> HostOffset {
    table.plus_bytes(index.saturating_mul(entry_size))
}
