//! Locks that QEMU, hyperkit and other runs of this program respect.
//!
//! On Linux: read locks of the open file description on the bytes that QEMU's `file-posix` driver
//! agrees on (100 + i: "I use permission i", 200 + i: "I do not share permission i"), then a
//! `flock`, which is what hyperkit looks at. On NFS a `flock` is a byte lock over the whole file
//! and would collide with those bytes: bytes alone there. On macOS, and on file systems without
//! such byte locks: `flock` alone. All of them end with the open file, so nothing is ever stale.

mod holder;
#[cfg(all(test, target_os = "linux"))]
mod qemu_tests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::TryLockError;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::host::file::{Access, FileId, FileStorage, resolve};
use crate::host::sys;
use crate::task::Cancel;

/// "I use permission i" is byte 100 + i, "I do not share permission i" is byte 200 + i.
const USES: u32 = 100;
const KEEPS: u32 = 200;
/// QEMU's permissions by number, as far as we hold or refuse them. (2 is "write unchanged".)
const READ: u32 = 0;
const WRITE: u32 = 1;
const RESIZE: u32 = 3;
/// A byte that QEMU does not know: our own writers queue here instead of all failing.
const OWN: u32 = 300;

/// What the file is locked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Other readers may come in, writers may not.
    Reader,
    /// Nobody else may come in, except readers that take no notice of writers.
    Writer,
    /// A reader that takes no notice of writers (`--force-share`): what it reads may be torn.
    Shared,
}

impl LockMode {
    fn purpose(self) -> &'static str {
        match self {
            LockMode::Writer => "writing",
            LockMode::Reader | LockMode::Shared => "reading",
        }
    }
}

/// How long to try, and what to do where there are no locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockPolicy {
    /// How long to wait for others; zero tries once.
    pub timeout: Duration,
    /// Whether a file system without locks is an error; `false` is `--no-lock`. Where there are
    /// locks, they are taken and respected in either case.
    pub required: bool,
}

impl Default for LockPolicy {
    fn default() -> Self {
        LockPolicy { timeout: Duration::ZERO, required: true }
    }
}

/// Which kinds of lock are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LockState {
    /// QEMU's bytes.
    pub ofd: bool,
    /// A `flock`.
    pub flock: bool,
}

/// Opens `path` through symbolic links, locks it, and makes sure that it is still what `path`
/// leads to: otherwise what was opened has been replaced meanwhile, and the new file is opened.
/// `policy.timeout` counts for all of it.
///
/// # Errors
/// As [`FileStorage::open`] and [`FileStorage::lock`].
pub fn open_locked(
    path: &Path,
    access: Access,
    mode: LockMode,
    policy: &LockPolicy,
    cancel: &Cancel,
) -> Result<FileStorage> {
    open_locked_at(path, || resolve(path), access, mode, policy, cancel)
}

/// As [`open_locked`], for a path that was [resolved](resolve) and allowed before: no symbolic link
/// that has appeared in it since is followed.
///
/// # Errors
/// As there.
pub fn open_resolved_locked(
    path: &Path,
    access: Access,
    mode: LockMode,
    policy: &LockPolicy,
    cancel: &Cancel,
) -> Result<FileStorage> {
    open_locked_at(path, || Ok(path.to_owned()), access, mode, policy, cancel)
}

fn open_locked_at(
    path: &Path,
    resolved: impl Fn() -> Result<PathBuf>,
    access: Access,
    mode: LockMode,
    policy: &LockPolicy,
    cancel: &Cancel,
) -> Result<FileStorage> {
    const ATTEMPTS: u32 = 16;
    let start = Instant::now();
    for _ in 0..ATTEMPTS {
        let storage = FileStorage::open(&resolved()?, access)?;
        let timeout = policy.timeout.saturating_sub(start.elapsed());
        storage.lock(mode, &LockPolicy { timeout, ..*policy }, cancel)?;
        // A path that leads nowhere now is for the next round to report.
        if FileId::of(path).ok() == Some(storage.id()?) {
            return Ok(storage);
        }
    }
    let message = format!("replaced {ATTEMPTS} times while it was opened");
    Err(Error::new(ErrorKind::Locked, message).at_path(path))
}

impl FileStorage {
    /// Locks the file until it is dropped. To be called once.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when somebody else still uses it at the end of the timeout, with the
    /// process where the system tells; [`ErrorKind::LockUnavailable`]; [`ErrorKind::Cancelled`].
    pub fn lock(&self, mode: LockMode, policy: &LockPolicy, cancel: &Cancel) -> Result<LockState> {
        if self.lock_state() != LockState::default() {
            // Trying again could end with nothing held at all.
            let message = "this open file is locked already";
            return Err(Error::new(ErrorKind::Internal, message).at_path(self.path()));
        }
        let start = Instant::now();
        let mut waits = false;
        let state = loop {
            cancel.check()?;
            match attempt(self, mode) {
                Ok(state) => break state,
                Err(Refusal::Failed(error)) => {
                    return Err(Error::io("cannot lock", self.path(), error));
                }
                Err(Refusal::Held(obstacle)) => {
                    let left = policy.timeout.saturating_sub(start.elapsed());
                    if left.is_zero() {
                        return Err(held(self, mode, obstacle));
                    }
                    if !std::mem::replace(&mut waits, true) {
                        log::info!("{} is in use: waiting {left:.1?}", self.path().display());
                    }
                    sleep(delay().min(left));
                }
            }
        };
        if state == LockState::default() && mode != LockMode::Shared && policy.required {
            let message = "its file system has no locks";
            return Err(Error::new(ErrorKind::LockUnavailable, message).at_path(self.path()));
        }
        self.remember(state);
        log::debug!("locked {} for {} {state}", self.path().display(), mode.purpose());
        Ok(state)
    }
}

impl fmt::Display for LockState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.ofd, self.flock) {
            (true, true) => "by bytes and flock",
            (true, false) => "by bytes",
            (false, true) => "by flock",
            (false, false) => "without any lock",
        })
    }
}

/// What stands in the way of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// Somebody has a lock on this byte.
    Byte(u32),
    /// Somebody has a `flock`.
    Flock,
}

enum Refusal {
    Held(Obstacle),
    Failed(io::Error),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Refusal::Failed(errno.into())
    }
}

/// Takes all of it or nothing.
fn attempt(storage: &FileStorage, mode: LockMode) -> Result<LockState, Refusal> {
    let everything = LockState { ofd: true, flock: true };
    let ofd = lock_bytes(storage, mode).inspect_err(|_| release(storage, everything))?;
    let by_bytes_alone = mode == LockMode::Shared || sys::on_nfs(storage.file());
    let flock = if by_bytes_alone {
        false
    } else {
        lock_whole(storage, mode).inspect_err(|_| release(storage, everything))?
    };
    Ok(LockState { ofd, flock })
}

/// The permissions that this mode uses, and those that it does not share.
fn permissions(mode: LockMode) -> (&'static [u32], &'static [u32]) {
    match mode {
        LockMode::Reader => (&[READ], &[WRITE, RESIZE]),
        LockMode::Writer => (&[READ, WRITE, RESIZE], &[WRITE, RESIZE]),
        LockMode::Shared => (&[READ], &[]),
    }
}

/// `false` where there are no byte locks to be had.
fn lock_bytes(storage: &FileStorage, mode: LockMode) -> Result<bool, Refusal> {
    let file = storage.file();
    let (uses, keeps) = permissions(mode);
    let (mine, theirs) = (|i| USES + i, |i| KEEPS + i);
    // An exclusive lock can be had only on a descriptor that may write.
    let own = mode == LockMode::Writer && storage.access() == Access::Write;
    let own = own.then_some((OWN, true));
    let bytes = uses.iter().map(mine).chain(keeps.iter().map(theirs)).map(|byte| (byte, false));
    for (byte, exclusive) in own.into_iter().chain(bytes) {
        match sys::lock_byte(file, byte, exclusive) {
            Ok(()) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Err(Refusal::Held(Obstacle::Byte(byte))),
            Err(errno) if is_unavailable(errno) => {
                release(storage, LockState { ofd: true, flock: false });
                return Ok(false);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    // Take first, ask then: of two that start at once, at least one sees the other.
    for byte in uses.iter().map(theirs).chain(keeps.iter().map(mine)) {
        if sys::is_byte_locked(file, byte)? {
            return Err(Refusal::Held(Obstacle::Byte(byte)));
        }
    }
    Ok(true)
}

/// `false` where there is no `flock` to be had.
fn lock_whole(storage: &FileStorage, mode: LockMode) -> Result<bool, Refusal> {
    let file = storage.file();
    let result = if mode == LockMode::Writer { file.try_lock() } else { file.try_lock_shared() };
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Err(Refusal::Held(Obstacle::Flock)),
        Err(TryLockError::Error(error)) => {
            let unavailable = error.raw_os_error().map(Errno::from_raw).is_some_and(is_unavailable);
            if unavailable { Ok(false) } else { Err(Refusal::Failed(error)) }
        }
    }
}

/// What FUSE, 9p, virtiofs, SMB and old kernels answer where they have no such locks.
fn is_unavailable(errno: Errno) -> bool {
    // On some systems two names of one number: no match arm for each.
    let unavailable =
        [Errno::EINVAL, Errno::ENOTSUP, Errno::EOPNOTSUPP, Errno::ENOSYS, Errno::ENOLCK];
    unavailable.contains(&errno)
}

/// Gives back what is held. Failing means that there was nothing to give back.
pub(super) fn release(storage: &FileStorage, state: LockState) {
    if state.flock {
        let _ = storage.file().unlock();
    }
    if state.ofd {
        let _ = sys::unlock_bytes(storage.file(), USES, OWN + 1 - USES);
    }
}

/// The error for a lock that somebody else has. Our own are released by now, so that every lock
/// that the system still lists is another's.
fn held(storage: &FileStorage, mode: LockMode, obstacle: Obstacle) -> Error {
    let holder = storage.id().ok().and_then(|id| holder::find(id, obstacle));
    let by = match obstacle {
        _ if holder.as_ref().is_some_and(|holder| holder.pid == std::process::id()) => {
            "this process has it open already"
        }
        Obstacle::Byte(OWN) => "it is open to be changed, in another process or in this one",
        Obstacle::Byte(byte) => match (byte >= KEEPS, byte % 100) {
            (false, READ) => "somebody reads it",
            (false, WRITE) => "somebody may write to it",
            (false, RESIZE) => "somebody may resize it",
            (true, READ) => "it is in use, by somebody who lets nobody read it",
            (true, WRITE) => "it is in use, by somebody who lets nobody else write to it",
            (true, RESIZE) => "it is in use, by somebody who lets nobody else resize it",
            _ => "somebody has a lock on it",
        },
        Obstacle::Flock => "somebody has a flock on it",
    };
    let message = format!("cannot lock for {}: {by}", mode.purpose());
    Error::new(ErrorKind::Locked, message).at_path(storage.path()).with_holder(holder)
}

/// Between 2 and 18 milliseconds: two that disturbed each other must not meet again.
fn delay() -> Duration {
    let random = RandomState::new().build_hasher().finish();
    Duration::from_micros(2000 + random % 16_000)
}
