//! The walk: everything that an image refers to, each table once, whoever refers to it.
//!
//! Metadata comes first, so that guest data which meets it is known by its place on the disk. An
//! L2 table that several disks share is read once and what it maps is counted as often as the
//! table is referred to: time is bounded by the file, not by its snapshots.

use std::collections::BTreeMap;

use super::finding::{Finding, Reference, Structure};
use super::ledger::{Meeting, Role};
use super::report::{ScanOptions, ScanReport};
use super::stored::{BlockAt, StoredCounts};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::qcow2::error::{FormatError, Problem};
use crate::qcow2::extension::Extension;
use crate::qcow2::geometry::{ClusterCount, ENTRY_SIZE, Geometry, HostCluster, HostOffset};
use crate::qcow2::header::Header;
use crate::qcow2::table::read_refcount_table;
use crate::task::Task;

/// The longest encryption header that is believed, in bytes: LUKS needs about 2 MiB.
const MAX_ENCRYPTION_HEADER: u64 = 64 << 20;

/// Counts everything that the image in `storage` refers to, and holds it against the counts that
/// it stores. Nothing is written, and damage does not stop the walk. Memory: about three bytes for
/// each cluster in use, and the largest table.
///
/// Totals are those of `qemu-img check`, but that damage is counted once where QEMU counts it for
/// every snapshot that meets it, and that metadata which meets something is corruption whatever
/// the counts say, and so is an entry of version 2 that says zero, which QEMU does not read. Extra data
/// of a bitmap, with which QEMU opens no image, is as the format has it.
///
/// # Errors
/// [`Cancelled`](ErrorKind::Cancelled), and what the storage says of its length and the refcount
/// table: then nothing is known.
pub fn scan(storage: &dyn Storage, header: &Header, task: Task<'_>) -> Result<ScanReport> {
    scan_with(storage, header, ScanOptions::default(), task)
}

/// As [`scan()`], in a way of one's own.
pub(in crate::qcow2) fn scan_with(
    storage: &dyn Storage,
    header: &Header,
    options: ScanOptions<'_>,
    task: Task<'_>,
) -> Result<ScanReport> {
    let geometry = header.geometry;
    let mut scan = Scan {
        storage,
        header,
        geometry,
        task,
        file_len: storage.len()?,
        report: ScanReport::default(),
        options,
        stored: StoredCounts::new(storage, geometry),
        tables: BTreeMap::new(),
        tables_in_all: 0,
    };
    scan.fixed_places();
    scan.refcount_blocks()?;
    scan.bitmaps()?;
    let l1 = scan.active_l1()?;
    scan.snapshots()?;
    scan.l2_tables(&l1)?;
    drop(l1);
    scan.compare()?;
    let (corruptions, leaks) = (scan.report.corruptions, scan.report.leaks);
    log::info!("scanned all tables: {corruptions} faults, {leaks} leaked clusters");
    Ok(scan.report)
}

/// A walk under way.
pub(super) struct Scan<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) header: &'a Header,
    pub(super) geometry: Geometry,
    pub(super) task: Task<'a>,
    pub(super) file_len: u64,
    pub(super) report: ScanReport,
    options: ScanOptions<'a>,
    pub(super) stored: StoredCounts<'a>,
    /// L2 tables that were not read yet, and how often each is referred to.
    pub(super) tables: BTreeMap<HostCluster, u64>,
    pub(super) tables_in_all: u64,
}

impl Scan<'_> {
    /// What the header alone says.
    fn fixed_places(&mut self) {
        let (header, geometry) = (self.header, self.geometry);
        let cluster = geometry.cluster_size();
        self.claim(Reference::to(Structure::Header, HostOffset::ZERO), cluster);
        let len = u64::from(header.l1.count).saturating_mul(ENTRY_SIZE);
        self.claim(Reference::to(Structure::L1Table, header.l1.offset), len);
        let table = header.refcount_table;
        let len = u64::from(table.count).saturating_mul(cluster);
        self.claim(Reference::to(Structure::RefcountTable, table.offset), len);
        if header.has_external_data() && header.data_file().is_none() {
            // A flag that a damaged header gained would make every entry lie.
            let to = Reference::to(Structure::Header, HostOffset::ZERO);
            self.malformed(to, Problem::NamelessData);
        }
        let encryption = header.extensions.iter().find_map(|extension| match extension {
            Extension::Encryption { offset, len } => Some((HostOffset::new(*offset), *len)),
            _ => None,
        });
        if let Some((offset, len)) = encryption {
            let to = Reference::to(Structure::EncryptionHeader, offset);
            if !geometry.is_aligned(offset) || len > MAX_ENCRYPTION_HEADER {
                self.malformed(to, Problem::EncryptionHeader { offset: offset.get(), len });
            } else {
                self.claim(to, len);
            }
        }
    }

    /// Refcount blocks, and where the counts of which clusters are.
    fn refcount_blocks(&mut self) -> Result<()> {
        let table = read_refcount_table(self.storage, self.header)?;
        for (index, entry) in (0u64..).zip(table) {
            let at = self.header.refcount_table.offset;
            let at = at.plus_bytes(index.saturating_mul(ENTRY_SIZE));
            let place = match entry.decode(self.geometry) {
                Ok(None) => BlockAt::Nowhere,
                Ok(Some(offset)) => {
                    let to = Reference::to(Structure::RefcountBlock, offset).by(at);
                    // A block that is something else too has no counts to be believed.
                    let whole = self.claim(to, self.geometry.cluster_size());
                    if whole { BlockAt::Offset(offset) } else { BlockAt::Unknown }
                }
                Err(problem) => {
                    let offset = HostOffset::new(entry.word());
                    self.malformed(Reference::to(Structure::RefcountBlock, offset).by(at), problem);
                    BlockAt::Unknown
                }
            };
            self.stored.push(place);
        }
        Ok(())
    }

    /// Counts metadata once; whether it lies in the file and nowhere else.
    pub(super) fn claim(&mut self, to: Reference, len: u64) -> bool {
        self.refer(to, len, Role::Metadata, 1)
    }

    /// Counts a range `times`; whether it lies in the file and meets nothing that it must not.
    pub(super) fn refer(&mut self, to: Reference, len: u64, role: Role, times: u64) -> bool {
        if len == 0 {
            return true;
        }
        let end = to.host.plus_bytes(len).get();
        // The last cluster of a file may be cut short: what is missing was never written.
        let (gap, behind_gap) = self.options.gap;
        let in_gap = to.host < behind_gap && gap.get() < end;
        if in_gap || end.saturating_sub(self.file_len) >= self.geometry.cluster_size() {
            let file_len = self.file_len;
            self.record(Finding::BeyondFile { to, len, file_len });
            return false;
        }
        let last = self.geometry.host_cluster(HostOffset::new(end.saturating_sub(1)));
        let run = self.geometry.host_cluster(to.host)..last + ClusterCount::new(1);
        let Some((meeting, cluster)) = self.report.ledger_mut().refer(run, role, times) else {
            return true;
        };
        let host = self.geometry.host_offset(cluster);
        self.record(match meeting {
            Meeting::Shared => Finding::Shared { to, host },
            Meeting::Overlap => Finding::Overlap { to, host },
        });
        false
    }

    pub(super) fn record(&mut self, finding: Finding) {
        self.count_finding(&finding);
        self.report.record(finding, self.options);
    }

    pub(super) fn malformed(&mut self, to: Reference, problem: impl Into<FormatError>) {
        self.record(Finding::Malformed { to, problem: problem.into() });
    }

    /// What a table's words are, if the medium gives them back.
    pub(super) fn readable<T>(&mut self, to: Reference, read: Result<T>) -> Result<Option<T>> {
        match read {
            Ok(table) => Ok(Some(table)),
            Err(error) => {
                self.unreadable(to, &error)?;
                Ok(None)
            }
        }
    }

    pub(super) fn unreadable(&mut self, to: Reference, error: &Error) -> Result<()> {
        // A wish to stop is nobody's damage.
        self.task.check()?;
        let kind = error.kind();
        debug_assert_ne!(kind, ErrorKind::Cancelled);
        self.record(Finding::Unreadable { to, kind });
        Ok(())
    }
}
