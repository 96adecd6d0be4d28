//! An image that is amended is the old one or the new one whenever the power goes, reads the same,
//! and has leaks at worst.

use std::sync::Arc;

use super::{Amended, Amendment};
use crate::block::{BlockDevice, DeviceOptions};
use crate::error::{ErrorKind, Result};
use crate::host::recording::{Failure, Fault, Record, RecordingStorage};
use crate::host::storage::{MemoryStorage, Storage};
use crate::qcow2::audit_tests::Audit;
use crate::qcow2::crash_states_tests::{each_state, with_idle_syncs};
use crate::qcow2::feature::Compatible;
use crate::qcow2::fixtures_tests::leaking;
use crate::qcow2::geometry::RefcountOrder;
use crate::qcow2::header::{BackingName, CompressionType, Header, Version};
use crate::qcow2::shape_tests::{Data, PLAIN, Shape, contents, in_memory};
use crate::task::{Cancel, Silent, Task};

const KIB: u64 = 1024;

struct Case {
    what: &'static str,
    shape: Shape,
    amendment: Amendment,
}

fn order(order: u32) -> Option<RefcountOrder> {
    RefcountOrder::new(order)
}

fn cases() -> Vec<Case> {
    let case = |what, shape: Shape, amendment| Case { what, shape: shape.allowed(), amendment };
    let v2 = Amendment { version: Some(Version::V2), ..Amendment::default() };
    let v3 = Amendment { version: Some(Version::V3), ..Amendment::default() };
    let width = |to| Amendment { refcount_order: order(to), ..Amendment::default() };
    let narrow = Shape { order: 6, ..PLAIN };
    let overlay = Shape { below: Some(30 * KIB), ..PLAIN };
    let name = |len: usize| {
        let name = BackingName { name: vec![b'n'; len], format: Some(b"qcow2".to_vec()) };
        Amendment { backing: Some(Some(name)), ..Amendment::default() }
    };
    vec![
        case("wider counts", PLAIN, width(6)),
        case("1-bit counts", PLAIN, width(0)),
        case("narrower counts", narrow, width(1)),
        case(
            "counts in subclusters",
            Shape { cluster_bits: 14, extended: true, ..narrow },
            width(3),
        ),
        case("to version 2", PLAIN, v2.clone()),
        case("to version 2 above a backing file", overlay, v2.clone()),
        case("to version 2 with wide counts", Shape { below: Some(9 * KIB), ..narrow }, v2.clone()),
        case("to version 2, 64 KiB", Shape { cluster_bits: 16, ..PLAIN }, v2),
        case("to version 3", Shape { version: Version::V2, ..PLAIN }, v3.clone()),
        case(
            "to version 3 with wide counts",
            Shape { version: Version::V2, cluster_bits: 13, size: 200 * KIB, ..overlay },
            Amendment { refcount_order: order(5), lazy_refcounts: Some(true), ..v3 },
        ),
        case("lazy", PLAIN, Amendment { lazy_refcounts: Some(true), ..Amendment::default() }),
        case(
            "not lazy",
            Shape { lazy: true, ..PLAIN },
            Amendment { lazy_refcounts: Some(false), ..Amendment::default() },
        ),
        case(
            "zstd",
            Shape { cluster_bits: 12, ..PLAIN },
            Amendment { compression: Some(CompressionType::Zstd), ..width(5) },
        ),
        case("a name", Shape { cluster_bits: 12, ..overlay }, name(900)),
        case("no name", overlay, Amendment { backing: Some(None), ..Amendment::default() }),
    ]
}

impl Case {
    fn image(&self) -> Vec<Vec<u8>> {
        let files = in_memory(&self.shape.create());
        let image = self.shape.open(&files, true).unwrap();
        let size = self.shape.size;
        image.write_at(1000, &[0xee; 5000]).unwrap();
        image.write_zeroes(size / 4, size / 3).unwrap();
        image.write_at(size - 700, &[0xdd; 700]).unwrap();
        image.write_at(size / 3 + 200, &[0xcc; 100]).unwrap();
        image.close().unwrap();
        files.iter().map(|file| file.contents()).collect()
    }

    fn amend<S: Storage + 'static>(&self, files: &[Arc<S>]) -> Result<Amended> {
        let mut image = self.shape.open(files, true)?;
        let amended = image.amend(&self.amendment, Task::new(&Silent, &Cancel::new()))?;
        image.close()?;
        Ok(amended)
    }

    /// The files before, what was done to them, and the files afterwards.
    fn record(&self) -> (Vec<Vec<u8>>, Vec<Record>, Vec<Vec<u8>>) {
        let before = self.image();
        let files = RecordingStorage::together(before.clone());
        let files: Vec<_> = files.into_iter().map(Arc::new).collect();
        self.amend(&files).unwrap_or_else(|error| panic!("{}: {error}", self.what));
        (before, files[0].records(), files.iter().map(|file| file.contents()).collect())
    }

    fn disk(&self, state: &[Vec<u8>]) -> Vec<u8> {
        contents(&self.shape.open(&in_memory(state), false).unwrap()).unwrap()
    }

    /// What the header says but for the places of tables.
    fn says(&self, file: &[u8]) -> Header {
        let header = Header::read(&MemoryStorage::new(file.to_vec())).unwrap();
        header.without_places()
    }

    /// Whether the state is the new image.
    fn judge(&self, state: &[Vec<u8>], old: &[Vec<u8>], new: &[Vec<u8>]) -> bool {
        let audit = Audit::of(&MemoryStorage::new(state[0].clone()));
        assert!(audit.dirty || audit.is_harmless(), "{}: {audit:?}", self.what);
        let found = self.says(&state[0]);
        // Counts that are late are announced.
        let dirty = crate::qcow2::feature::Incompatible::DIRTY;
        let found = Header { incompatible: found.incompatible.without(dirty), ..found };
        let (old_says, new_says) = (self.says(&old[0]), self.says(&new[0]));
        assert!(found == old_says || found == new_says, "{}: {found:?}", self.what);
        if self.amendment.backing != Some(None) || found != new_says {
            assert!(self.disk(state) == self.disk(old), "{}: reads something else", self.what);
        }
        found == new_says
    }

    fn retry(&self, state: &[Vec<u8>], old: &[Vec<u8>], new: &[Vec<u8>]) {
        let files = in_memory(state);
        self.amend(&files).unwrap_or_else(|error| panic!("{}: {error}", self.what));
        let after: Vec<_> = files.iter().map(|file| file.contents()).collect();
        assert!(self.judge(&after, old, new), "{}", self.what);
    }
}

impl Header {
    fn without_places(self) -> Header {
        let nowhere = crate::qcow2::header::TableRef {
            offset: crate::qcow2::geometry::HostOffset::ZERO,
            count: 0,
        };
        Header { l1: nowhere, refcount_table: nowhere, ..self }
    }
}

#[test]
fn a_power_cut_leaves_the_old_image_or_the_new_one() {
    let (mut states, mut seed) = (0, 1);
    for case in cases() {
        let (before, records, after) = case.record();
        assert!(case.judge(&after, &before, &after), "{}: it is amended", case.what);
        let audit = Audit::of(&MemoryStorage::new(after[0].clone()));
        assert_eq!((audit.leaks, audit.dirty), (0, false), "{}", case.what);
        let mut n = 0;
        each_state(&before, &records, &mut seed, |state| {
            case.judge(state.files, &before, &after);
            n += 1;
            if n % 4 == 0 {
                case.retry(state.files, &before, &after);
            }
        });
        states += n;
    }
    println!("{states} states");
    assert!(states > 250, "{states} are too few");
}

/// The control: were the syncs not there, the same exploration would find damage.
#[test]
fn without_its_barriers_an_amendment_would_be_caught() {
    for case in cases().iter().filter(|case| case.what.contains("wide")) {
        let (before, records, after) = case.record();
        let mut caught = false;
        each_state(&before, &with_idle_syncs(&records, |_| true), &mut 1, |state| {
            let judged = || case.judge(state.files, &before, &after);
            let judged = std::panic::AssertUnwindSafe(judged);
            caught = caught || std::panic::catch_unwind(judged).is_err();
        });
        assert!(caught, "{}", case.what);
    }
}

#[test]
fn a_failing_medium_is_reported_and_leaves_one_of_both() {
    let failures = [Failure::Change(ErrorKind::Io), Failure::Change(ErrorKind::NoSpace)];
    let mut faults = 0;
    for case in cases() {
        let (before, records, after) = case.record();
        for nth in (0..records.len()).step_by(1 + records.len() / 60) {
            for (failure, lasts) in failures.into_iter().flat_map(|f| [(f, false), (f, true)]) {
                let files = RecordingStorage::together(before.clone());
                let files: Vec<_> = files.into_iter().map(Arc::new).collect();
                files[0].fail(Fault { nth, failure, lasts });
                let done = case.amend(&files);
                let left: Vec<_> = files.iter().map(|file| file.contents()).collect();
                case.judge(&left, &before, &after);
                case.retry(&left, &before, &after);
                if let Err(error) = done {
                    let same = left == before;
                    assert!(error.changed() || same, "{} {nth}: {error}", case.what);
                    faults += 1;
                }
            }
        }
    }
    println!("{faults} faults");
    assert!(faults > 400, "{faults} are too few");
}

/// A data file that becomes the disk, byte for byte, and one that need not be it any more.
#[test]
fn a_data_file_becomes_the_disk() {
    let shape = Shape { data: Data::Apart, cluster_bits: 12, size: 100 * KIB, ..PLAIN };
    let raw = |on| Amendment { raw_data_file: Some(on), ..Amendment::default() };
    let case = Case { what: "raw", shape, amendment: raw(true) };
    let mut before = case.image();
    // What nothing refers to is not zeros.
    before[1].resize(90 * KIB as usize, 0x77);
    let files = in_memory(&before);
    let disk = case.disk(&before);
    assert!(files[1].contents() != disk);
    case.amend(&files).unwrap();
    assert!(files[1].contents() == disk, "the data file is the disk");
    let after: Vec<_> = files.iter().map(|file| file.contents()).collect();
    assert!(case.disk(&after) == disk);
    let case = Case { amendment: raw(false), ..case };
    case.amend(&files).unwrap();
    let header = Header::read(&*files[0]).unwrap();
    assert_eq!(header.autoclear.bits(), 0);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let default = Amendment::default;
    let v2 = || Amendment { version: Some(Version::V2), ..default() };
    let old = Shape { version: Version::V2, ..PLAIN };
    let extended = Shape { cluster_bits: 14, extended: true, ..PLAIN };
    let zstd = Shape { compression: CompressionType::Zstd, ..PLAIN };
    let apart = Shape { data: Data::Apart, ..PLAIN };
    let raw = Shape { data: Data::Raw, ..PLAIN };
    let named = Some(Some(BackingName { name: b"b".to_vec(), format: None }));
    for (shape, amendment) in [
        (old, Amendment { lazy_refcounts: Some(true), ..default() }),
        (old, Amendment { refcount_order: order(5), ..default() }),
        (old, Amendment { compression: Some(CompressionType::Zstd), ..default() }),
        (PLAIN, Amendment { refcount_order: order(5), ..v2() }),
        (PLAIN, Amendment { lazy_refcounts: Some(true), ..v2() }),
        (PLAIN, Amendment { backing: named.clone(), ..v2() }),
        (extended, v2()),
        (zstd, v2()),
        (apart, v2()),
        (raw, Amendment { backing: named, ..default() }),
        (PLAIN, Amendment { raw_data_file: Some(true), ..default() }),
    ] {
        let before = shape.create();
        let files = in_memory(&before);
        let mut image = shape.open(&files, true).unwrap();
        let error = image.amend(&amendment, Task::new(&Silent, &Cancel::new())).unwrap_err();
        let what = format!("{shape:?} {amendment:?}: {error}");
        assert_eq!(
            (error.kind(), error.changed()),
            (ErrorKind::IncompatibleOptions, false),
            "{what}"
        );
        drop(image);
        assert!(files.iter().map(|file| file.contents()).eq(before), "{what}");
    }
    // To be read is not to be written.
    let files = in_memory(&PLAIN.create());
    let options = DeviceOptions::default();
    let mut image = Shape { options, ..PLAIN }.open(&files, false).unwrap();
    let lazy = Amendment { lazy_refcounts: Some(true), ..default() };
    let planned = image.plan_amendment(&lazy, Task::new(&Silent, &Cancel::new())).unwrap();
    assert!(planned.is_change() && planned.new.compatible.contains(Compatible::LAZY_REFCOUNTS));
    let error = image.amend(&lazy, Task::new(&Silent, &Cancel::new())).unwrap_err();
    assert_eq!((error.kind(), error.changed()), (ErrorKind::Permission, false));
}

/// Counts of another width count what is used, and no more: neither what is leaked nor what is counted
/// behind the end of the file, which would be in it then.
#[test]
fn what_is_leaked_is_not_counted_anew() {
    for cut in [false, true] {
        let mut bytes = leaking(PLAIN.create().remove(0));
        if cut {
            bytes.truncate(bytes.len() - 6 * 512);
        }
        let before = bytes.len() as u64;
        let files = in_memory(&[bytes]);
        let mut image = PLAIN.open(&files, true).unwrap();
        let cancel = Cancel::new();
        let amendment = Amendment { refcount_order: order(6), ..Amendment::default() };
        image.amend(&amendment, Task::new(&Silent, &cancel)).unwrap();
        image.close().unwrap();
        assert_eq!(Audit::of(&files[0]), Audit::default());
        assert!(files[0].len().unwrap() <= before + 8 * 512, "{}", files[0].len().unwrap());
    }
}
