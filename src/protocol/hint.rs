//! What to do about an error, in the words of the protocol.

use crate::error::{Error, ErrorKind};
use crate::ops::{Create, Ensure, Resize, Verb};

const CREATE: &str = Create::NAME;
const ENSURE: &str = Ensure::NAME;
const RESIZE: &str = Resize::NAME;

/// The remedy, if there is one.
pub(super) fn hint(method: &str, error: &Error) -> Option<&'static str> {
    Some(match (error.kind(), method) {
        (ErrorKind::Exists, CREATE) => {
            "choose another path, ask for what is there with if_exists keep, or give it up with \
             if_exists replace"
        }
        (ErrorKind::Exists, ENSURE) => {
            "ask for what is there, or remove the disk to have a new one"
        }
        (ErrorKind::WouldShrink, RESIZE) => {
            "allow it with shrink: what the guest has behind the new end is lost"
        }
        (ErrorKind::WouldShrink, ENSURE) => {
            "ask for the size that it has, or shrink it with resize"
        }
        (ErrorKind::GuestRefused, _) => {
            "with guest_fs auto the disk alone grows, and the report has what to type in its guest, \
             where that is known"
        }
        (ErrorKind::HasDependents, RESIZE) => {
            "a disk below others may become larger: with guest_fs auto it alone grows; with force it \
             becomes smaller, and they show zeros instead of what is cut"
        }
        (ErrorKind::HasDependents, _) => {
            "with guest_fs auto the disk alone grows; what is inside grows in the images above it"
        }
        (ErrorKind::GuestNotEmpty, _) => "guest.overwrite writes over it all the same",
        (ErrorKind::Locked, _) => {
            "stop the machine that uses the disk, or wait for it with lock_timeout_seconds"
        }
        (ErrorKind::LockUnavailable, _) => {
            "if nothing else can use the disk, no_lock goes on without a lock"
        }
        (ErrorKind::FormatMismatch, _) => {
            "if you know what it is, say so with format (backing.format for a backing file)"
        }
        (ErrorKind::PayloadTooLarge, _) => {
            "use fewer or shorter keys: an ed25519 key takes about 100 bytes"
        }
        (ErrorKind::BackingMissing, _) => {
            "check the path: in a request it is relative to the program's working directory, inside \
             an image to the image's folder"
        }
        (ErrorKind::BackingRefused, _) => {
            "if you trust the image, name the folder of that file in allow, or set trust to full; \
             a name that is no file is never followed"
        }
        (ErrorKind::JournalStale, _) => {
            "check the filesystem where it is not mounted (e2fsck -f), then delete the journal by \
             hand: the disk was used since it was written"
        }
        (ErrorKind::NoSpace, _) if error.is_file_too_large() => {
            "choose a smaller size, or a folder on a file system with larger files"
        }
        (ErrorKind::NoSpace, _) => "free some room on the file system, or choose another folder",
        _ => return None,
    })
}
