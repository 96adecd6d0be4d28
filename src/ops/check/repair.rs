//! `check --repair`: mending what was found, and saving what is needed to take that back.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::Serialize;

use super::undo::{REPAIR, UndoFile};
use super::{FindingReport, Reader};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::host::{DEFAULT_MODE, FileKind, FileStorage, Publish, Staging};
use crate::ops::wire::{bytes_hex, choice, lossy};
use crate::qcow2::Header;
use crate::qcow2::repair::{Lost, RepairMode, RepairPlan};
use crate::task::Task;

choice! {
    /// How far a repair goes.
    Repair {
        /// Counts of clusters that are used less often are lowered, and what says so is put right.
        Leaks = "leaks",
        /// Everything that can be mended.
        All = "all",
    }
}

impl Repair {
    fn mode(self, reader: Option<Reader>) -> RepairMode {
        match (self, reader) {
            (Repair::Leaks, _) => RepairMode::Leaks,
            (Repair::All, None) => RepairMode::All,
            (Repair::All, Some(Reader::Hyperkit)) => RepairMode::AllForHyperkit,
        }
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
    /// What the guest lost, or may have lost: the first ranges, in the order of the disk.
    pub lost: Vec<LostRange>,
    /// How many more ranges there are.
    pub lost_left_out: u64,
    /// Bytes of all of them that the guest lost; those that are kept do not count.
    pub lost_bytes: u64,
    /// What could not be mended; then nothing was changed.
    pub unmended: Vec<FindingReport>,
    /// What was saved to take the repair back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undo_file: Option<String>,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undo_file_bytes_hex: Option<String>,
}

/// So many lost ranges are listed; all are counted.
const MAX_LOST: usize = 1000;

/// A range of a guest's disk.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct LostRange {
    /// Where it begins, in bytes; nothing where only internal snapshots had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_offset_bytes: Option<u64>,
    /// Its length, in bytes.
    pub length_bytes: u64,
    /// Where in the file the first of the entries was, in bytes.
    pub entry_offset_bytes: u64,
    /// Whether what was found is kept: metadata lay in the same place, so that nobody can tell
    /// whose it is. Otherwise the range reads as zeros, or as what is below.
    pub kept: bool,
}

/// Where what is needed to take a repair back is saved.
pub(super) enum SavePlace {
    /// In a file of this name, which does not exist.
    Named(PathBuf),
    /// Beside the image, in the first file that does not exist.
    Beside(PathBuf),
}

/// Repairs an image that is locked, if there is a place to save to; else nothing is written.
pub(super) fn repair(
    path: &Path,
    storage: &FileStorage,
    header: &Header,
    (level, reader): (Repair, Option<Reader>),
    place: Option<SavePlace>,
    task: Task<'_>,
) -> Result<RepairReport> {
    let plan = RepairPlan::new(storage, header, level.mode(reader), task)?;
    let mut undo_file = None;
    if let Some(place) = place.filter(|_| !plan.is_empty()) {
        task.check()?;
        let name = path.file_name().unwrap_or_default();
        let beside = matches!(place, SavePlace::Beside(_));
        let saved =
            place.save(&UndoFile::new(name, beside, plan.undo_record(storage)?).to_json()?)?;
        plan.apply(storage, task).map_err(|error| interrupted(error, &saved))?;
        undo_file = Some(saved);
    }
    Ok(report(&plan, level, undo_file))
}

/// An error behind which a repair can be taken back.
fn interrupted(error: Error, undo_file: &Path) -> Error {
    if !error.changed() {
        return error;
    }
    let undo_file = undo_file.display();
    let message = format!("the repair was interrupted; {undo_file} can take it back");
    Error::new(error.kind(), message).with_source(error).after_changes()
}

impl RepairReport {
    /// An error that came after the repair.
    pub(super) fn interrupted(&self, error: Error) -> Error {
        match &self.undo_file {
            Some(undo_file) => interrupted(error.after_changes(), undo_file.as_ref()),
            None => error,
        }
    }
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
        lost: plan.lost.iter().take(MAX_LOST).map(LostRange::of).collect(),
        lost_left_out: bytes(plan.lost.len().saturating_sub(MAX_LOST)),
        lost_bytes: plan.lost.iter().filter(|lost| !lost.kept).map(|lost| lost.bytes).sum(),
        unmended: plan.unmended.iter().map(FindingReport::of).collect(),
        undo_file: undo_file.as_deref().map(lossy),
        undo_file_bytes_hex: undo_file.as_deref().and_then(bytes_hex),
    }
}

impl SavePlace {
    /// Beside the image at `path`.
    ///
    /// # Errors
    /// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions) for a block device: files in that
    /// folder do not last.
    pub(super) fn beside(path: &Path, storage: &FileStorage) -> Result<SavePlace> {
        if storage.info()?.kind == FileKind::BlockDevice {
            let message = "a block device has no place beside it: name a file to save to";
            return Err(Error::new(ErrorKind::IncompatibleOptions, message).in_field("save_to"));
        }
        Ok(SavePlace::Beside(path.to_owned()))
    }

    /// Returns the name once the text is on the medium.
    fn save(&self, text: &str) -> Result<PathBuf> {
        let path = match self {
            SavePlace::Named(path) => {
                return Self::publish(path, text).map(|()| path.clone());
            }
            SavePlace::Beside(path) => path,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut seconds = now.map_or(0, |age| age.as_secs());
        loop {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(format!("{REPAIR}{seconds}"));
            let saved = path.with_file_name(name);
            match Self::publish(&saved, text) {
                Ok(()) => return Ok(saved),
                Err(error) if error.kind() == ErrorKind::Exists => {
                    seconds = seconds.saturating_add(1);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn publish(path: &Path, text: &str) -> Result<()> {
        let staging = Staging::begin(path, DEFAULT_MODE, None)?;
        staging.storage().write_at(0, text.as_bytes())?;
        staging.publish(Publish::NoReplace)
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
