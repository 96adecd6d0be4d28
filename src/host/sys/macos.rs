//! What macOS does in its own way: the same functions as `linux.rs`.

use std::ffi::CString;
use std::fs::{File, OpenOptions, remove_file};
use std::io;
use std::os::fd::AsRawFd;
use std::os::macos::fs::MetadataExt as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, fcntl};
use nix::libc;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::sys::statfs::fstatfs;

use crate::host::file::set_len_in_steps;

/// Opens a file that exists, unless a symbolic link is anywhere in its path (`ELOOP`). Should a pipe
/// be there, its other end is not waited for.
pub(super) fn open_without_links(path: &Path, writable: bool) -> io::Result<File> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOFOLLOW_ANY;
    OpenOptions::new().read(true).write(writable).custom_flags(flags).open(path)
}

/// Returns when contents and length are on the medium: a plain fsync leaves them in the drive's
/// cache here.
pub(super) fn sync_data(file: &File) -> io::Result<()> {
    match retry(|| fcntl(file, FcntlArg::F_FULLFSYNC)) {
        // Network and foreign file systems know only the plain one.
        Err(Errno::ENOTSUP | Errno::ENOTTY | Errno::EINVAL) => {
            Ok(retry(|| nix::unistd::fsync(file))?)
        }
        result => Ok(result.map(drop)?),
    }
}

/// Returns when contents, length, owner and mode are on the medium; of a folder, its names.
pub(super) fn sync_all(file: &File) -> io::Result<()> {
    sync_data(file)
}

/// Makes the file exactly `len` bytes long, in steps where APFS refuses a large hole in one.
pub(super) fn set_len(file: &File, len: u64) -> io::Result<()> {
    set_len_in_steps(file.metadata()?.len(), len, |len| file.set_len(len))
}

/// Reserves blocks behind the end of the file and lengthens it. Holes before the end cannot be
/// reserved here.
pub(super) fn reserve(file: &File, offset: i64, len: i64) -> io::Result<()> {
    let present = i64::try_from(file.metadata()?.len()).map_err(|_| Errno::EFBIG)?;
    let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
    if offset < present {
        return Err(Errno::ENOTSUP.into());
    }
    let mut wanted = libc::fstore_t {
        fst_flags: libc::F_ALLOCATEALL,
        fst_posmode: libc::F_PEOFPOSMODE,
        fst_offset: 0,
        fst_length: end - present,
        fst_bytesalloc: 0,
    };
    retry(|| fcntl(file, FcntlArg::F_PREALLOCATE(&mut wanted)))?;
    file.set_len(end.unsigned_abs()).inspect_err(|_| {
        // Blocks behind the end are given back with it.
        let _ = file.set_len(present.unsigned_abs());
    })
}

/// Gives back the whole blocks inside the range, and tells whether the file system can.
pub(super) fn punch_hole(file: &File, offset: i64, len: i64) -> io::Result<bool> {
    let metadata = file.metadata()?;
    let block = metadata.blksize().max(1);
    let end = offset.saturating_add(len).unsigned_abs().min(metadata.len()) / block * block;
    let start = offset.unsigned_abs().next_multiple_of(block);
    if start >= end {
        return Ok(true);
    }
    match retry(|| punch_blocks(file, start, end - start)) {
        // What cannot be given back stays: the caller is told so in the trait's words.
        Err(Errno::ENOTSUP | Errno::EINVAL | Errno::ENOTTY) => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

/// There is no such call: the system begins when it likes.
pub(super) fn begin_writeback(_: &File, _: std::ops::Range<u64>) {}

/// There is no such call: zeros are written.
pub(super) fn zero_range(_: &File, _: i64, _: i64) -> io::Result<bool> {
    Ok(false)
}

/// Whether a file there can be made to share the blocks of another: APFS alone can.
pub(super) fn can_reflink(file: &File, _: &File) -> bool {
    fstatfs(file).is_ok_and(|fs| fs.filesystem_type_name() == "apfs")
}

/// Makes a file at `path`, where none is, that shares the blocks of `source`; none where the file
/// systems cannot.
pub(super) fn clone_to(source: &File, path: &Path) -> io::Result<Option<File>> {
    const FIXED: u32 = libc::UF_IMMUTABLE | libc::UF_APPEND | libc::SF_IMMUTABLE | libc::SF_APPEND;
    // A clone has the flags of its source: this one could be neither written to nor removed.
    if source.metadata()?.st_flags() & FIXED != 0 {
        return Ok(None);
    }
    match retry(|| clone_file(source, path)) {
        // Two file systems, one that does not know how, a file of another kind.
        Err(Errno::EXDEV | Errno::ENOTSUP | Errno::EINVAL | Errno::ENOTTY) => return Ok(None),
        made => made?,
    }
    match open_clone(path) {
        // A cleaner took it for what a dead run left behind: another name may do.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(io::ErrorKind::AlreadyExists.into())
        }
        Err(error) => {
            let _ = remove_file(path);
            Err(error)
        }
        opened => opened.map(Some),
    }
}

/// Opens what was cloned. It has the mode of its source, which may let too many in, or nobody.
fn open_clone(path: &Path) -> io::Result<File> {
    let private = Mode::S_IRUSR | Mode::S_IWUSR;
    fchmodat(AT_FDCWD, path, private, FchmodatFlags::NoFollowSymlink)?;
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// clonefile(2), to a file that belongs to whoever runs the program.
#[expect(unsafe_code, reason = "no safe call clones a file")]
fn clone_file(source: &File, path: &Path) -> nix::Result<()> {
    /// `CLONE_NOOWNERCOPY` of <sys/clonefile.h>.
    const NO_OWNER: u32 = 2;
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the descriptor is open, and the path is a string that ends with a zero and lives on.
    let result =
        unsafe { libc::fclonefileat(source.as_raw_fd(), libc::AT_FDCWD, path.as_ptr(), NO_OWNER) };
    Errno::result(result).map(drop)
}

/// The system does not copy ranges.
pub(super) fn copy_range(_: &File, _: &File, _: i64, _: usize) -> io::Result<u64> {
    Ok(0)
}

#[expect(unsafe_code, reason = "nix does not know F_PUNCHHOLE")]
fn punch_blocks(file: &File, offset: u64, len: u64) -> nix::Result<()> {
    let hole = libc::fpunchhole_t {
        fp_flags: 0,
        reserved: 0,
        fp_offset: i64::try_from(offset).map_err(|_| Errno::EFBIG)?,
        fp_length: i64::try_from(len).map_err(|_| Errno::EFBIG)?,
    };
    // SAFETY: the descriptor is open, and the kernel reads one fpunchhole_t from a live one.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_PUNCHHOLE, &raw const hole) };
    Errno::result(result).map(drop)
}

/// The length of a block device in bytes: seeking tells nothing here.
pub(super) fn device_len(file: &File) -> io::Result<u64> {
    let (block, count) = device::geometry(file)?;
    count.checked_mul(block.into()).ok_or_else(|| Errno::EFBIG.into())
}

/// The questions of <sys/disk.h>.
mod device {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    nix::ioctl_read!(block_size, b'd', 24, u32);
    nix::ioctl_read!(block_count, b'd', 25, u64);

    /// Bytes a block, and the number of blocks.
    #[expect(unsafe_code, reason = "no safe call asks a device for its length")]
    pub(super) fn geometry(file: &File) -> nix::Result<(u32, u64)> {
        let (mut size, mut count) = (0, 0);
        // SAFETY: the descriptor is open, and the kernel writes one u32 to a live u32.
        unsafe { block_size(file.as_raw_fd(), &raw mut size) }?;
        // SAFETY: likewise, one u64 to a live u64.
        unsafe { block_count(file.as_raw_fd(), &raw mut count) }?;
        Ok((size, count))
    }
}

/// Whether byte locks alone are to be used: never, since they are not used here at all.
pub(super) fn on_nfs(_: &File) -> bool {
    false
}

/// Asks the file system not to copy this file on every write: nothing to ask here.
pub(super) fn set_nocow(_: &File) -> io::Result<bool> {
    Ok(false)
}

/// Byte locks of open file descriptions are public only since the macOS 14 SDK, and exclude
/// `flock` there: `flock` alone is used, which excludes them too.
pub(super) fn lock_byte(_: &File, _: u32, _: bool) -> nix::Result<()> {
    Err(Errno::ENOTSUP)
}

/// See [`lock_byte`].
pub(super) fn unlock_bytes(_: &File, _: u32, _: u32) -> nix::Result<()> {
    Ok(())
}

/// See [`lock_byte`].
pub(super) fn is_byte_locked(_: &File, _: u32) -> nix::Result<bool> {
    Ok(false)
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}
