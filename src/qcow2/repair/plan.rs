//! Working out a repair: mended in a draft, checked there, and told as what would change.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};

use super::counts;
use super::draft::{Change, Draft};
use super::references::Mender;
use super::remedy::{Remedy, Step};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::qcow2::check::{Finding, MAX_FINDINGS, ScanOptions, ScanReport, scan, scan_with};
use crate::qcow2::feature::{Autoclear, Incompatible};
use crate::qcow2::flush::switch_header;
use crate::qcow2::geometry::{ClusterCount, GuestOffset, HostCluster, HostOffset};
use crate::qcow2::growth::free_end;
use crate::qcow2::header::Header;
use crate::qcow2::hyperkit::{Leftovers, find_leftovers};
use crate::qcow2::table::read_refcount_table;
use crate::task::Task;

/// So many findings are mended between two scans: they take a few MiB.
const AT_ONCE: usize = 1 << 16;
/// More scans than any damage needs.
const MAX_ROUNDS: usize = 1 << 8;
const MAX_COUNTING_ROUNDS: usize = 4;
/// So many bytes may be added to the smallest image, within these limits in clusters.
const SPARE_BYTES: u64 = 16 << 20;
const SPARE_CLUSTERS: RangeInclusive<u64> = 16..=1024;
const MAX_GAPS: usize = 64;

/// How far a repair goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairMode {
    /// Counts of clusters that nothing uses are lowered.
    Leaks,
    /// Everything that can be mended.
    All,
    /// The same, and what hyperkit never counts is marked so.
    AllForHyperkit,
}

/// What a guest cluster, or a whole L2 table of them, has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Where that is on the guest's disk; nothing where only snapshots had it.
    pub guest: Option<GuestOffset>,
    /// Where the entry is that was dropped.
    pub entry: HostOffset,
    /// Bytes of the guest's disk.
    pub bytes: u64,
    /// Whether what was found is kept: metadata lies in the same place, so that nobody can tell
    /// whose it is. Otherwise the range reads as zeros, or as what is below.
    pub kept: bool,
}

/// Where the content of a new cluster comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// This cluster, as it was before the repair.
    Cluster(HostOffset),
    /// This packed data.
    Compressed { offset: HostOffset, len: u64 },
}

/// Guest data that gets a place of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) from: Source,
    pub(super) to: HostOffset,
}

/// A repair that was worked out, and not done.
#[derive(Debug)]
pub struct RepairPlan {
    /// What was found before.
    pub before: ScanReport,
    /// Every sector of metadata that changes, ascending.
    pub changes: Vec<Change>,
    /// What the guest loses: it reads as zeros afterwards, or as what is below.
    pub lost: Vec<Lost>,
    /// What cannot be mended; then nothing changes at all.
    pub unmended: Vec<Finding>,
    /// The length of the file before, in bytes.
    pub old_len: u64,
    /// The length of the file afterwards, in bytes.
    pub new_len: u64,
    /// Where what is new begins: behind everything that was in use or that an entry led to.
    pub(super) new_from: HostCluster,
    pub(super) transfers: Vec<Transfer>,
    pub(super) old_header: Header,
    pub(super) new_header: Header,
    /// Where refcount blocks are.
    pub(super) blocks: BTreeSet<HostOffset>,
}

impl RepairPlan {
    /// Works out how to mend the image in `storage`. Nothing is written. Memory: that of a scan,
    /// and twice the metadata that changes.
    ///
    /// # Errors
    /// As [`scan`]; [`Corrupt`](ErrorKind::Corrupt) where mending would double the file.
    pub fn new(
        storage: &dyn Storage,
        header: &Header,
        mode: RepairMode,
        task: Task<'_>,
    ) -> Result<RepairPlan> {
        let before = scan(storage, header, task)?;
        let draft = Draft::new(storage)?;
        let end = header.geometry.host_cluster_after(before.end_of_use.get());
        let end = free_end(storage, header.geometry, end)?;
        let room = room_for_new(storage, header, end, task)?;
        let new_from = room.start;
        let gap = gap(storage, header, new_from)?;
        let mut mender = Mender::new(&draft, header, room)?;
        if mode != RepairMode::Leaks {
            mend_references(&draft, &mut mender, gap, task)?;
            remove_leftovers(&draft, header)?;
        }
        let mut plan = RepairPlan {
            before,
            changes: Vec::new(),
            lost: mender.lost,
            unmended: Vec::new(),
            old_len: storage.len()?,
            new_len: storage.len()?,
            new_from,
            transfers: mender.transfers,
            old_header: header.clone(),
            new_header: mender.header,
            blocks: BTreeSet::new(),
        };
        let unmended = |finding: &Finding| finding.is_damage() || Remedy::of(finding).is_none();
        let options = ScanOptions { limit: MAX_FINDINGS, which: &unmended, gap };
        let report = scan_with(&draft, &plan.new_header, options, task)?;
        plan.unmended = report.findings;
        let sound = match plan.unmended.is_empty() {
            true => plan.make_counts_true(&draft, mode, task)?,
            false => None,
        };
        match sound {
            Some(report) => plan.collect(&draft, &report)?,
            None => {
                plan.lost.clear();
                plan.transfers.clear();
                plan.new_header = header.clone();
            }
        }
        Ok(plan)
    }

    /// Whether anything would be written.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether counts are kept in another place afterwards.
    pub(super) fn moves_refcount_table(&self) -> bool {
        self.new_header.refcount_table != self.old_header.refcount_table
    }

    /// How many clusters get places of their own.
    pub fn copied_clusters(&self) -> u64 {
        u64::try_from(self.transfers.len()).unwrap_or(u64::MAX)
    }

    /// What a scan of the draft finds in the end; nothing where a count cannot be made true.
    fn make_counts_true(
        &mut self,
        draft: &Draft<'_>,
        mode: RepairMode,
        task: Task<'_>,
    ) -> Result<Option<ScanReport>> {
        if mode == RepairMode::Leaks {
            let report = scan(draft, &self.new_header, task)?;
            counts::lower(draft, &self.new_header, report.ledger())?;
            return Ok(Some(report));
        }
        // What is replaced in the first round is free in the second.
        for _ in 0..MAX_COUNTING_ROUNDS {
            let report = scan(draft, &self.new_header, task)?;
            if report.is_clean() {
                self.clear_marks(draft, mode)?;
                return Ok(Some(report));
            }
            if let Some(finding) = counts::beyond_width(&self.new_header, report.ledger()) {
                self.unmended.push(finding);
                return Ok(None);
            }
            self.new_header.refcount_table =
                counts::make_true(draft, &self.new_header, report.ledger(), self.new_from)?;
        }
        let message = "the repair that was worked out does not make the image sound";
        Err(Error::new(ErrorKind::Internal, message))
    }

    /// The image is sound: it says so.
    fn clear_marks(&mut self, draft: &Draft<'_>, mode: RepairMode) -> Result<()> {
        let marks = Incompatible::CORRUPT.with_if(true, Incompatible::DIRTY);
        // An image of the kind that never keeps its counts stays one.
        let never_counts = self.old_header.is_for_hyperkit()
            || mode == RepairMode::AllForHyperkit && self.old_header.is_lazy_for_hyperkit();
        self.new_header.incompatible =
            self.new_header.incompatible.without(marks).with_if(never_counts, Incompatible::DIRTY);
        if draft.writes() == 0 && self.new_header == self.old_header {
            return Ok(());
        }
        // What other programs vouch for is not known to be true any more.
        let bitmaps = self.new_header.autoclear.contains(Autoclear::BITMAPS);
        let raw_data = self.new_header.autoclear.contains(Autoclear::RAW_EXTERNAL_DATA);
        self.new_header.autoclear = Autoclear::default()
            .with_if(bitmaps, Autoclear::BITMAPS)
            .with_if(raw_data, Autoclear::RAW_EXTERNAL_DATA);
        if self.new_header != self.old_header {
            switch_header(draft, &self.new_header)?;
        }
        Ok(())
    }

    /// Takes the changes out of the draft: those of what is in use in the end. What is not, such
    /// as a refcount table that moved, is what the image has until the header is switched.
    fn collect(&mut self, draft: &Draft<'_>, report: &ScanReport) -> Result<()> {
        let geometry = self.old_header.geometry;
        self.changes = draft.changes(geometry.cluster_size())?;
        self.changes.retain(|change| {
            let cluster = geometry.host_cluster(HostOffset::new(change.offset));
            report.ledger().get(cluster) > 0
        });
        self.new_len = draft.len()?;
        let table = read_refcount_table(draft, &self.new_header)?;
        self.blocks = table.iter().filter_map(|entry| entry.decode(geometry).ok()?).collect();
        Ok(())
    }
}

/// Clusters behind everything that nothing refers to: what is placed there cannot be mistaken for
/// what an entry meant that leads behind the end of the file.
fn room_for_new(
    storage: &dyn Storage,
    header: &Header,
    end: HostCluster,
    task: Task<'_>,
) -> Result<Range<HostCluster>> {
    // A small file can claim that millions of entries share a cluster: it may double at most.
    let spare = SPARE_BYTES.div_ceil(header.geometry.cluster_size());
    let spare = spare.clamp(*SPARE_CLUSTERS.start(), *SPARE_CLUSTERS.end());
    let len = ClusterCount::new(end.get().saturating_add(spare));
    let mut room = end..end + len;
    for _ in 0..MAX_GAPS {
        let (first, behind) =
            (header.geometry.host_offset(room.start), header.geometry.host_offset(room.end));
        let which = |finding: &Finding| match finding {
            Finding::BeyondFile { to, len, .. } => {
                to.host < behind && first < to.host.plus_bytes(*len)
            }
            _ => false,
        };
        let options = ScanOptions { limit: 1, which: &which, ..ScanOptions::default() };
        if scan_with(storage, header, options, task)?.findings.is_empty() {
            return Ok(room);
        }
        room = room.end..room.end + len;
    }
    let message = "entries lead to so many places behind the end of the file that there is no room";
    Err(Error::new(ErrorKind::Corrupt, message))
}

/// What the file gets between its end and what is new: an entry that leads there leads nowhere.
fn gap(
    storage: &dyn Storage,
    header: &Header,
    new_from: HostCluster,
) -> Result<(HostOffset, HostOffset)> {
    let end = header.geometry.host_cluster_after(storage.len()?);
    Ok((header.geometry.host_offset(end), header.geometry.host_offset(new_from)))
}

/// Mends in rounds: what one of them makes known, such as the entries of a table that has a place
/// of its own now, the next one sees.
fn mend_references(
    draft: &Draft<'_>,
    mender: &mut Mender<'_>,
    gap: (HostOffset, HostOffset),
    task: Task<'_>,
) -> Result<()> {
    for _ in 0..MAX_ROUNDS {
        let mut found = Vec::new();
        for step in [Step::RefcountTable, Step::Tables, Step::Entries, Step::Data] {
            let which = |finding: &Finding| step_of(finding) == Some(step);
            let options = ScanOptions { limit: AT_ONCE, which: &which, gap };
            found = scan_with(draft, &mender.header, options, task)?.findings;
            if !found.is_empty() {
                break;
            }
        }
        let (writes, autoclear) = (draft.writes(), mender.header.autoclear);
        mender.mend_all(&found)?;
        // What is left has no remedy after all.
        if draft.writes() == writes && mender.header.autoclear == autoclear {
            return Ok(());
        }
    }
    Err(Error::new(ErrorKind::Corrupt, "the damage does not end"))
}

/// What hyperkit leaves in a header of version 2 means nothing there.
fn remove_leftovers(draft: &Draft<'_>, header: &Header) -> Result<()> {
    match find_leftovers(draft, header)?.filter(|leftovers| leftovers.removable) {
        Some(Leftovers { at, len, .. }) => draft.write_at(at.get(), &vec![0; len]),
        None => Ok(()),
    }
}

fn step_of(finding: &Finding) -> Option<Step> {
    Remedy::of(finding)?.step(finding)
}
