//! All files under a folder.

use std::fs::ReadDir;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The files under a folder and the folders in it, in no order: whatever is no folder, by its path.
/// A symbolic link counts as a file, so nothing outside is walked through, and nothing twice.
#[derive(Debug)]
pub struct Walk {
    /// Folders that were not looked into yet.
    folders: Vec<PathBuf>,
    now: Option<(PathBuf, ReadDir)>,
    /// Whether what is in its folders is walked through too.
    is_deep: bool,
}

impl Walk {
    /// What is under `folder`, however deep.
    pub fn under(folder: &Path) -> Walk {
        Walk { folders: vec![folder.to_owned()], now: None, is_deep: true }
    }

    /// What is in `folder` itself.
    pub fn within(folder: &Path) -> Walk {
        Walk { is_deep: false, ..Walk::under(folder) }
    }

    /// Begins with the next folder.
    fn enter(&mut self) -> Option<Result<()>> {
        let folder = self.folders.pop()?;
        Some(match folder.read_dir() {
            Ok(entries) => {
                self.now = Some((folder, entries));
                Ok(())
            }
            Err(error) => Err(Error::io("cannot list", &folder, error)),
        })
    }
}

impl Iterator for Walk {
    type Item = Result<PathBuf>;

    /// A file, or a folder that could not be read, whose error names it.
    fn next(&mut self) -> Option<Result<PathBuf>> {
        loop {
            let Some((folder, entries)) = &mut self.now else {
                match self.enter()? {
                    Ok(()) => continue,
                    Err(error) => return Some(Err(error)),
                }
            };
            match entries.next() {
                None => self.now = None,
                Some(Err(error)) => {
                    let error = Error::io("cannot list", folder, error);
                    self.now = None;
                    return Some(Err(error));
                }
                Some(Ok(entry)) if entry.file_type().is_ok_and(|kind| kind.is_dir()) => {
                    if self.is_deep {
                        self.folders.push(entry.path());
                    }
                }
                Some(Ok(entry)) => return Some(Ok(entry.path())),
            }
        }
    }
}
