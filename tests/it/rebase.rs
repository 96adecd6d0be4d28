//! Another backing file below a disk: it reads the same, whatever happens on the way.

use std::fs;
use std::time::Duration;

use crate::support::{Env, message, same_bytes};

/// Two bases that are alike in part, in a format each, and an overlay of the first.
struct Pair {
    old: (&'static str, u64),
    new: (&'static str, u64),
    /// The overlay's size, and how it is made.
    over: (u64, &'static str),
}

const PAIRS: &[Pair] = &[
    Pair { old: ("qcow2", 4096), new: ("qcow2", 4096), over: (4096, "compat=1.1") },
    Pair { old: ("raw", 4096), new: ("qcow2", 2500), over: (5000, "compat=1.1") },
    Pair { old: ("qcow2", 1500), new: ("raw", 6000), over: (4096, "compat=0.10") },
    Pair { old: ("raw", 3000), new: ("raw", 3000), over: (3000, "cluster_size=4k") },
    Pair {
        old: ("qcow2", 2000),
        new: ("qcow2", 4096),
        over: (4096, "extended_l2=on,lazy_refcounts=on"),
    },
];

impl Pair {
    fn make(&self) -> Env {
        let env = Env::new();
        for (name, (format, kib), patterns) in
            [("old", self.old, [(0, 1), (700, 2)]), ("new", self.new, [(0, 1), (900, 3)])]
        {
            env.qemu_img(&format!("create -q -f {format} {name} {kib}K"));
            for (at, pattern) in patterns {
                env.qemu_io(format, name, &format!("write -P {pattern} {at}k 400k"));
            }
            env.qemu_io(format, name, &format!("write -P 9 {}k 64k", kib - 64));
        }
        let (kib, options) = self.over;
        let format = self.old.0;
        env.qemu_img(&format!(
            "create -q -f qcow2 -o {options} -b old -F {format} over.qcow2 {kib}K"
        ));
        env.qemu_io_all(
            "over.qcow2",
            &["write -P 7 100k 3k".to_owned(), "write -P 8 1000k 70k".to_owned()],
        );
        env
    }
}

fn backing(env: &Env) -> Option<String> {
    env.qemu_info("over.qcow2")["backing-filename"].as_str().map(str::to_owned)
}

/// Over another file, back again, and over nothing: by way of QEMU the disk reads the same each time,
/// and nothing is wrong with the image.
#[test]
fn the_disk_reads_the_same() {
    for pair in PAIRS {
        let env = pair.make();
        let before = env.disk("qcow2", "over.qcow2");
        let options = pair.over.1;
        for (to, (format, kib)) in [("new", pair.new), ("old", pair.old)] {
            let line = format!("rebase over.qcow2 --backing {to} --backing-format {format}");
            let report = env.report(&line);
            assert_eq!(report["changed"], true, "{report:#}");
            assert_eq!(report["backing"]["virtual_size_bytes"], kib * 1024, "{report:#}");
            let copied = report["copied_bytes"].as_u64().unwrap();
            assert_eq!(copied > 0, to == "new", "{report:#}");
            assert_eq!(backing(&env).as_deref(), Some(to));
            same_bytes(&env.disk("qcow2", "over.qcow2"), &before, options);
            env.is_clean("over.qcow2");
            // Once more: there is nothing to do.
            let (again, file) = (fs::read(env.path("over.qcow2")), env.report(&line));
            assert_eq!(file["changed"], false, "{file:#}");
            assert!(fs::read(env.path("over.qcow2")).unwrap() == again.unwrap());
        }
        let report = env.report("rebase over.qcow2 --no-backing");
        assert_eq!((report["old_backing_file"].as_str(), backing(&env)), (Some("old"), None));
        fs::remove_file(env.path("old")).unwrap();
        fs::remove_file(env.path("new")).unwrap();
        same_bytes(&env.disk("qcow2", "over.qcow2"), &before, options);
        env.is_clean("over.qcow2");
    }
}

/// A disk that stands alone gets a backing file; and QEMU can take it away again.
#[test]
fn a_disk_that_stood_alone() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 3M");
    env.qemu_io("qcow2", "d.qcow2", "write -P 1 1M 300k");
    env.qemu_img("create -q -f qcow2 base.qcow2 5M");
    env.qemu_io("qcow2", "base.qcow2", "write -P 2 500k 4M");
    let before = env.disk("qcow2", "d.qcow2");
    let report = env.report("rebase d.qcow2 --backing base.qcow2");
    assert!(report["zeroed_bytes"].as_u64().unwrap() > 2 << 20, "{report:#}");
    same_bytes(&env.disk("qcow2", "d.qcow2"), &before, "above a base");
    env.is_clean("d.qcow2");
    env.run("qemu-img", ["rebase", "-f", "qcow2", "-b", "", "d.qcow2"]).exits(0);
    same_bytes(&env.disk("qcow2", "d.qcow2"), &before, "rebased by QEMU");
}

/// Killed at any moment, the disk reads the same and has leaks at worst; qemu-img's own rebase loses
/// data here.
#[test]
fn killed_at_any_moment() {
    let env = Env::new();
    for (name, pattern) in [("old.raw", 5), ("new.raw", 6)] {
        env.qemu_img(&format!("create -q -f raw {name} 24M"));
        env.qemu_io("raw", name, &format!("write -P {pattern} 1M 22M"));
    }
    env.qemu_img("create -q -f qcow2 -b old.raw -F raw m.qcow2 25M");
    env.qemu_io("qcow2", "m.qcow2", "write -P 7 3M 100k");
    let before = env.disk("qcow2", "m.qcow2");
    let (mut midst, mut done, mut old) = (0, 0, 0);
    let full = std::env::var_os("VMDISK_MATRIX").is_some();
    let times = if full { 200 } else { 14 };
    for n in 0..times {
        fs::copy(env.path("m.qcow2"), env.path("over.qcow2")).unwrap();
        let line = "rebase over.qcow2 --backing new.raw --backing-format raw --progress off";
        let running = env.start(line);
        std::thread::sleep(Duration::from_micros(1000 + n * 120_000 / times));
        running.kill();
        same_bytes(&env.disk("qcow2", "over.qcow2"), &before, "killed");
        let check = env.run("qemu-img", ["check", "-q", "-f", "qcow2", "over.qcow2"]);
        assert!(matches!(check.code, Some(0 | 3)), "{check:?}");
        let grown = fs::metadata(env.path("over.qcow2")).unwrap().len();
        midst += i32::from(grown > fs::metadata(env.path("m.qcow2")).unwrap().len());
        match backing(&env).as_deref() {
            Some("new.raw") => done += 1,
            _ => old += 1,
        }
        env.vmdisk(line).exits(0);
        same_bytes(&env.disk("qcow2", "over.qcow2"), &before, "once more");
    }
    println!("{times} killed: {midst} with something copied, {done} above the new one, {old} not");
    assert!(old > 0);
}

/// What was moved: the name alone changes, and the format stays.
#[test]
fn a_folder_that_moved() {
    let env = Env::new();
    fs::create_dir(env.path("a")).unwrap();
    let root = env.path("a").display().to_string();
    env.qemu_img("create -q -f raw a/base.raw 1M");
    env.qemu_io("raw", "a/base.raw", "write -P 3 0 600k");
    env.qemu_img(&format!("create -q -f qcow2 -b {root}/base.raw -F raw a/mid.qcow2"));
    env.qemu_img(&format!("create -q -f qcow2 -b {root}/mid.qcow2 -F qcow2 a/over.qcow2"));
    env.qemu_io("qcow2", "a/over.qcow2", "write -P 4 100k 30k");
    let before = env.disk("qcow2", "a/over.qcow2");
    fs::rename(env.path("a"), env.path("b")).unwrap();
    let error = env.fails("rebase b/over.qcow2 --backing b/mid.qcow2", 1, "backing_missing");
    assert!(message(&error).contains("mid.qcow2"), "{error:#}");
    // From the top, as from the bottom.
    let report = env.report("rebase b/over.qcow2 --unsafe --backing b/mid.qcow2");
    assert_eq!((&report["changed"], &report["copied_bytes"]), (&true.into(), &0.into()));
    assert!(report["notes"][0].as_str().unwrap().contains("missing"), "{report:#}");
    let report = env.report("rebase b/mid.qcow2 --unsafe --backing b/base.raw");
    assert_eq!(report["backing"]["format"], "raw", "what was recorded: {report:#}");
    assert_eq!(report["notes"].as_array().unwrap().len(), 0, "{report:#}");
    same_bytes(&env.disk("qcow2", "b/over.qcow2"), &before, "moved");
    env.is_clean("b/over.qcow2");
    env.vmdisk("rebase b/over.qcow2 --unsafe --no-backing").exits(0);
    env.is_clean("b/over.qcow2");
}

/// Whatever is refused is refused before a byte changes, by its name.
#[test]
fn what_is_refused() {
    let env = PAIRS[0].make();
    env.qemu_img("create -q -f qcow2 -b over.qcow2 -F qcow2 above.qcow2");
    env.qemu_img("create -q -f raw d.raw 1M");
    env.qemu_img("create -q -f qcow2 -b old -F qcow2 snap.qcow2");
    env.qemu_img("snapshot -c one snap.qcow2");
    fs::create_dir(env.path("far")).unwrap();
    env.qemu_img("create -q -f qcow2 -b ../old -F qcow2 far/over.qcow2");
    env.qemu_img("create -q -f qcow2 -o data_file=x.data,data_file_raw=on data.qcow2 1M");
    env.qemu_img("create -q -f qcow2 -b old -F qcow2 corrupt.qcow2");
    env.patch("corrupt.qcow2", 79, &[2]);
    let long = format!("{}/{0}.qcow2", "n".repeat(220));
    fs::create_dir(env.path("n".repeat(220))).unwrap();
    fs::copy(env.path("new"), env.path(&long)).unwrap();
    env.qemu_img("create -q -f qcow2 -o cluster_size=512 -b old -F qcow2 small.qcow2");
    for (line, kind) in [
        ("rebase over.qcow2 --backing over.qcow2", "backing_cycle"),
        ("rebase over.qcow2 --backing above.qcow2", "backing_cycle"),
        ("rebase over.qcow2 --unsafe --backing above.qcow2", "backing_cycle"),
        ("rebase over.qcow2 --backing missing.qcow2", "backing_missing"),
        ("rebase over.qcow2 --unsafe --backing missing.qcow2", "backing_missing"),
        ("rebase over.qcow2 --backing d.raw", "format_mismatch"),
        ("rebase over.qcow2 --backing d.raw --backing-format qcow2", "format_mismatch"),
        ("rebase over.qcow2 --backing new --no-backing", "incompatible_options"),
        ("rebase over.qcow2", "bad_request"),
        ("rebase d.raw --backing new", "unsupported_feature"),
        ("rebase snap.qcow2 --backing new", "has_snapshots"),
        ("rebase snap.qcow2 --no-backing", "has_snapshots"),
        ("rebase far/over.qcow2 --backing new", "backing_refused"),
        ("rebase over.qcow2 --backing new --trust none", "backing_refused"),
        ("rebase data.qcow2 --backing new", "incompatible_options"),
        ("rebase corrupt.qcow2 --backing new", "corrupt"),
        (&format!("rebase small.qcow2 --backing {long} --backing-store absolute"), "bad_request"),
    ] {
        env.refuses(line, kind);
    }
    // With snapshots, the name alone may change.
    env.report("rebase snap.qcow2 --unsafe --backing new");
    assert_eq!(env.qemu_info("snap.qcow2")["backing-filename"], "new");
    env.report("rebase far/over.qcow2 --backing new --allow .");
}

/// A bitmap is as valid as before: the guest's data did not change.
#[test]
fn bitmaps_stay_valid() {
    let env = PAIRS[0].make();
    env.qemu_img("bitmap --add over.qcow2 b0");
    env.vmdisk("rebase over.qcow2 --backing new").exits(0);
    let info = env.qemu_info("over.qcow2");
    let bitmap = &info["format-specific"]["data"]["bitmaps"][0];
    assert_eq!(
        (&bitmap["name"], &bitmap["flags"]),
        (&"b0".into(), &vec!["auto"].into()),
        "{info:#}"
    );
    env.is_clean("over.qcow2");
}

/// Nobody else may use the disk meanwhile, nor write to what is below.
#[test]
fn locks_are_heeded() {
    for file in ["over.qcow2", "old", "new"] {
        let env = PAIRS[0].make();
        let path = env.path(file);
        let mut holder = env.spawn("qemu-io", ["-f", "qcow2", &path.display().to_string()]);
        let _input = holder.stdin();
        crate::support::until("the lock is held", || {
            env.report(&format!("guest {file}"))["in_use"] == true
        });
        env.fails("rebase over.qcow2 --backing new", 75, "locked");
        holder.kill();
    }
}
