//! Whenever a rebase is interrupted, the image reads the same above the file that it names, and has
//! leaks at worst.

use std::sync::Arc;

use super::audit_tests::Audit;
use super::crash_states_tests::{after, each_state, next, with_idle_syncs};
use super::geometry::{ClusterBits, Geometry, RefcountOrder};
use super::header::{BackingName, Header, Version};
use super::open::{Backing, Parts, Qcow2};
use super::options::{CreateOptions, HeaderForm, L1Capacity, Preallocation};
use super::rebase::Rebased;
use super::shape_tests::{contents, virtual_size};
use super::{CompressionType, create};
use crate::block::{BlockDevice, CacheConfig, DeviceOptions, MemoryDevice};
use crate::error::{ErrorKind, Result};
use crate::host::recording::{Failure, Fault, Record, RecordingStorage};
use crate::host::storage::{MemoryStorage, Storage};
use crate::task::{Cancel, Progress, Silent, Task};

const KIB: u64 = 1024;

/// An image, and what is below it before and afterwards.
#[derive(Debug, Clone, Copy)]
struct Case {
    what: &'static str,
    cluster_bits: u32,
    extended: bool,
    version: Version,
    form: HeaderForm,
    lazy: bool,
    size: u64,
    /// Bytes of the disk below it, if there is one.
    old: Option<u64>,
    /// Bytes of the one that it gets, if it gets one.
    new: Option<u64>,
    /// Bytes of the new one's name: too many for a sector, in some.
    name: usize,
}

const PLAIN: Case = Case {
    what: "same length",
    cluster_bits: 9,
    extended: false,
    version: Version::V3,
    form: HeaderForm::Qemu,
    lazy: false,
    size: 24 * KIB,
    old: Some(24 * KIB),
    new: Some(24 * KIB),
    name: 3,
};

const CASES: &[Case] = &[
    PLAIN,
    Case { what: "the new one is shorter", new: Some(9 * KIB + 512), ..PLAIN },
    Case { what: "the new one is longer", old: Some(7 * KIB + 512), size: 40 * KIB, ..PLAIN },
    Case { what: "longer than the image", new: Some(60 * KIB), old: Some(50 * KIB), ..PLAIN },
    Case { what: "stands alone then", new: None, ..PLAIN },
    Case { what: "stood alone", old: None, ..PLAIN },
    Case { what: "version 2", version: Version::V2, cluster_bits: 12, size: 60 * KIB, ..PLAIN },
    Case { what: "version 2 stood alone", version: Version::V2, old: None, ..PLAIN },
    Case { what: "hyperkit's header", form: HeaderForm::Short, old: Some(9 * KIB), ..PLAIN },
    Case { what: "lazy counts", lazy: true, ..PLAIN },
    Case {
        what: "a name that needs a shadow",
        cluster_bits: 12,
        size: 100 * KIB,
        name: 700,
        ..PLAIN
    },
    Case {
        what: "subclusters",
        cluster_bits: 14,
        extended: true,
        size: 120 * KIB,
        old: Some(110 * KIB),
        new: Some(70 * KIB + 512),
        ..PLAIN
    },
];

/// What a disk below holds: mostly the same in all of them, some of it zeros.
fn disk(len: u64, seed: u64) -> Vec<u8> {
    let mut random = seed;
    (0..len.div_ceil(512))
        .flat_map(|sector| {
            let own = next(&mut random).is_multiple_of(3);
            let byte = match (sector % 7, own) {
                (2 | 3, false) => 0,
                (5, true) => 0,
                (_, true) => (sector % 90) as u8 + 1 + seed as u8,
                (_, false) => (sector % 250) as u8 + 1,
            };
            [byte; 512]
        })
        .take(len as usize)
        .collect()
}

impl Case {
    fn old_name(&self) -> Option<BackingName> {
        let len = if self.name > 500 { 600 } else { 3 };
        let format = Some(b"raw".to_vec());
        self.old.map(|_| BackingName { name: vec![b'o'; len], format })
    }

    fn new_name(&self) -> Option<BackingName> {
        let format = Some(b"qcow2".to_vec());
        self.new.map(|_| BackingName { name: vec![b'n'; self.name], format })
    }

    /// What is below an image with this header.
    fn below(&self, header: &Header) -> Option<Backing> {
        let first = header.backing.as_ref().map(|backing| backing.name[0])?;
        let bytes = match first {
            b'o' => disk(self.old.unwrap(), 1),
            _ => disk(self.new.unwrap(), 2),
        };
        Some(Box::new(MemoryDevice::new(bytes)))
    }

    fn open(&self, storage: Arc<dyn Storage>) -> Result<Qcow2> {
        let header = Header::read(&*storage)?;
        let backing = self.below(&header);
        let parts = Parts { storage: Box::new(storage), data_file: None, backing };
        let cache = CacheConfig { table_bytes: 0, refcount_bytes: 0 };
        let options = DeviceOptions { writable: true, cache, ..DeviceOptions::default() };
        Qcow2::open_with(parts, header, &options, Task::new(&Silent, &Cancel::new()))
    }

    /// The image, with some data of its own.
    fn image(&self) -> Vec<u8> {
        let bits = ClusterBits::new(self.cluster_bits).unwrap();
        let geometry = Geometry::new(bits, RefcountOrder::DEFAULT, self.extended).unwrap();
        let options = CreateOptions {
            version: self.version,
            geometry,
            virtual_size: virtual_size(self.size),
            backing: self.old_name(),
            compression: CompressionType::Zlib,
            lazy_refcounts: self.lazy,
            dirty: false,
            header_form: self.form,
            l1_capacity: L1Capacity::AsNeeded,
            preallocation: Preallocation::Off,
        };
        let storage = Arc::new(MemoryStorage::default());
        create(&*storage, &options, &[], Task::new(&Silent, &Cancel::new())).unwrap();
        let image = self.open(storage.clone()).unwrap();
        image.write_at(3 * KIB, &[0xee; 1500]).unwrap();
        image.write_at(self.size - 700, &[0xdd; 700]).unwrap();
        image.write_zeroes(self.size / 2, 2048).unwrap();
        image.close().unwrap();
        storage.contents()
    }

    fn rebase(&self, storage: Arc<dyn Storage>, progress: &dyn Progress) -> Result<Rebased> {
        self.rebase_until(storage, progress, &Cancel::new())
    }

    fn rebase_until(
        &self,
        storage: Arc<dyn Storage>,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Rebased> {
        let mut image = self.open(storage)?;
        let new = self.new.map(|len| Box::new(MemoryDevice::new(disk(len, 2))) as Backing);
        let rebased = image.rebase(new, self.new_name().as_ref(), Task::new(progress, cancel))?;
        image.close()?;
        Ok(rebased)
    }

    fn record(&self) -> ([Vec<u8>; 1], Vec<Record>, [Vec<u8>; 1]) {
        let before = self.image();
        let recorder = Arc::new(RecordingStorage::new(before.clone()));
        self.rebase(recorder.clone(), &Silent).unwrap_or_else(|e| panic!("{}: {e}", self.what));
        ([before], recorder.records(), [recorder.contents()])
    }

    /// What the image shows.
    fn shows(&self, state: &[u8]) -> Vec<u8> {
        let storage = Arc::new(MemoryStorage::new(state.to_vec()));
        contents(&self.open(storage).unwrap()).unwrap()
    }

    /// It shows the same, above the old chain or the new one, and has leaks at worst.
    fn judge(&self, state: &[u8], expected: &[u8]) -> bool {
        let storage = Arc::new(MemoryStorage::new(state.to_vec()));
        let audit = Audit::of(&storage);
        assert!(audit.dirty && self.lazy || audit.is_harmless(), "{}: {audit:?}", self.what);
        let header = Header::read(&*storage).unwrap();
        let (old, new) = (self.old_name(), self.new_name());
        assert!(header.backing == old || header.backing == new, "{}", self.what);
        assert!(self.shows(state) == expected, "{}: it shows something else", self.what);
        header.backing == new
    }

    fn retry(&self, state: &[u8], expected: &[u8]) {
        let storage = Arc::new(MemoryStorage::new(state.to_vec()));
        if Header::read(&*storage).unwrap().backing != self.new_name() {
            self.rebase(storage.clone(), &Silent).unwrap();
        }
        assert!(self.judge(&storage.contents(), expected), "{}", self.what);
        assert_eq!(Audit::of(&storage).leaks, 0, "{}: again", self.what);
    }
}

#[test]
fn a_power_cut_leaves_an_image_that_reads_the_same() {
    let (mut states, mut seed) = (0, 1);
    for case in CASES {
        let (before, records, end) = case.record();
        let expected = case.shows(&before[0]);
        assert!(case.judge(&end[0], &expected), "{}: it is rebased", case.what);
        assert_eq!(Audit::of(&MemoryStorage::new(end[0].clone())).leaks, 0, "{}", case.what);
        let mut n = 0;
        each_state(&before, &records, &mut seed, |state| {
            case.judge(&state.files[0], &expected);
            n += 1;
            if n % 5 == 0 {
                case.retry(&state.files[0], &expected);
            }
        });
        assert!(after(&before, &records) == end, "{}: the record is complete", case.what);
        states += n;
    }
    println!("{states} states");
    assert!(states > 2000, "{states} are too few");
}

/// The control: were the syncs not there, the same exploration would find damage.
#[test]
fn without_its_barriers_a_rebase_would_be_caught() {
    let (before, records, _) = PLAIN.record();
    let expected = PLAIN.shows(&before[0]);
    let mut caught = false;
    each_state(&before, &with_idle_syncs(&records, |_| true), &mut 1, |state| {
        let judged = || PLAIN.judge(&state.files[0], &expected);
        caught = caught || std::panic::catch_unwind(judged).is_err();
    });
    assert!(caught);
}

#[test]
fn a_failing_medium_is_reported_and_the_image_reads_the_same() {
    let mut faults = 0;
    for case in CASES {
        let ([before], records, _) = case.record();
        let expected = case.shows(&before);
        for nth in (0..records.len()).step_by(1 + records.len() / 60) {
            for (kind, lasts) in [(ErrorKind::Io, true), (ErrorKind::NoSpace, false)] {
                let storage = Arc::new(RecordingStorage::new(before.clone()));
                storage.fail(Fault { nth, failure: Failure::Change(kind), lasts });
                let Err(error) = case.rebase(storage.clone(), &Silent) else {
                    // Room that is not given back is no failure.
                    case.judge(&storage.contents(), &expected);
                    continue;
                };
                let left = storage.contents();
                assert!(error.changed() || left == before, "{}: {error}", case.what);
                case.judge(&left, &expected);
                case.retry(&left, &expected);
                faults += 1;
            }
        }
    }
    println!("{faults} faults");
    assert!(faults > 400, "{faults} are too few");
}

/// Stops when so much is done.
struct StopsAt(u64, Cancel);

impl Progress for StopsAt {
    fn advance(&self, _: &'static str, done: u64, _: u64) {
        if done >= self.0 {
            self.1.trip();
        }
    }
}

#[test]
fn a_cancelled_rebase_leaves_an_image_that_reads_the_same() {
    // Several pieces of the disk.
    let case = Case { cluster_bits: 12, size: 5 << 20, old: Some(5 << 20), ..PLAIN };
    let before = case.image();
    let expected = case.shows(&before);
    for at in [0, 1 << 20, 3 << 20] {
        let storage = Arc::new(MemoryStorage::new(before.clone()));
        let progress = StopsAt(at, Cancel::new());
        let error = case.rebase_until(storage.clone(), &progress, &progress.1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(error.changed(), storage.contents() != before, "{at}");
        assert!(!case.judge(&storage.contents(), &expected));
        assert_eq!(Audit::of(&storage).leaks, 0);
        case.retry(&storage.contents(), &expected);
    }
}
