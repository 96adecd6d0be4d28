//! L2 entries that a guest's disk must not have: what is in them is never written to.

use std::sync::Arc;

use super::check::scan;
use super::header::{Header, Version};
use super::hostile_tests::open;
use super::options::Preallocation;
use super::shape_tests::{PLAIN, Shape};
use super::table::read_l1;
use crate::block::BlockDevice;
use crate::error::ErrorKind;
use crate::host::storage::{MemoryStorage, Storage};
use crate::task::{Cancel, Silent, Task};

const COPIED: u64 = 1 << 63;

/// A closed image with data in its first clusters, and where its first L2 entry is.
fn image(shape: Shape) -> (Arc<MemoryStorage>, u64) {
    let storage = MemoryStorage::default();
    shape.create_in(&storage);
    let storage = Arc::new(storage);
    let image = open(&storage).unwrap();
    image.write_at(0, &[7; 2048]).unwrap();
    image.close().unwrap();
    let header = Header::read(&*storage).unwrap();
    let l1 = read_l1(&*storage, &header).unwrap();
    let table = l1[0].decode(header.geometry).unwrap().unwrap();
    (storage, table.offset.get())
}

fn word(storage: &MemoryStorage, at: u64) -> u64 {
    let mut word = [0; 8];
    storage.read_at(at, &mut word).unwrap();
    u64::from_be_bytes(word)
}

/// Everything that would change the first cluster is refused, and nothing is changed; the next
/// cluster can be written then.
fn refuses_changes(storage: &Arc<MemoryStorage>, what: &str) {
    let before = storage.contents();
    let image = open(storage).unwrap();
    let refused = [
        image.write_at(0, &[1; 512]),
        image.write_at(9, b"part"),
        image.write_at(0, &[1; 1024]),
        image.discard(0, 512),
        image.write_compressed(0, &[1; 512]),
    ];
    for done in refused {
        let error = done.expect_err(what);
        assert!(error.kind() == ErrorKind::Corrupt && !error.changed(), "{what}: {error}");
    }
    image.flush().unwrap();
    assert!(storage.contents() == before, "{what}");
    image.write_at(512, &[9; 512]).unwrap();
    let mut found = [0; 512];
    image.read_at(512, &mut found).unwrap();
    assert_eq!(found, [9; 512], "{what}");
    image.close().unwrap();
}

/// Entries that lead behind everything that the image ever used read as zeros, as in QEMU. What is
/// written there would make the file as long, or fail, and then nothing could be written any more.
#[test]
fn nothing_is_written_behind_the_end() {
    let end = image(PLAIN).0.len().unwrap().next_multiple_of(512);
    for offset in [end, end + 512, 1 << 20, 1 << 40, 1 << 55, (1 << 56) - 512] {
        for flags in [COPIED, 0, COPIED | 1] {
            let (storage, entry) = image(PLAIN);
            storage.write_at(entry, &(offset | flags).to_be_bytes()).unwrap();
            let mut found = [1; 512];
            open(&storage).unwrap().read_at(0, &mut found).unwrap();
            assert_eq!(found, [0; 512], "{offset:#x}");
            refuses_changes(&storage, &format!("{offset:#x} with {flags:#x}"));
            if flags & 1 == 0 {
                let error = open(&storage).unwrap().write_zeroes(0, 512).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{offset:#x}: {error}");
            }
        }
    }
}

/// Clusters that are counted may lie behind the end of the file: a copy may have left the zeros at
/// its end away.
#[test]
fn what_is_counted_is_written_behind_the_end() {
    let shape = Shape { preallocation: Preallocation::Metadata, ..PLAIN };
    let storage = MemoryStorage::default();
    shape.create_in(&storage);
    let storage = Arc::new(storage);
    storage.set_len(storage.len().unwrap() - (30 << 10)).unwrap();
    let image = open(&storage).unwrap();
    image.write_at(shape.size - 512, &[4; 512]).unwrap();
    image.write_at(shape.size - (20 << 10), &[5; 100]).unwrap();
    image.close().unwrap();
    let mut found = vec![0; 20 << 10];
    open(&storage).unwrap().read_at(shape.size - (20 << 10), &mut found).unwrap();
    assert!(found.starts_with(&[5; 100]) && found.ends_with(&[4; 512]));
    assert!(found[100..(20 << 10) - 512].iter().all(|&byte| byte == 0));
}

/// Version 2 has no zero clusters: an entry that says zero is damage, as it is for QEMU.
#[test]
fn version_2_has_no_zero_clusters() {
    let shape = Shape { version: Version::V2, ..PLAIN };
    for keeps_data in [true, false] {
        let (storage, entry) = image(shape);
        let host = if keeps_data { word(&storage, entry) } else { 0 };
        storage.write_at(entry, &(host | 1).to_be_bytes()).unwrap();
        let image = open(&storage).unwrap();
        for error in [image.read_at(0, &mut [0; 8]).unwrap_err(), image.extent(0, 9).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
        image.read_at(512, &mut [0; 512]).unwrap();
        drop(image);
        let header = Header::read(&*storage).unwrap();
        let found = scan(&*storage, &header, Task::new(&Silent, &Cancel::new())).unwrap();
        assert!(found.damage().is_some(), "{:?}", found.findings);
        refuses_changes(&storage, &format!("with data: {keeps_data}"));
    }
}
