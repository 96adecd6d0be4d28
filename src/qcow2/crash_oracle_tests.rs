//! A sample of what a power cut leaves, as `qemu-img` judges it.

use std::process::Command;

use super::crash_states_tests::each_state;
use super::header::Version;
use super::scenario_tests::{Found, Run, Scenario};
use super::shape_tests::{PLAIN, Shape};
use super::subject_tests::Step;

/// So many states of each image are shown to `qemu-img`.
const SAMPLE: usize = 12;

#[test]
fn qemu_img_finds_leaks_at_worst() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.qcow2");
    let kinds = [
        (PLAIN, Found::Closed),
        (Shape { version: Version::V2, ..PLAIN }, Found::Packed),
        (Shape { order: 6, ..PLAIN }, Found::Snapshot),
        (Shape { cluster_bits: 14, extended: true, size: 224 << 10, ..PLAIN }, Found::Snapshot),
    ];
    let (mut checked, mut leaking) = (0, 0);
    for (shape, found) in kinds {
        let cluster = 1u64 << shape.cluster_bits;
        let before = vec![Step::Write(0, 6 * cluster as usize, 11)];
        let steps = vec![
            Step::Write(cluster / 2, 2 * cluster as usize, 7),
            Step::Write(8 * cluster, 3 * cluster as usize, 8),
            Step::Flush,
            Step::Discard(0, 3 * cluster),
            Step::Zero(4 * cluster, cluster),
            Step::Reopen,
        ];
        let run = Run::of(&Scenario { shape, before, found, steps });
        let mut states = Vec::new();
        each_state(&run.before, &run.events, &mut 3, |state| states.push(state.files[0].clone()));
        for state in states.iter().step_by((states.len() / SAMPLE).max(1)) {
            std::fs::write(&path, state).unwrap();
            let mut check = Command::new("qemu-img");
            check.args(["check", "-q", "-f", "qcow2"]).arg(&path);
            let code = check.status().expect("qemu-img").code();
            assert!(matches!(code, Some(0 | 3)), "{found:?}: qemu-img check ended with {code:?}");
            checked += 1;
            leaking += usize::from(code == Some(3));
        }
    }
    println!("{checked} states seen by qemu-img, {leaking} of them with leaks");
    assert!(checked >= 40 && leaking > 0);
}
