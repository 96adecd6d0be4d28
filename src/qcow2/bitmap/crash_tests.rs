//! What a power cut, or a medium that fails, can leave of an image whose bitmaps are being changed:
//! the old bitmaps or the new ones, with leaks at worst, the disk as it was, and fit to have the same
//! done to it again.

use std::sync::Arc;

use super::tests::{Found, bitmaps_of, merge, task, with_bitmaps};
use super::{BitmapChange, BitmapsChanged, Granularity};
use crate::error::{ErrorKind, Result};
use crate::host::recording::{Failure, Fault, RecordingStorage};
use crate::host::storage::{MemoryStorage, Storage};
use crate::qcow2::check::scan;
use crate::qcow2::crash_states_tests::{each_state, with_idle_syncs};
use crate::qcow2::fixtures_tests::{made_by, with_snapshot};
use crate::qcow2::header::Header;
use crate::qcow2::open::Qcow2;
use crate::qcow2::shape_tests::{PLAIN, Shape, contents};
use crate::qcow2::subject_tests::Step;
use crate::task::Cancel;

/// An image, what bitmaps it has, and what is done to them.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    shape: Shape,
    bitmaps: u32,
    /// Whether a snapshot is there too.
    snapshot: bool,
    change: fn() -> BitmapChange<'static>,
}

const SMALL: Shape = Shape { size: 60 << 10, ..PLAIN };
const FULL_BLOCKS: Shape = Shape { order: 6, ..SMALL };
const FOUR_K: Shape = Shape { cluster_bits: 12, order: 3, size: 160 << 10, ..PLAIN };

fn add() -> BitmapChange<'static> {
    BitmapChange::Add { name: b"new", granularity: Granularity::new(9), enabled: true }
}

const CASES: &[Case] = &[
    Case { name: "add the first", shape: SMALL, bitmaps: 0, snapshot: false, change: add },
    Case { name: "add one more", shape: SMALL, bitmaps: 2, snapshot: true, change: add },
    Case { name: "add, counts grow", shape: FULL_BLOCKS, bitmaps: 0, snapshot: false, change: add },
    Case {
        name: "add, counts grow again",
        shape: FULL_BLOCKS,
        bitmaps: 9,
        snapshot: false,
        change: add,
    },
    Case { name: "add, four KiB", shape: FOUR_K, bitmaps: 1, snapshot: false, change: add },
    Case {
        name: "add above a backing file",
        shape: Shape { below: Some(20 << 10), ..SMALL },
        bitmaps: 0,
        snapshot: false,
        change: add,
    },
    Case {
        name: "add above a backing file, four KiB",
        shape: Shape { below: Some(20 << 10), ..FOUR_K },
        bitmaps: 1,
        snapshot: true,
        change: add,
    },
    Case {
        name: "remove the last",
        shape: SMALL,
        bitmaps: 1,
        snapshot: false,
        change: || BitmapChange::Remove(b"b0"),
    },
    Case {
        name: "remove one",
        shape: FOUR_K,
        bitmaps: 3,
        snapshot: true,
        change: || BitmapChange::Remove(b"b1"),
    },
    Case {
        name: "remove all",
        shape: SMALL,
        bitmaps: 5,
        snapshot: false,
        change: || BitmapChange::RemoveAll,
    },
    Case {
        name: "clear",
        shape: SMALL,
        bitmaps: 3,
        snapshot: false,
        change: || BitmapChange::Clear(b"b0"),
    },
    Case {
        name: "disable",
        shape: SMALL,
        bitmaps: 3,
        snapshot: false,
        change: || BitmapChange::Enable(b"b0", false),
    },
    Case {
        name: "merge",
        shape: Shape { size: 4 << 20, ..SMALL },
        bitmaps: 3,
        snapshot: false,
        change: || merge(b"b2", &[b"b0", b"b1"]),
    },
    Case {
        name: "merge, counts grow",
        shape: Shape { size: 8 << 20, ..FULL_BLOCKS },
        bitmaps: 2,
        snapshot: false,
        change: || merge(b"b0", &[b"b1"]),
    },
];

/// All of them; with counts of one bit; and in clusters of 4 KiB beside a snapshot.
fn cases() -> impl Iterator<Item = Case> {
    let one_bit = CASES.iter().filter(|case| !case.snapshot);
    let one_bit = one_bit.map(|case| Case { shape: Shape { order: 0, ..case.shape }, ..*case });
    let large = CASES.iter().map(|case| Case {
        shape: Shape { cluster_bits: 12, ..case.shape },
        snapshot: true,
        ..*case
    });
    CASES.iter().copied().chain(one_bit).chain(large)
}

impl Case {
    fn image(&self) -> Vec<u8> {
        let steps = [Step::Write(100, 3000, 3), Step::Write(8000, 2000, 5)];
        let (mut files, _) = made_by(self.shape, &steps);
        let image = files.remove(0);
        let image = if self.snapshot { with_snapshot(image) } else { image };
        with_bitmaps(image, self.bitmaps)
    }

    fn run(&self, storage: Arc<dyn Storage>) -> Result<BitmapsChanged> {
        let header = Header::read(&*storage)?;
        let mut image = Qcow2::open(Box::new(storage), header, None)?;
        image.change_bitmaps(&(self.change)(), task(&Cancel::new()))
    }

    /// Bitmaps old or new, the disk as it was, nothing worse than leaks.
    fn judge(&self, state: &[u8], old: &[Found], new: &[Found], disk: &[u8]) {
        let name = self.name;
        let storage = Arc::new(MemoryStorage::new(state.to_vec()));
        let header = Header::read(&*storage).unwrap_or_else(|error| panic!("{name}: {error}"));
        let report = scan(&*storage, &header, task(&Cancel::new())).unwrap();
        assert_eq!(report.corruptions, 0, "{name}: {:?}", report.findings);
        let found = bitmaps_of(&*storage);
        assert!(found == old || found == new, "{name}: neither the old bitmaps nor the new");
        let shown = contents(&self.shape.open_as(&[storage], header, false).unwrap()).unwrap();
        assert!(shown == disk, "{name}: the disk differs");
    }

    /// The same once more brings the new bitmaps, unless they are there already.
    fn retry(&self, state: &[u8], new: &[Found], disk: &[u8]) {
        let storage = Arc::new(MemoryStorage::new(state.to_vec()));
        if bitmaps_of(&*storage) != new {
            self.run(storage.clone()).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        }
        self.judge(&storage.contents(), new, new, disk);
    }

    fn disk(&self, image: &[u8]) -> Vec<u8> {
        let storage = Arc::new(MemoryStorage::new(image.to_vec()));
        let header = Header::read(&*storage).unwrap();
        contents(&self.shape.open_as(&[storage], header, false).unwrap()).unwrap()
    }
}

/// A case that went well: the image before, what was done to it, and the bitmaps before and after.
struct Went {
    before: Vec<u8>,
    disk: Vec<u8>,
    recorder: Arc<RecordingStorage>,
    old: Vec<Found>,
    new: Vec<Found>,
}

impl Went {
    fn well(case: &Case) -> Went {
        let before = case.image();
        let recorder = Arc::new(RecordingStorage::new(before.clone()));
        let done = case.run(recorder.clone()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert!(done.changed, "{}", case.name);
        let old = bitmaps_of(&MemoryStorage::new(before.clone()));
        let new = bitmaps_of(&MemoryStorage::new(recorder.contents()));
        assert!(old != new, "{}", case.name);
        let storage = MemoryStorage::new(recorder.contents());
        let header = Header::read(&storage).unwrap();
        let report = scan(&storage, &header, task(&Cancel::new())).unwrap();
        assert!(report.is_clean(), "{}: {:?}", case.name, report.findings);
        Went { disk: case.disk(&before), before, recorder, old, new }
    }
}

#[test]
fn a_power_cut_leaves_the_old_bitmaps_or_the_new_ones() {
    let (mut states, mut seed) = (0, 1);
    for case in cases() {
        let went = Went::well(&case);
        let (before, records) = ([went.before.clone()], went.recorder.records());
        each_state(&before, &records, &mut seed, |state| {
            case.judge(&state.files[0], &went.old, &went.new, &went.disk);
            case.retry(&state.files[0], &went.new, &went.disk);
            states += 1;
        });
    }
    println!("{states} crash states");
    assert!(states >= 1000, "{states} states are too few");
}

/// The control: were the syncs not there, the same exploration would find damage.
#[test]
fn without_its_barriers_a_change_would_be_caught() {
    let caught = CASES.iter().filter(|case| {
        let went = Went::well(case);
        let records = with_idle_syncs(&went.recorder.records(), |_| true);
        let mut caught = false;
        each_state(std::slice::from_ref(&went.before), &records, &mut 1, |state| {
            let judged = std::panic::catch_unwind(|| {
                case.judge(&state.files[0], &went.old, &went.new, &went.disk);
            });
            caught = caught || judged.is_err();
        });
        caught
    });
    let caught = caught.count();
    println!("{caught} of {} are caught", CASES.len());
    assert!(caught >= CASES.len() / 2, "{caught}");
}

/// Whatever write, sync or read fails, the error is reported with what it means, and what is on the
/// medium has the old bitmaps or the new ones.
#[test]
fn a_failing_medium_is_reported_and_harmless() {
    let failures = [
        (Failure::Change(ErrorKind::Io), ErrorKind::Io),
        (Failure::Change(ErrorKind::NoSpace), ErrorKind::NoSpace),
        (Failure::ShortWrite, ErrorKind::NoSpace),
        (Failure::Read, ErrorKind::Io),
    ];
    let mut faults = 0;
    for case in cases() {
        let went = Went::well(&case);
        let (changes, reads) = went.recorder.operations();
        for ((failure, kind), lasts) in failures.into_iter().flat_map(|f| [(f, false), (f, true)]) {
            let all = if failure == Failure::Read { reads } else { changes };
            for nth in 0..all {
                let storage = Arc::new(RecordingStorage::new(went.before.clone()));
                storage.fail(Fault { nth, failure, lasts });
                let result = case.run(storage.clone());
                let left = storage.contents();
                let context = format!("{}: {failure:?} {nth} {lasts}", case.name);
                // What a check could not read at once, it may have read in pieces.
                let error = match result {
                    Ok(_) if failure == Failure::Read && !lasts => {
                        case.judge(&left, &went.new, &went.new, &went.disk);
                        continue;
                    }
                    result => result.expect_err(&context),
                };
                assert_eq!(error.kind(), kind, "{context}: {error}");
                assert!(error.changed() || left == went.before, "{context}: {error}");
                case.judge(&left, &went.old, &went.new, &went.disk);
                case.retry(&left, &went.new, &went.disk);
                faults += 1;
            }
        }
    }
    println!("{faults} faults");
    assert!(faults >= 1500, "{faults} are too few");
}
