//! L1 and L2 tables.

use std::collections::BTreeSet;

use super::finding::{Finding, Reference, Structure};
use super::ledger::Role;
use super::scan::Scan;
use crate::error::Result;
use crate::qcow2::entry::{CompressedRange, L1Entry, L2Entry, Mapping};
use crate::qcow2::error::Problem;
use crate::qcow2::geometry::{ClusterCount, GuestCluster, GuestOffset, HostOffset};
use crate::qcow2::table::{L2Table, read_l1};

impl Scan<'_> {
    /// The active L1 table, its entries counted.
    pub(super) fn active_l1(&mut self) -> Result<Vec<L1Entry>> {
        let to = Reference::to(Structure::L1Table, self.header.l1.offset);
        let l1 = self.readable(to, read_l1(self.storage, self.header))?.unwrap_or_default();
        self.count_tables(&l1, true);
        Ok(l1)
    }

    /// Counts what one L1 table refers to.
    pub(super) fn count_tables(&mut self, l1: &[L1Entry], active: bool) {
        let (geometry, mut seen) = (self.geometry, BTreeSet::new());
        for (index, entry) in (0..).zip(l1).filter(|(_, entry)| **entry != L1Entry::EMPTY) {
            let first = geometry.guest_offset(geometry.first_cluster_of_table(index));
            let host = entry.offset_bits();
            let to = Reference { what: Structure::L2Table, host, guest: active.then_some(first) };
            if let Err(problem) = entry.decode(geometry) {
                self.malformed(to, problem);
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
                self.report.record(Finding::Overlap { to, host });
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
            self.flag(Reference { what: Structure::L2Table, host, guest }, copied);
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
        let to = Reference { what: Structure::L2Table, host: at, guest };
        let table = L2Table::read_padded(self.storage, at, geometry);
        let Some(table) = self.readable(to, table)? else { return Ok(()) };
        for (index, entry) in (0..).zip(table.entries()) {
            if !entry.is_empty() {
                let place = first.map(|first| first + ClusterCount::new(index));
                self.entry(entry, times, place.map(|place| geometry.guest_offset(place)));
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: L2Entry, times: u64, guest: Option<GuestOffset>) {
        let to = Reference { what: Structure::Data, host: entry.offset_bits(), guest };
        match self.header.mapping(entry) {
            Ok(Mapping::Compressed(range)) => self.compressed(entry, range, times, guest),
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

    fn compressed(
        &mut self,
        entry: L2Entry,
        range: CompressedRange,
        times: u64,
        guest: Option<GuestOffset>,
    ) {
        let to = Reference { what: Structure::Compressed, host: range.offset, guest };
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
            self.report.record(Finding::CopiedFlag { to, set: true, stored });
        }
        let active = u64::from(guest.is_some());
        self.report.allocated_clusters = self.report.allocated_clusters.saturating_add(active);
        self.report.compressed_clusters = self.report.compressed_clusters.saturating_add(active);
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
            self.report.record(Finding::CopiedFlag { to, set, stored });
        }
    }
}
