//! `check`: whether an image is sound, and making it so. It looks at metadata alone, never at what
//! the guest wrote, and opens nothing that the image names.

mod reader;
mod repair;
mod undo;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use reader::{BrokenRuleReport, Reader, ReaderEffect, ReaderReport, ReaderRule};
use repair::SavePlace;
pub use repair::{LostRange, Repair, RepairReport};
pub use undo::{UndoRepairReport, UndoRepairRequest, undo_repair};

use super::choices::Format;
use super::context::Context;
use super::existing::Existing;
use super::wire::{bytes_hex, choice, lossy};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{FileStorage, resolve};
use crate::qcow2::check::{Finding, ScanReport, Severity, scan};
use crate::qcow2::repair::Remedy;
use crate::qcow2::{Header, Incompatible};
use crate::task::Task;

/// An image that is to be checked.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// The disk.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// What is repaired. Default: nothing, and nothing is written.
    pub repair: Option<Repair>,
    /// Whether to tell only what a repair would do. Default: `false`.
    #[serde(default)]
    pub dry_run: bool,
    /// Where what is needed to take the repair back is saved, in a new file. A block device
    /// has no folder for it: it must be named. Default: beside the disk, as DISK.repair-SECONDS.
    pub save_to: Option<PathBuf>,
    /// The program whose rules the image is held against too; a repair of `all` then also marks
    /// what that program needs marked. Default: none.
    #[serde(rename = "for")]
    pub reader: Option<Reader>,
}

impl CheckRequest {
    /// A check that changes nothing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        CheckRequest {
            path,
            format: None,
            repair: None,
            dry_run: false,
            save_to: None,
            reader: None,
        }
    }

    /// Whether the disk may be written to.
    fn changes(&self) -> bool {
        self.repair.is_some() && !self.dry_run
    }

    fn require_sense(&self) -> Result<()> {
        let refuse = |message, field| {
            Err(Error::new(ErrorKind::IncompatibleOptions, message).in_field(field))
        };
        if self.dry_run && self.repair.is_none() {
            return refuse("a dry run needs a repair that it is of", "dry_run");
        }
        if self.save_to.is_some() && !self.changes() {
            return refuse("without a repair there is nothing to save", "save_to");
        }
        Ok(())
    }
}

choice! {
    /// How an image is.
    CheckVerdict {
        /// Nothing that a program would ever have to repair.
        Clean = "clean",
        /// Clusters that are counted and not used: room is wasted, no data is at risk.
        Leaks = "leaks",
        /// Data is lost, or will be once somebody writes.
        Corrupt = "corrupt",
    }
}

choice! {
    /// How much a finding weighs.
    FindingSeverity {
        /// Allowed by the format, but no program is known to do it.
        Notice = "notice",
        /// Room that nothing uses.
        Leak = "leak",
        /// Data is lost, or will be once somebody writes.
        Corruption = "corruption",
    }
}

choice! {
    /// What is not as it must be.
    FindingKind {
        /// A cluster is counted more often than it is referred to.
        Leak = "leak",
        /// A cluster is counted less often than it is referred to.
        Undercount = "undercount",
        /// The COPIED flag of an entry does not say whether the count is one.
        CopiedFlag = "copied_flag",
        /// An entry or a field breaks a rule of the format.
        Malformed = "malformed",
        /// Something lies behind the end of the file.
        BeyondFile = "beyond_file",
        /// Metadata lies where something else does.
        Overlap = "overlap",
        /// Guest data lies where other guest data does.
        Shared = "shared",
        /// The medium does not give a table back.
        Unreadable = "unreadable",
        /// The file ends in a table: what its entries led to is lost.
        CutShort = "cut_short",
    }
}

/// What a check found.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CheckReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// How it is.
    pub verdict: CheckVerdict,
    /// Clusters that are counted more often than they are used.
    pub leaks: u64,
    /// Findings that are corruption.
    pub corruptions: u64,
    /// Findings that are neither.
    pub notices: u64,
    /// The first of them, in the order of the walk.
    pub findings: Vec<FindingReport>,
    /// How many more there are.
    pub findings_left_out: u64,
    /// Whether the image says that its counts may be stale.
    pub dirty: bool,
    /// Whether the image says that it is damaged.
    pub marked_corrupt: bool,
    /// Clusters of the guest's disk.
    pub total_clusters: u64,
    /// Those of them that have a place in the image, compressed or not.
    pub allocated_clusters: u64,
    /// Those of them that are compressed.
    pub compressed_clusters: u64,
    /// Where the last cluster in use ends, in bytes from the beginning of the file.
    pub image_end_bytes: u64,
    /// What was repaired, if that was asked for; all else is as it is afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair: Option<RepairReport>,
    /// What the program makes of it that was asked for; after a repair, as it is then.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub reader: Option<ReaderReport>,
}

/// One thing that is not as it must be.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct FindingReport {
    /// What it is.
    pub kind: FindingKind,
    /// How much it weighs.
    pub severity: FindingSeverity,
    /// In words.
    pub message: String,
    /// What of the image it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structure: Option<String>,
    /// Where that is in the file, in bytes.
    pub host_offset_bytes: u64,
    /// Where on the guest's disk the data begins that it is about, in bytes, where the active disk
    /// has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_offset_bytes: Option<u64>,
    /// Where in the file the entry is that is wrong, in bytes, where it is one entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry_offset_bytes: Option<u64>,
    /// What the image counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<u64>,
    /// How often the cluster is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<u64>,
    /// The level of repair that mends it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repairable_by: Option<Repair>,
}

/// Checks the image, and repairs it if that is asked for: worked out first, checked, saved so that
/// it can be [taken back](undo_repair), and only then written, in an order that leaves the image
/// repairable whenever the power goes.
///
/// # Errors
/// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for a disk that is not qcow2,
/// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions) for a repair of a block device that names
/// no place to save to, and what opening says; damage is no error.
pub fn check(request: &CheckRequest, context: Context<'_>) -> Result<CheckReport> {
    request.require_sense()?;
    let open = match request.changes() {
        true => Existing::open_to_change,
        false => Existing::open_to_read,
    };
    let path = resolve(&request.path)?;
    let existing = open(&path, request.format, context)?;
    check_open(&existing, &path, request, context).map_err(|error| error.at_path(&request.path))
}

fn check_open(
    existing: &Existing,
    path: &Path,
    request: &CheckRequest,
    context: Context<'_>,
) -> Result<CheckReport> {
    let storage = existing.storage();
    let Some(header) = existing.header() else {
        let message = "a raw disk has no metadata that could be checked";
        return Err(Error::new(ErrorKind::UnsupportedFeature, message));
    };
    let Some(level) = request.repair else {
        return look(request, storage, header, context.task());
    };
    let place = match (request.dry_run, &request.save_to) {
        (true, _) => None,
        (false, Some(path)) => Some(SavePlace::Named(path.clone())),
        (false, None) => Some(SavePlace::beside(path, storage)?),
    };
    let how = (level, request.reader);
    let done = repair::repair(path, storage, header, how, place, context.task())?;
    let again = Header::read(storage)
        .and_then(|header| look(request, storage, &header, context.task().quiet()));
    let report = again.map_err(|error| done.interrupted(error))?;
    Ok(CheckReport { repair: Some(done), ..report })
}

/// How the image is.
fn look(
    request: &CheckRequest,
    storage: &FileStorage,
    header: &Header,
    task: Task<'_>,
) -> Result<CheckReport> {
    let found = scan(storage, header, task)?;
    let reader = match request.reader {
        Some(reader) => Some(reader.judge(storage, header, &found)?),
        None => None,
    };
    Ok(CheckReport { reader, ..report(request, header, &found) })
}

fn report(request: &CheckRequest, header: &Header, found: &ScanReport) -> CheckReport {
    let listed = u64::try_from(found.findings.len()).unwrap_or(u64::MAX);
    let all = found.leaks.saturating_add(found.corruptions).saturating_add(found.notices);
    CheckReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        verdict: verdict(found),
        leaks: found.leaks,
        corruptions: found.corruptions,
        notices: found.notices,
        findings: found.findings.iter().map(FindingReport::of).collect(),
        findings_left_out: all.saturating_sub(listed),
        dirty: header.incompatible.contains(Incompatible::DIRTY),
        marked_corrupt: header.incompatible.contains(Incompatible::CORRUPT),
        total_clusters: header.virtual_size.div_ceil(header.geometry.cluster_size()),
        allocated_clusters: found.allocated_clusters,
        compressed_clusters: found.census.compressed.count,
        image_end_bytes: found.end_of_use.get(),
        repair: None,
        reader: None,
    }
}

fn verdict(found: &ScanReport) -> CheckVerdict {
    match found.worst() {
        None | Some(Severity::Notice) => CheckVerdict::Clean,
        Some(Severity::Leak) => CheckVerdict::Leaks,
        Some(Severity::Corruption) => CheckVerdict::Corrupt,
    }
}

impl FindingReport {
    fn of(finding: &Finding) -> FindingReport {
        let kind = match finding {
            Finding::Leak { .. } => FindingKind::Leak,
            Finding::Undercount { .. } => FindingKind::Undercount,
            Finding::CopiedFlag { .. } => FindingKind::CopiedFlag,
            Finding::Malformed { .. } => FindingKind::Malformed,
            Finding::BeyondFile { .. } => FindingKind::BeyondFile,
            Finding::CutShort { .. } => FindingKind::CutShort,
            Finding::Overlap { .. } => FindingKind::Overlap,
            Finding::Shared { .. } => FindingKind::Shared,
            Finding::Unreadable { .. } => FindingKind::Unreadable,
        };
        let counts = finding.counts();
        let to = finding.reference();
        FindingReport {
            kind,
            severity: match finding.severity() {
                Severity::Notice => FindingSeverity::Notice,
                Severity::Leak => FindingSeverity::Leak,
                Severity::Corruption => FindingSeverity::Corruption,
            },
            message: finding.to_string(),
            structure: to.map(|to| to.what.name().to_owned()),
            host_offset_bytes: finding.host().get(),
            guest_offset_bytes: to.and_then(|to| to.guest).map(|guest| guest.get()),
            entry_offset_bytes: to.and_then(|to| to.entry).map(|entry| entry.get()),
            stored: counts.map(|(stored, _)| stored),
            found: counts.and_then(|(_, found)| found),
            repairable_by: Remedy::of(finding).map(|remedy| match remedy {
                Remedy::LowerCount => Repair::Leaks,
                _ => Repair::All,
            }),
        }
    }
}
