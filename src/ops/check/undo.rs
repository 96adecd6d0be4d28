//! `check --undo`: taking a repair back, from the file that it left beside the image.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::read_exact_at;
use crate::host::{Access, FileKind, FileStorage, resolve};
use crate::ops::choices::Format;
use crate::ops::context::Context;
use crate::ops::existing::Existing;
use crate::ops::wire::{bytes_hex, lossy};
use crate::qcow2::repair::{Hashed, Replaced, UndoRecord};

/// The form of these files that this version writes and reads.
const VERSION: u32 = 1;
/// What stands between the disk's name and a time in the name of such a file.
pub(super) const REPAIR: &str = ".repair-";
/// The largest that is written and read, in bytes: all the metadata of 1 TiB in clusters of 64 KiB.
const MAX_LEN: u64 = 1 << 30;

/// A repair that is to be taken back.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UndoRepairRequest {
    /// The file that the repair left: DISK.repair-SECONDS.
    pub undo_file: PathBuf,
    /// The disk. Default: the one beside that file that it is about.
    pub path: Option<PathBuf>,
}

/// What was done about a repair.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct UndoRepairReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Whether anything was written; otherwise the disk was as before the repair already.
    pub changed: bool,
}

/// Takes a repair back: what it changed is byte for byte what it was, and what a guest has written
/// in place since stays. Safe to repeat.
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt), with nothing changed, when somebody has written since to what
/// the repair changed, added or copied; [`BadRequest`](ErrorKind::BadRequest) for a file that no repair left; what opening and
/// locking say.
pub fn undo_repair(request: &UndoRepairRequest, context: Context<'_>) -> Result<UndoRepairReport> {
    let saved = resolve(&request.undo_file)?;
    let file = UndoFile::read(&saved)?;
    let path = match &request.path {
        Some(path) => path.clone(),
        None => file.disk_beside(&saved)?,
    };
    let existing = Existing::open_to_change(&path, Some(Format::Qcow2), context)?;
    let changed = file
        .record
        .undo(existing.storage(), context.task())
        .map_err(|error| error.at_path(&path))?;
    Ok(UndoRepairReport { path: lossy(&path), path_bytes_hex: bytes_hex(&path), changed })
}

/// What such a file says.
pub(super) struct UndoFile {
    /// The image's name.
    disk: OsString,
    /// Whether the file was saved in the image's folder.
    beside: bool,
    record: UndoRecord,
}

/// How it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    vmdisk_repair: u32,
    /// For people.
    disk: String,
    disk_hex: String,
    beside_disk: bool,
    old_length_bytes: u64,
    new_length_bytes: u64,
    changed: Vec<StoredReplaced>,
    added: Vec<StoredHashed>,
    copied: Vec<StoredHashed>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredReplaced {
    offset_bytes: u64,
    old_hex: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    between_hex: Vec<String>,
    new_hex: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredHashed {
    offset_bytes: u64,
    length_bytes: u64,
    sha256: String,
}

impl UndoFile {
    /// For an image of this name; `beside` says whether the file goes to its folder.
    pub(super) fn new(disk: &OsStr, beside: bool, record: UndoRecord) -> UndoFile {
        UndoFile { disk: disk.to_owned(), beside, record }
    }

    /// The disk in the folder of the file, which is named after it: what a file says alone does not
    /// choose what is written to.
    fn disk_beside(&self, saved: &Path) -> Result<PathBuf> {
        let mut begins = self.disk.clone();
        begins.push(REPAIR);
        let name = saved.file_name().unwrap_or_default();
        if !self.beside || !name.as_bytes().starts_with(begins.as_bytes()) {
            let message = "does not lie beside the disk that it is about: name the disk too";
            return Err(Error::new(ErrorKind::BadRequest, message).at_path(saved));
        }
        Ok(saved.with_file_name(&self.disk))
    }

    pub(super) fn to_json(&self) -> Result<String> {
        let record = &self.record;
        let stored = Stored {
            vmdisk_repair: VERSION,
            disk: lossy(self.disk.as_ref()),
            disk_hex: hex(self.disk.as_bytes()),
            beside_disk: self.beside,
            old_length_bytes: record.old_len,
            new_length_bytes: record.new_len,
            changed: record.changed.iter().map(StoredReplaced::of).collect(),
            added: record.added.iter().map(StoredHashed::of).collect(),
            copied: record.copied.iter().map(StoredHashed::of).collect(),
        };
        let text = serde_json::to_string(&stored).map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot tell how to undo the repair").with_source(error)
        })?;
        if u64::try_from(text.len()).is_ok_and(|len| len <= MAX_LEN) {
            return Ok(text);
        }
        let message = "the repair changes so much that it could not be taken back";
        Err(Error::new(ErrorKind::UnsupportedFeature, message))
    }

    fn read(path: &Path) -> Result<UndoFile> {
        let not_one = |message| Error::new(ErrorKind::BadRequest, message).at_path(path);
        let storage = FileStorage::open(path, Access::Read)?;
        let info = storage.info()?;
        if info.kind != FileKind::Regular || info.len > MAX_LEN {
            return Err(not_one("is no file that a repair has left"));
        }
        let mut bytes = vec![0; usize::try_from(info.len).unwrap_or_default()];
        read_exact_at(&storage, 0, &mut bytes)?;
        let stored: Stored = serde_json::from_slice(&bytes)
            .map_err(|_| not_one("is no file that a repair has left"))?;
        if stored.vmdisk_repair != VERSION {
            return Err(not_one("was left by another version of vmdisk"));
        }
        stored.meaning().ok_or_else(|| not_one("is no file that a repair has left"))
    }
}

impl Stored {
    fn meaning(self) -> Option<UndoFile> {
        let disk = OsString::from_vec(unhex(&self.disk_hex)?);
        // A name beside the file, and nothing else.
        let plain =
            !disk.is_empty() && disk != ".." && disk != "." && !disk.as_bytes().contains(&b'/');
        let changed =
            self.changed.into_iter().map(StoredReplaced::meaning).collect::<Option<_>>()?;
        let added = self.added.into_iter().map(StoredHashed::meaning).collect::<Option<_>>()?;
        let copied = self.copied.into_iter().map(StoredHashed::meaning).collect::<Option<_>>()?;
        let record = UndoRecord {
            old_len: self.old_length_bytes,
            new_len: self.new_length_bytes,
            changed,
            added,
            copied,
        };
        plain.then_some(UndoFile { disk, beside: self.beside_disk, record })
    }
}

impl StoredReplaced {
    fn of(replaced: &Replaced) -> StoredReplaced {
        StoredReplaced {
            offset_bytes: replaced.offset,
            old_hex: hex(&replaced.old),
            between_hex: replaced.between.iter().map(|bytes| hex(bytes)).collect(),
            new_hex: hex(&replaced.new),
        }
    }

    fn meaning(self) -> Option<Replaced> {
        let between = self.between_hex.iter().map(|bytes| unhex(bytes)).collect::<Option<_>>()?;
        let (old, new) = (unhex(&self.old_hex)?, unhex(&self.new_hex)?);
        Some(Replaced { offset: self.offset_bytes, old, between, new })
    }
}

impl StoredHashed {
    fn of(known: &Hashed) -> StoredHashed {
        StoredHashed {
            offset_bytes: known.offset,
            length_bytes: known.len,
            sha256: hex(&known.hash),
        }
    }

    fn meaning(self) -> Option<Hashed> {
        let hash = unhex(&self.sha256)?.try_into().ok()?;
        Some(Hashed { offset: self.offset_bytes, len: self.length_bytes, hash })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(byte).collect()).flatten()
}
