//! [`FileStorage`]: a regular file or a block device as [`Storage`], opened with suspicion.

mod holes;
mod info;
mod input;
#[cfg(any(test, target_os = "macos"))]
mod steps;
mod stream;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use nix::errno::Errno;

pub use info::{FileId, FileInfo, FileKind};
pub use input::read_small_file;
#[cfg(target_os = "macos")]
pub(super) use steps::set_len_in_steps;

use stream::Stream;

use crate::error::{Case, Error, ErrorKind, Result};
use crate::host::lock::{LockState, release};
use crate::host::storage::{Allocation, Run, Storage, refuse_read_only};
use crate::host::sys;

/// What an open file may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading alone.
    Read,
    /// Reading and writing.
    Write,
}

/// A regular file or a block device, open. Its locks live as long as it does.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    path: PathBuf,
    access: Access,
    kind: FileKind,
    locks: OnceLock<LockState>,
    stream: Stream,
}

/// The path without symbolic links, `.` and `..`: what [`FileStorage::open`] expects.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::Permission`] or [`ErrorKind::Io`];
/// [`ErrorKind::BadRequest`] for an empty path.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    refuse_empty(path)?;
    path.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::io("does not exist", path, error).in_case(Case::Absent),
        _ => Error::io("cannot find", path, error),
    })
}

/// Refuses the path that names nothing, and that no message could show.
pub(super) fn refuse_empty(path: &Path) -> Result<()> {
    match path.as_os_str().is_empty() {
        true => Err(Error::new(ErrorKind::BadRequest, "a path is empty")),
        false => Ok(()),
    }
}

impl FileStorage {
    /// Opens a file that exists. No symbolic link is followed anywhere in `path`: [`resolve`] it
    /// first, so that what was checked is what gets opened.
    ///
    /// # Errors
    /// [`ErrorKind::NotADisk`] for anything but a regular file or a block device, and for a path
    /// through a symbolic link; what open(2) says.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let what = match access {
            Access::Read => "cannot open",
            Access::Write => "cannot open to write",
        };
        let failed = |error| Error::io(what, path, error);
        // Asked before opening, because opening a device may set something going.
        let before = path.symlink_metadata().map_err(failed)?;
        FileKind::of_disk(&before, path)?;
        let file = sys::open_without_links(path, access == Access::Write).map_err(|error| {
            if error.raw_os_error() == Some(Errno::ELOOP as i32) {
                let message = "leads through a symbolic link, which is not followed";
                return Error::new(ErrorKind::NotADisk, message).at_path(path);
            }
            failed(error)
        })?;
        let how = if access == Access::Write { "be written" } else { "be read" };
        log::debug!("opened {} to {how}", path.display());
        Self::from_file(file, path.to_owned(), access)
    }

    /// Takes over a file that is open already.
    pub(super) fn from_file(file: File, path: PathBuf, access: Access) -> Result<Self> {
        let metadata =
            file.metadata().map_err(|error| Error::io("cannot look at", &path, error))?;
        let kind = FileKind::of_disk(&metadata, &path)?;
        Ok(FileStorage {
            file,
            path,
            access,
            kind,
            locks: OnceLock::new(),
            stream: Stream::default(),
        })
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it may be used for.
    pub fn access(&self) -> Access {
        self.access
    }

    /// The locks that are held on it.
    pub fn lock_state(&self) -> LockState {
        self.locks.get().copied().unwrap_or_default()
    }

    /// What the system knows about it now.
    ///
    /// # Errors
    /// What fstat(2) says.
    pub fn info(&self) -> Result<FileInfo> {
        let metadata = self.file.metadata().map_err(|error| self.io("cannot look at", error))?;
        Ok(FileInfo::new(&metadata, self.kind, self.len()?))
    }

    /// Which file it is, whatever its name.
    ///
    /// # Errors
    /// What fstat(2) says.
    pub fn id(&self) -> Result<FileId> {
        let metadata = self.file.metadata().map_err(|error| self.io("cannot look at", error))?;
        Ok(FileId::new(&metadata))
    }

    /// Asks btrfs not to copy this file on every write (`FS_NOCOW_FL`), which disks suffer from.
    /// Works only before anything is written. `false` where the file system is another one or
    /// refuses.
    ///
    /// # Errors
    /// What fstatfs(2) says.
    pub fn set_nocow(&self) -> Result<bool> {
        sys::set_nocow(&self.file).map_err(|error| self.io("cannot change attributes", error))
    }

    /// Has the system copy a range to the same place in `to`, as far as it can: how much of it, in
    /// bytes. Nothing where it cannot.
    ///
    /// # Errors
    /// What copy_file_range(2) says.
    pub fn copy_range_to(&self, to: &FileStorage, offset: u64, len: u64) -> Result<u64> {
        to.require_writable(offset)?;
        let (start, _) = self.range(offset, len)?;
        // OK to cut: the rest is asked for next.
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let copied = sys::copy_range(&self.file, &to.file, start, len);
        copied.map_err(|error| to.io("cannot copy into", error).at_offset(offset))
    }

    /// The same file once more, to be read, without locks of its own.
    ///
    /// # Errors
    /// What dup(2) says.
    pub fn reader(&self) -> Result<FileStorage> {
        let file = self.file.try_clone().map_err(|error| self.io("cannot open again", error))?;
        Self::from_file(file, self.path.clone(), Access::Read)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Remembers what is held, once it is.
    pub(super) fn remember(&self, state: LockState) {
        self.locks.get_or_init(|| state);
    }

    fn io(&self, doing: &str, source: io::Error) -> Error {
        Error::io(doing, &self.path, source)
    }

    /// The system has another error for each of the calls.
    fn require_writable(&self, offset: u64) -> Result<()> {
        refuse_read_only(self).map_err(|error| error.at_path(&self.path).at_offset(offset))
    }

    /// The range as the system takes it: signed 64 bits.
    fn range(&self, offset: u64, len: u64) -> Result<(i64, i64)> {
        let end = offset.checked_add(len).filter(|&end| i64::try_from(end).is_ok());
        match (end, i64::try_from(offset), i64::try_from(len)) {
            (Some(_), Ok(offset), Ok(len)) => Ok((offset, len)),
            _ => {
                let message = format!("{len} bytes reach beyond the largest file, 2^63 - 1 bytes");
                Err(Error::new(ErrorKind::NoSpace, message).at_path(&self.path).at_offset(offset))
            }
        }
    }

    /// Room on a block device is there or is not; nothing can be added.
    fn require_inside(&self, offset: u64, len: u64) -> Result<()> {
        let present = self.len()?;
        if offset.checked_add(len).is_some_and(|end| end <= present) {
            return Ok(());
        }
        let message = format!("{len} bytes do not fit on a block device of {present} bytes");
        Err(Error::new(ErrorKind::NoSpace, message).at_path(&self.path).at_offset(offset))
    }

    fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        let (start, count) = self.range(offset, len)?;
        sys::reserve(&self.file, start, count).map_err(|error| {
            let error_number = error.raw_os_error().map(Errno::from_raw);
            // On some systems two names of one number: no match arm for each.
            let unsupported = [Errno::EOPNOTSUPP, Errno::ENOTSUP, Errno::ENOSYS];
            if error_number.is_some_and(|number| unsupported.contains(&number)) {
                let message = "the file system cannot reserve this range without writing to it";
                let error = Error::new(ErrorKind::UnsupportedFeature, message).with_source(error);
                return error.at_path(&self.path).at_offset(offset);
            }
            self.io("cannot reserve room", error).at_offset(offset)
        })
    }

    fn write_zeros(&self, mut offset: u64, mut len: u64) -> Result<()> {
        // OK, both times: the smaller of the two fits a usize.
        let zeros = vec![0; len.min(1 << 20) as usize];
        while len > 0 {
            let piece = len.min(zeros.len() as u64);
            self.write_at(offset, &zeros[..piece as usize])?;
            offset += piece;
            len -= piece;
        }
        Ok(())
    }
}

impl Storage for FileStorage {
    fn len(&self) -> Result<u64> {
        let len = match self.kind {
            FileKind::Regular => self.file.metadata().map(|metadata| metadata.len()),
            FileKind::BlockDevice => sys::device_len(&self.file),
        };
        len.map_err(|error| self.io("cannot find the length of", error))
    }

    fn can_grow(&self) -> bool {
        self.kind == FileKind::Regular
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        // No file reaches beyond what a signed offset can address. OK: a usize always fits.
        let within = (i64::MAX as u64).saturating_sub(offset).min(buf.len() as u64);
        let buf = &mut buf[..within as usize];
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            match self.file.read_at(&mut buf[done..], at) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.io("cannot read", error).at_offset(at)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.require_writable(offset)?;
        // OK: a usize always fits.
        self.range(offset, data.len() as u64)?;
        let written = self.file.write_all_at(data, offset);
        written.map_err(|error| self.io("cannot write", error).at_offset(offset))?;
        if let Some(full) = self.stream.wrote(offset, data.len() as u64) {
            sys::begin_writeback(&self.file, full);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        refuse_read_only(self).map_err(|error| error.at_path(&self.path))?;
        self.range(0, len)?;
        if self.kind == FileKind::BlockDevice {
            let present = self.len()?;
            if len == present {
                return Ok(());
            }
            let message = format!("a block device of {present} bytes cannot become {len} bytes");
            return Err(Error::new(ErrorKind::UnsupportedFeature, message).at_path(&self.path));
        }
        sys::set_len(&self.file, len)
            .map_err(|error| self.io("cannot change the length", error))?;
        log::debug!("{} has {len} bytes now", self.path.display());
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64, how: Allocation) -> Result<()> {
        self.require_writable(offset)?;
        match how {
            _ if len == 0 => Ok(()),
            Allocation::Zeros => self.write_zeros(offset, len),
            Allocation::Reserve if self.kind == FileKind::BlockDevice => {
                self.require_inside(offset, len)
            }
            Allocation::Reserve => self.reserve(offset, len),
        }
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Result<()> {
        /// No device has larger logical blocks, and devices take whole ones alone.
        const DEVICE_BLOCK: u64 = 4096;
        self.require_writable(offset)?;
        let (mut start, mut end) = (offset, offset.saturating_add(len));
        if self.kind == FileKind::BlockDevice {
            start = start.checked_next_multiple_of(DEVICE_BLOCK).unwrap_or(u64::MAX);
            end = end / DEVICE_BLOCK * DEVICE_BLOCK;
        }
        if start >= end {
            return Ok(());
        }
        let (start, len) = self.range(start, end - start)?;
        let is_hole = sys::punch_hole(&self.file, start, len)
            .map_err(|error| self.io("cannot punch a hole in", error).at_offset(offset))?;
        let what = if is_hole { "punched a hole into" } else { "no hole can be punched into" };
        log::trace!("{what} {}: {len} bytes at {start}", self.path.display());
        Ok(())
    }

    fn zero_range(&self, offset: u64, len: u64) -> Result<()> {
        self.require_writable(offset)?;
        if len == 0 {
            return Ok(());
        }
        let (start, count) = self.range(offset, len)?;
        if self.kind == FileKind::Regular
            && sys::zero_range(&self.file, start, count)
                .map_err(|error| self.io("cannot zero", error).at_offset(offset))?
        {
            return Ok(());
        }
        self.write_zeros(offset, len)
    }

    fn sync(&self) -> Result<()> {
        let begun = Instant::now();
        sys::sync_data(&self.file).map_err(|error| self.io("cannot sync", error))?;
        log::debug!("synced {} in {:.1?}", self.path.display(), begun.elapsed());
        Ok(())
    }

    fn run(&self, offset: u64, end: u64) -> Result<Run> {
        let run = match self.kind {
            FileKind::Regular => holes::run(&self.file, offset, end),
            FileKind::BlockDevice => Ok(Run { is_hole: false, end }),
        };
        run.map_err(|error| self.io("cannot look for holes in", error.into()).at_offset(offset))
    }

    fn is_read_only(&self) -> bool {
        self.access == Access::Read
    }
}

impl Drop for FileStorage {
    fn drop(&mut self) {
        // Closing alone is not enough: a child between fork and exec shares the locks until then.
        release(self, self.lock_state());
    }
}
