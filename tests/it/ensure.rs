//! `ensure` and `create --if-exists`: calls that can be repeated.

use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::support::{Env, PUBLIC_KEY, Run, is_root, message};

/// At every start of a machine the same call: creates, then does nothing at all, then grows, then
/// refuses to shrink.
#[test]
fn ensure_creates_grows_or_does_nothing() {
    let env = Env::new();
    env.write("id.pub", PUBLIC_KEY);
    let formats = [("d.qcow2", ""), ("d.raw", ""), ("d.img", "--format raw"), ("d", "")];
    for (disk, flags) in formats {
        let line = |size: &str| format!("ensure {disk} --size {size} --ssh-key id.pub {flags}");
        let is = |report: Value, action: &str, size: u64| {
            assert_eq!(report["action"], action, "{disk}: {report:#}");
            assert_eq!(report["changed"], action != "unchanged", "{disk}: {report:#}");
            assert_eq!(report["virtual_size_bytes"], size, "{disk}: {report:#}");
        };
        is(env.report(&line("8M")), "created", 8 << 20);
        let created = env.contents();
        is(env.report(&line("8M")), "unchanged", 8 << 20);
        is(env.report(&format!("ensure {disk} {flags}")), "unchanged", 8 << 20);
        is(env.report(&line("8388600B")), "unchanged", 8 << 20);
        assert_eq!(created, env.contents(), "{disk}");
        is(env.report(&line("24M")), "grown", 24 << 20);
        let grown = env.contents();
        is(env.report(&line("24M")), "unchanged", 24 << 20);
        assert_eq!(grown, env.contents(), "{disk}");
        let error = env.refuses(&line("8M"), "would_shrink");
        assert!(message(&error).contains("25165824") && message(&error).contains("8388608"));
        // The payload is still what the guest finds.
        let begin = env.guest_bytes(disk, 0, 29);
        assert_eq!(begin, b"boot2docker, please format-me", "{disk}");
    }
    env.is_clean("d.qcow2");
}

/// What `ensure` finds is another disk than the one asked for: it says what differs.
#[test]
fn ensure_tells_what_differs() {
    let env = Env::new();
    env.qemu_img("create -f qcow2 base.qcow2 1M");
    env.qemu_img("create -f qcow2 -b base.qcow2 -F qcow2 over.qcow2");
    env.report("create d.qcow2 --size 1M");
    env.report("create d.raw --size 1M");
    let line = |disk: &str, flags: &str| format!("ensure {disk} --size 1M {flags}");
    env.refuses(&line("d.raw", "--format qcow2"), "format_mismatch");
    for (disk, flags, differs) in DIFFERENCES {
        let error = env.refuses(&line(disk, flags), "exists");
        for word in *differs {
            assert!(message(&error).contains(word), "{flags}: {error:#}");
        }
        let keep = format!("create {disk} --size 1M --if-exists keep {flags}");
        let error = env.refuses(&keep, "exists");
        assert!(differs.iter().all(|word| message(&error).contains(word)), "{error:#}");
    }
    // As they are they are kept, the overlay under any name that leads to its base.
    std::fs::create_dir(env.path("sub")).expect("a folder");
    for line in [
        "create d.qcow2 --size 1M --if-exists keep --cluster-size 64K --compat 1.1",
        "create d.raw --size 1M --if-exists keep",
        "create over.qcow2 --backing sub/../base.qcow2 --if-exists keep",
        "ensure over.qcow2 --size 1M --backing ./base.qcow2",
    ] {
        let before = env.contents();
        assert_eq!(env.report(line)["changed"], false, "{line}");
        assert_eq!(before, env.contents(), "{line}");
    }
    let keep = |size: &str| format!("create d.qcow2 --size {size} --if-exists keep");
    for size in ["512K", "2M"] {
        let error = env.refuses(&keep(size), "exists");
        assert!(message(&error).contains("size is 1 MiB (1048576 bytes)"), "{error:#}");
    }
}

/// Name and content say qcow2: `--format raw` asks for another disk, and is no leave to stretch
/// this one as if it were raw.
#[test]
fn ensure_keeps_formats_apart() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M");
    env.refuses("ensure d.qcow2 --size 1M --format raw", "format_mismatch");
    env.refuses("ensure d.qcow2 --size 8M --format raw", "format_mismatch");
}

/// What is asked for about what is added counts when the disk grows, as it does at creation.
#[test]
fn ensure_grows_as_asked() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M --preallocation off");
    let report = env.report("ensure d.qcow2 --size 8M --preallocation full");
    assert_eq!(report["action"], "grown", "{report:#}");
    assert_eq!(report["preallocation"], "full", "{report:#}");
    assert!(report["notes"].as_array().is_some_and(Vec::is_empty), "{report:#}");
    let again = env.report("ensure d.qcow2 --size 8M --preallocation full");
    assert_eq!(again["notes"].as_array().map(Vec::len), Some(1), "{again:#}");
    assert!(env.report("info d.qcow2")["allocated_bytes"].as_u64() > Some(7 << 20));
}

/// A disk, flags, and the words that the difference is told in.
const DIFFERENCES: &[(&str, &str, &[&str])] = &[
    ("d.qcow2", "--cluster-size 4K", &["cluster size is 64 KiB", "4096"]),
    ("d.qcow2", "--compat 0.10", &["compat is 1.1", "0.10"]),
    ("d.qcow2", "--refcount-bits 32", &["refcount bits is 16", "32"]),
    ("d.qcow2", "--extended-l2 on", &["extended L2 is"]),
    ("d.qcow2", "--compression-type zstd", &["compression type is zlib", "zstd"]),
    ("d.qcow2", "--lazy-refcounts on", &["lazy refcounts is"]),
    ("d.qcow2", "--backing base.qcow2", &["no backing file", "base.qcow2"]),
    ("d.raw", "--backing base.qcow2", &["raw disk has no backing file"]),
    ("over.qcow2", "", &["backing file is 'base.qcow2'"]),
    ("over.qcow2", "--backing d.qcow2", &["backing file is 'base.qcow2'", "d.qcow2"]),
];

/// Many starts at once: one creates the disk, the others find it.
#[test]
fn many_at_once_make_one_disk() {
    let env = Env::new();
    let line = "ensure d.qcow2 --size 20G --json --lock-timeout 30";
    let runs: Vec<_> = (0..20).map(|_| env.start(line)).collect();
    let runs: Vec<Run> = runs.into_iter().map(|run| run.wait()).collect();
    for run in &runs {
        assert!([Some(0), Some(75)].contains(&run.code), "{run:?}");
    }
    let created = runs.iter().filter(|run| run.json()["action"] == "created").count();
    let unchanged = runs.iter().filter(|run| run.json()["action"] == "unchanged").count();
    assert_eq!((created, unchanged), (1, 19), "with so much time nobody has to give up");
    assert_eq!(env.names(), ["d.qcow2"]);
    env.is_clean("d.qcow2");
}

/// A symbolic link stands for the disk that it leads to, whatever is done to that disk.
#[test]
fn links_lead_to_their_disks() {
    let env = Env::new();
    std::fs::create_dir(env.path("far")).expect("a folder");
    env.report("create far/d.qcow2 --size 1M");
    symlink("far/d.qcow2", env.path("near.qcow2")).expect("a link");
    let far = || std::fs::read(env.path("far/d.qcow2")).expect("the disk");
    let before = far();
    env.refuses("create near.qcow2 --size 2M", "exists");
    env.refuses("create near.qcow2 --size 2M --if-exists keep", "exists");
    assert_eq!(before, far());
    let links = || env.path("near.qcow2").is_symlink() && !env.path("far/d.qcow2").is_symlink();
    let size = || env.report("info far/d.qcow2")["virtual_size_bytes"].as_u64().unwrap_or(0) >> 20;
    env.report("create near.qcow2 --size 2M --if-exists replace");
    assert_eq!((size(), links()), (2, true));
    env.report("ensure near.qcow2 --size 3M");
    assert_eq!((size(), links()), (3, true));
    env.report("resize near.qcow2 --size 4M");
    assert_eq!((size(), links()), (4, true));
    assert_eq!(env.names(), ["far", "near.qcow2"]);
}

/// Links that lead nowhere, or in circles, are neither followed nor replaced.
#[test]
fn links_that_lead_nowhere() {
    let env = Env::new();
    symlink("gone.qcow2", env.path("dangling.qcow2")).expect("a link");
    symlink("right.qcow2", env.path("left.qcow2")).expect("a link");
    symlink("left.qcow2", env.path("right.qcow2")).expect("a link");
    for (disk, kind) in [("dangling.qcow2", "not_found"), ("left.qcow2", "io")] {
        env.refuses(&format!("create {disk} --size 1M"), "exists");
        env.refuses(&format!("create {disk} --size 1M --if-exists keep"), "exists");
        env.refuses(&format!("create {disk} --size 1M --if-exists replace"), "exists");
        env.refuses(&format!("ensure {disk} --size 1M"), kind);
        env.refuses(&format!("resize {disk} --size 1M"), kind);
        env.refuses(&format!("info {disk}"), kind);
    }
}

/// What a preset promises is held against the disk that is there.
#[test]
fn a_preset_is_more_than_a_name() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M --preallocation off");
    for verb in ["ensure d.qcow2", "create d.qcow2 --if-exists keep"] {
        for flags in ["--preset hyperkit", "--preset compat-0.10"] {
            env.refuses(&format!("{verb} --size 1M {flags}"), "exists");
        }
    }
    env.report("create h.qcow2 --size 1M --preset hyperkit");
    env.report("ensure h.qcow2 --size 1M --preset hyperkit");
    env.report("create r.raw --size 1M");
    env.refuses("ensure r.raw --size 1M --cluster-size 4K", "exists");
    env.write("base.raw", vec![0; 1 << 20]);
    env.report("create o.qcow2 --backing base.raw --backing-format raw");
    env.refuses("ensure o.qcow2 --backing base.raw --backing-format qcow2", "exists");
}

/// What takes the place of a disk takes its mode and owner too, unless others are asked for.
#[test]
fn a_replaced_disk_hands_down_mode_and_owner() {
    use std::os::unix::fs::MetadataExt;
    let env = Env::new();
    env.report("create d.qcow2 --size 1M --mode 0640");
    if is_root() {
        env.run("chown", ["12345:54321", "d.qcow2"]).exits(0);
    }
    let about = || std::fs::metadata(env.path("d.qcow2")).expect("the disk");
    let before = about();
    env.report("create d.qcow2 --size 2M --if-exists replace");
    let after = about();
    assert_eq!(
        (after.mode(), after.uid(), after.gid()),
        (before.mode(), before.uid(), before.gid())
    );
    assert_ne!(after.ino(), before.ino());
    env.report("create d.qcow2 --size 2M --if-exists replace --mode 0600");
    assert_eq!(about().mode() & 0o777, 0o600);
}
