//! Chains of three images, drawn at random, under random writes, commits and flattenings, against
//! bytes.

use std::sync::Arc;

use proptest::prelude::*;

use super::subject_tests::{Case, Chain, Layer, PLAIN, task};
use crate::block::BlockDevice;
use crate::host::storage::MemoryStorage;
use crate::qcow2::Version;
use crate::task::Cancel;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// So many things are done to the uppermost disk.
    Write(u64),
    Commit,
    /// The uppermost keeps what it has.
    CommitAndKeep,
    Flatten,
}

fn layer() -> impl Strategy<Value = Layer> {
    let clusters = prop::sample::select(vec![(9, false), (10, false), (13, false), (14, true)]);
    (clusters, 0u32..=6, any::<bool>(), any::<bool>(), 1u64..100_000, 0u64..9).prop_map(
        |((cluster_bits, extended), order, v2, lazy, size, steps)| {
            let v2 = v2 && !extended;
            Layer {
                cluster_bits,
                order: if v2 { 4 } else { order },
                extended,
                version: if v2 { Version::V2 } else { Version::V3 },
                lazy: lazy && !v2,
                size,
                steps,
                ..PLAIN
            }
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1u64..6).prop_map(Step::Write),
        3 => Just(Step::Commit),
        1 => Just(Step::CommitAndKeep),
        1 => Just(Step::Flatten),
    ];
    prop::collection::vec(step, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_chain_shows_what_was_written(
        top in layer(),
        between in prop::option::of(layer()),
        base in layer(),
        steps in steps(),
        mut seed in any::<u64>(),
    ) {
        let raw = Layer { raw: true, size: base.size, ..PLAIN };
        let base = if seed % 3 == 0 { raw } else { base };
        let case = Case { name: "drawn", layers: [Some(top), between, Some(base)] };
        let files = case.files(seed).into_iter().map(|bytes| Arc::new(MemoryStorage::new(bytes)));
        let chain = Chain::new(&case, files.collect());
        let (mut disk, mut below) = (chain.disk("top"), chain.disk("base"));
        let mut alone = false;
        for step in steps {
            let cancel = Cancel::new();
            match step {
                Step::Write(count) => {
                    let image = chain.open("top", true).unwrap();
                    (0..count).for_each(|_| top.step(&image, &mut seed));
                    image.flush().unwrap();
                    image.read_at(0, &mut disk).unwrap();
                    image.close().unwrap();
                }
                Step::Commit | Step::CommitAndKeep if alone => {}
                Step::Commit | Step::CommitAndKeep => {
                    let empties = matches!(step, Step::Commit);
                    let done = chain.commit(empties, task(&cancel)).unwrap();
                    below.resize(below.len().max(disk.len()), 0);
                    below[..disk.len()].copy_from_slice(&disk);
                    prop_assert_eq!(done.base_size, below.len() as u64);
                    let again = chain.commit(empties, task(&cancel)).unwrap();
                    prop_assert!(!empties || !again.changed());
                }
                Step::Flatten => {
                    chain.flatten(task(&cancel)).unwrap();
                    alone = true;
                }
            }
            prop_assert!(chain.disk("top") == disk, "{step:?}: the disk");
            prop_assert!(chain.disk("base") == below, "{step:?}: the lowest");
            prop_assert_eq!(chain.leaks(), 0);
        }
    }
}
