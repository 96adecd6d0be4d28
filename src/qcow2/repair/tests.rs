//! Whatever is damaged: a repair leaves a sound image, or nothing changed; and what it does not
//! name as lost reads as before.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::block::BlockDevice;
use crate::host::storage::MemoryStorage;
use crate::qcow2::check::scan;
use crate::qcow2::shape_tests::{PLAIN, Shape};
use crate::qcow2::subject_tests::{Step, Subject};
use crate::qcow2::table::{read_l1, read_refcount_table};
use crate::qcow2::{CompressionType, Header, Preallocation, Version};
use crate::task::{Cancel, Silent, Task};

/// Damage to one word of the file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip(u32),
    Set(u64, u32),
    /// It becomes what another word is.
    Copy(u16),
}

fn damage() -> impl Strategy<Value = (u16, Damage)> {
    let kind = prop_oneof![
        (0u32..64).prop_map(Damage::Flip),
        (any::<u64>(), 0u32..64).prop_map(|(value, shift)| Damage::Set(value, shift)),
        any::<u16>().prop_map(Damage::Copy),
    ];
    (any::<u16>(), kind)
}

fn shape() -> impl Strategy<Value = Shape> {
    (0u32..=6, any::<bool>(), any::<bool>(), 0u8..4).prop_map(|(order, below, lazy, kind)| {
        let below = below.then_some(30 << 10);
        let shape = Shape { order, below, lazy, ..PLAIN };
        match kind {
            0 => Shape { version: Version::V2, ..shape },
            1 => Shape { extended: true, cluster_bits: 14, size: 300 << 10, ..shape },
            2 => Shape { compression: CompressionType::Zstd, ..shape },
            _ => Shape { preallocation: Preallocation::Metadata, below: None, ..shape },
        }
        .allowed()
    })
}

fn image(shape: Shape) -> Vec<u8> {
    let mut subject = Subject::new(shape);
    for step in [
        Step::Write(0, 9000, 1),
        Step::Write(20_000, 3000, 9),
        Step::Pack(12, 6, 4),
        Step::Zero(1000, 2000),
        Step::Write(35_000, 600, 5),
    ] {
        subject.step(step);
    }
    subject.close().unwrap();
    subject.bytes().swap_remove(0)
}

/// Where the words of the tables are.
fn words(bytes: &[u8]) -> Vec<usize> {
    let storage = MemoryStorage::new(bytes.to_vec());
    let header = Header::read(&storage).unwrap();
    let geometry = header.geometry;
    let blocks = read_refcount_table(&storage, &header).unwrap();
    let blocks = blocks.iter().filter_map(|entry| entry.decode(geometry).unwrap());
    let l1 = read_l1(&storage, &header).unwrap();
    let tables = l1.iter().filter_map(|entry| entry.decode(geometry).unwrap());
    let clusters = tables.map(|table| table.offset).chain(blocks);
    let clusters = clusters.chain([header.l1.offset, header.refcount_table.offset]);
    let words = clusters.flat_map(|at| (at.get()..at.get() + geometry.cluster_size()).step_by(8));
    let words = words.map(|at| at as usize).filter(|at| at + 8 <= bytes.len());
    // What is not there can hardly be damaged; but a little of it is.
    words.filter(|at| at % 128 == 0 || word(bytes, *at) != 0).collect()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn apply(bytes: &mut [u8], words: &[usize], (at, damage): (u16, Damage)) {
    let pick = |at: u16| words[usize::from(at) % words.len()];
    let at = pick(at);
    let value = match damage {
        Damage::Flip(bit) => word(bytes, at) ^ 1 << bit,
        Damage::Set(value, shift) => value >> shift,
        Damage::Copy(from) => word(bytes, pick(from)),
    };
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

fn task(cancel: &Cancel) -> Task<'_> {
    Task::new(&Silent, cancel)
}

/// What each cluster reads, where it can be read.
fn clusters(shape: Shape, bytes: &[u8]) -> BTreeMap<u64, Option<Vec<u8>>> {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    let image = shape.open(&[storage], false).unwrap();
    let unit = 1u64 << shape.cluster_bits;
    let read = |at: u64| {
        let mut found = vec![0; unit.min(image.size() - at) as usize];
        image.read_at(at, &mut found).ok().map(|()| found)
    };
    (0..image.size()).step_by(unit as usize).map(|at| (at, read(at))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn random_damage_is_mended(
        shape in shape(),
        damages in prop::collection::vec(damage(), 1..5),
        cut in prop::option::weighted(0.1, any::<u16>()),
    ) {
        let mut bytes = image(shape);
        let words = words(&bytes);
        damages.into_iter().for_each(|damage| apply(&mut bytes, &words, damage));
        if let Some(cut) = cut {
            bytes.truncate(bytes.len() - usize::from(cut) % (bytes.len() / 2));
        }
        let storage = MemoryStorage::new(bytes.clone());
        let Ok(header) = Header::read(&storage) else { return Ok(()) };
        if header.encryption != crate::qcow2::Encryption::None || header.has_external_data()
            || header.virtual_size > 1 << 20 { return Ok(()) }
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
        let unit = header.geometry.cluster_size();
        let lost = |at: u64| plan.lost.iter().any(|lost| {
            lost.guest.is_some_and(|guest| (guest.get()..guest.get() + lost.bytes).contains(&at))
        });
        let shape = Shape { cluster_bits: header.geometry.cluster_bits().get(), ..shape };
        let (before, after) = (clusters(shape, &bytes), clusters(shape, &storage.contents()));
        prop_assert_eq!(before.len(), after.len());
        for (at, was) in before.into_iter().filter(|(at, _)| !lost(*at)) {
            let Some(was) = was else { continue };
            let is = after[&at].as_ref();
            prop_assert!(is.is_some(), "cluster at {at} cannot be read any more");
            prop_assert!(is == Some(&was), "cluster at {at} of {unit} differs; lost {:?}", plan.lost);
        }
        let again = RepairPlan::new(&storage, &mended, RepairMode::All, task(&cancel)).unwrap();
        prop_assert!(again.is_empty() && again.lost.is_empty());
        prop_assert_eq!(record.undo(&storage).unwrap(), !plan.is_empty());
        prop_assert!(storage.contents() == bytes);
        prop_assert!(!record.undo(&storage).unwrap());
    }
}
