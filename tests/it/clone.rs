//! `vmdisk clone`: a second disk that shows the same.

use std::os::unix::fs::{MetadataExt, symlink};

use crate::locks::qemu_io;
use crate::support::{Env, message};

/// An image with everything in it that a copy has to keep.
fn rich(env: &Env) {
    env.qemu_img("create -q -f raw base.raw 64M");
    env.qemu_io("raw", "base.raw", "write -P 1 0 1M");
    env.qemu_img("create -q -f qcow2 -b base.raw -F raw d.qcow2");
    env.qemu_io("qcow2", "d.qcow2", "write -P 2 512k 1M");
    env.qemu_img("snapshot -c one d.qcow2");
    env.qemu_img("bitmap --add d.qcow2 b0");
    env.qemu_io("qcow2", "d.qcow2", "write -P 3 40M 300k");
}

/// Byte for byte, holes included, whatever is in it.
#[test]
fn a_copy_is_the_same_bytes() {
    let env = Env::new();
    rich(&env);
    let report = env.report("clone d.qcow2 c.qcow2 --method copy");
    assert_eq!(
        (report["method"].as_str(), report["backing"].as_str()),
        (Some("copy"), Some("base.raw"))
    );
    let read = |name: &str| std::fs::read(env.path(name)).expect("an image");
    assert!(read("d.qcow2") == read("c.qcow2"));
    env.is_clean("c.qcow2");
    // A sparse file stays one.
    env.report("create big.raw --size 4G --guest none");
    env.qemu_io("raw", "big.raw", "write -P 5 1G 64k");
    let report = env.report("clone big.raw other.raw --method copy");
    assert_eq!(report["format"], "raw");
    let about = env.path("other.raw").metadata().expect("the clone");
    assert!(about.len() == 4 << 30 && about.blocks() * 512 < 1 << 20, "{}", about.blocks());
    env.qemu_img("compare -f raw -F raw big.raw other.raw");
    assert_eq!(about.mode() & 0o777, 0o600);
}

/// The best way that there is, which is told: this file system shares blocks or does not.
#[test]
fn the_best_way_is_taken_and_told() {
    let env = Env::new();
    rich(&env);
    let reflink = env.report("capabilities .")["host"]["reflink"] == true;
    let report = env.report("clone d.qcow2 c.qcow2");
    let best = if reflink { "reflink" } else { "overlay" };
    assert_eq!(report["method"], best, "{report:#}");
    env.qemu_img("compare -f qcow2 -F qcow2 d.qcow2 c.qcow2");
    if !reflink {
        let error = env.refuses("clone d.qcow2 e.qcow2 --method reflink", "unsupported_feature");
        assert!(message(&error).contains("share"), "{error:#}");
    }
    let report = env.report("clone d.qcow2 o.qcow2 --method overlay");
    assert_eq!(
        (report["method"].as_str(), report["backing"].as_str()),
        (Some("overlay"), Some("d.qcow2"))
    );
    assert!(report["notes"].to_string().contains("must not be"), "{report:#}");
    env.qemu_img("compare -f qcow2 -F qcow2 d.qcow2 o.qcow2");
    // A raw disk stays raw, unless the name of its clone promises otherwise.
    let report = env.report("clone base.raw second.raw");
    assert_eq!((report["format"].as_str(), report["method"] == "overlay"), (Some("raw"), false));
    let report = env.report("clone base.raw third.qcow2");
    assert_eq!(
        (report["format"].as_str(), report["method"].as_str()),
        (Some("qcow2"), Some("overlay"))
    );
    env.qemu_img("compare -f raw -F qcow2 base.raw third.qcow2");
}

/// A clone in another folder finds what it needs, also where the disk is named by a link.
#[test]
fn a_clone_elsewhere_finds_its_backing_file() {
    let env = Env::new();
    rich(&env);
    std::fs::create_dir_all(env.path("deep/down")).expect("folders");
    let report = env.report("clone d.qcow2 deep/down/c.qcow2 --method copy");
    let base = env.path("base.raw").canonicalize().expect("the base");
    assert_eq!(report["backing"].as_str(), base.to_str(), "{report:#}");
    env.qemu_img("compare -f qcow2 -F qcow2 d.qcow2 deep/down/c.qcow2");
    env.is_clean("deep/down/c.qcow2");
    let overlay = env.report("clone d.qcow2 deep/down/o.qcow2 --method overlay");
    assert_eq!(overlay["method"], "overlay");
    env.qemu_img("compare -f qcow2 -F qcow2 d.qcow2 deep/down/o.qcow2");
    // What leads nowhere is not taken along.
    std::fs::rename(env.path("base.raw"), env.path("away.raw")).expect("the base");
    env.refuses("clone d.qcow2 deep/e.qcow2 --method copy", "backing_missing");
    env.report("clone d.qcow2 e.qcow2 --method copy");
}

/// What is refused changes nothing, and leaves nothing behind.
#[test]
fn what_is_refused_changes_nothing() {
    let env = Env::new();
    rich(&env);
    env.write("there.qcow2", "somebody's");
    for (line, kind) in [
        ("clone d.qcow2 there.qcow2", "exists"),
        ("clone d.qcow2 d.qcow2 --if-exists replace", "bad_request"),
        ("clone d.qcow2 base.raw --if-exists replace", "bad_request"),
        ("clone missing.qcow2 c.qcow2", "not_found"),
        ("clone d.qcow2 missing/c.qcow2", "not_found"),
        ("clone d.qcow2 c.qcow2 --method best", "bad_request"),
    ] {
        env.refuses(line, kind);
    }
    symlink("nowhere", env.path("link")).expect("a link");
    env.refuses("clone d.qcow2 link", "exists");
    env.write("base.raw.vmdisk-journal", "x");
    env.refuses("clone base.raw c.raw", "dirty");
    std::fs::remove_file(env.path("base.raw.vmdisk-journal")).expect("the journal");
    // Two images would write to one data file.
    env.qemu_img("create -q -f qcow2 -o data_file=data.bin,data_file_raw=on x.qcow2 1M");
    env.refuses("clone x.qcow2 c.qcow2 --method copy", "unsupported_feature");
    let report = env.report("clone x.qcow2 c.qcow2");
    assert_eq!(report["method"], "overlay", "{report:#}");
    env.qemu_img("create -q -f qcow2 used.qcow2 1M");
    let machine = qemu_io(&env, "used.qcow2");
    env.refuses("clone used.qcow2 f.qcow2", "locked");
    machine.kill();
    env.report("clone d.qcow2 there.qcow2 --method copy --if-exists replace");
    env.qemu_img("compare -f qcow2 -F qcow2 d.qcow2 there.qcow2");
}

/// A disk of no bytes has no overlay; it is copied.
#[test]
fn a_disk_of_no_bytes_is_cloned() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 0");
    env.qemu_img("create -q -f raw d.raw 0");
    for (line, format) in [("d.qcow2 c.qcow2", "qcow2"), ("d.raw c.raw", "raw")] {
        let report = env.report(&format!("clone {line}"));
        assert_ne!(report["method"], "overlay", "{report:#}");
        assert_eq!(report["virtual_size_bytes"], 0);
        let (from, to) = line.split_once(' ').expect("two names");
        env.qemu_img(&format!("compare -q -f {format} -F {format} {from} {to}"));
    }
    env.is_clean("c.qcow2");
    env.refuses("clone d.qcow2 o.qcow2 --method overlay", "bad_size");
}
