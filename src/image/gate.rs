//! The gate: what an image may make us open. Names inside an image are not trusted; the caller's
//! policy decides which of them are followed.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Case, Error, ErrorKind, Result};
use crate::host::{folder_of, resolve};

/// The deepest backing chain that is followed, in images.
pub const MAX_CHAIN_DEPTH: usize = 64;

/// What an image names another file for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// Its backing file, which is only read.
    BackingFile,
    /// Its backing file, to be written: with what the image itself holds.
    BackingFileToWrite,
    /// Its external data file, to be read.
    DataFile,
    /// Its external data file, to be written: whatever bytes the guest likes, over a file that
    /// the image alone names.
    DataFileToWrite,
}

impl Named {
    /// Whether it is written.
    pub(super) fn is_written(self) -> bool {
        matches!(self, Named::BackingFileToWrite | Named::DataFileToWrite)
    }

    /// The error in a case that is mended with another backing file, where it is about one.
    fn case_of(self, error: Error, case: Case) -> Error {
        match self {
            Named::BackingFile | Named::BackingFileToWrite => error.in_case(case),
            Named::DataFile | Named::DataFileToWrite => error,
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Named::BackingFile | Named::BackingFileToWrite => "backing file",
            Named::DataFile | Named::DataFileToWrite => "external data file",
        })
    }
}

/// Which files an image may make us open. A backing file that the caller names is not subject to
/// it; what that file names in turn is.
///
/// To be read, a file may lie beside the image that names it, unless that is forbidden too. To be
/// written, it must be a file that the caller names with [`and`](Self::and), or lie under a folder
/// that is named so: a downloaded image could name any file of its user otherwise, and its guest
/// would write over it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// Regular files at or under these places, and nothing else.
    Within {
        /// The folder of the image that names the file, for files that are only read.
        own_folder: bool,
        /// Further folders, or single files.
        also: Vec<PathBuf>,
    },
    /// Anything.
    Full,
}

impl Default for Trust {
    /// The folder of the image that names the file, for files that are only read.
    fn default() -> Self {
        Trust::Within { own_folder: true, also: Vec::new() }
    }
}

impl Trust {
    /// Nothing that an image names.
    pub fn none() -> Self {
        Trust::Within { own_folder: false, also: Vec::new() }
    }

    /// The same, and this folder or file too, to be read and written.
    #[must_use]
    pub fn and(self, place: PathBuf) -> Self {
        match self {
            Trust::Full => Trust::Full,
            Trust::Within { own_folder, mut also } => {
                also.push(place);
                Trust::Within { own_folder, also }
            }
        }
    }

    /// Turns a name stored in the image at `image` into the path of an existing file that may be
    /// opened. The path is canonical: no symlink in it can lead elsewhere.
    ///
    /// # Errors
    /// [`BackingRefused`](ErrorKind::BackingRefused) for what the policy forbids, and for names
    /// that are no file names (`json:`, `nbd:` and the like) under every policy;
    /// [`BackingMissing`](ErrorKind::BackingMissing).
    pub fn admit(&self, image: &Path, what: Named, name: &[u8]) -> Result<PathBuf> {
        let shown = name.escape_ascii();
        let refuse = |why: &str| {
            let message = format!("{what} '{shown}' {why}");
            Err(Error::new(ErrorKind::BackingRefused, message).at_path(image))
        };
        if let Some(protocol) = protocol(name) {
            let protocol = protocol.escape_ascii();
            let refused =
                refuse(&format!("is no file name: protocol '{protocol}' is not followed"));
            return refused.map_err(|error| what.case_of(error, Case::NoFileName));
        }
        if *self == Trust::none() {
            // Not even whether it exists is looked up.
            return refuse("may not be opened: this call trusts no name in an image");
        }
        let folder = folder_of(image)?;
        let path = resolve(&folder.join(OsStr::from_bytes(name))).map_err(|error| {
            if error.kind() == ErrorKind::NotFound {
                let message = format!("{what} '{shown}' is missing");
                let error = Error::new(ErrorKind::BackingMissing, message).at_path(image);
                return what.case_of(error, Case::NamedByImage);
            }
            error
        })?;
        let Trust::Within { own_folder, also } = self else { return Ok(path) };
        let mut also = also.iter().filter_map(|place| resolve(place).ok());
        let beside = *own_folder && path.starts_with(&folder);
        match beside && !what.is_written() || also.any(|place| path.starts_with(place)) {
            true => Ok(path),
            false if beside => {
                refuse("may be read, and not written, as long as the image alone names it")
            }
            false => refuse("lies outside the folders that may be opened"),
        }
    }
}

/// Whether a name in an image is none of a file (`json:`, `nbd:` and the like).
pub fn is_protocol(name: &[u8]) -> bool {
    protocol(name).is_some()
}

/// What stands before a colon in the first component, as QEMU reads a protocol.
pub(super) fn protocol(name: &[u8]) -> Option<&[u8]> {
    let colon = name.iter().position(|&byte| byte == b':')?;
    let slash = name.iter().position(|&byte| byte == b'/').unwrap_or(name.len());
    (colon < slash).then(|| &name[..colon])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_seen_as_qemu_sees_them() {
        assert_eq!(protocol(b"json:{}"), Some(&b"json"[..]));
        assert_eq!(protocol(b"nbd://host/x"), Some(&b"nbd"[..]));
        assert_eq!(protocol(b"./a:b"), None);
        assert_eq!(protocol(b"a/b:c"), None);
        assert_eq!(protocol(b"base.qcow2"), None);
    }
}
