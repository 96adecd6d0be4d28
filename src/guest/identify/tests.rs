#[cfg(target_os = "linux")]
use std::process::Command;

use proptest::prelude::*;

use super::{Contents, FilesystemKind, PartitionTableKind, identify};
use crate::block::MemoryDevice;
use crate::guest::boot2docker::MAGIC;

const GPT: Contents = Contents::PartitionTable(PartitionTableKind::Gpt);
const MBR: Contents = Contents::PartitionTable(PartitionTableKind::Mbr);

/// Offsets and what is there.
type Pieces<'a> = &'a [(usize, &'a [u8])];

/// A disk of so many bytes with these pieces on it.
fn disk(size: usize, pieces: Pieces) -> Contents {
    let mut bytes = vec![0; size];
    for (offset, piece) in pieces {
        bytes[*offset..offset + piece.len()].copy_from_slice(piece);
    }
    identify(&MemoryDevice::new(bytes)).unwrap()
}

fn megabyte(pieces: Pieces) -> Contents {
    disk(1 << 20, pieces)
}

/// A partition entry: status, type, first sector, count.
fn entry(status: u8, kind: u8, start: u32, count: u32) -> Vec<u8> {
    let mut entry = vec![status, 0, 0, 0, kind, 0, 0, 0];
    entry.extend(start.to_le_bytes());
    entry.extend(count.to_le_bytes());
    entry
}

const SIGNATURE: (usize, &[u8]) = (510, &[0x55, 0xAA]);

#[test]
fn empty_payload_and_unknown() {
    for size in [0, 1, 512, 4096, 1 << 20] {
        assert_eq!(disk(size, &[]), Contents::Empty, "{size}");
    }
    assert_eq!(disk(512, &[(0, MAGIC)]), Contents::Payload);
    assert_eq!(megabyte(&[(0, MAGIC)]), Contents::Payload);
    assert_eq!(megabyte(&[(0, &MAGIC[..28])]), Contents::Unknown);
    assert_eq!(disk(512, &[(511, &[1])]), Contents::Unknown);
    assert_eq!(megabyte(&[(68 * 1024 - 1, &[1])]), Contents::Unknown);
    assert_eq!(megabyte(&[SIGNATURE]), Contents::Unknown);
}

#[test]
fn partition_tables_win_over_a_payload_left_below_them() {
    let (linux, protective) = (entry(0x80, 0x83, 2048, 9000), entry(0, 0xEE, 1, u32::MAX));
    for rest in [&[][..], &[(0, MAGIC)]] {
        let with = |pieces: &[(usize, &'static [u8])]| [rest, pieces].concat();
        for sector in [512, 4096] {
            assert_eq!(megabyte(&with(&[(sector, b"EFI PART")])), GPT);
        }
        let mut bytes = vec![0; 512];
        for (at, piece) in with(&[SIGNATURE]) {
            bytes[at..at + piece.len()].copy_from_slice(piece);
        }
        // b2d's automount makes the second partition first.
        for slot in [446, 462, 494] {
            bytes[446..510].fill(0);
            bytes[slot..slot + 16].copy_from_slice(&linux);
            assert_eq!(identify(&MemoryDevice::new(bytes.clone())).unwrap(), MBR);
        }
        bytes[446..462].copy_from_slice(&protective);
        assert_eq!(identify(&MemoryDevice::new(bytes)).unwrap(), GPT);
    }
}

#[test]
fn boot_sectors_are_no_partition_tables() {
    let boot = |at, mark: &'static [u8]| megabyte(&[(0, b"\xEB\x3C\x90"), (at, mark), SIGNATURE]);
    assert_eq!(boot(54, b"FAT16   ").name(), "fat");
    assert_eq!(boot(82, b"FAT32   ").name(), "fat");
    assert_eq!(boot(3, b"NTFS    ").name(), "ntfs");
    assert_eq!(boot(3, b"EXFAT   ").name(), "exfat");
    assert_eq!(boot(3, b"GRUB    "), Contents::Unknown);
    // mkfs.fat's own entry begins at sector 0; boot code is no entry at all.
    let fat = Contents::Filesystem(FilesystemKind::Fat);
    for fake in [entry(0x80, 0x0C, 0, 2048), b"Disk error\xFF\r\nPres".to_vec()] {
        assert_eq!(megabyte(&[(82, b"FAT32   "), (446, &fake), SIGNATURE]), fat);
    }
    // Without the signature it is not a boot sector.
    assert_eq!(megabyte(&[(82, b"FAT32   ")]), Contents::Unknown);
}

#[test]
fn marks_of_filesystems_and_volumes() {
    let cases: [(Pieces, &str, &str); 8] = [
        (&[(0, b"XFSB")], "xfs", "an xfs filesystem"),
        (&[(0, b"hsqs")], "squashfs", "a squashfs filesystem"),
        (&[(0x8001, b"CD001")], "iso9660", "an iso9660 filesystem"),
        (&[(0x1_0040, b"_BHRfS_M")], "btrfs", "a btrfs filesystem"),
        (&[(0, b"LUKS\xBA\xBE\0\x02")], "luks", "a LUKS volume"),
        (&[(512, b"LABELONE"), (536, b"LVM2 001")], "lvm", "an LVM physical volume"),
        (&[(4086, b"SWAP-SPACE")], "swap", "a swap area"),
        (&[(512, b"EFI PART")], "gpt", "a GPT partition table"),
    ];
    for (pieces, name, text) in cases {
        let contents = megabyte(pieces);
        assert_eq!((contents.name(), contents.to_string().as_str()), (name, text));
    }
    assert_eq!(megabyte(&[(512, b"LABELONE")]), Contents::Unknown);
}

/// What the real tools write is what is recognised.
#[cfg(target_os = "linux")]
#[test]
fn disks_of_real_tools() {
    let made = |tool: &str, args: &[&str]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let output = Command::new(tool).args(args).arg(file.path()).env("PATH", path).output();
        let output = output.unwrap_or_else(|error| panic!("these tests need {tool}: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        identify(&MemoryDevice::new(std::fs::read(file.path()).unwrap())).unwrap()
    };
    for (kind, name) in [
        (FilesystemKind::Ext2, "ext2"),
        (FilesystemKind::Ext3, "ext3"),
        (FilesystemKind::Ext4, "ext4"),
    ] {
        assert_eq!(made("mke2fs", &["-q", "-F", "-t", name]), Contents::Filesystem(kind));
    }
    assert_eq!(made("mkswap", &["-q"]), Contents::Volume(super::VolumeKind::Swap));
}

proptest! {
    /// No contents and no size make it fail, and only zeros are empty.
    #[test]
    fn anything_can_be_looked_at(
        bytes in prop::collection::vec(prop::sample::select(vec![0u8, 0, 0, 0x55, 0xAA, 0x80]), 0..2048),
        magic: bool,
    ) {
        let mut bytes = bytes;
        if magic {
            bytes.splice(..bytes.len().min(MAGIC.len()), MAGIC.iter().copied());
        }
        let zeros = bytes.iter().all(|&byte| byte == 0);
        let contents = identify(&MemoryDevice::new(bytes)).unwrap();
        prop_assert_eq!(contents == Contents::Empty, zeros);
        let table = matches!(contents, Contents::PartitionTable(_));
        prop_assert_eq!(contents == Contents::Payload, magic && !table);
    }
}
