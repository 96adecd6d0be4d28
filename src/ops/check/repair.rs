//! `check --repair`: mending what was found, and saving what is needed to take that back.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::Serialize;

use super::undo::UndoFile;
use super::{CheckRequest, FindingReport, Reader};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::host::{DEFAULT_MODE, FileStorage, Publish, Staging};
use crate::ops::wire::{bytes_hex, choice, lossy};
use crate::qcow2::Header;
use crate::qcow2::repair::{Lost, RepairMode, RepairPlan};
use crate::task::Task;

choice! {
    /// How far a repair goes.
    Repair {
        /// Counts of clusters that nothing uses are lowered.
        Leaks = "leaks",
        /// Everything that can be mended.
        All = "all",
    }
}

/// What a repair did, or would do.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RepairReport {
    /// How far it went.
    pub level: Repair,
    /// Whether anything was written.
    pub changed: bool,
    /// Clusters that were counted and not used before.
    pub leaks_before: u64,
    /// Findings that were corruption before.
    pub corruptions_before: u64,
    /// Bytes of metadata that were replaced.
    pub replaced_bytes: u64,
    /// Clusters that two had, and that have one owner now.
    pub copied_clusters: u64,
    /// Bytes that the file is longer.
    pub added_bytes: u64,
    /// What the guest lost, or may have lost.
    pub lost: Vec<LostRange>,
    /// What could not be mended; then nothing was changed.
    pub unmended: Vec<FindingReport>,
    /// What was saved to take the repair back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undo_file: Option<String>,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undo_file_bytes_hex: Option<String>,
}

/// A range of a guest's disk.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct LostRange {
    /// Where it begins, in bytes; nothing where only internal snapshots had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_offset_bytes: Option<u64>,
    /// Its length, in bytes.
    pub length_bytes: u64,
    /// Where in the file the entry was, in bytes.
    pub entry_offset_bytes: u64,
    /// Whether what was found is kept: metadata lay in the same place, so that nobody can tell
    /// whose it is. Otherwise the range reads as zeros, or as what is below.
    pub kept: bool,
}

/// Repairs an image that is locked, unless that is to be told only.
pub(super) fn repair(
    path: &Path,
    storage: &FileStorage,
    header: &Header,
    level: Repair,
    request: &CheckRequest,
    task: Task<'_>,
) -> Result<RepairReport> {
    let mode = match (level, request.reader) {
        (Repair::Leaks, _) => RepairMode::Leaks,
        (Repair::All, None) => RepairMode::All,
        (Repair::All, Some(Reader::Hyperkit)) => RepairMode::AllForHyperkit,
    };
    let plan = RepairPlan::new(storage, header, mode, task)?;
    let mut undo_file = None;
    if !request.dry_run && !plan.is_empty() {
        let saved = save(path, &plan, storage)?;
        plan.apply(storage, task)?;
        undo_file = Some(saved);
    }
    Ok(report(&plan, level, undo_file))
}

fn report(plan: &RepairPlan, level: Repair, undo_file: Option<PathBuf>) -> RepairReport {
    let bytes = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
    RepairReport {
        level,
        changed: undo_file.is_some(),
        leaks_before: plan.before.leaks,
        corruptions_before: plan.before.corruptions,
        replaced_bytes: plan.changes.iter().map(|change| bytes(change.old.len())).sum(),
        copied_clusters: plan.copied_clusters(),
        added_bytes: plan.new_len.saturating_sub(plan.old_len),
        lost: plan.lost.iter().map(LostRange::of).collect(),
        unmended: plan.unmended.iter().map(FindingReport::of).collect(),
        undo_file: undo_file.as_deref().map(lossy),
        undo_file_bytes_hex: undo_file.as_deref().and_then(bytes_hex),
    }
}

/// Saves what is needed to take the repair back beside the image, and returns when it is on the
/// medium.
fn save(path: &Path, plan: &RepairPlan, storage: &FileStorage) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(Error::new(ErrorKind::BadRequest, "not the name of a file").at_path(path));
    };
    let text = UndoFile::new(name, plan.undo_record(storage)?).to_json()?;
    let mut seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
    loop {
        let mut saved = name.to_owned();
        saved.push(format!(".repair-{seconds}"));
        let saved = path.with_file_name(saved);
        let staging = Staging::begin(&saved, DEFAULT_MODE, None)?;
        staging.storage().write_at(0, text.as_bytes())?;
        match staging.publish(Publish::NoReplace) {
            Ok(()) => return Ok(saved),
            Err(error) if error.kind() == ErrorKind::Exists => seconds = seconds.saturating_add(1),
            Err(error) => return Err(error),
        }
    }
}

impl LostRange {
    fn of(lost: &Lost) -> LostRange {
        LostRange {
            guest_offset_bytes: lost.guest.map(|guest| guest.get()),
            length_bytes: lost.bytes,
            entry_offset_bytes: lost.entry.get(),
            kept: lost.kept,
        }
    }
}
