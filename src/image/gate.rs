//! The gate: what an image may make us open. Names inside an image are not trusted; the caller's
//! policy decides which of them are followed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// The deepest backing chain that is followed, in images.
pub const MAX_CHAIN_DEPTH: usize = 64;

/// Which files an image may make us open. A backing file that the caller names is not subject to
/// it; what that file names in turn is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// Nothing that an image names.
    None,
    /// Regular files at or under the folder of the image that names them.
    #[default]
    Folder,
    /// Those, and regular files at or under these folders.
    Named(Vec<PathBuf>),
    /// Anything.
    Full,
}

impl Trust {
    /// Turns a name stored in the image at `image` into the path of an existing file that may be
    /// opened. The path is canonical: no symlink in it can lead elsewhere.
    ///
    /// # Errors
    /// [`BackingRefused`](ErrorKind::BackingRefused) for what the policy forbids, and for names
    /// that are no file names (`json:`, `nbd:` and the like) under every policy;
    /// [`BackingMissing`](ErrorKind::BackingMissing).
    pub fn admit(&self, image: &Path, name: &[u8]) -> Result<PathBuf> {
        let shown = name.escape_ascii();
        let refuse = |why: &str| {
            let message = format!("backing file '{shown}' of {} {why}", image.display());
            Err(Error::new(ErrorKind::BackingRefused, message))
        };
        if let Some(protocol) = protocol(name) {
            let protocol = protocol.escape_ascii();
            return refuse(&format!("is no file name: protocol '{protocol}' is not followed"));
        }
        if *self == Trust::None {
            return refuse("may not be opened: this call trusts no name in an image");
        }
        let folder = crate::host::folder_of(image)?;
        let path =
            crate::host::resolve(&folder.join(OsStr::from_bytes(name))).map_err(|error| {
                if error.kind() == ErrorKind::NotFound {
                    let message =
                        format!("backing file '{shown}' of {} is missing", image.display());
                    return Error::new(ErrorKind::BackingMissing, message).at_path(image);
                }
                error
            })?;
        let allowed = |folder: &Path| path.starts_with(folder);
        let within = match self {
            Trust::None => false,
            Trust::Folder => allowed(&folder),
            Trust::Named(folders) => {
                let named = folders.iter().filter_map(|folder| crate::host::resolve(folder).ok());
                allowed(&folder) || named.into_iter().any(|folder| allowed(&folder))
            }
            Trust::Full => true,
        };
        if within { Ok(path) } else { refuse("lies outside the folders that may be opened") }
    }
}

/// What stands before a colon in the first component, as QEMU reads a protocol.
fn protocol(name: &[u8]) -> Option<&[u8]> {
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
