use zerocopy::IntoBytes;

use super::geometry::{GROUPS_MAX, Geometry, has_super};
use super::{Filesystem, Reading, Refusal};
use crate::block::{BlockDevice, MemoryDevice};

/// As `mke2fs` lays out 20 GB of 4 KiB blocks.
fn common() -> Geometry {
    Geometry {
        block_bytes: 4096,
        blocks: 4_880_000,
        first_block: 0,
        group_blocks: 32768,
        group_inodes: 8192,
        inode_bytes: 256,
        descriptor_bytes: 64,
        groups: 149,
        gdt_blocks: 3,
        reserved_blocks: 1021,
        flex_bg: true,
        resize_inode: true,
        wide: true,
    }
}

const GROUP: u64 = 128 << 20;
const TIB: u64 = 1 << 40;

#[test]
fn copies_are_in_the_groups_that_are_powers() {
    let groups: Vec<u32> = (0..700).filter(|group| has_super(*group)).collect();
    assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343, 625]);
}

#[test]
fn a_size_is_what_resize2fs_makes_of_it() {
    let old = common();
    let size = |len: u64| old.grown(len).map(|new| new.bytes());
    // Whole pages, and no group that has not 50 blocks more than its metadata of 514.
    assert_eq!(size(old.bytes() + 5 * 4096 + 4095), Ok(old.bytes() + 5 * 4096));
    assert_eq!(size(300 * GROUP), Ok(300 * GROUP));
    assert_eq!(size(300 * GROUP + 563 * 4096), Ok(300 * GROUP));
    assert_eq!(size(300 * GROUP + 564 * 4096), Ok(300 * GROUP + 564 * 4096));
    // Group 343 has copies, which take 1025 blocks.
    assert_eq!(size(343 * GROUP + 1588 * 4096), Ok(343 * GROUP));
    assert_eq!(size(343 * GROUP + 1589 * 4096), Ok(343 * GROUP + 1589 * 4096));
    let grown = old.grown(300 * GROUP).unwrap();
    assert_eq!((grown.groups, grown.gdt_blocks, grown.reserved_blocks), (300, 5, 1019));
    let wanted_bytes = old.bytes() - 1;
    let refusal = Refusal::Smaller { size_bytes: old.bytes(), wanted_bytes };
    assert_eq!(size(wanted_bytes), Err(refusal));
}

#[test]
fn every_limit_is_told() {
    let (old, limit_bytes) = (common(), 8 * TIB);
    let size = |old: &Geometry, len: u64| old.grown(len).map(|new| new.bytes());
    assert_eq!(size(&old, 8 * TIB), Ok(8 * TIB));
    let exhausted = Err(Refusal::ReservationExhausted { limit_bytes });
    assert_eq!(size(&old, 8 * TIB + GROUP), exhausted);
    // It can be described no further either if the last group would be useless.
    assert_eq!(size(&old, 8 * TIB + 4096), Ok(8 * TIB));

    let none = Geometry { reserved_blocks: 0, resize_inode: false, ..common() };
    assert_eq!(size(&none, 192 * GROUP), Ok(192 * GROUP));
    let refusal = Refusal::NoResizeInode { limit_bytes: 192 * GROUP };
    assert_eq!(size(&none, 193 * GROUP), Err(refusal));

    // Without `64bit`, one block short of 16 TiB; inodes for all groups but the last.
    let narrow = Geometry { wide: false, descriptor_bytes: 32, group_inodes: 32760, ..common() };
    assert_eq!(size(&narrow, 16 * TIB), Ok(16 * TIB - 4096));
    assert_eq!(size(&narrow, 20 * TIB), Ok(16 * TIB - 4096));
    let crowded = Geometry { group_inodes: 32768, ..narrow.clone() };
    assert_eq!(size(&crowded, 16 * TIB), Ok(16 * TIB - GROUP));
    let crowded = Geometry { wide: true, ..crowded };
    let wanted_bytes = 16 * TIB + 9 * GROUP;
    assert_eq!(size(&crowded, wanted_bytes), Err(Refusal::TooManyInodes { wanted_bytes }));

    let many = Geometry { group_inodes: 8, ..common() };
    let groups = u64::from(GROUPS_MAX) + 1;
    let refusal = Refusal::TooManyGroups { groups, max: GROUPS_MAX };
    assert_eq!(size(&many, groups * GROUP), Err(refusal));
    assert!(size(&many, u64::MAX).is_err());
}

#[test]
fn a_label_is_told_without_loss() {
    let device = MemoryDevice::new(vec![0; 100 << 10]);
    super::fuzz_tests::lay_out(&device, false);
    for (bytes, label) in [
        (b"root".as_slice(), Some("root")),
        ("d\u{e4}ten \u{1f4be}".as_bytes(), Some("d\u{e4}ten \u{1f4be}")),
        (b"\xFFa\nb\\\xC3", Some("\\xffa\\x0ab\\\\\\xc3")),
        (b"", None),
        (b"sixteen bytes ab", Some("sixteen bytes ab")),
    ] {
        let mut name = [0; 16];
        name[..bytes.len()].copy_from_slice(bytes);
        device.write_at(1024 + 0x78, name.as_bytes()).unwrap();
        device.write_at(1024 + 0x68, &[0xAB; 16]).unwrap();
        let Reading::Filesystem(read) = Filesystem::read(&device).unwrap() else { panic!() };
        assert_eq!(read.label().as_deref(), label);
        assert_eq!(read.uuid().to_string(), "abababab-abab-abab-abab-abababababab");
    }
}

#[test]
fn what_was_written_is_found_in_a_few_runs() {
    const STEP: u64 = 64 << 10;
    let mut bytes = vec![0; 10 * STEP as usize];
    // The end of a step and the beginning of the next; one that stands alone; the last byte.
    for at in [100 + STEP - 1, 100 + STEP, 100 + 4 * STEP, 10 * STEP - 1] {
        bytes[at as usize] = 1;
    }
    let device = MemoryDevice::new(bytes);
    let found = |start: u64, end: u64| {
        let mut runs = Vec::new();
        super::zeros::find_written(&device, start..end, |at, len| runs.push((at, len))).unwrap();
        runs
    };
    let last = 100 + 9 * STEP;
    let runs = [(100, 2 * STEP), (100 + 4 * STEP, STEP), (last, 10 * STEP - last)];
    assert_eq!(found(100, u64::MAX), runs);
    assert_eq!(found(100 + 2 * STEP, 100 + 4 * STEP), []);
    assert_eq!(found(10 * STEP, 20 * STEP), []);
    assert_eq!(found(30 * STEP, 40 * STEP), []);
}
