//! `inspect`: what an image claims, and each rule that speaks against one, fired by an image that
//! breaks it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::header::RawHeader;
use crate::support::Env;

/// A sound image.
fn image(env: &Env) {
    env.qemu_img("create -q -f qcow2 d.qcow2 64M");
}

/// The rules that fire; the exit code, the verdict and they say the same.
#[track_caller]
fn rules(env: &Env, line: &str) -> Vec<String> {
    let before = env.contents();
    let run = env.vmdisk(&format!("inspect {line} --untrusted --json"));
    let report = run.json();
    let reasons = report["reasons"].as_array().unwrap_or_else(|| panic!("{report:#}"));
    let (code, verdict) = if reasons.is_empty() { (0, "safe") } else { (2, "unsafe") };
    assert_eq!((run.code, report["verdict"].as_str()), (Some(code), Some(verdict)), "{report:#}");
    assert_eq!(run.stderr, "");
    let said = |reason: &Value| reason["message"].as_str().is_some_and(|text| !text.is_empty());
    assert!(reasons.iter().all(said), "{report:#}");
    assert!(env.contents() == before, "{line} changed something");
    let words = env.vmdisk(&format!("inspect {line} --untrusted")).exits(code).stdout;
    assert!(words.trim_end().ends_with(verdict), "{words}");
    let rule = |reason: &Value| reason["rule"].as_str().expect("a rule").to_owned();
    let mut rules: Vec<_> = reasons.iter().map(rule).collect();
    rules.dedup();
    rules
}

fn patched(env: &Env, at: u64, bytes: &[u8]) {
    image(env);
    env.patch("d.qcow2", at, bytes);
}

/// What QEMU and this program make is safe, whatever its options; but for what has a rule.
#[test]
fn what_is_sound_is_safe() {
    let env = Env::new();
    for options in [
        "",
        "-o compat=0.10",
        "-o cluster_size=512",
        "-o cluster_size=2M",
        "-o compression_type=zstd",
        "-o preallocation=metadata",
        "-o lazy_refcounts=on",
    ] {
        env.qemu_img(&format!("create -q -f qcow2 {options} d.qcow2 256M"));
        assert_eq!(rules(&env, "d.qcow2"), [""; 0], "{options}");
        env.qemu_img("resize -q --shrink d.qcow2 64M");
        assert_eq!(rules(&env, "d.qcow2"), [""; 0], "{options}, smaller");
    }
    for flags in ["", "--preset hyperkit", "--compat 0.10", "--preallocation off"] {
        env.vmdisk(&format!("create d.qcow2 --size 256M --if-exists replace {flags}")).exits(0);
        assert_eq!(rules(&env, "d.qcow2"), [""; 0], "{flags}");
    }
    env.vmdisk("create d.raw --size 1M").exits(0);
    assert_eq!(rules(&env, "d.raw"), [""; 0]);
    image(&env);
    env.qemu_img("snapshot -c one d.qcow2");
    env.qemu_img("bitmap --add d.qcow2 one");
    assert_eq!(rules(&env, "d.qcow2"), [""; 0]);
}

/// A file that the image would have opened; by its feature bit too, without a name.
#[test]
fn other_files() {
    let env = Env::new();
    image(&env);
    env.qemu_img("create -q -f qcow2 -b d.qcow2 -F qcow2 over.qcow2");
    assert_eq!(rules(&env, "over.qcow2"), ["backing_file"]);
    // It need not exist, and is data: escaped, and no path.
    let args =
        ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/\u{1b}[31mx", "o.qcow2"];
    env.run("qemu-img", args.into_iter().chain(["1M"])).exits(0);
    assert_eq!(rules(&env, "o.qcow2"), ["backing_file"]);
    let report = env.report("inspect o.qcow2");
    assert_eq!(report["header"]["backing_file"], "/etc/\\x1b[31mx");
    assert_eq!(report["header"]["backing_format"], "raw");
    env.qemu_img("create -q -f qcow2 -o data_file=d.data e.qcow2 1M");
    fs::remove_file(env.path("d.data")).expect("it goes");
    assert_eq!(rules(&env, "e.qcow2"), ["data_file"]);
    assert_eq!(env.report("inspect e.qcow2")["header"]["data_file"], "d.data");
    patched(&env, 72, &4u64.to_be_bytes());
    assert_eq!(rules(&env, "d.qcow2"), ["data_file"]);
}

/// Feature bits, known and unknown.
#[test]
fn features() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 -o extended_l2=on d.qcow2 1G");
    assert_eq!(rules(&env, "d.qcow2"), ["extended_l2"]);
    for bit in [5, 17, 63] {
        patched(&env, 72, &(1u64 << bit).to_be_bytes());
        assert_eq!(rules(&env, "d.qcow2"), ["unknown_feature"], "{bit}");
        let feature = &env.report("inspect d.qcow2")["header"]["features"][0];
        assert_eq!((&feature["bit"], &feature["known"]), (&bit.into(), &false.into()));
    }
    patched(&env, 4, &9u32.to_be_bytes());
    assert_eq!(rules(&env, "d.qcow2"), ["unknown_feature"], "a version to come");
    patched(&env, 72, &2u64.to_be_bytes());
    assert_eq!(rules(&env, "d.qcow2"), ["marked_corrupt"]);
    for method in [1u32, 2] {
        patched(&env, 32, &method.to_be_bytes());
        assert_eq!(rules(&env, "d.qcow2"), ["encryption"]);
    }
    // Dirty, and what may be ignored, is no danger.
    patched(&env, 72, &1u64.to_be_bytes());
    env.patch("d.qcow2", 80, &[0xff; 16]);
    assert_eq!(rules(&env, "d.qcow2"), [""; 0]);
    let report = env.report("inspect d.qcow2");
    assert_eq!(report["header"]["features"].as_array().map(Vec::len), Some(129));
    assert_eq!(report["header"]["features"][1]["name"], "lazy refcounts");
}

/// Tables that are longer than they need be, than is allowed, or than the file.
#[test]
fn oversize_claims() {
    let env = Env::new();
    image(&env);
    let header = RawHeader::read(&env.path("d.qcow2"));
    let size = header.get("size");
    // One cluster of L1 table holds 8192 entries.
    patched(&env, 36, &8192u32.to_be_bytes());
    fs::OpenOptions::new()
        .write(true)
        .open(env.path("d.qcow2"))
        .and_then(|file| file.set_len(8 << 20))
        .expect("a longer file");
    assert_eq!(rules(&env, "d.qcow2"), [""; 0]);
    env.patch("d.qcow2", 36, &8193u32.to_be_bytes());
    assert_eq!(rules(&env, "d.qcow2"), ["oversize_table"], "more than the disk needs");
    for (what, at, bytes) in [
        ("L1 entries", 36, &u32::MAX.to_be_bytes()[..]),
        ("an L1 table beyond the file", 40, &(1u64 << 40).to_be_bytes()),
        ("refcount clusters", 56, &u32::MAX.to_be_bytes()),
        ("a refcount table beyond the file", 48, &(1u64 << 40).to_be_bytes()),
        ("snapshots", 60, &65_537u32.to_be_bytes()),
        ("a snapshot table beyond the file", 60, &[0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0]),
    ] {
        patched(&env, at, bytes);
        let rules = rules(&env, "d.qcow2");
        assert!(rules.contains(&"oversize_table".to_owned()), "{what}: {rules:?}");
        assert!(rules.contains(&"malformed_header".to_owned()), "{what}: {rules:?}");
    }
    image(&env);
    env.qemu_img("bitmap --add d.qcow2 one");
    let file = fs::read(env.path("d.qcow2")).expect("the image");
    let extension = file.windows(4).position(|id| id == 0x2385_2875u32.to_be_bytes());
    let extension = extension.expect("the bitmaps extension") as u64;
    env.patch("d.qcow2", extension + 16, &(1u64 << 40).to_be_bytes());
    assert_eq!(rules(&env, "d.qcow2"), ["oversize_table"], "a directory");
    env.patch("d.qcow2", extension + 16, &64u64.to_be_bytes());
    env.patch("d.qcow2", extension + 8, &u32::MAX.to_be_bytes());
    assert_eq!(rules(&env, "d.qcow2"), ["oversize_table"], "bitmaps");
    image(&env);
    assert_eq!(rules(&env, &format!("d.qcow2 --max-size {size}B")), [""; 0]);
    assert_eq!(rules(&env, &format!("d.qcow2 --max-size {}B", size - 1)), ["oversize_disk"]);
    env.write("d.raw", [0; 4096]);
    assert_eq!(rules(&env, "d.raw --max-size 4K"), [""; 0]);
    assert_eq!(rules(&env, "d.raw --max-size 2K"), ["oversize_disk"]);
}

/// Headers that break the format: a verdict, not an error, and the fields all the same.
#[test]
fn malformed_headers() {
    let env = Env::new();
    image(&env);
    let good = fs::read(env.path("d.qcow2")).expect("the image");
    for len in [4, 8, 71, 103] {
        env.write("d.qcow2", &good[..len]);
        assert_eq!(rules(&env, "d.qcow2"), ["malformed_header"], "{len} bytes");
        env.vmdisk("inspect d.qcow2").exits(0);
    }
    for (what, at, bytes) in [
        ("cluster bits", 20, &63u32.to_be_bytes()[..]),
        ("a header shorter than its fields", 100, &80u32.to_be_bytes()),
        ("a header of 4 GiB", 100, &u32::MAX.to_be_bytes()),
        ("refcounts of 2^64 bits", 96, &64u32.to_be_bytes()),
        ("a disk of 2^64 - 512", 24, &(u64::MAX - 511).to_be_bytes()),
        ("no L1 table", 36, &[0; 4]),
        ("an L1 table off its grid", 40, &0x30001u64.to_be_bytes()),
        ("a compression type", 104, &[1]),
        ("an extension of 4 GiB", 116, &[0xff; 4]),
    ] {
        patched(&env, at, bytes);
        assert_eq!(rules(&env, "d.qcow2"), ["malformed_header"], "{what}");
        let report = env.report("inspect d.qcow2");
        assert!(report["header_problem"].is_string() && report["verdict"].is_null(), "{what}");
        assert_eq!(report["header"]["version"], 3, "{what}: {report:#}");
    }
    patched(&env, 8, &[0, 0, 0, 0, 0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(rules(&env, "d.qcow2"), ["malformed_header", "backing_file"]);
}

/// Name and content, and what is neither qcow2 nor raw.
#[test]
fn formats() {
    let env = Env::new();
    image(&env);
    let qcow2 = fs::read(env.path("d.qcow2")).expect("the image");
    env.write("d.raw", &qcow2);
    assert_eq!(rules(&env, "d.raw"), ["format"]);
    assert_eq!(rules(&env, "d.raw --format raw"), ["format"], "a header in a raw disk");
    assert_eq!(rules(&env, "d.raw --format qcow2"), [""; 0]);
    env.write("e.qcow2", [0x5a; 4096]);
    assert_eq!(rules(&env, "e.qcow2"), ["format"]);
    env.write("e", [0x5a; 4096]);
    assert_eq!(rules(&env, "e"), ["format"], "nothing says what it is");
    assert_eq!(rules(&env, "e --format raw"), [""; 0]);
    env.write("empty.qcow2", "");
    assert_eq!(rules(&env, "empty.qcow2"), ["format"]);
    for (format, name) in [("vmdk", "VMDK"), ("vdi", "VDI"), ("vhdx", "VHDX"), ("qed", "QED")] {
        env.qemu_img(&format!("create -q -f {format} d.{format} 4M"));
        let report = env.report(&format!("inspect d.{format}"));
        assert_eq!(report["content"], name);
        assert_eq!(rules(&env, &format!("d.{format}")), ["unsupported_format"]);
        let told = rules(&env, &format!("d.{format} --format raw"));
        assert_eq!(told, ["unsupported_format", "format"]);
    }
    env.qemu_img("create -q -f vpc -o subformat=fixed d.vhd 4M");
    assert_eq!(rules(&env, "d.vhd"), ["unsupported_format"]);
    // A qcow2 image with the end of a fixed VHD.
    let mut both = qcow2;
    both.resize(1 << 20, 0);
    both[(1 << 20) - 512..(1 << 20) - 504].copy_from_slice(b"conectix");
    env.write("d.qcow2", both);
    assert_eq!(rules(&env, "d.qcow2"), ["format"]);
}

/// It says nothing of what it could not look at, and understands nothing else.
#[test]
fn refusals() {
    let env = Env::new();
    image(&env);
    env.fails("inspect none.qcow2 --untrusted", 1, "not_found");
    env.run("mkfifo", ["pipe"]).exits(0);
    env.fails("inspect pipe --untrusted", 1, "not_a_disk");
    env.fails("inspect", 64, "bad_request");
    env.fails("inspect d.qcow2 --max-size 1G", 64, "bad_request");
    env.fails("inspect d.qcow2 --untrusted --max-size 100", 64, "bad_size");
    // Whoever uses it, and whatever it names, is left alone.
    let busy = fs::File::open(env.path("d.qcow2")).expect("the disk");
    busy.lock().expect("a lock");
    assert_eq!(rules(&env, "d.qcow2"), [""; 0]);
}

/// However large the file, and whatever it claims, it takes milliseconds.
#[test]
fn it_takes_no_time() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 -o cluster_size=2M d.qcow2 1P");
    // Extensions without end, as many as a cluster holds.
    let file = fs::OpenOptions::new().write(true).open(env.path("d.qcow2")).expect("the image");
    let prefix = [1, 2, 3, 4, 0, 0, 0, 0].repeat(((2 << 20) - 112) / 8);
    file.write_all_at(&prefix, 112).expect("a patch");
    file.set_len(1 << 40).expect("a long file");
    let start = Instant::now();
    let report = env.report("inspect d.qcow2 --untrusted");
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(report["header"]["extensions"].as_array().map(Vec::len), Some(64));
    assert!(report["header"]["extensions_left_out"].as_u64().is_some_and(|more| more > 200_000));
    assert!(report.to_string().len() < 1 << 16);
}
