//! Removing what runs that were killed left behind.

use std::fs::{File, OpenOptions, remove_file};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use super::{PREFIX, SUFFIX, is_named};

/// Removes every temporary file of ours in `folder` whose maker is dead. Nothing depends on it:
/// what cannot be removed stays.
pub(super) fn remove_all(folder: &Path) {
    let Ok(entries) = folder.read_dir() else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_temporary) {
            remove(&entry.path());
        }
    }
}

/// Whether [`super::make`] gives such names.
fn is_temporary(name: &str) -> bool {
    let random = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    random.is_some_and(|random| {
        (8..=32).contains(&random.len()) && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Removes the file unless a living process holds its lock. `None`: left alone.
fn remove(path: &Path) -> Option<()> {
    let file = open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.uid() != geteuid().as_raw() {
        return None;
    }
    file.try_lock().ok()?;
    // Whoever removes holds the lock, so from here on the name cannot come to mean another file.
    if is_named(&file, path) && remove_file(path).is_ok() {
        log::info!("removed {}, which a run left that was killed", path.display());
    }
    // Not left to closing: a child between fork and exec would hold it a while longer.
    file.unlock().ok()
}

fn open(path: &Path) -> std::io::Result<File> {
    let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}
