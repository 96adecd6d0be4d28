//! Whatever is damaged: a repair leaves a sound image, or nothing changed; and what it does not
//! name as lost reads as before.

use proptest::prelude::*;

use super::patient_tests::{changed_silently, clusters, header_of, hurt, task};
use super::*;
use crate::error::ErrorKind;
use crate::host::storage::{MemoryStorage, Storage};
use crate::qcow2::Header;
use crate::qcow2::check::{Finding, scan};
use crate::qcow2::damage::Damage;
use crate::qcow2::medium_tests::Device;
use crate::qcow2::shape_tests::{PLAIN, Shape};
use crate::qcow2::wounds_tests::{image, shape};
use crate::task::Cancel;

fn damages() -> impl Strategy<Value = Vec<(Damage, u64)>> {
    let whatever = (prop::sample::select(Damage::ALL), any::<u64>());
    let word = (Just(Damage::TableWord), any::<u64>());
    prop::collection::vec(prop_oneof![2 => whatever, 1 => word], 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn random_damage_is_mended(shape in shape(), damages in damages()) {
        let storage = MemoryStorage::new(image(shape).0);
        hurt(&storage, &damages);
        let bytes = storage.contents();
        let Some(header) = header_of(&bytes) else { return Ok(()) };
        let cancel = Cancel::new();
        let Ok(plan) = RepairPlan::new(&storage, &header, RepairMode::All, task(&cancel)) else {
            return Ok(());
        };
        prop_assert!(storage.contents() == bytes);
        let record = plan.undo_record(&storage).unwrap();
        plan.apply(&storage, task(&cancel)).unwrap();
        if !plan.unmended.is_empty() {
            prop_assert!(storage.contents() == bytes);
            return Ok(());
        }
        let mended = Header::read(&storage).unwrap();
        let after = scan(&storage, &mended, task(&cancel)).unwrap();
        prop_assert!(after.is_clean(), "{:?}", after.findings);
        let shared = |finding: &Finding| matches!(finding, Finding::Shared { .. });
        prop_assert!(!after.findings.iter().any(shared), "{:?}", after.findings);
        let shape = Shape { cluster_bits: header.geometry.cluster_bits().get(), ..shape };
        let (before, after) = (clusters(shape, &bytes), clusters(shape, &storage.contents()));
        prop_assert_eq!(before.len(), after.len());
        let changed = changed_silently(&before, &after, &plan, false);
        prop_assert!(changed.is_none(), "the cluster at {changed:?}; lost {:?}", plan.lost);
        let again = RepairPlan::new(&storage, &mended, RepairMode::All, task(&cancel)).unwrap();
        prop_assert!(again.is_empty() && again.lost.is_empty());
        prop_assert_eq!(record.undo(&storage, task(&cancel)).unwrap(), !plan.is_empty());
        prop_assert!(storage.contents() == bytes);
        prop_assert!(!record.undo(&storage, task(&cancel)).unwrap());
    }
}

/// The repair of a damaged image, done.
fn repaired(damages: &[(Damage, u64)]) -> (MemoryStorage, UndoRecord) {
    let storage = MemoryStorage::new(image(PLAIN).0);
    hurt(&storage, damages);
    let (header, cancel) = (Header::read(&storage).unwrap(), Cancel::new());
    let plan = RepairPlan::new(&storage, &header, RepairMode::All, task(&cancel)).unwrap();
    let record = plan.undo_record(&storage).unwrap();
    plan.apply(&storage, task(&cancel)).unwrap();
    (storage, record)
}

/// One that adds and copies clusters, and changes much.
fn copying() -> (MemoryStorage, UndoRecord) {
    let all = (0..100).map(|seed| repaired(&[(Damage::Shared, seed), (Damage::LostBlock, seed)]));
    let much = |record: &UndoRecord| {
        record.changed.len() > 1 && !record.copied.is_empty() && !record.added.is_empty()
    };
    all.into_iter().find(|(_, record)| much(record)).unwrap()
}

/// A device cannot be cut: what was added is put back as it was.
#[test]
fn what_is_on_a_device_is_taken_back() {
    let contents = |storage: &dyn Storage| {
        let mut bytes = vec![0; 1 << 20];
        assert_eq!(storage.read_at(0, &mut bytes).unwrap(), bytes.len());
        bytes
    };
    let mut added = 0;
    for seed in 0..60 {
        let storage = Device::holding(&image(PLAIN).0, 1 << 20);
        // What nobody wrote is not zeros there.
        storage.write_at((1 << 20) - 512 * 1500, &[7; 512 * 1500]).unwrap();
        let damage = Damage::ALL[seed as usize % Damage::ALL.len()];
        if damage == Damage::Cut {
            continue;
        }
        hurt(&*storage, &[(damage, seed), (Damage::LostBlock, seed), (Damage::Shared, seed)]);
        let (before, cancel) = (contents(&*storage), Cancel::new());
        let Ok(header) = Header::read(&*storage) else { continue };
        let plan = RepairPlan::new(&*storage, &header, RepairMode::All, task(&cancel));
        let Some(plan) = plan.ok().filter(|plan| !plan.is_empty()) else { continue };
        added += u64::from(plan.copied_clusters() > 0 && plan.moves_refcount_table());
        let record = plan.undo_record(&*storage).unwrap();
        plan.apply(&*storage, task(&cancel)).unwrap();
        assert!(record.undo(&*storage, task(&cancel)).unwrap());
        assert!(contents(&*storage) == before, "{damage:?} {seed}");
    }
    assert!(added > 3, "{added}");
}

fn is_refused(record: &UndoRecord, storage: &MemoryStorage, kind: ErrorKind) {
    let (before, cancel) = (storage.contents(), Cancel::new());
    let error = record.undo(storage, task(&cancel)).unwrap_err();
    assert!(error.kind() == kind && !error.changed(), "{error}");
    assert!(storage.contents() == before);
}

/// Both owners would see what one has written since.
#[test]
fn what_was_copied_must_be_as_it_was() {
    let (storage, record) = copying();
    let copied = record.copied.first().unwrap();
    storage.write_at(copied.offset + copied.len - 1, b"!").unwrap();
    is_refused(&record, &storage, ErrorKind::Corrupt);
}

#[test]
fn a_record_that_no_repair_makes_is_refused() {
    let (storage, record) = copying();
    let lies: [fn(&mut UndoRecord); 9] = [
        |record| record.changed.clear(),
        |record| record.changed.reverse(),
        |record| record.changed[0].old.push(0),
        |record| record.changed[0].between.push(vec![0; 3]),
        |record| record.changed[0].offset = u64::MAX,
        |record| record.changed[0].between = vec![record.changed[0].new.clone(); 3],
        |record| record.old_len = record.new_len + 1,
        |record| record.added[0].len = 1 << 40,
        |record| record.copied[0].offset = record.new_len,
    ];
    for (nth, lie) in lies.into_iter().enumerate() {
        let mut record = record.clone();
        lie(&mut record);
        println!("lie {nth}");
        is_refused(&record, &storage, ErrorKind::BadRequest);
    }
}

/// A guest that took the leaked cluster again, and more behind the end, keeps what it wrote.
#[test]
fn a_file_that_has_grown_since_is_not_cut() {
    let (storage, record) = repaired(&[(Damage::LostBlock, 1)]);
    for change in &record.changed {
        storage.write_at(change.offset, &change.old).unwrap();
    }
    storage.write_at(storage.len().unwrap(), b"new").unwrap();
    is_refused(&record, &storage, ErrorKind::Corrupt);
}
