//! Any bytes as a filesystem: what the fuzzer puts there, with checksums that are right.

use zerocopy::{FromBytes, IntoBytes};

use super::bitmap::Bitmap;
use super::checksum::Checksums;
use super::descriptor::{Descriptor, Descriptors};
use super::geometry::Geometry;
use super::superblock::{OFFSET, RawSuperblock};
use super::{Filesystem, Growth, Reading, Refusal};
use crate::block::{BlockDevice, MemoryDevice};
use crate::guest::edit::Content;

/// `sparse_super`, with and without `metadata_csum`.
const RO_COMPAT: [u32; 2] = [0x1, 0x401];

/// The bytes of a superblock for so many blocks of 1 KiB, in groups of 256 blocks and 16 inodes.
fn superblock(blocks: u32, groups: u32, ro_compat: u32) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    let words = [
        (0x0, 16 * groups),
        (0x4, blocks),
        (0x10, 16 * groups),
        (0x14, 1),
        (0x20, 256),
        (0x24, 256),
        (0x28, 16),
        (0x38, 0xEF53 | 1 << 16),
        (0x4C, 1),
        (0x58, 128),
        (0x64, ro_compat),
        (0x174, 1 << 8),
    ];
    for (at, word) in words {
        bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(word));
    }
    bytes
}

/// Overwrites bytes of a disk, if it has so many.
fn put(device: &MemoryDevice, offset: u64, new: &[u8]) {
    if offset.checked_add(new.len() as u64).is_some_and(|end| end <= device.size()) {
        device.write_at(offset, new).unwrap();
    }
}

/// A filesystem without a file, of the whole disk.
pub(in crate::guest) fn lay_out(device: &MemoryDevice, with_checksums: bool) {
    let mut blocks = (device.size() / 1024) as u32;
    if blocks.saturating_sub(1) % 256 < 16 {
        blocks = blocks.saturating_sub(16).max(1);
    }
    let groups = blocks.saturating_sub(1).div_ceil(256);
    let mut bytes = superblock(blocks, groups, RO_COMPAT[usize::from(with_checksums)]);
    let raw = RawSuperblock::read_from_bytes(&bytes).unwrap();
    let (Ok(geometry), checksums) = (Geometry::parse(&raw), raw.checksums()) else { return };
    let mut free = 0;
    for group in 0..groups {
        let mut descriptor = Descriptor::new(&geometry, group, checksums);
        let (used, len) = (geometry.overhead(group), geometry.group_len(group));
        let bitmap = Bitmap::begun(&geometry, used, len);
        descriptor.set_block_bitmap_checksum(&geometry, bitmap.checksum(&geometry, checksums));
        descriptor.seal(&geometry, group, checksums);
        put(device, geometry.offset(descriptor.block_bitmap()), &bitmap.into_bytes());
        let place = geometry.offset(geometry.gdt_start()) + geometry.descriptor_offset(group);
        put(device, place, descriptor.bytes(&geometry));
        free += descriptor.free_blocks();
    }
    bytes[0xC..0x10].copy_from_slice(&free.to_le_bytes());
    put(device, OFFSET, &bytes);
    seal(device);
}

/// Gives the superblock and the descriptors the checksums that they should have.
fn seal(device: &MemoryDevice) {
    let Some(mut raw) = RawSuperblock::read(device).unwrap() else { return };
    raw.seal();
    put(device, OFFSET, raw.as_bytes());
    let (Ok(geometry), checksums) = (Geometry::parse(&raw), raw.checksums()) else { return };
    if geometry.bytes() > device.size() || checksums == Checksums::None {
        return;
    }
    for (group, mut descriptor) in Descriptors::read(device, &geometry).unwrap().iter() {
        descriptor.seal(&geometry, group, checksums);
        let place = geometry.offset(geometry.gdt_start()) + geometry.descriptor_offset(group);
        put(device, place, descriptor.bytes(&geometry));
    }
}

/// What the disk is once that was written.
fn after(device: &MemoryDevice, growth: &Growth, len: u64) -> MemoryDevice {
    let mut disk = device.contents();
    disk.resize((len as usize).max(disk.len()), 0);
    let grown = MemoryDevice::new(disk);
    for edit in &growth.edits {
        match &edit.content {
            Content::Bytes(new) => grown.write_at(edit.offset, new).unwrap(),
            Content::Zeros(len) => grown.write_zeroes(edit.offset, *len).unwrap(),
        }
    }
    grown
}

/// A filesystem is read, or refused; it grows, or may not, and then it does not grow again, and
/// nothing speaks against its growing further.
pub(in crate::guest) fn grows(device: &MemoryDevice, sealed: bool, more: u64) {
    if sealed {
        seal(device);
    }
    let Reading::Filesystem(before) = Filesystem::read(device).unwrap() else { return };
    assert!(before.free_bytes() + before.used_bytes() == before.size_bytes());
    assert!(before.label().is_none_or(|label| !label.contains(char::is_control)));
    let len = device.size() + more;
    let Ok(growth) = before.growth(device, len).unwrap() else { return };
    assert_eq!(before.grown_size_bytes(len), Ok(growth.new_size_bytes));
    let grown = after(device, &growth, len);
    let Reading::Filesystem(after) = Filesystem::read(&grown).unwrap() else {
        panic!("{growth:?}")
    };
    assert_eq!((after.size_bytes(), after.refusal()), (growth.new_size_bytes, None));
    assert_eq!((after.label(), after.uuid()), (before.label(), before.uuid()));
    assert!(after.growth(&grown, len).unwrap().unwrap().edits.is_empty());
    if growth.edits.is_empty() {
        return;
    }
    match after.growth(&grown, len + (1 << 20)).unwrap() {
        Ok(_)
        | Err(
            Refusal::NoResizeInode { .. }
            | Refusal::ReservationExhausted { .. }
            | Refusal::TooManyInodes { .. }
            | Refusal::TooManyGroups { .. },
        ) => {}
        Err(refusal) => panic!("{refusal}: {growth:?}"),
    }
}

#[test]
fn what_the_fuzzer_begins_with_grows() {
    for (with_checksums, kib) in [(false, 100), (true, 100), (false, 900), (true, 257)] {
        let device = MemoryDevice::new(vec![0; kib << 10]);
        lay_out(&device, with_checksums);
        grows(&device, true, 5 << 20);
        let Reading::Filesystem(filesystem) = Filesystem::read(&device).unwrap() else {
            panic!("no filesystem")
        };
        assert_eq!(filesystem.refusal(), None);
        let growth = filesystem.growth(&device, 3 << 20).unwrap().unwrap();
        assert_eq!(growth.new_size_bytes, 3 << 20);
    }
}
