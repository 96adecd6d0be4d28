//! Packed clusters where they share host clusters, become free, and lose power.

use std::sync::Arc;

use super::audit_tests::Audit;
use super::create::create;
use super::entry::{CompressedRange, Mapping};
use super::geometry::{ClusterBits, Geometry, GuestCluster, RefcountOrder};
use super::header::{CompressionType, Header, Version};
use super::open::{Parts, Qcow2};
use super::options::{CreateOptions, HeaderForm, L1Capacity, Preallocation};
use crate::ErrorKind;
use crate::block::{BlockDevice, DeviceOptions};
use crate::host::recording::{Event, RecordingStorage};
use crate::host::storage::{MemoryStorage, Storage};
use crate::task::{Cancel, Silent, Task};
use crate::units::{ByteSize, VirtualSize};

const CLUSTER: usize = 4096;

/// A new image of 64 clusters and half a one.
fn image(order: u32, compression: CompressionType) -> Vec<u8> {
    let bits = ClusterBits::new(12).unwrap();
    let order = RefcountOrder::new(order).unwrap();
    let options = CreateOptions {
        version: Version::V3,
        geometry: Geometry::new(bits, order, false).unwrap(),
        virtual_size: VirtualSize::round_up(ByteSize::from_bytes(64 * 4096 + 2048)).unwrap(),
        backing: None,
        compression,
        lazy_refcounts: false,
        dirty: false,
        header_form: HeaderForm::Qemu,
        l1_capacity: L1Capacity::AsNeeded,
        preallocation: Preallocation::Off,
    };
    let storage = MemoryStorage::default();
    create(&storage, &options, &[], Task::new(&Silent, &Cancel::new())).unwrap();
    storage.contents()
}

fn open(storage: Arc<dyn Storage>, writable: bool) -> Qcow2 {
    let header = Header::read(&*storage).unwrap();
    let parts = Parts { storage: Box::new(storage), data_file: None, backing: None };
    let options = DeviceOptions { writable, ..DeviceOptions::default() };
    Qcow2::open_with(parts, header, &options, Task::new(&Silent, &Cancel::new())).unwrap()
}

fn mapping(image: &Qcow2, cluster: GuestCluster) -> Mapping {
    let (live, run) = image.run(cluster, 1).unwrap();
    drop(live);
    run.mapping
}

/// A cluster that packs to about `bytes` bytes: so much noise, and nothing behind it.
fn cluster(seed: u8, bytes: usize) -> Vec<u8> {
    let mut noise = u64::from(seed) + 1;
    let mut data = vec![seed; CLUSTER];
    for byte in data.iter_mut().take(bytes) {
        noise =
            noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (noise >> 56) as u8;
    }
    data
}

fn range(image: &Qcow2, n: u64) -> CompressedRange {
    match mapping(image, GuestCluster::new(n)) {
        Mapping::Compressed(range) => range,
        other => panic!("cluster {n}: {other:?}"),
    }
}

fn write(image: &Qcow2, n: u64, data: &[u8]) {
    image.write_compressed(n * 4096, data).unwrap();
}

fn shows(image: &Qcow2, n: u64, data: &[u8]) {
    let mut found = vec![0; data.len()];
    image.read_at(n * 4096, &mut found).unwrap();
    assert!(found == data, "cluster {n}");
}

/// Packed data lies one behind the other and goes on into the next host cluster; where that is
/// not free, or its count is full, a new one is begun.
#[test]
fn packed_clusters_share_host_clusters() {
    for order in 0..=6 {
        let storage = Arc::new(MemoryStorage::new(image(order, CompressionType::Zlib)));
        let device = open(storage.clone(), true);
        for n in 0..8 {
            write(&device, n, &cluster(n as u8, 1500));
        }
        let starts: Vec<u64> = (0..8).map(|n| range(&device, n).offset.get()).collect();
        let shared = starts.windows(2).filter(|pair| pair[1] % 4096 != 0).count();
        // A count of 1 bit says no more than one, and one of 2 bits three.
        let expected = [0, 6].get(order as usize).copied().unwrap_or(7);
        assert_eq!(shared, expected, "{order}: {starts:x?}");
        let crossing = starts.windows(2).filter(|pair| pair[1] / 4096 == pair[0] / 4096 + 1);
        assert!(order == 0 || crossing.count() >= 2, "{starts:x?}");
        // The next host cluster is taken.
        device.write_at(20 * 4096, &cluster(20, CLUSTER)).unwrap();
        write(&device, 9, &cluster(9, 3900));
        assert_eq!(range(&device, 9).offset.get() % 4096, 0);
        // More of them fit into a host cluster than a count of 4 bits can say.
        for n in 24..64 {
            write(&device, n, &cluster(n as u8, 20));
        }
        for n in (0..8).chain(24..64) {
            shows(&device, n, &cluster(n as u8, if n < 8 { 1500 } else { 20 }));
        }
        device.close().unwrap();
        assert_eq!(Audit::of(&storage), Audit::default(), "order {order}");
    }
}

/// What does not get smaller is written as it is, zeros need no room, the disk's last cluster may
/// be a part of one, and what is written twice in the same place is the second.
#[test]
fn each_cluster_is_stored_as_suits_it() {
    for compression in [CompressionType::Zlib, CompressionType::Zstd] {
        let storage = Arc::new(MemoryStorage::new(image(4, compression)));
        let device = open(storage.clone(), true);
        let noise = cluster(1, CLUSTER);
        write(&device, 0, &noise);
        assert!(matches!(mapping(&device, GuestCluster::ZERO), Mapping::Data(_)));
        shows(&device, 0, &noise);
        write(&device, 0, &[0; CLUSTER]);
        assert!(matches!(mapping(&device, GuestCluster::ZERO), Mapping::Zero(_)));
        write(&device, 64, &[7; 2048]);
        range(&device, 64);
        shows(&device, 64, &[7; 2048]);
        for value in 1..20 {
            write(&device, 3, &[value; CLUSTER]);
            shows(&device, 3, &[value; 512]);
            device.flush().unwrap();
        }
        device.write_at(3 * 4096 + 5, b"over").unwrap();
        let mut expected = [19; CLUSTER];
        expected[5..9].copy_from_slice(b"over");
        shows(&device, 3, &expected);
        device.close().unwrap();
        assert_eq!(Audit::of(&storage), Audit::default());
    }
}

/// A host cluster that became free belongs to whoever takes it next: nothing is packed behind
/// what was there.
#[test]
fn nothing_is_packed_into_a_cluster_that_was_freed() {
    let storage = Arc::new(MemoryStorage::new(image(4, CompressionType::Zlib)));
    let device = open(storage.clone(), true);
    write(&device, 0, &cluster(0, 500));
    let host = range(&device, 0).offset.get() / 4096;
    device.discard(0, 4096).unwrap();
    // In quarantine: nobody else takes it, and its count will stand for the new one.
    write(&device, 1, &cluster(1, 500));
    assert_eq!(range(&device, 1).offset.get() / 4096, host);
    device.flush().unwrap();
    shows(&device, 1, &cluster(1, 500));
    device.discard(4096, 4096).unwrap();
    device.flush().unwrap();
    // Free, and taken by plain data.
    let plain = cluster(2, CLUSTER);
    device.write_at(2 * 4096, &plain).unwrap();
    let Mapping::Data(taken) = mapping(&device, GuestCluster::new(2)) else { panic!() };
    assert_eq!(taken.offset.get() / 4096, host);
    write(&device, 3, &cluster(3, 500));
    assert_ne!(range(&device, 3).offset.get() / 4096, host);
    shows(&device, 2, &plain);
    device.close().unwrap();
    assert_eq!(Audit::of(&storage), Audit::default());
}

/// Packed data in the place of other packed data is not mistaken for it.
#[test]
fn what_was_unpacked_last_is_forgotten_in_time() {
    let storage = Arc::new(MemoryStorage::new(image(4, CompressionType::Zlib)));
    let device = open(storage, true);
    write(&device, 0, &cluster(0, 500));
    let before = range(&device, 0);
    shows(&device, 0, &cluster(0, 500)[..100]);
    device.discard(0, 4096).unwrap();
    device.flush().unwrap();
    write(&device, 1, &cluster(1, 500));
    assert_eq!(range(&device, 1).offset, before.offset);
    shows(&device, 1, &cluster(1, 500)[..100]);
}

/// Nor is what moved there, when the file was made shorter.
#[test]
fn what_was_unpacked_last_is_forgotten_where_data_moves() {
    let storage = Arc::new(MemoryStorage::new(image(4, CompressionType::Zlib)));
    let mut device = open(storage, true);
    (0..16).for_each(|n| write(&device, n, &cluster(n as u8, 500)));
    let before = range(&device, 0);
    shows(&device, 0, &cluster(0, 500)[..100]);
    device.discard(0, 12 * 4096).unwrap();
    device.compact(None, Task::new(&Silent, &Cancel::new())).unwrap();
    assert_eq!(range(&device, 12).offset, before.offset);
    shows(&device, 12, &cluster(12, 500)[..100]);
}

#[test]
fn parts_of_clusters_and_images_to_be_read_are_refused() {
    let storage = Arc::new(MemoryStorage::new(image(4, CompressionType::Zlib)));
    let before = storage.contents();
    let device = open(storage.clone(), true);
    let refused = |device: &Qcow2, offset, len| {
        device.write_compressed(offset, &vec![1; len]).unwrap_err().kind()
    };
    assert_eq!(refused(&device, 512, CLUSTER), ErrorKind::BadRequest);
    assert_eq!(refused(&device, 0, 512), ErrorKind::BadRequest);
    assert_eq!(refused(&device, 0, CLUSTER + 512), ErrorKind::BadRequest);
    assert_eq!(refused(&device, 64 * 4096, CLUSTER), ErrorKind::BadRequest);
    device.write_compressed(4096, &[]).unwrap();
    device.close().unwrap();
    let device = open(storage.clone(), false);
    assert_eq!(refused(&device, 0, CLUSTER), ErrorKind::Permission);
    assert!(storage.contents() == before);
}

/// A power cut at any point, with what was not synced missing in many combinations: every cluster
/// is as it was at the last flush or as it was written since, and nothing is worse than leaked.
#[test]
fn a_power_cut_keeps_what_was_flushed() {
    for order in [1, 4] {
        let before = image(order, CompressionType::Zlib);
        let recorder = Arc::new(RecordingStorage::new(before.clone()));
        let device = open(recorder.clone(), true);
        // What each cluster may show, by how many changes were recorded when that began.
        let mut versions: Vec<(usize, Vec<Vec<u8>>)> = vec![(0, vec![vec![0; CLUSTER]; 12])];
        let mut disk = vec![vec![0; CLUSTER]; 12];
        let mut flushed = Vec::new();
        for step in 0..60u64 {
            let n = step.wrapping_mul(7) % 12;
            let data = cluster(step as u8, [400, 1500, 3000, CLUSTER][step as usize % 4]);
            match step % 9 {
                3 => device.write_at(n * 4096, &data).unwrap(),
                _ => write(&device, n, &data),
            }
            disk[n as usize] = data;
            versions.push((recorder.events().len(), disk.clone()));
            if step % 5 == 4 {
                device.flush().unwrap();
                flushed.push((recorder.events().len(), versions.len() - 1));
            }
        }
        device.close().unwrap();
        let events = recorder.events();
        let (durable, mut at, mut seed) = (MemoryStorage::new(before), 0, 1u64);
        for epoch in events.split_inclusive(|event| *event == Event::Sync) {
            for way in 0..epoch.len() + 8 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                let kept =
                    |n: usize| if way <= epoch.len() { n < way } else { seed >> (n % 60) & 1 == 1 };
                let state = Arc::new(MemoryStorage::new(durable.contents()));
                for (n, event) in epoch.iter().enumerate() {
                    if kept(n) {
                        event.apply(&*state).unwrap();
                    }
                }
                assert!(Audit::of(&state).is_harmless(), "{order}: {way} at {at}");
                let oldest = flushed.iter().rev().find(|(end, _)| *end <= at);
                let allowed = &versions[oldest.map_or(0, |(_, version)| *version)..];
                let device = open(state, false);
                for n in 0..12 {
                    let mut found = vec![0; CLUSTER];
                    device.read_at(n as u64 * 4096, &mut found).unwrap();
                    let known = allowed.iter().any(|(_, disk)| disk[n] == found);
                    assert!(known, "{order}: cluster {n}, {way} at {at}");
                }
            }
            epoch.iter().for_each(|event| event.apply(&durable).unwrap());
            at += epoch.len();
        }
    }
}
