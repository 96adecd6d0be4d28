//! What a scan can find.

use std::fmt;

use crate::error::{Error, ErrorKind};
use crate::qcow2::error::{FormatError, Problem};
use crate::qcow2::geometry::{GuestOffset, HostOffset};

/// What a range of the image file serves as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Structure {
    /// The first cluster.
    Header,
    /// The active L1 table.
    L1Table,
    /// An L2 table, whoever refers to it.
    L2Table,
    /// The refcount table.
    RefcountTable,
    /// A block of reference counts.
    RefcountBlock,
    /// The table of internal snapshots.
    SnapshotTable,
    /// The L1 table of a snapshot.
    SnapshotL1Table,
    /// The directory of bitmaps.
    BitmapDirectory,
    /// The table of one bitmap.
    BitmapTable,
    /// A cluster of one bitmap.
    BitmapData,
    /// The header of full disk encryption.
    EncryptionHeader,
    /// A cluster of guest data.
    Data,
    /// Compressed guest data.
    Compressed,
}

impl Structure {
    /// Its name in a sentence.
    pub const fn name(self) -> &'static str {
        match self {
            Structure::Header => "header",
            Structure::L1Table => "L1 table",
            Structure::L2Table => "L2 table",
            Structure::RefcountTable => "refcount table",
            Structure::RefcountBlock => "refcount block",
            Structure::SnapshotTable => "snapshot table",
            Structure::SnapshotL1Table => "snapshot's L1 table",
            Structure::BitmapDirectory => "bitmap directory",
            Structure::BitmapTable => "bitmap table",
            Structure::BitmapData => "bitmap",
            Structure::EncryptionHeader => "encryption header",
            Structure::Data => "data cluster",
            Structure::Compressed => "compressed data",
        }
    }
}

/// One thing that an image refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// As what.
    pub what: Structure,
    /// Where it begins in the image file, as the reference says.
    pub host: HostOffset,
    /// The first guest byte that it holds or leads to, where the active tables refer to it.
    pub guest: Option<GuestOffset>,
    /// Where the entry is that refers to it, where one entry alone does.
    pub entry: Option<HostOffset>,
}

impl Reference {
    /// A reference that no guest byte belongs to.
    pub(super) const fn to(what: Structure, host: HostOffset) -> Self {
        Reference { what, host, guest: None, entry: None }
    }

    /// The same, and the entry that refers to it.
    pub(super) const fn by(self, entry: HostOffset) -> Self {
        Reference { entry: Some(entry), ..self }
    }

    /// The same, and the guest byte that it begins with, if the active tables refer to it.
    pub(super) const fn of_guest(self, guest: Option<GuestOffset>) -> Self {
        Reference { guest, ..self }
    }
}

/// How much a finding weighs, lightest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Allowed by the format, but no program is known to do it.
    Notice,
    /// Room that nothing uses. No data is at risk.
    Leak,
    /// Data is lost, or will be once somebody writes.
    Corruption,
}

/// One thing that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// A cluster is counted more often than it is referred to.
    Leak {
        /// The cluster.
        host: HostOffset,
        /// What the image counts.
        stored: u64,
        /// How often it is referred to.
        found: u64,
    },
    /// A cluster is referred to more often than it is counted: it may be given away.
    Undercount {
        /// The cluster.
        host: HostOffset,
        /// What the image counts.
        stored: u64,
        /// How often it is referred to.
        found: u64,
    },
    /// The COPIED flag of an active entry does not say whether the stored count is one.
    CopiedFlag {
        /// What the entry refers to; an L2 table if it is an entry of the L1 table.
        to: Reference,
        /// Whether the flag is set.
        set: bool,
        /// What the image counts.
        stored: u64,
    },
    /// An entry or a field breaks a rule of the format.
    Malformed {
        /// What it refers to, as far as that can be told.
        to: Reference,
        /// The rule.
        problem: FormatError,
    },
    /// Something lies behind the end of the file.
    BeyondFile {
        /// What, and where.
        to: Reference,
        /// Its length, in bytes.
        len: u64,
        /// The length of the file, in bytes.
        file_len: u64,
    },
    /// The file ends in a table: what its entries led to is lost. (QEMU takes what is missing for
    /// zeros, and what it led to for leaks.)
    CutShort {
        /// The table.
        to: Reference,
        /// The length of the file, in bytes.
        file_len: u64,
    },
    /// Metadata lies where something else does.
    Overlap {
        /// What was found second.
        to: Reference,
        /// The first cluster that both claim.
        host: HostOffset,
    },
    /// Two guest clusters of the active disk have the same host cluster, or compressed data lies
    /// where data lies that is not.
    Shared {
        /// What was found second.
        to: Reference,
        /// The cluster.
        host: HostOffset,
    },
    /// The medium does not give a table back.
    Unreadable {
        /// The table.
        to: Reference,
        /// Why not.
        kind: ErrorKind,
    },
}

impl Finding {
    /// How much it weighs.
    pub const fn severity(&self) -> Severity {
        match self {
            Finding::Leak { .. } => Severity::Leak,
            Finding::Shared { .. } => Severity::Notice,
            _ => Severity::Corruption,
        }
    }

    /// What of the image it is about, where that is not a count alone.
    pub const fn reference(&self) -> Option<Reference> {
        match self {
            Finding::Leak { .. } | Finding::Undercount { .. } => None,
            Finding::CopiedFlag { to, .. }
            | Finding::Malformed { to, .. }
            | Finding::BeyondFile { to, .. }
            | Finding::CutShort { to, .. }
            | Finding::Overlap { to, .. }
            | Finding::Shared { to, .. }
            | Finding::Unreadable { to, .. } => Some(*to),
        }
    }

    /// Where in the file it is.
    pub const fn host(&self) -> HostOffset {
        match self {
            Finding::Leak { host, .. }
            | Finding::Undercount { host, .. }
            | Finding::Overlap { host, .. }
            | Finding::Shared { host, .. } => *host,
            Finding::CopiedFlag { to, .. }
            | Finding::Malformed { to, .. }
            | Finding::BeyondFile { to, .. }
            | Finding::CutShort { to, .. }
            | Finding::Unreadable { to, .. } => to.host,
        }
    }

    /// What the image counts, and how often the cluster is referred to, where that was counted.
    pub const fn counts(&self) -> Option<(u64, Option<u64>)> {
        match self {
            Finding::Leak { stored, found, .. } | Finding::Undercount { stored, found, .. } => {
                Some((*stored, Some(*found)))
            }
            Finding::CopiedFlag { stored, .. } => Some((*stored, None)),
            _ => None,
        }
    }

    /// Whether a reference is wrong, so that counting references does not tell what is in use.
    pub(in crate::qcow2) const fn is_damage(&self) -> bool {
        match self {
            Finding::Leak { .. } | Finding::Undercount { .. } | Finding::CopiedFlag { .. } => false,
            Finding::Malformed { problem, .. } => !problem.leaves_references(),
            _ => true,
        }
    }

    /// The error of an operation that cannot go on because of it.
    pub(in crate::qcow2) fn to_error(&self) -> Error {
        match self {
            Finding::Malformed { problem, .. } => problem.clone().into_error(),
            Finding::BeyondFile { to, len, file_len } => {
                let (what, offset) = (to.what.name(), to.host.get());
                Problem::BeyondFile { what, offset, len: *len, file_len: *file_len }.into_error()
            }
            Finding::CutShort { to, file_len } => {
                let message = format!("the file ends at {file_len}, in the {}", to.what.name());
                Error::new(ErrorKind::Corrupt, message).at_offset(to.host.get())
            }
            Finding::Overlap { to, host } | Finding::Shared { to, host } => {
                Problem::UsedTwice { offset: host.get(), owner: to.what.name() }.into_error()
            }
            Finding::Unreadable { to, kind } => {
                let message = format!("cannot read the {}", to.what.name());
                Error::new(*kind, message).at_offset(to.host.get())
            }
            Finding::Leak { host, stored, .. } | Finding::Undercount { host, stored, .. } => {
                Problem::ImpossibleCount { offset: host.get(), count: *stored }.into_error()
            }
            Finding::CopiedFlag { to, stored, .. } => {
                Problem::ImpossibleCount { offset: to.host.get(), count: *stored }.into_error()
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.host().get();
        match self {
            Finding::Leak { stored, found, .. } | Finding::Undercount { stored, found, .. } => {
                let (stored, found) = (Times(*stored), Times(*found));
                write!(f, "the cluster at {at:#x} is counted {stored} and used {found}")
            }
            Finding::CopiedFlag { to, set, stored } => {
                let (what, flag) = (to.what.name(), if *set { "set" } else { "not set" });
                let stored = Times(*stored);
                write!(
                    f,
                    "the {what} at {at:#x} is counted {stored}, and its COPIED flag is {flag}"
                )
            }
            Finding::Malformed { problem, .. } => problem.fmt(f),
            Finding::BeyondFile { to, len, file_len } => {
                let (what, offset) = (to.what.name(), to.host.get());
                Problem::BeyondFile { what, offset, len: *len, file_len: *file_len }.fmt(f)
            }
            Finding::CutShort { to, file_len } => {
                let what = to.what.name();
                write!(f, "the file ends at {file_len:#x}, in the {what} at {at:#x}")
            }
            Finding::Overlap { to, .. } | Finding::Shared { to, .. } => {
                Problem::UsedTwice { offset: at, owner: to.what.name() }.fmt(f)
            }
            Finding::Unreadable { to, kind } => {
                write!(f, "the {} at {at:#x} cannot be read ({kind})", to.what.name())
            }
        }
    }
}

/// How often, in words.
struct Times(u64);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("never"),
            1 => f.write_str("once"),
            times => write!(f, "{times} times"),
        }
    }
}
