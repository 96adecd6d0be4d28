//! `flatten`: a disk that needs nothing below it any more.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::Format;
use super::context::Context;
use super::existing::Existing;
use super::rebase::note_leaked;
use super::resize::note_settled;
use super::wire::{bytes_hex, lossy, stored_text};
use crate::error::Result;
use crate::host::{Access, FileStorage};
use crate::qcow2::Rebased;

/// A disk that shall stand alone.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlattenRequest {
    /// The disk.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
}

impl FlattenRequest {
    /// The disk at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        FlattenRequest { path: path.into(), format: None }
    }
}

/// What was done.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct FlattenReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Whether anything was written; `false` where nothing was below it.
    pub changed: bool,
    /// Its format.
    pub format: Format,
    /// The backing file that it had, as it was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_backing: Option<String>,
    /// The size of the guest's disk, in bytes.
    pub virtual_size_bytes: u64,
    /// Data that was copied from below, in bytes.
    pub copied_bytes: u64,
    /// The length of the file, in bytes.
    pub file_size_bytes: u64,
    /// What of it is allocated on the host, in bytes.
    pub allocated_bytes: u64,
    /// What else the caller should know.
    pub notes: Vec<String>,
}

/// Makes the disk stand alone. Whatever fails, and where the power goes meanwhile, it shows what it
/// showed; the same call goes on from there.
///
/// # Errors
/// As [`Image::rebase`](crate::image::Image::rebase), and what opening the disk and everything below
/// it says.
pub fn flatten(request: &FlattenRequest, context: Context<'_>) -> Result<FlattenReport> {
    let existing = Existing::open_to_change(&request.path, request.format, context)?;
    let mark = existing.mark();
    let settled = existing.settled().map(note_settled);
    let (format, virtual_size) = (existing.format(), existing.virtual_size()?);
    let backing = existing.header().and_then(|header| header.backing.as_ref());
    let old_backing = backing.map(|backing| stored_text(&backing.name));
    let mut report = FlattenReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        changed: settled.is_some() || old_backing.is_some(),
        format,
        old_backing,
        virtual_size_bytes: virtual_size,
        copied_bytes: 0,
        file_size_bytes: 0,
        allocated_bytes: 0,
        notes: settled.into_iter().collect(),
    };
    if report.old_backing.is_none() {
        return report.with_room(existing.storage());
    }
    let path = existing.storage().path().to_owned();
    let rebased = flatten_open(existing, context).map_err(mark)?;
    report.copied_bytes = rebased.written_bytes;
    report.notes.extend(note_leaked(rebased.leaked_bytes));
    report.with_room(&FileStorage::open(&path, Access::Read)?)
}

fn flatten_open(existing: Existing, context: Context<'_>) -> Result<Rebased> {
    let mut image = existing.assemble_to_write(true, context)?;
    let rebased = image.rebase(None, None, context.task())?;
    image.close()?;
    Ok(rebased)
}

impl FlattenReport {
    fn with_room(mut self, storage: &FileStorage) -> Result<FlattenReport> {
        let info = storage.info()?;
        self.file_size_bytes = info.len;
        self.allocated_bytes = info.allocated_bytes;
        Ok(self)
    }
}
