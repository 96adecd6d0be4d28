//! Random operations by us and by QEMU, in turn, on every kind of image that QEMU's tools make.

use crate::draw::{Draw, each, whole_matrix};
use crate::fixtures::{CHAINS, IMAGES, LAYOUTS, Make};
use crate::support::Env;

use super::disk::Disk;

/// What we write is read by QEMU, what QEMU writes is read by us, each image is sound after each
/// turn, and no snapshot changes.
fn in_turn(fixtures: &[(&'static str, Make)], seed: u64) {
    let mut draw = Draw::seeded(seed);
    let rounds = if whole_matrix() { 40 } else { 2 };
    let cases: Vec<_> = fixtures.iter().map(|image| (*image, draw.fork().next())).collect();
    each(&cases, |((name, make), seed)| {
        let env = Env::new();
        make(&env);
        let mut disk = Disk::of(&env, name, Draw::from_seed(*seed));
        disk.reads_so_for_us();
        for round in 0..rounds {
            // Half of the images are first changed by QEMU.
            if round > 0 || seed % 2 == 0 {
                disk.theirs(8);
                disk.reads_so_for_us();
            }
            disk.ours(12);
            disk.reads_so_for_qemu();
            disk.reads_so_for_us();
        }
    });
}

#[test]
fn of_every_kind() {
    in_turn(IMAGES, 21);
}

#[test]
fn of_every_layout() {
    in_turn(LAYOUTS, 22);
}

#[test]
fn with_other_files() {
    in_turn(CHAINS, 23);
}
