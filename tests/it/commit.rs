//! `vmdisk commit`: what an image holds goes down, against `qemu-img commit`.

use serde_json::Value;

use crate::draw::whole_matrix;
use crate::locks::qemu_io;
use crate::support::{Env, message, until};

/// A base, an overlay above it, and what their guests write.
struct Kind {
    name: &'static str,
    /// Options of the base, `raw` for a raw one, and its size.
    base: (&'static str, &'static str),
    overlay: (&'static str, &'static str),
    below: &'static [&'static str],
    above: &'static [&'static str],
}

const BELOW: &[&str] = &["write -P 1 0 900k", "write -P 2 1500k 400k"];
const ABOVE: &[&str] = &[
    "write -P 3 100k 300k",
    "write -P 4 511k 1k",
    "write -z 600k 200k",
    "discard 832k 64k",
    "write -P 5 1900k 148k",
    "write -P 0 1600k 64k",
];

/// Packed clusters, some of which are then written to in part, zeroed or given up.
const PACKED_BELOW: &[&str] = &[
    "write -c -P 1 0 896k",
    "write -P 2 1500k 400k",
    "write -c -P 6 1024k 128k",
    "write -P 8 100k 5k",
];
const PACKED_ABOVE: &[&str] = &[
    "write -c -P 3 128k 384k",
    "write -P 4 511k 1k",
    "write -c -P 7 576k 256k",
    "write -z 600k 50k",
    "discard 704k 64k",
    "write -c -P 0 1600k 64k",
    "write -c -P 5 1920k 128k",
    "write -P 9 1100k 40k",
];

const KINDS: &[Kind] = &[
    Kind { name: "plain", base: ("", "2M"), overlay: ("", "2M"), below: BELOW, above: ABOVE },
    Kind {
        name: "small clusters above large ones",
        base: ("cluster_size=2M", "2M"),
        overlay: ("cluster_size=512", "2M"),
        below: BELOW,
        above: ABOVE,
    },
    Kind {
        name: "large clusters above small ones",
        base: ("cluster_size=4k,refcount_bits=1", "2M"),
        overlay: ("cluster_size=1M", "2M"),
        below: BELOW,
        above: ABOVE,
    },
    Kind {
        name: "subclusters above",
        base: ("", "2M"),
        overlay: ("extended_l2=on,cluster_size=128k", "2M"),
        below: BELOW,
        above: ABOVE,
    },
    Kind {
        name: "subclusters below",
        base: ("extended_l2=on,cluster_size=64k", "2M"),
        overlay: ("", "2M"),
        below: BELOW,
        above: ABOVE,
    },
    Kind { name: "raw", base: ("raw", "2M"), overlay: ("", "2M"), below: BELOW, above: ABOVE },
    Kind {
        name: "a raw base that is smaller",
        base: ("raw", "1M"),
        overlay: ("", "2M"),
        below: &["write -P 1 0 900k"],
        above: ABOVE,
    },
    Kind {
        name: "a base that is smaller, down to the sector",
        base: ("", "1050112"),
        overlay: ("", "2M"),
        below: &["write -P 1 0 900k"],
        above: ABOVE,
    },
    Kind {
        name: "a base that is larger",
        base: ("", "3M"),
        overlay: ("", "2097664"),
        below: &["write -P 1 0 3M"],
        above: ABOVE,
    },
    Kind {
        name: "version 2 above",
        base: ("", "2M"),
        overlay: ("compat=0.10", "2M"),
        below: BELOW,
        above: ABOVE,
    },
    Kind {
        name: "version 2 below",
        base: ("compat=0.10", "2M"),
        overlay: ("", "2M"),
        below: BELOW,
        above: ABOVE,
    },
    Kind {
        name: "lazy counts",
        base: ("lazy_refcounts=on", "2M"),
        overlay: ("lazy_refcounts=on", "2M"),
        below: BELOW,
        above: ABOVE,
    },
    Kind { name: "nothing above", base: ("", "2M"), overlay: ("", "2M"), below: BELOW, above: &[] },
    Kind {
        name: "packed by zlib above",
        base: ("", "2M"),
        overlay: ("", "2M"),
        below: BELOW,
        above: PACKED_ABOVE,
    },
    Kind {
        name: "packed by zstd above, in smaller clusters",
        base: ("cluster_size=128k", "2M"),
        overlay: ("compression_type=zstd,cluster_size=32k", "2M"),
        below: BELOW,
        above: PACKED_ABOVE,
    },
    Kind {
        name: "packed by zlib below",
        base: ("", "2M"),
        overlay: ("cluster_size=4k", "2M"),
        below: PACKED_BELOW,
        above: ABOVE,
    },
    Kind {
        name: "packed by zstd below, by zlib above",
        base: ("compression_type=zstd", "2M"),
        overlay: ("", "2M"),
        below: PACKED_BELOW,
        above: PACKED_ABOVE,
    },
    Kind {
        name: "packed by zstd above, with subclusters, over a raw base",
        base: ("raw", "2M"),
        overlay: ("compression_type=zstd,extended_l2=on", "2M"),
        below: BELOW,
        above: PACKED_ABOVE,
    },
    Kind {
        name: "packed by zlib in version 2, over a smaller base packed by zstd",
        base: ("compression_type=zstd,cluster_size=32k", "1050112"),
        overlay: ("compat=0.10", "2M"),
        below: &["write -c -P 1 0 896k", "write -P 8 100k 5k"],
        above: PACKED_ABOVE,
    },
    Kind {
        name: "counts of 64 bits, small clusters",
        base: ("refcount_bits=64,cluster_size=512", "2M"),
        overlay: ("refcount_bits=64,cluster_size=512", "2M"),
        below: BELOW,
        above: ABOVE,
    },
];

impl Kind {
    fn is_raw(&self) -> bool {
        self.base.0 == "raw"
    }

    fn base_format(&self) -> &'static str {
        if self.is_raw() { "raw" } else { "qcow2" }
    }

    /// Makes `base` and `d.qcow2` above it.
    fn make(&self, env: &Env) {
        let format = self.base_format();
        let options = |options: &str| match options {
            "" | "raw" => String::new(),
            options => format!("-o {options}"),
        };
        let (below, above) = (options(self.base.0), options(self.overlay.0));
        env.qemu_img(&format!("create -q -f {format} {below} base {}", self.base.1));
        for command in self.below {
            env.qemu_io(format, "base", command);
        }
        env.qemu_img(&format!(
            "create -q -f qcow2 {above} -b base -F {format} d.qcow2 {}",
            self.overlay.1
        ));
        for command in self.above {
            env.qemu_io("qcow2", "d.qcow2", command);
        }
        env.qemu_img("convert -f qcow2 -O raw d.qcow2 before.raw");
    }

    /// The disk shows what it showed, and both files are sound.
    fn shows_the_same(&self, env: &Env) {
        env.qemu_img("compare -f qcow2 -F raw d.qcow2 before.raw");
        env.is_clean("d.qcow2");
        if !self.is_raw() {
            env.is_clean("base");
        }
    }
}

/// What has nothing of its own.
fn is_empty(env: &Env, image: &str) {
    let map = env.qemu_img(&format!("map -f qcow2 --output=json {image}")).json();
    let own = map.as_array().expect("a list").iter().filter(|run| run["depth"] == 0);
    // What lies beyond the base's end is the disk's own zeros.
    assert_eq!(own.filter(|run| run["data"] == true).count(), 0, "{map:#}");
}

/// The base holds afterwards what it holds after `qemu-img commit`, the disk shows what it showed,
/// and is empty.
#[test]
fn the_base_becomes_what_qemu_img_makes_of_it() {
    for kind in KINDS {
        println!("{}", kind.name);
        let env = Env::new();
        kind.make(&env);
        for file in ["base", "d.qcow2"] {
            let copy = format!("theirs-{file}");
            std::fs::copy(env.path(file), env.path(&copy)).expect("a copy");
        }
        let theirs =
            format!("rebase -u -f qcow2 -F {} -b theirs-base theirs-d.qcow2", kind.base_format());
        env.qemu_img(&theirs);
        env.qemu_img("commit -q -f qcow2 theirs-d.qcow2");
        env.run("rm", ["theirs-d.qcow2"]).exits(0);

        let report = env.report("commit d.qcow2 --into base");
        assert_eq!(report["changed"], !kind.above.is_empty(), "{report:#}");
        let format = kind.base_format();
        env.qemu_img(&format!("compare -f {format} -F {format} base theirs-base"));
        kind.shows_the_same(&env);
        is_empty(&env, "d.qcow2");
        let again = env.report("commit d.qcow2 --into base");
        assert_eq!(again["changed"], false, "{again:#}");
        // An empty overlay takes writes.
        env.qemu_io("qcow2", "d.qcow2", "write -P 9 300k 200k");
        env.is_clean("d.qcow2");
    }
}

/// A chain of three as a guest sees it: `base`, `mid.qcow2` and `d.qcow2`.
fn three(env: &Env) {
    env.qemu_img("create -q -f qcow2 base.qcow2 3M");
    env.qemu_io("qcow2", "base.qcow2", "write -P 1 0 3M");
    env.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2 1M");
    env.qemu_io("qcow2", "mid.qcow2", "write -P 2 100k 500k");
    env.qemu_img("create -q -f qcow2 -b mid.qcow2 -F qcow2 d.qcow2 2M");
    env.qemu_io("qcow2", "d.qcow2", "write -P 3 300k 100k");
    env.qemu_img("convert -f qcow2 -O raw d.qcow2 before.raw");
}

/// With images between, what those hold goes down too, also the zeros behind their ends, and the disk
/// lies above the lower image from then on.
#[test]
fn an_image_further_down_gets_what_lies_between() {
    let env = Env::new();
    three(&env);
    let report = env.report("commit d.qcow2 --into base.qcow2");
    assert_eq!(report["between"].as_array().map(Vec::len), Some(1), "{report:#}");
    assert_eq!(env.qemu_info("d.qcow2")["backing-filename"], "base.qcow2");
    env.qemu_img("compare -f qcow2 -F raw d.qcow2 before.raw");
    let (base, before) = (env.disk("qcow2", "base.qcow2"), env.disk("raw", "before.raw"));
    assert!(base[..2 << 20] == before && base[2 << 20..].iter().all(|&byte| byte == 1));
    is_empty(&env, "d.qcow2");
    for image in ["base.qcow2", "mid.qcow2", "d.qcow2"] {
        env.is_clean(image);
    }
    // Where it stays as it is, it stays above the one between, and goes without both.
    let env = Env::new();
    three(&env);
    env.report("commit d.qcow2 --into base.qcow2 --keep");
    assert_eq!(env.qemu_info("d.qcow2")["backing-filename"], "mid.qcow2");
    env.qemu_img("compare -f qcow2 -F raw d.qcow2 before.raw");
    env.report("commit d.qcow2 --into base.qcow2 --delete");
    assert_eq!(env.names(), ["base.qcow2", "before.raw", "mid.qcow2"]);
    assert!(env.disk("qcow2", "base.qcow2")[..2 << 20] == before);
}

/// Has an image as QEMU makes it count a cluster that nothing refers to.
fn leak(env: &Env, image: &str) {
    const CLUSTER: u64 = 100;
    let file = std::fs::OpenOptions::new().write(true).open(env.path(image)).expect("an image");
    file.set_len((CLUSTER + 1) << 16).expect("a longer file");
    env.patch(image, 0x20000 + 2 * CLUSTER, &1u16.to_be_bytes());
}

/// What an interrupted change left behind in either image is free afterwards, which is told; the same
/// where a disk is made to stand alone, or put above another one.
#[test]
fn what_is_leaked_is_freed() {
    for line in ["commit d.qcow2 --into base", "flatten d.qcow2", "rebase d.qcow2 --backing other"]
    {
        let env = Env::new();
        KINDS[0].make(&env);
        env.qemu_img("create -q -f qcow2 other 2M");
        let written: &[_] =
            if line.starts_with("commit") { &["base", "d.qcow2"] } else { &["d.qcow2"] };
        for image in written {
            leak(&env, image);
            let check = env.run("qemu-img", ["check", "-q", "-f", "qcow2", image]);
            assert_eq!(check.code, Some(3), "{image}: {check:?}");
        }
        let report = env.report(line);
        assert!(report["notes"].to_string().contains("leaked"), "{report:#}");
        KINDS[0].shows_the_same(&env);
    }
}

/// A disk without a byte is committed as any other.
#[test]
fn a_disk_of_no_bytes_is_committed() {
    let env = Env::new();
    env.qemu_img("create -q -f raw flat.raw 0");
    env.qemu_img("create -q -f qcow2 large.qcow2 1M");
    env.qemu_io("qcow2", "large.qcow2", "write -P 3 0 1M");
    for (base, format) in [("flat.raw", "raw"), ("large.qcow2", "qcow2")] {
        env.qemu_img(&format!("create -q -f qcow2 -b {base} -F {format} d.qcow2 0"));
        let before = env.contents();
        for how in ["", "--keep"] {
            let report = env.report(&format!("commit d.qcow2 --into {base} {how}"));
            assert_eq!(report["changed"], false, "{report:#}");
        }
        assert_eq!(env.contents(), before);
        env.report(&format!("commit d.qcow2 --into {base} --delete"));
    }
}

/// Whatever is refused is refused before a byte changes.
#[test]
fn what_is_refused_changes_nothing() {
    let env = Env::new();
    three(&env);
    // Named by the image alone, the backing file is not written to.
    let error = env.refuses("commit d.qcow2", "backing_refused");
    assert!(message(&error).contains("not written"), "{error:#}");
    env.refuses("commit d.qcow2 --trust none", "backing_refused");
    env.refuses("commit base.qcow2", "bad_request");
    env.refuses("commit base.qcow2 --into d.qcow2", "bad_request");
    env.refuses("commit d.qcow2 --into d.qcow2", "bad_request");
    env.refuses("commit d.qcow2 --into before.raw", "bad_request");
    env.refuses("commit d.qcow2 --into missing", "not_found");
    env.refuses("commit missing --into base.qcow2", "not_found");
    env.refuses("commit d.qcow2 --into base.qcow2 --keep --delete", "incompatible_options");
    env.refuses("commit before.raw --into base.qcow2 --format raw", "bad_request");
    // Others lie above an image that would change.
    env.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 other.qcow2");
    env.refuses("commit d.qcow2 --into base.qcow2", "has_dependents");
    env.refuses("commit d.qcow2 --into base.qcow2 --keep", "has_dependents");
    env.run("rm", ["other.qcow2"]).exits(0);
    env.qemu_img("create -q -f qcow2 -b mid.qcow2 -F qcow2 other.qcow2");
    env.refuses("commit d.qcow2 --into base.qcow2", "has_dependents");
    env.run("rm", ["other.qcow2"]).exits(0);
    env.qemu_img("create -q -f qcow2 -b d.qcow2 -F qcow2 other.qcow2");
    env.refuses("commit d.qcow2 --into mid.qcow2 --delete", "has_dependents");
    env.run("rm", ["other.qcow2"]).exits(0);
    // Snapshots show what is below.
    env.qemu_img("snapshot -c one d.qcow2");
    env.refuses("commit d.qcow2 --into mid.qcow2", "has_snapshots");
    env.refuses("commit d.qcow2 --into mid.qcow2 --keep", "has_snapshots");
    env.qemu_img("snapshot -d one d.qcow2");
    // Both are locked.
    for image in ["mid.qcow2", "d.qcow2"] {
        let machine = qemu_io(&env, image);
        let error = env.refuses("commit d.qcow2 --into mid.qcow2", "locked");
        assert!(message(&error).contains(image), "{error:#}");
        machine.kill();
    }
    // A journal beside a raw base, a damaged overlay.
    env.qemu_img("create -q -f raw flat.raw 1M");
    env.qemu_img("create -q -f qcow2 -b flat.raw -F raw e.qcow2");
    env.qemu_io("qcow2", "e.qcow2", "write -P 7 0 200k");
    env.write("flat.raw.vmdisk-journal", "x");
    env.refuses("commit e.qcow2 --into flat.raw", "dirty");
    env.run("rm", ["flat.raw.vmdisk-journal"]).exits(0);
    env.vmdisk("damage e.qcow2 --kind beyond-file --seed 1").exits(0);
    env.refuses("commit e.qcow2 --into flat.raw", "corrupt");
}

/// Where a folder is allowed, the image's own word is enough; and what is forced is done.
#[test]
fn what_is_allowed_or_forced_is_done() {
    let env = Env::new();
    three(&env);
    env.qemu_img("snapshot -c one d.qcow2");
    env.qemu_img("create -q -f qcow2 -b mid.qcow2 -F qcow2 other.qcow2");
    let report = env.report("commit d.qcow2 --allow . --force");
    assert_eq!(report["overlay"], "empty");
    env.qemu_img("compare -f qcow2 -F raw d.qcow2 before.raw");
    env.is_clean("d.qcow2");
    // What the snapshot has of its own it keeps.
    let snapshot = env.snapshot_disk("d.qcow2", "one");
    assert!(snapshot[300 << 10..400 << 10].iter().all(|&byte| byte == 3));
    env.qemu_img("snapshot -d one d.qcow2");
    env.is_clean("d.qcow2");
}

/// What of the disk a bitmap of an image has as dirty, as a guest that reads by it would.
fn dirty(env: &Env, image: &str, name: &str) -> Value {
    let report = env.report(&format!("bitmap list {image} --count"));
    let bitmaps = report["bitmaps"].as_array().expect("a list");
    let bitmap = bitmaps.iter().find(|bitmap| bitmap["name"] == name).expect("the bitmap");
    assert_eq!(bitmap["in_use"], false, "{bitmap:#}");
    bitmap["dirty_bytes"].clone()
}

/// A bitmap of the base that is enabled has as dirty what was committed, as after `qemu-img commit`;
/// one that is not stays as it is. Both are valid.
#[test]
fn bitmaps_below_are_what_qemu_img_makes_of_them() {
    for (above, dirty_bytes) in [(ABOVE, None), (&["write -P 2 64k 256k"][..], Some(256 << 10))] {
        let env = Env::new();
        for prefix in ["", "theirs-"] {
            let (base, disk) = (format!("{prefix}base.qcow2"), format!("{prefix}d.qcow2"));
            env.qemu_img(&format!("create -q -f qcow2 {base} 3M"));
            env.qemu_img(&format!("bitmap --add {base} old"));
            env.qemu_io("qcow2", &base, "write -P 1 2M 1M");
            env.qemu_img(&format!("bitmap --disable {base} old"));
            env.qemu_img(&format!("bitmap --add {base} -g 4k fine"));
            env.qemu_img(&format!("bitmap --add {base} -g 1M coarse"));
            env.qemu_img(&format!("create -q -f qcow2 -b {base} -F qcow2 {disk} 2M"));
            for command in above {
                env.qemu_io("qcow2", &disk, command);
            }
        }
        let report = env.report("commit d.qcow2 --into base.qcow2");
        assert_eq!(report["notes"].as_array().map(Vec::len), Some(0), "{report:#}");
        env.qemu_img("commit -q -f qcow2 theirs-d.qcow2");
        env.is_clean("base.qcow2");
        env.qemu_img("compare -q -f qcow2 -F qcow2 base.qcow2 theirs-base.qcow2");
        for name in ["old", "fine", "coarse"] {
            let [ours, theirs] =
                ["base.qcow2", "theirs-base.qcow2"].map(|base| dirty(&env, base, name));
            assert_eq!(ours, theirs, "{name}");
        }
        assert_eq!(dirty(&env, "base.qcow2", "old"), 1 << 20);
        if let Some(bytes) = dirty_bytes {
            assert_eq!(dirty(&env, "base.qcow2", "fine"), bytes);
        }
        let bitmaps = &env.qemu_info("base.qcow2")["format-specific"]["data"]["bitmaps"];
        assert!(!bitmaps.to_string().contains("in-use"), "{bitmaps:#}");
        // QEMU keeps it true from there on.
        env.qemu_io("qcow2", "base.qcow2", "write -P 9 2500k 100k");
        assert!(dirty(&env, "base.qcow2", "fine").as_u64() > dirty_bytes);
        env.is_clean("base.qcow2");
    }
}

/// A bitmap that nobody saved stays what it is: it can only be removed.
#[test]
fn a_bitmap_that_was_not_saved_is_left_alone() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 base.qcow2 2M");
    env.qemu_img("bitmap --add base.qcow2 lost");
    env.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 d.qcow2");
    env.qemu_io("qcow2", "d.qcow2", "write -P 2 64k 256k");
    let in_use = |env: &Env| env.report("bitmap list base.qcow2")["bitmaps"][0]["in_use"] == true;
    let machine = qemu_io(&env, "base.qcow2");
    until("bitmaps in use", || in_use(&env));
    machine.kill();
    env.report("commit d.qcow2 --into base.qcow2");
    assert!(in_use(&env));
    env.is_clean("base.qcow2");
}

/// Where a bitmap below cannot be kept true, what the disk holds is committed all the same, and that is
/// told.
#[test]
fn a_bitmap_that_cannot_be_kept_is_given_up() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 base.qcow2 2M");
    env.qemu_img("bitmap --add base.qcow2 sixteen-byte-name");
    env.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 d.qcow2");
    env.qemu_io("qcow2", "d.qcow2", "write -P 2 64k 256k");
    let bytes = std::fs::read(env.path("base.qcow2")).expect("an image");
    let name = b"sixteen-byte-name";
    let at = bytes.windows(name.len()).position(|found| found == name).expect("a bitmap") as u64;
    // The first eight bytes of the name are extra data that nobody knows, the rest is the name.
    env.patch("base.qcow2", at - 6, &[0, 9, 0, 0, 0, 8]);
    let report = env.report("commit d.qcow2 --into base.qcow2");
    assert!(
        report["notes"][0].as_str().is_some_and(|note| note.contains("extra data")),
        "{report:#}"
    );
    let disk = env.disk("qcow2", "base.qcow2");
    assert!(disk[64 << 10..320 << 10].iter().all(|&byte| byte == 2));
    assert_eq!(env.report("bitmap list base.qcow2")["bitmaps"], serde_json::json!([]));
}

/// Snapshots below stay, and bitmaps on either side stay valid.
#[test]
fn snapshots_below_and_bitmaps_stay() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 base.qcow2 2M");
    env.qemu_io("qcow2", "base.qcow2", "write -P 1 0 2M");
    env.qemu_img("snapshot -c old base.qcow2");
    env.qemu_img("bitmap --add base.qcow2 b0");
    env.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 d.qcow2");
    env.qemu_img("bitmap --add d.qcow2 b1");
    env.qemu_io("qcow2", "d.qcow2", "write -P 2 64k 256k");
    env.report("commit d.qcow2 --into base.qcow2");
    env.is_clean("base.qcow2");
    env.is_clean("d.qcow2");
    let flags = |image: &str| {
        let bitmaps = env.qemu_info(image)["format-specific"]["data"]["bitmaps"].clone();
        bitmaps[0]["flags"].to_string()
    };
    for image in ["base.qcow2", "d.qcow2"] {
        assert!(!flags(image).contains("in-use"), "{image}: {}", flags(image));
    }
    assert!(env.snapshot_disk("base.qcow2", "old").iter().all(|&byte| byte == 1));
    assert_eq!(env.guest_bytes("base.qcow2", 64 << 10, 512), vec![2; 512]);
}

/// Killed at any moment, the disk shows what it showed, and the same call finishes the work.
#[test]
fn killed_at_any_moment_the_disk_shows_the_same() {
    let make = |env: &Env| {
        env.qemu_img("create -q -f qcow2 -o cluster_size=4k base.qcow2 12M");
        env.qemu_io("qcow2", "base.qcow2", "write -P 1 0 8M");
        env.qemu_img("create -q -f qcow2 -o cluster_size=4k -b base.qcow2 -F qcow2 d.qcow2 16M");
        env.qemu_io("qcow2", "d.qcow2", "write -P 2 1M 6M");
        env.qemu_io("qcow2", "d.qcow2", "write -z 8M 5M");
        env.qemu_img("convert -f qcow2 -O raw d.qcow2 before.raw");
    };
    for line in ["commit d.qcow2 --into base.qcow2", "flatten d.qcow2"] {
        let env = Env::new();
        make(&env);
        let names = ["base.qcow2", "d.qcow2"];
        let originals = names.map(|name| std::fs::read(env.path(name)).expect("an image"));
        let start = std::time::Instant::now();
        env.vmdisk(line).exits(0);
        let whole = start.elapsed();
        let (rounds, mut killed) = (if whole_matrix() { 400 } else { 25 }, 0);
        for round in 0..rounds {
            for (name, original) in names.iter().zip(&originals) {
                env.write(name, original);
            }
            let running = env.start(line);
            std::thread::sleep(whole * round / rounds);
            running.signal("KILL");
            let ended = running.wait();
            killed += usize::from(ended.code.is_none());
            env.qemu_img("compare -q -f qcow2 -F raw d.qcow2 before.raw");
            for name in names {
                let check = env.run("qemu-img", ["check", "-q", "-f", "qcow2", name]);
                assert!(matches!(check.code, Some(0 | 3)), "{line}, {round}: {check:?}");
            }
            env.vmdisk(line).exits(0);
            env.qemu_img("compare -q -f qcow2 -F raw d.qcow2 before.raw");
            // Nothing that it left behind is lost.
            names.iter().for_each(|name| env.is_clean(name));
        }
        println!("{line}: killed {killed} of {rounds} times");
        assert!(killed >= 5, "{line}: killed {killed} times only");
    }
}
