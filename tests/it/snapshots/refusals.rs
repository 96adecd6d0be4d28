//! What is refused, by which name, with not a byte changed.

use crate::support::{Env, message};

#[track_caller]
fn refuses(env: &Env, line: &str, kind: &str, words: &str) {
    let error = env.refuses(line, kind);
    let whole = format!("{} {}", message(&error), error["data"]);
    assert!(whole.contains(words), "{line}: {error:#}");
}

#[test]
fn what_cannot_have_snapshots() {
    let env = Env::new();
    env.qemu_img("create -q -f raw d.raw 1M");
    env.qemu_img("create -q -f qcow2 -o data_file=data e.qcow2 1M");
    env.qemu_img("create -q -f qcow2 -o refcount_bits=1 one.qcow2 1M");
    env.qemu_io("qcow2", "one.qcow2", "write -P 1 0 64k");
    env.report("create h.qcow2 --size 1M --preset hyperkit");
    env.qemu_img("create -q -f qcow2 c.qcow2 1M");
    env.patch("c.qcow2", 79, &[2]);
    for (image, kind, words) in [
        ("d.raw", "unsupported_feature", "a raw disk has no"),
        ("e.qcow2", "unsupported_feature", "external data file"),
        ("one.qcow2", "unsupported_feature", "counts of 1 bits go up to 1"),
        ("h.qcow2", "unsupported_feature", "hyperkit"),
        ("c.qcow2", "corrupt", "marked corrupt"),
    ] {
        refuses(&env, &format!("snapshot create {image} x"), kind, words);
    }
    for line in ["list d.raw", "show d.raw x", "apply d.raw x", "delete d.raw x"] {
        refuses(&env, &format!("snapshot {line}"), "unsupported_feature", "a raw disk has no");
    }
    // Nothing there that would be counted twice.
    env.qemu_img("create -q -f qcow2 -o refcount_bits=1 empty.qcow2 1M");
    env.report("snapshot create empty.qcow2 x");
    env.is_clean("empty.qcow2");
}

#[test]
fn names_that_cannot_be() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 1M");
    for name in ["", "line\nfeed", &"x".repeat(256)] {
        env.refuses_args(&["snapshot", "create", "d.qcow2", name], "bad_request");
    }
    let long = "y".repeat(255);
    env.report(&format!("snapshot create d.qcow2 {long}"));
    assert_eq!(env.qemu_info("d.qcow2")["snapshots"][0]["name"], long);
    for name in ["two", "two"] {
        env.qemu_img(&format!("snapshot -c {name} d.qcow2"));
    }
    for action in ["show", "apply", "delete"] {
        let line = |name: &str| format!("snapshot {action} d.qcow2 {name}");
        refuses(&env, &line("two"), "bad_request", "the id '2' or that with the id '3'");
        refuses(&env, &line("nobody"), "not_found", "'nobody'");
    }
    env.report("snapshot delete d.qcow2 3");
    env.report("snapshot delete d.qcow2 two");
    env.is_clean("d.qcow2");
}

/// One snapshot has the other's id for its name, and the other way round: each can still be meant.
#[test]
fn names_that_are_others_ids() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 1M");
    for name in ["2", "1"] {
        env.qemu_img(&format!("snapshot -c {name} d.qcow2"));
    }
    refuses(&env, "snapshot show d.qcow2 1", "bad_request", "say id=1 or id=2");
    let shown =
        |meant: &str| env.report(&format!("snapshot show d.qcow2 {meant}"))["snapshot"].clone();
    for (meant, id) in [("id=1", "1"), ("name=2", "1"), ("id=2", "2"), ("name=1", "2")] {
        assert_eq!(shown(meant)["id"], id, "{meant}");
    }
    for nobody in ["id=3", "name=", "id="] {
        refuses(&env, &format!("snapshot delete d.qcow2 {nobody}"), "not_found", nobody);
    }
    // Nobody is taken for another one, however odd the names are.
    env.qemu_img("snapshot -c id=1 d.qcow2");
    refuses(
        &env,
        "snapshot delete d.qcow2 id=1",
        "bad_request",
        "the id '1' or that with the id '3'",
    );
    assert_eq!(shown("id=3")["name"], "id=1");
    env.report("snapshot delete d.qcow2 name=1");
    assert_eq!(env.qemu_info("d.qcow2")["snapshots"][1]["id"], "3");
    env.is_clean("d.qcow2");
}

/// A cluster that seems free in a damaged image may hold the only copy of something.
#[test]
fn damaged_images() {
    for damage in ["beyond-file", "undercount", "overlap", "copied-flag", "no-counts"] {
        let env = Env::new();
        env.qemu_img("create -q -f qcow2 d.qcow2 4M");
        env.qemu_io("qcow2", "d.qcow2", "write -P 1 0 1M");
        env.qemu_img("snapshot -c one d.qcow2");
        env.qemu_io("qcow2", "d.qcow2", "write -P 2 0 512k");
        env.vmdisk(&format!("damage d.qcow2 --kind {damage} --seed 2")).exits(0);
        for line in ["create d.qcow2 two", "apply d.qcow2 one", "delete d.qcow2 one"] {
            env.refuses(&format!("snapshot {line}"), "corrupt");
        }
    }
}

/// An image that lies above a disk shows what the disk holds.
#[test]
fn disks_that_others_lie_above() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 base.qcow2 4M");
    env.report("snapshot create base.qcow2 one");
    env.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 above.qcow2");
    refuses(&env, "snapshot apply base.qcow2 one", "has_dependents", "above.qcow2");
    env.report("snapshot create base.qcow2 two");
    env.report("snapshot apply base.qcow2 one --force");
    env.report("snapshot delete base.qcow2 one");
    env.is_clean("base.qcow2");
}

/// A machine that uses the disk keeps it, and may be looked at.
#[test]
fn disks_in_use() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 4M");
    env.report("snapshot create d.qcow2 one");
    let file = std::fs::File::open(env.path("d.qcow2")).expect("the disk");
    file.lock().expect("a lock");
    for line in ["create d.qcow2 two", "apply d.qcow2 one", "delete d.qcow2 one"] {
        env.fails(&format!("snapshot {line}"), 75, "locked");
    }
    env.report("snapshot list d.qcow2");
    env.report("snapshot show d.qcow2 one");
}
