//! A header that changes as a whole: at every power cut and every failure it is the old one or the
//! new one, whatever both have in them.

use std::process::Command;
use std::sync::Arc;

use super::crash_states_tests::{each_state, with_idle_syncs};
use super::extension::Extension;
use super::feature::{Autoclear, Compatible, Incompatible, name_table};
use super::header::{BackingName, CompressionType, Header, Version};
use super::header_change::HeaderChange;
use super::raw_header::{V2_HEADER_LEN, V3_HEADER_LEN, V3_MIN_HEADER_LEN};
use super::shape_tests::{PLAIN, Shape};
use crate::error::{ErrorKind, Result};
use crate::host::recording::{Event, Failure, Fault, Record, RecordingStorage};
use crate::host::storage::MemoryStorage;

/// What a header has behind its fixed part, and how long that is.
#[derive(Debug, Clone, Copy)]
struct Layout {
    header_length: u32,
    name: usize,
    names_of_features: bool,
    /// Bytes of an extension that nobody knows.
    unknown: Option<usize>,
}

const BARE: Layout =
    Layout { header_length: V3_HEADER_LEN, name: 0, names_of_features: false, unknown: None };

const LAYOUTS: &[Layout] = &[
    BARE,
    Layout { name: 30, names_of_features: true, ..BARE },
    Layout { header_length: V3_MIN_HEADER_LEN, name: 150, ..BARE },
    Layout { name: 700, ..BARE },
    Layout { name: 1023, names_of_features: true, unknown: Some(3), ..BARE },
    Layout { unknown: Some(300), names_of_features: true, ..BARE },
    Layout { header_length: V2_HEADER_LEN, ..BARE },
    Layout { header_length: V2_HEADER_LEN, name: 411, ..BARE },
    Layout { header_length: V2_HEADER_LEN, name: 900, unknown: Some(120), ..BARE },
    Layout { header_length: V3_HEADER_LEN + 64, name: 600, ..BARE },
];

impl Layout {
    /// A header that has this, of an image whose header is `image`.
    fn of(&self, image: &Header) -> Header {
        let v2 = self.header_length == V2_HEADER_LEN;
        let mut header = image.clone();
        header.version = if v2 { Version::V2 } else { Version::V3 };
        header.header_length = self.header_length;
        header.unknown_tail = vec![7; self.header_length.saturating_sub(V3_HEADER_LEN) as usize];
        let lazy = !v2 && self.name % 2 == 1;
        header.compatible = Compatible::default().with_if(lazy, Compatible::LAZY_REFCOUNTS);
        let zstd = self.header_length >= V3_HEADER_LEN && self.name == 0;
        header.incompatible = Incompatible::default().with_if(zstd, Incompatible::COMPRESSION);
        header.compression = if zstd { CompressionType::Zstd } else { CompressionType::Zlib };
        header.autoclear = Autoclear::default();
        header.extensions = Vec::new();
        if self.names_of_features {
            header.extensions.push(Extension::FeatureNames(name_table()));
        }
        if let Some(len) = self.unknown {
            header.extensions.push(Extension::Unknown { id: 0x1234_5678, data: vec![9; len] });
        }
        let letter = b'a' + (self.name % 23) as u8;
        let name = BackingName { name: vec![letter; self.name], format: Some(b"raw".to_vec()) };
        header.with_backing(Some(&name).filter(|_| self.name > 0))
    }
}

fn change(storage: &dyn crate::host::storage::Storage, header: &Header) -> Result<Header> {
    let planned = HeaderChange::plan(storage, header)?;
    planned.apply(storage)?;
    Ok(planned.header().clone())
}

/// Two headers of one image, and what it takes to get from one to the other.
struct Case {
    what: String,
    before: Vec<u8>,
    old: Header,
    new: Header,
    records: Vec<Record>,
    after: Vec<u8>,
}

/// Every pair of layouts in clusters of every size for which there is room, and how many there are
/// for which there is none.
fn cases() -> (Vec<Case>, usize) {
    let (mut cases, mut refused) = (Vec::new(), 0);
    for cluster_bits in [9, 10, 11, 12, 16] {
        let image = MemoryStorage::default();
        Shape { cluster_bits, size: 4 << 10, ..PLAIN }.create_in(&image);
        let image = image.contents();
        let header = Header::read(&MemoryStorage::new(image.clone())).unwrap();
        for old in LAYOUTS {
            let storage = MemoryStorage::new(image.clone());
            let Ok(old_header) = change(&storage, &old.of(&header)) else { continue };
            let before = storage.contents();
            for new in LAYOUTS {
                let recorder = RecordingStorage::new(before.clone());
                let what = format!("{cluster_bits}: {old:?} to {new:?}");
                match change(&recorder, &new.of(&header)) {
                    Ok(new) => cases.push(Case {
                        what,
                        before: before.clone(),
                        old: old_header.clone(),
                        new,
                        records: recorder.records(),
                        after: recorder.contents(),
                    }),
                    Err(error) => {
                        assert!(recorder.contents() == before && !error.changed(), "{what}");
                        assert!(cluster_bits <= 11, "{what}: {error}");
                        refused += 1;
                    }
                }
            }
        }
    }
    (cases, refused)
}

impl Case {
    /// Whether the state has the new header; it has the old one otherwise.
    fn is_new(&self, state: &[u8]) -> bool {
        let found = Header::read(&MemoryStorage::new(state.to_vec()))
            .unwrap_or_else(|error| panic!("{}: {error}", self.what));
        assert!(found == self.old || found == self.new, "{}: {found:?}", self.what);
        found == self.new
    }

    /// The same change once more ends as it would have.
    fn retry(&self, state: &[u8]) {
        let storage = MemoryStorage::new(state.to_vec());
        assert_eq!(change(&storage, &self.new).unwrap(), self.new, "{}", self.what);
        let len = self.new.encode().unwrap().len();
        assert!(storage.contents()[..len] == self.after[..len], "{}", self.what);
        let cluster = self.new.geometry.cluster_len();
        assert!(storage.contents()[cluster..] == self.before[cluster..], "{}", self.what);
    }
}

#[test]
fn a_power_cut_leaves_the_old_header_or_the_new_one() {
    let (cases, refused) = cases();
    let (mut states, mut shadowed) = (0, 0);
    for case in &cases {
        assert!(case.is_new(&case.after), "{}", case.what);
        let len = case.new.encode().unwrap().len();
        assert_eq!(case.after[..len], case.new.encode().unwrap(), "{}", case.what);
        let end = case.new.geometry.cluster_len();
        assert!(case.after[len..end].iter().all(|&byte| byte == 0), "{}: remains", case.what);
        let first_sector = |event: &Event| matches!(event, Event::Write(0, _));
        let switches = case.records.iter().filter(|record| first_sector(&record.event)).count();
        shadowed += usize::from(switches == 2);
        let mut newest = 0;
        each_state(std::slice::from_ref(&case.before), &case.records, &mut 1, |state| {
            let is_new = case.is_new(&state.files[0]);
            assert!(is_new || state.durable >= newest || case.old == case.new, "{}", case.what);
            newest = newest.max(if is_new { state.durable } else { 0 });
            case.retry(&state.files[0]);
            states += 1;
        });
    }
    println!("{} changes, {shadowed} by a shadow, {refused} refused, {states} states", cases.len());
    assert!(cases.len() > 300 && shadowed > 60 && refused > 0 && states > 2500);
}

/// The control: were the syncs not there, the same exploration would find damage.
#[test]
fn without_its_barriers_a_change_would_be_caught() {
    let (cases, _) = cases();
    let caught = cases.iter().filter(|case| {
        let idle = with_idle_syncs(&case.records, |_| true);
        let mut caught = false;
        each_state(std::slice::from_ref(&case.before), &idle, &mut 1, |state| {
            let found = Header::read(&MemoryStorage::new(state.files[0].clone()));
            caught |= !found.is_ok_and(|found| found == case.old || found == case.new);
        });
        caught
    });
    assert!(caught.count() > 60);
}

/// No sync is there for nothing: with any one of them idle, some power cut does damage, or what was
/// done is not on the medium when that is said.
#[test]
fn no_sync_is_there_for_nothing() {
    let (cases, _) = cases();
    for nth in 0..5 {
        let is_needed = cases.iter().any(|case| {
            let all = case.records.iter().enumerate();
            let mut syncs = all.filter(|(_, record)| record.event == Event::Sync);
            let Some((idle, _)) = syncs.nth(nth) else { return false };
            let records = with_idle_syncs(&case.records, |n| n == idle);
            let mut damaged = false;
            each_state(std::slice::from_ref(&case.before), &records, &mut 1, |state| {
                let found = Header::read(&MemoryStorage::new(state.files[0].clone()));
                damaged |= !found.is_ok_and(|found| found == case.old || found == case.new);
                damaged |= state.durable == records.len() && state.files[0] != case.after;
            });
            damaged
        });
        assert!(is_needed, "sync {nth}");
    }
}

#[test]
fn a_failing_medium_is_reported_and_leaves_one_of_both() {
    let failures =
        [Failure::Change(ErrorKind::Io), Failure::Change(ErrorKind::NoSpace), Failure::ShortWrite];
    let mut faults = 0;
    for case in cases().0.iter().step_by(3) {
        for nth in 0..case.records.len() {
            for (failure, lasts) in failures.into_iter().flat_map(|f| [(f, false), (f, true)]) {
                let storage = Arc::new(RecordingStorage::new(case.before.clone()));
                storage.fail(Fault { nth, failure, lasts });
                let Err(error) = change(&*storage, &case.new) else {
                    panic!("{}: {nth} {failure:?} went unnoticed", case.what);
                };
                let left = storage.contents();
                assert!(error.changed() || left == case.before, "{}: {error}", case.what);
                // A write that stops inside of a sector is no medium's.
                if failure != Failure::ShortWrite {
                    case.is_new(&left);
                    case.retry(&left);
                }
                faults += 1;
            }
        }
    }
    println!("{faults} faults");
    assert!(faults > 1500);
}

/// What stands between two switches is an image to others, too.
#[test]
fn qemu_img_reads_what_a_power_cut_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.qcow2");
    let (cases, _) = cases();
    let by_shadow = cases.iter().filter(|case| case.records.len() > 8);
    let mut seen = 0;
    for case in by_shadow.step_by(9) {
        let mut states = Vec::new();
        each_state(std::slice::from_ref(&case.before), &case.records, &mut 1, |state| {
            states.push(state.files[0].clone());
        });
        for state in states.iter().step_by((states.len() / 4).max(1)) {
            std::fs::write(&path, state).unwrap();
            let expected = if case.is_new(state) { &case.new } else { &case.old };
            let mut info = Command::new("qemu-img");
            info.args(["info", "--output=json", "-f", "qcow2"]).arg(&path);
            let info = info.output().unwrap();
            let info = String::from_utf8_lossy(&info.stdout).into_owned();
            let name = expected.backing.as_ref().map_or(&[][..], |backing| &backing.name);
            let name = String::from_utf8_lossy(name).into_owned();
            let named = format!("\"backing-filename\": \"{name}\"");
            assert_eq!(info.contains(&named), !name.is_empty(), "{}: {info}", case.what);
            let compat = if expected.version == Version::V2 { "0.10" } else { "1.1" };
            assert!(info.contains(&format!("\"compat\": \"{compat}\"")), "{}: {info}", case.what);
            seen += 1;
        }
    }
    println!("{seen} states seen by qemu-img");
    assert!(seen >= 20);
}
