//! What to do about an error, in the words of the command line.

use crate::error::{Error, ErrorKind};

/// The remedy that is the same for every verb, if there is one.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    Some(match error.kind() {
        ErrorKind::Exists => {
            "choose another path, or keep or replace what is there: vmdisk create --if-exists"
        }
        ErrorKind::Locked => {
            "stop the machine that uses the disk, or wait for it with --lock-timeout SECONDS"
        }
        ErrorKind::LockUnavailable => {
            "if nothing else can use the disk, pass --no-lock to go on without a lock"
        }
        ErrorKind::FormatMismatch => {
            "if you know what it is, say so: --format raw or --format qcow2 (--backing-format for a \
             backing file)"
        }
        ErrorKind::PayloadTooLarge => {
            "use fewer or shorter keys: an ed25519 key takes about 100 bytes"
        }
        ErrorKind::BackingMissing => {
            "check the path: on the command line it is relative to the working directory, inside an \
             image to the image's folder"
        }
        ErrorKind::BackingRefused => {
            "if you trust the image, allow the folder of that file with --allow FOLDER, or any file \
             with --trust full; a name that is no file is never followed"
        }
        ErrorKind::JournalStale => {
            "check the filesystem where it is not mounted (e2fsck -f), then delete the journal by \
             hand: the disk was used since it was written"
        }
        ErrorKind::NoSpace if error.is_file_too_large() => {
            "choose a smaller size, or a folder on a file system with larger files"
        }
        ErrorKind::NoSpace => "free some room on the file system, or choose another folder",
        _ => return None,
    })
}
