//! What to do about an error, in the words of the command line.

use crate::error::{Case, Error, ErrorKind};

/// Where the verb can take the place of what is there.
pub(super) const REPLACE: &str = "choose another path, or pass --if-exists replace";

/// Where that would take it from the images above it.
pub(super) const REPLACE_BELOW: &str = "choose another path, make those above it stand alone with \
                                        flatten, or give them up with --force";

/// Where the backing file is the one whose format is in doubt.
pub(super) const BACKING_FORMAT: &str =
    "if you know what it is, say so: --backing-format raw or --backing-format qcow2";

/// Where either the disk or its backing file is the one.
pub(super) const FORMATS: &str = "if you know what it is, say so: --format raw or --format qcow2 \
                                  (--backing-format for a backing file)";

/// Where `--format` is that of the new disk.
pub(super) const SOURCE_FORMAT: &str =
    "if you know what it is, say so: --source-format raw or --source-format qcow2";

/// The remedy that is the same for every verb, if there is one.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    error.case().and_then(of_case).or_else(|| of_kind(error))
}

/// Whether the verb's own remedy for the kind does not help here.
pub(super) fn is_special(error: &Error) -> bool {
    error.case().is_some_and(|case| of_case(case).is_some())
}

fn of_case(case: Case) -> Option<&'static str> {
    Some(match case {
        Case::ForeignFormat => "convert it first: qemu-img convert -O qcow2 OLD NEW.qcow2",
        Case::AnotherFormat => "ask for the format that it has, or choose another path",
        Case::NoJournal => "it is not ours: move it away",
        Case::OrphanedJournal => "delete it by hand, unless that disk comes back",
        Case::NoFileName => "put it above a file: vmdisk rebase DISK --unsafe --backing FILE",
        Case::NamedByImage => {
            "if it was moved: vmdisk rebase DISK --unsafe --backing FILE, which changes the name \
             alone; if it is lost, vmdisk salvage reads what the disk has of its own"
        }
        Case::TooDeep => "vmdisk flatten makes an image in the middle stand alone",
        Case::BrokenHeader => "restore it from a copy: without its header, nothing of it is found",
        Case::MarkedCorrupt => {
            "vmdisk check --repair all mends what can be mended, and takes the mark away"
        }
        Case::HasBitmaps => {
            "remove them with vmdisk bitmap remove DISK --all, and begin with a full backup"
        }
        Case::Encrypted => "decrypt it first, with a program that has the key: qemu-img convert",
        Case::ExternalData => "make one that holds its data: vmdisk convert OLD NEW.qcow2",
        Case::NoSize => {
            "pass --size, as in --size 20G; above --backing FILE it is as large as that"
        }
        Case::PrivateKey => "pass its public half, which ssh-keygen wrote beside it: KEY.pub",
        Case::UnknownContents
        | Case::ShrinksBelow
        | Case::GrowsBelow
        | Case::OtherImage
        | Case::Unheard
        | Case::Absent => return None,
    })
}

fn of_kind(error: &Error) -> Option<&'static str> {
    Some(match error.kind() {
        ErrorKind::Exists => "choose another path",
        ErrorKind::Locked => {
            "stop the machine that uses the disk, or wait for it with --lock-timeout SECONDS"
        }
        ErrorKind::LockUnavailable => {
            "if nothing else can use the disk, pass --no-lock to go on without a lock"
        }
        ErrorKind::FormatMismatch => {
            "if you know what it is, say so: --format raw or --format qcow2"
        }
        ErrorKind::Corrupt => {
            "vmdisk check tells what is wrong, check --repair all mends what can be mended, and \
             vmdisk salvage reads the rest into a new disk"
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
             with --trust full"
        }
        ErrorKind::BackingCycle => {
            "choose another backing file; where images lie above each other in a circle, vmdisk rebase \
             DISK --unsafe --force --backing FILE puts one of them above another file"
        }
        ErrorKind::JournalStale => {
            "check the filesystem where it is not mounted (e2fsck -f), then delete the journal by \
             hand"
        }
        ErrorKind::NoSpace if error.is_file_too_large() => {
            "choose a smaller size, or a folder on a file system with larger files"
        }
        ErrorKind::NoSpace => "free some room on the file system, or choose another folder",
        _ => return None,
    })
}

/// How the files are after a failure in the midst of work.
pub(super) fn aftermath(error: &Error) -> Option<&'static str> {
    match (error.changed(), error.kind()) {
        _ if error.case() == Some(Case::Unheard) => None,
        (true, _) => Some("the disk may have changed: vmdisk check tells whether it is sound"),
        (false, ErrorKind::NoSpace | ErrorKind::Io | ErrorKind::Cancelled) => {
            Some("nothing was changed")
        }
        (false, _) => None,
    }
}
