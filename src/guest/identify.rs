//! What a disk begins with.

use std::fmt;

use super::boot2docker::MAGIC;
use super::ext4::generation;
use crate::block::BlockDevice;
use crate::error::Result;

/// How much of the disk is looked at, in bytes: the farthest mark is btrfs's, just behind 64 KiB.
const HEAD_BYTES: usize = 68 * 1024;

/// What was found at the start of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Contents {
    /// Only zeros, as far as was looked.
    Empty,
    /// A boot2docker payload: the guest is going to format the disk.
    Payload,
    /// A partition table. The guest leaves the disk alone.
    PartitionTable(PartitionTableKind),
    /// A filesystem on the whole disk.
    Filesystem(FilesystemKind),
    /// Something else that takes the whole disk.
    Volume(VolumeKind),
    /// Bytes that mean nothing to us.
    Unknown,
}

/// A kind of partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PartitionTableKind {
    /// The table in the first sector.
    Mbr,
    /// GUID partition table.
    Gpt,
}

/// A kind of filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say everything")]
pub enum FilesystemKind {
    Ext2,
    Ext3,
    Ext4,
    Xfs,
    Btrfs,
    Iso9660,
    Squashfs,
    Fat,
    Ntfs,
    Exfat,
}

/// What can take a disk without being a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VolumeKind {
    /// Linux swap space.
    Swap,
    /// An encrypted volume of either LUKS version.
    Luks,
    /// A physical volume of LVM 2.
    Lvm,
}

impl Contents {
    /// The name that programs see (`snake_case`, stable).
    pub const fn name(self) -> &'static str {
        match self {
            Contents::Empty => "empty",
            Contents::Payload => "payload",
            Contents::PartitionTable(PartitionTableKind::Mbr) => "mbr",
            Contents::PartitionTable(PartitionTableKind::Gpt) => "gpt",
            Contents::Filesystem(kind) => kind.name(),
            Contents::Volume(VolumeKind::Swap) => "swap",
            Contents::Volume(VolumeKind::Luks) => "luks",
            Contents::Volume(VolumeKind::Lvm) => "lvm",
            Contents::Unknown => "unknown",
        }
    }
}

impl FilesystemKind {
    /// The name of the filesystem, as people write it in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            FilesystemKind::Ext2 => "ext2",
            FilesystemKind::Ext3 => "ext3",
            FilesystemKind::Ext4 => "ext4",
            FilesystemKind::Xfs => "xfs",
            FilesystemKind::Btrfs => "btrfs",
            FilesystemKind::Iso9660 => "iso9660",
            FilesystemKind::Squashfs => "squashfs",
            FilesystemKind::Fat => "fat",
            FilesystemKind::Ntfs => "ntfs",
            FilesystemKind::Exfat => "exfat",
        }
    }
}

impl fmt::Display for Contents {
    /// A fragment with its article, to stand behind "holds".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Contents::Empty => "nothing but zeros",
            Contents::Payload => "a boot2docker payload",
            Contents::PartitionTable(PartitionTableKind::Mbr) => "an MBR partition table",
            Contents::PartitionTable(PartitionTableKind::Gpt) => "a GPT partition table",
            Contents::Volume(VolumeKind::Swap) => "a swap area",
            Contents::Volume(VolumeKind::Luks) => "a LUKS volume",
            Contents::Volume(VolumeKind::Lvm) => "an LVM physical volume",
            Contents::Unknown => "unknown data",
            Contents::Filesystem(kind) => {
                use FilesystemKind::{Btrfs, Fat, Squashfs};
                let article = if matches!(kind, Btrfs | Fat | Squashfs) { "a" } else { "an" };
                return write!(f, "{article} {} filesystem", kind.name());
            }
        };
        f.write_str(text)
    }
}

/// Looks at the first 68 KiB of a disk, in one read.
///
/// A partition table comes before everything: the guest's `fdisk` may leave the payload's first
/// bytes where they are. The payload comes before filesystems, as it does for the guest, which
/// formats whatever begins with the magic and has no partitions.
///
/// # Errors
/// Whatever reading the device says.
pub fn identify(device: &dyn BlockDevice) -> Result<Contents> {
    let head = Head::read(device)?;
    let contents = if let Some(kind) = head.partition_table() {
        Contents::PartitionTable(kind)
    } else if head.has(0, MAGIC) {
        Contents::Payload
    } else if let Some(contents) = head.superblock() {
        contents
    } else if head.0.iter().all(|&byte| byte == 0) {
        Contents::Empty
    } else {
        Contents::Unknown
    };
    Ok(contents)
}

/// What else a place with partitions, with swap or with the superblock of ext2, ext3 or ext4 has the
/// marks of: who made a filesystem where another one was may have left the old superblock, and nobody
/// can tell which of them is used.
///
/// # Errors
/// Whatever reading the device says.
pub(super) fn second_filesystem(device: &dyn BlockDevice) -> Result<Option<FilesystemKind>> {
    let head = Head::read(device)?;
    Ok(match head.partition_table() {
        Some(_) => head.ext(),
        None if head.volume().is_some() => head.filesystem(),
        None => head.ext().and_then(|_| head.marked()),
    })
}

/// The bytes at the start of a disk: at most [`HEAD_BYTES`].
struct Head(Vec<u8>);

impl Head {
    fn read(device: &dyn BlockDevice) -> Result<Head> {
        let len = usize::try_from(device.size()).unwrap_or(usize::MAX).min(HEAD_BYTES);
        let mut head = vec![0; len];
        device.read_at(0, &mut head)?;
        Ok(Head(head))
    }

    fn has(&self, offset: usize, mark: &[u8]) -> bool {
        self.0.get(offset..).is_some_and(|rest| rest.starts_with(mark))
    }

    /// A little-endian number, or 0 behind the end of the disk.
    fn u32_at(&self, offset: usize) -> u32 {
        let bytes = self.0.get(offset..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    fn is_boot_sector(&self) -> bool {
        self.has(510, &[0x55, 0xAA])
    }

    fn partition_table(&self) -> Option<PartitionTableKind> {
        // UEFI 2.10, 5.3.2: the header is in the second sector, of 512 or 4096 bytes.
        let header = [512, 4096].iter().any(|&sector| self.has(sector, b"EFI PART"));
        match self.mbr_type() {
            // The protective MBR of a GPT, even if the header behind it is damaged.
            Some(0xEE) => Some(PartitionTableKind::Gpt),
            _ if header => Some(PartitionTableKind::Gpt),
            Some(_) => Some(PartitionTableKind::Mbr),
            None => None,
        }
    }

    /// The type of the first partition in the MBR, if the first sector is one and not the boot
    /// sector of a filesystem, which ends with the same signature.
    ///
    /// As the kernel does, any status byte but 00 and 80 is taken for code. A partition at sector 0
    /// is none: newer `mkfs.fat` puts such a one into its own boot sector.
    fn mbr_type(&self) -> Option<u8> {
        const EMPTY: &[u8] = &[0; 4];
        let (entries, _) = self.0.get(446..510)?.as_chunks::<16>();
        let is_table = self.is_boot_sector()
            && entries.iter().all(|&[status, ..]| status == 0 || status == 0x80);
        entries.iter().filter(|_| is_table).find_map(|entry| {
            let [_, _, _, _, kind, _, _, _, range @ ..] = entry;
            let (start, count) = range.split_at(4);
            (*kind != 0 && start != EMPTY && count != EMPTY).then_some(*kind)
        })
    }

    fn superblock(&self) -> Option<Contents> {
        self.volume().map(Contents::Volume).or_else(|| self.filesystem().map(Contents::Filesystem))
    }

    fn volume(&self) -> Option<VolumeKind> {
        // mkswap(8): the last ten bytes of the first page, of 4, 16 or 64 KiB.
        let swap = |mark| {
            [4096, 16384, 65536].iter().any(|&page: &usize| self.has(page.saturating_sub(10), mark))
        };
        // LVM 2 `label.h`: the label is in one of the first four sectors, its type 24 bytes in.
        let lvm = [0, 512, 1024, 1536].iter().any(|&sector: &usize| {
            self.has(sector, b"LABELONE") && self.has(sector.saturating_add(24), b"LVM2 001")
        });
        match () {
            () if self.has(0, b"LUKS\xBA\xBE") => Some(VolumeKind::Luks),
            () if lvm => Some(VolumeKind::Lvm),
            () if swap(b"SWAPSPACE2") || swap(b"SWAP-SPACE") => Some(VolumeKind::Swap),
            () => None,
        }
    }

    fn filesystem(&self) -> Option<FilesystemKind> {
        self.ext().or_else(|| self.marked())
    }

    /// A filesystem that is told by a mark.
    fn marked(&self) -> Option<FilesystemKind> {
        const BOOT_SECTORS: [(usize, &[u8], FilesystemKind); 6] = [
            (3, b"NTFS    ", FilesystemKind::Ntfs),
            (3, b"EXFAT   ", FilesystemKind::Exfat),
            (54, b"FAT12   ", FilesystemKind::Fat),
            (54, b"FAT16   ", FilesystemKind::Fat),
            (54, b"FAT     ", FilesystemKind::Fat),
            (82, b"FAT32   ", FilesystemKind::Fat),
        ];
        const MARKS: [(usize, &[u8], FilesystemKind); 4] = [
            (0, b"XFSB", FilesystemKind::Xfs),
            (0, b"hsqs", FilesystemKind::Squashfs),
            (0x8001, b"CD001", FilesystemKind::Iso9660),
            (0x1_0040, b"_BHRfS_M", FilesystemKind::Btrfs),
        ];
        let boot_sectors = BOOT_SECTORS.iter().filter(|_| self.is_boot_sector());
        let found = boot_sectors.chain(&MARKS).find(|(offset, mark, _)| self.has(*offset, mark));
        found.map(|&(_, _, kind)| kind)
    }

    /// The superblock is at byte 1024; the features tell the generations apart.
    fn ext(&self) -> Option<FilesystemKind> {
        let [compat, incompat, ro_compat] =
            [0x5C, 0x60, 0x64].map(|field: usize| self.u32_at(field.saturating_add(1024)));
        let found = self.has(1024 + 0x38, &[0x53, 0xEF]);
        found.then(|| generation(compat, incompat, ro_compat))
    }
}

#[cfg(test)]
mod tests;
