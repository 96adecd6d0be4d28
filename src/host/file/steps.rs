//! Lengthening a sparse file in steps: APFS refuses a hole that is large against the space that is
//! free, and takes the same hole in smaller pieces. (hyperkit grows its disks so since its pull
//! request 182.)

use std::io;

use nix::errno::Errno;

/// Steps that are as small as hyperkit's are not made smaller, in bytes.
const SMALLEST: u64 = 1000 << 20;

/// Makes a file of `present` bytes `len` bytes long: at once if `set_len` can, else in the largest
/// steps that it takes. If that fails, it is as long as before.
///
/// # Errors
/// What `set_len` says.
pub(in crate::host) fn set_len_in_steps(
    present: u64,
    len: u64,
    mut set_len: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<()> {
    if len <= present {
        return set_len(len);
    }
    let (mut at, mut step) = (present, len - present);
    while at < len {
        let next = len.min(at.saturating_add(step));
        match set_len(next) {
            Ok(()) => at = next,
            Err(error) if step > SMALLEST && is_full(&error) => step = SMALLEST.max(step / 2),
            Err(error) => {
                if at > present {
                    let _ = set_len(present);
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOSPC as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// What becomes of a file that takes no larger steps than `limit`, nor becomes longer than `max`.
    fn grow(present: u64, len: u64, limit: u64, max: u64) -> (u64, usize, Option<i32>) {
        let (mut at, mut calls) = (present, 0);
        let result = set_len_in_steps(present, len, |len| {
            calls += 1;
            if len.saturating_sub(at) > limit || len > max {
                return Err(Errno::ENOSPC.into());
            }
            at = len;
            Ok(())
        });
        (at, calls, result.err().and_then(|error| error.raw_os_error()))
    }

    #[test]
    fn a_hole_is_made_at_once_or_in_the_largest_steps() {
        assert_eq!(grow(GIB, 100 * GIB, u64::MAX, u64::MAX), (100 * GIB, 1, None));
        assert_eq!(grow(100 * GIB, GIB, 0, u64::MAX), (GIB, 1, None));
        // 64, 32, then four of 16.
        assert_eq!(grow(0, 64 * GIB, 20 * GIB, u64::MAX), (64 * GIB, 6, None));
        let (at, calls, error) = grow(5, 64 * GIB, SMALLEST, u64::MAX);
        assert_eq!((at, error), (64 * GIB, None));
        assert!(calls < 80, "{calls}");
    }

    #[test]
    fn what_is_refused_is_as_long_as_before() {
        let full = Some(Errno::ENOSPC as i32);
        let (at, _, error) = grow(GIB, 64 * GIB, SMALLEST - 1, u64::MAX);
        assert_eq!((at, error), (GIB, full));
        let (at, _, error) = grow(GIB, 64 * GIB, u64::MAX, 50 * GIB);
        assert_eq!((at, error), (GIB, full), "it had come to 50 GiB");
        // Another error ends it at once.
        let mut calls = 0;
        let result = set_len_in_steps(0, 64 * GIB, |_| {
            calls += 1;
            Err(Errno::EFBIG.into())
        });
        assert_eq!((calls, result.is_err()), (1, true));
    }
}
