//! Refcount structures that are something else too: what is read from them is whatever it is, but
//! nothing is written that would change two things at once. And what it costs to find that out.

use std::slice::from_ref;
use std::sync::Arc;

use super::header::Header;
use super::hostile_tests::{image, open};
use super::medium_tests::{Holes, On};
use super::shape_tests::{PLAIN, Shape};
use crate::block::BlockDevice;
use crate::error::ErrorKind;
use crate::host::storage::{MemoryStorage, Storage};

/// Where something is in the images of these tests.
fn at(structures: &[(&'static str, u64)], name: &str) -> u64 {
    structures.iter().find(|(what, _)| *what == name).unwrap().1
}

/// A word at an offset of the file is changed to lead to another structure.
fn claims(structures: &[(&'static str, u64)]) -> Vec<(&'static str, u64, u64)> {
    let at = |name| at(structures, name);
    let table = at("refcount table");
    vec![
        ("a block named twice", table + 8, at("refcount block")),
        ("a block in the L1 table", table + 8, at("L1 table")),
        ("a block in the refcount table", table + 8, table),
        ("a block in an L2 table", table + 8, at("L2 table")),
        ("a block far behind in an L2 table", table + 504, at("L2 table")),
        ("the only block in the L1 table", table, at("L1 table")),
        ("the only block in an L2 table", table, at("L2 table")),
        ("the refcount table in the L1 table", 48, at("L1 table")),
        ("the refcount table in an L2 table", 48, at("L2 table")),
        ("an L2 table in a block", at("L1 table") + 16, at("refcount block") | 1 << 63),
    ]
}

#[test]
fn refcount_structures_are_nothing_else() {
    for (claim, place, word) in claims(&image(false).1) {
        let storage = image(false).0;
        storage.write_at(place, &word.to_be_bytes()).unwrap();
        let before = storage.contents();
        let storage = Arc::new(storage);
        let image = open(&storage).unwrap();
        let mut found = [1; 1024];
        image.read_at(0, &mut found).unwrap();
        assert_eq!(found, [0; 1024], "{claim}");
        for done in [image.write_at(0, b"data"), image.write_compressed(0, &[1; 512])] {
            let error = done.expect_err(claim);
            assert!(error.kind() == ErrorKind::Corrupt && !error.changed(), "{claim}: {error}");
            assert!(error.to_string().contains("used twice"), "{claim}: {error}");
        }
        image.read_at(0, &mut found).unwrap();
        image.close().unwrap();
        assert!(storage.contents() == before, "{claim}");
    }
}

/// An image with clusters of 2 MiB whose refcount table has 8 MiB; entry by entry `block` says
/// where a block is. Its file claims 8 TiB.
fn with_table(block: impl Fn(u64) -> u64) -> (Shape, Arc<On<Holes>>) {
    let shape = Shape { cluster_bits: 21, size: 4 << 20, ..PLAIN };
    let memory = MemoryStorage::default();
    shape.create_in(&memory);
    let table = memory.len().unwrap().next_multiple_of(2 << 20);
    let first = {
        let mut header = [0; 56];
        memory.read_at(0, &mut header).unwrap();
        let old = u64::from_be_bytes(*header[48..].first_chunk().unwrap());
        let mut entry = [0; 8];
        memory.read_at(old, &mut entry).unwrap();
        entry
    };
    let words: Vec<u8> = (0..1 << 20).flat_map(|n| block(n).to_be_bytes()).collect();
    memory.write_at(table, &words).unwrap();
    memory.write_at(table, &first).unwrap();
    memory.write_at(48, &table.to_be_bytes()).unwrap();
    memory.write_at(56, &4u32.to_be_bytes()).unwrap();
    (shape, Holes::behind(memory.contents(), 8 << 40))
}

/// A table that names one block a million times is refused for that, not read as often.
#[test]
fn one_block_is_not_read_a_million_times() {
    let (shape, storage) = with_table(|_| 1 << 40);
    let image = shape.open(from_ref(&storage), true).unwrap();
    let error = image.write_at(0, b"data").unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && !error.changed(), "{error}");
    let read = storage.medium.read();
    assert!(read < 64 << 20, "{read} bytes");
}

/// A table that names a million blocks in holes of the file is not followed to its beginning.
#[test]
fn blocks_that_count_nothing_are_not_all_read() {
    let (shape, storage) = with_table(|n| (1 << 40) + (((1 << 20) - n) << 21));
    let image = shape.open(from_ref(&storage), true).unwrap();
    image.write_at(0, b"data").unwrap();
    let mut found = [0; 4];
    image.read_at(0, &mut found).unwrap();
    assert_eq!(&found, b"data");
    let read = storage.medium.read();
    assert!(read < 128 << 20, "{read} bytes");
    image.close().unwrap();
}

/// An L1 entry that leads far behind the file's end does not decide where the image grows.
#[test]
fn a_table_far_behind_the_end_moves_nothing() {
    let shape = Shape { size: 400 << 10, order: 6, ..PLAIN };
    let storage = Arc::new(MemoryStorage::default());
    shape.create_in(&*storage);
    let header = Header::read(&*storage).unwrap();
    let last = u64::from(header.l1.count - 1);
    storage
        .write_at(header.l1.offset.get() + 8 * last, &(1u64 << 63 | 1 << 50).to_be_bytes())
        .unwrap();
    let image = shape.open(from_ref(&storage), true).unwrap();
    // More clusters than one refcount block counts.
    for cluster in 0..200 {
        image.write_at(cluster << 9, &[cluster as u8; 512]).unwrap();
    }
    let error = image.write_at(399 << 10, b"behind").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    image.close().unwrap();
    assert!(storage.len().unwrap() < 1 << 20);
}
