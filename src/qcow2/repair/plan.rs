//! Working out a repair: mended in a draft, checked there, and told as what would change.

use std::collections::BTreeSet;

use super::counts;
use super::draft::{Change, Draft};
use super::references::Mender;
use super::remedy::Remedy;
use super::room::{gap, room_for_new};
use super::rounds::mend_references;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::qcow2::check::{
    Finding, MAX_FINDINGS, ScanOptions, ScanReport, Severity, scan, scan_with,
};
use crate::qcow2::feature::{Autoclear, Incompatible};
use crate::qcow2::flush::switch_header;
use crate::qcow2::geometry::{GuestOffset, HostCluster, HostOffset};
use crate::qcow2::growth::free_end;
use crate::qcow2::header::Header;
use crate::qcow2::hyperkit::{Leftovers, find_leftovers};
use crate::qcow2::table::read_refcount_table;
use crate::task::Task;

const MAX_COUNTING_ROUNDS: usize = 4;
/// How far a repair goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairMode {
    /// Counts of clusters that are used less often are lowered, and entries of those that have one
    /// owner then say so.
    Leaks,
    /// Everything that can be mended.
    All,
    /// The same, and what hyperkit never counts is marked so.
    AllForHyperkit,
}

/// What guest clusters in a row, or a whole L2 table of them, have lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Where that is on the guest's disk; nothing where only snapshots had it.
    pub guest: Option<GuestOffset>,
    /// Where the first entry is that was dropped.
    pub entry: HostOffset,
    /// Bytes of the guest's disk.
    pub bytes: u64,
    /// Whether what was found is kept: metadata lies in the same place, so that nobody can tell
    /// whose it is. Otherwise the range reads as zeros, or as what is below.
    pub kept: bool,
}

impl Lost {
    /// Adds it to a list, to the last there if both are one on the guest's disk.
    pub(super) fn add_to(self, list: &mut Vec<Lost>) {
        match list.last_mut() {
            Some(last)
                if last.kept == self.kept
                    && last.end().is_some_and(|end| Some(end) == self.guest) =>
            {
                last.bytes = last.bytes.saturating_add(self.bytes);
            }
            _ => list.push(self),
        }
    }

    fn end(&self) -> Option<GuestOffset> {
        self.guest.map(|guest| guest.plus_bytes(self.bytes))
    }

    /// The same in the order of the disk.
    fn in_order(mut lost: Vec<Lost>) -> Vec<Lost> {
        lost.sort_by_key(|lost| (lost.guest, lost.entry));
        let mut joined = Vec::new();
        lost.into_iter().for_each(|lost| lost.add_to(&mut joined));
        joined
    }
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
    /// What the guest loses, in the order of its disk: it reads as zeros afterwards, or as what is
    /// below.
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
    /// L2 tables that were copied.
    pub(super) copied_tables: Vec<HostOffset>,
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
        // What was looked at once is not told again.
        let task = task.quiet();
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
            lost: Lost::in_order(mender.lost),
            unmended: Vec::new(),
            old_len: storage.len()?,
            new_len: storage.len()?,
            new_from,
            transfers: mender.transfers,
            copied_tables: mender.copied_tables,
            old_header: header.clone(),
            new_header: mender.header,
            blocks: BTreeSet::new(),
        };
        let unmended = |finding: &Finding| match mode {
            RepairMode::Leaks => finding.is_damage() && finding.severity() > Severity::Notice,
            RepairMode::All | RepairMode::AllForHyperkit => {
                let hurts = finding.severity() > Severity::Notice;
                finding.is_damage() || hurts && Remedy::of(finding).is_none()
            }
        };
        let options = ScanOptions { limit: MAX_FINDINGS, which: &unmended, gap };
        let report = scan_with(&draft, &plan.new_header, options, task)?;
        plan.unmended = report.findings;
        let sound = match plan.unmended.is_empty() {
            true if mode == RepairMode::Leaks => Some(plan.drop_leaks(&draft, gap, task)?),
            true => plan.make_counts_true(&draft, mode, task)?,
            false => None,
        };
        match sound {
            Some(report) => plan.collect(&draft, &report)?,
            None => {
                plan.lost.clear();
                plan.transfers.clear();
                plan.copied_tables.clear();
                plan.new_header = header.clone();
            }
        }
        Ok(plan)
    }

    /// Whether anything would be written.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.new_len == self.old_len
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

    /// What a scan of the draft found before.
    fn drop_leaks(
        &mut self,
        draft: &Draft<'_>,
        gap: (HostOffset, HostOffset),
        task: Task<'_>,
    ) -> Result<ScanReport> {
        let report = counts::drop_leaks(draft, &self.new_header, gap, task)?;
        self.switch(draft)?;
        Ok(report)
    }

    /// The image is sound: it says so.
    fn clear_marks(&mut self, draft: &Draft<'_>, mode: RepairMode) -> Result<()> {
        let marks = Incompatible::CORRUPT.with_if(true, Incompatible::DIRTY);
        // An image of the kind that never keeps its counts stays one.
        let never_counts = self.old_header.is_for_hyperkit()
            || mode == RepairMode::AllForHyperkit && self.old_header.is_lazy_for_hyperkit();
        self.new_header.incompatible =
            self.new_header.incompatible.without(marks).with_if(never_counts, Incompatible::DIRTY);
        self.switch(draft)
    }

    /// Once anything changes, what other programs vouch for is not known to be true any more.
    fn switch(&mut self, draft: &Draft<'_>) -> Result<()> {
        if draft.writes() == 0 && self.new_header == self.old_header {
            return Ok(());
        }
        let known = [Autoclear::BITMAPS, Autoclear::RAW_EXTERNAL_DATA];
        let kept = known.into_iter().filter(|bit| self.new_header.autoclear.contains(*bit));
        self.new_header.autoclear =
            kept.fold(Autoclear::default(), |kept, bit| kept.with_if(true, bit));
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

/// What hyperkit leaves in a header of version 2 means nothing there.
fn remove_leftovers(draft: &Draft<'_>, header: &Header) -> Result<()> {
    match find_leftovers(draft, header)?.filter(|leftovers| leftovers.removable) {
        Some(Leftovers { at, len, .. }) => draft.write_at(at.get(), &vec![0; len]),
        None => Ok(()),
    }
}
