//! Snapshots of random disks, taken, applied and deleted in any order, against a model in memory.

use proptest::prelude::*;

use super::change::NewSnapshot;
use super::subject_tests::{Kept, Turn};
use crate::error::ErrorKind;
use crate::host::storage::MemoryStorage;
use crate::qcow2::audit_tests::Audit;
use crate::qcow2::check::scan;
use crate::qcow2::fixtures_tests::{leaking, made_by, table_counted_twice, with_many_snapshots};
use crate::qcow2::header::{CompressionType, Version};
use crate::qcow2::options::Preallocation;
use crate::qcow2::shape_tests::{PLAIN, Shape, in_memory};
use crate::qcow2::subject_tests::Step;
use crate::task::{Cancel, Progress, Silent, Task};

fn shapes() -> impl Strategy<Value = Shape> {
    let preallocations = [Preallocation::Off, Preallocation::Metadata];
    (
        prop::sample::select(vec![(9, false), (12, false), (14, true)]),
        prop::sample::select(vec![0u32, 1, 2, 3, 4, 4, 5, 6]),
        (any::<bool>(), any::<bool>(), any::<bool>()),
        prop::sample::select(preallocations.to_vec()),
        prop::option::of(1u64..90_000),
        1u64..150_000,
    )
        .prop_map(
            |((cluster_bits, extended), order, (v2, lazy, zstd), preallocation, below, size)| {
                Shape {
                    cluster_bits,
                    order,
                    extended,
                    version: if v2 { Version::V2 } else { Version::V3 },
                    compression: if zstd { CompressionType::Zstd } else { CompressionType::Zlib },
                    lazy,
                    preallocation,
                    below,
                    size,
                    ..PLAIN
                }
                .allowed()
            },
        )
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let len = prop_oneof![1usize..600, 1usize..40_000, Just(512)];
    let at = prop_oneof![0u64..150_000, (0u64..290).prop_map(|n| n * 512)];
    let step = prop_oneof![
        5 => (at.clone(), len.clone(), any::<u8>()).prop_map(|(at, len, value)| Step::Write(at, len, value)),
        2 => (0u64..300, 1u64..8, any::<u8>()).prop_map(|(at, len, value)| Step::Pack(at, len, value)),
        1 => (at.clone(), len.clone()).prop_map(|(at, len)| Step::Zero(at, len as u64)),
        2 => (at, len).prop_map(|(at, len)| Step::Discard(at, len as u64)),
        1 => Just(Step::Reopen),
        1 => (1u64..200_000).prop_map(Step::ResizeInUse),
    ];
    let turn = prop_oneof![
        5 => step.prop_map(Turn::Disk),
        3 => Just(Turn::Create),
        2 => (0usize..8).prop_map(Turn::Apply),
        2 => (0usize..8).prop_map(Turn::Delete),
        2 => Just(Turn::Compact),
    ];
    prop::collection::vec(turn, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_disk_shows_what_it_should(shape in shapes(), turns in turns()) {
        let mut kept = Kept::new(shape);
        for turn in turns {
            if !kept.takes(turn) {
                continue;
            }
            kept.turn(turn);
            if matches!(turn, Turn::Disk(_)) {
                assert!(kept.subject.contents() == kept.subject.model);
            } else {
                kept.check();
            }
        }
        // The last one goes, and nothing of any is left.
        while !kept.snapshots.is_empty() {
            kept.turn(Turn::Delete(0));
            kept.check();
        }
        kept.turn(Turn::Disk(Step::Reopen));
        kept.check();
        let audit = Audit::of(&MemoryStorage::new(kept.subject.bytes().remove(0)));
        prop_assert_eq!(audit, Audit::default());
    }
}

/// What snapshots come and go takes room once: new structures go where old ones were.
#[test]
fn a_file_does_not_grow_with_every_snapshot() {
    let shape = Shape { size: 400 << 10, preallocation: Preallocation::Metadata, ..PLAIN };
    let mut kept = Kept::new(shape);
    kept.turn(Turn::Disk(Step::Reopen));
    let before = kept.subject.bytes()[0].len();
    let mut lens = Vec::new();
    for _ in 0..6 {
        kept.turn(Turn::Create);
        kept.turn(Turn::Delete(0));
        kept.check();
        lens.push(kept.subject.bytes()[0].len());
    }
    assert!(lens[5] <= lens[1] && lens[5] < before + before / 10, "{before}: {lens:?}");
}

/// A table has 65536 entries at most; one that is full can be used, and loses entries.
#[test]
fn a_full_table_takes_no_more() {
    let shape = Shape { cluster_bits: 16, size: 1 << 20, ..PLAIN };
    let made = made_by(shape, &[Step::Write(0, 70_000, 3)]).0.remove(0);
    let full = with_many_snapshots(made, 65_536);
    let files = in_memory(std::slice::from_ref(&full));
    let mut image = shape.open(&files, false).unwrap();
    let cancel = Cancel::new();
    let task = Task::new(&Silent, &cancel);
    let error = image.create_snapshot(&NewSnapshot::now("one more"), task).unwrap_err();
    assert_eq!((error.kind(), error.changed()), (ErrorKind::HasSnapshots, false), "{error}");
    assert!(error.to_string().contains("65536 snapshots") && files[0].contents() == full);
    image.delete_snapshot("00007", task).unwrap();
    image.create_snapshot(&NewSnapshot::now("one more"), task).unwrap();
    let snapshots = image.snapshots().unwrap();
    assert_eq!((snapshots.len(), &snapshots[7].id[..]), (65_536, &b"00008"[..]));
    assert_eq!(&snapshots[65_535].id[..], b"65536");
    let audit = scan(&*files[0], image.header(), task).unwrap();
    assert!(audit.is_clean(), "{:?}", audit.findings);
}

/// What is counted too often does not hide that the disk alone is left: nothing is leaked afterwards,
/// and every flag is true.
#[test]
fn leaks_are_freed_first() {
    for (found, turn) in [
        (leaking as fn(Vec<u8>) -> Vec<u8>, Turn::Create),
        (leaking, Turn::Apply(0)),
        (leaking, Turn::Delete(0)),
        (table_counted_twice, Turn::Create),
        (table_counted_twice, Turn::Apply(0)),
        (table_counted_twice, Turn::Delete(0)),
    ] {
        let mut kept = Kept::new(PLAIN);
        kept.turn(Turn::Disk(Step::Write(0, 20_000, 7)));
        kept.turn(Turn::Create);
        kept.subject.close().unwrap();
        let mut kept = Kept::found(PLAIN, found(kept.subject.bytes().remove(0)));
        kept.subject.open().unwrap();
        kept.turn(turn);
        kept.check();
    }
}

/// Stopped before the switch, a change leaves the very bytes that were there.
#[test]
fn a_change_that_is_stopped_leaves_no_trace() {
    struct TripsOnProgress(Cancel);
    impl Progress for TripsOnProgress {
        fn advance(&self, phase: &'static str, _: u64, _: u64) {
            if phase == "snapshot" {
                self.0.trip();
            }
        }
    }
    let shape = Shape { size: 300 << 10, preallocation: Preallocation::Metadata, ..PLAIN };
    let before = made_by(shape, &[Step::Write(0, 70_000, 3)]).0;
    let files = in_memory(&before);
    let mut image = shape.open(&files, false).unwrap();
    let progress = TripsOnProgress(Cancel::new());
    let task = Task::new(&progress, &progress.0);
    let error = image.create_snapshot(&NewSnapshot::now("one"), task).unwrap_err();
    assert_eq!((error.kind(), error.changed()), (ErrorKind::Cancelled, false));
    assert!(files[0].contents() == before[0]);
}
