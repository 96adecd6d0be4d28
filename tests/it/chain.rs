//! Backing files: by which name they are stored, which of them are opened, and where chains end.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::{Env, VMDISK};

/// The name of a backing file is told as people wrote it; what could move a terminal's cursor is
/// not.
#[test]
fn stored_names_are_told_as_text() {
    let env = Env::new();
    for (name, told) in [("bas\u{e9}.qcow2", "bas\u{e9}.qcow2"), ("b\u{1b}[2J", "b\\x1b[2J")] {
        env.run("qemu-img", ["create", "-q", "-f", "qcow2", name, "1M"]).exits(0);
        let args = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", name, "over.qcow2"];
        env.run("qemu-img", args).exits(0);
        assert_eq!(env.report("info over.qcow2")["qcow2"]["backing_file"], told);
    }
}

/// A name of this length in bytes is told from all others.
const BASE_SIZE: u64 = (1 << 20) + 512;

/// Folders `a`, `a/b`, `sib` and `c:d`, links to two of them, and a base in each.
fn tree() -> Env {
    let env = Env::new();
    for folder in ["a/b", "sib", "c:d"] {
        fs::create_dir_all(env.path(folder)).expect("a folder");
    }
    for folder in [".", "a", "a/b", "sib", "c:d"] {
        let name = format!("./{folder}/base.qcow2");
        env.qemu_img(&format!("create -q -f qcow2 {name} {BASE_SIZE}"));
    }
    fs::copy(env.path("base.qcow2"), env.path("x:y.qcow2")).expect("a copy");
    symlink("a", env.path("link")).expect("a link");
    symlink("a/b", env.path("deep")).expect("a link");
    symlink("base.qcow2", env.path("latest.qcow2")).expect("a link");
    env
}

/// The stored name of the backing file follows from where overlay and base really are, by default
/// and by flag; a name with a colon cannot be taken for a protocol. From any working directory
/// QEMU finds the base by it, and so does this program.
#[test]
fn stored_names_lead_to_the_base() {
    let env = tree();
    let root = env.path("").canonicalize().expect("the folder");
    let root = root.to_str().expect("a plain name");
    let absolute = format!("{root}/base.qcow2");
    let table = [
        ("d.qcow2", "base.qcow2", "", "base.qcow2"),
        ("d.qcow2", "./a/../base.qcow2", "", "base.qcow2"),
        ("d.qcow2", &absolute, "", "base.qcow2"),
        ("a/d.qcow2", "a/base.qcow2", "", "base.qcow2"),
        ("a/d.qcow2", "base.qcow2", "", "../base.qcow2"),
        ("a/d.qcow2", "sib/base.qcow2", "", "../sib/base.qcow2"),
        ("d.qcow2", "a/b/base.qcow2", "", "a/b/base.qcow2"),
        ("a/b/d.qcow2", "base.qcow2", "", &absolute),
        ("a/b/d.qcow2", "base.qcow2", "relative", "../../base.qcow2"),
        ("d.qcow2", "base.qcow2", "absolute", &absolute),
        ("a/d.qcow2", "../base.qcow2", "as-given", "../base.qcow2"),
        ("a/d.qcow2", "b/../base.qcow2", "as-given", "b/../base.qcow2"),
        ("a/b/d.qcow2", &absolute, "as-given", &absolute),
        ("a/b/d.qcow2", &absolute, "relative", "../../base.qcow2"),
        ("d.qcow2", "x:y.qcow2", "", "./x:y.qcow2"),
        ("d.qcow2", "x:y.qcow2", "relative", "./x:y.qcow2"),
        ("d.qcow2", "./x:y.qcow2", "as-given", "./x:y.qcow2"),
        ("d.qcow2", "c:d/base.qcow2", "", "./c:d/base.qcow2"),
        ("a/d.qcow2", "x:y.qcow2", "", "../x:y.qcow2"),
        // Links to folders: what counts is where the files are.
        ("link/d.qcow2", "base.qcow2", "", "../base.qcow2"),
        ("link/d.qcow2", "a/base.qcow2", "", "base.qcow2"),
        ("deep/d.qcow2", "base.qcow2", "", &absolute),
        ("deep/d.qcow2", "base.qcow2", "relative", "../../base.qcow2"),
        ("d.qcow2", "deep/base.qcow2", "", "a/b/base.qcow2"),
        // A link to a file keeps its name.
        ("d.qcow2", "latest.qcow2", "", "latest.qcow2"),
    ];
    for (overlay, base, store, stored) in table {
        let store =
            if store.is_empty() { String::new() } else { format!("--backing-store {store}") };
        let line = format!("create {overlay} --backing {base} {store}");
        let report = env.report(&line);
        assert_eq!(report["backing"]["name"], stored, "{line}");
        assert_eq!(report["virtual_size_bytes"], BASE_SIZE, "{line}");
        assert_eq!(env.report(&format!("info {overlay}"))["qcow2"]["backing_file"], stored);
        let path = env.path(overlay);
        let path = path.to_str().expect("a plain name");
        for (folder, name) in [(".", overlay), ("/", path)] {
            let chain =
                format!("cd {folder} && qemu-img info --backing-chain --output=json {name}");
            let chain = env.run("sh", ["-c", &chain]).exits(0).json();
            assert_eq!(chain[0]["backing-filename"], stored, "{line}");
            assert_eq!(chain[0]["backing-filename-format"], "qcow2", "{line}");
            assert_eq!(chain[1]["virtual-size"], BASE_SIZE, "{line}");
            let ours = format!("cd {folder} && {VMDISK} info {name} --chain --trust full --json");
            let ours = env.run("sh", ["-c", &ours]).exits(0).json();
            assert_eq!(ours["chain"][0]["virtual_size_bytes"], BASE_SIZE, "{line}");
        }
        fs::remove_file(path).expect("the overlay");
    }
}

/// A name that every reader would take for a protocol is not stored, also when it is asked for as
/// given.
#[test]
fn a_protocol_is_not_stored_as_given() {
    let env = tree();
    for name in ["x:y.qcow2", "c:d/base.qcow2"] {
        let line = format!("create d.qcow2 --backing {name} --backing-store as-given --json");
        let run = env.vmdisk(&line);
        let readable = env.run("qemu-img", ["info", "--backing-chain", "d.qcow2"]).code == Some(0);
        assert!(run.code != Some(0) || readable, "{name}: {run:?}");
        assert!(run.code == Some(0) || !env.path("d.qcow2").exists());
    }
}

/// An image that names its backing file without looking at it.
fn names(env: &Env, image: &str, backing: &str, format: &str) {
    let line =
        format!("create -q -f qcow2 -o cluster_size=1k -u -b {backing} -F {format} {image} 1M");
    env.qemu_img(&line);
}

/// Chains that come back: to the image itself, over another one, over a symbolic link, over a hard
/// link. Returns the images of all.
fn loops(env: &Env) -> [&'static str; 9] {
    names(env, "self.qcow2", "./self.qcow2", "qcow2");
    for (image, other, way) in [("a", "b", "a"), ("c", "d", "soft"), ("e", "f", "hard")] {
        names(env, &format!("{image}.qcow2"), &format!("{other}.qcow2"), "qcow2");
        names(env, &format!("{other}.qcow2"), &format!("{way}.qcow2"), "qcow2");
    }
    symlink("c.qcow2", env.path("soft.qcow2")).expect("a link");
    fs::hard_link(env.path("e.qcow2"), env.path("hard.qcow2")).expect("a link");
    ["self", "a", "b", "c", "d", "soft", "e", "f", "hard"]
}

/// A chain that comes back to itself ends with an error and not with a hang or a full stack, for
/// whoever looks at it or lays a disk over it.
#[test]
fn a_chain_that_comes_back_is_refused() {
    let env = Env::new();
    for image in loops(&env) {
        env.report(&format!("info {image}.qcow2"));
        env.fails(&format!("info {image}.qcow2 --chain"), 1, "backing_cycle");
        env.fails(&format!("create o.qcow2 --backing {image}.qcow2"), 1, "backing_cycle");
    }
}

/// Resizing such an image is refused for the same reason: its own lock is not taken for another
/// process's.
#[test]
fn a_chain_that_comes_back_is_not_resized() {
    let env = Env::new();
    let failing = loops(&env).map(|image| {
        let run = env.vmdisk(&format!("resize {image}.qcow2 --size 2M --json"));
        (image, run.json()["error"]["data"]["kind"].as_str().map(str::to_owned))
    });
    for (image, kind) in failing {
        assert_eq!(kind.as_deref(), Some("backing_cycle"), "{image}");
    }
}

/// A new overlay that would replace a file of the chain below it is refused, and the file is as it
/// was.
#[test]
fn an_overlay_does_not_replace_its_own_base() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 base.qcow2 1M");
    env.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 1M");
    let absolute = env.path("base.qcow2").display().to_string();
    for backing in ["top.qcow2", "base.qcow2", &absolute] {
        // What is above it speaks against that first; to force it does not help.
        let line = format!("create base.qcow2 --backing {backing} --if-exists replace");
        env.refuses(&line, "has_dependents");
        env.refuses(&format!("{line} --force"), "backing_cycle");
    }
}

/// A chain of 64 images is followed, one of 65 is not, nor is one made.
#[test]
fn chains_have_a_greatest_depth() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 -o cluster_size=1k i0.qcow2 1M");
    for number in 1..65 {
        names(&env, &format!("i{number}.qcow2"), &format!("i{}.qcow2", number - 1), "qcow2");
    }
    let chain = env.report("info i63.qcow2 --chain");
    assert_eq!(chain["chain"].as_array().map(Vec::len), Some(63));
    env.report("resize i63.qcow2 --size 2M --force");
    env.fails("info i64.qcow2 --chain", 1, "backing_cycle");
    env.report("create o.qcow2 --backing i62.qcow2");
    env.fails("create p.qcow2 --backing i63.qcow2", 1, "backing_cycle");
    assert!(!env.path("p.qcow2").exists());
}

/// A base that is not there, that may be raw, or that is larger than the disk is refused with the
/// reason; nothing is left behind. Without a size the disk gets the base's.
#[test]
fn bases_that_cannot_be_used_are_refused() {
    let env = Env::new();
    env.write("base.raw", vec![0; 1 << 20]);
    env.write("base.img", vec![0; 1 << 20]);
    env.qemu_img("create -q -f qcow2 base.qcow2 3M");
    let error = env.fails("create d.qcow2 --backing none.qcow2 --size 5M", 1, "backing_missing");
    assert!(error["message"].as_str().unwrap_or_default().contains("none.qcow2"), "{error:#}");
    env.fails("create d.qcow2 --backing none/base.qcow2 --size 5M", 1, "backing_missing");
    for base in ["base.raw", "base.img"] {
        env.fails(&format!("create d.qcow2 --backing {base} --size 5M"), 1, "format_mismatch");
    }
    let told = "create d.qcow2 --backing base.raw --backing-format qcow2 --size 5M";
    env.fails(told, 1, "format_mismatch");
    let error = env.fails("create d.qcow2 --backing base.qcow2 --size 3145216B", 2, "bad_size");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains("3145728") && message.contains("3145216"), "{message}");
    env.fails("create d.qcow2 --backing . --size 5M", 1, "not_a_disk");
    env.fails("create d.qcow2 --backing-format raw --size 5M", 2, "bad_request");
    assert_eq!(fs::read_dir(env.path("")).expect("the folder").count(), 3);
    let report = env.report("create d.qcow2 --backing base.qcow2");
    assert_eq!(report["virtual_size_bytes"], 3 << 20);
    assert_eq!(report["backing"]["format"], "qcow2");
    let report = env.report("create e.qcow2 --backing base.raw --backing-format raw");
    assert_eq!(report["virtual_size_bytes"], 1 << 20);
}

/// `info` tells what an image names and opens nothing of it: names that lead nowhere, to a pipe
/// that nobody writes to, or over the network. Asked for the chain, it refuses them at once; a
/// pipe outside the image's folder is refused for where it is and not for what it is.
#[test]
fn info_opens_nothing_that_an_image_names() {
    let env = Env::new();
    fs::create_dir(env.path("in")).expect("a folder");
    env.run("mkfifo", ["in/pipe", "outside"]).exits(0);
    let table = [
        ("missing.qcow2", "qcow2", "backing_missing", "backing_missing"),
        ("pipe", "raw", "not_a_disk", "not_a_disk"),
        ("../outside", "raw", "backing_refused", "not_a_disk"),
        ("/etc/passwd", "raw", "backing_refused", ""),
        ("nbd://127.0.0.1:1/x", "raw", "backing_refused", "backing_refused"),
        ("json:{\"driver\":\"null-co\"}", "raw", "backing_refused", "backing_refused"),
        ("file:pipe", "raw", "backing_refused", "backing_refused"),
        (".", "raw", "not_a_disk", "not_a_disk"),
    ];
    for (name, format, by_default, trusted) in table {
        names(&env, "in/d.qcow2", name, format);
        let info = env.report("info in/d.qcow2");
        assert_eq!(info["qcow2"]["backing_format"], format);
        let shown = info["qcow2"]["backing_file"].as_str().unwrap_or_default().replace('\\', "");
        assert_eq!(shown, name);
        env.fails("info in/d.qcow2 --chain --trust none", 1, "backing_refused");
        env.fails("info in/d.qcow2 --chain", 1, by_default);
        env.fails("create o.qcow2 --backing in/d.qcow2", 1, by_default);
        if !trusted.is_empty() {
            env.fails("info in/d.qcow2 --chain --trust full", 1, trusted);
        }
        if by_default == "backing_refused" {
            // What may not be looked at is hidden from what is added.
            let report = env.report("resize in/d.qcow2 --size 2M");
            assert_eq!(report["notes"].as_array().map(Vec::len), Some(1), "{report:#}");
        } else {
            env.refuses("resize in/d.qcow2 --size 2M", by_default);
        }
    }
    // The name of an external data file is treated alike.
    env.qemu_img("create -q -f qcow2 -o data_file=data.raw e.qcow2 1M");
    fs::remove_file(env.path("data.raw")).expect("the data file");
    env.run("mkfifo", ["data.raw"]).exits(0);
    assert_eq!(env.report("info e.qcow2")["qcow2"]["data_file"], "data.raw");
    env.refuses("resize e.qcow2 --size 2M --trust full", "unsupported_feature");
    env.fails("create o.qcow2 --backing e.qcow2 --trust full", 1, "not_a_disk");
    env.fails("create o.qcow2 --backing e.qcow2 --trust none", 1, "backing_refused");
}

/// Each level of trust opens what it says: nothing, the image's own folder, folders that are
/// allowed, everything. A link inside the folder that leads out of it is seen through. The base
/// that the caller names is trusted, what it names in turn is not.
#[test]
fn trust_decides_what_is_opened() {
    let env = tree();
    names(&env, "a/same.qcow2", "base.qcow2", "qcow2");
    names(&env, "a/under.qcow2", "b/base.qcow2", "qcow2");
    names(&env, "a/out.qcow2", "../sib/base.qcow2", "qcow2");
    symlink("../sib/base.qcow2", env.path("a/way-out.qcow2")).expect("a link");
    names(&env, "a/linked.qcow2", "way-out.qcow2", "qcow2");
    names(&env, "a/dots.qcow2", "b/../../sib/base.qcow2", "qcow2");
    let opened = |image: &str, flags: &str| {
        let run = env.vmdisk(&format!("info a/{image}.qcow2 --chain --json {flags}"));
        if run.code != Some(0) {
            assert_eq!(run.json()["error"]["data"]["kind"], "backing_refused", "{image} {flags}");
        }
        run.code == Some(0)
    };
    let table = [
        ("", [true, true, false, false, false]),
        ("--trust none", [false; 5]),
        ("--trust folder", [true, true, false, false, false]),
        ("--trust full", [true; 5]),
        ("--allow sib", [true; 5]),
        ("--allow a/b", [true, true, false, false, false]),
        ("--allow nowhere", [true, true, false, false, false]),
        ("--allow nowhere --allow sib", [true; 5]),
    ];
    for (flags, expected) in table {
        let images = ["same", "under", "out", "linked", "dots"];
        assert_eq!(images.map(|image| opened(image, flags)), expected, "{flags}");
    }
    for (image, kind) in [("same", None), ("out", Some("backing_refused"))] {
        let line = format!("create sib/{image}.qcow2 --backing a/{image}.qcow2 --size 2M");
        match kind {
            None => drop(env.report(&line)),
            Some(kind) => drop(env.fails(&line, 1, kind)),
        }
    }
    env.report("create sib/p.qcow2 --backing a/out.qcow2 --size 2M --allow sib");

    // The overlay lies outside its base's folder: each call names the base anew.
    env.report("ensure a/m.qcow2 --backing sib/base.qcow2 --size 2M");
    let again = env.report("ensure a/m.qcow2 --backing sib/base.qcow2 --size 2M");
    assert_eq!(again["action"], "unchanged");
    let grown = env.report("ensure a/m.qcow2 --backing sib/base.qcow2 --size 3M");
    assert_eq!(grown["action"], "grown");
    assert_eq!(grown["notes"].as_array().map(Vec::len), Some(0), "{grown:#}");
    env.is_clean("a/m.qcow2");
}

/// An image that does not record its base's format makes nobody guess it, unless everything is
/// trusted.
#[test]
fn an_unrecorded_format_is_not_guessed() {
    let env = Env::new();
    env.write("base.raw", vec![1; 1 << 20]);
    env.qemu_img("create -q -f qcow2 base.qcow2 1M");
    for format in ["raw", "qcow2"] {
        env.qemu_img(&format!("create -q -f qcow2 -b base.{format} -F {format} d.qcow2 1M"));
        // The extension becomes one that nobody knows.
        env.patch("d.qcow2", 112, &0x1234_5678_u32.to_be_bytes());
        assert!(env.report("info d.qcow2")["qcow2"].get("backing_format").is_none());
        env.fails("info d.qcow2 --chain", 1, "backing_refused");
        env.fails("create o.qcow2 --backing d.qcow2", 1, "backing_refused");
        let chain = env.report("info d.qcow2 --chain --trust full");
        assert_eq!(chain["chain"][0]["format"], format);
        fs::remove_file(env.path("d.qcow2")).expect("the image");
    }
}

/// Growing an overlay whose base may not be opened hides the base from all that is added, and the
/// part that both disks have goes on showing it.
#[test]
fn a_base_that_is_not_opened_is_hidden_from_what_is_added() {
    let env = tree();
    let long: Vec<u8> = (0..4_u32 << 20).map(|at| (at / 512 % 251 + 1) as u8).collect();
    env.write("sib/long.raw", &long);
    for (options, size) in [("compat=1.1", 1 << 20), ("compat=0.10", 1 << 20)] {
        let create = format!("create -q -f qcow2 -u -b ../sib/long.raw -F raw -o {options}");
        env.qemu_img(&format!("{create} a/d.qcow2 {size}"));
        let report = env.report("resize a/d.qcow2 --size 3M");
        assert_eq!(report["notes"].as_array().map(Vec::len), Some(1), "{report:#}");
        env.is_clean("a/d.qcow2");
        let mut expected = long[..size].to_vec();
        expected.resize(3 << 20, 0);
        crate::support::same_bytes(&env.disk("qcow2", "a/d.qcow2"), &expected, options);
    }
    // An odd end needs the base's bytes: then it must be opened.
    env.qemu_img("create -q -f qcow2 -u -b ../sib/long.raw -F raw a/odd.qcow2 1049088");
    env.refuses("resize a/odd.qcow2 --size 3M", "backing_refused");
    env.report("resize a/odd.qcow2 --size 3M --allow sib");
    let mut expected = long[..1_049_088].to_vec();
    expected.resize(3 << 20, 0);
    crate::support::same_bytes(&env.disk("qcow2", "a/odd.qcow2"), &expected, "an odd end");
    env.is_clean("a/odd.qcow2");
}

/// A disk that shrinks shows no more of what is below than before, so that need not be there.
#[test]
fn shrinking_needs_no_backing_file() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 base.qcow2 8M");
    env.report("create d.qcow2 --backing base.qcow2");
    env.qemu_io("qcow2", "d.qcow2", "write -P 7 1M 1M");
    let gone = || std::fs::rename(env.path("base.qcow2"), env.path("gone.qcow2"));
    gone().expect("the base goes");
    env.refuses("resize d.qcow2 --size 16M", "backing_missing");
    let report = env.report("resize d.qcow2 --size 2M --shrink");
    assert_eq!(report["notes"], serde_json::json!([]));
    std::fs::rename(env.path("gone.qcow2"), env.path("base.qcow2")).expect("the base is back");
    env.is_clean("d.qcow2");
}

/// Names of snapshots that no program makes are not believed, let alone kept in memory.
#[test]
fn endless_snapshot_names_are_refused() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 1M");
    env.qemu_img("snapshot -c s d.qcow2");
    let image = std::fs::read(env.path("d.qcow2")).expect("the image");
    let table = u64::from_be_bytes(image[64..72].try_into().expect("eight bytes"));
    env.patch("d.qcow2", table + 14, &[0xff, 0xff]);
    env.refuses("info d.qcow2", "corrupt");
}
