//! Many damaged images: each is told apart, mended or left alone, in little time, whatever is
//! claimed; and what was mended is sound for `qemu-img` too.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use vmdisk::host::{Access, FileStorage};
use vmdisk::qcow2::Header;
use vmdisk::qcow2::check::scan;
use vmdisk::qcow2::damage::Damage;
use vmdisk::qcow2::repair::{RepairMode, RepairPlan};
use vmdisk::task::Cancel;

use crate::draw::{Draw, whole_matrix};
use crate::fixtures::IMAGES;
use crate::scan::task;
use crate::support::Env;

/// No image takes longer, in a build that is not slowed down by its checks.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 2 });

/// What `qemu-img check` says where a key, a driver or a file is not there that the header names.
const NAMED: &[&str] = &["encrypt.key-secret", "Could not open backing file", "No such file"];

/// What became of the images.
#[derive(Debug, Default)]
struct Tally {
    unreadable: AtomicUsize,
    sound: AtomicUsize,
    mended: AtomicUsize,
    beyond_repair: AtomicUsize,
}

fn hurt(storage: &FileStorage, draw: &mut Draw) {
    for _ in 0..=draw.below(3) {
        let Ok(header) = Header::read(storage) else { return };
        let damage = draw.pick(Damage::ALL);
        let wounds = damage.plan(storage, &header, draw.next()).unwrap_or_default();
        wounds.iter().try_for_each(|wound| wound.inflict(storage)).expect("a wound");
    }
}

/// Checks and repairs the damaged image of `env`; whether it was mended.
fn treat(env: &Env, tally: &Tally) -> bool {
    let path = env.path("d.qcow2");
    let damaged = fs::read(&path).expect("the image");
    let count = |of: &AtomicUsize| of.fetch_add(1, Ordering::Relaxed);
    let storage = env.storage("d.qcow2", Access::Write);
    let Ok(header) = Header::read(&storage) else {
        count(&tally.unreadable);
        return false;
    };
    let cancel = Cancel::new();
    let memory = Memory::now();
    let plan = RepairPlan::new(&storage, &header, RepairMode::All, task(&cancel));
    memory.is_bounded();
    let unchanged = || fs::read(&path).expect("the image") == damaged;
    assert!(unchanged(), "looking changes nothing");
    let Ok(plan) = plan else {
        count(&tally.beyond_repair);
        return false;
    };
    let memory = Memory::now();
    let record = plan.undo_record(&storage).expect("a record");
    plan.apply(&storage, task(&cancel)).expect("a repair");
    memory.is_bounded();
    if !plan.unmended.is_empty() {
        assert!(plan.is_empty() && unchanged(), "what cannot be mended is left alone");
        count(&tally.beyond_repair);
        return false;
    }
    count(if plan.is_empty() { &tally.sound } else { &tally.mended });
    let mended = Header::read(&storage).expect("a header");
    let found = scan(&storage, &mended, task(&cancel)).expect("a scan");
    assert!(found.is_clean(), "{:?}", found.findings);
    let repaired = fs::read(&path).expect("the image");
    record.undo(&storage, task(&cancel)).expect("it is taken back");
    assert!(unchanged(), "it is what it was");
    storage_is(&storage, &repaired);
    true
}

/// The memory of this process, where the system tells: what one image takes of it is measured, not
/// what the test holds beside.
struct Memory {
    before_kib: Option<u64>,
}

impl Memory {
    /// From here on.
    fn now() -> Memory {
        // Peaks are counted anew (proc(5)).
        let counted = fs::write("/proc/self/clear_refs", "5").is_ok();
        Memory { before_kib: Memory::kib("VmRSS:").filter(|_| counted) }
    }

    fn kib(name: &str) -> Option<u64> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    }

    /// Nothing since took more than 64 MiB.
    #[track_caller]
    fn is_bounded(&self) {
        let (Some(before), Some(peak)) = (self.before_kib, Memory::kib("VmHWM:")) else { return };
        assert!(peak <= before + (64 << 10), "{} KiB more than {before}", peak - before);
    }
}

fn storage_is(storage: &FileStorage, bytes: &[u8]) {
    use vmdisk::host::storage::Storage;
    storage.set_len(bytes.len() as u64).expect("a length");
    storage.write_at(0, bytes).expect("a write");
}

/// The control: who takes more is caught.
#[test]
fn memory_is_measured() {
    let memory = Memory::now();
    drop(std::hint::black_box(vec![1u8; 80 << 20]));
    let caught = std::panic::catch_unwind(|| memory.is_bounded()).is_err();
    assert!(caught || memory.before_kib.is_none());
}

/// A sample of what `VMDISK_MATRIX=full` tries 10 000 times.
#[test]
fn damaged_images_are_mended_or_left_alone() {
    let mut draw = Draw::seeded(11);
    let rounds = if whole_matrix() { 10_000 / IMAGES.len() + 1 } else { 12 };
    let cases: Vec<_> = IMAGES.iter().map(|image| (*image, draw.fork().next())).collect();
    let tally = Tally::default();
    // One at a time: the memory is that of all.
    for ((name, make), seed) in &cases {
        let (env, mut draw) = (Env::new(), Draw::from_seed(*seed));
        make(&env);
        let sound = fs::read(env.path("d.qcow2")).expect("the image");
        for round in 0..rounds {
            env.write("d.qcow2", &sound);
            hurt(&env.storage("d.qcow2", Access::Write), &mut draw);
            let begun = Instant::now();
            let mended = treat(&env, &tally);
            let took = begun.elapsed();
            assert!(took < PATIENCE, "{name}, round {round}: {took:?}");
            if mended {
                let theirs = env.run("qemu-img", ["check", "-f", "qcow2", "d.qcow2"]);
                // It opens what an image names, and that may have been damaged.
                let named = NAMED.iter().any(|named| theirs.stderr.contains(named));
                assert!(named || theirs.code == Some(0), "{name}, round {round}: {theirs:?}");
            }
        }
    }
    println!("{tally:?}");
    assert!(tally.mended.into_inner() > rounds * IMAGES.len() / 3);
}

/// The program itself, with 64 MiB of address space for all that it is.
#[test]
fn claims_take_no_memory() {
    let mut draw = Draw::seeded(12);
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 1G");
    env.qemu_io("qcow2", "d.qcow2", "write -P 7 0 1M");
    let sound = fs::read(env.path("d.qcow2")).expect("the image");
    for _ in 0..60 {
        env.write("d.qcow2", &sound);
        for kind in ["claim", "header-bits", "table-word"] {
            let seed = draw.below(1 << 30);
            env.vmdisk(&format!("damage d.qcow2 --kind {kind} --seed {seed}"));
        }
        let line = "ulimit -v 65536; exec \"$0\" check d.qcow2 --repair all --json";
        let run = env.run("sh", ["-c", line, crate::support::VMDISK]);
        assert!(matches!(run.code, Some(0..=3 | 63 | 64)), "{run:?}");
        let _ = run.json();
    }
}
