//! `vmdisk flatten`: a disk that needs nothing below it any more.

use crate::support::Env;

/// Makes `base`, and `d.qcow2` above it.
fn make(env: &Env, base: &str, overlay: &str, sizes: (&str, &str)) {
    let format = if base == "raw" { "raw" } else { "qcow2" };
    let options = |options: &str| match options {
        "" | "raw" => String::new(),
        options => format!("-o {options}"),
    };
    env.qemu_img(&format!("create -q -f {format} {} base {}", options(base), sizes.0));
    env.qemu_io(format, "base", "write -P 1 10k 700k");
    env.qemu_io(format, "base", "write -P 0 300k 200k");
    let overlay = options(overlay);
    env.qemu_img(&format!("create -q -f qcow2 {overlay} -b base -F {format} d.qcow2 {}", sizes.1));
    env.qemu_io("qcow2", "d.qcow2", "write -P 2 100k 70k");
    env.qemu_io("qcow2", "d.qcow2", "write -z 600k 64k");
    env.qemu_io("qcow2", "d.qcow2", "discard 192k 64k");
    env.qemu_img("convert -f qcow2 -O raw d.qcow2 before.raw");
}

/// Whatever is above what, the disk shows the same without it, and is sound.
#[test]
fn a_disk_shows_the_same_alone() {
    for (base, overlay, sizes) in [
        ("", "", ("1M", "1M")),
        ("raw", "", ("1M", "1050112")),
        ("cluster_size=512", "cluster_size=2M", ("1M", "900k")),
        ("cluster_size=1M", "cluster_size=512", ("2M", "1M")),
        ("", "extended_l2=on,cluster_size=128k", ("1M", "4M")),
        ("extended_l2=on", "compat=0.10", ("1M", "1M")),
        ("raw", "lazy_refcounts=on,refcount_bits=1", ("1M", "2M")),
    ] {
        println!("{base} {overlay}");
        let env = Env::new();
        make(&env, base, overlay, sizes);
        let report = env.report("flatten d.qcow2");
        assert_eq!(
            (report["changed"].as_bool(), report["old_backing"].as_str()),
            (Some(true), Some("base"))
        );
        std::fs::remove_file(env.path("base")).expect("the base");
        env.qemu_img("compare -f qcow2 -F raw d.qcow2 before.raw");
        env.is_clean("d.qcow2");
        let info = env.qemu_info("d.qcow2");
        assert!(info["backing-filename"].is_null() && info["full-backing-filename"].is_null());
        let again = env.report("flatten d.qcow2");
        assert_eq!(
            (again["changed"].as_bool(), again["copied_bytes"].as_u64()),
            (Some(false), Some(0))
        );
    }
}

/// Zeros below take no room above.
#[test]
fn zeros_are_not_copied() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 -o preallocation=metadata base.qcow2 1G");
    env.qemu_io("qcow2", "base.qcow2", "write -P 1 300M 1M");
    env.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 d.qcow2");
    let report = env.report("flatten d.qcow2");
    assert_eq!(report["copied_bytes"], 1 << 20, "{report:#}");
    assert!(report["file_size_bytes"].as_u64() < Some(3 << 20), "{report:#}");
}

/// What is refused changes nothing; bitmaps stay as valid as they are.
#[test]
fn snapshots_are_refused_and_bitmaps_stay() {
    let env = Env::new();
    make(&env, "", "", ("1M", "1M"));
    env.qemu_img("snapshot -c one d.qcow2");
    env.refuses("flatten d.qcow2", "has_snapshots");
    env.qemu_img("snapshot -d one d.qcow2");
    env.refuses("flatten d.qcow2 --trust none", "backing_refused");
    std::fs::rename(env.path("base"), env.path("away")).expect("the base");
    env.refuses("flatten d.qcow2", "backing_missing");
    std::fs::rename(env.path("away"), env.path("base")).expect("the base");
    env.qemu_img("bitmap --add d.qcow2 b0");
    env.report("flatten d.qcow2");
    env.is_clean("d.qcow2");
    let bitmaps = &env.qemu_info("d.qcow2")["format-specific"]["data"]["bitmaps"];
    assert_eq!(bitmaps[0]["flags"].to_string(), "[\"auto\"]", "{bitmaps:#}");
    env.qemu_img("compare -f qcow2 -F raw d.qcow2 before.raw");
}
