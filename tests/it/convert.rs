//! Converting, comparing and hashing, against `qemu-img`.

use std::io::{Read, Write};

use crate::draw::{Draw, each, whole_matrix};
use crate::fixtures::{CHAINS, every_image};
use crate::support::{Env, message, same_bytes};

/// A raw disk of 6 MiB and an odd sector: text, noise, zeros that are written, and holes.
fn source(env: &Env) -> Vec<u8> {
    let mut draw = Draw::seeded(9);
    let mut bytes = vec![0u8; (6 << 20) + 512];
    for at in (0..bytes.len()).step_by(100_000) {
        let end = (at + 60_000).min(bytes.len());
        match draw.below(3) {
            0 => bytes[at..end].iter_mut().for_each(|byte| *byte = draw.next() as u8),
            1 => (at..end).for_each(|at| bytes[at] = b"the quick brown fox "[at % 20]),
            _ => {}
        }
    }
    bytes[3 << 20..4 << 20].fill(0);
    env.write("s.raw", &bytes);
    bytes
}

/// What we write of every image that QEMU makes is, to QEMU, sound and the same, whatever becomes of
/// it; and all its forms have one hash.
#[test]
fn qemu_reads_what_every_image_became() {
    let targets = [
        "o.raw",
        "o.qcow2",
        "o.qcow2 --compress zlib --verify",
        "o.qcow2 --compress zstd --level 1",
        "o.qcow2 --cluster-size 512 --compat 0.10",
        "o.qcow2 --extended-l2 on --preallocation metadata --verify",
        "o.qcow2 --cluster-size 2M --refcount-bits 1 --compress zlib",
        "o.qcow2 --preset hyperkit",
        "o.qcow2 --preallocation full --sparse-size 0",
    ];
    let images: Vec<_> = every_image().into_iter().enumerate().collect();
    assert!(images.len() > 40);
    each(&images, |(number, (name, make))| {
        let env = Env::new();
        make(&env);
        env.qemu_img("convert -f qcow2 -O raw d.qcow2 theirs.raw");
        let hash = env.report("hash theirs.raw")["hash"].clone();
        // All targets come, and each with every image in the whole matrix.
        let some = [targets[number % targets.len()]];
        for target in if whole_matrix() { &targets[..] } else { &some } {
            let report =
                env.report(&format!("convert d.qcow2 {target} --if-exists replace --trust full"));
            let out = report["out"].as_str().expect("a path");
            let format = report["format"].as_str().expect("a format");
            let same = format!("compare -f {format} -F raw {out} theirs.raw");
            env.run("qemu-img", same.split(' ')).exits(0);
            assert_eq!(report["verified"], target.contains("--verify"));
            if format == "qcow2" && !target.contains("hyperkit") {
                env.is_clean(out);
            }
            assert_eq!(env.report(&format!("hash {out}"))["hash"], hash, "{name}: {target}");
            assert_eq!(
                env.report(&format!("compare {out} d.qcow2 --trust full"))["identical"],
                true
            );
        }
        assert_eq!(env.report("hash d.qcow2 --trust full")["hash"], hash, "{name}");
    });
}

/// Zeros and holes take no room; from `--sparse-size` on, and never with 0.
#[test]
fn zeros_become_holes() {
    let env = Env::new();
    let mut bytes = vec![0u8; 8 << 20];
    for at in (0..bytes.len()).step_by(128 << 10) {
        bytes[at..at + 4096].fill(5);
    }
    env.write("s.raw", &bytes);
    let allocated = |line: &str| {
        let report = env.report(&format!("convert s.raw {line} --if-exists replace"));
        same_bytes(
            &env.disk(report["format"].as_str().unwrap(), report["out"].as_str().unwrap()),
            &bytes,
            line,
        );
        report["allocated_bytes"].as_u64().expect("bytes")
    };
    assert!(allocated("o.raw --sparse-size 4K") < 512 << 10);
    assert!(allocated("o.raw --sparse-size 256K") > 7 << 20);
    assert!(allocated("o.raw --sparse-size 0") > 7 << 20);
    assert!(allocated("o.raw --preallocation full") > 7 << 20);
    assert!(allocated("o.qcow2") < 1 << 20);
    assert!(allocated("o.qcow2 --sparse-size 0") > 7 << 20);
    env.qemu_img("create -q -f raw h.raw 1T");
    let report = env.report("convert h.raw h.qcow2");
    assert!(report["file_size_bytes"].as_u64().unwrap() < 1 << 20);
    env.is_clean("h.qcow2");
}

/// The same disk becomes the same bytes, and no larger packed than QEMU packs it.
#[test]
fn packed_images_are_the_same_every_time_and_small() {
    let env = Env::new();
    source(&env);
    for kind in ["zlib", "zstd"] {
        let line = format!("convert s.raw {kind}-1.qcow2 --compress {kind}");
        let ours = env.report(&line)["file_size_bytes"].as_u64().unwrap();
        env.report(&line.replace("-1", "-2"));
        let read = |name: &str| std::fs::read(env.path(format!("{kind}-{name}.qcow2"))).unwrap();
        assert!(read("1") == read("2"));
        env.qemu_img(&format!(
            "convert -c -f raw -O qcow2 -o compression_type={kind} s.raw theirs-{kind}.qcow2"
        ));
        let theirs = std::fs::metadata(env.path(format!("theirs-{kind}.qcow2"))).unwrap().len();
        // QEMU's file ends with its last byte, ours with a cluster.
        let most = theirs + theirs / 100 + (2 << 16);
        assert!(ours <= most, "{kind}: {ours} against {theirs}");
        let harder = line.replace("-1", "-3") + " --level 9";
        assert!(env.report(&harder)["file_size_bytes"].as_u64().unwrap() <= ours + 65536);
    }
}

/// Above a base, only what differs is there, also where the base lies below the source.
#[test]
fn only_what_differs_from_the_base_is_written() {
    let env = Env::new();
    let mut bytes = source(&env);
    env.qemu_img("convert -f raw -O qcow2 s.raw base.qcow2");
    bytes[1 << 20..(1 << 20) + 300].fill(1);
    bytes[5 << 20..(5 << 20) + 70_000].fill(0);
    env.write("s.raw", &bytes);
    env.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2");
    env.qemu_io("qcow2", "over.qcow2", "write -P 1 1M 300");
    env.qemu_io("qcow2", "over.qcow2", "write -z 5M 70000");
    for (from, options) in [
        ("s.raw", ""),
        ("over.qcow2", ""),
        ("s.raw", "--compat 0.10"),
        ("over.qcow2", "--compress zlib"),
    ] {
        let line = format!(
            "convert {from} o.qcow2 --backing base.qcow2 {options} --verify --if-exists replace"
        );
        let report = env.report(&line);
        assert_eq!(report["backing"]["name"], "base.qcow2");
        assert!(report["allocated_bytes"].as_u64().unwrap() < 700 << 10, "{report:#}");
        same_bytes(&env.disk("qcow2", "o.qcow2"), &bytes, &line);
        env.is_clean("o.qcow2");
    }
}

/// What lies behind the end of the base reads as zeros unless it is written, wherever in a cluster that
/// is, as `qemu-img convert -B` has it.
#[test]
fn behind_the_end_of_the_base_are_zeros() {
    let env = Env::new();
    for len in [1 << 20, 1_000 << 10, (1 << 20) + 1536] {
        let mut bytes = vec![1; len];
        env.write("base.raw", &bytes);
        bytes.resize(3 << 20, 0);
        // The same as below, something else, and something on either side of the end.
        bytes[300_000..400_000].fill(0);
        bytes[len - 5_000..len - 1_000].fill(2);
        bytes[len + 1_024..len + 70_000].fill(3);
        bytes[(2 << 20) + 512..(2 << 20) + 1_024].fill(4);
        env.write("s.raw", &bytes);
        env.qemu_img("convert -f raw -O qcow2 -B base.raw -F raw s.raw theirs.qcow2");
        for options in ["", "--cluster-size 4K", "--extended-l2 on", "--compress zlib"] {
            let line = format!(
                "convert s.raw o.qcow2 --backing base.raw --backing-format raw {options} --verify \
                 --if-exists replace"
            );
            env.report(&line);
            same_bytes(&env.disk("qcow2", "o.qcow2"), &bytes, &line);
            env.qemu_img("compare -q -f qcow2 -F qcow2 o.qcow2 theirs.qcow2");
            env.is_clean("o.qcow2");
        }
    }
}

/// `compare` ends as `qemu-img compare` does, and says where.
#[test]
fn comparisons_are_those_of_qemu() {
    let env = Env::new();
    let bytes = source(&env);
    env.qemu_img("convert -c -f raw -O qcow2 s.raw a.qcow2");
    let mut other = bytes.clone();
    other[4_000_007] ^= 1;
    env.write("b.raw", &other);
    other = bytes.clone();
    other.resize(bytes.len() + (1 << 20), 0);
    env.write("c.raw", &other);
    other[bytes.len() + 70_000] = 1;
    env.write("d.raw", &other);
    for (other, strict, code, difference, at) in [
        ("s.raw", false, 0, None, None),
        ("b.raw", false, 1, Some("content"), Some(4_000_007)),
        ("c.raw", false, 0, None, None),
        ("c.raw", true, 1, Some("size"), Some(bytes.len())),
        ("d.raw", false, 1, Some("content"), Some(bytes.len() + 70_000)),
    ] {
        for (ours, theirs) in [("a.qcow2", other), (other, "a.qcow2")] {
            let qemu = format!("compare {} {ours} {theirs}", if strict { "-s" } else { "" });
            env.run("qemu-img", qemu.split_whitespace()).exits(code);
            let line = format!("compare {ours} {theirs} {}", if strict { "--strict" } else { "" });
            env.vmdisk(&line).exits(code);
            let report = env.vmdisk(&format!("{line} --json")).exits(code).json();
            assert_eq!(report["difference"].as_str(), difference);
            assert_eq!(report["guest_offset_bytes"].as_u64(), at.map(|at| at as u64));
        }
    }
    env.qemu_img("convert -S 0 -f raw -O raw s.raw full.raw");
    env.vmdisk("compare s.raw full.raw").exits(0);
    env.report("convert s.raw sparse.raw --sparse-size 4K");
    let report = env.vmdisk("compare sparse.raw full.raw --strict --json").exits(1).json();
    assert_eq!(report["difference"], "allocation");
    // What is compressed is no other content.
    env.report("convert s.raw plain.qcow2");
    env.qemu_img("create -q -f qcow2 -b a.qcow2 -F qcow2 above.qcow2");
    env.qemu_img("create -q -f qcow2 none.qcow2 1M");
    env.qemu_img("create -q -f qcow2 zero.qcow2 1M");
    env.qemu_io("qcow2", "zero.qcow2", "write -z 0 64k");
    env.qemu_img("create -q -f raw hole.raw 1M");
    let strict = ["-s", "--strict"];
    for (one, other, strict, code) in [
        ("a.qcow2", "plain.qcow2", ["", ""], 0),
        ("a.qcow2", "plain.qcow2", strict, 1),
        ("a.qcow2", "above.qcow2", strict, 0),
        ("none.qcow2", "zero.qcow2", ["", ""], 0),
        ("none.qcow2", "zero.qcow2", strict, 1),
        ("none.qcow2", "hole.raw", strict, 1),
        ("none.qcow2", "none.qcow2", strict, 0),
    ] {
        let [theirs, ours] = strict.map(|flag| format!("compare {flag} {one} {other}"));
        env.run("qemu-img", theirs.split_whitespace()).exits(code);
        env.vmdisk(&ours).exits(code);
    }
    env.fails("compare s.raw missing.raw", 2, "not_found");
    env.vmdisk("compare s.raw").exits(64);
    env.vmdisk("compare s.raw b.raw --no-such-flag").exits(64);
}

/// Whatever is read is never the place of what is written; nothing is changed by what is refused.
#[test]
fn a_disk_is_never_converted_onto_itself() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 base.qcow2 4M");
    env.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 d.qcow2");
    env.qemu_img("create -q -f qcow2 -o data_file=data.raw,data_file_raw=on e.qcow2 4M");
    std::fs::hard_link(env.path("d.qcow2"), env.path("hard.qcow2")).expect("a hard link");
    std::os::unix::fs::symlink("d.qcow2", env.path("soft.qcow2")).expect("a symbolic link");
    for line in [
        "d.qcow2 d.qcow2",
        "d.qcow2 hard.qcow2",
        "d.qcow2 soft.qcow2",
        "d.qcow2 base.qcow2",
        "e.qcow2 data.raw",
    ] {
        let error =
            env.refuses(&format!("convert {line} --if-exists replace --trust full"), "bad_request");
        assert!(message(&error).contains("is what would be read"), "{error:#}");
    }
    env.write("o.qcow2", "somebody's");
    env.refuses("convert d.qcow2 o.qcow2", "exists");
    env.refuses("convert d.qcow2 d.qcow2", "bad_request");
}

/// What does not go together is refused before there is anything.
#[test]
fn what_does_not_go_together_is_refused() {
    let env = Env::new();
    source(&env);
    env.qemu_img("create -q -f qcow2 d.qcow2 8M");
    env.qemu_img("create -q -f qcow2 large.qcow2 16M");
    for (line, kind, words) in [
        ("s.raw o.raw --compress zlib", "incompatible_options", "compressed"),
        ("s.raw o.raw --cluster-size 64K", "incompatible_options", "cluster size"),
        ("s.raw o.raw --preallocation metadata", "incompatible_options", "metadata"),
        ("s.raw o.raw --backing d.qcow2", "incompatible_options", "backing"),
        (
            "s.raw o.qcow2 --compress zlib --preallocation metadata",
            "incompatible_options",
            "preallocated",
        ),
        ("s.raw o.qcow2 --compress zstd --compat 0.10", "incompatible_options", "1.1"),
        ("s.raw o.qcow2 --compress zstd --compression-type zlib", "incompatible_options", "zstd"),
        ("s.raw o.qcow2 --compress zlib --preset hyperkit", "incompatible_options", "hyperkit"),
        ("s.raw o.qcow2 --compress zlib --level 12", "bad_request", "1 to 9"),
        ("s.raw o.qcow2 --sparse-size 1000", "bad_request", "512"),
        ("s.raw o.qcow2 --sparse-size 2M", "bad_request", "1048576"),
        ("s.raw o.qcow2 --backing large.qcow2", "bad_size", "large.qcow2"),
        ("s.raw o.qcow2 --snapshot one", "unsupported_feature", "snapshots"),
        ("d.qcow2 o.qcow2 --snapshot one", "not_found", "one"),
        ("- o.qcow2 --verify", "incompatible_options", "standard input"),
        ("- o.qcow2 --backing d.qcow2", "incompatible_options", "standard input"),
    ] {
        let error = env.refuses(&format!("convert {line}"), kind);
        assert!(message(&error).contains(words), "{line}: {error:#}");
    }
    for line in ["convert s.raw - --json", "convert - - ", "convert d.qcow2 - --compress zlib"] {
        env.vmdisk(line).exits(2);
    }
}

/// From a pipe and to a pipe, and what is cut off is not published.
#[test]
fn pipes_are_disks_too() {
    let env = Env::new();
    let bytes = source(&env);
    for target in
        ["o.qcow2", "o.raw", "o.qcow2 --compress zlib", "o.qcow2 --preallocation metadata"]
    {
        let mut child = env.start(&format!("convert - {target} --if-exists replace --json"));
        let mut input = child.stdin();
        input.write_all(&bytes).expect("a reader");
        drop(input);
        let report = child.wait().exits(0).json();
        assert_eq!(report["virtual_size_bytes"], bytes.len() as u64);
        let format = report["format"].as_str().expect("a format");
        same_bytes(&env.disk(format, report["out"].as_str().unwrap()), &bytes, target);
    }
    let mut child = env.start("convert o.qcow2 -");
    let mut read = Vec::new();
    child.stdout().read_to_end(&mut read).expect("a writer");
    child.wait().exits(0);
    same_bytes(&read, &bytes, "to a pipe");

    env.refuses("convert o.qcow2 - --if-exists replace", "incompatible_options");

    // Nobody takes what comes.
    let child = env.start("convert o.qcow2 -");
    std::thread::sleep(std::time::Duration::from_millis(300));
    child.signal("TERM");
    child.wait().exits(143);
    // An image is no raw disk, unless somebody says so.
    for (says, code) in [("", 1), ("--source-format raw", 0)] {
        let mut child = env.start(&format!("convert - image.raw {says} --json"));
        let mut input = child.stdin();
        let image = std::fs::read(env.path("o.qcow2")).expect("an image");
        // It need not read all of that.
        let _ = input.write_all(&image);
        drop(input);
        let told = child.wait().exits(code).json();
        assert_eq!(told["error"]["data"]["kind"] == "format_mismatch", code == 1, "{told:#}");
    }

    let mut child = env.start("convert - cut.qcow2");
    let mut input = child.stdin();
    input.write_all(&bytes).expect("a reader");
    crate::support::until("a staged file", || {
        env.names().iter().any(|name| name.ends_with(".tmp"))
    });
    child.signal("TERM");
    child.wait().exits(143);
    drop(input);
    assert!(env.names().iter().all(|name| !name.ends_with(".tmp") && name != "cut.qcow2"));
    let mut child = env.start("convert o.qcow2 -");
    drop(child.stdout());
    child.wait().exits(1);
}

/// What a snapshot holds becomes a disk.
#[test]
fn snapshots_become_disks() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 4M");
    env.qemu_io("qcow2", "d.qcow2", "write -P 3 1M 1M");
    env.qemu_img("snapshot -c one d.qcow2");
    env.qemu_io("qcow2", "d.qcow2", "write -P 4 1M 2M");
    env.report("convert d.qcow2 o.qcow2 --snapshot one");
    same_bytes(&env.disk("qcow2", "o.qcow2"), &env.snapshot_disk("d.qcow2", "one"), "one");
    env.vmdisk("compare o.qcow2 d.qcow2 --other-snapshot one").exits(0);
    env.vmdisk("compare o.qcow2 d.qcow2").exits(1);
    let hash = |line: &str| env.report(line)["hash"].clone();
    assert_eq!(hash("hash d.qcow2 --snapshot one"), hash("hash o.qcow2"));
    // And has a size before that.
    let ours = env.vmdisk("measure d.qcow2 --snapshot one --output qemu-json").exits(0).json();
    assert_eq!(ours, env.qemu_img("measure -O qcow2 -l one --output=json d.qcow2").json());
    let whole = env.vmdisk("measure d.qcow2 --output qemu-json").exits(0).json();
    assert_ne!(ours, whole);
    env.refuses("measure d.qcow2 --snapshot two", "not_found");
    env.refuses("measure --size 1G --snapshot one", "incompatible_options");
}

/// Chains become one file.
#[test]
fn chains_become_one_file() {
    each(CHAINS, |(name, make)| {
        let env = Env::new();
        make(&env);
        env.report("convert d.qcow2 o.raw --trust full");
        env.qemu_img("convert -f qcow2 -O raw d.qcow2 theirs.raw");
        let read = |file: &str| std::fs::read(env.path(file)).expect("a disk");
        same_bytes(&read("o.raw"), &read("theirs.raw"), name);
    });
}
