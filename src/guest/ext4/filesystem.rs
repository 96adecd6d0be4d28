//! What a filesystem says of itself, from its superblock alone.

use std::fmt;

use super::features::{generation, incompat, ro_compat};
use super::geometry::{Geometry, block_bytes};
use super::growth::{Growth, plan};
use super::refusal::{Refusal, Stop};
use super::superblock::{RawSuperblock, STATE_ERRORS, STATE_ORPHANS, STATE_REPLAY, STATE_VALID};
use crate::block::BlockDevice;
use crate::error::Result;
use crate::guest::FilesystemKind;

/// What a partition has in the way of such a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// None.
    Nothing,
    /// One whose superblock can be read. It may still be one that must not grow: see
    /// [`Filesystem::refusal`].
    Filesystem(Box<Filesystem>),
    /// Something that says it is one, and cannot be believed.
    Refused(Refusal),
}

/// What a filesystem is told from all others by. It is written in lower case, as `blkid` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// A filesystem whose superblock was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    raw: Box<RawSuperblock>,
    block_bytes: u64,
    /// Why it may not grow as it is, whatever there is to gain.
    refusal: Option<Refusal>,
    /// What a growth begins with, or why there can be none.
    geometry: Result<Geometry, Refusal>,
}

impl Filesystem {
    /// Reads the superblock of a partition, or of a disk without partitions: 1 KiB.
    ///
    /// # Errors
    /// Whatever reading the device says. What is wrong with the filesystem is no error.
    pub fn read(device: &dyn BlockDevice) -> Result<Reading> {
        let Some(raw) = RawSuperblock::read(device)? else { return Ok(Reading::Nothing) };
        Ok(match Filesystem::parse(raw, device.size()) {
            Ok(filesystem) => Reading::Filesystem(Box::new(filesystem)),
            Err(refusal) => Reading::Refused(refusal),
        })
    }

    fn parse(raw: Box<RawSuperblock>, device_bytes: u64) -> Result<Filesystem, Refusal> {
        let features = raw.features();
        let revision = raw.rev_level.get();
        if revision != 1 {
            return Err(Refusal::Revision { revision });
        }
        if features.incompatible(incompat::JOURNAL_DEV) {
            return Err(Refusal::JournalDevice);
        }
        let sealed = features.read_compatible(ro_compat::METADATA_CSUM);
        // `EXT2_CRC32C_CHKSUM` is the only one that there is.
        if sealed && raw.checksum_type != 1 {
            return Err(Refusal::Damaged("the kind of its checksums"));
        }
        if !raw.is_sealed() {
            return Err(Refusal::SuperblockChecksum);
        }
        let block_bytes = block_bytes(&raw).ok_or(Refusal::Damaged("the size of its blocks"))?;
        let size_bytes = raw.blocks().checked_mul(block_bytes);
        let size_bytes = size_bytes.filter(|size_bytes| *size_bytes > 0);
        let size_bytes = size_bytes.ok_or(Refusal::Damaged("the number of its blocks"))?;
        let refusal = features.refusal().or_else(|| unclean(&raw));
        let geometry = match Geometry::parse(&raw) {
            Ok(_) if size_bytes > device_bytes => {
                Err(Refusal::BeyondDevice { size_bytes, device_bytes })
            }
            Err(Refusal::Damaged(what)) if refusal.is_none() => {
                return Err(Refusal::Damaged(what));
            }
            other => other,
        };
        Ok(Filesystem { raw, block_bytes, refusal, geometry })
    }

    /// The first of ext2, ext3 and ext4 that has all of its features.
    pub fn kind(&self) -> FilesystemKind {
        let features = self.raw.features();
        generation(features.compat, features.incompat, features.ro_compat)
    }

    /// Its label, where it has one. Bytes that are no printable UTF-8 are written as `\x` and two
    /// digits, a backslash as two.
    pub fn label(&self) -> Option<String> {
        let bytes = self.raw.volume_name.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut label = String::new();
        for chunk in bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\\' => label.push_str("\\\\"),
                    _ if character.is_control() => {
                        let mut buffer = [0; 4];
                        escape(&mut label, character.encode_utf8(&mut buffer).as_bytes());
                    }
                    _ => label.push(character),
                }
            }
            escape(&mut label, chunk.invalid());
        }
        (!label.is_empty()).then_some(label)
    }

    /// Its UUID.
    pub fn uuid(&self) -> Uuid {
        Uuid(self.raw.uuid)
    }

    /// The size of a block, in bytes.
    pub fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// Its size, in bytes. The partition may be larger.
    pub fn size_bytes(&self) -> u64 {
        self.raw.blocks().saturating_mul(self.block_bytes)
    }

    /// How much of it is free, in bytes, as of the last time that it was unmounted; what only root
    /// gets is a part of that.
    pub fn free_bytes(&self) -> u64 {
        self.raw.free_blocks().saturating_mul(self.block_bytes).min(self.size_bytes())
    }

    /// How much of it is used, in bytes: by files, and by the filesystem itself.
    pub fn used_bytes(&self) -> u64 {
        self.size_bytes().saturating_sub(self.free_bytes())
    }

    /// How many files and folders it can have.
    pub fn inodes(&self) -> u32 {
        self.raw.inodes_count.get()
    }

    /// How many more it can have.
    pub fn free_inodes(&self) -> u32 {
        self.raw.free_inodes_count.get().min(self.inodes())
    }

    /// Whether it was unmounted, and no errors were found in it before.
    pub fn is_clean(&self) -> bool {
        let recovers = self.raw.features().incompatible(incompat::RECOVER);
        !recovers && unclean(&self.raw).is_none()
    }

    /// Why it may not grow, whatever the growth, as far as the superblock tells.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref().or(self.geometry.as_ref().err())
    }

    /// The size that it would get in a partition of `len_bytes`, in bytes. It is the present size
    /// where there is nothing to gain, even if it may not grow: that of a machine which was not shut
    /// down cleanly, for one.
    ///
    /// # Errors
    /// Why it may not grow so far, or at all.
    pub fn grown_size_bytes(&self, len_bytes: u64) -> Result<u64, Refusal> {
        let geometry = self.geometry.as_ref();
        let geometry = geometry.map_err(|why| self.refusal.as_ref().unwrap_or(why).clone())?;
        let grown = geometry.grown(len_bytes)?.bytes();
        match &self.refusal {
            Some(refusal) if grown > self.size_bytes() => Err(refusal.clone()),
            _ => Ok(grown),
        }
    }

    /// What all that looks further begins with, or why it may not.
    pub(super) fn readable(&self) -> Result<(&RawSuperblock, &Geometry), Refusal> {
        match (&self.refusal, &self.geometry) {
            (Some(refusal), _) | (None, Err(refusal)) => Err(refusal.clone()),
            (None, Ok(geometry)) => Ok((&self.raw, geometry)),
        }
    }

    /// Plans to make it fill `len_bytes`. `device` begins with the filesystem, and shows the disk as
    /// it is now: it may end anywhere behind the filesystem, before or behind `len_bytes`. What is
    /// behind its end is going to read as zeros.
    ///
    /// Everything is read that the plan relies on: all group descriptors (at most 16 MiB), the block
    /// bitmap of the last group, the resize inode and its blocks (at most 4 MiB); and where the new
    /// groups have their inode tables, whatever is on the device already and is not known to be zero.
    ///
    /// # Errors
    /// Whatever reading the device says; inside, why the filesystem may not grow.
    pub fn growth(
        &self,
        device: &dyn BlockDevice,
        len_bytes: u64,
    ) -> Result<Result<Growth, Refusal>> {
        match self.readable() {
            Err(refusal) => Ok(Err(refusal)),
            Ok((raw, geometry)) => Stop::apart(plan(raw, geometry, device, len_bytes)),
        }
    }
}

/// Why it does not count as unmounted cleanly.
fn unclean(raw: &RawSuperblock) -> Option<Refusal> {
    let state = raw.state.get();
    match () {
        () if state & STATE_ERRORS != 0 => Some(Refusal::HasErrors),
        () if state & STATE_VALID == 0 || state & STATE_REPLAY != 0 => Some(Refusal::NotClean),
        () if state & STATE_ORPHANS != 0 || raw.last_orphan.get() != 0 => Some(Refusal::Orphans),
        () => None,
    }
}

fn escape(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        text.push_str(&format!("\\x{byte:02x}"));
    }
}
