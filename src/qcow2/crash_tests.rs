//! What a power cut can leave of an image that is being resized: every prefix of the writes, and
//! within each stretch between two syncs any of them missing, alone, in any combination or torn
//! at a sector. Whatever it is, it must be the old disk or the new one, with leaks at worst, and
//! take the same resize again.

use std::sync::Arc;

use super::audit_tests::Audit;
use super::crash_states_tests::{after, each_state, with_idle_syncs};
use super::create::create;
use super::geometry::{ClusterBits, Geometry, RefcountOrder};
use super::header::{BackingName, CompressionType, Header, Version};
use super::open::{Backing, Qcow2};
use super::options::{CreateOptions, HeaderForm, L1Capacity, Preallocation};
use super::resize::{ResizeOptions, Resized};
use crate::block::{BlockDevice, Patch, PatchContent};
use crate::error::Result;
use crate::host::recording::{Record, RecordingStorage};
use crate::host::storage::{MemoryStorage, Storage};
use crate::raw::Raw;
use crate::task::{Cancel, Silent, Task};
use crate::units::{ByteSize, VirtualSize};

const KIB: u64 = 1024;

/// One image and one resize.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    order: u32,
    cluster_bits: u32,
    extended: bool,
    preallocation: Preallocation,
    /// Bytes of guest data, from the disk's beginning.
    data: u64,
    from: u64,
    to: u64,
    resize: Option<Preallocation>,
    hyperkit: bool,
    /// Bytes of the disk below, if there is one.
    below: Option<u64>,
    version: Version,
    /// Whether the guest's data changes with the size.
    patched: bool,
}

const PLAIN: Case = Case {
    name: "",
    order: 4,
    cluster_bits: 9,
    extended: false,
    preallocation: Preallocation::Off,
    data: 20 * KIB + 512,
    from: 64 * KIB,
    to: 128 * KIB,
    resize: None,
    hyperkit: false,
    below: None,
    version: Version::V3,
    patched: false,
};

const CASES: &[Case] = &[
    Case { name: "size alone", ..PLAIN },
    Case { name: "a file of a few clusters", data: 0, from: 4 * KIB, to: 40 * KIB, ..PLAIN },
    Case {
        name: "a few clusters, with metadata",
        data: 0,
        from: 4 * KIB,
        to: 40 * KIB,
        resize: Some(Preallocation::Metadata),
        ..PLAIN
    },
    Case { name: "the L1 table loses clusters", from: 8192 * KIB, to: 40 * KIB, ..PLAIN },
    Case { name: "L1 table moves", to: 4096 * KIB, ..PLAIN },
    Case {
        name: "metadata, new refcount blocks",
        order: 6,
        preallocation: Preallocation::Metadata,
        to: 300 * KIB,
        ..PLAIN
    },
    Case {
        name: "metadata, 1-bit counts",
        order: 0,
        preallocation: Preallocation::Metadata,
        to: 200 * KIB,
        resize: Some(Preallocation::Full),
        ..PLAIN
    },
    Case {
        name: "odd sizes, a tail to clean",
        data: 64 * KIB - 512 * 3 - 100,
        from: 64 * KIB - 512 * 3,
        to: 100 * KIB + 512,
        ..PLAIN
    },
    Case { name: "shrink", data: 120 * KIB, from: 128 * KIB, to: 50 * KIB + 512, ..PLAIN },
    Case {
        name: "shrink preallocated, refcount blocks go",
        order: 6,
        preallocation: Preallocation::Metadata,
        from: 400 * KIB,
        to: 10 * KIB,
        data: 9 * KIB,
        ..PLAIN
    },
    Case {
        name: "extended L2, cut in a cluster",
        cluster_bits: 14,
        extended: true,
        data: 300 * KIB,
        from: 320 * KIB,
        to: 200 * KIB + 512,
        ..PLAIN
    },
    Case {
        name: "overlay, the backing file goes on behind its end",
        data: 8 * KIB,
        from: 50 * KIB + 512 - 100,
        to: 90 * KIB,
        below: Some(70 * KIB),
        ..PLAIN
    },
    Case {
        name: "overlay of version 2, the backing file goes on in its last cluster",
        data: 8 * KIB,
        from: 320 * KIB + 512,
        to: 500 * KIB,
        below: Some(400 * KIB),
        version: Version::V2,
        cluster_bits: 12,
        ..PLAIN
    },
    Case {
        name: "overlay with subclusters, cut in a cluster",
        data: 40 * KIB,
        extended: true,
        cluster_bits: 14,
        from: 320 * KIB,
        to: 35 * KIB + 512,
        below: Some(300 * KIB),
        ..PLAIN
    },
    Case { name: "hyperkit, counts stale", hyperkit: true, to: 90 * KIB, ..PLAIN },
    Case {
        name: "hyperkit, counts stale, metadata",
        hyperkit: true,
        order: 4,
        to: 400 * KIB,
        resize: Some(Preallocation::Metadata),
        ..PLAIN
    },
];

/// All of them, and those that grow with what the guest's data becomes; some keep their size.
fn cases() -> impl Iterator<Item = Case> {
    let grow = CASES.iter().filter(|case| case.to >= case.from);
    let patched = grow.clone().map(|case| Case { patched: true, ..*case });
    let stay = grow.step_by(3).map(|case| Case { patched: true, to: case.from, ..*case });
    CASES.iter().copied().chain(patched).chain(stay)
}

fn task(cancel: &Cancel) -> Task<'_> {
    Task::new(&Silent, cancel)
}

fn size(bytes: u64) -> VirtualSize {
    VirtualSize::round_up(ByteSize::from_bytes(bytes)).unwrap()
}

fn pattern(len: u64) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8 + 1).collect()
}

impl Case {
    fn image(&self) -> Vec<u8> {
        let bits = ClusterBits::new(self.cluster_bits).unwrap();
        let order = RefcountOrder::new(self.order).unwrap();
        let options = CreateOptions {
            version: self.version,
            geometry: Geometry::new(bits, order, self.extended).unwrap(),
            virtual_size: size(self.from),
            backing: self.below.map(|_| BackingName { name: b"base".to_vec(), format: None }),
            compression: CompressionType::Zlib,
            lazy_refcounts: self.hyperkit,
            dirty: self.hyperkit,
            header_form: if self.hyperkit { HeaderForm::Short } else { HeaderForm::Qemu },
            l1_capacity: L1Capacity::AsNeeded,
            preallocation: self.preallocation,
        };
        let storage = MemoryStorage::default();
        create(&storage, &options, &pattern(self.data), task(&Cancel::new())).unwrap();
        if self.hyperkit {
            // As its sessions leave it: nothing was ever counted behind the first few clusters.
            let header = Header::read(&storage).unwrap();
            let table = super::table::read_refcount_table(&storage, &header).unwrap();
            let block = table[0].decode(header.geometry).unwrap().unwrap();
            storage.write_at(block.get() + 20, &[0; 400]).unwrap();
        }
        storage.contents()
    }

    fn resize(&self, storage: Arc<dyn Storage>) -> Result<Resized> {
        let header = Header::read(&*storage)?;
        let mut image = Qcow2::open(Box::new(storage), header, self.backing())?;
        let options = ResizeOptions { virtual_size: size(self.to), preallocation: self.resize };
        let written = self.written();
        let patches = written.iter().map(|(offset, bytes)| Patch {
            offset: *offset,
            content: match bytes.iter().all(|&byte| byte == 0) {
                true => PatchContent::Zeros(bytes.len() as u64),
                false => PatchContent::Bytes(bytes),
            },
        });
        let patches: Vec<_> = patches.collect();
        image.resize_with(&options, &patches, task(&Cancel::new()))
    }

    /// What the guest's data becomes: inside of what it has, over the old end, and at the new one.
    fn written(&self) -> Vec<(u64, Vec<u8>)> {
        if !self.patched {
            return Vec::new();
        }
        let (old, new) = (size(self.from).bytes(), size(self.to).bytes());
        let bytes = |at: u64, len: u64| (at, pattern(len + 7).split_off(7));
        let all = [
            bytes(100, 1700),
            (2500, vec![0; 1400]),
            bytes(old - 300, 300.min(new - old + 300)),
            bytes(old, 700),
            (old + 5000, vec![0; 9000]),
            bytes(new - 1000, 1000),
        ];
        let (mut written, mut end) = (Vec::new(), 0);
        for (at, bytes) in all {
            if at >= end && at + bytes.len() as u64 <= new {
                end = at + bytes.len() as u64;
                written.push((at, bytes));
            }
        }
        written
    }

    /// What lies below: the same pattern, from another byte on.
    fn backing(&self) -> Option<Backing> {
        let below = self.below?;
        let bytes = pattern(below + 100).split_off(100);
        Some(Box::new(Raw::open(Box::new(MemoryStorage::new(bytes))).unwrap()))
    }

    /// The disk as it reads with this size: its data to the end of their cluster, then what is
    /// below as far as the first disk went, then zeros.
    fn disk(&self, len: u64) -> Vec<u8> {
        let mut bytes = pattern(self.data);
        let cluster = 1 << self.cluster_bits;
        bytes.resize(bytes.len().next_multiple_of(cluster), 0);
        if let Some(below) = self.below {
            let below = pattern(below + 100).split_off(100);
            bytes.extend(below.iter().skip(bytes.len()));
        }
        bytes.truncate(size(self.from).bytes() as usize);
        bytes.resize(len as usize, 0);
        bytes
    }

    /// What the resize does to the file, and what it leaves.
    fn record(&self) -> ([Vec<u8>; 1], Vec<Record>, [Vec<u8>; 1]) {
        let before = self.image();
        let recorder = Arc::new(RecordingStorage::new(before.clone()));
        self.resize(recorder.clone()).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        ([before], recorder.records(), [recorder.contents()])
    }

    /// The disk is the old one or the new one, and nothing worse than leaks.
    fn judge(&self, state: &[u8]) -> Audit {
        let storage = Arc::new(MemoryStorage::new(state.to_vec()));
        let audit = Audit::of(&storage);
        assert!(audit.dirty || audit.is_harmless(), "{}: {audit:?}", self.name);
        let header = Header::read(&*storage).unwrap();
        let is = header.virtual_size;
        let (old, new) = (size(self.from).bytes(), size(self.to).bytes());
        assert!(is == old || is == new, "{}: {is} bytes", self.name);
        let image = Qcow2::open(Box::new(storage), header, self.backing()).unwrap();
        let mut bytes = vec![0; is as usize];
        image.read_at(0, &mut bytes).unwrap();
        let is_old = is == old && bytes == self.disk(is);
        let is_new = is == new && bytes == self.changed_disk();
        assert!(is_old || is_new, "{}: the disk differs", self.name);
        audit
    }

    /// The new disk.
    fn changed_disk(&self) -> Vec<u8> {
        let mut disk = self.disk(size(self.to).bytes());
        for (at, bytes) in self.written() {
            disk[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        }
        disk
    }

    /// The same resize once more brings the new disk.
    fn retry(&self, state: &[u8]) -> Vec<u8> {
        let storage = Arc::new(MemoryStorage::new(state.to_vec()));
        let new = size(self.to).bytes();
        if self.patched || Header::read(&*storage).unwrap().virtual_size != new {
            self.resize(storage.clone()).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        }
        let after = storage.contents();
        let audit = self.judge(&after);
        assert!(audit.is_harmless() || audit.dirty && !self.hyperkit, "{}: {audit:?}", self.name);
        assert_eq!(Header::read(&*storage).unwrap().virtual_size, new);
        after
    }
}

#[test]
fn a_power_cut_leaves_the_old_disk_or_the_new_one() {
    let (mut states, mut seed) = (0, 1);
    for case in cases() {
        let (before, events, end) = case.record();
        let audit = case.judge(&end[0]);
        assert_eq!((audit.leaks, audit.is_harmless()), (0, true), "{}: {audit:?}", case.name);
        each_state(&before, &events, &mut seed, |state| {
            case.judge(&state.files[0]);
            case.retry(&state.files[0]);
            states += 1;
        });
        assert!(after(&before, &events) == end, "{}: the record is complete", case.name);
    }
    println!("{states} crash states");
    assert!(states >= 2000, "{states} states are too few");
}

/// The control: were the syncs not there, the same exploration would find damage.
#[test]
fn without_its_barriers_a_resize_would_be_caught() {
    let case = CASES.iter().find(|case| case.name.starts_with("metadata, new")).unwrap();
    let (before, events, _) = case.record();
    let mut caught = false;
    each_state(&before, &with_idle_syncs(&events, |_| true), &mut 1, |state| {
        caught = caught || std::panic::catch_unwind(|| case.judge(&state.files[0])).is_err();
    });
    assert!(caught);
}

/// Whatever write or sync fails, the error is reported with what it means, and what is on the
/// medium is the old disk or the new one.
#[test]
fn a_failing_medium_is_reported_and_harmless() {
    for case in cases() {
        let ([before], events, _) = case.record();
        for nth in 0..events.len() {
            let storage = Arc::new(RecordingStorage::new(before.clone()));
            storage.fail_from(nth);
            let error = case.resize(storage.clone()).expect_err("a failing medium");
            let left = storage.contents();
            assert!(error.changed() || left == before, "{}: {error}", case.name);
            case.judge(&left);
            case.retry(&left);
        }
    }
}

/// Stopped while the new tables are written, a resize leaves the very bytes that were there.
#[test]
fn a_cancelled_resize_leaves_no_trace() {
    struct TripsOnProgress(Cancel);
    impl crate::task::Progress for TripsOnProgress {
        fn advance(&self, _: &'static str, _: u64, _: u64) {
            self.0.trip();
        }
    }
    let case =
        Case { name: "cancelled", to: 600 * KIB, resize: Some(Preallocation::Full), ..PLAIN };
    let before = case.image();
    let storage = Arc::new(MemoryStorage::new(before.clone()));
    let header = Header::read(&*storage).unwrap();
    let mut image = Qcow2::open(Box::new(storage.clone()), header, None).unwrap();
    let options = ResizeOptions { virtual_size: size(case.to), preallocation: case.resize };
    let progress = TripsOnProgress(Cancel::new());
    let error = image.resize(&options, Task::new(&progress, &progress.0)).unwrap_err();
    assert_eq!((error.kind(), error.changed()), (crate::ErrorKind::Cancelled, false));
    assert!(storage.contents() == before);
}
