//! What a power cut can leave of an image that is being written, discarded, resized and flushed,
//! in every order of two things and in many of more, on images of every kind.

use std::collections::HashSet;

use super::crash_states_tests::{
    after, each_state, fingerprint, fingerprint_of, next, with_idle_syncs,
};
use super::header::Version;
use super::options::Preallocation;
use super::scenario_tests::{Found, Run, Scenario};
use super::shape_tests::{Data, PLAIN, Shape};
use super::subject_tests::{Step, Subject};
use crate::block::{DeviceOptions, Discard};

const KIB: u64 = 1024;
const FOUR_K: Shape = Shape { cluster_bits: 12, size: 160 * KIB, ..PLAIN };
const EXTENDED: Shape = Shape { cluster_bits: 14, extended: true, size: 224 * KIB, ..PLAIN };

/// Judges states, each of them once.
#[derive(Default)]
struct Explorer {
    seed: u64,
    seen: HashSet<(u64, u64)>,
}

impl Explorer {
    fn explore(&mut self, scenario: &Scenario) {
        self.explore_run(&Run::of(scenario), scenario);
    }

    fn explore_run(&mut self, run: &Run, scenario: &Scenario) {
        let below = scenario.shape.below.unwrap_or_default();
        each_state(&run.before, &run.events, &mut self.seed, |state| {
            let window = run.window(state.durable, state.begun);
            let mut shown: Vec<u8> = below.to_be_bytes().to_vec();
            shown.extend(window.iter().flat_map(|moment| moment.fingerprint.to_be_bytes()));
            if self.seen.insert((fingerprint_of(state.files), fingerprint(&shown))) {
                let (durable, begun) = (state.durable, state.begun);
                run.judge(state.files, window).unwrap_or_else(|why| {
                    panic!("{scenario:?}\n{durable} events durable, {begun} begun: {why}")
                });
            }
        });
    }

    /// Says how many states there were, which must be so many at least.
    fn done(self, what: &str, least: usize) {
        let states = self.seen.len();
        println!("{what}: {states} crash states");
        assert!(states >= least, "{what}: {states} states are too few");
    }
}

/// Data in the disk's first clusters, zeros behind, and data again.
fn beginning(shape: Shape) -> Vec<Step> {
    let cluster = 1 << shape.cluster_bits;
    let mut steps = vec![
        Step::Write(0, 6 * cluster as usize, 11),
        Step::Zero(8 * cluster, cluster),
        Step::Flush,
        Step::Write(12 * cluster + 100, 2 * cluster as usize, 5),
    ];
    if shape.order == 6 {
        // Almost as much as one block counts.
        steps.push(Step::Write(60 * cluster, 46 * cluster as usize, 3));
    }
    steps
}

/// Fifteen things to do, each of which meets what the others leave; fewer where an image cannot
/// have them done to it.
fn operations(shape: Shape, found: Found) -> Vec<Step> {
    let cluster = 1u64 << shape.cluster_bits;
    let len = |clusters: u64| (clusters * cluster) as usize;
    let all = [
        Step::Write(0, len(1), 77),
        Step::Write(cluster / 2 + 50, 300, 78),
        Step::Write(6 * cluster - 100, len(2) + 200, 79),
        Step::Write(20 * cluster, len(3), 80),
        Step::Write(8 * cluster + 64, 100, 81),
        Step::Zero(2 * cluster, 2 * cluster),
        Step::Zero(4 * cluster + 100, cluster),
        Step::Pack(1, 5, 82),
        Step::Pack(7, 3, 83),
        Step::Discard(0, 3 * cluster),
        Step::Discard(0, shape.size),
        Step::Flush,
        Step::Resize(shape.size / 2 + 512),
        Step::Resize(shape.size * 2),
        Step::ResizeInUse(shape.size * 3 / 4),
    ];
    all.into_iter().filter(|step| found.takes(shape, *step)).collect()
}

/// Every two operations one after the other, flushed between and not, and then the image is
/// closed.
fn pairs(shape: Shape, found: Found) -> impl Iterator<Item = Scenario> {
    let all = operations(shape, found);
    let firsts = all.clone();
    let pairs = firsts.into_iter().flat_map(move |first| {
        let seconds = all.clone().into_iter();
        seconds.flat_map(move |second| {
            [vec![first, second, Step::Reopen], vec![first, Step::Flush, second, Step::Reopen]]
        })
    });
    let before = beginning(shape);
    pairs.map(move |steps| Scenario { shape, before: before.clone(), found, steps })
}

/// Ten operations drawn from the same fifteen, elsewhere on the disk each time.
fn drawn(shape: Shape, found: Found, seed: &mut u64) -> Scenario {
    let all = operations(shape, found);
    let mut steps = Vec::new();
    while steps.len() < 10 {
        let step = all[next(seed) as usize % all.len()];
        let shift = next(seed) % shape.size;
        let value = next(seed) as u8;
        steps.push(match step {
            Step::Write(at, len, _) => Step::Write(at + shift, len, value),
            Step::Pack(at, clusters, _) => Step::Pack(at + shift / 512, clusters, value),
            Step::Zero(at, len) => Step::Zero(at + shift, len),
            Step::Discard(at, len) => Step::Discard(at + shift, len / 2),
            Step::Resize(size) => Step::Resize(size / 2 + shift),
            Step::ResizeInUse(size) => Step::ResizeInUse(size / 2 + shift),
            Step::Flush | Step::Reopen => step,
        });
    }
    Scenario { shape, before: beginning(shape), found, steps }
}

fn explore_pairs(what: &str, shape: Shape, found: Found, least: usize) {
    let mut explorer = Explorer::default();
    pairs(shape, found).for_each(|scenario| explorer.explore(&scenario));
    explorer.done(what, least);
}

#[test]
fn two_operations_in_small_clusters() {
    explore_pairs("pairs, clusters of 512", PLAIN, Found::Closed, 6000);
}

#[test]
fn two_operations_in_clusters_of_4k() {
    explore_pairs("pairs, clusters of 4K", FOUR_K, Found::Closed, 11_000);
}

#[test]
fn two_operations_above_a_backing_file() {
    let shape = Shape { below: Some(17 * KIB), ..PLAIN };
    explore_pairs("pairs, overlay", shape, Found::Closed, 6500);
}

#[test]
fn two_operations_in_version_2_above_a_backing_file() {
    let shape = Shape { version: Version::V2, below: Some(17 * KIB), ..PLAIN };
    explore_pairs("pairs, overlay of version 2", shape, Found::Closed, 6500);
}

#[test]
fn two_operations_in_subclusters() {
    let shape = Shape { below: Some(100 * KIB), ..EXTENDED };
    explore_pairs("pairs, subclusters", shape, Found::Closed, 11_500);
}

#[test]
fn two_operations_with_late_counts() {
    let shape = Shape { lazy: true, ..PLAIN };
    explore_pairs("pairs, lazy counts", shape, Found::Closed, 4200);
}

#[test]
fn two_operations_on_a_dirty_image() {
    let shape = Shape { lazy: true, order: 6, ..PLAIN };
    explore_pairs("pairs, dirty", shape, Found::Unclosed, 3900);
}

#[test]
fn two_operations_where_counts_need_new_blocks() {
    let shape = Shape { order: 6, size: 60 * KIB, ..PLAIN };
    explore_pairs("pairs, wide counts", shape, Found::Closed, 7000);
}

#[test]
fn two_operations_in_preallocated_clusters() {
    let shape = Shape { order: 0, preallocation: Preallocation::Metadata, ..PLAIN };
    explore_pairs("pairs, preallocated", shape, Found::Closed, 7500);
}

#[test]
fn two_operations_that_keep_what_is_discarded() {
    let options =
        DeviceOptions { discard: Discard::KeepAllocated, detect_zeroes: true, ..PLAIN.options };
    explore_pairs("pairs, room is kept", Shape { options, ..PLAIN }, Found::Closed, 5000);
}

#[test]
fn two_operations_on_packed_clusters() {
    explore_pairs("pairs, packed", PLAIN, Found::Packed, 13_000);
}

#[test]
fn two_operations_beside_a_snapshot() {
    explore_pairs("pairs, snapshot", PLAIN, Found::Snapshot, 8000);
}

#[test]
fn two_operations_on_packed_clusters_that_a_snapshot_shares() {
    explore_pairs("pairs, packed and shared", FOUR_K, Found::PackedSnapshot, 13_000);
}

#[test]
fn two_operations_with_an_external_data_file() {
    let shape = Shape { data: Data::Apart, below: Some(17 * KIB), ..PLAIN };
    explore_pairs("pairs, external data", shape, Found::Closed, 4700);
}

#[test]
fn two_operations_with_a_raw_data_file() {
    explore_pairs("pairs, raw data", Shape { data: Data::Raw, ..PLAIN }, Found::Closed, 3400);
}

#[test]
fn a_refcount_table_that_grows() {
    // A table of one cluster counts 2 MiB with 64 bits each.
    let shape = Shape { order: 6, size: 60 * KIB, ..PLAIN };
    let mut explorer = Explorer::default();
    let steps = vec![Step::Write(30 * KIB, 9 << 10, 9), Step::Discard(0, 8 * KIB), Step::Reopen];
    let found = Found::Long(2048 * KIB - 512);
    let before = vec![Step::Write(0, 24 << 10, 8)];
    let scenario = Scenario { shape, before, found, steps };
    let count = |bytes: &[u8]| u32::from_be_bytes(*bytes[56..].first_chunk().unwrap());
    let run = Run::of(&scenario);
    assert_eq!((count(&run.before[0]), count(&after(&run.before, &run.events)[0])), (1, 2));
    explorer.explore(&scenario);
    explorer.done("refcount table", 200);
}

/// What a shrink leaves: nothing in the middle of the file is in use, and no block counts it. When
/// it is written again, new clusters at the end are counted by a block that is there already.
#[test]
fn a_refcount_block_that_comes_back() {
    let shape = Shape { order: 6, size: 128 * KIB, ..PLAIN };
    let before = vec![
        Step::Write(64 * KIB, 64 << 10, 8),
        Step::Write(0, 30 << 10, 9),
        Step::Resize(40 * KIB),
        Step::Resize(128 * KIB),
    ];
    let steps = vec![Step::Write(40 * KIB, 60 << 10, 9), Step::Discard(0, 8 * KIB), Step::Reopen];
    let scenario = Scenario { shape, before, found: Found::Closed, steps };
    let run = Run::of(&scenario);
    let blocks = |bytes: &[u8]| {
        let table = u64::from_be_bytes(*bytes[48..].first_chunk().unwrap()) as usize;
        let entries = bytes[table..].as_chunks::<8>().0.iter().take(4);
        entries.map(|entry| *entry != [0; 8]).collect::<Vec<_>>()
    };
    assert_eq!(blocks(&run.before[0]), [true, false, true, true]);
    assert_eq!(blocks(&after(&run.before, &run.events)[0]), [true, true, true, true]);
    let mut explorer = Explorer::default();
    explorer.explore(&scenario);
    explorer.done("block that comes back", 600);
}

fn explore_drawn(what: &str, runs: u64, kinds: &[(Shape, Found)], least: usize) {
    let (mut explorer, mut seed) = (Explorer::default(), 7);
    for &(shape, found) in kinds {
        (0..runs).for_each(|_| explorer.explore(&drawn(shape, found, &mut seed)));
    }
    explorer.done(what, least);
}

#[test]
fn many_operations_on_plain_images() {
    let kinds = [
        (PLAIN, Found::Closed),
        (Shape { below: Some(30 * KIB), ..PLAIN }, Found::Closed),
        (Shape { version: Version::V2, below: Some(30 * KIB), ..PLAIN }, Found::Closed),
        (Shape { order: 3, preallocation: Preallocation::Metadata, ..PLAIN }, Found::Closed),
    ];
    explore_drawn("drawn, plain", 40, &kinds, 26_000);
}

#[test]
fn many_operations_where_counts_need_new_blocks() {
    let shape = Shape { order: 6, size: 60 * KIB, ..PLAIN };
    let kinds = [(shape, Found::Closed), (shape, Found::Snapshot)];
    explore_drawn("drawn, wide counts", 40, &kinds, 18_000);
}

#[test]
fn many_operations_with_late_counts() {
    let shape = Shape { lazy: true, ..PLAIN };
    let kinds = [(shape, Found::Closed), (Shape { order: 6, ..shape }, Found::Unclosed)];
    explore_drawn("drawn, lazy counts", 40, &kinds, 11_000);
}

#[test]
fn many_operations_on_what_is_shared() {
    let overlay = Shape { order: 1, below: Some(30 * KIB), ..PLAIN };
    let kinds = [
        (overlay, Found::Snapshot),
        (PLAIN, Found::Packed),
        (PLAIN, Found::PackedSnapshot),
        (Shape { version: Version::V2, ..PLAIN }, Found::PackedSnapshot),
        (PLAIN, Found::Bitmap),
    ];
    explore_drawn("drawn, shared", 32, &kinds, 40_000);
}

#[test]
fn many_operations_in_large_clusters() {
    let overlay = Some(30 * KIB);
    let kinds = [
        (Shape { below: overlay, ..FOUR_K }, Found::PackedSnapshot),
        (Shape { order: 0, lazy: true, ..FOUR_K }, Found::Closed),
        (Shape { order: 3, ..EXTENDED }, Found::Closed),
        (Shape { below: overlay, ..EXTENDED }, Found::Snapshot),
        (Shape { cluster_bits: 16, size: 512 * KIB, ..PLAIN }, Found::Closed),
    ];
    explore_drawn("drawn, large clusters", 5, &kinds, 8000);
}

#[test]
fn many_operations_with_an_external_data_file() {
    let (apart, raw) = (Shape { data: Data::Apart, ..PLAIN }, Shape { data: Data::Raw, ..PLAIN });
    let kinds = [
        (apart, Found::Closed),
        (Shape { lazy: true, below: Some(30 * KIB), ..apart }, Found::Unclosed),
        (Shape { data: Data::Apart, below: Some(100 * KIB), ..EXTENDED }, Found::Closed),
        (raw, Found::Closed),
        (Shape { lazy: true, cluster_bits: 12, size: 160 * KIB, ..raw }, Found::Unclosed),
    ];
    explore_drawn("drawn, external data", 8, &kinds, 7200);
}

/// What a power cut left is written on, and the power goes again.
#[test]
fn a_second_power_cut() {
    let (mut explorer, mut seed) = (Explorer::default(), 11);
    let kinds = [
        (PLAIN, Found::Closed),
        (Shape { order: 6, lazy: true, size: 60 * KIB, ..PLAIN }, Found::Closed),
        (Shape { below: Some(30 * KIB), ..PLAIN }, Found::PackedSnapshot),
        (EXTENDED, Found::Closed),
    ];
    for (shape, found) in kinds {
        let first = Run::of(&drawn(shape, found, &mut seed));
        let mut states = Vec::new();
        each_state(&first.before, &first.events, &mut seed, |state| {
            states.push(state.files.to_vec());
        });
        let every = (states.len() / 12).max(1);
        for state in states.into_iter().step_by(every) {
            let scenario = drawn(shape, found, &mut seed);
            let steps = &scenario.steps[..3];
            let run = Run::on(Subject::found(shape, state), steps);
            explorer.explore_run(&run, &scenario);
        }
    }
    explorer.done("second cut", 2000);
}

/// The control: if nothing ever waited for the medium, the same exploration would find damage.
#[test]
fn without_its_barriers_writing_would_be_caught() {
    let shapes = [(PLAIN, Found::Closed), (FOUR_K, Found::Closed), (PLAIN, Found::Snapshot)];
    for (shape, found) in shapes {
        let cluster = 1 << shape.cluster_bits;
        let write = Step::Write(20 * cluster, cluster as usize, 1);
        let steps = vec![write, Step::Flush, Step::Discard(0, 2 * cluster), Step::Reopen];
        let run = Run::of(&Scenario { shape, before: beginning(shape), found, steps });
        let (mut corrupt, mut states) = (0, 0);
        each_state(&run.before, &with_idle_syncs(&run.events, |_| true), &mut 1, |state| {
            // Whatever the disk shows is allowed here: the tables alone give it away.
            states += 1;
            corrupt += usize::from(run.judge(state.files, &run.moments).is_err());
        });
        println!("without barriers: {corrupt} of {states} states are damaged");
        assert!(corrupt > 0, "{found:?}");
    }
}
