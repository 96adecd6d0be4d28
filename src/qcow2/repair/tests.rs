//! Whatever is damaged: a repair leaves a sound image, or nothing changed; and what it does not
//! name as lost reads as before.

use proptest::prelude::*;

use super::patient_tests::{changed_silently, clusters, header_of, hurt, task};
use super::*;
use crate::error::ErrorKind;
use crate::host::storage::{MemoryStorage, Storage};
use crate::qcow2::Header;
use crate::qcow2::check::scan;
use crate::qcow2::damage::Damage;
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
        prop_assert_eq!(after.notices, 0, "{:?}", after.findings);
        let shape = Shape { cluster_bits: header.geometry.cluster_bits().get(), ..shape };
        let (before, after) = (clusters(shape, &bytes), clusters(shape, &storage.contents()));
        prop_assert_eq!(before.len(), after.len());
        let changed = changed_silently(&before, &after, &plan, false);
        prop_assert!(changed.is_none(), "the cluster at {changed:?}; lost {:?}", plan.lost);
        let again = RepairPlan::new(&storage, &mended, RepairMode::All, task(&cancel)).unwrap();
        prop_assert!(again.is_empty() && again.lost.is_empty());
        prop_assert_eq!(record.undo(&storage).unwrap(), !plan.is_empty());
        prop_assert!(storage.contents() == bytes);
        prop_assert!(!record.undo(&storage).unwrap());
    }
}

/// A guest that took the leaked cluster again, and more behind the end, keeps what it wrote.
#[test]
fn a_file_that_has_grown_since_is_not_cut() {
    let storage = MemoryStorage::new(image(PLAIN).0);
    hurt(&storage, &[(Damage::LostBlock, 1)]);
    let (header, cancel) = (Header::read(&storage).unwrap(), Cancel::new());
    let plan = RepairPlan::new(&storage, &header, RepairMode::All, task(&cancel)).unwrap();
    let record = plan.undo_record(&storage).unwrap();
    plan.apply(&storage, task(&cancel)).unwrap();
    for change in &record.changed {
        storage.write_at(change.offset, &change.old).unwrap();
    }
    storage.write_at(storage.len().unwrap(), b"new").unwrap();
    let since = storage.contents();
    let error = record.undo(&storage).unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && !error.changed(), "{error}");
    assert!(storage.contents() == since);
}
