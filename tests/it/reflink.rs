//! Files that share blocks, on file systems that can: `clone` and `convert`.

use crate::mounted::{on, shares_blocks};
use crate::support::Env;

/// File systems that share blocks.
const KINDS: [&str; 2] = ["xfs", "btrfs"];

/// A raw disk, and an image with a snapshot above it.
fn disks(env: &Env) {
    env.qemu_img("create -q -f raw base.raw 16M");
    env.qemu_io("raw", "base.raw", "write -P 1 0 5M");
    env.qemu_img("create -q -f qcow2 -b base.raw -F raw d.qcow2");
    env.qemu_io("qcow2", "d.qcow2", "write -P 2 512k 3M");
    env.qemu_img("snapshot -c one d.qcow2");
    env.qemu_io("qcow2", "d.qcow2", "write -P 3 8M 300k");
    env.run("sync", ["-f", "."]).exits(0);
}

fn bytes(env: &Env, name: &str) -> Vec<u8> {
    std::fs::read(env.path(name)).expect("a disk")
}

/// Writes to one of two that were the same, and then to the other: each has what is its own.
fn are_apart(env: &Env, format: &str, first: &str, second: &str) {
    let before = env.disk(format, first);
    let same = (bytes(env, first), bytes(env, second));
    env.qemu_io(format, second, "write -P 9 1M 2M");
    assert!(bytes(env, first) == same.0, "{first}: what is written to {second} shows in it");
    assert!(env.disk(format, first) == before);
    let written = bytes(env, second);
    env.qemu_io(format, first, "write -P 8 2M 2M");
    assert!(bytes(env, second) == written, "{second}: what is written to {first} shows in it");
    if format == "qcow2" {
        env.is_clean(first);
        env.is_clean(second);
    }
}

/// A clone shares the blocks of the disk, by choice and by itself, and each goes its own way.
#[test]
fn clones_share_blocks() {
    for kind in KINDS {
        on(kind, |env| {
            disks(env);
            assert_eq!(env.report("capabilities .")["host"]["reflink"], true);
            let image = bytes(env, "d.qcow2");
            let report = env.report("clone d.qcow2 c.qcow2");
            assert_eq!(
                (&report["method"], &report["backing"]),
                (&"reflink".into(), &"base.raw".into())
            );
            assert!(bytes(env, "c.qcow2") == image && bytes(env, "d.qcow2") == image);
            assert!(shares_blocks(&env.path("c.qcow2")), "{kind}");
            are_apart(env, "qcow2", "d.qcow2", "c.qcow2");

            let report = env.report("clone base.raw c.raw --method reflink");
            assert_eq!(report["method"], "reflink");
            assert!(bytes(env, "c.raw") == bytes(env, "base.raw"));
            assert!(shares_blocks(&env.path("c.raw")), "{kind}");
            are_apart(env, "raw", "base.raw", "c.raw");

            // In another folder it gets another name for what is below it, which is its own.
            std::fs::create_dir(env.path("deep")).expect("a folder");
            let image = bytes(env, "d.qcow2");
            let line = "clone d.qcow2 deep/e.qcow2 --if-exists replace";
            env.write("deep/e.qcow2", "somebody's");
            let report = env.report(line);
            assert_eq!(report["method"], "reflink");
            assert!(bytes(env, "d.qcow2") == image, "{kind}: the other's name");
            env.qemu_img("compare -f qcow2 -F qcow2 d.qcow2 deep/e.qcow2");
            env.is_clean("deep/e.qcow2");
            assert_eq!(
                env.snapshot_disk("deep/e.qcow2", "one"),
                env.snapshot_disk("d.qcow2", "one")
            );

            // What is to be a copy shares nothing.
            let report = env.report("clone d.qcow2 f.qcow2 --method copy");
            assert_eq!(report["method"], "copy");
            assert!(bytes(env, "f.qcow2") == image);
            assert!(!shares_blocks(&env.path("f.qcow2")), "{kind}: a copy");
        });
    }
}

/// A raw disk that becomes a raw disk shares its blocks, unless it is to be looked through.
#[test]
fn raw_disks_are_converted_by_sharing() {
    for kind in KINDS {
        on(kind, |env| {
            disks(env);
            let report = env.report("convert base.raw o.raw --verify");
            assert_eq!(report["method"], "reflink", "{report:#}");
            assert!(bytes(env, "o.raw") == bytes(env, "base.raw"));
            assert!(shares_blocks(&env.path("o.raw")), "{kind}");
            are_apart(env, "raw", "base.raw", "o.raw");
            for line in ["--sparse-size 0", "--sparse-size 4K"] {
                let report =
                    env.report(&format!("convert base.raw p.raw --if-exists replace {line}"));
                assert_ne!(report["method"], "reflink", "{report:#}");
                assert!(bytes(env, "p.raw") == bytes(env, "base.raw"), "{kind} {line}");
                are_apart(env, "raw", "base.raw", "p.raw");
            }
        });
    }
}
