//! `salvage`: what can be read of a damaged disk, held against what `qemu-io` wrote; what cannot is
//! named, with its reason.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::Value;
use vmdisk::host::LockPolicy;
use vmdisk::image::gate::Trust;
use vmdisk::ops::{Context, SalvageRequest};
use vmdisk::task::{Cancel, Progress};

use crate::support::{Env, message, same_bytes, set_mode};

const SIZE: usize = 16 << 20;

/// An image with plain, compressed and zero clusters, and what its guest sees.
fn image(env: &Env, options: &str) -> Vec<u8> {
    env.qemu_img(&format!("create -q -f qcow2 {options} d.qcow2 16M"));
    let mut commands: Vec<String> =
        ["write -P 17 0 300k", "write -P 3 1M 64k", "write -z 2M 128k", "write -P 99 9999k 2M"]
            .map(str::to_owned)
            .to_vec();
    // Neither what has a place already is packed, nor less than a cluster.
    let unpacked = ["data_file", "preallocation", "cluster_size=2M"];
    if !unpacked.iter().any(|option| options.contains(option)) {
        commands.extend((4..9).map(|n| format!("write -c -P {n} {} 64k", n << 20)));
    }
    env.qemu_io_all("d.qcow2", &commands);
    env.disk("qcow2", "d.qcow2")
}

/// Salvages `d.qcow2` to `o.raw`; something must be lost exactly if the exit code says so.
#[track_caller]
fn salvaged(env: &Env, flags: &str) -> (Value, Vec<u8>) {
    let _ = fs::remove_file(env.path("o.raw"));
    let run = env.vmdisk(&format!("salvage d.qcow2 o.raw {flags} --json"));
    let report = run.json();
    let code = if report["lost_bytes"] == 0 { 0 } else { 2 };
    assert_eq!((run.code, run.stderr.as_str()), (Some(code), ""), "{report:#}");
    let sum: u64 = losses(&report).iter().map(|(_, len, _)| len).sum();
    assert_eq!(report["lost_bytes"], sum, "{report:#}");
    let disk = fs::read(env.path("o.raw")).expect("the new disk");
    assert_eq!(report["virtual_size_bytes"], disk.len() as u64);
    (report, disk)
}

fn losses(report: &Value) -> Vec<(u64, u64, String)> {
    let number = |value: &Value| value.as_u64().expect("a number");
    let lost = report["lost"].as_array().expect("a list").iter();
    let loss = |loss: &Value| {
        let reason = loss["reason"].as_str().expect("a reason").to_owned();
        (number(&loss["guest_offset_bytes"]), number(&loss["length_bytes"]), reason)
    };
    lost.map(loss).collect()
}

fn reasons(report: &Value) -> Vec<String> {
    let mut reasons: Vec<_> = losses(report).into_iter().map(|(_, _, reason)| reason).collect();
    reasons.dedup();
    reasons
}

/// Outside of what is lost the disk is as written, or as `seen`; inside it is zeros.
#[track_caller]
fn is_as_written(report: &Value, disk: &[u8], written: &[u8], seen: &[u8], what: &str) {
    let (mut written, mut seen) = (written.to_vec(), seen.to_vec());
    for (from, len, _) in losses(report) {
        let lost = from as usize..(from + len) as usize;
        written[lost.clone()].fill(0);
        seen[lost].fill(0);
    }
    for (number, found) in disk.chunks(512).enumerate() {
        let at = number * 512;
        let believable = written[at..].starts_with(found) || seen[at..].starts_with(found);
        assert!(believable, "{what}: the sector at {at} differs");
    }
}

/// Nothing of a sound image is lost, whatever its features, and what reads as zeros takes no room.
#[test]
fn sound_images_are_copied() {
    let env = Env::new();
    for options in [
        "",
        "-o compat=0.10",
        "-o cluster_size=512",
        "-o cluster_size=2M",
        "-o compression_type=zstd",
        "-o extended_l2=on",
        "-o preallocation=metadata",
        "-o data_file=d.data",
        "-o data_file=d.data,data_file_raw=on",
        "-o lazy_refcounts=on",
    ] {
        let written = image(&env, options);
        let (report, disk) = salvaged(&env, "");
        assert_eq!(losses(&report), [], "{options}");
        same_bytes(&disk, &written, options);
        let allocated = report["allocated_bytes"].as_u64().expect("a number");
        assert!(allocated < 4 << 20, "{options}: {report:#}");
        for file in ["d.qcow2", "d.data"] {
            let _ = fs::remove_file(env.path(file));
        }
    }
    fs::write(env.path("d.img"), vec![7; 70_000]).expect("a raw disk");
    env.vmdisk("salvage d.img copy.raw").exits(0);
    same_bytes(&fs::read(env.path("copy.raw")).expect("it"), &[7; 70_000], "a raw disk");
}

/// Every kind of damage, in many places: what is given was written, or is what QEMU reads too.
#[test]
fn damage_of_every_kind() {
    let env = Env::new();
    for (kind, loses) in [
        ("leak", false),
        ("undercount", false),
        ("no-counts", false),
        ("lost-block", false),
        ("copied-flag", false),
        ("shared", false),
        ("overlap", true),
        ("loop", true),
        ("misaligned", true),
        ("beyond-file", true),
        ("reserved-bit", true),
        ("compressed", true),
        ("subclusters", true),
        ("cut", true),
        ("table-bits", true),
    ] {
        let options =
            if kind == "subclusters" { "-o extended_l2=on" } else { "-o cluster_size=4k" };
        let mut lost = 0;
        for seed in 0..6 {
            let written = image(&env, options);
            env.vmdisk(&format!("damage d.qcow2 --kind {kind} --seed {seed}")).exits(0);
            let before = fs::read(env.path("d.qcow2")).expect("the image");
            let (report, disk) = salvaged(&env, "");
            assert!(fs::read(env.path("d.qcow2")).expect("the image") == before);
            let args = ["convert", "--salvage", "-f", "qcow2", "-O", "raw", "d.qcow2", "seen"];
            env.run("qemu-img", args);
            let mut seen = fs::read(env.path("seen")).unwrap_or_default();
            seen.resize(SIZE, 0);
            is_as_written(&report, &disk, &written, &seen, &format!("{kind} {seed}"));
            lost += report["lost_bytes"].as_u64().expect("a number");
        }
        assert!(loses || lost == 0, "{kind} loses nothing");
        let chance = ["overlap", "loop", "table-bits"].contains(&kind);
        assert!(!loses || chance || lost > 0, "{kind} loses something");
    }
}

/// Each reason comes from what it says.
#[test]
fn every_reason_is_told() {
    let env = Env::new();
    for (kind, options, reason) in [
        ("beyond-file", "", "beyond_file"),
        ("misaligned", "", "malformed"),
        ("reserved-bit", "", "malformed"),
        ("compressed", "", "compressed"),
    ] {
        let found = (0..20).any(|seed| {
            image(&env, options);
            env.vmdisk(&format!("damage d.qcow2 --kind {kind} --seed {seed}")).exits(0);
            reasons(&salvaged(&env, "").0) == [reason]
        });
        assert!(found, "{kind} is {reason}");
    }
    let text = env.vmdisk("salvage d.qcow2 o.raw --if-exists replace").exits(2);
    assert!(text.stdout.contains("lost: guest bytes") && text.stdout.contains("LOST:"), "{text:?}");
}

/// The file is cut inside the L1 table: everything is lost, and told. One that is cut inside its
/// data has what is before the cut.
#[test]
fn a_file_that_ends_early() {
    let env = Env::new();
    let written = image(&env, "");
    let l1 = crate::header::RawHeader::read(&env.path("d.qcow2")).get("l1_table_offset");
    let whole = fs::read(env.path("d.qcow2")).expect("the image");
    env.write("d.qcow2", &whole[..l1 as usize + 3]);
    let (report, _) = salvaged(&env, "");
    assert_eq!(losses(&report), [(0, SIZE as u64, "beyond_file".to_owned())]);
    let cut = whole.len() - (1 << 20) - 100;
    env.write("d.qcow2", &whole[..cut]);
    let (report, disk) = salvaged(&env, "");
    assert_eq!(reasons(&report), ["beyond_file"]);
    is_as_written(&report, &disk, &written, &written, "cut");
    assert!(report["lost_bytes"].as_u64().is_some_and(|lost| lost <= 2 << 20), "{report:#}");
}

/// Sectors that the medium does not give back: they alone are lost.
#[cfg(target_os = "linux")]
#[test]
fn unreadable_sectors() {
    let env = Env::new();
    let written = image(&env, "-o preallocation=metadata");
    let path = env.path("d.qcow2").canonicalize().expect("the image").display().to_string();
    let salvage = ["salvage", "d.qcow2", "o.raw", "--if-exists", "replace", "--json"];
    let traced = |inject: &[&str]| {
        let options = ["-f", "-o", "calls", "-P", &path, "-e", "trace=pread64"];
        env.run("strace", [&options[..], inject, &[crate::support::VMDISK], &salvage[..]].concat())
    };
    traced(&[]).exits(0);
    let calls = fs::read_to_string(env.path("calls")).expect("the calls that were made");
    let reads = calls.lines().filter(|line| line.contains("pread64(")).count();
    let run = traced(&["-e", &format!("inject=pread64:error=EIO:when={reads}+")]).exits(2);
    let report = run.json();
    assert_eq!(reasons(&report), ["unreadable"], "{report:#}");
    let disk = fs::read(env.path("o.raw")).expect("the new disk");
    is_as_written(&report, &disk, &written, &written, "the last read fails");
    // What fails once is read again, in sectors.
    let once = traced(&["-e", &format!("inject=pread64:error=EIO:when={reads}")]).exits(0);
    assert_eq!(once.json()["lost_bytes"], 0);
}

/// A backing file that is missing or refused costs what is in it, and the report says why; with the
/// chain in place nothing is lost.
#[test]
fn what_is_below() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 base.qcow2 16M");
    env.qemu_io("qcow2", "base.qcow2", "write -P 5 0 10M");
    let written = image(&env, "-b base.qcow2 -F qcow2");
    let (report, disk) = salvaged(&env, "");
    assert_eq!(report["lost_bytes"], 0, "{report:#}");
    same_bytes(&disk, &written, "with what is below");
    let (report, disk) = salvaged(&env, "--trust none");
    assert_eq!(reasons(&report), ["backing"]);
    assert!(report["notes"][0].as_str().is_some_and(|note| note.contains("trusts no name")));
    // What was not opened may be any file, the one that is to be replaced too.
    let base = fs::read(env.path("base.qcow2")).expect("the base");
    let replace = "salvage d.qcow2 base.qcow2 --if-exists replace --trust none --json";
    let run = env.vmdisk(replace).exits(64);
    assert_eq!(run.json()["error"]["data"]["kind"], "bad_request");
    same_bytes(&fs::read(env.path("base.qcow2")).expect("the base"), &base, "not replaced");
    is_as_written(&report, &disk, &written, &written, "refused");
    fs::rename(env.path("base.qcow2"), env.path("gone")).expect("it goes");
    let (report, disk) = salvaged(&env, "");
    assert_eq!(reasons(&report), ["backing"]);
    assert!(report["notes"][0].as_str().is_some_and(|note| note.contains("is missing")));
    is_as_written(&report, &disk, &written, &written, "missing");
    fs::rename(env.path("gone"), env.path("base.qcow2")).expect("it comes back");
    // Damage below costs what is damaged there.
    let written = image(&env, "-b base.qcow2 -F qcow2");
    env.vmdisk("damage base.qcow2 --kind misaligned --seed 3").exits(0);
    let (report, disk) = salvaged(&env, "");
    assert_eq!(reasons(&report), ["backing"]);
    is_as_written(&report, &disk, &written, &written, "damaged below");
    assert!(report["lost_bytes"].as_u64().is_some_and(|lost| lost < 10 << 20), "{report:#}");
}

/// What claims more than it can have is refused, or given up, at once.
#[test]
fn claims_cost_nothing() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 -o cluster_size=2M d.qcow2 1G");
    let start = Instant::now();
    env.patch("d.qcow2", 24, &(1u64 << 61).to_be_bytes());
    env.patch("d.qcow2", 36, &(1u32 << 22).to_be_bytes());
    let run = env.vmdisk("salvage d.qcow2 o.raw --json");
    if run.code == Some(1) {
        assert_eq!(run.json()["error"]["data"]["kind"], "no_space", "{run:?}");
        assert!(message(&run.json()["error"]).contains("more than a file can have"), "{run:?}");
        assert_eq!(env.names(), ["d.qcow2"]);
    } else {
        assert_eq!(reasons(&run.exits(2).json()), ["beyond_file"]);
    }
    // Two gigabytes of one cluster, in a file of 400 KiB.
    env.qemu_img("create -q -f qcow2 d.qcow2 512M");
    env.qemu_io("qcow2", "d.qcow2", "write -P 1 0 64k");
    let file = fs::read(env.path("d.qcow2")).expect("the image");
    let l1 = crate::header::RawHeader::read(&env.path("d.qcow2")).get("l1_table_offset") as usize;
    let word = u64::from_be_bytes(file[l1..l1 + 8].try_into().expect("a word"));
    let table = (word & ((1 << 56) - 1)) as usize;
    env.patch("d.qcow2", table as u64, &file[table..table + 8].repeat(8192));
    let (report, disk) = salvaged(&env, "");
    assert_eq!(reasons(&report), ["overclaimed"]);
    assert!(disk[..1 << 20].iter().all(|&byte| byte == 1));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

/// Marked corrupt, left dirty, with counts that are wrong: it is read all the same. What has no
/// header that opens is not.
#[test]
fn what_can_be_opened() {
    let env = Env::new();
    for bits in [1u64, 2, 3] {
        let written = image(&env, "");
        env.patch("d.qcow2", 72, &bits.to_be_bytes());
        let (report, disk) = salvaged(&env, "");
        assert_eq!(report["lost_bytes"], 0);
        same_bytes(&disk, &written, "a marked image");
        // Where the counts are does not matter.
        env.patch("d.qcow2", 48, &[0xff; 12]);
        assert_eq!(salvaged(&env, "").0["lost_bytes"], 0);
    }
    fs::remove_file(env.path("o.raw")).expect("the new disk");
    env.patch("d.qcow2", 20, &[0, 0, 0, 63]);
    env.fails("salvage d.qcow2 o.raw", 1, "corrupt");
    env.patch("d.qcow2", 72, &(1u64 << 40).to_be_bytes());
    env.patch("d.qcow2", 20, &[0, 0, 0, 16]);
    env.fails("salvage d.qcow2 o.raw", 63, "unsupported_feature");
    env.write("d.qcow2", [0x5a; 4096]);
    env.fails("salvage d.qcow2 o.raw", 1, "format_mismatch");
    env.fails("salvage none.qcow2 o.raw", 1, "not_found");
    env.fails("salvage d.qcow2", 64, "bad_request");
    assert_eq!(env.names(), ["d.qcow2"]);
}

/// The new disk never comes in the place of what is read, by whatever name; another file's place it
/// takes if that is asked for, with its mode.
#[test]
fn where_it_goes() {
    let env = Env::new();
    image(&env, "");
    fs::hard_link(env.path("d.qcow2"), env.path("hard.raw")).expect("a link");
    std::os::unix::fs::symlink("d.qcow2", env.path("soft.raw")).expect("a link");
    fs::create_dir(env.path("folder")).expect("a folder");
    for out in ["d.qcow2", "hard.raw", "soft.raw", "./folder/../d.qcow2"] {
        for how in ["", "--if-exists replace"] {
            let error = env.fails(&format!("salvage d.qcow2 {out} {how}"), 64, "bad_request");
            assert!(message(&error).contains("what would be read"), "{error:#}");
        }
    }
    env.qemu_img("create -q -f qcow2 -b d.qcow2 -F qcow2 over.qcow2");
    env.fails("salvage over.qcow2 d.qcow2 --if-exists replace", 64, "bad_request");
    env.fails("salvage d.qcow2 folder", 1, "not_a_disk");
    env.fails("salvage d.qcow2 none/o.raw", 1, "not_found");
    env.write("o.raw", "before");
    set_mode(&env.path("o.raw"), 0o640);
    env.fails("salvage d.qcow2 o.raw", 1, "exists");
    assert_eq!(fs::read(env.path("o.raw")).expect("it"), b"before");
    env.vmdisk("salvage d.qcow2 o.raw --if-exists replace").exits(0);
    let mode = |name| fs::metadata(env.path(name)).expect("it").permissions().mode() & 0o777;
    env.vmdisk("salvage d.qcow2 new.raw").exits(0);
    assert_eq!((mode("o.raw"), mode("new.raw")), (0o640, 0o600));
}

/// Whoever uses the disk keeps it, and a disk below that is in use is worth waiting for.
#[test]
fn disks_in_use() {
    let env = Env::new();
    image(&env, "");
    env.qemu_img("create -q -f qcow2 -b d.qcow2 -F qcow2 over.qcow2");
    let busy = fs::File::open(env.path("d.qcow2")).expect("the disk");
    busy.lock().expect("a lock");
    for disk in ["d.qcow2", "over.qcow2"] {
        env.fails(&format!("salvage {disk} o.raw"), 75, "locked");
    }
    assert!(!env.names().contains(&"o.raw".to_owned()));
}

/// Asks to stop as soon as something was read.
struct Stop<'a>(&'a Cancel);

impl Progress for Stop<'_> {
    fn advance(&self, phase: &'static str, done: u64, total: u64) {
        assert_eq!((phase, total), ("salvage", SIZE as u64));
        if done > 0 {
            self.0.trip();
        }
    }
}

/// What is stopped leaves nothing behind.
#[test]
fn a_wish_to_stop_is_heard() {
    let env = Env::new();
    image(&env, "");
    let cancel = Cancel::new();
    let context = Context {
        progress: &Stop(&cancel),
        cancel: &cancel,
        trust: &Trust::default(),
        locks: &LockPolicy::default(),
    };
    let request = SalvageRequest::new(env.path("d.qcow2"), env.path("o.raw"));
    let stopped = vmdisk::ops::salvage(&request, context).expect_err("stopped");
    assert_eq!(stopped.kind(), vmdisk::ErrorKind::Cancelled);
    assert_eq!(env.names(), ["d.qcow2"]);
}
