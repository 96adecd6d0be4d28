//! An image under random operations, against a run of bytes in memory that had the same done to
//! it: the same at every step, after every flush and every reopening, with every cluster counted
//! as often as it is referred to.

use proptest::prelude::*;

use super::audit_tests::Audit;
use super::header::{CompressionType, Version};
use super::options::Preallocation;
use super::shape_tests::{Data, Shape};
use super::subject_tests::{Step, Subject};
use super::survive_tests::{Beside, Damage, survive};
use crate::block::{CacheConfig, DeviceOptions, Discard, ExtentKind, Extents};
use crate::host::storage::MemoryStorage;

impl Subject {
    fn close_and_audit(&mut self) {
        self.close().unwrap();
        self.is_sound();
        let audit = Audit::of(&MemoryStorage::new(self.files[0].contents()));
        assert_eq!(audit, Audit::default());
    }

    fn check(&self) {
        let found = self.contents();
        assert_eq!(found.len(), self.model.len());
        let differs = found.iter().zip(&self.model).position(|(a, b)| a != b);
        assert_eq!(differs, None, "the first byte that differs");
        // What is zero by its entry is zero, and every byte is in one run.
        let mut at = 0;
        for extent in Extents::of(self.image(), 0..self.model.len() as u64) {
            let extent = extent.unwrap();
            assert_eq!(extent.offset, at);
            at += extent.len;
            let bytes = &self.model[extent.offset as usize..at as usize];
            assert!(extent.kind != ExtentKind::Zero || bytes.iter().all(|&byte| byte == 0));
        }
        assert_eq!(at, self.model.len() as u64);
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let preallocations = [Preallocation::Off, Preallocation::Tables, Preallocation::Metadata];
    let discards = [Discard::Unmap, Discard::Free, Discard::KeepAllocated];
    let layout = (
        prop::sample::select(vec![(9, false), (10, false), (12, false), (14, true)]),
        0u32..=6,
        any::<bool>(),
        any::<bool>(),
        prop::sample::select(preallocations.to_vec()),
    );
    let rest = (
        prop::option::of(1u64..90_000),
        1u64..150_000,
        prop::sample::select(discards.to_vec()),
        any::<bool>(),
        prop::sample::select(vec![0, 4096, 8 << 20]),
        any::<bool>(),
        prop_oneof![4 => Just(Data::Inside), 1 => Just(Data::Apart), 1 => Just(Data::Raw)],
    );
    (layout, rest).prop_map(|(layout, rest)| {
        let ((cluster_bits, extended), order, v2, lazy, preallocation) = layout;
        let (below, size, discard, detect_zeroes, table_bytes, zstd, data) = rest;
        Shape {
            cluster_bits,
            order,
            extended,
            version: if v2 { Version::V2 } else { Version::V3 },
            compression: if zstd { CompressionType::Zstd } else { CompressionType::Zlib },
            lazy,
            preallocation,
            below,
            data,
            size,
            options: DeviceOptions {
                writable: true,
                cache: CacheConfig { table_bytes, refcount_bytes: 4096 },
                discard,
                detect_zeroes,
                keeps_contents: false,
            },
        }
        .allowed()
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![1usize..600, 1usize..40_000, Just(512), Just(4096)];
    let at = prop_oneof![0u64..150_000, (0u64..290).prop_map(|n| n * 512)];
    let step = prop_oneof![
        5 => (at.clone(), len.clone(), any::<u8>()).prop_map(|(at, len, value)| Step::Write(at, len, value)),
        4 => (0u64..300, 1u64..8, any::<u8>()).prop_map(|(at, len, value)| Step::Pack(at, len, value)),
        2 => (at.clone(), len.clone()).prop_map(|(at, len)| Step::Zero(at, len as u64)),
        2 => (at, len).prop_map(|(at, len)| Step::Discard(at, len as u64)),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => (1u64..200_000).prop_map(Step::Resize),
        1 => (1u64..200_000).prop_map(Step::ResizeInUse),
    ];
    prop::collection::vec(step, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn an_image_shows_what_was_done_to_it(shape in shapes(), steps in steps()) {
        let mut subject = Subject::new(shape);
        subject.check();
        for step in &steps {
            if matches!(step, Step::Reopen | Step::Resize(_)) {
                subject.close_and_audit();
                subject.open().unwrap();
            }
            subject.step(*step);
            subject.check();
        }
        subject.close_and_audit();
        subject.open().unwrap();
        subject.check();
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_image_is_survived(
        shape in shapes(),
        snapshot in any::<bool>(),
        bitmap in any::<bool>(),
        damage in prop::collection::vec(damage(), 1..12),
        steps in steps(),
    ) {
        survive(shape, Beside { snapshot, bitmap }, &damage, &steps);
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let (place, word) = (damaged_place, damaged_word);
    prop_oneof![
        3 => (place(), word()).prop_map(|(at, word)| Damage::Word(at, word)),
        1 => (place(), 1u16..400, word()).prop_map(|(at, times, word)| Damage::Fill(at, times, word)),
    ]
}

/// Mostly in the header and the tables, which come first.
fn damaged_place() -> impl Strategy<Value = u64> {
    let words = |most: u64| (0..most).prop_map(|n| n * 8);
    prop_oneof![1 => 0u64..120, 6 => words(600), 3 => words(40_000)]
}

/// Words that mean something as offset, flag, count or size, and any.
fn damaged_word() -> impl Strategy<Value = u64> {
    let flags = prop::sample::select(vec![0, 1, 1 << 63, 3 << 62, 1 << 62]);
    prop_oneof![
        (0u64..400, flags).prop_map(|(cluster, flags)| cluster << 9 | flags),
        (0u64..64).prop_map(|bit| 1 << bit),
        any::<u64>(),
    ]
}
