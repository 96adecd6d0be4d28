//! COPIED flags that lie: they say that a cluster is somebody's alone, or that it is not.

use crate::draw::{Draw, each, whole_matrix};
use crate::fixtures::every_image;
use crate::scan::{COPIED, Layout, OFFSET};
use crate::support::Env;

use super::disk::{Disk, IMAGE};

const COMPRESSED: u64 = 1 << 62;

/// Sets every flag, clears every flag, or turns some; without snapshots a set flag is true.
fn lie(env: &Env, draw: &mut Draw, may_set: bool) {
    let layout = Layout::of(env);
    let way = draw.below(4);
    let plain = |at: &&u64| layout.word(**at) & COMPRESSED == 0 && layout.word(**at) & OFFSET != 0;
    for &at in layout.l1.iter().chain(layout.l2.iter().filter(plain)) {
        let word = match way {
            0 | 1 if may_set => layout.word(at) | COPIED,
            2 if may_set && draw.one_in(2) => layout.word(at) ^ COPIED,
            _ => layout.word(at) & !COPIED,
        };
        env.patch(IMAGE, at, &word.to_be_bytes());
    }
}

/// Whatever the flags say, a write changes the disk that is written and no snapshot; nothing is
/// lost or leaked, and with the flags mended the image is sound.
#[test]
fn flags_that_lie_cost_nothing() {
    let mut draw = Draw::seeded(31);
    let rounds = if whole_matrix() { 30 } else { 1 };
    let kinds = ["snapshots", "plain", "external data", "subclusters", "metadata for all"];
    // Mending what has bitmaps that nobody vouches for, QEMU loses the snapshots.
    let not = ["killed", "bitmap"];
    let any = |kinds: &[&str], name: &str| kinds.iter().any(|kind| name.contains(kind));
    let fixtures = every_image().into_iter();
    let fixtures = fixtures.filter(|(name, _)| any(&kinds, name) && !any(&not, name));
    let cases: Vec<_> = fixtures.map(|image| (image, draw.fork().next())).collect();
    each(&cases, |((name, make), seed)| {
        let env = Env::new();
        make(&env);
        let mut disk = Disk::of(&env, name, Draw::from_seed(*seed));
        let may_set = name.contains("snapshots");
        for _ in 0..rounds {
            lie(&env, &mut disk.draw, may_set);
            disk.reads_so_for_us();
            disk.session(12);
            disk.reads_so_for_qemu();
            let check = env.run("qemu-img", ["check", "-f", "qcow2", "--output=json", IMAGE]);
            assert!(check.json()["leaks"].is_null(), "{name}: {check:?}");
            env.qemu_img(&format!("check -q -f qcow2 -r all {IMAGE}"));
            disk.reads_so_for_qemu();
            disk.is_sound(0);
        }
    });
}
