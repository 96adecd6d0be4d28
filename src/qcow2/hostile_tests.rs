//! Images that would have us write guest data over their own structures, or hand one out as a free
//! cluster: refused, with nothing changed, or kept clear of.

use std::sync::Arc;

use super::create::create;
use super::geometry::{ClusterBits, Geometry, HostOffset, RefcountOrder};
use super::header::{BackingName, CompressionType, Header, Version};
use super::open::{Parts, Qcow2};
use super::options::{CreateOptions, HeaderForm, L1Capacity, Preallocation};
use super::refblock::RefcountBlock;
use super::shape_tests::{PLAIN, Shape};
use super::subject_tests::{Step, Subject};
use super::table::{read_l1, read_refcount_table};
use crate::block::{BlockDevice, DeviceOptions};
use crate::error::{ErrorKind, Result};
use crate::host::storage::{MemoryStorage, Storage};
use crate::task::{Cancel, Silent, Task};
use crate::units::{ByteSize, VirtualSize};

const SIZE: u64 = 128 << 10;
const COPIED: u64 = 1 << 63;

/// An image with clusters of 512 bytes and every table there, and where its structures are.
pub(super) fn image(backing: bool) -> (MemoryStorage, Vec<(&'static str, u64)>) {
    let bits = ClusterBits::new(9).unwrap();
    let storage = MemoryStorage::default();
    let name = BackingName { name: b"base".to_vec(), format: Some(b"raw".to_vec()) };
    let options = CreateOptions {
        version: Version::V3,
        geometry: Geometry::new(bits, RefcountOrder::DEFAULT, false).unwrap(),
        virtual_size: VirtualSize::round_up(ByteSize::from_bytes(SIZE)).unwrap(),
        backing: backing.then_some(name),
        compression: CompressionType::Zlib,
        lazy_refcounts: false,
        dirty: false,
        header_form: HeaderForm::Qemu,
        l1_capacity: L1Capacity::AsNeeded,
        preallocation: Preallocation::Tables,
    };
    create(&storage, &options, &[], Task::new(&Silent, &Cancel::new())).unwrap();
    let header = Header::read(&storage).unwrap();
    let geometry = header.geometry;
    let table = read_refcount_table(&storage, &header).unwrap();
    let block = table[0].decode(geometry).unwrap().unwrap();
    let l1 = read_l1(&storage, &header).unwrap();
    let l2 = l1[1].decode(geometry).unwrap().unwrap().offset;
    let structures = [
        ("header", HostOffset::ZERO),
        ("L1 table", header.l1.offset),
        ("refcount table", header.refcount_table.offset),
        ("refcount block", block),
        ("L2 table", l2),
    ];
    (storage, structures.map(|(name, offset)| (name, offset.get())).to_vec())
}

pub(super) fn open(storage: &Arc<MemoryStorage>) -> Result<Qcow2> {
    let header = Header::read(&**storage).unwrap();
    let parts = Parts { storage: Box::new(storage.clone()), data_file: None, backing: None };
    let options = DeviceOptions { writable: true, ..DeviceOptions::default() };
    Qcow2::open_with(parts, header, &options, Task::new(&Silent, &Cancel::new()))
}

/// Guest clusters that are mapped to a structure are not written, zeroed or given up.
#[test]
fn guest_data_is_never_written_over_a_structure() {
    for flags in [COPIED, 0, COPIED | 1] {
        for (structure, at) in image(false).1.into_iter().skip(1) {
            let (storage, structures) = image(false);
            let first_l2 = structures[1].1;
            let mut entry = [0; 8];
            storage.read_at(first_l2, &mut entry).unwrap();
            let first_l2 = u64::from_be_bytes(entry) & !COPIED;
            storage.write_at(first_l2, &(at | flags).to_be_bytes()).unwrap();
            let before = storage.contents();
            let storage = Arc::new(storage);
            let image = open(&storage).unwrap();
            for done in
                [image.write_at(7, b"data"), image.discard(0, 512), image.write_at(0, &[7; 600])]
            {
                let error = done.expect_err(structure);
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{structure}: {error}");
            }
            image.close().unwrap();
            assert!(storage.contents() == before, "{structure} with {flags:#x}");
        }
    }
}

/// An L1 entry that leads to another structure does not have it changed as an L2 table.
#[test]
fn no_other_structure_is_an_l2_table() {
    for (structure, at) in image(false).1.into_iter().skip(1).take(3) {
        let (storage, structures) = image(false);
        storage.write_at(structures[1].1, &(at | COPIED).to_be_bytes()).unwrap();
        let before = storage.contents();
        let storage = Arc::new(storage);
        let image = open(&storage).unwrap();
        let error = image.write_at(0, b"data").expect_err(structure);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{structure}: {error}");
        image.close().unwrap();
        assert!(storage.contents() == before, "{structure}");
    }
}

/// Structures that nothing is counted for are not taken for free clusters.
#[test]
fn what_is_not_counted_is_not_handed_out() {
    let (storage, structures) = image(false);
    let header = Header::read(&storage).unwrap();
    let block = structures[3].1;
    let mut counts = RefcountBlock::zeroed(header.geometry);
    // But for the refcount table, which is released when it grows.
    counts.set(header.geometry.host_cluster(header.refcount_table.offset).get(), 1);
    storage.write_at(block, counts.bytes()).unwrap();
    let l1 = read_l1(&storage, &header).unwrap();
    let storage = Arc::new(storage);
    let image = open(&storage).unwrap();
    let data: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8 + 1).collect();
    image.write_at(0, &data).unwrap();
    image.close().unwrap();
    let header = Header::read(&*storage).unwrap();
    assert!(read_l1(&*storage, &header).unwrap() == l1, "L2 tables stay where they are");
    let mut found = vec![0; data.len()];
    open(&storage).unwrap().read_at(0, &mut found).unwrap();
    assert!(found == data);
}

/// Bytes of a backing file that was not opened are not made up.
#[test]
fn a_missing_backing_file_is_not_read_as_zeros() {
    let storage = Arc::new(image(true).0);
    let before = storage.contents();
    let image = open(&storage).unwrap();
    let refused = [image.read_at(0, &mut [0; 8]), image.write_at(3, b"part of a cluster")];
    for done in refused {
        assert_eq!(done.unwrap_err().kind(), ErrorKind::BackingRefused);
    }
    image.write_at(512, &[1; 512]).unwrap();
    image.close().unwrap();
    assert!(storage.contents() != before);
}

/// An image whose counts are rebuilt into new blocks, and that is written on at once: the table
/// that the rebuild released is nobody's table any more.
#[test]
fn a_rebuilt_image_is_written_on() {
    for for_hyperkit in [false, true] {
        let shape = Shape { lazy: true, size: 400 << 10, ..PLAIN };
        let mut subject = Subject::new(shape);
        subject.step(Step::Write(0, 20_000, 5));
        subject.close().unwrap();
        let header = Header::read(&*subject.files[0]).unwrap();
        subject.files[0].write_at(79, &[1]).unwrap();
        if for_hyperkit {
            subject.files[0].write_at(100, &104u32.to_be_bytes()).unwrap();
        }
        // No block is left.
        subject.files[0].write_at(header.refcount_table.offset.get(), &[0; 8]).unwrap();
        subject.open().unwrap();
        for n in 0..25 {
            subject.step(Step::Write(n << 14, 1 << 14, n as u8));
            subject.step(Step::Flush);
            assert!(subject.contents() == subject.model, "hyperkit {for_hyperkit}, step {n}");
        }
        subject.close().unwrap();
        subject.is_sound();
        subject.open().unwrap();
        assert!(subject.contents() == subject.model, "hyperkit {for_hyperkit}");
    }
}

/// A bitmap directory that claims more than the file holds costs no more than that, whether the
/// image vouches for it or not.
#[test]
fn what_a_structure_claims_is_bounded_by_the_file() {
    for (size, autoclear) in
        [1u64 << 28, 1 << 40, u64::MAX].into_iter().flat_map(|n| [(n, 0), (n, 1)])
    {
        let storage = MemoryStorage::default();
        PLAIN.create_in(&storage);
        let before = storage.len().unwrap();
        let claim = [
            &0x2385_2875u32.to_be_bytes()[..],
            &24u32.to_be_bytes(),
            &1u32.to_be_bytes(),
            &[0; 4],
            &size.to_be_bytes(),
            &before.next_multiple_of(512).to_be_bytes(),
            &[0; 8],
        ];
        storage.write_at(112, &claim.concat()).unwrap();
        storage.write_at(95, &[autoclear]).unwrap();
        let storage = Arc::new(storage);
        let image = open(&storage).unwrap();
        image.write_at(0, &[1; 512]).unwrap();
        image.close().unwrap();
        assert!(storage.len().unwrap() < before + 4096, "{size} bytes");
    }
}

/// What changes nothing is refused too where nothing may be changed.
#[test]
fn an_image_that_is_only_read_refuses_every_change() {
    let storage = Arc::new(image(false).0);
    let header = Header::read(&*storage).unwrap();
    let image = Qcow2::open(Box::new(storage), header, None).unwrap();
    let refused = [image.write_at(0, b"x"), image.write_zeroes(0, 512), image.discard(0, 512)];
    for done in refused {
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Permission);
    }
    image.flush().unwrap();
}
