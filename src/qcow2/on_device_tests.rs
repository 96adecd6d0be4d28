//! An image on a block device: it ends where it ends, and what nobody wrote holds something.

use std::slice::from_ref;
use std::sync::Arc;

use super::check::scan;
use super::feature::Incompatible;
use super::header::{Header, Version};
use super::medium_tests::{Device, On};
use super::options::Preallocation;
use super::resize::ResizeOptions;
use super::shape_tests::{PLAIN, Shape, contents, virtual_size};
use crate::block::{BlockDevice, ExtentKind};
use crate::error::ErrorKind;
use crate::host::storage::{MemoryStorage, Storage};
use crate::task::{Cancel, Silent, Task};

/// The bytes of a new image.
fn created(shape: Shape) -> Vec<u8> {
    let storage = MemoryStorage::default();
    shape.create_in(&storage);
    storage.contents()
}

/// Nothing about the image is wrong or leaked.
fn is_sound(device: &On<Device>) {
    let header = Header::read(device).unwrap();
    let report = scan(device, &header, Task::new(&Silent, &Cancel::new())).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}

/// Whatever is added (refcount blocks, a larger refcount table, L2 tables, data) goes where the
/// device has room, and what was in that room before does not show.
#[test]
fn counts_grow_into_the_room_that_is_there() {
    let extended = Shape { cluster_bits: 14, extended: true, size: 3 << 20, ..PLAIN };
    let cases = [
        (Shape { size: 400 << 10, ..PLAIN }, 1 << 20),
        // A refcount table of one cluster counts 2 MiB with 64 bits each.
        (Shape { order: 6, size: 3 << 20, ..PLAIN }, 8 << 20),
        (Shape { version: Version::V2, size: 400 << 10, ..PLAIN }, 1 << 20),
        (extended, 8 << 20),
    ];
    for (shape, len) in cases {
        let device = Device::holding(&created(shape), len);
        let mut model = vec![0; shape.size as usize];
        let unit = 1usize << shape.cluster_bits;
        let image = shape.open(from_ref(&device), true).unwrap();
        let mut put = |at: usize, value: u8| {
            let range = at..(at + 300).min(model.len());
            model[range.clone()].fill(value);
            image.write_at(at as u64, &model[range]).unwrap();
        };
        (0..shape.size as usize / unit).for_each(|n| put(n * unit + 100, 1));
        // What was freed is taken again, with what is in it now.
        image.discard(0, shape.size / 2).unwrap();
        image.flush().unwrap();
        let half = shape.size as usize / 2;
        (0..half / unit).step_by(2).for_each(|n| put(n * unit + 7, 2));
        for n in (0..half / unit).step_by(2) {
            model[n * unit..n * unit + 7].fill(0);
            model[n * unit + 307..(n + 1) * unit].fill(0);
        }
        (1..half / unit).step_by(2).for_each(|n| model[n * unit..(n + 1) * unit].fill(0));
        assert!(contents(&image).unwrap() == model, "{shape:?}");
        image.close().unwrap();
        is_sound(&device);
        let image = shape.open(from_ref(&device), false).unwrap();
        assert!(contents(&image).unwrap() == model, "{shape:?}, opened again");
    }
}

/// What does not fit is refused before anything is written, and the image goes on: in place, and
/// with what is given up.
#[test]
fn a_device_that_is_full_is_no_failure() {
    let shape = Shape { order: 6, size: 400 << 10, ..PLAIN };
    let bytes = created(shape);
    for clusters in 12..200 {
        let device = Device::holding(&bytes, clusters << 9);
        let image = shape.open(from_ref(&device), true).unwrap();
        let fill = |from: u64| {
            let full = (from..800).find_map(|n| {
                let before = device.memory.contents();
                Some((n, image.write_at(n << 9, &[7; 512]).err()?, before))
            });
            let (written, error, before) = full.expect("more data than the device has room for");
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{clusters}: {error}");
            let same = device.memory.contents() == before;
            assert!(same || error.changed(), "{clusters}: {error}");
            written
        };
        let (mut written, mut before) = (fill(0), None);
        // A flush may free the refcount table that was replaced.
        while before != Some(written) {
            image.flush().unwrap();
            before = Some(written);
            written = fill(written);
        }
        let before = device.memory.contents();
        let error = image.write_at(written << 9, &[9; 512]).unwrap_err();
        assert!(error.kind() == ErrorKind::NoSpace && !error.changed(), "{clusters}: {error}");
        assert!(device.memory.contents() == before, "{clusters}: nothing was written");
        let mut model = vec![0; shape.size as usize];
        model[..(written as usize) << 9].fill(7);
        if written > 1 {
            image.write_at(512, &[8; 512]).unwrap();
            image.discard(0, 512).unwrap();
            image.flush().unwrap();
            image.write_at(100, &[6; 512]).unwrap();
            model[..1024].fill(8);
            model[..100].fill(0);
            model[100..612].fill(6);
        }
        assert!(contents(&image).unwrap() == model, "{clusters}");
        image.close().unwrap();
        is_sound(&device);
    }
}

/// A dirty image that lost its refcount blocks, and the end of what it uses.
fn without_blocks() -> (Shape, Vec<u8>, Vec<u8>) {
    let shape = Shape { lazy: true, order: 6, size: 100 << 10, ..PLAIN };
    let storage = Arc::new(MemoryStorage::new(created(shape)));
    let image = shape.open(from_ref(&storage), true).unwrap();
    image.write_at(0, &[5; 40_000]).unwrap();
    let disk = contents(&image).unwrap();
    image.close().unwrap();
    let header = Header::read(&*storage).unwrap();
    storage.write_at(79, &[1]).unwrap();
    storage.write_at(header.refcount_table.offset.get(), &[0; 512]).unwrap();
    // Data ends inside a cluster, and behind it the device's garbage would begin.
    storage.set_len(storage.len().unwrap().next_multiple_of(512)).unwrap();
    (shape, storage.contents(), disk)
}

#[test]
fn a_rebuild_finds_room_on_the_device() {
    let (shape, bytes, disk) = without_blocks();
    let device = Device::holding(&bytes, 1 << 20);
    let image = shape.open(from_ref(&device), true).unwrap();
    assert!(contents(&image).unwrap() == disk);
    image.close().unwrap();
    is_sound(&device);
    assert!(!Header::read(&*device).unwrap().incompatible.contains(Incompatible::DIRTY));
}

#[test]
fn a_rebuild_that_does_not_fit_changes_nothing() {
    let (shape, bytes, _) = without_blocks();
    let device = Device::holding(&bytes, bytes.len() as u64);
    let error = shape.open(from_ref(&device), true).unwrap_err();
    assert!(error.kind() == ErrorKind::NoSpace && !error.changed(), "{error}");
    assert!(device.memory.contents() == bytes);
}

/// A disk that becomes smaller leaves the device as long as it is.
#[test]
fn a_disk_shrinks_on_a_device() {
    let shape = Shape { size: 400 << 10, ..PLAIN };
    let device = Device::holding(&created(shape), 1 << 20);
    let image = shape.open(from_ref(&device), true).unwrap();
    image.write_at(0, &[3; 300 << 10]).unwrap();
    image.close().unwrap();
    let mut image = shape.open(from_ref(&device), false).unwrap();
    let options = ResizeOptions { virtual_size: virtual_size(64 << 10), preallocation: None };
    image.resize(&options, Task::new(&Silent, &Cancel::new())).unwrap();
    is_sound(&device);
    let image = shape.open(&[device], false).unwrap();
    assert!(contents(&image).unwrap() == [3; 64 << 10]);
}

/// Whatever a larger disk needs goes where the device has room, with what was written and not
/// flushed before, and what was in that room does not show.
#[test]
fn a_disk_grows_on_a_device() {
    use Preallocation::{Falloc, Full, Metadata, Off, Tables};
    let extended = Shape { cluster_bits: 14, extended: true, size: 100 << 10, ..PLAIN };
    let shapes = [
        PLAIN,
        // A refcount table of one cluster counts 2 MiB with 64 bits each.
        Shape { order: 6, lazy: true, ..PLAIN },
        Shape { version: Version::V2, below: Some(60 << 10), ..PLAIN },
        Shape { cluster_bits: 12, below: Some(60 << 10), size: 41 << 10, ..PLAIN },
        extended,
        Shape { below: Some(160 << 10), ..extended },
    ];
    let preallocations = [None, Some(Off), Some(Tables), Some(Metadata), Some(Falloc), Some(Full)];
    for (shape, preallocation) in
        shapes.iter().flat_map(|shape| preallocations.map(|preallocation| (shape, preallocation)))
    {
        let device = Device::holding(&created(*shape), 16 << 20);
        let mut model = shape.disk();
        for size in [150 << 10, 3 << 20] {
            let mut image = shape.open(from_ref(&device), true).unwrap();
            let end = model.len();
            for at in [700, end / 2, end - 3000] {
                model[at..at + 1500].fill(at as u8 | 1);
                image.write_at(at as u64, &model[at..at + 1500]).unwrap();
            }
            let options = ResizeOptions { virtual_size: virtual_size(size), preallocation };
            image.resize(&options, Task::new(&Silent, &Cancel::new())).unwrap();
            model.resize(size as usize, 0);
            is_sound(&device);
            let image = shape.open(from_ref(&device), false).unwrap();
            assert!(contents(&image).unwrap() == model, "{shape:?} {preallocation:?} {size}");
        }
        let image = shape.open(from_ref(&device), true).unwrap();
        (0..model.len()).step_by(40 << 10).for_each(|at| {
            model[at..at + 100].fill(9);
            image.write_at(at as u64, &[9; 100]).unwrap();
        });
        assert!(contents(&image).unwrap() == model, "{shape:?} {preallocation:?}");
        image.close().unwrap();
        is_sound(&device);
    }
}

/// What a larger disk needs is found out before anything is written, the counts of a dirty image
/// included.
#[test]
fn a_disk_that_does_not_fit_changes_nothing() {
    let cases = [
        (Shape { order: 6, ..PLAIN }, Preallocation::Off, false),
        (PLAIN, Preallocation::Tables, false),
        (PLAIN, Preallocation::Full, false),
        (Shape { lazy: true, ..PLAIN }, Preallocation::Tables, true),
    ];
    for (shape, preallocation, dirty) in cases {
        let mut bytes = created(shape);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes[79] |= u8::from(dirty);
        let virtual_size = virtual_size(2500 << 10);
        let options = ResizeOptions { virtual_size, preallocation: Some(preallocation) };
        let mut len = bytes.len() as u64;
        let device = loop {
            let device = Device::holding(&bytes, len);
            let before = device.memory.contents();
            // A dirty image that is opened to be written is rebuilt at once.
            let mut image = shape.open(from_ref(&device), !dirty).unwrap();
            let resized = image.resize(&options, Task::new(&Silent, &Cancel::new()));
            let Err(error) = resized else { break device };
            assert!(error.kind() == ErrorKind::NoSpace && !error.changed(), "{len}: {error}");
            assert!(device.memory.contents() == before, "{len}: nothing was written");
            len += 512;
        };
        assert!(len >= bytes.len() as u64 + 2 * 512, "{shape:?} {preallocation:?}");
        is_sound(&device);
        let image = shape.open(&[device], false).unwrap();
        assert!(contents(&image).unwrap() == vec![0; 2500 << 10], "{shape:?} {preallocation:?}");
    }
}

/// A damaged image has data where its counts say that there is room: on a device nothing else
/// keeps a larger disk from being written there.
#[test]
fn data_that_is_not_counted_is_not_overwritten() {
    let device = Device::holding(&created(PLAIN), 1 << 20);
    let image = PLAIN.open(from_ref(&device), true).unwrap();
    image.write_at(0, &[3; 512]).unwrap();
    let ExtentKind::Data { host_offset } = image.extent(0, 512).unwrap().kind else { panic!() };
    image.close().unwrap();
    let header = Header::read(&*device).unwrap();
    let mut block = [0; 8];
    device.read_at(header.refcount_table.offset.get(), &mut block).unwrap();
    device.write_at(u64::from_be_bytes(block) + host_offset / 512 * 2, &[0, 0]).unwrap();
    let before = device.memory.contents();
    let mut image = PLAIN.open(from_ref(&device), false).unwrap();
    let options = ResizeOptions { virtual_size: virtual_size(3 << 20), preallocation: None };
    let error = image.resize(&options, Task::new(&Silent, &Cancel::new())).unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && !error.changed(), "{error}");
    assert!(device.memory.contents() == before);
}
