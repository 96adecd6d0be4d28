//! What the system knows about a file.

use std::fs::{FileType, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// What can hold a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A block device.
    BlockDevice,
}

impl FileKind {
    /// The kind, or an error that names what it is instead.
    pub(super) fn of_disk(metadata: &Metadata, path: &Path) -> Result<Self> {
        let kind = metadata.file_type();
        if kind.is_file() {
            return Ok(FileKind::Regular);
        }
        if kind.is_block_device() {
            return Ok(FileKind::BlockDevice);
        }
        let what = describe(kind);
        let message = format!("is {what}: a disk is a regular file or a block device");
        Err(Error::new(ErrorKind::NotADisk, message).at_path(path))
    }
}

/// A file type in words, with its article.
pub(super) fn describe(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_file() => "a regular file",
        kind if kind.is_dir() => "a folder",
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_block_device() => "a block device",
        _ => "of an unknown kind",
    }
}

/// Which file it is, whatever its name: stat(2)'s device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The device that holds the file.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
}

impl FileId {
    /// The file that `path` leads to, through symbolic links.
    ///
    /// # Errors
    /// What stat(2) says.
    pub fn of(path: &Path) -> Result<Self> {
        let metadata = path.metadata().map_err(|error| Error::io("cannot look at", path, error))?;
        Ok(FileId::new(&metadata))
    }

    pub(in crate::host) fn new(metadata: &Metadata) -> Self {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// What the system knows about an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileInfo {
    /// A regular file or a block device.
    pub kind: FileKind,
    /// Its length in bytes.
    pub len: u64,
    /// The bytes that it occupies on its file system; 0 for a block device.
    pub allocated_bytes: u64,
    /// The device that holds it.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
    /// How many names it has.
    pub links: u64,
    /// Its permission bits (`0o7777` at most).
    pub mode: u32,
    /// Its owner's number.
    pub user: u32,
    /// Its group's number.
    pub group: u32,
}

impl FileInfo {
    pub(super) fn new(metadata: &Metadata, kind: FileKind, len: u64) -> Self {
        FileInfo {
            kind,
            len,
            // stat(2) counts in units of 512 bytes, whatever the file system's blocks.
            allocated_bytes: metadata.blocks().saturating_mul(512),
            device: metadata.dev(),
            inode: metadata.ino(),
            links: metadata.nlink(),
            mode: metadata.mode() & 0o7777,
            user: metadata.uid(),
            group: metadata.gid(),
        }
    }

    /// Which file it is.
    pub fn id(&self) -> FileId {
        FileId { device: self.device, inode: self.inode }
    }
}
