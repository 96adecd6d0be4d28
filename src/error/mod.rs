//! The one public error: what kind of failure, what was being done to which path and offset, and
//! the cause. An offset is in that file, or on the disk that a guest sees: the two are kept, and
//! told, apart.
//!
//! [`ErrorKind`] is a contract (programs branch on it); the message is for people and may change.
//! What to do about a failure is not said here: hints are added at the rim.

mod case;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use self::case::Case;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! kinds {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $code:literal $name:literal),+ $(,)?) => {
        /// What went wrong, as a small closed set that callers branch on.
        ///
        /// Adding a kind is an addition to the contract; removing or renaming one is a break.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind { $($(#[doc = $meaning])+ $variant),+ }

        impl ErrorKind {
            /// Every kind, in the order of the reference.
            pub const ALL: &'static [ErrorKind] = &[$(ErrorKind::$variant),+];

            /// The name that programs see (`snake_case`, stable).
            pub fn name(self) -> &'static str {
                match self { $(ErrorKind::$variant => $name),+ }
            }

            /// The number that programs see: fixed, a new kind takes the next.
            pub fn code(self) -> i64 {
                match self { $(ErrorKind::$variant => $code),+ }
            }

            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(ErrorKind::$variant => concat!($($meaning),+).trim_ascii()),+ }
            }
        }
    };
}

kinds! {
    /// The request itself is not understood: a flag, a field, a value out of its range.
    BadRequest = 1 "bad_request",
    /// The caller asked for a protocol version that this program does not speak.
    ProtocolUnsupported = 2 "protocol_unsupported",
    /// A size that is zero, negative, without a unit, or above what the format can hold.
    BadSize = 3 "bad_size",
    /// The disk is larger than the size asked for, and shrinking was not allowed.
    WouldShrink = 4 "would_shrink",
    /// The target exists already, or something of that name in the image.
    Exists = 5 "exists",
    /// A file, folder, snapshot or bitmap that the request names does not exist.
    NotFound = 6 "not_found",
    /// The system refused access.
    Permission = 7 "permission",
    /// Another process uses the disk; trying again later may succeed.
    Locked = 8 "locked",
    /// The host file system is full, or cannot hold a file of that length.
    NoSpace = 9 "no_space",
    /// A read, write or sync failed for another reason.
    Io = 10 "io",
    /// The keys do not fit in what the guest reads of its disk.
    PayloadTooLarge = 11 "payload_too_large",
    /// The image uses something that this version does not handle.
    UnsupportedFeature = 12 "unsupported_feature",
    /// Options that exclude one another.
    IncompatibleOptions = 13 "incompatible_options",
    /// The image contradicts its format.
    Corrupt = 14 "corrupt",
    /// The image, or a bitmap in it, was not closed cleanly and cannot be mended for this operation.
    Dirty = 15 "dirty",
    /// Name and content of a disk disagree about its format.
    FormatMismatch = 16 "format_mismatch",
    /// The guest's disk holds data that the request would destroy.
    GuestNotEmpty = 17 "guest_not_empty",
    /// What is inside the guest's disk may not be changed.
    GuestRefused = 18 "guest_refused",
    /// Other images depend on this one.
    HasDependents = 19 "has_dependents",
    /// The file system offers no locks.
    LockUnavailable = 20 "lock_unavailable",
    /// A journal beside the disk does not match the disk.
    JournalStale = 21 "journal_stale",
    /// The path is something that cannot be a disk image (a folder, a pipe, a socket).
    NotADisk = 22 "not_a_disk",
    /// The backing file does not exist.
    BackingMissing = 23 "backing_missing",
    /// The trust policy does not allow opening a file that an image names.
    BackingRefused = 24 "backing_refused",
    /// The backing chain comes back to itself, or is deeper than the limit.
    BackingCycle = 25 "backing_cycle",
    /// The image holds internal snapshots that forbid the operation.
    HasSnapshots = 26 "has_snapshots",
    /// Stopped on request, at a safe point.
    Cancelled = 27 "cancelled",
    /// A defect of this program.
    Internal = 28 "internal",
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The process that holds a lock we wanted, where the system tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// The command's name, as the system lists it.
    pub command: String,
}

/// A failure: its [`ErrorKind`], a message, and where it happened.
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
    offset: Option<u64>,
    guest_offset: Option<u64>,
    field: Option<&'static str>,
    case: Option<Case>,
    holder: Option<Holder>,
    changed: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of this kind. The message is a lower-case fragment that names the thing, the value
    /// found and the value allowed; where a path is recorded, it stands before the message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            path: None,
            offset: None,
            guest_offset: None,
            field: None,
            case: None,
            holder: None,
            changed: false,
            source: None,
        }))
    }

    /// A failed system call on `path`, its kind taken from the error number. `doing` is a
    /// fragment such as "cannot open"; the path is not repeated in it.
    pub fn io(doing: &str, path: &Path, source: io::Error) -> Self {
        let mut error = Error::new(classify(&source), doing).with_source(source);
        error.0.path = Some(path.to_owned());
        error
    }

    /// Records the path, unless a more precise one is recorded already.
    pub fn at_path(mut self, path: &Path) -> Self {
        self.0.path.get_or_insert_with(|| path.to_owned());
        self
    }

    /// Records the byte offset in the file named by [`Error::path`], unless one is recorded.
    pub fn at_offset(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Records the byte offset on the disk as its guest sees it, unless one is recorded.
    pub fn at_guest_offset(mut self, offset: u64) -> Self {
        self.0.guest_offset.get_or_insert(offset);
        self
    }

    /// Records which field of the request is to blame.
    pub fn in_field(mut self, field: &'static str) -> Self {
        self.0.field.get_or_insert(field);
        self
    }

    /// Records what a hint has to know beside the kind.
    pub(crate) fn in_case(mut self, case: Case) -> Self {
        self.0.case.get_or_insert(case);
        self
    }

    /// The same without its path, where that is told already.
    pub(crate) fn without_path(mut self) -> Self {
        self.0.path = None;
        self
    }

    /// The same about the file under another name of it.
    pub(crate) fn with_path(mut self, path: &Path) -> Self {
        self.0.path = Some(path.to_owned());
        self
    }

    /// Records who holds the lock.
    pub fn with_holder(mut self, holder: Option<Holder>) -> Self {
        self.0.holder = holder;
        self
    }

    /// Records the cause.
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Takes back the promise that nothing was changed: from here on a file may differ.
    pub fn after_changes(mut self) -> Self {
        self.0.changed = true;
        self
    }

    /// [`after_changes`](Self::after_changes), if there were any.
    pub fn after_changes_if(self, changed: bool) -> Self {
        if changed { self.after_changes() } else { self }
    }

    /// What went wrong, for programs.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file that the failure is about.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The byte offset in that file.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The byte offset on the disk as its guest sees it.
    pub fn guest_offset(&self) -> Option<u64> {
        self.0.guest_offset
    }

    /// The field of the request that is to blame, for a request that contradicts itself.
    pub fn field(&self) -> Option<&'static str> {
        self.0.field
    }

    /// What a hint has to know beside the kind.
    pub(crate) fn case(&self) -> Option<Case> {
        self.0.case
    }

    /// The process that holds the lock, for [`ErrorKind::Locked`].
    pub fn holder(&self) -> Option<&Holder> {
        self.0.holder.as_ref()
    }

    /// Whether a file that the request names may differ from before. `false` is a promise.
    pub fn changed(&self) -> bool {
        self.0.changed
    }

    /// Whether the same request may succeed later without anything being mended.
    pub fn retriable(&self) -> bool {
        self.kind() == ErrorKind::Locked
    }

    /// The system's error number, when a system call failed, also an earlier one that is the cause.
    pub fn errno(&self) -> Option<i32> {
        match self.cause::<io::Error>() {
            Some(error) => error.raw_os_error(),
            None => self.cause::<Error>()?.errno(),
        }
    }

    /// Whether a file would have become longer than its file system or a limit allows, so that more
    /// room would not help; the kind is [`ErrorKind::NoSpace`].
    pub fn is_file_too_large(&self) -> bool {
        match self.cause::<io::Error>() {
            Some(error) => error.kind() == io::ErrorKind::FileTooLarge,
            None => self.cause::<Error>().is_some_and(Error::is_file_too_large),
        }
    }

    /// The typed cause, when it is a `T` (format errors keep theirs here).
    pub fn cause<T: std::error::Error + 'static>(&self) -> Option<&T> {
        self.0.source.as_deref()?.downcast_ref::<T>()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        if let Some(path) = &inner.path {
            write!(f, "{}: ", one_line(&path.to_string_lossy()))?;
        }
        f.write_str(&inner.message)?;
        match (inner.offset, inner.guest_offset) {
            (Some(offset), None) => write!(f, " at byte {offset}")?,
            (None, Some(guest)) => write!(f, " at guest byte {guest}")?,
            (Some(offset), Some(guest)) => write!(f, " at byte {offset}, guest byte {guest}")?,
            (None, None) => {}
        }
        if let Some(Holder { pid, command }) = &inner.holder {
            write!(f, " (held by {command}, pid {pid})")?;
        }
        match (&inner.source, self.cause::<io::Error>()) {
            _ if inner.case == Some(Case::Absent) => Ok(()),
            (_, Some(error)) => write!(f, ": {}", without_number(error)),
            (Some(source), None) => write!(f, ": {source}"),
            (None, None) => Ok(()),
        }
    }
}

/// Text of one line, whatever names are in it.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut line = String::new();
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    Cow::Owned(line)
}

/// What the system says. Its number is for programs, which have it apart.
fn without_number(error: &io::Error) -> String {
    let text = error.to_string();
    let number = error.raw_os_error().map(|number| format!(" (os error {number})"));
    let short = number.and_then(|number| text.strip_suffix(&number).map(str::to_owned));
    short.unwrap_or(text)
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().and_then(|source| source.source())
    }
}

/// Turns a panic into an error: a defect of ours, after which nothing can be promised about the
/// files of the request.
///
/// # Errors
/// What `run` says, and [`ErrorKind::Internal`].
pub(crate) fn guarded<T, E: From<Error>>(run: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason");
        let message = format!("a defect of vmdisk, please report it: {text}");
        Err(Error::new(ErrorKind::Internal, message).after_changes().into())
    })
}

/// The kind of a failed system call. What means something else in a certain place (a missing
/// backing file, say) is classified there instead.
fn classify(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::Permission
        }
        io::ErrorKind::AlreadyExists => ErrorKind::Exists,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::NoSpace
        }
        io::ErrorKind::IsADirectory => ErrorKind::NotADisk,
        io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput => ErrorKind::BadRequest,
        _ => ErrorKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_path_offset_and_cause_once() {
        let source = io::Error::from_raw_os_error(28);
        let error = Error::io("cannot write", Path::new("/d/x.qcow2"), source).at_offset(512);
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(error.errno(), Some(28));
        let text = error.to_string();
        assert!(text.starts_with("/d/x.qcow2: cannot write at byte 512: No space left"), "{text}");
        let error = error.at_guest_offset(7);
        assert_eq!((error.offset(), error.guest_offset()), (Some(512), Some(7)));
        assert!(error.to_string().contains("write at byte 512, guest byte 7: No"), "{error}");
        let error = Error::new(ErrorKind::Corrupt, "damaged").at_guest_offset(7);
        assert_eq!((error.offset(), error.to_string()), (None, "damaged at guest byte 7".into()));
    }

    #[test]
    fn system_errors_have_kinds_and_numbers() {
        let path = Path::new("/d");
        for (errno, kind) in [
            (nix::libc::EFBIG, ErrorKind::NoSpace),
            (nix::libc::EDQUOT, ErrorKind::NoSpace),
            (nix::libc::EROFS, ErrorKind::Permission),
            (nix::libc::EIO, ErrorKind::Io),
        ] {
            let error = Error::io("cannot write", path, io::Error::from_raw_os_error(errno));
            assert_eq!((error.kind(), error.errno()), (kind, Some(errno)));
            let later = Error::new(kind, "later").with_source(error.clone());
            assert_eq!(later.errno(), Some(errno));
            assert_eq!(later.is_file_too_large(), errno == nix::libc::EFBIG);
            assert_eq!(later.to_string(), format!("later: {error}"));
            assert!(!later.to_string().contains("os error"), "{later}");
        }
    }

    #[test]
    fn names_are_unique_snake_case() {
        let mut names: Vec<_> = ErrorKind::ALL.iter().map(|kind| kind.name()).collect();
        assert!(names.iter().all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ErrorKind::ALL.len());
        let codes: std::collections::BTreeSet<_> =
            ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
    }
}
