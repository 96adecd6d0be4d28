//! What a file system can do, found out by trying it.

use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};
use crate::host::file::{Access, FileStorage, resolve};
use crate::host::lock::{LockMode, LockPolicy, LockState};
use crate::host::sys;
use crate::task::Cancel;

/// What was found.
#[derive(Debug, Clone, Copy)]
pub struct Abilities {
    /// The locks that it has.
    pub locks: LockState,
    /// Whether a file can be copied by sharing its blocks.
    pub reflink: bool,
    /// Whether blocks inside a file can be given back.
    pub punch_hole: bool,
}

/// Tries the file system of a folder, with two small files that are gone at once.
///
/// # Errors
/// Of any kind that making and writing a file there has.
pub fn abilities_of(folder: &Path) -> Result<Abilities> {
    const LEN: usize = 64 << 10;
    let folder = &resolve(folder)?;
    let failed = |error| Error::io("cannot make a file in it", folder, error);
    let mut file = tempfile::tempfile_in(folder).map_err(failed)?;
    let copy = tempfile::tempfile_in(folder).map_err(failed)?;
    file.write_all(&[1; LEN]).map_err(failed)?;
    let reflink = sys::can_reflink(&file, &copy);
    // OK: 64 KiB.
    let punch_hole = sys::punch_hole(&file, 0, LEN as i64).map_err(failed)?;
    let storage = FileStorage::from_file(file, folder.to_owned(), Access::Write)?;
    let policy = LockPolicy { required: false, ..LockPolicy::default() };
    let locks = storage.lock(LockMode::Writer, &policy, &Cancel::new())?;
    Ok(Abilities { locks, reflink, punch_hole })
}
