//! Where a file has holes. Linux and macOS are asked alike.

use std::fs::File;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::host::storage::Run;

/// What lies at `offset` of a regular file, and where that ends, at `end` at the latest. The file's
/// own position is moved: nothing reads or writes by it.
pub(super) fn run(file: &File, offset: u64, end: u64) -> nix::Result<Run> {
    let data = |end| Ok(Run { is_hole: false, end });
    let hole = |end| Ok(Run { is_hole: true, end });
    let Ok(start) = i64::try_from(offset) else { return data(end) };
    let seek = |whence| lseek(file, start, whence).map(|found| found.unsigned_abs().min(end));
    match seek(Whence::SeekData) {
        Ok(found) if found > offset => hole(found),
        // Nothing but a hole up to the end of the file.
        Err(Errno::ENXIO) => hole(end),
        Ok(_) => match seek(Whence::SeekHole) {
            Ok(found) if found > offset => data(found),
            // Somebody made a hole here between the two questions.
            Ok(_) | Err(Errno::ENXIO) => data(end),
            Err(error) => Err(error),
        },
        Err(error) if is_unavailable(error) => data(end),
        Err(error) => Err(error),
    }
}

/// What file systems answer that keep no account of holes.
fn is_unavailable(errno: Errno) -> bool {
    // On some systems two names of one number: no match arm for each.
    [Errno::EINVAL, Errno::ENOTSUP, Errno::EOPNOTSUPP, Errno::ENOSYS, Errno::ENOTTY]
        .contains(&errno)
}
