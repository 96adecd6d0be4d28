//! Paths of files that are, or will be.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::file::{refuse_empty, resolve};
use crate::error::{Error, ErrorKind, Result};

/// What a path leads to, without following a last symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupant {
    /// Nothing.
    Nobody,
    /// A symbolic link that leads to nothing.
    LinkToNowhere,
    /// A folder.
    Folder,
    /// Anything else.
    File,
}

impl Occupant {
    /// Looks.
    ///
    /// # Errors
    /// What lstat(2) says, other than that there is nothing.
    pub fn of(path: &Path) -> Result<Occupant> {
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(Occupant::Folder),
            Ok(metadata) if metadata.is_symlink() && !path.exists() => Ok(Occupant::LinkToNowhere),
            Ok(_) => Ok(Occupant::File),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Occupant::Nobody),
            Err(error) => Err(Error::io("cannot look at", path, error)),
        }
    }
}

/// The folder that a file lies in, or would lie in, without symbolic links.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is no such folder, and what realpath(3) says.
pub fn folder_of(path: &Path) -> Result<PathBuf> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = parent.unwrap_or(Path::new("."));
    folder.canonicalize().map_err(|error| Error::io("cannot find the folder", folder, error))
}

/// Where a new file at `path` really goes: the file that a symbolic link leads to where there is
/// one, else the name in its folder.
///
/// # Errors
/// [`ErrorKind::NotFound`] when the folder does not exist,
/// [`ErrorKind::BadRequest`] for a path without a last component.
pub fn resolve_target(path: &Path) -> Result<PathBuf> {
    refuse_empty(path)?;
    if let Ok(resolved) = resolve(path) {
        return Ok(resolved);
    }
    let Some(name) = path.file_name() else {
        return Err(Error::new(ErrorKind::BadRequest, "names no file").at_path(path));
    };
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(Error::new(ErrorKind::NotFound, "there is no such folder").at_path(path));
    }
    Ok(folder_of(path)?.join(name))
}
