//! What Linux does in its own way.

use std::fs::{File, OpenOptions, remove_file};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{
    AT_FDCWD, AtFlags, FallocateFlags, FcntlArg, OFlag, OpenHow, ResolveFlag, copy_file_range,
    fallocate, fcntl, openat, openat2,
};
use nix::libc;
use nix::sys::stat::{Mode, fstatat};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, NFS_SUPER_MAGIC, fstatfs};

/// Opens a file that exists, unless a symbolic link is anywhere in its path (`ELOOP`). Should a pipe
/// be there, its other end is not waited for.
pub(super) fn open_without_links(path: &Path, writable: bool) -> io::Result<File> {
    let access = if writable { OFlag::O_RDWR } else { OFlag::O_RDONLY };
    let flags = access | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_LARGEFILE;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    match retry(|| openat2(AT_FDCWD, path, how)) {
        // Linux before 5.6, and containers that allow no calls which they do not know.
        Err(Errno::ENOSYS | Errno::EPERM) => Ok(open_step_by_step(path, flags)?.into()),
        opened => Ok(opened?.into()),
    }
}

/// As [`open_without_links`], folder by folder.
fn open_step_by_step(path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let step = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let start = if path.has_root() { "/" } else { "." };
    let mut folder = retry(|| openat(AT_FDCWD, start, step, Mode::empty()))?;
    let mut names = path.components().filter(|name| !matches!(name, Component::RootDir)).peekable();
    while let Some(name) = names.next() {
        let name = name.as_os_str();
        if names.peek().is_none() {
            return retry(|| openat(&folder, name, flags | OFlag::O_NOFOLLOW, Mode::empty()));
        }
        let next = retry(|| openat(&folder, name, step | OFlag::O_NOFOLLOW, Mode::empty()));
        folder = next.map_err(|error| {
            let what = fstatat(&folder, name, AtFlags::AT_SYMLINK_NOFOLLOW);
            let is_link = what.is_ok_and(|what| what.st_mode & libc::S_IFMT == libc::S_IFLNK);
            if is_link { Errno::ELOOP } else { error }
        })?;
    }
    Err(Errno::EISDIR)
}

/// Returns when contents and length are on the medium.
pub(super) fn sync_data(file: &File) -> io::Result<()> {
    file.sync_data()
}

/// Has the system begin to write the range to the medium, and does not wait for it. What fails is
/// for the next sync to report.
#[expect(unsafe_code, reason = "no safe call begins a writeback")]
pub(super) fn begin_writeback(file: &File, range: Range<u64>) {
    let (Ok(start), Ok(len)) =
        (i64::try_from(range.start), i64::try_from(range.end.saturating_sub(range.start)))
    else {
        return;
    };
    // SAFETY: the descriptor is open, and the call takes numbers alone.
    unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Returns when contents, length, owner and mode are on the medium; of a folder, its names.
pub(super) fn sync_all(file: &File) -> io::Result<()> {
    file.sync_all()
}

/// Makes the file exactly `len` bytes long.
pub(super) fn set_len(file: &File, len: u64) -> io::Result<()> {
    file.set_len(len)
}

/// Reserves blocks for the range, lengthening the file if it must.
pub(super) fn reserve(file: &File, offset: i64, len: i64) -> io::Result<()> {
    Ok(retry(|| fallocate(file, FallocateFlags::empty(), offset, len))?)
}

/// Gives back the blocks of the range, and tells whether the file system can.
pub(super) fn punch_hole(file: &File, offset: i64, len: i64) -> io::Result<bool> {
    let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match retry(|| fallocate(file, how, offset, len)) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

/// Makes the range read as zeros, lengthening the file if it must, and tells whether the file
/// system can without writing them.
pub(super) fn zero_range(file: &File, offset: i64, len: i64) -> io::Result<bool> {
    match retry(|| fallocate(file, FallocateFlags::FALLOC_FL_ZERO_RANGE, offset, len)) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

/// Whether `copy`, on the same file system, can be made to share the blocks of `file`.
pub(super) fn can_reflink(file: &File, copy: &File) -> bool {
    reflink(file, copy).unwrap_or(false)
}

/// Makes a file at `path`, where none is, that shares the blocks of `source`; none where the file
/// systems cannot.
pub(super) fn clone_to(source: &File, path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    let copy = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
    let shared = reflink(source, &copy);
    if !matches!(shared, Ok(true)) {
        let _ = remove_file(path);
    }
    Ok(shared?.then_some(copy))
}

/// Makes `copy` share the blocks of `file`, and tells whether the file systems can.
#[expect(unsafe_code, reason = "no safe call clones a file")]
fn reflink(file: &File, copy: &File) -> io::Result<bool> {
    // SAFETY: both descriptors are open, and the call takes nothing else.
    match retry(|| unsafe { clone::file(copy.as_raw_fd(), file.as_raw_fd()) }) {
        // Two file systems, one that does not know how, files of two kinds, a container's rules.
        Err(
            Errno::EXDEV
            | Errno::EOPNOTSUPP
            | Errno::ENOTTY
            | Errno::EINVAL
            | Errno::EPERM
            | Errno::ENOSYS,
        ) => Ok(false),
        result => Ok(result.map(|_| true)?),
    }
}

/// Copies a range to the same place in another file, and tells how much of it; nothing where the
/// file systems cannot.
pub(super) fn copy_range(from: &File, to: &File, offset: i64, len: usize) -> io::Result<u64> {
    let (mut start, mut place) = (offset, offset);
    match retry(|| copy_file_range(from, Some(&mut start), to, Some(&mut place), len)) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EXDEV | Errno::EINVAL | Errno::EPERM) => {
            Ok(0)
        }
        copied => Ok(copied? as u64),
    }
}

/// `FICLONE` of ioctl_ficlone(2).
mod clone {
    use nix::libc::c_int;

    nix::ioctl_write_int_bad!(file, nix::request_code_write!(0x94, 9, size_of::<c_int>()));
}

/// The length of a block device in bytes.
pub(super) fn device_len(mut file: &File) -> io::Result<u64> {
    io::Seek::seek(&mut file, io::SeekFrom::End(0))
}

/// Whether the locks of this file go to an NFS server, where a `flock` is a byte lock over the
/// whole file and would collide with QEMU's bytes.
pub(super) fn on_nfs(file: &File) -> bool {
    fstatfs(file).is_ok_and(|fs| fs.filesystem_type() == NFS_SUPER_MAGIC)
}

/// `FS_NOCOW_FL` of <linux/fs.h>.
const NOCOW: libc::c_int = 0x0080_0000;

/// Asks btrfs not to copy this file on every write. Works only before anything is written.
pub(super) fn set_nocow(file: &File) -> io::Result<bool> {
    if fstatfs(file)?.filesystem_type() != BTRFS_SUPER_MAGIC {
        return Ok(false);
    }
    let Ok(flags) = attributes::get(file) else { return Ok(false) };
    if attributes::set(file, flags | NOCOW).is_err() {
        return Ok(false);
    }
    // The kernel ignores the flag without a word when the file holds data.
    Ok(attributes::get(file).is_ok_and(|flags| flags & NOCOW != 0))
}

/// The inode flags of ioctl_iflags(2). Their numbers are made from `long`, but what is passed
/// is an `int`.
mod attributes {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use nix::libc::{c_int, c_long};

    nix::ioctl_read_bad!(get_flags, nix::request_code_read!(b'f', 1, size_of::<c_long>()), c_int);
    nix::ioctl_write_ptr_bad!(
        set_flags,
        nix::request_code_write!(b'f', 2, size_of::<c_long>()),
        c_int
    );

    #[expect(unsafe_code, reason = "no safe call reads inode flags")]
    pub(super) fn get(file: &File) -> nix::Result<c_int> {
        let mut flags = 0;
        // SAFETY: the descriptor is open, and the kernel writes one int to a live int.
        unsafe { get_flags(file.as_raw_fd(), &raw mut flags) }?;
        Ok(flags)
    }

    #[expect(unsafe_code, reason = "no safe call writes inode flags")]
    pub(super) fn set(file: &File, flags: c_int) -> nix::Result<()> {
        // SAFETY: the descriptor is open, and the kernel reads one int from a live int.
        unsafe { set_flags(file.as_raw_fd(), &raw const flags) }?;
        Ok(())
    }
}

/// Locks one byte for the open file description: shared, or exclusive.
pub(super) fn lock_byte(file: &File, byte: u32, exclusive: bool) -> nix::Result<()> {
    let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(kind, byte, 1))).map(drop)
}

/// Releases what the open file description holds of these bytes.
pub(super) fn unlock_bytes(file: &File, first: u32, len: u32) -> nix::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_UNLCK, first, len))).map(drop)
}

/// Whether another open file description holds any lock on this byte.
pub(super) fn is_byte_locked(file: &File, byte: u32) -> nix::Result<bool> {
    let mut wanted = range(libc::F_WRLCK, byte, 1);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut wanted))?;
    Ok(i32::from(wanted.l_type) != libc::F_UNLCK)
}

fn range(kind: libc::c_int, first: u32, len: u32) -> libc::flock {
    libc::flock {
        // OK: these constants are 0, 1 and 2.
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: first.into(),
        l_len: len.into(),
        // Required to be 0 for locks of open file descriptions.
        l_pid: 0,
    }
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// The old kernel's way refuses what the new one's does.
    #[test]
    fn both_ways_to_open_follow_no_link() {
        let dir = tempfile::TempDir::new().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("in")).unwrap();
        fs::write(root.join("in/file"), "x").unwrap();
        symlink("in", root.join("folder")).unwrap();
        symlink("file", root.join("in/link")).unwrap();
        let ways = |name: &str| {
            let path = root.join(name);
            let stepwise = open_step_by_step(&path, OFlag::O_RDWR | OFlag::O_CLOEXEC);
            let opened = open_without_links(&path, true).map(|_| ());
            [stepwise.map(|_| ()).err(), opened.err().map(|e| Errno::try_from(e).unwrap())]
        };
        for (name, refused) in [
            ("in/file", None),
            ("in/link", Some(Errno::ELOOP)),
            ("folder/file", Some(Errno::ELOOP)),
            ("in/missing", Some(Errno::ENOENT)),
            ("missing/file", Some(Errno::ENOENT)),
            ("in/file/file", Some(Errno::ENOTDIR)),
        ] {
            assert_eq!(ways(name), [refused; 2], "{name}");
        }
    }
}
