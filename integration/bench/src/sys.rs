//! The two calls that the standard library does not have.
#![expect(unsafe_code, reason = "libc's wait4 and sync")]

use std::io;
use std::process::{Child, ExitStatus};

/// Waits for `child`; how it ended, and the most memory it had, in KiB.
pub(crate) fn wait(child: &Child) -> io::Result<(ExitStatus, u64)> {
    use std::os::unix::process::ExitStatusExt;
    let process = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    let mut status = 0;
    // SAFETY: all zeros are a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to variables of the right types that outlive the call.
        if unsafe { libc::wait4(process, &mut status, 0, &mut usage) } == process {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let most = u64::try_from(usage.ru_maxrss).unwrap_or_default();
    // macOS counts bytes.
    let kib = if cfg!(target_os = "macos") { most >> 10 } else { most };
    Ok((ExitStatus::from_raw(status), kib))
}

/// Writes out what any process has left unwritten, so that nobody pays for another's work.
pub(crate) fn settle() {
    // SAFETY: takes and returns nothing.
    unsafe { libc::sync() }
}
