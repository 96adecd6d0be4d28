//! A disk that becomes another kind of image: it reads the same, QEMU finds nothing wrong with it, and
//! says that it is what was asked for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Env, message, same_bytes};

/// A base, and a disk above it or above nothing, with data, zeros and holes.
fn disk(options: &str, above: bool) -> Env {
    let env = Env::new();
    env.qemu_img("create -q -f raw base.raw 3M");
    env.qemu_io("raw", "base.raw", "write -P 1 0 3M");
    let below = if above { "-b base.raw -F raw" } else { "" };
    env.qemu_img(&format!("create -q -f qcow2 -o {options} {below} d.qcow2 4M"));
    env.qemu_io_all("d.qcow2", &["write -P 2 100k 300k".to_owned(), "write -P 3 3M 9k".to_owned()]);
    if !options.contains("0.10") {
        env.qemu_io_all("d.qcow2", &["write -z 200k 700k".to_owned()]);
    }
    env
}

/// What is asked for, and what QEMU then says of which field.
type Line = (&'static str, &'static str, Value);

fn says(env: &Env) -> Value {
    env.qemu_info("d.qcow2")["format-specific"]["data"].clone()
}

/// Every line in turn, on the disk that the one before left.
#[test]
fn the_disk_reads_the_same() {
    let chains: &[(&str, bool, &[Line])] = &[
        (
            "compat=1.1",
            false,
            &[
                ("--refcount-bits 64", "refcount-bits", 64.into()),
                ("--refcount-bits 1", "refcount-bits", 1.into()),
                ("--compat 0.10", "compat", "0.10".into()),
                ("--compat 1.1 --lazy-refcounts on --refcount-bits 8", "refcount-bits", 8.into()),
                ("--lazy-refcounts off", "lazy-refcounts", false.into()),
                ("--compression-type zstd", "compression-type", "zstd".into()),
            ],
        ),
        (
            "compat=1.1,cluster_size=4k,refcount_bits=32",
            true,
            &[
                ("--compat 0.10", "compat", "0.10".into()),
                ("--compat 1.1", "compat", "1.1".into()),
                ("--cluster-size 64K --extended-l2 on", "extended-l2", true.into()),
                ("--extended-l2 off --cluster-size 512", "extended-l2", false.into()),
                ("--cluster-size 2M --compat 0.10", "compat", "0.10".into()),
            ],
        ),
        ("compat=0.10", true, &[("--compat 1.1 --extended-l2 on", "extended-l2", true.into())]),
    ];
    for (options, above, lines) in chains {
        let env = disk(options, *above);
        let before = env.disk("qcow2", "d.qcow2");
        for (line, field, value) in *lines {
            let file = fs::read(env.path("d.qcow2")).unwrap();
            let told = env.report(&format!("amend d.qcow2 {line} --dry-run"));
            assert!(fs::read(env.path("d.qcow2")).unwrap() == file, "{line}: nothing is written");
            let report = env.report(&format!("amend d.qcow2 {line}"));
            assert_eq!(told["amendments"], report["amendments"], "{line}: {told:#} {report:#}");
            assert_eq!(told["rewritten"], report["rewritten"], "{line}");
            assert_eq!((&told["changed"], &report["changed"]), (&false.into(), &true.into()));
            let found = says(&env)[field].clone();
            assert_eq!(if found.is_null() { false.into() } else { found }, *value, "{line}");
            same_bytes(&env.disk("qcow2", "d.qcow2"), &before, line);
            env.is_clean("d.qcow2");
            let again = env.report(&format!("amend d.qcow2 {line}"));
            assert_eq!(again["changed"], false, "{line}: {again:#}");
        }
    }
}

/// Where clusters are compressed, another way to do that takes a new image; the file's mode stays.
#[test]
fn another_compression_type() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 4M");
    env.qemu_io_all("d.qcow2", &["write -c -P 5 0 1M".to_owned(), "write -P 6 2M 1M".to_owned()]);
    crate::support::set_mode(&env.path("d.qcow2"), 0o640);
    let before = env.disk("qcow2", "d.qcow2");
    let report = env.report("amend d.qcow2 --compression-type zstd");
    assert_eq!(report["rewritten"], true, "{report:#}");
    assert_eq!(says(&env)["compression-type"], "zstd");
    same_bytes(&env.disk("qcow2", "d.qcow2"), &before, "zstd");
    env.is_clean("d.qcow2");
    assert_eq!(fs::metadata(env.path("d.qcow2")).unwrap().mode() & 0o777, 0o640);
    assert_eq!(env.names(), ["d.qcow2"]);
}

/// Names and what a data file is.
#[test]
fn names_and_data_files() {
    let env = disk("compat=1.1", true);
    fs::copy(env.path("base.raw"), env.path("same.raw")).unwrap();
    let before = env.disk("qcow2", "d.qcow2");
    env.report("amend d.qcow2 --backing same.raw");
    let info = env.qemu_info("d.qcow2");
    assert_eq!(
        (&info["backing-filename"], &info["backing-filename-format"]),
        (&"same.raw".into(), &"raw".into())
    );
    same_bytes(&env.disk("qcow2", "d.qcow2"), &before, "the same below");
    env.report("amend d.qcow2 --no-backing");
    assert!(env.qemu_info("d.qcow2")["backing-filename"].is_null());
    env.is_clean("d.qcow2");

    env.qemu_img("create -q -f qcow2 -o data_file=x.data x.qcow2 1M");
    env.qemu_io_all("x.qcow2", &["write -P 5 100k 300k".to_owned()]);
    let before = env.disk("qcow2", "x.qcow2");
    env.report("amend x.qcow2 --data-file-raw on --allow x.data");
    same_bytes(&fs::read(env.path("x.data")).unwrap(), &before, "the data file is the disk");
    let raw = &env.qemu_info("x.qcow2")["format-specific"]["data"]["data-file-raw"];
    assert_eq!(*raw, true);
    env.report("amend x.qcow2 --data-file-raw off --allow x.data");
    same_bytes(&env.disk("qcow2", "x.qcow2"), &before, "not raw");
}

/// Whatever is refused is refused before a byte changes, by its name.
#[test]
fn what_is_refused() {
    let env = disk("compat=1.1", false);
    env.qemu_img("create -q -f qcow2 snap.qcow2 1M");
    env.qemu_io_all("snap.qcow2", &["write 0 100k".to_owned()]);
    env.qemu_img("snapshot -c one snap.qcow2");
    env.qemu_img("create -q -f qcow2 bits.qcow2 1M");
    env.qemu_img("bitmap --add bits.qcow2 b0");
    env.qemu_img("create -q -f raw d.raw 1M");
    env.qemu_img("create -q -f qcow2 -o compat=0.10 old.qcow2 1M");
    env.qemu_img("create -q -f qcow2 -o cluster_size=2M large.qcow2 200G");
    env.qemu_img("create -q -f qcow2 -o data_file=x.data x.qcow2 1M");
    for (line, kind) in [
        ("amend d.qcow2", "bad_request"),
        ("amend d.qcow2 --refcount-bits 7", "bad_request"),
        ("amend d.qcow2 --cluster-size 5000", "bad_request"),
        ("amend d.raw --compat 0.10", "unsupported_feature"),
        ("amend d.qcow2 --compat 0.10 --lazy-refcounts on", "incompatible_options"),
        ("amend d.qcow2 --compat 0.10 --refcount-bits 8", "incompatible_options"),
        ("amend d.qcow2 --data-file-raw on", "incompatible_options"),
        ("amend d.qcow2 --data-file-raw on --cluster-size 4K", "incompatible_options"),
        ("amend d.qcow2 --extended-l2 on --cluster-size 4K", "incompatible_options"),
        ("amend d.qcow2 --extended-l2 on --compat 0.10", "incompatible_options"),
        ("amend d.qcow2 --backing d.qcow2", "backing_cycle"),
        ("amend old.qcow2 --lazy-refcounts on", "incompatible_options"),
        ("amend old.qcow2 --refcount-bits 32", "incompatible_options"),
        ("amend bits.qcow2 --compat 0.10", "incompatible_options"),
        ("amend bits.qcow2 --cluster-size 4K", "unsupported_feature"),
        ("amend snap.qcow2 --compat 0.10", "has_snapshots"),
        ("amend snap.qcow2 --cluster-size 4K", "has_snapshots"),
        ("amend snap.qcow2 --compression-type zstd", "has_snapshots"),
        ("amend snap.qcow2 --refcount-bits 1", "incompatible_options"),
        ("amend large.qcow2 --cluster-size 512", "bad_size"),
        ("amend x.qcow2 --cluster-size 4K --allow x.data", "unsupported_feature"),
        ("amend x.qcow2 --compat 0.10 --allow x.data", "incompatible_options"),
    ] {
        env.refuses(line, kind);
        if kind != "bad_request" {
            env.refuses(&format!("{line} --dry-run"), kind);
        }
    }
    // Snapshots and bitmaps outlive what does not touch them.
    env.report("amend snap.qcow2 --refcount-bits 2 --lazy-refcounts on");
    env.is_clean("snap.qcow2");
    env.report("amend bits.qcow2 --refcount-bits 64");
    env.is_clean("bits.qcow2");
    let info = env.qemu_info("bits.qcow2");
    let flags = &info["format-specific"]["data"]["bitmaps"][0]["flags"];
    assert_eq!(*flags, Value::from(vec!["auto"]), "{info:#}");
}

/// What damaged entries lead to is not written over; where the header alone changes, nothing is.
#[test]
fn damaged_images() {
    for damage in ["overlap", "undercount", "beyond-file"] {
        let env = disk("compat=1.1", false);
        env.vmdisk(&format!("damage d.qcow2 --kind {damage} --seed 2")).exits(0);
        for how in ["--refcount-bits 64", "--compat 0.10", "--cluster-size 4K"] {
            env.refuses(&format!("amend d.qcow2 {how}"), "corrupt");
        }
        env.report("amend d.qcow2 --lazy-refcounts on");
    }
}

/// Killed at any moment, the disk is the old one or the new one.
#[test]
fn killed_at_any_moment() {
    let full = std::env::var_os("VMDISK_MATRIX").is_some();
    let times = if full { 60 } else { 5 };
    for line in ["--cluster-size 4K", "--compat 0.10 --refcount-bits 16"] {
        let env = disk("compat=1.1,refcount_bits=64", true);
        let before = env.disk("qcow2", "d.qcow2");
        fs::copy(env.path("d.qcow2"), env.path("kept.qcow2")).unwrap();
        for n in 0..times {
            fs::copy(env.path("kept.qcow2"), env.path("d.qcow2")).unwrap();
            let running = env.start(&format!("amend d.qcow2 {line} --progress off"));
            std::thread::sleep(Duration::from_micros(500 + n * 60_000 / times));
            running.kill();
            same_bytes(&env.disk("qcow2", "d.qcow2"), &before, line);
            let check = env.run("qemu-img", ["check", "-q", "-f", "qcow2", "d.qcow2"]);
            assert!(matches!(check.code, Some(0 | 3)), "{line}: {check:?}");
        }
        env.vmdisk(&format!("amend d.qcow2 {line}")).exits(0);
        assert_eq!(env.names(), ["base.raw", "d.qcow2", "kept.qcow2"], "nothing is left behind");
        // The last one killed may have been done but for what it had to release, which is not for
        // those to do who find nothing to amend.
        env.report("check d.qcow2 --repair leaks");
        env.is_clean("d.qcow2");
    }
}

/// Of a dirty image, counts are held against what refers to clusters before anything is written; and an
/// image that is nothing but dirty is written anew.
#[test]
fn dirty_images() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 -o lazy_refcounts=on d.qcow2 4M");
    env.qemu_io("qcow2", "d.qcow2", "write -P 9 0 1M");
    env.qemu_img("snapshot -c s d.qcow2");
    env.run("qemu-io", ["-f", "qcow2", "-c", "write -P 8 0 64k", "-c", "abort", "d.qcow2"]);
    let is_dirty = || env.qemu_info("d.qcow2")["dirty-flag"] == true;
    assert!(is_dirty());
    for dry in ["--dry-run", ""] {
        let line = format!("amend d.qcow2 --refcount-bits 1 {dry}");
        let error = env.refuses(&line, "incompatible_options");
        assert!(message(&error).contains("2 references"), "{error:#}");
    }
    assert!(is_dirty());
    env.qemu_img("create -q -f qcow2 -o lazy_refcounts=on d.qcow2 4M");
    env.run("qemu-io", ["-f", "qcow2", "-c", "write -P 8 0 64k", "-c", "abort", "d.qcow2"]);
    assert!(is_dirty());
    env.report("amend d.qcow2 --cluster-size 4K");
    env.is_clean("d.qcow2");
    assert!(env.disk("qcow2", "d.qcow2")[..64 << 10].iter().all(|&byte| byte == 8));
}
