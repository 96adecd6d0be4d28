//! Images of every shape with some of everything in them, and random damage to their tables.

use proptest::prelude::*;

use super::header::{CompressionType, Header, Version};
use super::options::Preallocation;
use super::shape_tests::{PLAIN, Shape};
use super::subject_tests::{Step, Subject};
use super::table::{read_l1, read_refcount_table};
use crate::host::storage::MemoryStorage;

/// Damage to one word of the file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Damage {
    Flip(u32),
    Set(u64, u32),
    /// It becomes what another word is.
    Copy(u16),
}

pub(super) fn damage() -> impl Strategy<Value = (u16, Damage)> {
    let kind = prop_oneof![
        (0u32..64).prop_map(Damage::Flip),
        (any::<u64>(), 0u32..64).prop_map(|(value, shift)| Damage::Set(value, shift)),
        any::<u16>().prop_map(Damage::Copy),
    ];
    (any::<u16>(), kind)
}

pub(super) fn shape() -> impl Strategy<Value = Shape> {
    (0u32..=6, any::<bool>(), any::<bool>(), 0u8..4).prop_map(|(order, below, lazy, kind)| {
        let below = below.then_some(30 << 10);
        let shape = Shape { order, below, lazy, ..PLAIN };
        match kind {
            0 => Shape { version: Version::V2, ..shape },
            1 => Shape { extended: true, cluster_bits: 14, size: 300 << 10, ..shape },
            2 => Shape { compression: CompressionType::Zstd, ..shape },
            _ => Shape { preallocation: Preallocation::Metadata, below: None, ..shape },
        }
        .allowed()
    })
}

/// The files of an image with some of everything, and its disk.
pub(super) fn files(shape: Shape) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut subject = Subject::new(shape);
    for step in [
        Step::Write(0, 9000, 1),
        Step::Write(20_000, 3000, 9),
        Step::Pack(12, 6, 4),
        Step::Zero(1000, 2000),
        Step::Write(35_000, 600, 5),
    ] {
        if shape.takes(step) {
            subject.step(step);
        }
    }
    subject.close().unwrap();
    (subject.bytes(), subject.model)
}

/// The same of an image that keeps everything in one file.
pub(super) fn image(shape: Shape) -> (Vec<u8>, Vec<u8>) {
    let (mut files, disk) = files(shape);
    (files.swap_remove(0), disk)
}

/// Where the words of the tables are.
pub(super) fn words(bytes: &[u8]) -> Vec<usize> {
    let storage = MemoryStorage::new(bytes.to_vec());
    let header = Header::read(&storage).unwrap();
    let geometry = header.geometry;
    let blocks = read_refcount_table(&storage, &header).unwrap();
    let blocks = blocks.iter().filter_map(|entry| entry.decode(geometry).unwrap());
    let l1 = read_l1(&storage, &header).unwrap();
    let tables = l1.iter().filter_map(|entry| entry.decode(geometry).unwrap());
    let clusters = tables.map(|table| table.offset).chain(blocks);
    let clusters = clusters.chain([header.l1.offset, header.refcount_table.offset]);
    let words = clusters.flat_map(|at| (at.get()..at.get() + geometry.cluster_size()).step_by(8));
    let words = words.map(|at| at as usize).filter(|at| at + 8 <= bytes.len());
    // What is not there can hardly be damaged; but a little of it is.
    words.filter(|at| at % 128 == 0 || word(bytes, *at) != 0).collect()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub(super) fn apply(bytes: &mut [u8], words: &[usize], (at, damage): (u16, Damage)) {
    let pick = |at: u16| words[usize::from(at) % words.len()];
    let at = pick(at);
    let value = match damage {
        Damage::Flip(bit) => word(bytes, at) ^ 1 << bit,
        Damage::Set(value, shift) => value >> shift,
        Damage::Copy(from) => word(bytes, pick(from)),
    };
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}
