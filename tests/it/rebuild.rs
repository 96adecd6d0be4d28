//! Rebuilding the reference counts of a dirty image: afterwards QEMU finds nothing, and every byte
//! of the disk and of its snapshots is what it was.

use std::sync::Arc;

use vmdisk::ErrorKind;
use vmdisk::host::Access;
use vmdisk::host::recording::{Event, RecordingStorage};
use vmdisk::host::storage::{MemoryStorage, Storage};
use vmdisk::qcow2::check::{ScanReport, scan};
use vmdisk::qcow2::{Autoclear, Header, Incompatible, Qcow2};
use vmdisk::task::Cancel;

use crate::draw::{Draw, each, whole_matrix};
use crate::fixtures::{IMAGES, Make};
use crate::scan::{COPIED, Layout, open, scanned, task};
use crate::support::{Env, same_bytes};

/// Images that a dirty bit fits and that can be opened without another file.
fn images() -> impl Iterator<Item = &'static (&'static str, Make)> {
    IMAGES.iter().filter(|(name, _)| *name != "version 2" && *name != "external data")
}

fn rebuild(storage: Box<dyn Storage>) -> vmdisk::Result<()> {
    let header = Header::read(&*storage)?;
    Qcow2::open(storage, header, None)?.rebuild_refcounts(task(&Cancel::new()))
}

fn make_dirty(env: &Env) {
    let layout = Layout::of(env);
    env.patch("d.qcow2", 79, &[layout.bytes[79] | 1]);
}

/// The disk, and each snapshot's.
fn disks(env: &Env) -> Vec<(String, Vec<u8>)> {
    let info = env.qemu_info("d.qcow2");
    let snapshots = info["snapshots"].as_array().cloned().unwrap_or_default();
    let mut disks = vec![("the disk".to_owned(), env.disk("qcow2", "d.qcow2"))];
    for snapshot in snapshots {
        let name = snapshot["name"].as_str().expect("a name").to_owned();
        let disk = env.snapshot_disk("d.qcow2", &name);
        disks.push((name, disk));
    }
    disks
}

/// Makes counts and flags as wrong as a crash can, and worse; references stay.
fn forget_counts(env: &Env, draw: &mut Draw) {
    let layout = Layout::of(env);
    match draw.below(4) {
        0 => env.patch("d.qcow2", layout.refcount_table, &[0; 8]),
        1 => env.patch("d.qcow2", layout.block, &vec![0; layout.cluster as usize]),
        2 => env.patch("d.qcow2", layout.block, &vec![0xff; layout.cluster as usize]),
        _ => {
            for _ in 0..8 {
                let at = layout.block + draw.below(layout.counts());
                env.patch("d.qcow2", at, &[draw.next() as u8]);
            }
        }
    }
    for &at in layout.l1.iter().chain(&layout.l2) {
        if draw.one_in(3) {
            let word = layout.word(at);
            env.patch("d.qcow2", at, &(word ^ COPIED).to_be_bytes());
        }
    }
}

/// Whatever the counts of a dirty image say, a rebuild makes them true: `qemu-img check` finds
/// nothing, every disk reads as before, and bitmaps are vouched for if and only if they were.
#[test]
fn a_rebuilt_image_has_nothing_wrong() {
    let mut draw = Draw::seeded(7);
    let rounds = if whole_matrix() { 20 } else { 2 };
    let cases: Vec<_> = images().map(|image| (*image, draw.fork().next())).collect();
    each(&cases, |((name, make), seed)| {
        let (env, mut draw) = (Env::new(), Draw::from_seed(*seed));
        make(&env);
        make_dirty(&env);
        let before = disks(&env);
        let bitmaps = open(&env, Access::Read).1.autoclear.contains(Autoclear::BITMAPS);
        for round in 0..rounds {
            if round > 0 {
                make_dirty(&env);
                forget_counts(&env, &mut draw);
            }
            let (storage, _) = open(&env, Access::Write);
            rebuild(Box::new(storage)).unwrap_or_else(|error| panic!("{name}: {error}"));
            env.is_clean("d.qcow2");
            assert!(scanned(&env).is_clean(), "{name}");
            let header = open(&env, Access::Read).1;
            assert!(!header.incompatible.contains(Incompatible::DIRTY), "{name}");
            assert_eq!(header.autoclear, Autoclear::default().with_if(bitmaps, Autoclear::BITMAPS));
            for ((which, found), (_, expected)) in disks(&env).iter().zip(&before) {
                same_bytes(found, expected, &format!("{name}: {which}"));
            }
        }
        // QEMU goes back to no snapshot beside bitmaps, nor where one more disk cannot be counted.
        let stays = name.contains("bitmap") || name.contains("2 bits");
        for (snapshot, expected) in before[1..].iter().filter(|_| !stays) {
            env.qemu_img(&format!("snapshot -a {snapshot} d.qcow2"));
            same_bytes(&env.disk("qcow2", "d.qcow2"), expected, &format!("{name}: {snapshot}"));
            env.is_clean("d.qcow2");
        }
    });
}

/// What would hide damage is refused, every byte as it was: references that meet metadata or each
/// other, or lead out of the file, and counts that the image has no room for.
#[test]
fn damage_is_not_counted_away() {
    type Damage = fn(&Layout) -> (u64, u64);
    let table: &[(&str, Damage)] = &[
        ("two guest clusters have one host cluster", |l| (l.l2[0], l.word(l.l2[1]))),
        ("data lies in the L1 table", |l| (l.l2[0], l.word(40) | COPIED)),
        ("data lies in the refcount table", |l| (l.l2[0], l.word(48) | COPIED)),
        ("data lies in a refcount block", |l| (l.l2[0], l.block | COPIED)),
        ("data lies in its L2 table", |l| (l.l2[0], l.word(l.l1[0]))),
        ("data lies in the header, unaligned", |l| (l.l2[0], 512 | COPIED)),
        ("data lies behind the file", |l| (l.l2[0], 1 << 45 | COPIED)),
        ("an entry has reserved bits", |l| (l.l2[0], l.word(l.l2[0]) | 1 << 60)),
        ("an L2 table lies behind the file", |l| (l.l1[0], 1 << 45)),
        ("a refcount block lies behind the file", |l| (l.refcount_table, 1 << 45)),
    ];
    let refused = |env: &Env, kind: ErrorKind, what: &str| {
        let before = std::fs::read(env.path("d.qcow2")).expect("the image");
        let storage = Arc::new(RecordingStorage::new(before));
        let error = rebuild(Box::new(storage.clone())).expect_err(what);
        assert_eq!((error.kind(), error.changed()), (kind, false), "{what}: {error}");
        assert_eq!(storage.events(), [], "{what}");
    };
    let kinds = ["plain", "deflate, snapshots", "subclusters, snapshots"];
    for (name, make) in images().filter(|(name, _)| kinds.contains(name)) {
        let env = Env::new();
        make(&env);
        make_dirty(&env);
        let mut layout = Layout::of(&env);
        layout.l2.retain(|&at| layout_is_data(&layout.bytes, at));
        for (what, damage) in table {
            let (at, word) = damage(&layout);
            env.patch("d.qcow2", at, &word.to_be_bytes());
            refused(&env, ErrorKind::Corrupt, &format!("{name}: {what}"));
            env.patch("d.qcow2", at, &layout.word(at).to_be_bytes());
        }
    }
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 2M");
    env.qemu_io_all("d.qcow2", &["write 0 64k".to_owned()]);
    (0..4).for_each(|n| drop(env.qemu_img(&format!("snapshot -c s{n} d.qcow2"))));
    make_dirty(&env);
    // Five disks share a cluster: more than two bits can count.
    env.patch("d.qcow2", 99, &[1]);
    refused(&env, ErrorKind::Dirty, "counts of two bits");
}

/// Whether the entry there leads to a whole cluster.
fn layout_is_data(bytes: &[u8], at: u64) -> bool {
    bytes[at as usize] & 0x40 == 0 && bytes[at as usize + 1..at as usize + 7] != [0; 6]
}

fn judged(state: &[u8]) -> (ScanReport, bool) {
    let storage = MemoryStorage::new(state.to_vec());
    let header = Header::read(&storage).expect("a header");
    let dirty = header.incompatible.contains(Incompatible::DIRTY);
    (scan(&storage, &header, task(&Cancel::new())).expect("a scan"), dirty)
}

/// A power cut at any point of a rebuild, with what was not synced missing in any combination:
/// the image is dirty still, or has leaks at worst, and the next try makes it sound.
#[test]
fn a_rebuild_can_be_cut_off_anywhere() {
    let kinds =
        ["counts of 4 bits, snapshots", "deflate, snapshots", "clusters of 512 bytes, snapshots"];
    let cases: Vec<_> = images().filter(|(name, _)| kinds.contains(name)).copied().collect();
    each(&cases, |(name, make)| {
        let (env, mut draw) = (Env::new(), Draw::from_seed(11));
        make(&env);
        for way in 0..3 {
            make_dirty(&env);
            forget_counts(&env, &mut draw);
            let before = std::fs::read(env.path("d.qcow2")).expect("the image");
            let recorder = Arc::new(RecordingStorage::new(before.clone()));
            rebuild(Box::new(recorder.clone())).expect("a rebuild");
            let durable = MemoryStorage::new(before);
            for epoch in recorder.events().split_inclusive(|event| *event == Event::Sync) {
                for cut in 0..=epoch.len() + 8 {
                    let bits = if cut <= epoch.len() { (1 << cut) - 1 } else { draw.next() };
                    let state = MemoryStorage::new(durable.contents());
                    let kept = epoch.iter().enumerate().filter(|(n, _)| bits >> (n % 64) & 1 == 1);
                    kept.for_each(|(_, event)| event.apply(&state).expect("memory"));
                    let (report, dirty) = judged(&state.contents());
                    let about = format!("{name} {way}: {:?}", report.findings);
                    assert!(dirty || report.corruptions == 0, "{about}");
                    assert_eq!(report.notices, 0, "{about}");
                    if dirty {
                        let again = Arc::new(state);
                        rebuild(Box::new(again.clone())).expect("the next try");
                        let (report, dirty) = judged(&again.contents());
                        assert!(report.is_clean() && !dirty, "{name}: {:?}", report.findings);
                    }
                }
                epoch.iter().for_each(|event| event.apply(&durable).expect("memory"));
            }
            env.write("d.qcow2", durable.contents());
            env.is_clean("d.qcow2");
        }
    });
}
