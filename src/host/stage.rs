//! [`Staging`]: a new file appears whole or not at all.
//!
//! The file is made under a temporary name in the folder of its final one, and renamed once it is
//! complete and synced. Its maker holds a `flock` on it for as long as the maker lives, so that
//! what a killed run leaves behind can be told from what is being made.

mod stale;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions, Permissions, remove_file};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use tempfile::{Builder, TempPath};

use crate::error::{Error, ErrorKind, Result};
use crate::host::file::{Access, FileId, FileStorage};
use crate::host::lock::LockState;
use crate::host::owner::Owner;
use crate::host::sys;

/// Temporary names are this, random letters and digits, and [`SUFFIX`].
const PREFIX: &str = ".vmdisk-";
const SUFFIX: &str = ".tmp";
const RANDOM_LEN: usize = 12;

/// The permission bits of a new disk: keys and data inside concern its owner alone.
pub const DEFAULT_MODE: u32 = 0o600;

/// What [`Staging::publish`] does with a file that has the final name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publish {
    /// Refuse with [`ErrorKind::Exists`] and leave it alone.
    NoReplace,
    /// Take the place of this very file. Whoever has it open keeps the old one: lock it first.
    Replace(FileId),
}

/// A file in the making. Dropping it removes it.
#[derive(Debug)]
pub struct Staging {
    // Dropped in this order: the name goes before the lock.
    temporary: TempPath,
    storage: FileStorage,
    folder: File,
    target: PathBuf,
    mode: u32,
    owner: Option<Owner>,
}

impl Staging {
    /// Makes an empty file in the folder of `target`, invisible until it is published; `mode`
    /// ([`DEFAULT_MODE`] by default) and `owner` are applied just before. What dead runs left
    /// behind in that folder is removed on the way.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such folder, [`ErrorKind::BadRequest`] when
    /// `target` names no file, and what open(2) says.
    pub fn begin(target: &Path, mode: u32, owner: Option<Owner>) -> Result<Self> {
        let Some(name) = target.file_name() else {
            let message = "not the name of a file";
            return Err(Error::new(ErrorKind::BadRequest, message).at_path(target));
        };
        let (folder, folder_path) = open_folder(target)?;
        stale::remove_all(&folder_path);
        let target = folder_path.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let (storage, temporary) = make(&folder_path, &target, |path| options.open(path))?;
        log::debug!("making {} as {}", target.display(), temporary.display());
        Ok(Staging { temporary, storage, folder, target, mode, owner })
    }

    /// The file, for writing.
    pub fn storage(&self) -> &FileStorage {
        &self.storage
    }

    /// Has the file share all blocks of `source`, until one of the two changes, and hold nothing else;
    /// `false` where the file systems cannot do that, and then it is as before. Some systems share
    /// blocks with new files alone, so that what [`storage`](Self::storage) was is no more.
    ///
    /// # Errors
    /// What ioctl_ficlone(2) or clonefile(2) says otherwise.
    pub fn reflink(&mut self, source: &FileStorage) -> Result<bool> {
        self.make_anew(|path| sys::clone_to(source.file(), path))
    }

    /// Puts the file that `new` makes in the place of this one, if it makes one.
    fn make_anew(
        &mut self,
        mut new: impl FnMut(&Path) -> io::Result<Option<File>>,
    ) -> Result<bool> {
        let mut is_able = true;
        // OK: it was made of a folder and a name.
        let folder = self.target.parent().unwrap_or(Path::new("."));
        let made = make(folder, &self.target, |path| {
            let file = new(path)?;
            is_able = file.is_some();
            file.ok_or_else(|| io::ErrorKind::Unsupported.into())
        });
        if !is_able {
            return Ok(false);
        }
        let (storage, temporary) = made?;
        // The name goes before the lock.
        self.temporary = temporary;
        self.storage = storage;
        log::debug!("{} shares all of its blocks", self.target.display());
        Ok(true)
    }

    /// Syncs the file, gives it its mode, owner and final name, and syncs the folder.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] when something has that name and is not to be replaced; what the
    /// system says. Unless [`Error::changed`] says otherwise, nothing was published and the
    /// temporary file is gone.
    pub fn publish(self, how: Publish) -> Result<()> {
        // Locals go in reverse: the name before the lock.
        let Staging { storage, temporary, folder, target, mode, owner } = self;
        let failed = |doing: &'static str| {
            let target = &target;
            move |error| Error::io(doing, target, error)
        };
        let file = storage.file();
        if let Some(Owner { user, group }) = owner {
            fchown(file, Some(user), group).map_err(failed("cannot change the owner"))?;
        }
        // After the owner: changing that one clears set-user-ID bits.
        file.set_permissions(Permissions::from_mode(mode))
            .map_err(failed("cannot change the mode"))?;
        let begun = Instant::now();
        sys::sync_all(file).map_err(failed("cannot sync"))?;
        log::debug!("synced what is to be {} in {:.1?}", target.display(), begun.elapsed());
        let renamed = match how {
            Publish::NoReplace => temporary.persist_noclobber(&target),
            Publish::Replace(replaced) => {
                // What was locked must be what goes; another file is somebody else's disk.
                if FileId::of(&target).ok() != Some(replaced) {
                    let message = "was replaced by another file meanwhile";
                    return Err(Error::new(ErrorKind::Exists, message).at_path(&target));
                }
                temporary.persist(&target)
            }
        };
        renamed.map_err(|refused| match refused.error.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::new(ErrorKind::Exists, "exists already").at_path(&target)
            }
            _ => failed("cannot publish")(refused.error),
        })?;
        sync_folder(&folder)
            .map_err(|error| failed("cannot sync the folder")(error).after_changes())?;
        log::info!("published {}", target.display());
        Ok(())
    }
}

/// Takes back what was published, by us or by an earlier run: the name goes, and the folder is
/// synced. A name that is gone already is only made sure of.
///
/// # Errors
/// What the system says; [`Error::changed`] once the name is gone, though a power cut may bring it
/// back.
pub fn unpublish(path: &Path) -> Result<()> {
    let (folder, _) = open_folder(path)?;
    match remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("cannot remove", path, error));
        }
        _ => {}
    }
    sync_folder(&folder)
        .map_err(|error| Error::io("cannot sync the folder of", path, error).after_changes())?;
    log::info!("removed {}", path.display());
    Ok(())
}

/// The folder of `target`, open so that it can be synced, and its path.
fn open_folder(target: &Path) -> Result<(File, PathBuf)> {
    let named = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let named = named.unwrap_or(Path::new("."));
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, "there is no such folder").at_path(named)
        }
        _ => Error::io("cannot open folder", named, error),
    };
    let path = named.canonicalize().map_err(failed)?;
    if !path.metadata().map_err(failed)?.is_dir() {
        return Err(Error::new(ErrorKind::NotFound, "not a folder").at_path(named));
    }
    Ok((File::open(&path).map_err(failed)?, path))
}

fn sync_folder(folder: &File) -> io::Result<()> {
    // Some file systems (FUSE, SMB) cannot; their names are as safe as they get.
    let unavailable = [Errno::EINVAL, Errno::ENOTSUP, Errno::ENOSYS];
    sys::sync_all(folder).or_else(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) if unavailable.contains(&errno) => Ok(()),
        _ => Err(error),
    })
}

/// Has `new` make a temporary file, which is then locked by us and still has its name. Errors speak of
/// `target`: nobody has heard of the temporary.
fn make(
    folder: &Path,
    target: &Path,
    mut new: impl FnMut(&Path) -> io::Result<File>,
) -> Result<(FileStorage, TempPath)> {
    const ATTEMPTS: u32 = 16;
    for _ in 0..ATTEMPTS {
        let mut builder = Builder::new();
        builder.prefix(PREFIX).suffix(SUFFIX).rand_bytes(RANDOM_LEN);
        // The builder's own error names the temporary and hides the system's.
        let mut refused = None;
        let made = builder
            .make_in(folder, |path| new(path).inspect_err(|error| refused = error.raw_os_error()));
        let (file, temporary) = made
            .map_err(|error| {
                let error = refused.map_or(error, io::Error::from_raw_os_error);
                Error::io("cannot make files in this folder", folder, error)
            })?
            .into_parts();
        // Between making and locking, another run may have taken it for a dead one's.
        if let Some(state) = claim(&file, &temporary) {
            let storage = FileStorage::from_file(file, target.to_owned(), Access::Write)?;
            storage.remember(state);
            return Ok((storage, temporary));
        }
    }
    let message = format!("{ATTEMPTS} temporary files in it were taken away");
    Err(Error::new(ErrorKind::Io, message).at_path(folder))
}

/// Locks a temporary file of ours; `None` when somebody else was faster.
fn claim(file: &File, path: &Path) -> Option<LockState> {
    let flock = match file.try_lock() {
        Ok(()) => true,
        Err(std::fs::TryLockError::WouldBlock) => return None,
        // Without locks on this file system nobody removes what looks stale either.
        Err(std::fs::TryLockError::Error(_)) => false,
    };
    let is_ours = is_named(file, path);
    if !is_ours && flock {
        let _ = file.unlock();
    }
    is_ours.then_some(LockState { ofd: false, flock })
}

/// Whether `path` is this very file, and not another or a link to it.
fn is_named(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), path.symlink_metadata()) else { return false };
    FileId::new(&open) == FileId::new(&named)
}
