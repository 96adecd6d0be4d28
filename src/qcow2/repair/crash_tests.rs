//! What a power cut, or a medium that fails, leaves of an image that is being repaired: it can be
//! mended again, with no more lost than the repair said, and the repair can be taken back.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::patient_tests::{changed_silently, clusters, header_of, hurt, task};
use super::*;
use crate::block::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::host::recording::{Event, Failure, Fault, Record, RecordingStorage};
use crate::host::storage::{MemoryStorage, Storage};
use crate::qcow2::check::{Finding, scan};
use crate::qcow2::crash_states_tests::{after, each_state, with_idle_syncs};
use crate::qcow2::damage::Damage;
use crate::qcow2::geometry::HostOffset;
use crate::qcow2::shape_tests::{PLAIN, Shape};
use crate::qcow2::wounds_tests::image;
use crate::qcow2::{Header, Incompatible, Version};
use crate::task::Cancel;

/// What somebody writes to an image after the repair of it was interrupted.
const SINCE: [u8; 7] = *b"written";

/// A damaged image, and the repair of it.
struct Patient {
    what: String,
    shape: Shape,
    bytes: Vec<u8>,
    /// What each cluster reads before the repair.
    content: BTreeMap<u64, Option<Vec<u8>>>,
    plan: RepairPlan,
    record: UndoRecord,
    /// How often it was taken back after somebody had written.
    taken_back: Cell<usize>,
}

impl Patient {
    /// Nothing where there is nothing to be mended, or where it cannot be.
    fn new(shape: Shape, healthy: &[u8], damages: &[(Damage, u64)]) -> Option<Patient> {
        let storage = MemoryStorage::new(healthy.to_vec());
        hurt(&storage, damages);
        if shape.version == Version::V2 && shape.below.is_none() {
            leave_fields(&storage);
        }
        let bytes = storage.contents();
        let header = header_of(&bytes)?;
        let cancel = Cancel::new();
        let plan = RepairPlan::new(&storage, &header, RepairMode::All, task(&cancel)).ok()?;
        if plan.is_empty() {
            return None;
        }
        let what = format!("{damages:?} of {shape:?}");
        let shape = Shape { cluster_bits: header.geometry.cluster_bits().get(), ..shape };
        let content = clusters(shape, &bytes);
        let record = plan.undo_record(&storage).unwrap();
        Some(Patient { what, shape, bytes, content, plan, record, taken_back: Cell::new(0) })
    }

    /// Images of some kinds, each damaged in every way; in more places where all is to be tried.
    fn each(mut visit: impl FnMut(Patient)) {
        let rounds =
            if std::env::var("VMDISK_MATRIX").is_ok_and(|all| all == "full") { 30 } else { 1 };
        let extended = Shape { extended: true, cluster_bits: 14, size: 300 << 10, ..PLAIN };
        let shapes = [
            PLAIN,
            Shape { version: Version::V2, below: Some(30 << 10), ..PLAIN },
            Shape { version: Version::V2, ..PLAIN },
            Shape { order: 6, lazy: true, ..PLAIN },
            Shape { order: 3, ..extended },
        ];
        for shape in shapes {
            let (healthy, _) = image(shape);
            for (nth, &damage) in Damage::ALL.iter().enumerate() {
                let other = Damage::ALL[(nth + 7) % Damage::ALL.len()];
                for seed in (0..rounds).map(|round| 4 * round) {
                    let damages = [(damage, seed + 1), (damage, seed + 2), (other, seed + 3)];
                    Patient::new(shape, &healthy, &damages).into_iter().for_each(&mut visit);
                }
            }
        }
    }

    /// Repairs it on `storage`, which has its bytes.
    fn treat(&self, storage: &dyn Storage) -> Result<()> {
        let cancel = Cancel::new();
        self.plan.apply(storage, task(&cancel))
    }

    /// What is left of it is no worse than it was.
    fn judge(&self, state: &[u8]) -> Result<(), String> {
        let cancel = Cancel::new();
        let storage = MemoryStorage::new(state.to_vec());
        let header = Header::read(&storage).map_err(|error| error.to_string())?;
        if !header.incompatible.contains(Incompatible::CORRUPT) {
            self.judge_unmarked(&storage, &header)?;
        }
        let told = |error: Error| format!("it cannot be mended again: {error}");
        let again =
            RepairPlan::new(&storage, &header, RepairMode::All, task(&cancel)).map_err(told)?;
        if !again.unmended.is_empty() {
            return Err(format!("beyond repair: {:?}", again.unmended));
        }
        again.apply(&storage, task(&cancel)).map_err(|error| error.to_string())?;
        let mended = Header::read(&storage).map_err(|error| error.to_string())?;
        let found = scan(&storage, &mended, task(&cancel)).map_err(|error| error.to_string())?;
        if !found.is_clean() {
            return Err(format!("mended again, it has {:?}", found.findings));
        }
        let content = clusters(self.shape, &storage.contents());
        if let Some(at) = changed_silently(&self.content, &content, &self.plan, true) {
            return Err(format!("what is at {at} has changed"));
        }
        let storage = MemoryStorage::new(state.to_vec());
        let undone = self.record.undo(&storage, task(&cancel));
        undone.map_err(|error| format!("it is not taken back: {error}"))?;
        if storage.contents() != self.bytes {
            return Err("undone, it differs".into());
        }
        self.judge_written(state)
    }

    /// Who can open it writes to it: what it reads then, it reads afterwards, or the repair is not
    /// taken back.
    fn judge_written(&self, state: &[u8]) -> Result<(), String> {
        // Somewhere else in each state.
        let first = state
            .iter()
            .fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        for at in [first, first.wrapping_mul(7)].map(|at| at % (self.shape.size - 7)) {
            let storage = Arc::new(MemoryStorage::new(state.to_vec()));
            let write = || {
                let image = self.shape.open(std::slice::from_ref(&storage), true)?;
                image.write_at(at, &SINCE)?;
                image.close()
            };
            if write().is_err() {
                continue;
            }
            let (written, cancel) = (storage.contents(), Cancel::new());
            if self.record.undo(&*storage, task(&cancel)).is_err() {
                if storage.contents() != written {
                    return Err("refused to be taken back, it differs".into());
                }
                continue;
            }
            let [mut before, after] =
                [written, storage.contents()].map(|bytes| clusters(self.shape, &bytes));
            // What could not be read is not read again; it is as it was left.
            before.retain(|at, _| self.content.get(at).is_some_and(Option::is_some));
            if let Some(at) = changed_silently(&before, &after, &self.plan, true) {
                return Err(format!("taken back, it has lost what was at {at}"));
            }
            self.taken_back.set(self.taken_back.get() + 1);
        }
        Ok(())
    }

    /// Somebody may write to it: no cluster in use counts as free that did not before.
    fn judge_unmarked(&self, storage: &dyn Storage, header: &Header) -> Result<(), String> {
        let (before, after) = (MemoryStorage::new(self.bytes.clone()), storage);
        let was = endangered(&before, &Header::read(&before).map_err(|error| error.to_string())?);
        let is = endangered(after, header);
        match is.difference(&was).next() {
            None => Ok(()),
            Some(host) => Err(format!("what is at {host:?} may be given away")),
        }
    }
}

/// What hyperkit leaves under a header of version 2.
fn leave_fields(storage: &dyn Storage) {
    let fields = [1u64, 1, 0, 4 << 32 | 104].map(u64::to_be_bytes).concat();
    storage.write_at(72, &fields).unwrap();
}

/// Clusters that are in use and count as free, or lie where a file ends that may grow.
fn endangered(storage: &dyn Storage, header: &Header) -> BTreeSet<HostOffset> {
    let cancel = Cancel::new();
    let geometry = header.geometry;
    let report = scan(storage, header, task(&cancel)).unwrap();
    let clusters = |finding: &Finding| match finding {
        Finding::Undercount { host, stored: 0, .. } => vec![*host],
        Finding::BeyondFile { to, len, .. } => {
            let first = geometry.host_offset(geometry.host_cluster(to.host)).get();
            let all = (first..to.host.get() + len).step_by(geometry.cluster_len());
            all.map(HostOffset::new).collect()
        }
        _ => Vec::new(),
    };
    report.findings.iter().flat_map(clusters).collect()
}

/// The states that a power cut leaves, judged: how many, and what is wrong with one.
fn explore(patient: &Patient, start: &[u8], records: &[Record]) -> (usize, Option<String>) {
    let (mut states, mut wrong) = (0, None);
    each_state(&[start.to_vec()], records, &mut 5, |state| {
        states += 1;
        if wrong.is_none() {
            wrong = patient.judge(&state.files[0]).err();
        }
    });
    (states, wrong)
}

fn records(patient: &Patient) -> Vec<Record> {
    let storage = RecordingStorage::new(patient.bytes.clone());
    patient.treat(&storage).unwrap();
    storage.records()
}

#[test]
fn a_power_cut_leaves_what_can_be_mended() {
    let (mut states, mut patients, mut taken_back) = (0, 0, 0);
    Patient::each(|patient| {
        let (explored, wrong) = explore(&patient, &patient.bytes, &records(&patient));
        assert_eq!(wrong, None, "{}", patient.what);
        states += explored;
        patients += 1;
        taken_back += patient.taken_back.get();
    });
    println!("{states} states of {patients} repairs, {taken_back} taken back");
    assert!(taken_back > 200, "{taken_back} taken back after a write");
    assert!(states > 1500 && patients > 60, "{states} states of {patients} repairs");
}

#[test]
fn a_power_cut_while_it_is_taken_back() {
    let mut states = 0;
    Patient::each(|patient| {
        let storage = MemoryStorage::new(patient.bytes.clone());
        patient.treat(&storage).unwrap();
        let (repaired, cancel) = (storage.contents(), Cancel::new());
        let storage = RecordingStorage::new(repaired.clone());
        patient.record.undo(&storage, task(&cancel)).unwrap();
        let (explored, wrong) = explore(&patient, &repaired, &storage.records());
        assert_eq!(wrong, None, "{}", patient.what);
        states += explored;
    });
    println!("{states} states of repairs that are taken back");
    assert!(states > 700, "{states} states");
}

/// Numbered from the last; the others depend on whether the refcount table moves.
#[test]
fn no_sync_of_a_repair_is_there_for_nothing() {
    let (mut met, mut needed) = (BTreeSet::new(), BTreeSet::new());
    Patient::each(|patient| {
        let records = records(&patient);
        let moves = patient.plan.moves_refcount_table();
        let end = after(std::slice::from_ref(&patient.bytes), &records);
        let syncs = (0..records.len()).filter(|n| records[*n].event == Event::Sync);
        for (nth, idle) in syncs.rev().enumerate() {
            let sync = (moves && nth > 1, nth);
            met.insert(sync);
            if needed.contains(&sync) {
                continue;
            }
            let records = with_idle_syncs(&records, |n| n == idle);
            let mut whole = true;
            each_state(std::slice::from_ref(&patient.bytes), &records, &mut 5, |state| {
                whole &= state.durable < records.len() || state.files == end;
            });
            if !whole || explore(&patient, &patient.bytes, &records).1.is_some() {
                needed.insert(sync);
            }
        }
    });
    assert_eq!(needed, met);
}

#[test]
fn a_medium_that_fails_leaves_what_can_be_mended() {
    let mut faults = 0;
    Patient::each(|patient| {
        for nth in 0..records(&patient).len() {
            for failure in [Failure::Change(ErrorKind::Io), Failure::ShortWrite] {
                let storage = Arc::new(RecordingStorage::new(patient.bytes.clone()));
                storage.fail(Fault { nth, failure, lasts: true });
                let error = patient.treat(&*storage).unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::NoSpace), "{error}");
                let written = storage.contents() != patient.bytes;
                assert!(error.changed() || !written, "{error}");
                patient
                    .judge(&storage.contents())
                    .unwrap_or_else(|why| panic!("{}, {failure:?} at {nth}: {why}", patient.what));
                faults += 1;
            }
        }
    });
    assert!(faults > 500, "{faults} faults");
}
