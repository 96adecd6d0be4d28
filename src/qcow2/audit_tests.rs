//! A small, independent count of references for tests: what an image refers to, against what its
//! counts say. A second opinion on the scan of `check`, which must come to the same.

use std::collections::BTreeMap;

use super::check::{ScanReport, scan};
use super::entry::Mapping;
use super::feature::Incompatible;
use super::geometry::{ClusterCount, HostCluster, HostOffset};
use super::header::Header;
use super::refcounts::Refcounts;
use super::table::{L2Table, read_l1, read_refcount_table};
use crate::host::storage::MemoryStorage;
use crate::task::{Cancel, Silent, Task};

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Audit {
    /// Clusters counted more often than they are referred to.
    pub(super) leaks: u64,
    /// Clusters referred to more often than they are counted.
    pub(super) uncounted: u64,
    /// References whose COPIED flag is not what the count says.
    pub(super) wrong_flags: u64,
    /// Whether the dirty bit is set.
    pub(super) dirty: bool,
}

impl Audit {
    pub(super) fn of(storage: &MemoryStorage) -> Audit {
        let header = Header::read(storage).expect("a readable header");
        let geometry = header.geometry;
        let mut expected: BTreeMap<HostCluster, u64> = BTreeMap::new();
        let mut flags = Vec::new();
        let mut refer = |offset: HostOffset, clusters: u64| {
            let start = geometry.host_cluster(offset);
            for n in 0..clusters {
                *expected.entry(start + ClusterCount::new(n)).or_default() += 1;
            }
        };
        refer(HostOffset::ZERO, 1);
        refer(header.l1.offset, geometry.table_clusters(header.l1.count.into()).get());
        refer(header.refcount_table.offset, header.refcount_table.count.into());
        let table = read_refcount_table(storage, &header).unwrap();
        for entry in &table {
            if let Some(block) = entry.decode(geometry).unwrap() {
                refer(block, 1);
            }
        }
        for entry in read_l1(storage, &header).unwrap() {
            let Some(table) = entry.decode(geometry).unwrap() else { continue };
            refer(table.offset, 1);
            flags.push(table);
            let entries = L2Table::read(storage, table.offset, geometry).unwrap();
            for entry in entries.entries() {
                if header.has_external_data() {
                    // Nothing of what it maps is in this file.
                    continue;
                }
                let mapping = entry.decode(geometry).unwrap();
                if let Mapping::Compressed(range) = mapping {
                    let first = geometry.host_cluster(range.offset);
                    let last = geometry.host_cluster(range.offset.plus_bytes(range.len - 1));
                    refer(geometry.host_offset(first), (last - first).get() + 1);
                }
                if let Some(host) = mapping.host_cluster() {
                    refer(host.offset, 1);
                    flags.push(host);
                }
            }
        }
        let mut audit =
            Audit { dirty: header.incompatible.contains(Incompatible::DIRTY), ..Audit::default() };
        let mut refcounts = Refcounts::new(storage, geometry, &table);
        for host in flags {
            let count = refcounts.get(geometry.host_cluster(host.offset)).unwrap();
            audit.wrong_flags += u64::from(host.copied != (count == 1));
        }
        for (cluster, count) in &expected {
            audit.uncounted += u64::from(refcounts.get(*cluster).unwrap() < *count);
        }
        refcounts
            .each_block(|index, _, block| {
                let first = geometry.first_cluster_of_refblock(index);
                for n in 0..geometry.refblock_entries() {
                    let cluster = first + ClusterCount::new(n);
                    let count = expected.get(&cluster).copied().unwrap_or(0);
                    audit.leaks += u64::from(block.get(n) > count);
                }
                Ok(())
            })
            .unwrap();
        audit.agrees_with(&scan(storage, &header, Task::new(&Silent, &Cancel::new())).unwrap());
        audit
    }

    /// Two ways to count, one result.
    fn agrees_with(&self, report: &ScanReport) {
        let leaks = report.leaks + report.counted_beyond_file;
        assert_eq!(self.leaks, leaks, "leaks: {self:?} {:?}", report.findings);
        let wrong = self.uncounted + self.wrong_flags;
        assert_eq!(wrong, report.corruptions, "{self:?} {:?}", report.findings);
        assert_eq!(report.notices, 0, "{:?}", report.findings);
    }

    /// Nothing is wrong but clusters that nobody uses.
    pub(super) fn is_harmless(&self) -> bool {
        self.uncounted == 0 && self.wrong_flags == 0
    }
}
