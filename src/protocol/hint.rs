//! What to do about an error, in the words of the protocol.

use crate::error::{Case, Error, ErrorKind};
use crate::ops::{
    Amend, BitmapAdd, Check, Clone, Commit, Compact, Convert, Create, Ensure, Flatten, Measure,
    Rebase, Resize, Salvage, SnapshotApply, SnapshotCreate, Verb,
};

const CREATE: &str = Create::NAME;
const CONVERT: &str = Convert::NAME;
const ENSURE: &str = Ensure::NAME;
const RESIZE: &str = Resize::NAME;
const MEASURE: &str = Measure::NAME;
const CHECK: &str = Check::NAME;
const SALVAGE: &str = Salvage::NAME;
const COMMIT: &str = Commit::NAME;
const FLATTEN: &str = Flatten::NAME;
const COMPACT: &str = Compact::NAME;
const CLONE: &str = Clone::NAME;
const SNAPSHOT_APPLY: &str = SnapshotApply::NAME;
const SNAPSHOT_CREATE: &str = SnapshotCreate::NAME;
const BITMAP_ADD: &str = BitmapAdd::NAME;
const REBASE: &str = Rebase::NAME;
const AMEND: &str = Amend::NAME;

/// The remedy, if there is one.
pub(super) fn hint(method: &str, error: &Error) -> Option<&'static str> {
    let of_case = error.case().and_then(|case| of_case(method, case));
    of_case
        .or_else(|| of_disk(method, error))
        .or_else(|| of_inside(method, error))
        .or_else(|| of_kind(error))
}

/// What helps in this case alone.
fn of_case(method: &str, case: Case) -> Option<&'static str> {
    Some(match case {
        Case::ForeignFormat => "convert it first: qemu-img convert -O qcow2 OLD NEW.qcow2",
        Case::AnotherFormat => "ask for the format that it has, or choose another path",
        Case::NoJournal => "it is not ours: move it away",
        Case::OrphanedJournal => "delete it by hand, unless that disk comes back",
        Case::NoFileName => "put it above a file with rebase, its name alone with unsafe",
        Case::NamedByImage => {
            "if it was moved: rebase with unsafe, which changes the name alone; if it is lost, \
             salvage reads what the disk has of its own"
        }
        Case::TooDeep => "flatten makes an image in the middle stand alone",
        Case::UnknownContents => "with guest_fs auto it gives up what it can",
        Case::ShrinksBelow => {
            "flatten what lies above it first, or cut it with force: that shows zeros then instead of \
             what is cut"
        }
        Case::GrowsBelow => {
            "resize what lies above it: an image there has a size of its own; force makes this disk \
             alone larger, which shows nowhere above"
        }
        Case::BrokenHeader => "restore it from a copy: without its header, nothing of it is found",
        Case::MarkedCorrupt => {
            "check with repair all mends what can be mended, and takes the mark away"
        }
        Case::HasBitmaps => "remove them with bitmap_remove, and begin with a full backup",
        Case::Encrypted => "decrypt it first, with a program that has the key: qemu-img convert",
        Case::ExternalData => "make one that holds its data with convert",
        Case::NoSize => "give it a size; above a backing file it is as large as that",
        Case::PrivateKey => "name its public half, which ssh-keygen wrote beside it: KEY.pub",
        Case::Absent if method == RESIZE => "create makes a disk, and ensure makes it or grows it",
        Case::Absent | Case::OtherImage | Case::Unheard => return None,
    })
}

/// What this verb for whole disks offers.
fn of_disk(method: &str, error: &Error) -> Option<&'static str> {
    Some(match (error.kind(), method) {
        (ErrorKind::Exists, CREATE) => {
            "choose another path, ask for what is there with if_exists keep, or give it up with \
             if_exists replace"
        }
        (ErrorKind::Exists, ENSURE) => {
            "ask for what is there, or remove the disk to have a new one"
        }
        (ErrorKind::Exists, CLONE | CONVERT | SALVAGE) => {
            "choose another path, or replace what is there with if_exists replace"
        }
        (ErrorKind::HasDependents, CREATE | CLONE | CONVERT | SALVAGE) => {
            "choose another path, flatten what lies above it, or give that up with force"
        }
        (ErrorKind::Corrupt, CHECK) => "salvage reads what is left into a new disk",
        (ErrorKind::Corrupt, SALVAGE) => "restore it from a copy",
        (ErrorKind::BackingRefused, COMMIT) => {
            "name the image that is to be written with into, or its folder in allow: what only an \
             image names is not written to"
        }
        (ErrorKind::HasDependents, COMMIT) => {
            "commit those first, flatten them, or give them up with force"
        }
        (ErrorKind::HasSnapshots, COMMIT) => {
            "delete the snapshots, or let them show something else with force"
        }
        (ErrorKind::HasSnapshots, FLATTEN) => {
            "delete the snapshots first, or clone the disk as an overlay and flatten that"
        }
        (ErrorKind::GuestRefused, COMPACT) => {
            "start the machine and shut it down cleanly; or give up zeros and leaks alone with guest_fs \
             off"
        }
        (ErrorKind::HasDependents, COMPACT) => {
            "give up zeros and leaks alone with guest_fs off, which shows nowhere; or all with force: the \
             images above may show zeros there"
        }
        (ErrorKind::FormatMismatch, MEASURE) => "if you know what it is, say so with source_format",
        (ErrorKind::FormatMismatch, CONVERT) => {
            "if you know what it is, say so with source_format (backing.format for a backing file)"
        }
        (ErrorKind::WouldShrink, RESIZE) => {
            "allow it with shrink: what the guest has behind the new end is lost"
        }
        (ErrorKind::WouldShrink, ENSURE) => {
            "ask for the size that it has, or shrink it with resize"
        }
        (ErrorKind::HasSnapshots, REBASE) => {
            "delete the snapshots first; or, where the new backing file reads the same as the old \
             one, change the name alone with unsafe"
        }
        (ErrorKind::HasSnapshots, AMEND) => "delete the snapshots first, or convert what they hold",
        (ErrorKind::HasDependents, REBASE) => {
            "without unsafe the disk reads the same, and so do those above it; with force they show \
             what the new backing file has"
        }
        (ErrorKind::HasDependents, AMEND) => {
            "put the disk above another file with rebase, which reads the same then; with force those \
             above it show what the new backing file has"
        }
        _ => return None,
    })
}

/// What there is for snapshots and bitmaps.
fn of_inside(method: &str, error: &Error) -> Option<&'static str> {
    Some(match (error.kind(), method) {
        (ErrorKind::Exists, SNAPSHOT_CREATE) => {
            "choose another name, or delete that snapshot first"
        }
        (ErrorKind::NotFound | ErrorKind::BadRequest, _) if error.field() == Some("snapshot") => {
            "snapshot_list has the id of each"
        }
        (ErrorKind::HasDependents, SNAPSHOT_APPLY) => {
            "allow it with force if the images above it may show something else afterwards"
        }
        (ErrorKind::UnsupportedFeature, SNAPSHOT_APPLY) if error.field() == Some("disk_only") => {
            "disk_only takes the disk as after a power cut at that moment"
        }
        (ErrorKind::Exists, BITMAP_ADD) => {
            "choose another name, or have the one that is there forget what is dirty with bitmap_clear"
        }
        (ErrorKind::NotFound, method) if is_of_bitmap(method, error) => {
            "bitmap_list tells which bitmaps there are"
        }
        (ErrorKind::Dirty, method) if is_of_bitmap(method, error) => {
            "remove it with bitmap_remove, add a new one and begin with a full backup; if a machine is \
             using it, stop that first"
        }
        _ => return None,
    })
}

/// What helps whatever the verb.
fn of_kind(error: &Error) -> Option<&'static str> {
    Some(match error.kind() {
        ErrorKind::GuestRefused => {
            "with guest_fs auto the disk alone grows, and the report has what to type in its guest, \
             where that is known"
        }
        ErrorKind::HasDependents => {
            "with guest_fs auto the disk alone grows; what is inside grows in the images above it"
        }
        ErrorKind::Corrupt => {
            "check tells what is wrong, check with repair all mends what can be mended, and salvage \
             reads the rest into a new disk"
        }
        ErrorKind::GuestNotEmpty => "guest.overwrite writes over it all the same",
        ErrorKind::Locked => {
            "stop the machine that uses the disk, or wait for it with lock_timeout_seconds"
        }
        ErrorKind::LockUnavailable => {
            "if nothing else can use the disk, no_lock goes on without a lock"
        }
        ErrorKind::FormatMismatch => {
            "if you know what it is, say so with format (backing.format for a backing file)"
        }
        ErrorKind::PayloadTooLarge => {
            "use fewer or shorter keys: an ed25519 key takes about 100 bytes"
        }
        ErrorKind::BackingMissing => {
            "check the path: in a request it is relative to the program's working directory, inside \
             an image to the image's folder"
        }
        ErrorKind::BackingRefused => {
            "if you trust the image, name the folder of that file in allow, or set trust to full"
        }
        ErrorKind::BackingCycle => {
            "choose another backing file; where images lie above each other in a circle, rebase with \
             unsafe and force puts one of them above another file"
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

/// Whether it is about a bitmap, and not about the file, which has an error number, or the image's
/// counts, which have a place.
fn is_of_bitmap(method: &str, error: &Error) -> bool {
    method.starts_with("bitmap_") && error.errno().is_none() && error.offset().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Visitor, each_verb};
    use crate::protocol::document;

    struct Hints(Vec<&'static str>);

    impl Visitor for Hints {
        fn visit<V: Verb>(&mut self) {
            for case in Case::ALL.iter().copied().map(Some).chain([None]) {
                for kind in ErrorKind::ALL.iter().copied() {
                    let error = Error::new(kind, "refused");
                    let error = case.into_iter().fold(error, Error::in_case);
                    self.0.extend(hint(V::NAME, &error));
                }
            }
        }
    }

    /// Fields and methods that hints speak of exist; they speak of no flags, and never call an image
    /// of another format raw.
    #[test]
    fn hints_speak_of_what_there_is() {
        let mut hints = Hints(Vec::new());
        each_verb(&mut hints);
        assert!(hints.0.len() > 500, "{} hints", hints.0.len());
        for hint in hints.0 {
            assert!(!hint.contains("--") && !hint.contains("vmdisk "), "{hint}");
            let names = hint.split(|c: char| !c.is_alphanumeric() && c != '_');
            for name in names.filter(|word| word.contains('_')) {
                assert!(document().contains(&format!("\"{name}\"")), "there is no {name}: {hint}");
            }
        }
        for method in [RESIZE, CONVERT, ENSURE, CREATE] {
            let error = Error::new(ErrorKind::FormatMismatch, "VMDK").in_case(Case::ForeignFormat);
            let hint = hint(method, &error).unwrap_or_default();
            assert!(hint.contains("convert") && !hint.contains("raw"), "{method}: {hint}");
        }
    }
}
