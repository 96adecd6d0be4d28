//! Exit codes.

use std::process::ExitCode;

use crate::error::{Error, ErrorKind};
use crate::task::Cancel;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: the operation failed.
    Failed,
    /// 2: the request or the flags were not understood.
    NotUnderstood,
    /// 1 of `compare`: the disks differ.
    Different,
    /// 2 of `compare`: they could not be compared.
    NotCompared,
    /// 2 of `check`: the image is corrupt.
    Corrupt,
    /// 2 of `salvage`: a part of the disk is lost.
    Lost,
    /// 2 of `inspect`: the image is not safe to use.
    Unsafe,
    /// 3 of `check`: clusters are leaked, and nothing worse.
    Leaks,
    /// 63 of verbs whose findings have the lower codes: the format, or a feature of the image, is not supported.
    Unsupported,
    /// 64 of verbs whose findings have the lower codes: not understood.
    Usage,
    /// 75: locked by another process; the same call may succeed later.
    TryAgain,
    /// 128 + n: ended by signal n.
    Signal(i32),
}

impl Exit {
    pub(super) fn of(error: &Error, cancel: &Cancel) -> Exit {
        if let (ErrorKind::Cancelled, Some(signal)) = (error.kind(), cancel.signal()) {
            return Exit::Signal(signal);
        }
        Exit::of_kind(error.kind())
    }

    /// The code where the lower ones stand for what was found.
    pub(super) fn beside_findings(self, kind: ErrorKind) -> Exit {
        match self {
            Exit::NotUnderstood => Exit::Usage,
            Exit::Failed if kind == ErrorKind::UnsupportedFeature => Exit::Unsupported,
            exit => exit,
        }
    }

    /// The code where 1 says that disks differ.
    pub(super) fn of_comparison(self) -> Exit {
        match self {
            Exit::NotUnderstood => Exit::Usage,
            Exit::Failed => Exit::NotCompared,
            exit => exit,
        }
    }

    /// The code of a failure that is not a signal's doing.
    pub(super) fn of_kind(kind: ErrorKind) -> Exit {
        match kind {
            ErrorKind::Locked => Exit::TryAgain,
            ErrorKind::BadRequest
            | ErrorKind::BadSize
            | ErrorKind::IncompatibleOptions
            | ErrorKind::ProtocolUnsupported => Exit::NotUnderstood,
            _ => Exit::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed | Exit::Different => 1,
            Exit::NotUnderstood | Exit::NotCompared | Exit::Corrupt | Exit::Lost | Exit::Unsafe => {
                2
            }
            Exit::Leaks => 3,
            Exit::Unsupported => 63,
            Exit::Usage => 64,
            Exit::TryAgain => 75,
            Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(1),
        })
    }
}
