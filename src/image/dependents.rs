//! Images that lie above a disk: what the disk holds is a part of what their guests see.

use std::path::Path;

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
    let path = resolve(path)?;
    let disk = FileId::of(&path)?;
    let above = files_beside(&path, MAX_FILES).into_iter().find(|file| lies_above(file, disk));
    match above {
        None => Ok(()),
        Some(above) => {
            let message = format!("is the backing file of {}", above.display());
            Err(Error::new(ErrorKind::HasDependents, message).at_path(&path))
        }
    }
}

/// What cannot be read as an image is none.
fn lies_above(file: &Path, disk: FileId) -> bool {
    let header = || {
        let is_file = FileKind::of(file).ok()? == FileKind::Regular;
        let storage = is_file.then(|| FileStorage::open(file, Access::Read).ok())??;
        Header::read(&storage).ok()
    };
    let Some(backing) = header().and_then(|header| header.backing) else { return false };
    let name = std::str::from_utf8(&backing.name).unwrap_or_default();
    let named = file.parent().unwrap_or(Path::new("/")).join(name);
    FileId::of(&named).is_ok_and(|named| named == disk)
}
