//! Images that lie above a disk: what the disk holds is a part of what their guests see.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::host::{Access, FileId, FileKind, FileStorage, files_beside, resolve};
use crate::qcow2::Header;

/// So many files of a folder are looked at, at most.
const MAX_FILES: usize = 4096;

/// Refuses where a qcow2 image in the folder of this disk has it as its backing file. Images in other
/// folders are not looked for, nor those in a folder of very many files.
///
/// # Errors
/// [`HasDependents`](ErrorKind::HasDependents), and what finding the disk says.
pub fn refuse_dependents(path: &Path) -> Result<()> {
    refuse_dependents_beside(path, &[])
}

/// The same, where those that are `known` may lie above it.
///
/// # Errors
/// As [`refuse_dependents`].
pub fn refuse_dependents_beside(path: &Path, known: &[FileId]) -> Result<()> {
    let path = resolve(path)?;
    let disk = FileId::of(&path)?;
    let is_known = |file: &PathBuf| FileId::of(file).is_ok_and(|file| known.contains(&file));
    let mut others = files_beside(&path, MAX_FILES).into_iter();
    let above = others.find(|file| lies_above(file, disk) && !is_known(file));
    match above {
        None => Ok(()),
        Some(above) => {
            let message = format!("is the backing file of {}", above.display());
            Err(Error::new(ErrorKind::HasDependents, message).at_path(&path))
        }
    }
}

/// What cannot be read as an image is none; one that is damaged may be mended.
fn lies_above(file: &Path, disk: FileId) -> bool {
    let backing = || {
        let file = resolve(file).ok()?;
        let is_file = FileKind::of(&file).ok()? == FileKind::Regular;
        let storage = is_file.then(|| FileStorage::open(&file, Access::Read).ok())??;
        let name = Header::read_past_damage(&storage).ok()?.backing?.name;
        let name = name.strip_prefix(b"file:").unwrap_or(&name);
        Some(file.parent()?.join(OsStr::from_bytes(name)))
    };
    backing().is_some_and(|named| FileId::of(&named).is_ok_and(|named| named == disk))
}
