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
    /// The kind of what `path` leads to, through symbolic links, which is not opened.
    ///
    /// # Errors
    /// [`ErrorKind::NotADisk`] for anything else, and what stat(2) says.
    pub fn of(path: &Path) -> Result<Self> {
        let metadata = path.metadata().map_err(|error| Error::io("cannot look at", path, error))?;
        Self::of_disk(&metadata, path)
    }

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

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileId {
    /// A file, by what holds it.
    Inode {
        /// The device that holds the file.
        device: u64,
        /// Its inode there.
        inode: u64,
    },
    /// A block device, by its own number: any number of nodes lead to it.
    BlockDevice(u64),
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
        let is_device = metadata.file_type().is_block_device();
        Self::from_stat(is_device, metadata.dev(), metadata.ino(), metadata.rdev())
    }

    /// From what stat(2) says: `st_dev`, `st_ino` and `st_rdev`.
    fn from_stat(is_block_device: bool, device: u64, inode: u64, number: u64) -> Self {
        match is_block_device {
            true => FileId::BlockDevice(number),
            false => FileId::Inode { device, inode },
        }
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
    /// Which file it is.
    pub id: FileId,
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
            id: FileId::new(metadata),
            links: metadata.nlink(),
            mode: metadata.mode() & 0o7777,
            user: metadata.uid(),
            group: metadata.gid(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FileId;

    #[test]
    fn a_device_is_one_file_whatever_its_node() {
        let node = FileId::from_stat(true, 5, 300, 0x0801);
        assert_eq!(node, FileId::from_stat(true, 64, 7, 0x0801));
        assert_ne!(node, FileId::from_stat(true, 5, 300, 0x0802));
        // What lies on the device, and what lies beside the node.
        assert_ne!(node, FileId::from_stat(false, 0x0801, 300, 0));
        assert_ne!(node, FileId::from_stat(false, 5, 300, 0));
        let file = FileId::from_stat(false, 0x0801, 12, 0);
        assert_eq!(file, FileId::from_stat(false, 0x0801, 12, 0));
        assert_ne!(file, FileId::from_stat(false, 0x0801, 13, 0));
        assert_ne!(file, FileId::from_stat(false, 0x0802, 12, 0));
    }
}
